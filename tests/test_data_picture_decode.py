"""Tests of edgelstm.data.picture.decode: pictures of every kind are decoded, and what is none is refused."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageDraw

from edgelstm.data.picture import SUFFIXES, UNREADABLE_SUFFIXES, decode, read_picture
from edgelstm.data.picture.decode import _DECODERS, KEEP_PX
from edgelstm.errors import PictureError

Colour = float | tuple[int, ...]
PICTURES = Path(__file__).with_name("pictures")
ROOT = Path(__file__).parent.parent


def drawn(ink: Colour = 0, paper: Colour = 255, mode: str = "L", size: int = 120) -> Image.Image:
    """A digit 7: asymmetric, so that rotations and mirrorings show."""
    image = Image.new(mode, (size, size), paper)
    ImageDraw.Draw(image).line([(35, 30), (85, 30), (55, 95)], fill=ink, width=7, joint="curve")
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *extra: bytes, data: bytes = b"\0" * 100) -> bytes:
    """A PNG file by hand, so that its header can lie."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiff(tags: dict[int, int], data: bytes = bytes(100)) -> bytes:
    """A TIFF file by hand, with one value in each tag; 273 is where the data lies."""
    tags = {**tags, 273: 8 + 2 + 12 * (len(tags) + 1) + 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


def same(first: np.ndarray, second: np.ndarray, share: float = 0.9) -> bool:
    """Whether two small pictures show the same strokes."""
    a, b = first.astype(float).ravel(), second.astype(float).ravel()
    return bool(a @ b > share * np.sqrt((a @ a) * (b @ b)))  # an empty picture shows none


PLAIN = read_picture(encoded(drawn())).pixels


# --- kinds of pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM"])
def test_each_format_gives_the_same_digit(kind: str) -> None:
    assert same(PLAIN, read_picture(encoded(drawn(), kind)).pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_each_png_mode_gives_the_same_digit(mode: str) -> None:
    assert same(PLAIN, read_picture(encoded(drawn().convert(mode))).pixels)


def test_cmyk_gives_the_same_digit() -> None:
    assert same(PLAIN, read_picture(encoded(drawn().convert("CMYK"), "JPEG")).pixels)


def test_sixteen_bits_do_not_clip_to_white() -> None:
    deep = (np.asarray(drawn(ink=90, paper=200), np.uint32) * 257).astype(np.uint16)
    array = decode(encoded(Image.fromarray(deep)))
    assert (array.min(), array.max()) == (round(90 / 200 * 255), 255)
    assert same(PLAIN, read_picture(encoded(Image.fromarray(deep))).pixels)


def test_thirty_two_bit_floats_are_read() -> None:
    deep = Image.fromarray(np.asarray(drawn(), np.float32) / 1000)
    assert same(PLAIN, read_picture(encoded(deep, "TIFF")).pixels)


@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_the_colour_under_transparent_pixels_does_not_matter(ink: int, hidden: tuple[int, int, int]) -> None:
    alpha = np.asarray(drawn(ink=255, paper=0))
    pixels = np.dstack([np.where(alpha > 0, ink, level).astype(np.uint8) for level in hidden] + [alpha])
    assert same(PLAIN, read_picture(encoded(Image.fromarray(pixels))).pixels)


def test_transparent_palette_colours_are_resolved() -> None:
    image = drawn(ink=1, paper=0, mode="P")
    image.putpalette([0, 0, 0, 0, 0, 0])  # black on black: only the transparency tells them apart
    assert same(PLAIN, read_picture(encoded(image, transparency=0)).pixels)


def test_a_sheet_with_transparent_margins_is_read_as_a_sheet() -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste(drawn(mode="RGBA", ink=(0, 0, 0, 255), paper=(255, 255, 255, 255)), (40, 40))
    sheet = decode(encoded(image))
    assert (sheet == 255).mean() > 0.9  # the margins take the sheet's own colour
    assert same(PLAIN, read_picture(encoded(image)).pixels)


def test_a_wholly_transparent_picture_has_no_ink() -> None:
    found = read_picture(encoded(Image.new("RGBA", (50, 50), (9, 9, 9, 0))))
    assert (found.empty, found.note) == (True, "no ink found")


@pytest.mark.parametrize(
    ("orientation", "back"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_undone(orientation: int, back: Image.Transpose, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = drawn().transpose(back)
    assert same(PLAIN, read_picture(encoded(stored, kind, exif=exif)).pixels)


def test_the_first_frame_of_an_animation_is_read() -> None:
    blank = Image.new("L", (120, 120), 255)
    assert same(PLAIN, read_picture(encoded(drawn(), "GIF", save_all=True, append_images=[blank, blank])).pixels)


def test_a_large_photo_gives_the_digit_of_the_small_one() -> None:
    large = drawn(mode="RGB", ink=(30, 30, 60), paper=(220, 220, 210)).resize((3600, 3600), Image.Resampling.BICUBIC)
    for kind in ("JPEG", "PNG"):
        assert max(decode(encoded(large, kind)).shape) <= 2 * KEEP_PX
        assert same(PLAIN, read_picture(encoded(large, kind)).pixels)


def test_bytes_and_paths_give_the_same_pixels(tmp_path: Path) -> None:
    content = encoded(drawn())
    file = tmp_path / "wrong ending.txt"
    file.write_bytes(content)
    assert (read_picture(file).pixels == read_picture(content).pixels).all()
    assert (read_picture(str(file)).pixels == read_picture(content).pixels).all()


def test_the_shipped_pictures_all_show_ink() -> None:
    files = [path for path in PICTURES.glob("[0-9]/*") if path.suffix in SUFFIXES]
    assert len(files) == 35
    for file in files:
        found = read_picture(file)
        assert (found.note, found.pixels.max()) == (None, 255), file.name


def test_every_shipped_picture_names_its_source() -> None:
    lines = (PICTURES / "SOURCES.tsv").read_text().splitlines()[1:]
    named = {line.split("\t")[0] for line in lines}
    assert named == {f"{path.parent.name}/{path.name}" for path in PICTURES.glob("[0-9]/*")}


# --- hostile files ----------------------------------------------------------------------------------

HOSTILE = {
    "nothing": (b"", "found an empty file"),
    "text": (b"hello, world\n" * 9, "found text"),
    "zeros": (bytes(1000), "is no picture"),
    "PDF": (b"%PDF-1.7 and so on", "found a PDF document, expected PNG, JPEG, GIF, BMP, WEBP, AVIF, TIFF or PPM; save"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "found a HEIC photo, expected PNG, JPEG, GIF, BMP, WEBP, AVIF"),
    "HEIC of another brand": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "; export it as JPEG (on an iPhone:"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(40), "found a video"),
    "SVG": (b"<?xml version='1.0'?>\n<svg xmlns='...'/>", "found an SVG drawing"),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "found a JPEG XL picture"),
    "half an AVIF": (encoded(drawn(), "AVIF")[:-40], "is damaged"),
    "half a PNG": (encoded(drawn())[:150], "is damaged"),
    "half a JPEG": (encoded(drawn(), "JPEG")[:900], "an end that comes too early"),
    "only magic bytes": (b"\x89PNG\r\n\x1a\n" + b"x" * 40, "is damaged"),
    "pixel bomb": (png(8_000, 8_000), "too many pixels: found 8,000 x 8,000"),
    "far larger bomb": (png(2**31 - 1, 2**31 - 1), "has too many pixels"),
    "text bomb": (
        png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "is damaged",
    ),
    "WebP bomb": (
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(20),
        "too many pixels: found 16,384 x 16,384",
    ),
    "scan bomb": (
        encoded(drawn(), "JPEG") + b"\xff\xda" * 300,
        "found a JPEG file with 301 scans, expected at most 200",
    ),
    "plain-text bomb": (
        b"P3 3000 3000 255 " + b"1 " * 3_000_000,
        "found 6,000,017 bytes of plain-text PPM, expected at most 4,194,304",
    ),
    "short pixels": (b"P6 5000 5000 255 abc", "is damaged"),
    "wrong checksum": (encoded(drawn())[:29] + b"xxxx" + encoded(drawn())[33:], "is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("error")
def test_a_hostile_file_is_refused_in_one_line(name: str) -> None:
    content, expected = HOSTILE[name]
    with pytest.raises(PictureError) as caught:
        read_picture(content)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"no file .*missing.png; check its name"):
        read_picture(tmp_path / "missing.png")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="found a folder"):
        read_picture(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match="found not a regular file"):
        read_picture(tmp_path / "pipe.png")


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_device_is_refused() -> None:
    with pytest.raises(PictureError, match="found not a regular file"):
        read_picture("/dev/zero")


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_loop_of_symbolic_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    with pytest.raises(PictureError, match=r"[Ss]ymbolic links"):
        read_picture(tmp_path / "a.png")


@pytest.mark.skipif(os.name == "nt" or not os.geteuid(), reason="the superuser may read anything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "closed.png"
    file.write_bytes(encoded(drawn()))
    file.chmod(0)
    with pytest.raises(PictureError, match=r"[Pp]ermission denied"):
        read_picture(file)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "zeros.png"
    with open(file, "wb") as stream:
        stream.truncate(100 * 2**20)  # sparse: takes no room on the disk
    with pytest.raises(PictureError, match="found 104,857,600 bytes, expected 1 to 67,108,864 bytes"):
        read_picture(file)


def test_a_name_with_control_characters_is_printed_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught:
        read_picture(os.fsencode(tmp_path).decode() + "/new\nline\x1b[31m\0.png")
    assert str(caught.value).isprintable()


def test_a_bug_in_the_preparation_costs_only_that_picture_and_keeps_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("index 0 is out of bounds")

    monkeypatch.setattr("edgelstm.data.picture.find.drawn", broken)
    with pytest.raises(PictureError, match=r"found IndexError: index 0 is out of bounds; report it as a bug") as caught:
        read_picture(encoded(drawn()))
    assert isinstance(caught.value.__cause__, IndexError)


def test_bytes_have_the_same_limit_as_files() -> None:
    content = encoded(drawn())
    with pytest.raises(PictureError, match="is too large a file: found 67,108,865 bytes, expected at most 67,108,864"):
        read_picture(content.ljust(64 * 2**20 + 1, b"\0"))
    assert same(PLAIN, read_picture(content.ljust(2**20, b"\0")).pixels)


def test_avif_without_support_in_pillow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(drawn(), "AVIF")
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(PictureError, match="found a Pillow built without AVIF; pip install -U pillow, or open it in"):
        read_picture(content)


def test_endings_are_of_pictures_that_can_be_read_or_of_those_that_cannot() -> None:
    assert not set(SUFFIXES) & set(UNREADABLE_SUFFIXES)
    assert {".avif", ".jpg"} < set(SUFFIXES)
    assert {".heic", ".heif", ".svg", ".pdf"} < set(UNREADABLE_SUFFIXES)


def test_what_pillow_logs_does_not_reach_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    code = f"""
from edgelstm.data.picture import decode
from edgelstm.errors import PictureError
try:
    decode({tiff({256: 9, 257: 9, 258: 8, 277: 100})!r})
except PictureError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout[:22], done.stderr) == ("the picture is damaged", "")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM"]), st.data())
def test_a_changed_file_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(drawn(size=24), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    _check_answer(bytes(content[: cut or None]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from([magic for magic, _, _ in _DECODERS] + [b"", b"\0\0\0\x1cftypavif"]), st.binary(max_size=400))
def test_random_bytes_are_refused_or_read(magic: bytes, rest: bytes) -> None:
    _check_answer(magic + rest)


def _check_answer(content: bytes) -> None:
    """A picture or a PictureError in one line; anything else fails the test."""
    try:
        pixels = read_picture(content).pixels
    except PictureError as error:
        text = str(error)
        assert "report it as a bug" not in text
    else:
        text = ""
        assert (pixels.shape, pixels.dtype.name) == ((28, 28), "uint8")
    assert "\n" not in text
