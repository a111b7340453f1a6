"""Tests of int8 and fp16: the weights, the graph, and the kernels that run them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgelstm.errors import ModelError, ProviderError
from edgelstm.exporting.quantize import LARGEST, quantized
from edgelstm.onnx_file import open_model
from edgelstm.runtime.parity import compare
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner


@pytest.fixture
def int8(tiny_checkpoint, model_bytes_of):
    return model_bytes_of(tiny_checkpoint, "int8")


@pytest.fixture
def fp16(tiny_checkpoint, model_bytes_of):
    return model_bytes_of(tiny_checkpoint, "fp16")


def dtypes(content):
    model = onnx.load_model_from_string(content)
    return {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer}


def test_a_weight_is_its_integer_times_the_scale():
    weights = np.random.default_rng(0).normal(size=(1, 12, 7)).astype(np.float32)
    integers, scales = quantized(weights)
    assert (integers.shape, integers.dtype, scales.shape, scales.dtype) == ((1, 7, 12), np.int8, (1,), np.float32)
    restored = integers.transpose(0, 2, 1) * scales
    assert np.abs(restored - weights).max() <= scales.max() / 2 * 1.001


def test_the_largest_weight_uses_seven_bits():
    integers, _ = quantized(np.random.default_rng(1).normal(size=(1, 12, 7)).astype(np.float32))
    assert np.abs(integers).max() == LARGEST
    assert 2 * 255 * LARGEST < 2**15


def test_zeros_stay_zeros():
    integers, scales = quantized(np.zeros((1, 4, 3), np.float32))
    assert not integers.any()
    assert np.isfinite(scales).all()


def test_int8_holds_a_quantized_lstm_and_no_other_and_onnxruntime_runs_it_so(int8):
    operators = ["Cast", "Transpose", "DynamicQuantizeLSTM", "Squeeze", "Gemm"]
    assert [node.operator for node in open_model(int8).graph.nodes] == operators
    assert [name for name, _ in OrtRunner(int8, provider="cpu").nodes()] == operators


def test_weights_are_really_bytes(int8):
    assert {name for name, kind in dtypes(int8).items() if kind == np.int8} == {
        f"lstm_0.{key}{part}" for key in "WR" for part in ("", "_zero_point")
    }


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
@pytest.mark.parametrize("other", ["fp32", "int8", "fp16"])
def test_a_file_does_not_pass_for_another_precision(tiny_checkpoint, model_bytes_of, precision, other):
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, precision))
    next(entry for entry in model.metadata_props if entry.key == "edgelstm.precision").value = f'"{other}"'
    if precision == other:
        assert open_model(model.SerializeToString()).contract.precision == other
    else:
        with pytest.raises(
            ModelError, match=r"breaks the model contract in its (operators|nodes|outputs|initializers)"
        ):
            open_model(model.SerializeToString())


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_kernel_is_what_the_numpy_model_of_it_says(int8, sample, batch_size):
    images = sample.sequences[:batch_size]
    report = compare(NumpyRunner(int8).logits(images), OrtRunner(int8, provider="cpu").logits(images), atol=0.02)
    assert report.passed, report.max_difference


def test_int8_on_cuda_is_refused_not_run_elsewhere(int8):
    with pytest.raises(ProviderError):
        OrtRunner(int8, provider="cuda")


def test_fp16_holds_half_precision_weights_and_gives_float32_logits(fp16):
    operators = ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm", "Cast"]
    assert [node.operator for node in open_model(fp16).graph.nodes] == operators
    assert {name for name, kind in dtypes(fp16).items() if kind != np.float16} == {"direction_axis"}
    logits = OrtRunner(fp16, provider="cpu").logits(np.zeros((1, 28, 28), np.uint8))
    assert logits.dtype == np.float32


def test_weights_that_were_left_in_fp32_are_seen(fp16):
    model = onnx.load_model_from_string(fp16)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), "head.bias"))
    with pytest.raises(ModelError, match=r"its initializers: found .*head\.bias"):
        open_model(model.SerializeToString())


def test_on_a_cpu_fp16_is_its_rounded_weights_in_float32(fp16, tiny_model_bytes, sample):
    images = sample.sequences[:100]
    on_cpu = OrtRunner(fp16, provider="cpu").logits(images)
    report = compare(NumpyRunner(fp16).logits(images), on_cpu)
    assert report.passed, report.max_difference
    exact = OrtRunner(tiny_model_bytes, provider="cpu").logits(images)
    assert np.abs(on_cpu - exact).max() > 1e-5, "nothing was rounded"
