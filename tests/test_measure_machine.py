"""Tests of edgelstm.measure.machine: arithmetic of rates and roofline, a real product, a real process."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgelstm
from edgelstm.config import ModelConfig
from edgelstm.measure import machine
from edgelstm.measure.machine import Rates, matmul_model, measure_rates, peak_memory_bytes, read_environment, roofline_s
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import SessionSettings, open_session

PIXELS = np.zeros((1, 28, 28), np.uint8)
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def test_the_environment_names_the_machine_and_the_libraries():
    environment = read_environment()
    assert environment.cpu
    assert environment.cores >= 1
    assert {"python", "edgelstm", "numpy"} <= environment.versions.keys()


def test_the_product_is_valid_onnx_and_multiplies():
    onnx.checker.check_model(onnx.load_model_from_string(matmul_model()), full_check=True)
    a, b = np.random.default_rng(0).random((2, 5, 5), dtype=np.float32)
    [product] = open_session(matmul_model(), SessionSettings()).run(None, {"a": a, "b": b})
    np.testing.assert_allclose(product, a @ b, rtol=1e-5)


def test_the_rates_count_two_operations_a_multiply_add_and_every_byte_read_or_written(monkeypatch):
    def shortest_s(call):
        call()
        return 0.5

    monkeypatch.setattr(machine, "_shortest_s", shortest_s)
    assert measure_rates(2) == Rates(threads=2, flops_per_s=2 * 512**3 / 0.5, bytes_per_s=2 * 64 * 2**20 / 0.5)


def test_the_shortest_trial_counts(monkeypatch):
    ticks = iter([0.0, 3.0, 10.0, 12.0, 20.0, 25.0] + [30.0, 35.0] * 12)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    calls = []
    assert machine._shortest_s(lambda: calls.append(1)) == 2.0
    assert len(calls) == machine.N_TRIALS == 15


@pytest.mark.parametrize(
    ("batch_size", "rates", "seconds"),
    [
        (64, Rates(1, flops_per_s=1e9, bytes_per_s=1e12), 64 * (28 * 2 * 512 * 156 + 2 * 128 * 10) / 1e9),
        (1, Rates(1, flops_per_s=1e15, bytes_per_s=1e6), (4 * 82_186 + 784 + 40) / 1e6),
        (10, Rates(1, flops_per_s=1e15, bytes_per_s=1e6), (4 * 82_186 + 10 * (784 + 40)) / 1e6),
    ],
    ids=["bound by its operations", "bound by its bytes", "weights are read once a batch"],
)
def test_the_roofline_is_the_longer_of_operations_over_rate_and_bytes_over_bandwidth(batch_size, rates, seconds):
    assert roofline_s(ModelConfig(), batch_size, rates) == pytest.approx(seconds)


@on_linux
def test_the_peak_memory_is_that_of_another_process(tiny_model_path):
    small = peak_memory_bytes(partial(OrtRunner, tiny_model_path, provider="cpu"), PIXELS)
    ballast = np.ones(400 * 2**20, np.uint8)  # a parent that holds much must not count
    again = peak_memory_bytes(partial(OrtRunner, tiny_model_path, provider="cpu"), PIXELS)
    assert ballast[-1] == 1
    assert 20e6 < small < 100e6
    assert abs(again - small) < 50e6


@on_linux
def test_memory_that_was_given_back_counts_in_the_peak(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text(
        "import numpy\n"
        "class Runner:\n"
        "    def logits(self, pixels):\n"
        "        return numpy.ones(300 * 2**20, numpy.uint8)[:0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from hungry import Runner  # imported where the test made it

    assert 300e6 < peak_memory_bytes(Runner, PIXELS) < 500e6


def test_a_model_that_cannot_be_loaded_or_sent_has_no_peak(tmp_path):
    assert peak_memory_bytes(partial(OrtRunner, tmp_path / "missing.onnx", provider="cpu"), PIXELS) is None
    assert peak_memory_bytes(lambda: None, PIXELS) is None


@on_linux
def test_a_script_without_a_main_guard_is_not_started_again(tiny_model_path, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom functools import partial\n"
        "import numpy as np\n"
        "from edgelstm import OrtRunner\n"
        "from edgelstm.measure.machine import peak_memory_bytes\n"
        "print('started', flush=True)\n"
        "load = partial(OrtRunner, sys.argv[1], provider='cpu')\n"
        "print(peak_memory_bytes(load, np.zeros((1, 28, 28), np.uint8)))\n"
    )
    # what lies in the current folder must not be taken for a module of the standard library
    (tmp_path / "pickle.py").write_text("raise SystemExit('the wrong pickle')\n")
    done = subprocess.run(
        [sys.executable, "-P", script, tiny_model_path], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])},
    )  # fmt: skip
    started, peak = done.stdout.split()
    assert (started, done.stderr) == ("started", "")
    assert int(peak) > 20e6
