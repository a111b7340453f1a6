"""What a picture file may cost: everything a decoder would spend much memory or time on, read from its header first.

Pillow's own limits do not count here: a host program may have switched them off.
"""

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgelstm.errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused unread. With the decoder's share below, a hostile file stays under 500 MB."""
MAX_PIXELS = 52_000_000
"""Phones take 50 million; 4 bytes a pixel stay near 200 MB."""
MAX_PIXELS_OF = {"WEBP": 24_000_000, "AVIF": 16_000_000, "CMYK JPEG": 26_000_000}
"""Where the decoder itself takes more. WebP: 16 bytes a pixel, for Pillow opens every file as an animation, with two
canvases. AVIF: 9 to 14 with 8 bits, about twice that with 12. A progressive CMYK JPEG: 8, for its coefficients."""
MAX_SIDE = 65_535
"""JPEG's largest. Pillow adds pieces of 64 KiB to a row until it is whole, which takes time in its square."""
MAX_READS = 1_000_000
"""Calls of read(), each about a microsecond, that a plugin may make: its loops over segments, chunks, comments, and
over single pixels of rare kinds of BMP and PPM, are Python."""
MAX_PLAIN_BYTES = 4 * 2**20
"""Largest PBM, PGM or PPM file in decimal digits: parsed in Python too, but read in large blocks."""
MAX_SCANS = 200
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS
"""Progressive JPEG files have about ten scans; each costs a pass over the whole picture."""
MAX_EXIF_PARTS = 16
MAX_EXIF_BYTES = MAX_EXIF_PARTS * 2**16
"""Pillow makes Python objects of its numbers. Cameras write one part of at most 64 KiB."""
MAX_TAG_VALUES = 65_536
"""Numbers in one TIFF tag: as many as a picture of MAX_SIDE rows has strips."""
MAX_DIRECTORY_VALUES = 4 * MAX_TAG_VALUES
"""Numbers in all tags of one TIFF directory."""
MAX_DIRECTORIES = 8
"""TIFF directories that Pillow reads for one picture: its own, EXIF, GPS and interoperability."""
MAX_TIFF_BYTES = 416 * 10**6
"""What a TIFF picture takes with 4 bytes a pixel, twice if Pillow turns it upright, and its largest strip or tile,
which libtiff unpacks as a whole."""

_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value of each TIFF type."""
_TIFF_BYTES = (1, 2, 6, 7)
"""Types that stay bytes, as in a colour profile, and may be long."""
_TIFF_POINTERS = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q"}
"""Types of whole numbers: a tag that names another directory may be of any of them."""
_TIFF_DIRECTORIES = (34665, 34853, 40965)
"""Tags that name a directory which Pillow reads whole: EXIF, GPS, interoperability."""
_AVIF_EXIF = re.compile(rb"(infe[\2\3].{3}(?:.{4}|.{6}))Exif", re.DOTALL)
"""The entry of an EXIF item in an AVIF file: version and flags, number and protection, then the type."""


class BoundedStream(io.BytesIO):
    """Bytes that can be read in at most MAX_READS pieces; ``name`` is for the text of the error."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name, self.n_reads = name, 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.n_reads += 1
        if self.n_reads > MAX_READS:
            raise _too_costly(self.name, "more than a million small pieces")
        return super().read(size)


def check_content(content: bytes, kind: str, name: str) -> None:
    """Refuse bytes on which merely opening the file would cost too much. ``kind`` is Pillow's name of the format."""
    if len(content) > MAX_FILE_BYTES:
        raise PictureError(
            f"{name} is too large a file", found=f"{len(content):,} bytes", expected=f"at most {MAX_FILE_BYTES:,}",
            fix="make the picture smaller",
        )  # fmt: skip
    if kind == "WEBP":
        check_size(*_webp_size(content), kind, name)  # the decoder takes memory for the canvas on opening
    elif kind == "TIFF":
        _check_tags(content, name)
    elif kind == "JPEG" and content.count(b"Exif\0\0") > MAX_EXIF_PARTS:
        raise _too_costly(name, "a JPEG file with much EXIF data", f"at most {MAX_EXIF_PARTS} parts")
    elif kind == "PPM" and content[1:2] in b"123" and len(content) > MAX_PLAIN_BYTES:
        raise _too_costly(name, f"{len(content):,} bytes of plain-text PPM", f"at most {MAX_PLAIN_BYTES:,}")


def check_opened(image: "ImageFile", content: bytes, kind: str, name: str) -> None:
    """Refuse a file whose header is read and whose pixels would cost too much to decode."""
    check_size(image.width, image.height, kind, name)
    if kind == "JPEG":
        if image.mode == "CMYK":
            check_size(image.width, image.height, "CMYK JPEG", name)
        n_scans = content.count(b"\xff\xda")
        n_allowed = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(image.width * image.height, 1))
        if n_scans > n_allowed:
            raise _too_costly(name, f"a JPEG file with {n_scans:,} scans", f"at most {n_allowed}")
    elif kind == "TIFF":
        _check_strips(image, name)


def has_much_exif(image: "Image") -> bool:
    """Whether a picture that is loaded has EXIF data that would cost too much to look into."""
    return any(len(image.info.get(key, b"")) > MAX_EXIF_BYTES for key in ("exif", "Raw profile type exif"))


def without_avif_exif(content: bytes) -> bytes:
    """An AVIF file whose EXIF item no decoder knows: Pillow unpacks it on opening, 200 bytes for each of its own.

    Nothing is lost: what turns an AVIF picture stands elsewhere.
    """
    return _AVIF_EXIF.sub(rb"\1none", content)


def check_size(width: int, height: int, kind: str, name: str) -> None:
    """Refuse a picture of so many pixels."""
    n_pixels = MAX_PIXELS_OF.get(kind, MAX_PIXELS)
    if width * height > n_pixels:
        expected = f"at most {n_pixels / 1e6:.0f} million" + (f" for {kind}" if kind in MAX_PIXELS_OF else "")
    elif max(width, height) > MAX_SIDE:
        expected = f"at most {MAX_SIDE:,} in a row or column"
    else:
        return
    raise PictureError(
        f"{name} has too many pixels",
        found=f"{width:,} x {height:,}",
        expected=expected,
        fix="make the picture smaller",
    )


def _too_costly(name: str, found: str, expected: str | None = None) -> PictureError:
    fix = "open it in a picture editor and save it as PNG or JPEG"
    return PictureError(f"{name} costs too much to decode", found=found, expected=expected, fix=fix)


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height out of a WebP header; (0, 0) if there are none, which the decoder will notice."""
    kind, head = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _check_tags(content: bytes, name: str) -> None:
    """Refuse TIFF directories with more values than a picture needs: Pillow makes a Python object of each."""
    order = "<" if content.startswith(b"II") else ">"
    starts = [int.from_bytes(content[4:8], "little" if order == "<" else "big")]
    for start in starts:  # it grows
        # one that ends too early is Pillow's to refuse; it has read what comes before its end
        with contextlib.suppress(struct.error):
            for where in _directories_in(content, order, start, name):
                if where not in starts:
                    starts.append(where)
                if len(starts) > MAX_DIRECTORIES:
                    raise _too_costly(name, f"more than {MAX_DIRECTORIES} TIFF directories")


def _directories_in(content: bytes, order: str, start: int, name: str) -> Iterator[int]:
    """Check one directory; gives where others begin that its tags name."""
    (n_tags,) = struct.unpack_from(order + "H", content, start)
    n_bytes = n_values = 0
    for at in range(start + 2, start + 2 + 12 * n_tags, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", content, at)
        n_bytes += _TIFF_SIZES.get(kind, 0) * count
        n_values += 0 if kind in _TIFF_BYTES else count
        if (kind not in _TIFF_BYTES and count > MAX_TAG_VALUES) or n_bytes > len(content):
            raise _too_costly(name, f"a TIFF tag of {count:,} values", f"at most {MAX_TAG_VALUES:,}")
        if n_values > MAX_DIRECTORY_VALUES:
            raise _too_costly(name, f"{n_values:,} values in TIFF tags", f"at most {MAX_DIRECTORY_VALUES:,}")
        if tag in _TIFF_DIRECTORIES and count == 1 and kind in _TIFF_POINTERS:
            with contextlib.suppress(struct.error):  # it leads out of the file
                place = at + 8 if _TIFF_SIZES[kind] <= 4 else struct.unpack_from(order + "I", content, at + 8)[0]
                (where,) = struct.unpack_from(order + _TIFF_POINTERS[kind], content, place)
                if 0 < where < len(content):
                    yield where


def _check_strips(image: "ImageFile", name: str) -> None:
    """Refuse a TIFF whose strips or tiles, of which libtiff unpacks one at a time, are too large."""
    tags: dict[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    rows = min(tags.get(278, image.height), image.height)  # RowsPerStrip
    width, height = tags.get(322, image.width), tags.get(323, rows)  # TileWidth, TileLength
    bits = tags.get(258, (1,))  # BitsPerSample, one for each colour
    copies = 2 if tags.get(274, 1) != 1 else 1  # Orientation
    n_bytes = copies * 4 * image.width * image.height + width * height * sum(bits) // 8
    if n_bytes > MAX_TIFF_BYTES:
        raise _too_costly(name, f"a TIFF strip or tile of {width:,} x {height:,} pixels", "smaller ones")
