"""Tests of tools/digit.c: the contract in C, compiled and run on the shipped model and real digits."""

import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from edgelstm.config import shipped_dir
from edgelstm.runtime.runner import OrtRunner

SOURCE = Path(__file__).resolve().parent.parent / "tools" / "digit.c"
TIMEOUT_S = 60
INCLUDES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/local/include")


def header_folder():
    places = [os.environ.get("ONNXRUNTIME_INCLUDE"), *INCLUDES]
    return next((place for place in places if place and Path(place, "onnxruntime_c_api.h").is_file()), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The compiled example, linked with the library of the installed wheel."""
    compiler, include = shutil.which("cc"), header_folder()
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if compiler is None:
        pytest.skip("no C compiler")
    if include is None:
        pytest.skip("no onnxruntime_c_api.h: run tools/onnxruntime_header.sh DIR and set ONNXRUNTIME_INCLUDE=DIR")
    if not libraries:
        pytest.skip("the installed onnxruntime has no shared library to link with")
    folder = tmp_path_factory.mktemp("c")
    library = folder / "libonnxruntime.so.1"  # the name that the library has for the loader
    library.symlink_to(libraries[-1])
    target = folder / "digit"
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-I", include, "-o", str(target)]
    done = subprocess.run([*command, str(library), f"-Wl,-rpath,{folder}"], capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr.decode()
    return target


def run(program, model, pixels):
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run([program, model], input=pixels, capture_output=True, timeout=TIMEOUT_S, env=environment)


def test_it_fits_on_a_screen():
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("name", ["base", "base.int8"])
def test_it_reads_real_digits_as_python_does(program, sample, name):
    found = [run(program, shipped_dir() / f"{name}.onnx", image.tobytes()).stdout for image in sample.sequences[:20]]
    answers = OrtRunner(name, provider="cpu").logits(sample.sequences[:20]).argmax(1)
    assert [b"%d\n" % answer for answer in answers] == found
    assert len(set(found)) > 5, "the program says the same of different digits"


@pytest.mark.parametrize("n_bytes", [0, 783, 785])
def test_another_number_of_bytes_is_a_clear_line(program, n_bytes):
    done = run(program, shipped_dir() / "base.onnx", bytes(n_bytes))
    assert (1, b"", b"expected exactly 784 bytes on stdin\n") == (done.returncode, done.stdout, done.stderr)


def test_a_missing_model_is_a_clear_line(program):
    done = run(program, "nowhere.onnx", bytes(784))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"onnxruntime: "), done.stderr
