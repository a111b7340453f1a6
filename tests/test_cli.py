"""Tests of what all commands share: help, usage, JSON, closed streams, one clear line where CUDA or a model fails."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
from click.testing import CliRunner
from commands import TIMEOUT_S, fails, process, run, strict_json
from onnx import TensorProto, helper
from PIL import Image

import edgelstm
from edgelstm.cli import COMMANDS, main
from edgelstm.cli.options import print_json
from edgelstm.runtime import session

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "PIL", "safetensors", "torchvision", "matplotlib")


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    """Every command runs in a folder of its own, on a machine without MNIST."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture
def picture(sample):
    """A digit in the current folder."""
    Image.fromarray(sample.sequences[0]).save("digit.png")
    return "digit.png"


def stranger():
    """A sound ONNX model of another kind."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


# Help


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda names: " ".join(names) or "main")
def test_help_is_shown_without_importing_anything_heavy(command):
    code = (
        "import sys\nfrom edgelstm.cli import main\n"
        "try: main([*sys.argv[1:], '--help'], prog_name='edgelstm')\n"
        f"finally: print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith("Usage: edgelstm")


def test_the_help_lists_every_command_with_its_line():
    lines = run("--help").stdout.splitlines()
    for name in COMMANDS:
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3, line


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_one_line_an_example_and_the_short_option(command):
    text = run(command, "-h").stdout
    assert text.splitlines()[2].strip().endswith(".")
    assert f"Example: edgelstm {command}" in text


def test_the_version_is_the_packages():
    assert f"edgelstm, version {edgelstm.__version__}\n" == run("--version").stdout


def test_the_package_runs_as_a_module():
    assert f"edgelstm, version {edgelstm.__version__}\n" == process("--version").stdout


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "--nonsense",
        "infer",
        "infer x.png --top 0",
        "infer x.png --min-confidence 1.5",
        "infer x.png --min-confidence nan",
        "infer x.png --csv --json",
        "infer x.png --csv --top 3",
        "infer x.png --save-input seen.jpg",
        "infer - --files0-from -",
        "infer x.png --top many",
        "infer x.png --provider tpu",
        "infer x.png --nonsense",
        "verify a b c",
        "inspect a b",
        "export a b",
    ],
)
def test_usage_errors_exit_2_and_point_to_the_help(arguments):
    result = run(*arguments.split(), expected=2)
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr
    assert result.stdout == ""


# Streams


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
@pytest.mark.parametrize("command", ["infer digit.png", "explain digit.png", "inspect", "stream", "doctor"])
def test_a_closed_stdout_is_one_line_and_exit_1(command):
    done = process(*command.split(), stdout=None, preexec_fn=lambda: os.close(1))
    expected = "Error: standard output is closed: open it, or lead it into a file or a pipe\n"
    assert (done.returncode, done.stderr) == (1, expected)


# CUDA on a machine that cannot


def no_build(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def no_driver(monkeypatch):
    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(session, "ctypes", SimpleNamespace(CDLL=load))


def no_library(monkeypatch):
    def load(name):
        if "onnxruntime" in name:
            raise OSError("libcudnn.so.9: cannot open shared object file")

    real = session.open_session
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(session, "ctypes", SimpleNamespace(CDLL=load))
    monkeypatch.setattr(session, "open_session", lambda content, settings, provider: real(content, settings, "cpu"))


CAUSES = [
    (no_build, "a build without CUDA", 'pip install "edgelstm[gpu]"'),
    (no_driver, "no NVIDIA driver", "install the driver of your GPU"),
    (no_library, "libcudnn.so.9", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
]


@pytest.mark.parametrize(("cause", "why", "fix"), CAUSES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("command", ["infer", "bench", "verify"])
def test_cuda_that_cannot_be_had_exits_1_and_says_why_and_what_to_install(
    monkeypatch, tiny, checkpoint, picture, command, cause, why, fix
):
    arguments = {
        "infer": [picture, "--model", tiny], "bench": [tiny, "--no-torch"], "verify": [checkpoint, tiny]
    }  # fmt: skip
    cause(monkeypatch)
    error = fails(command, *arguments[command], "--provider", "cuda")
    assert error.startswith("provider cuda cannot run this model: ")
    assert (why in error, fix in error) == (True, True), error


# Bad models


MODELS = {
    "stranger.onnx": (stranger(), "stranger.onnx is not an edgelstm model"),
    "damaged.onnx": (b"\x08\x0a" + bytes(range(256)) * 4, "damaged.onnx cannot be loaded as an ONNX model"),
    "text.onnx": (b"this is no model\n", "text.onnx cannot be loaded as an ONNX model"),
    "empty.onnx": (b"", "empty.onnx is not an ONNX model: found an empty file"),
    "missing.onnx": (None, "no model missing.onnx: found no such file"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("command", ["infer", "bench", "inspect"])
def test_a_bad_model_gets_one_clear_line_and_exit_1(picture, command, name):
    content, expected = MODELS[name]
    if content is not None:
        Path(name).write_bytes(content)
    arguments = [picture, "--model", name] if command == "infer" else [name]
    assert fails(command, *arguments).startswith(expected)


# JSON


def test_json_for_programs_has_null_where_there_is_no_number(capsys):
    print_json({"a": math.nan, "b": [math.nan, 1], "c": {"d": (math.nan,)}, "e": Path("x"), "f": None})
    assert strict_json(capsys.readouterr().out) == {"a": None, "b": [None, 1], "c": {"d": [None]}, "e": "x", "f": None}


def test_json_for_programs_has_no_infinity(capsys):
    print_json({"margin": math.inf})
    assert strict_json(capsys.readouterr().out) == {"margin": None}


def test_ctrl_c_is_one_line_and_exit_130(monkeypatch):
    """Of a command that has nothing more to say of it."""

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgelstm.measure.doctor.examine", stopped)
    result = CliRunner().invoke(main, ["doctor"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")
