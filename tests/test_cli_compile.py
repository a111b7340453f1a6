"""Tests of `edgelstm compile` and edgelstm.compile: what is written, what is said, and what is refused."""

import os
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from commands import fails, run, strict_json
from sequences import SEQUENCES

import edgelstm
from edgelstm.contract import Score
from edgelstm.data.dataset import Part
from edgelstm.errors import ParityError
from edgelstm.measure import compile as compile_module
from edgelstm.measure.timing import Ratio
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import open_model
from edgelstm.runtime.parity import McNemar

needs_a_compiler = pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path, tmp_path_factory):
    """Every command runs in a folder of its own, on a machine without MNIST, and no clock is asked."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(compile_module, "_speed", lambda *arguments: Ratio(0.2, 0.19, 0.21, 0.95, 16))


@needs_a_compiler
def test_compile_writes_c_and_header_and_says_what_it_costs(tiny, sample):
    result = run("compile", tiny)
    scheme = scheme_of(open_model(tiny), "int8")
    right = Score.of(scheme.logits(sample.sequences), sample.labels)
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    n_bytes = Path("tiny.c").stat().st_size
    assert f"tiny.c ({n_bytes:,} bytes of text) and tiny.h" == lines["wrote"]
    assert lines["accuracy"].startswith(f"{right} instead of ")
    assert "bytes of constants, and 2 to 3 kB of code" in lines["flash"]
    assert lines["RAM"].startswith("40 bytes of state, and about ")
    assert lines["speed"].startswith("0.200 times the time of onnxruntime for one sequence [0.190 0.210]")
    assert result.stderr.endswith("next: cc -std=c99 -O3 -march=native -c tiny.c, and #include its header\n")
    assert f"Accuracy: {right}" in Path("tiny.c").read_text()
    assert Path("tiny.h").read_bytes().removeprefix(compile_module.HEADER_MARK) in Path("tiny.c").read_bytes()


@needs_a_compiler
def test_the_c_that_was_written_runs_as_its_comment_says(tiny, sample):
    run("compile", tiny, "-o", "digit.c")
    Path("main.c").write_text(
        '#include <stdio.h>\n#include "digit.h"\n'
        "int main(void) {\n"
        "  static unsigned char pixels[DIGIT_ROWS * DIGIT_COLS];\n  float logits[DIGIT_CLASSES];\n"
        '  while (fread(pixels, sizeof pixels, 1, stdin) == 1) printf("%d\\n", digit_classify(pixels, logits));\n'
        "  return 0;\n}\n"
    )
    subprocess.run(["cc", "-std=c99", "-O3", "-march=native", "digit.c", "main.c", "-o", "digit"], check=True)
    digits = sample.sequences[:50]
    done = subprocess.run(["./digit"], input=digits.tobytes(), capture_output=True, check=True)
    expected = scheme_of(open_model(tiny), "int8").logits(digits).argmax(1)
    assert expected.tolist() == [int(line) for line in done.stdout.split()]


def test_json_is_one_document_with_the_sha256_of_the_logits(tiny, sample):
    values = strict_json(run("compile", tiny, "--precision", "fp32", "--name", "mine", "--json").stdout)
    logits = scheme_of(open_model(tiny), "fp32").logits(sample.sequences)
    assert compile_module.logits_sha256(logits) == values["accuracy"]["logits_sha256"]
    assert ("mine.c", "mine", "fp32") == (values["path"], values["name"], values["precision"])


def test_without_a_compiler_numpy_gives_the_same_figures_and_no_time(tiny, monkeypatch, tmp_path):
    if which("cc"):
        before = strict_json(run("compile", tiny, "--json").stdout)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    values = strict_json(run("compile", tiny, "--json").stdout)
    assert "needs a C compiler" in values["no_speed"]
    assert values["speed"] is None
    if which("cc"):
        assert before["accuracy"] == values["accuracy"]
    assert "speed     not measured: provider c needs a C compiler" in run("compile", tiny).stdout


def test_int8_that_costs_accuracy_is_refused_unless_forced_and_the_old_file_stays(tiny, monkeypatch):
    Path("tiny.c").write_text("old")
    monkeypatch.setattr(compile_module, "mcnemar", lambda *arguments: McNemar(30, 2, 1e-6))
    error = fails("compile", tiny)
    assert "tiny.c was not written: int8 costs accuracy: found " in error
    assert "give --force to keep it, or --precision fp32" in error
    assert (Path("tiny.c").read_text(), Path("tiny.h").exists()) == ("old", False)
    with pytest.raises(ParityError):
        edgelstm.compile(tiny)
    run("compile", tiny, "--force")
    assert Path("tiny.h").exists()


def test_a_header_of_someone_elses_is_not_replaced_and_ours_is(tiny):
    Path("tiny.h").write_text("#define MINE\n")
    error = fails("compile", tiny, "--precision", "fp32")
    assert "cannot write tiny.h: found another header, expected no file, or one that compile has written" in error
    assert (Path("tiny.h").read_text(), Path("tiny.c").exists()) == ("#define MINE\n", False)
    Path("tiny.h").unlink()
    for _ in range(2):
        run("compile", tiny, "--precision", "fp32")


def test_both_files_are_written_or_neither(tiny):
    Path("tiny.h").symlink_to("/proc/no/such.h")
    assert "cannot write" in fails("compile", tiny, "--precision", "fp32")
    assert not Path("tiny.c").exists()


@pytest.fixture
def own(checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(SEQUENCES["unequal lengths"])
    Path("own.onnx").write_bytes(model_bytes_of(checkpoint))
    draw = np.random.default_rng(0)
    mean, scale = (checkpoint.weights[name].numpy() for name in ("mean", "scale"))
    values = (mean + draw.standard_normal((60, 11, 3)) / scale).astype(np.float32)
    lengths = draw.integers(3, 12, 60).astype(np.int32)
    return Part(values, draw.integers(0, 3, 60), "own", lengths)


def test_a_model_of_ones_own_needs_its_data_for_int8_and_none_for_fp32(own):
    error = fails("compile", "own.onnx")
    assert error.startswith(
        "int8 is judged by its accuracy, and no data here has this model's shape: expected the data"
    )
    assert "accuracy  not measured: no data" in run("compile", "own.onnx", "--precision", "fp32").stdout
    assert "accuracy  not measured: no data" in run("compile", "own.onnx", "--force").stdout


def test_values_that_are_cut_off_are_counted(own, monkeypatch):
    class Found:
        test = own

    monkeypatch.setattr(compile_module, "evaluation_of", lambda *arguments, **options: Found)
    assert "cut off" not in run("compile", "own.onnx", "--force").stdout
    own.sequences[5, 1, 2] = 1e9
    n_values = int(own.lengths.sum()) * 3
    assert f"cut off   1 of {n_values:,} values" in run("compile", "own.onnx", "--force").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "digit.h"), "cannot write digit.h: expected a name that ends in .c; choose another -o"),
        (("--name", "a-b"), "C functions cannot have this name: found a-b, expected a letter, then letters"),
        (("-o", "file/x.c"), "cannot write file/x.c: found a file in place of one of its folders"),
    ],
)
def test_bad_names_are_refused(tiny, arguments, message):
    Path("file").write_text("")
    assert fails("compile", tiny, *arguments).startswith(message)
    assert not Path("tiny.c").exists()


@pytest.mark.parametrize(
    ("file", "name"), [("digit.c", "digit"), ("My model-2.c", "My_model_2"), ("7up.c", "model_7up"), ("é.c", "model")]
)
def test_functions_are_named_after_the_file(tiny, file, name):
    assert name == strict_json(run("compile", tiny, "-o", file, "--json").stdout)["name"]
    assert f"int {name}_classify(" in Path(file).with_suffix(".h").read_text()


def test_a_model_that_cannot_be_opened_is_one_line():
    assert fails("compile", "nothing.onnx").startswith("no model nothing.onnx: found no such file")
    assert not os.listdir()
