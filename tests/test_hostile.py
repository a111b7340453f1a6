"""Tests of hostile files: one clear line each, exit 1, little memory, no hang, and the others are still answered."""

import contextlib
import dataclasses
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from PIL import Image

import edgelstm
from edgelstm.data.picture import decoding
from edgelstm.errors import EdgeLstmError, ModelError, PictureError
from edgelstm.onnx_file import check_operators, check_weights
from edgelstm.runtime.runner import MAX_MODEL_BYTES, OrtRunner

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
    *errors, peak = done.stderr.decode().splitlines()
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
    "empty.png": (lambda: b"", "is empty"),
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
    "scans.jpg": (lambda: encoded(drawn(), "JPEG") + b"\xff\xda" * 5_000, "is a JPEG file made to take long"),
    "plain.pbm": (lambda: b"P3 3000 3000 255 " + b"1 " * 3_000_000, "is too large a plain-text picture"),
    "text.jpg": (lambda: b"this is no picture\n" * 20, "found text"),
    "document.png": (lambda: b"%PDF-1.7 and so on", "found a PDF document"),
    "photo.heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "found a HEIC, AVIF or video file"),
    "vector.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "found text"),
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
        assert PICTURES.get(name, (None, name))[1] in error
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

    monkeypatch.setattr(decoding.os, "open", swapped)
    with pytest.raises(PictureError, match="found a pipe, socket or device"):
        decoding.read_picture(file)


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

    monkeypatch.setattr(decoding.os, "fstat", changed)
    if change == "shorter":
        with pytest.raises(PictureError, match="is damaged"):
            decoding.read_picture(file)
    else:
        assert decoding.read_picture(file).pixels.any()


# --- models -----------------------------------------------------------------------------------------


def changed_model(content: bytes, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(content)
    change(model)
    return model.SerializeToString()


def _with_loop(model: onnx.ModelProto) -> None:
    """A Loop that runs as often as an int64 can count, before the model proper."""
    done = helper.make_tensor_value_info("done", onnx.TensorProto.BOOL, [])
    passed = helper.make_node("Identity", ["more"], ["done"])
    turn = helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, [])
    more = helper.make_tensor_value_info("more", onnx.TensorProto.BOOL, [])
    body = helper.make_graph([passed], "body", [turn, more], [done])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "often"))
    model.graph.node.insert(0, helper.make_node("Loop", ["often", ""], [], body=body))


def _with_bomb(model: onnx.ModelProto) -> None:
    """A constant of 2^40 numbers, made while the session is made."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40]), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["bomb"]))


def _with_function(model: onnx.ModelProto) -> None:
    copy = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("mine", "Cast", ["a"], ["b"], [copy], [helper.make_opsetid("", 18)]))


def _with_unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Sorcery\x1b[31m"


def _with_nan(model: onnx.ModelProto) -> None:
    weight = next(one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
    weight.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(weight), np.nan), weight.name))


def _with_outside_weight(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../etc/passwd")


def _with_wrong_shape(model: onnx.ModelProto) -> None:
    weight = next(one for one in model.graph.initializer if len(one.dims) == 3)
    weight.dims[0], weight.dims[1] = weight.dims[1], weight.dims[0]


def _with_huge_claim(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**31, 2**31]


def _with_lie(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "edgelstm.config":
            entry.value = json.dumps({**json.loads(entry.value), "rows": 2**40})


def _with_temperature(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="edgelstm.temperature", value="0.0")


def _with_many_nodes(model: onnx.ModelProto) -> None:
    for i in range(50_000):
        model.graph.node.append(helper.make_node("Cast", ["logits"], [f"c{i}"], to=1))


MODELS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "a loop without end": (_with_loop, "found 'Loop'"),
    "a shape that takes all memory": (_with_bomb, "found 'ConstantOfShape'"),
    "a function in the name of an operator": (_with_function, "found a function"),
    "an unknown operator": (_with_unknown, "found 'Sorcery"),
    "NaN weights": (_with_nan, "has weights that are not numbers"),
    "weights in another file": (_with_outside_weight, "keeps weights in another file"),
    "a weight of the wrong shape": (_with_wrong_shape, "cannot be run"),
    "a weight that claims to be huge": (_with_huge_claim, "cannot be loaded as an ONNX model"),
    "metadata that lies": (_with_lie, "model contract"),
    "a temperature of nothing": (_with_temperature, "damaged model contract"),
    "50,000 nodes": (_with_many_nodes, "found 50,0"),
}


def test_metadata_that_is_no_text_is_refused(tmp_path: Path, tiny_model_bytes: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(tiny_model_bytes.replace(b"edgelstm.recipe", b"edgelstm.\xffecipe"))
    with pytest.raises(ModelError, match="found metadata that is no text"):
        OrtRunner(path, provider="cpu")


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_file_is_refused_in_one_line(name: str, tmp_path: Path, tiny_model_bytes: bytes) -> None:
    change, expected = MODELS[name]
    path = tmp_path / "bad.onnx"
    path.write_bytes(changed_model(tiny_model_bytes, change))
    with pytest.raises(ModelError) as caught:
        OrtRunner(path, provider="cpu").logits(np.zeros((1, 28, 28), np.uint8))
    assert expected in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_largest_model_file_stays_below_500_mb(tmp_path: Path, tiny_config: object) -> None:
    """As many units as the limit allows: what onnxruntime takes is a multiple of the file."""
    from edgelstm.config import ModelConfig
    from edgelstm.contract import ModelContract

    n = 1_408
    config = dataclasses.replace(ModelConfig(), hidden_size=n)
    assert isinstance(tiny_config, ModelConfig)
    weights = {"w": (1, 4 * n, 28), "r": (1, 4 * n, n), "b": (1, 8 * n), "hw": (10, n), "hb": (10,)}
    parts = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    parts.append(numpy_helper.from_array(np.array([0]), "axis"))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=1),
        helper.make_node("Transpose", ["floats"], ["rows"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["rows", "w", "r", "b"], ["", "last"], hidden_size=n),
        helper.make_node("Squeeze", ["last", "axis"], ["state"]),
        helper.make_node("Gemm", ["state", "hw", "hb"], ["logits"], transB=1),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["batch", 28, 28])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "large", [pixels], [logits], parts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, ModelContract(config).to_metadata())
    content = model.SerializeToString()
    assert 0.9 * MAX_MODEL_BYTES < len(content) <= MAX_MODEL_BYTES
    (tmp_path / "large.onnx").write_bytes(content)
    (tmp_path / "good.png").write_bytes(encoded(drawn()))
    status, lines, errors, n_kb = edgelstm_in(
        tmp_path, "infer", "--provider", "cpu", "--model", "large.onnx", "good.png"
    )
    assert (0, 1, []) == (status, len(lines), errors)
    assert n_kb < MAX_KB


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_changed_model_passes_the_checks_or_is_refused(data: st.DataObject) -> None:
    """Our own checks: what gets through, onnxruntime is asked in processes of their own by tools/fuzz.py."""
    content = bytearray((ROOT / "models" / "base.onnx").read_bytes()[-40_000:])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    for check in (check_weights, check_operators):
        with contextlib.suppress(EdgeLstmError):
            check(cut, "the model")
