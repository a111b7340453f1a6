"""Decode any picture file, hostile ones included, and read the digit in it as MNIST would have it."""

import importlib
import io
import os
import stat
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from edgelstm.data.picture.digit import DigitPicture, digit_from_array
from edgelstm.errors import PictureError

Bytes = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm")
"""File endings that a search through a folder takes; what a file is, its first bytes say."""
MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused unread."""
MAX_PIXELS = 52_000_000
"""Larger pictures are refused on what their header says, undecoded: 4 bytes a pixel stay near 200 MB."""
MAX_PLAIN_BYTES = 4 * 2**20
"""Largest PBM, PGM or PPM file in decimal digits, which Pillow reads slowly."""
MAX_JPEG_SCANS = 200
"""Progressive JPEG files have about ten; each scan costs a pass over the whole picture."""
KEEP_PX = 1600
"""Decoded pictures are reduced to at most twice this: enough for a small digit in a large photo."""

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
"""First bytes, Pillow's name of the format, Pillow's plugin module. All other formats are never tried."""
_FORMATS = "PNG, JPEG, GIF, BMP, WebP, TIFF or PPM"
_FIX = "open it in a picture editor and save it as PNG or JPEG"


def read_picture(source: str | os.PathLike[str] | bytes, rows: int = 28, cols: int = 28) -> DigitPicture:
    """Read a picture file, or its encoded bytes, and find the digit: (rows, cols) uint8, 255 = ink.

    Raises PictureError, in one line, if it is no picture that can be read.
    """
    return digit_from_array(read_pixels(source), rows, cols)


def read_pixels(source: str | os.PathLike[str] | bytes) -> Bytes:
    """What ``decode`` gives, of a picture file or its encoded bytes. Raises PictureError."""
    if isinstance(source, bytes):
        return decode(source)
    name = printable(source)
    return decode(_read(source, name), name)


def decode(content: bytes, name: str = "the picture") -> Bytes:
    """Encoded bytes -> uint8 (H, W) grey or (H, W, 3) colour: upright, first frame, nothing transparent.

    Large pictures come back reduced by a whole factor. Raises PictureError; ``name`` is for its text.
    """
    format_name, plugin = _sniff(content, name)
    _check_cost(content, format_name, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn about damage that they can live with
        try:
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
            # not Image.open: it imports the plugins of five formats before it looks at the file
            with Image.OPEN[format_name][0](io.BytesIO(content), "") as image:
                _check_size(image.width, image.height, name)
                image.draft(None, (KEEP_PX, KEEP_PX))  # JPEG only: decode at a half, quarter or eighth
                return pixels_of(image)
        except PictureError:
            raise
        except Image.DecompressionBombError as error:  # Pillow's own limit, seen before ours
            raise _too_many_pixels(str(error).split(",")[0].lower(), name) from error
        except Exception as error:  # fed with hostile bytes, a decoder may raise anything
            raise _damaged(format_name, name, error) from error


def pixels_of(image: Image.Image) -> Bytes:
    """What ``decode`` gives, of a Pillow image. Raises whatever Pillow does if its file is damaged."""
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    return _upright(_opaque(_eight_bits(np.asarray(_reduced(image)))), orientation)


# --- files ------------------------------------------------------------------------------------------


def printable(path: str | os.PathLike[str]) -> str:
    """The path as text for one line of a terminal, whatever bytes it is made of."""
    text = os.fsdecode(path)
    return text if text.isprintable() and text else ascii(text)


def _read(path: str | os.PathLike[str], name: str) -> bytes:
    """The content of a regular file of bounded size; never waits for a pipe or a device."""
    try:
        _check_regular(os.stat(path), name)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as stream:
            _check_regular(os.fstat(handle), name)  # it may have been swapped in between
            # its size and one byte more: to ask for the largest at once makes room for it every time
            content = stream.read(min(os.fstat(handle).st_size, MAX_FILE_BYTES) + 1)
    except PictureError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"cannot read {name}", found=str(reason).lower(), fix="check the path") from error
    if len(content) > MAX_FILE_BYTES:
        raise _too_large(len(content), name)
    return content


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise PictureError(f"cannot read {name}", found=found, expected="a picture file", fix="check the path")
    if status.st_size > MAX_FILE_BYTES:
        raise _too_large(status.st_size, name)


def _too_large(n_bytes: int, name: str) -> PictureError:
    return PictureError(
        f"{name} is too large a file",
        found=f"{n_bytes / 2**20:,.0f} MiB",
        expected=f"at most {MAX_FILE_BYTES / 2**20:.0f} MiB",
        fix="make the picture smaller",
    )


# --- what may be decoded ----------------------------------------------------------------------------


def _sniff(content: bytes, name: str) -> tuple[str, str]:
    """Format and plugin by the first bytes, whatever the file's ending says."""
    if not content:
        raise PictureError(f"{name} is empty", expected="a picture file", fix="save or copy it again")
    for magic, format_name, plugin in _DECODERS:
        if content.startswith(magic) and (format_name != "WEBP" or content[8:12] == b"WEBP"):
            return format_name, plugin
    found = f"a file that begins with {content[:8]!r}"
    if content[4:8] == b"ftyp":
        found = "a HEIC, AVIF or video file"
    elif content.startswith(b"%PDF"):
        found = "a PDF document"
    elif content[:64].isascii() and content[:64].decode().replace("\n", "").replace("\r", "").isprintable():
        found = "text"
    raise PictureError(f"{name} is no picture this program reads", found=found, expected=_FORMATS, fix=_FIX)


def _check_cost(content: bytes, format_name: str, name: str) -> None:
    """Refuse what Pillow would spend much memory or time on before its size can be asked."""
    if format_name == "WEBP":
        _check_size(*_webp_size(content), name)  # the decoder takes memory for the picture on opening
    if format_name == "PPM" and content[1:2] in b"123" and len(content) > MAX_PLAIN_BYTES:
        raise PictureError(
            f"{name} is too large a plain-text picture",
            found=f"{len(content) / 2**20:,.0f} MiB",
            expected=f"at most {MAX_PLAIN_BYTES / 2**20:.0f} MiB",
            fix=_FIX,
        )
    n_scans = content.count(b"\xff\xda") if format_name == "JPEG" else 0
    if n_scans > MAX_JPEG_SCANS:
        raise PictureError(
            f"{name} is a JPEG file made to take long",
            found=f"{n_scans:,} scans",
            expected=f"at most {MAX_JPEG_SCANS}",
            fix=_FIX,
        )


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height out of a WebP header; (0, 0) if there are none, which the decoder will notice."""
    kind, head = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(f"{width:,} x {height:,}", name)


def _too_many_pixels(found: str, name: str) -> PictureError:
    return PictureError(
        f"{name} has too many pixels",
        found=found,
        expected=f"at most {MAX_PIXELS / 1e6:.0f} million",
        fix="make the picture smaller",
    )


def _damaged(format_name: str, name: str, error: Exception) -> PictureError:
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):  # its text is the address of our buffer
        reason = "a header that makes no sense"
    elif "truncated" in reason.lower() or isinstance(error, EOFError):
        reason = "an end that comes too early"
    return PictureError(
        f"{name} is damaged",
        found=reason[:200] or type(error).__name__,
        expected=f"a complete {format_name} picture",
        fix="save or copy it again",
    )


# --- pixels -----------------------------------------------------------------------------------------


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
