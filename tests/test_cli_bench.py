"""Tests of `edgelstm bench`: what is printed where, what is refused before anything is measured."""

import json
import sys
from pathlib import Path
from shutil import which

import pytest
import torch
from click.testing import CliRunner

from edgelstm import onnx_file
from edgelstm.cli import main
from edgelstm.config import ModelConfig
from edgelstm.measure import bench as bench_module
from edgelstm.measure.machine import Rates
from edgelstm.runtime import session
from edgelstm.training.checkpoint import save_checkpoint

QUICK = ("--batch-size", 1, "--seconds", 0.1)


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    """Every command runs in a folder of its own, on a machine without MNIST."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture(autouse=True)
def _the_machine_is_known(monkeypatch):
    """What takes seconds and has tests of its own."""
    monkeypatch.setattr("edgelstm.measure.bench.measure_rates", lambda threads: Rates(threads, 1e11, 1e10))
    monkeypatch.setattr("edgelstm.measure.bench.peak_memory_bytes", lambda load, pixels: 60_000_000)


@pytest.fixture
def _torch_threads():
    """bench sets torch's threads; put them back."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def bench(*arguments, expected=0):
    """The command's result, exit status checked; an exception that came out is shown."""
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert expected == result.exit_code, result.output
    return result


def strict_json(text):
    """Parsed JSON, without the NaN and Infinity that Python's parser would take."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def _nothing_is_measured(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("it measures")

    monkeypatch.setattr("edgelstm.measure.bench.bench", refuse)


@pytest.mark.parametrize(
    "arguments",
    ["--batch-size 0", "--threads 0", "--seconds 0", "--seconds nan", "--seconds inf", "--provider tpu"]
    + [f"--plot {name}" for name in ("x.jpg", "x", "png", "x.png.pdf")],
)
@pytest.mark.usefixtures("_nothing_is_measured")
def test_usage_errors_exit_2_and_point_to_the_help(tiny, arguments):
    result = bench(tiny, *arguments.split(), expected=2)
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr
    assert result.stdout == ""


def test_a_plot_that_would_be_no_plot_is_refused_with_the_endings_that_are_known(tiny):
    assert "found x.jpg, expected a name that ends in .png or .svg" in bench(tiny, "--plot", "x.jpg", expected=2).stderr


@pytest.mark.parametrize("option", [("--plot", "x.png"), ("--html", "x.html")], ids=lambda option: option[0])
@pytest.mark.usefixtures("_nothing_is_measured")
def test_without_matplotlib_nothing_is_measured_in_vain(tiny, monkeypatch, option):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = bench(tiny, *option, expected=1)
    assert result.stderr == (
        'Error: drawing a plot needs the package matplotlib, which is not installed; run pip install "edgelstm[plot]"\n'
    )


def test_the_figures_are_printed_before_a_file_that_cannot_be_written(tiny):
    result = bench(tiny, "--no-torch", *QUICK, "--html", f"{tiny}/x.html", expected=1)
    assert "batch 1" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_plot_and_a_page_are_written_and_said(tiny):
    result = bench(tiny, "--no-torch", *QUICK, "--plot", "x.SVG", "--html", "x.html")
    assert result.stderr.splitlines()[-2:] == ["wrote x.SVG", "wrote x.html"]
    assert Path("x.SVG").read_bytes().startswith(b"<?xml")
    assert "tiny.onnx cpu" in Path("x.html").read_text()


@pytest.mark.usefixtures("_torch_threads", "checkpoint")
def test_json_is_one_document_of_plain_keys_without_nan(tiny):
    result = bench(tiny, "--batch-size", 2, "--batch-size", 1, "--seconds", 0.1, "--provider", "cpu", "--json")
    document = strict_json(result.stdout)
    assert isinstance(document["schema_version"], int)
    assert {"environment", "digits", "what_is_timed", "n_rounds", "results"} <= document.keys()
    assert [one["name"] for one in document["results"]] == ["tiny.onnx cpu", "tiny.onnx torch"]
    for one in document["results"]:
        assert {
            "provider_requested", "provider_used", "precision", "threads", "n_parameters", "file_bytes", "load_s",
            "first_run_s", "accuracy", "batches",
        } <= one.keys()  # fmt: skip
        assert [batch["batch_size"] for batch in one["batches"]] == [1, 2]
        assert {"n_right", "n"} == one["accuracy"].keys()
        for batch in one["batches"]:
            assert {"value_s", "low_s", "high_s", "confidence"} <= batch["latency"]["p50"].keys()

    def keys(value):
        if isinstance(value, dict):
            yield from value
            value = list(value.values())
        for item in value if isinstance(value, list) else []:
            yield from keys(item)

    packages = set(document["environment"]["versions"])
    assert [key for key in keys(document) if not key.isidentifier() and key not in packages] == []
    assert result.stderr, "progress goes to stderr"


def test_a_table_says_what_was_asked_for_and_what_ran(tiny):
    result = bench(tiny, "--no-torch", *QUICK, "--threads", 2)
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("tiny.onnx cpu")]
    assert rows[0][:4] == ["tiny.onnx", "cpu", "2", "threads"]
    assert rows[0][7:11] == ["cpu", "cpu", "2", "fp32"]


def requested(document):
    return [(one["name"], one["provider_requested"]) for one in document["results"]]


@pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")
def test_the_c_engine_is_measured_beside_onnxruntime_and_once_in_a_sweep(tiny, monkeypatch):
    chosen = [word for name in ("cpu", "c", "c-int8") for word in ("--provider", name)]
    document = strict_json(bench(tiny, "--no-torch", "--streaming", *QUICK, *chosen, "--json").stdout)
    results = document["results"]
    assert [("fp32", 10), ("fp32", 10), ("int8", 10)] == [
        (one["precision"], one["accuracy"]["n"] // 100) for one in results
    ]
    assert [one["name"] for one in results] == ["tiny.onnx cpu", "tiny.onnx c", "tiny.onnx c-int8"]
    assert all(one["steps"] for one in results)
    assert results[2]["file_bytes"] < results[1]["file_bytes"] < results[0]["file_bytes"]
    monkeypatch.setattr("edgelstm.cli.bench.SWEEP", (1,))
    monkeypatch.setattr("edgelstm.cli.bench.n_cores", lambda: 2)
    document = strict_json(bench(tiny, "--sweep", "--seconds", 0.1, *chosen[:4], "--json").stdout)
    assert [one["name"] for one in document["results"]] == [
        "tiny.onnx cpu", "tiny.onnx c", "tiny.onnx cpu 2 threads"
    ]  # fmt: skip


def test_without_a_gpu_the_cpu_is_measured_and_nothing_said_of_cuda(tiny, monkeypatch):
    monkeypatch.setattr(session, "has_nvidia_driver", lambda: False)
    for arguments in ((), ("--provider", "auto", "--provider", "cpu", "--provider", "cpu")):
        result = bench(tiny, "--no-torch", *QUICK, "--json", *arguments)
        assert requested(strict_json(result.stdout)) == [("tiny.onnx cpu", "cpu")]
        assert "CUDA" not in result.stderr
        assert result.stderr.count("loading") == (2 if arguments else 1)


def test_with_a_gpu_that_cannot_be_used_the_reason_is_said_once(tiny, monkeypatch):
    for module in (session, bench_module):
        monkeypatch.setattr(module, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(session, "cuda_problem", lambda ort: "its driver is too old; update it")
    result = bench(tiny, "--no-torch", *QUICK, "--json")
    assert requested(strict_json(result.stdout)) == [("tiny.onnx cpu", "cpu")]
    said = [line for line in result.stderr.splitlines() if "CUDA" in line]
    assert len(said) == 1
    assert said[0].startswith("tiny.onnx: provider cpu: CUDA cannot be used (its driver is too old")


def test_each_model_file_is_read_once(tiny, monkeypatch):
    reads = []
    read = onnx_file.read_bounded
    monkeypatch.setattr(onnx_file, "read_bounded", lambda path, *rest: reads.append(path) or read(path, *rest))
    bench(tiny, "nano", "--no-torch", "--provider", "cpu", "--streaming", *QUICK)
    assert [path.name for path in reads] == ["tiny.onnx", "nano.onnx"]


def test_the_model_of_this_folder_is_measured_where_none_is_named(tiny_model_bytes):
    Path("runs/base").mkdir(parents=True)
    Path("runs/base/model.onnx").write_bytes(tiny_model_bytes)
    Path("nano").write_text("a file of a shipped model's name")
    document = strict_json(bench("--no-torch", *QUICK, "--json").stdout)
    assert [(one["model"], one["n_parameters"]) for one in document["results"]] == [("runs/base/model.onnx", 1_306)]
    [nano] = strict_json(bench("nano", "--no-torch", *QUICK, "--json").stdout)["results"]
    assert nano["n_parameters"] == 11_850


def test_streaming_adds_the_time_of_one_step(tiny):
    result = bench(tiny, "--no-torch", *QUICK, "--streaming")
    [at] = [i for i, line in enumerate(result.stdout.splitlines()) if line == "one step of a stream, batch 1"]
    assert result.stdout.splitlines()[at + 3].startswith("tiny.onnx cpu ")


def test_a_model_of_another_shape_is_measured_on_random_pixels(checkpoint_of, model_bytes_of):
    config = ModelConfig(rows=20, cols=3, hidden_size=4, class_names=("left", "right"))
    Path("gestures.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    save_checkpoint(Path("gestures.safetensors"), checkpoint_of(config))
    result = bench("gestures.onnx", "--provider", "cpu", "--streaming", *QUICK)
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("gestures.onnx ")]
    assert [row[:4] for row in rows[:2]] == [["gestures.onnx", name, "-", name] for name in ("cpu", "torch")]
    said = "gestures.onnx: no labelled data of 20 rows x 3 columns and 2 classes: accuracy left out, random"
    assert [said in line for line in result.stderr.splitlines()].count(True) == 2


@pytest.mark.usefixtures("_torch_threads")
def test_a_checkpoint_of_other_weights_is_not_measured_as_the_model(tiny, checkpoint_of, tiny_config):
    save_checkpoint(Path("tiny.safetensors"), checkpoint_of(tiny_config))
    error = bench(tiny, "--provider", "cpu", *QUICK, expected=1).stderr.splitlines()[-1]
    assert error.startswith("Error: tiny.safetensors holds other weights than the model beside it; export it again")


def test_a_sweep_ends_in_advice_and_the_settings_to_copy(tiny, monkeypatch):
    monkeypatch.setattr("edgelstm.cli.bench.SWEEP", (1, 2))
    monkeypatch.setattr("edgelstm.cli.bench.n_cores", lambda: 2)
    monkeypatch.setattr(session, "has_nvidia_driver", lambda: False)
    lines = bench(tiny, "--sweep", "--seconds", 0.1).stdout.split("\nadvice\n")[1].splitlines()
    assert lines[0].startswith("tiny.onnx cpu: ")
    assert lines[1].startswith("tiny.onnx cpu: CUDA not measured: ")
    assert [line.split(":")[0] for line in lines[2:]] == ["SessionSettings(threads=1)", "SessionSettings(threads=2)"]


def test_names_from_the_command_line_cannot_forge_a_line(tiny_model_bytes):
    name = "a\a\nbase cpu.onnx"
    Path(name).write_bytes(tiny_model_bytes)
    result = bench(name, "--no-torch", "--provider", "cpu", *QUICK)
    assert "\a" not in result.output
    assert [line for line in result.output.splitlines() if line.startswith("base")] == []
    assert ascii(name) in result.output
