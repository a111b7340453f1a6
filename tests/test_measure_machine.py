"""Tests of the machine: arithmetic of the floor, a real product, a real process."""

from functools import partial

import numpy as np
import onnx
import pytest

from edgelstm.config import ModelConfig
from edgelstm.measure.machine import Machine, floor, matmul_model
from edgelstm.measure.memory import peak_memory_bytes
from edgelstm.runtime.runner import OrtRunner, SessionSettings, open_session


def test_the_handwritten_model_is_valid_onnx_and_multiplies():
    onnx.checker.check_model(onnx.load_model_from_string(matmul_model()), full_check=True)
    a, b = np.random.default_rng(0).random((2, 5, 5), dtype=np.float32)
    [product] = open_session(matmul_model(), SessionSettings()).run(None, {"a": a, "b": b})
    np.testing.assert_allclose(product, a @ b, rtol=1e-5)


def test_a_model_that_computes_is_bound_by_its_flops():
    config = ModelConfig()
    found = floor(config, 64, Machine(threads=1, flops_per_s=1e9, bytes_per_s=1e12))
    assert found.flops == 64 * config.flops == 64 * (28 * 2 * 512 * 156 + 2 * 128 * 10)
    assert found.seconds == pytest.approx(found.flops / 1e9)


def test_a_machine_with_slow_memory_binds_by_bytes():
    found = floor(ModelConfig(), 1, Machine(threads=1, flops_per_s=1e15, bytes_per_s=1e6))
    assert found.n_bytes == 4 * 82_186 + 784 + 40
    assert found.seconds == pytest.approx(found.n_bytes / 1e6)


def test_the_peak_memory_is_that_of_another_process(tiny_model_path):
    pixels = np.zeros((1, 28, 28), np.uint8)
    small = peak_memory_bytes(partial(OrtRunner, tiny_model_path, provider="cpu"), pixels)
    if small is None:
        pytest.skip("this system has no /proc")
    ballast = np.ones(400 * 2**20, np.uint8)  # a parent that holds much must not count
    again = peak_memory_bytes(partial(OrtRunner, tiny_model_path, provider="cpu"), pixels)
    assert ballast[-1] == 1
    assert again is not None
    assert 20e6 < small < 100e6
    assert abs(again - small) < 50e6


@pytest.mark.filterwarnings("ignore")
def test_a_contestant_that_cannot_be_loaded_has_no_peak(tmp_path):
    missing = partial(OrtRunner, tmp_path / "missing.onnx", provider="cpu")
    assert peak_memory_bytes(missing, np.zeros((1, 28, 28), np.uint8)) is None
