"""Tests of int8 and fp16: the weights, the graph, the bargain that export strikes, and its proof in verify."""

import dataclasses

import numpy as np
import pytest
from onnx import numpy_helper

from edgelstm.data.mnist import Digits
from edgelstm.errors import ModelError, ParityError, ProviderError
from edgelstm.export import export as export_module
from edgelstm.export.export import export_reduced
from edgelstm.export.graph import build_model, check_graph
from edgelstm.export.quantize import LARGEST, quantized
from edgelstm.export.verify import verify
from edgelstm.measure.timing import Ratio
from edgelstm.runtime.parity import compare, mcnemar
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner


@pytest.fixture
def digits(sample):
    return Digits(sample.images[:100], sample.labels[:100], "the first 100 of the sample")


@pytest.fixture
def faster(monkeypatch):
    """No clock in tests: int8 takes half the time."""
    monkeypatch.setattr(export_module, "speed_ratio", lambda *arguments: Ratio(0.5, 0.4, 0.6, 0.95, 16))


def int8_model(checkpoint):
    return build_model(checkpoint, "int8")


def assert_verified_until_a_weight_changes(checkpoint, model, path, digits):
    path.write_bytes(model.SerializeToString())
    assert verify(checkpoint, path, digits, providers=("cpu",)).passed
    tensor = next(t for t in model.graph.initializer if t.name == "lstm_0.R")
    raw = bytearray(tensor.raw_data)
    raw[0] ^= 1
    tensor.raw_data = bytes(raw)
    path.write_bytes(model.SerializeToString())
    report = verify(checkpoint, path, digits, providers=("cpu",))
    assert [check.question for check in report.checks if not check.passed] == ["same weights"]


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


def test_the_graph_holds_a_quantized_lstm_and_no_other(tiny_checkpoint):
    model = int8_model(tiny_checkpoint)
    check_graph(model, tiny_checkpoint.config, "int8")
    operators = ["Cast", "Transpose", "DynamicQuantizeLSTM", "Squeeze", "Gemm"]
    assert [node.op_type for node in model.graph.node] == operators
    assert [name for name, _ in OrtRunner(model.SerializeToString(), provider="cpu").nodes()] == operators


def test_an_fp32_graph_does_not_pass_for_int8_nor_the_other_way(tiny_checkpoint):
    for precision, other in (("fp32", "int8"), ("int8", "fp32")):
        with pytest.raises(ModelError, match="operators"):
            check_graph(build_model(tiny_checkpoint, precision), tiny_checkpoint.config, other)


def test_weights_are_really_bytes(tiny_checkpoint):
    tensors = {t.name: numpy_helper.to_array(t) for t in int8_model(tiny_checkpoint).graph.initializer}
    assert (tensors["lstm_0.W"].dtype, tensors["lstm_0.R"].dtype) == (np.int8, np.int8)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_kernel_is_what_the_numpy_model_of_it_says(tiny_checkpoint, digits, batch_size):
    content = int8_model(tiny_checkpoint).SerializeToString()
    images = digits.images[:batch_size]
    report = compare(NumpyRunner(content).logits(images), OrtRunner(content, provider="cpu").logits(images), atol=0.02)
    assert report.passed, report.max_difference


def test_int8_says_so_in_its_contract_and_holds_its_own_score(tiny_checkpoint, tmp_path, digits, faster):
    done = export_reduced(tiny_checkpoint, tmp_path / "a.int8.onnx", digits, "int8", force=True)
    contract = OrtRunner(tmp_path / "a.int8.onnx", provider="cpu").contract
    assert (contract.precision, contract.test) == ("int8", done.bargain.reduced)


def test_equal_checkpoints_give_equal_int8_files(tiny_checkpoint):
    one, other = (int8_model(tiny_checkpoint).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


def test_int8_that_costs_accuracy_is_refused_and_the_old_file_stays(tiny_checkpoint, tmp_path, digits, faster):
    weights = {name: weight * (300 if "weight_hh" in name else 1) for name, weight in tiny_checkpoint.weights.items()}
    wild = dataclasses.replace(tiny_checkpoint, weights=weights)  # chaotic: rounding changes decisions
    wild_answers = OrtRunner(build_model(wild).SerializeToString(), provider="cpu").logits(digits.images)
    labelled = dataclasses.replace(digits, labels=wild_answers.argmax(1).astype(np.uint8))  # fp32 is always right
    (tmp_path / "a.onnx").write_bytes(b"old")
    with pytest.raises(ParityError, match=r"int8 costs accuracy: found .* instead of 100/100"):
        export_reduced(wild, tmp_path / "a.onnx", labelled, "int8")
    assert (tmp_path / "a.onnx").read_bytes() == b"old"


def test_int8_that_is_not_faster_is_refused_unless_forced(tiny_checkpoint, tmp_path, digits, monkeypatch):
    monkeypatch.setattr(export_module, "speed_ratio", lambda *arguments: Ratio(1.2, 1.1, 1.3, 0.95, 16))
    monkeypatch.setattr(export_module, "MAX_LOSS", 1.0)
    with pytest.raises(ParityError, match=r"not faster on this machine: found 1\.20 times"):
        export_reduced(tiny_checkpoint, tmp_path / "a.onnx", digits, "int8")
    assert export_reduced(tiny_checkpoint, tmp_path / "a.onnx", digits, "int8", force=True).path.is_file()


def test_int8_on_cuda_is_refused_not_run_elsewhere(tiny_checkpoint):
    with pytest.raises(ProviderError):
        OrtRunner(int8_model(tiny_checkpoint).SerializeToString(), provider="cuda")


def test_verify_proves_int8_and_catches_one_changed_byte(tiny_checkpoint, tmp_path, digits, monkeypatch):
    monkeypatch.setattr("edgelstm.export.verify.MAX_LOSS", 1.0)  # the tiny model is untrained
    monkeypatch.setattr("edgelstm.export.verify.INT8_ATOL", 1.0)
    assert_verified_until_a_weight_changes(tiny_checkpoint, int8_model(tiny_checkpoint), tmp_path / "a.onnx", digits)


def test_mcnemar_counts_only_where_they_differ():
    reference = np.array([True] * 8 + [False] * 2)
    found = np.array([True] * 6 + [False] * 2 + [True, False])
    test = mcnemar(reference, found)
    assert (test.n_lost, test.n_won) == (2, 1)
    assert test.p_value == 1.0
    assert mcnemar(np.ones(10, bool), np.zeros(10, bool)).p_value == pytest.approx(2 / 2**10)
    assert mcnemar(reference, reference).p_value == 1.0


def test_verify_catches_an_int8_file_that_lies_about_its_seed(tiny_checkpoint, tmp_path, digits, monkeypatch):
    monkeypatch.setattr("edgelstm.export.verify.MAX_LOSS", 1.0)  # the tiny model is untrained
    monkeypatch.setattr("edgelstm.export.verify.INT8_ATOL", 1.0)
    model = int8_model(tiny_checkpoint)
    next(entry for entry in model.metadata_props if entry.key == "edgelstm.seed").value = "7"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    report = verify(tiny_checkpoint, tmp_path / "a.onnx", digits, providers=("cpu",))
    assert [check.question for check in report.checks if not check.passed] == ["same claims"]


# fp16


def fp16_model(checkpoint):
    return build_model(checkpoint, "fp16")


def test_the_fp16_graph_holds_half_precision_weights_and_gives_float32_logits(tiny_checkpoint):
    model = fp16_model(tiny_checkpoint)
    check_graph(model, tiny_checkpoint.config, "fp16")
    operators = ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm", "Cast"]
    assert [node.op_type for node in model.graph.node] == operators
    weights = {t.name: numpy_helper.to_array(t).dtype for t in model.graph.initializer}
    assert {name for name, kind in weights.items() if kind != np.float16} == {"direction_axis"}
    logits = OrtRunner(model.SerializeToString(), provider="cpu").logits(np.zeros((1, 28, 28), np.uint8))
    assert logits.dtype == np.float32


@pytest.mark.parametrize("other", ["fp32", "int8"])
def test_an_fp16_graph_does_not_pass_for_another_precision(tiny_checkpoint, other):
    with pytest.raises(ModelError, match="operators"):
        check_graph(fp16_model(tiny_checkpoint), tiny_checkpoint.config, other)
    with pytest.raises(ModelError, match="operators"):
        check_graph(build_model(tiny_checkpoint, other), tiny_checkpoint.config, "fp16")


def test_weights_that_were_left_in_fp32_are_seen(tiny_checkpoint):
    model = fp16_model(tiny_checkpoint)
    bias = next(t for t in model.graph.initializer if t.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), "head.bias"))
    with pytest.raises(ModelError):
        check_graph(model, tiny_checkpoint.config, "fp16")


def test_on_a_cpu_fp16_is_its_rounded_weights_in_float32(tiny_checkpoint, digits):
    content = fp16_model(tiny_checkpoint).SerializeToString()
    on_cpu = OrtRunner(content, provider="cpu").logits(digits.images)
    report = compare(NumpyRunner(content).logits(digits.images), on_cpu)
    assert report.passed, report.max_difference
    exact = OrtRunner(build_model(tiny_checkpoint).SerializeToString(), provider="cpu").logits(digits.images)
    assert np.abs(on_cpu - exact).max() > 1e-5, "nothing was rounded"


def test_fp16_is_written_without_being_faster_and_is_half_the_size(tiny_checkpoint, tmp_path, digits, monkeypatch):
    monkeypatch.setattr(export_module, "speed_ratio", lambda *arguments: Ratio(1.02, 0.9, 1.1, 0.95, 16))
    done = export_reduced(tiny_checkpoint, tmp_path / "a.fp16.onnx", digits, "fp16")
    contract = OrtRunner(tmp_path / "a.fp16.onnx", provider="cpu").contract
    assert (contract.precision, contract.test) == ("fp16", done.bargain.reduced)


def test_verify_proves_fp16_and_catches_one_changed_weight(tiny_checkpoint, tmp_path, digits, monkeypatch):
    monkeypatch.setattr("edgelstm.export.verify.MAX_LOSS", 1.0)  # the tiny model is untrained
    assert_verified_until_a_weight_changes(tiny_checkpoint, fp16_model(tiny_checkpoint), tmp_path / "a.onnx", digits)
