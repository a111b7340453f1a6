"""Tests of `edgelstm bench`: what is printed where, what is refused before anything is measured."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edgelstm.cli import main
from edgelstm.runtime import runner as runtime
from edgelstm.training.checkpoint import save_checkpoint

QUICK = ("--batch-size", 1, "--seconds", 0.1)


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    """Every command runs in a folder of its own, on a machine without MNIST."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture
def tiny(tiny_model_bytes):
    """The tiny model's file in the current folder."""
    Path("tiny.onnx").write_bytes(tiny_model_bytes)
    return "tiny.onnx"


@pytest.fixture
def checkpoint(tiny_checkpoint):
    """The tiny model's checkpoint in the current folder."""
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    return "tiny.safetensors"


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


@pytest.mark.parametrize(
    "arguments",
    [
        "--batch-size 0",
        "--threads 0",
        "--seconds 0",
        "--seconds nan",
        "--seconds inf",
        "--provider tpu",
    ],
)
def test_usage_errors_exit_2_and_point_to_the_help(tiny, arguments):
    result = bench(tiny, *arguments.split(), expected=2)
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr
    assert result.stdout == ""


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


def test_a_table_says_what_was_asked_for_and_what_ran(tiny, monkeypatch):
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: "there is no GPU; buy one")
    result = bench(tiny, "--no-torch", *QUICK, "--threads", 2)
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("tiny.onnx cpu")]
    assert rows[0][:8] == ["tiny.onnx", "cpu", "2", "threads", "cpu", "cpu", "2", "fp32"]
    assert "there is no GPU" in result.stderr


def test_a_provider_is_measured_once_however_often_it_comes_out(tiny, monkeypatch):
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: "there is no GPU; buy one")
    arguments = ["--provider", "auto", "--provider", "cpu", "--no-torch", *QUICK, "--json"]
    [one] = strict_json(bench(tiny, *arguments).stdout)["results"]
    assert (one["provider_requested"], one["provider_used"]) == ("auto", "cpu")
