"""Tests on a real GPU: the LSTM is placed on CUDA, and decides there as on the CPU."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from edgelstm.cli import main
from edgelstm.runtime.parity import compare
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import cuda_problem, import_onnxruntime
from edgelstm.runtime.stream import Stream

PROBLEM = cuda_problem(import_onnxruntime())
ATOL, RTOL = 1e-4, 1e-4
"""Without TF32; cuDNN sums in another order than the CPU, and its tanh and sigmoid are its own."""

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(PROBLEM is not None, reason=f"no GPU to test on: {PROBLEM}")]


@pytest.fixture(params=["tiny", "base"])
def model(request, tiny_model_bytes):
    return tiny_model_bytes if request.param == "tiny" else "base"


def test_a_stream_runs_on_the_cpu_whatever_else_is_there(model):
    assert {place for _, place in Stream(model).nodes()} == {"CPUExecutionProvider"}


def test_the_lstm_is_placed_on_cuda(model):
    runner = OrtRunner(model, provider="cuda")
    places = {place for operator, place in runner.nodes() if "LSTM" in operator}
    assert ("cuda", {"CUDAExecutionProvider"}) == (runner.provider_used, places)


def test_auto_chooses_cuda_and_says_so(model):
    runner = OrtRunner(model, provider="auto")
    assert runner.provider_used == "cuda"
    assert "CUDA" in runner.provider_note


@pytest.mark.parametrize("batch", [1, 64])
def test_cuda_gives_the_cpus_logits_and_decisions(model, sample, batch):
    cpu, cuda = OrtRunner(model, provider="cpu"), OrtRunner(model, provider="cuda")
    images = sample.sequences[:256]
    expected, found = (
        np.concatenate([runner.logits(images[at : at + batch]) for at in range(0, len(images), batch)])
        for runner in (cpu, cuda)
    )
    report = compare(expected, found, atol=ATOL, rtol=RTOL)
    assert report.passed, f"{report.max_difference:.1e} apart, {report.n_same}/{report.n} decided alike"


def test_bench_measures_cuda_beside_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path))
    arguments = "bench base --no-torch --provider cpu --provider cuda --batch-size 1 --batch-size 64 --seconds 1 --json"
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["environment"]["gpu"]
    assert [(one["provider_requested"], one["provider_used"]) for one in document["results"]] == [
        ("cpu", "cpu"),
        ("cuda", "cuda"),
    ]
    right = [one["accuracy"]["n_right"] for one in document["results"]]
    assert abs(right[0] - right[1]) <= 1, f"right on cpu and cuda: {right}"
