"""Any picture file, hostile ones included -> its pixels: upright, opaque, 8 bits, not larger than can be of use."""

import importlib
import logging
import os
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from edgelstm.data.picture.limits import (
    MAX_FILE_BYTES,
    BoundedStream,
    check_content,
    check_opened,
    has_much_exif,
    without_avif_exif,
)
from edgelstm.errors import PictureError, printable
from edgelstm.files import read_bounded

Bytes = npt.NDArray[np.uint8]

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm",
)  # fmt: skip
"""File endings that a search through a folder takes; what a file is, its first bytes say."""
UNREADABLE_SUFFIXES = (
    ".heic", ".heif", ".jxl", ".jp2", ".svg", ".pdf", ".psd", ".ico", ".dng", ".cr2", ".nef", ".arw",
)  # fmt: skip
"""Endings of pictures that cannot be read, which a search must not pass over in silence."""
KEEP_PX = 1600
"""Decoded pictures are reduced to at most twice this: enough for a small digit in a large photo."""
OPAQUE = 127
"""Alpha above which a pixel counts as visible: more than half."""

_DECODERS = (
    (b"\x89PNG\r\n\x1a\n", "PNG", "Png"),
    (b"\xff\xd8\xff", "JPEG", "Jpeg"),
    (b"GIF8", "GIF", "Gif"),
    (b"BM", "BMP", "Bmp"),
    (b"RIFF", "WEBP", "WebP"),
    (b"II*\0", "TIFF", "Tiff"),
    (b"MM\0*", "TIFF", "Tiff"),
    *((b"P%d" % n, "PPM", "Ppm") for n in range(1, 7)),
)
"""First bytes, Pillow's name of the format, Pillow's plugin module. All other formats are never tried, but AVIF."""
_FORMATS = "PNG, JPEG, GIF, BMP, WEBP, AVIF, TIFF or PPM"
_FIX = "open it in a picture editor and save it as PNG or JPEG"
_HEIC_FIX = "export it as JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)"
_OTHERS = (
    (b"%PDF", "a PDF document", "save the page as a PNG picture"),
    (b"\xff\x0a", "a JPEG XL picture", _FIX),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture", _FIX),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", _FIX),
    (b"8BPS", "a Photoshop document", _FIX),
    (b"\0\0\1\0", "an icon", _FIX),
)
"""First bytes of pictures that are not read, what to call them, what to do."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SILENCE = logging.NullHandler()


def read_pixels(source: str | os.PathLike[str] | bytes) -> Bytes:
    """What ``decode`` gives, of a picture file or its encoded bytes. Raises PictureError."""
    if isinstance(source, bytes):
        return decode(source)
    return decode(read_bounded(source, MAX_FILE_BYTES, "a picture", PictureError), printable(source))


def decode(content: bytes, name: str = "the picture") -> Bytes:
    """Encoded bytes -> uint8 (H, W) grey or (H, W, 3) colour: upright, first frame, nothing transparent.

    Large pictures come back reduced by a whole factor. Raises PictureError; ``name`` is for its text.
    """
    kind, plugin = _sniff(content, name)
    check_content(content, kind, name)
    if kind == "AVIF":
        content = without_avif_exif(content)
    logging.getLogger("PIL").addHandler(_SILENCE)  # where no program listens, Pillow's log goes to stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn about damage that they can live with
        try:
            module = importlib.import_module(f"PIL.{plugin}ImagePlugin")
            if not getattr(module, "SUPPORTED", True):
                found, fix = f"a Pillow built without {kind}", f"pip install -U pillow, or {_FIX}"
                raise PictureError(f"cannot read {name}", found=found, fix=fix)
            # not Image.open: it imports the plugins of five formats before it looks at the file
            with Image.OPEN[kind][0](BoundedStream(content, name), "") as image:
                check_opened(image, content, kind, name)
                image.draft(None, (KEEP_PX, KEEP_PX))  # JPEG only: decode at a half, quarter or eighth
                return pixels_of(image)
        except PictureError:
            raise
        except Exception as error:  # fed with hostile bytes, a decoder may raise anything
            raise _damaged(kind, name, error) from error


def pixels_of(image: Image.Image) -> Bytes:
    """What ``decode`` gives, of an open Pillow image. Raises whatever Pillow does if its file is damaged."""
    image.load()
    orientation = 1 if has_much_exif(image) else image.getexif().get(0x0112, 1)
    return _upright(_opaque(_eight_bits(np.asarray(_reduced(image)))), orientation)


def _sniff(content: bytes, name: str) -> tuple[str, str]:
    """Format and plugin by the first bytes, whatever the file's ending says."""
    if not content:
        raise PictureError(f"{name} is not a picture", found="an empty file", fix="save or copy it again")
    for magic, kind, plugin in _DECODERS:
        if content.startswith(magic) and (kind != "WEBP" or content[8:12] == b"WEBP"):
            return kind, plugin
    found, fix = f"a file that begins with {content[:8]!r}", _FIX
    if content[4:8] == b"ftyp":
        box = content[8 : min(int.from_bytes(content[:4]), 256)]
        brands = [box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))]  # after the first: its version
        if b"avif" in brands or b"avis" in brands:
            return "AVIF", "Avif"
        heic = any(brand in _HEIC_BRANDS for brand in brands)
        found, fix = ("a HEIC photo", _HEIC_FIX) if heic else ("a video", "save one of its frames as PNG")
    elif b"<svg" in content[:1024]:
        found, fix = "an SVG drawing", "export it as PNG"
    elif content[:64].isascii() and content[:64].decode().replace("\n", "").replace("\r", "").isprintable():
        found = "text"
    for magic, what, how in _OTHERS:
        if content.startswith(magic):
            found, fix = what, how
    raise PictureError(f"{name} is no picture this program reads", found=found, expected=_FORMATS, fix=fix)


def _damaged(kind: str, name: str, error: Exception) -> PictureError:
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):  # its text is the address of our buffer
        reason = "a header that makes no sense"
    elif "truncated" in reason.lower() or isinstance(error, EOFError):
        reason = "an end that comes too early"
    return PictureError(
        f"{name} is damaged",
        found=reason[:200] or type(error).__name__,
        expected=f"a complete {kind} picture",
        fix="save or copy it again",
    )


def _reduced(image: Image.Image) -> Image.Image:
    """As L, RGB, RGBA, I or F, reduced by averaging; in bands, so that no second full copy is made."""
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        mode = "RGBA"
    elif image.mode == "F" or image.mode.startswith("I"):
        mode = "F"
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
    factor = max(1, max(image.size) // KEEP_PX)
    if factor == 1:
        return image.convert(mode)
    size = (-(-image.width // factor), -(-image.height // factor))
    small = Image.new(mode, size)
    step = factor * max(1, 2**20 // (image.width * factor))
    for top in range(0, image.height, step):
        band = image.crop((0, top, image.width, min(top + step, image.height)))
        small.paste(band.convert(mode).reduce(factor), (0, top // factor))
    return small


def _eight_bits(array: npt.NDArray[np.generic]) -> Bytes:
    """Bytes as they are; deeper pixels by their largest value, so that nothing clips to white."""
    if array.dtype == np.uint8:
        return array.astype(np.uint8)
    deep = np.nan_to_num(array.astype(np.float64))
    deep = deep - min(0.0, deep.min())
    top = deep.max()
    return np.asarray(np.rint(deep * (255 / top if top > 0 else 0)), np.uint8)


def _opaque(array: Bytes) -> Bytes:
    """Lay a transparent picture on a ground on which what is visible can be seen.

    The colour hidden under transparent pixels says nothing. Strokes alone go onto black or white,
    whichever is farther from them; a solid sheet with something on it goes onto its own colour.
    """
    if array.ndim == 2 or array.shape[2] == 3:
        return array
    colour, alpha = array[:, :, :3], array[:, :, 3]
    if alpha.min() == 255:
        return colour
    visible = alpha > 127
    if not visible.any():
        visible = alpha > 0
    if not visible.any():
        return np.zeros(alpha.shape, np.uint8)
    shown = colour[visible]
    luma = shown @ np.array([0.299, 0.587, 0.114])
    rows, cols = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    solid = len(luma) > 0.75 * (rows[-1] - rows[0] + 1) * (cols[-1] - cols[0] + 1)
    if solid and np.ptp(np.percentile(luma, (1, 99))) > 40:
        ground = np.median(shown, axis=0)
    else:
        ground = np.full(3, 0.0 if luma.mean() > 127 else 255.0)
    share = alpha[:, :, None].astype(np.float32) / 255
    return np.asarray(np.rint(colour * share + ground.astype(np.float32) * (1 - share)), np.uint8)


def _upright(array: Bytes, orientation: object) -> Bytes:
    """Undo the rotation and mirroring that EXIF's orientation tag (1 to 8) tells of."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
