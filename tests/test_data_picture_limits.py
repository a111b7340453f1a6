"""Tests of edgelstm.data.picture.limits: files made to cost memory or time are refused on what their headers say."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgelstm.data.picture import decode, read_picture
from edgelstm.errors import PictureError

ROOT = Path(__file__).parent.parent
MAX_MB = 500


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def drawn(mode: str = "L") -> Image.Image:
    pixels = np.full((60, 60), 255, np.uint8)
    pixels[12:48, 28:33] = 0
    return Image.fromarray(pixels).convert(mode)


def webp(width: int, height: int) -> bytes:
    """An animation of two small frames on a canvas of any size, in about 200 bytes."""
    content = bytearray(encoded(drawn("RGB"), "WEBP", save_all=True, append_images=[Image.new("RGB", (60, 60))]))
    content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def jpeg(width: int, height: int, mode: str = "L", n_scans: int = 0) -> bytes:
    """A progressive JPEG that says any size, its last scan ``n_scans`` times more; most pixels are missing."""
    content = bytearray(encoded(drawn(mode), "JPEG", progressive=True))
    at = content.index(b"\xff\xc2")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    last = content[content.rindex(b"\xff\xda") : -2]
    return bytes(content[:-2] + last * n_scans + b"\xff\xd9")


def jpeg_of_segments(*segments: bytes) -> bytes:
    content = encoded(drawn(), "JPEG")
    return content[:2] + b"".join(segments) + content[2:]


def gif_of_comments(n: int) -> bytes:
    before, after = encoded(drawn(), "GIF").split(b",", 1)
    return before + b"!\xfe\x01a\0" * n + b"," + after


def app1(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: bytes, size: tuple[int, int] = (40, 40)) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(41 * 40)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def bmp(width: int, height: int, compression: int, data: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + header + bytes(range(256)) * 4 + data


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes = b"") -> bytes:
    """By hand: tag -> type, count, value or offset."""
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + tail


def one(value: int) -> tuple[int, int, int]:
    return 4, 1, value


def many_values(n: int) -> bytes:
    """EXIF data: the orientation (rotated by 90 degrees), and a tag of ``n`` numbers, each a Python object."""
    tags = {0x0112: (3, 1, 6), 0x9286: (3, n, 38)}
    return tiff(tags, struct.pack("<H", 300) * n)


def tiff_with_directory(tag: int, pointer: tuple[int, int], n: int, *, ends_early: bool = False) -> bytes:
    """A TIFF with a second directory, of one tag of ``n`` numbers, which the tag names."""
    start = 8 + 2 + 12 * (len(SMALL_TIFF) + 1) + 4
    kind, count = pointer
    inner = struct.pack("<HHHII", 40 if ends_early else 1, 0x9286, 3, n, 8) + bytes(2 * n)
    return tiff({**SMALL_TIFF, tag: (kind, count, start)}, inner)


SMALL_TIFF = {256: one(10), 257: one(10), 258: one(8), 259: one(1), 262: one(1), 273: one(8), 277: one(1)}
MANY = "found more than a million small pieces; open it in a picture editor"

COSTLY = {
    "animated WebP, square": (webp(7_200, 7_200), "found 7,200 x 7,200, expected at most 24 million for WEBP"),
    "animated WebP, wide": (webp(16_777_216, 1), "found 16,777,216 x 1, expected at most 65,535 in a row or column"),
    "animated WebP, high": (webp(1, 16_777_216), "found 1 x 16,777,216, expected at most 65,535 in a row or column"),
    "wide PPM": (b"P5 1000000 1 255 " + bytes(1_000_000), "found 1,000,000 x 1"),
    "wide BMP": (bmp(1_000_000, 1, 0, bytes(1_000_000)), "found 1,000,000 x 1"),
    "high PNG": (png(size=(1, 50_000_000)), "found 1 x 50,000,000"),
    "PPM of 11 levels": (b"P5 1100 1000 10 " + bytes(1_100_000), MANY),
    "run-length BMP": (bmp(4_000, 4_000, 1, b"\x01\x07" * 600_000), MANY),
    "GIF of comments": (gif_of_comments(400_000), MANY),
    "JPEG of empty segments": (jpeg_of_segments(b"\xff\xe5\0\x02" * 500_000), MANY),
    "JPEG of fill bytes": (jpeg_of_segments(b"\xff" * 1_100_000), MANY),
    "PNG of empty chunks": (png(chunk(b"abCd", b"") * 500_000), MANY),
    "PPM of blanks": (b"P5 " + b" " * 1_100_000 + b"3 3 255\n" + bytes(9), MANY),
    "JPEG of scans": (jpeg(7_200, 7_200, n_scans=30), "scans, expected at most 20"),
    "progressive CMYK JPEG": (jpeg(7_200, 7_200, "CMYK"), "expected at most 26 million for CMYK JPEG"),
    "JPEG with much EXIF": (jpeg_of_segments(*[app1(b"Exif\0\0" + bytes(65_000))] * 17), "much EXIF data, expected"),
    "AVIF": (encoded(Image.new("L", (4_100, 4_000)), "AVIF", speed=10), "expected at most 16 million for AVIF"),
    "TIFF tag of many values": (
        tiff({**SMALL_TIFF, 282: (5, 1_000_000, 110)}, bytes(8_000_000)),
        "found a TIFF tag of 1,000,000 values, expected at most 65,536",
    ),
    "TIFF tags that share their values": (
        tiff({**SMALL_TIFF, **dict.fromkeys(range(40_000, 41_000), (1, 1_000, 8))}),
        "found a TIFF tag of 1,000 values",
    ),
    "TIFF of many values in EXIF": (tiff_with_directory(34665, (4, 1), 9_000_000), "a TIFF tag of 9,000,000 values"),
    "TIFF of many values in GPS": (tiff_with_directory(34853, (3, 1), 9_000_000), "a TIFF tag of 9,000,000 values"),
    "TIFF of many values in a cut directory": (
        tiff_with_directory(34665, (13, 1), 9_000_000, ends_early=True), "a TIFF tag of 9,000,000 values"
    ),
    "TIFF of tags with many values": (
        tiff({**SMALL_TIFF, **dict.fromkeys(range(40_000, 40_009), (3, 65_000, 8))}, bytes(1_200_000)),
        "found 325,007 values in TIFF tags, expected at most 262,144",
    ),
    "TIFF that is turned": (
        tiff({**SMALL_TIFF, 256: one(7_200), 257: one(7_200), 274: one(6), 278: one(7_200)}),
        "found a TIFF strip or tile of 7,200 x 7,200 pixels",
    ),
    "TIFF of one large tile": (
        tiff({**SMALL_TIFF, 322: one(30_000), 323: one(30_000), 324: one(8), 325: one(9)}),
        "found a TIFF strip or tile of 30,000 x 30,000 pixels",
    ),
    "TIFF of one large strip": (
        tiff(
            SMALL_TIFF | {256: one(7_200), 257: one(7_200), 258: (3, 3, 110), 262: one(2), 277: one(3), 278: one(9999)},
            struct.pack("<HHH", 16, 16, 16),
        ),
        "found a TIFF strip or tile of 7,200 x 7,200 pixels",
    ),
}  # fmt: skip
"""Content, and what is said of it. All of these took seconds or gigabytes, or would have with longer files."""


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as a host program may
    content, expected = COSTLY[name]
    with pytest.raises(PictureError) as caught:
        read_picture(content)
    assert expected in str(caught.value)


def test_exif_data_of_megabytes_is_not_looked_into() -> None:
    turned = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    shapes = [decode(png(chunk(b"eXIf", turned + bytes(n)), size=(40, 20))).shape for n in (0, 2**20)]
    assert shapes == [(40, 20), (20, 40)]


RAW_EXIF = b"Raw profile type exif\0\nexif\n1\n"
MUCH_EXIF = {
    "PNG before": lambda: png(chunk(b"eXIf", many_values(9_000_000))),
    "PNG behind": lambda: png()[:-12] + chunk(b"eXIf", many_values(9_000_000)) + chunk(b"IEND", b""),
    "PNG as text": lambda: png(chunk(b"tEXt", RAW_EXIF + many_values(9_000_000).hex().encode())),
    "WEBP": lambda: encoded(drawn(), "WEBP", exif=many_values(9_000_000)),
    "AVIF": lambda: encoded(drawn(), "AVIF", exif=many_values(2_000_000)),
}


@pytest.mark.parametrize("name", MUCH_EXIF)
def test_much_exif_data_makes_no_objects(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, real = MUCH_EXIF[name](), Image.Exif.load

    def loaded(exif: Image.Exif, data: bytes) -> None:
        assert len(data) < 1_000
        real(exif, data)

    monkeypatch.setattr(Image.Exif, "load", loaded)
    assert decode(content).shape[:2] in ((40, 40), (60, 60))


def test_an_avif_picture_is_still_turned_without_its_exif_data() -> None:
    wide = Image.new("L", (60, 20))
    assert decode(encoded(wide, "AVIF", exif=many_values(10))).shape[:2] == (60, 20)


@pytest.mark.parametrize("pointer", [(4, 1), (16, 1), (2, 1), (4, 2)])
def test_a_small_exif_directory_costs_a_tiff_nothing(pointer: tuple[int, int]) -> None:
    assert decode(tiff_with_directory(34665, pointer, 9) + bytes(200)).shape == (10, 10)


def test_a_tiff_of_many_directories_is_refused() -> None:
    """Each names the next; Pillow reads no more than four."""
    content = bytearray(tiff(SMALL_TIFF))
    first = tiff({**SMALL_TIFF, 34665: one(300)}).ljust(300, b"\0")
    rings = b"".join(struct.pack("<HHHIII", 1, 34665, 4, 1, 300 + 18 * (i + 1), 0) for i in range(12))
    content[:] = first + rings + bytes(20)
    with pytest.raises(PictureError, match="more than 8 TIFF directories"):
        decode(bytes(content))


@pytest.mark.parametrize("tail", [b"", b"\x08", b"\xff\xff\xff\xff", b"\x08\0\0\0\xff\xff"])
def test_a_tiff_without_a_directory_is_damaged(tail: bytes) -> None:
    with pytest.raises(PictureError, match="is damaged"):
        read_picture(b"II*\0" + tail)


@pytest.mark.parametrize("limit", ["too costly", "WEBP", "AVIF", "JPEG"])
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_no_file_takes_500_mb(limit: str, tmp_path: Path) -> None:
    """The costly files, and the largest that are let through of the formats whose decoders take most."""
    largest = {
        "WEBP": lambda: webp(4_898, 4_899),
        "AVIF": lambda: encoded(Image.new("RGBA", (3_999, 4_000), (9, 9, 9, 9)), "AVIF", speed=10, subsampling="4:4:4"),
        "JPEG": lambda: jpeg(7_211, 7_211, "RGB"),
    }
    files = [largest[limit]()] if limit in largest else [content for content, said in COSTLY.values() if said != MANY]
    for i, content in enumerate(files):
        (tmp_path / str(i)).write_bytes(content)
    code = f"""
from edgelstm.data.picture import decode, read_picture
from edgelstm.errors import PictureError
for i in range({len(files)}):
    try:
        read_picture({str(tmp_path)!r} + f"/{{i}}")
    except PictureError:
        pass
print([int(line.split()[1]) // 1024 for line in open("/proc/self/status") if "VmHWM" in line][0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < MAX_MB
