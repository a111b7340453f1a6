"""Tests of hostile files: one clear line each, exit 1, little memory, no hang, and the others are still answered."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import edgelstm
from edgelstm import files
from edgelstm.config import ModelConfig
from edgelstm.contract import ModelContract, graph_layout
from edgelstm.data.picture import read_picture
from edgelstm.errors import PictureError
from edgelstm.onnx_file import MAX_MODEL_BYTES, encode, graph_from

ROOT = Path(edgelstm.__file__).parents[1]
TIMEOUT_S = 120
MAX_KB = 500_000
MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "edgelstm", *sys.argv[1:]])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""
"""In a small process of its own: a child begins with the peak of the one that made it."""


def edgelstm_in(folder: Path, *arguments: object) -> tuple[int, list[str], list[str], int]:
    """Exit status, lines of stdout and of stderr, peak memory in kB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)], cwd=folder, capture_output=True, timeout=TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:backslashreplace"},
    )  # fmt: skip
    *errors, peak = (line for line in done.stderr.decode().splitlines() if not line.startswith("model "))
    n_kb = int(peak.split()[1]) // (1024 if sys.platform == "darwin" else 1)
    return done.returncode, done.stdout.decode().splitlines(), errors, n_kb


# --- pictures ---------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def drawn(size: int = 60) -> Image.Image:
    pixels = np.full((size, size), 255, np.uint8)
    pixels[size // 5 : -size // 5, size // 2 - 2 : size // 2 + 3] = 0
    return Image.fromarray(pixels)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *extra: bytes, data: bytes = b"\0" * 100) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gif_of_frames(n: int) -> bytes:
    """A GIF whose one frame is repeated, as an animation of hours is."""
    whole = encoded(drawn(20).convert("P"), "GIF")
    start = whole.index(b",\0\0\0\0")
    return whole[:start] + whole[start:-1] * n + b";"


def tiff_ring() -> bytes:
    """A TIFF whose first directory names itself as the next."""
    content = bytearray(encoded(drawn(20), "TIFF"))
    at = struct.unpack_from("<I", content, 4)[0]
    after = at + 2 + 12 * struct.unpack_from("<H", content, at)[0]
    struct.pack_into("<I", content, after, at)
    return bytes(content)


def zip_bomb_tiff() -> bytes:
    """A small TIFF that says it unpacks to a thousand million pixels."""
    content = bytearray(encoded(drawn(20), "TIFF", compression="tiff_adobe_deflate"))
    at = struct.unpack_from("<I", content, 4)[0]
    for i in range(struct.unpack_from("<H", content, at)[0]):
        if struct.unpack_from("<H", content, at + 2 + 12 * i)[0] in (256, 257):
            struct.pack_into("<I", content, at + 2 + 12 * i + 8, 32_000)
    return bytes(content)


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "found an empty file"),
    "truncated.png": (lambda: encoded(drawn())[:-40], "is damaged"),
    "truncated.jpg": (lambda: encoded(drawn(200), "JPEG")[:-300], "is damaged: found an end that comes too early"),
    "corrupt.png": (lambda: encoded(drawn())[:45] + b"\xff" * 40 + encoded(drawn())[85:], "is damaged"),
    "zeros.png": (lambda: bytes(4_000), "is no picture this program reads"),
    "pixels.png": (lambda: png(60_000, 60_000), "has too many pixels"),
    "pixels.webp": (
        lambda: b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(20),
        "has too many pixels",
    ),
    "pixels.bmp": (
        lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 50_000, 50_000, 1, 8, 0, 0, 0, 0, 0, 0),
        "too many pixels",
    ),
    "pixels.tiff": (zip_bomb_tiff, "has too many pixels"),
    "text.png": (lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "is damaged"),
    "profile.png": (lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "is damaged"),
    "scans.jpg": (lambda: encoded(drawn(), "JPEG") + b"\xff\xda" * 5_000, "found a JPEG file with 5,001 scans"),
    "plain.pbm": (lambda: b"P3 3000 3000 255 " + b"1 " * 3_000_000, "bytes of plain-text PPM"),
    "text.jpg": (lambda: b"this is no picture\n" * 20, "found text"),
    "document.png": (lambda: b"%PDF-1.7 and so on", "found a PDF document"),
    "photo.heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "found a HEIC photo"),
    "vector.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "found an SVG drawing"),
    "program.png": (lambda: b"\x7fELF" + bytes(100), "is no picture this program reads"),
}
"""Content, and a part of what is said of it."""
HARMLESS: dict[str, Callable[[], bytes]] = {
    "wrong ending.txt": lambda: encoded(drawn()),
    "frames.gif": lambda: gif_of_frames(30_000),
    "ring.tiff": tiff_ring,
    "new\nline \x1b[31m *.png": lambda: encoded(drawn()),
}
"""Odd files that show a digit all the same."""


def hostile_folder(folder: Path) -> list[str]:
    """Write all cases and return the names of those that must be refused."""
    for name, (content, _) in PICTURES.items():
        (folder / name).write_bytes(content())
    for name, make in HARMLESS.items():
        (folder / name).write_bytes(make())
    refused = [*PICTURES, "missing.png", "x" * 300 + ".png", "huge.png", "bare"]
    (folder / "bare").mkdir()
    with open(folder / "huge.png", "wb") as stream:
        stream.truncate(100 * 2**20)  # sparse: takes no room on the disk
    if os.name != "nt":
        os.mkfifo(folder / "pipe.png")
        (folder / "one.png").symlink_to("other.png")
        (folder / "other.png").symlink_to("one.png")
        refused += ["pipe.png", "/dev/zero", "one.png"]
    return refused


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model_bytes: bytes) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_model_bytes)
    return path


def test_hostile_pictures_are_one_line_each_and_the_others_are_answered(tmp_path: Path, model: Path) -> None:
    refused = hostile_folder(tmp_path)
    (tmp_path / "good.png").write_bytes(encoded(drawn()))
    names = ["good.png", *refused, *HARMLESS, "good.png"]
    status, lines, errors, n_kb = edgelstm_in(tmp_path, "infer", "--provider", "cpu", "--model", model, *names)
    assert (1, len(HARMLESS) + 2, len(refused)) == (status, len(lines), len(errors)), "\n".join(errors)
    for name, error in zip(refused, errors, strict=True):
        assert error.startswith("Error: "), error
        assert PICTURES.get(name, (None, name[:190]))[1] in error
    assert [line for line in lines + errors if not line.isprintable()] == []
    assert lines[0] == lines[-1]
    assert n_kb < MAX_KB


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_the_largest_pictures_of_each_depth_stay_below_500_mb(tmp_path: Path, model: Path, mode: str) -> None:
    side = 7_200
    bits, colours, n_bytes = {"RGBA": (8, 6, 4), "P": (8, 3, 1), "I;16": (16, 0, 2)}[mode]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colours, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(6))) if mode == "P" else b""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + side * n_bytes)) for _ in range(side)) + packer.flush()
    content = b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "large.png").write_bytes(content)
    status, lines, errors, n_kb = edgelstm_in(tmp_path, "infer", "--provider", "cpu", "--model", model, "large.png")
    assert (0, ["large.png  no digit  (no ink found)"], []) == (status, lines, errors)
    assert n_kb < MAX_KB


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_file_that_becomes_a_pipe_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = tmp_path / "a.png", os.open
    file.write_bytes(encoded(drawn()))

    def swapped(path: Path, flags: int) -> int:
        file.unlink()
        os.mkfifo(file)
        return real(path, flags)

    monkeypatch.setattr(files.os, "open", swapped)
    with pytest.raises(PictureError, match="found not a regular file"):
        read_picture(file)


@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_a_file_that_changes_while_it_is_read_is_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file, real = tmp_path / "a.png", os.fstat
    content = encoded(drawn())
    file.write_bytes(content)

    def changed(handle: int) -> os.stat_result:
        status = real(handle)
        if change == "gone":
            file.unlink(missing_ok=True)
        else:
            os.truncate(file, len(content) // 2 if change == "shorter" else 2 * len(content))
        return status

    monkeypatch.setattr(files.os, "fstat", changed)
    if change == "shorter":
        with pytest.raises(PictureError, match="is damaged"):
            read_picture(file)
    else:
        assert read_picture(file).pixels.any()


# --- models: what a file may hold is tested in test_onnx_file.py; here, what the commands make of it ----------


def test_hostile_model_files_are_refused_in_one_line_and_little_memory(tmp_path: Path, tiny_model_bytes: bytes) -> None:
    (tmp_path / "good.png").write_bytes(encoded(drawn()))
    bomb = onnx.load_model_from_string(tiny_model_bytes)
    for i in range(12):  # 20 to the power of 12 times the picture
        bomb.graph.node.insert(1 + i, onnx.helper.make_node("Concat", [f"c{i - 1}" if i else "floats"] * 20, [f"c{i}"]))
    shape = onnx.load_model_from_string(tiny_model_bytes)
    shape.graph.value_info.append(onnx.helper.make_tensor_value_info("\x1b[31m", 1, [2**40, 2**40]))
    cases = {
        "shape.onnx": (shape.SerializeToString(), "in its values: found"),
        "bomb.onnx": (bomb.SerializeToString(), "in its operators: found .*Concat"),
        "fields.onnx": (tiny_model_bytes + b"\xf8\x3f\x01" * 2**23, "more than 10,000 fields"),
        "rows.onnx": (tiny_model_bytes.replace(b'"rows": 28', b'"rows": 99'), "cannot be loaded|damaged|inputs"),
    }
    for name, (content, expected) in cases.items():
        (tmp_path / name).write_bytes(content)
        status, lines, errors, n_kb = edgelstm_in(tmp_path, "infer", "--model", name, "good.png")
        assert (1, []) == (status, lines)
        assert len(errors) == 1
        assert errors[0].startswith(f"Error: {name} ")
        assert re.search(expected, errors[0]), errors[0]
        assert n_kb < MAX_KB


NAMES = ("\x1b[31mred", "one\nImage  9  100.0 %", "\x9b2J", "back\u202ewards", *"456789")


def test_no_name_in_a_model_file_reaches_a_terminal_raw(
    tmp_path: Path, checkpoint_of: Callable[..., object], model_bytes_of: Callable[..., bytes]
) -> None:
    checkpoint = checkpoint_of(ModelConfig(hidden_size=4, class_names=NAMES), name="\x1b]0;title\x07\nforged")
    (tmp_path / "m\x1b[31m.onnx").write_bytes(model_bytes_of(checkpoint))
    (tmp_path / "good.png").write_bytes(encoded(drawn()))
    for command in (["infer", "--top", 10, "good.png", "--model"], ["inspect"]):
        status, lines, errors, _ = edgelstm_in(tmp_path, *command, "m\x1b[31m.onnx")
        assert status == 0, errors
        assert [line for line in lines + errors if not line.isprintable()] == []
        assert len(errors) <= 1, "the model that was named"


def test_the_largest_model_file_stays_below_500_mb(tmp_path: Path) -> None:
    """As many units as the limit allows: what onnxruntime takes is a multiple of the file."""
    config = ModelConfig(hidden_size=1_408)
    layout = graph_layout(config)
    weights = {name: np.zeros(shape, np.float32) for name, (_, shape) in layout.weights.items()}
    content = encode(graph_from(layout, weights, ModelContract(config).to_metadata()))
    assert 0.9 * MAX_MODEL_BYTES < len(content) <= MAX_MODEL_BYTES
    (tmp_path / "large.onnx").write_bytes(content)
    (tmp_path / "good.png").write_bytes(encoded(drawn()))
    status, lines, errors, n_kb = edgelstm_in(
        tmp_path, "infer", "--provider", "cpu", "--model", "large.onnx", "good.png"
    )
    assert (0, 1) == (status, len(lines)), errors
    assert n_kb < MAX_KB
