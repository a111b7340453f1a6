"""Tests of edgelstm.runtime.reference: the NumPy LSTM against torch, onnx and onnxruntime; what rounding explains."""

import dataclasses

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.contract import Node
from edgelstm.errors import ModelError
from edgelstm.exporting.graph import build_graph, contract_of, probe_pixels, probe_sequences
from edgelstm.onnx_file import decode, encode, open_model
from edgelstm.runtime.parity import ATOL, RTOL, compare
from edgelstm.runtime.reference import MAX_TOLERANCE, NumpyRunner, numpy_logits_by_rows, rounding_tolerance
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.model import TorchRunner

ATOL_FLOAT32 = 1e-5
"""float32 against float64: logits of a few units, one rounding of 6e-8 each step."""
CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step": ModelConfig(hidden_size=6, rows_per_step=2),
    "four rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}
EACH_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@EACH_CONFIG
def test_the_exported_graph_in_numpy_is_torchs_lstm_in_float64(config, checkpoint_of, model_bytes_of):
    checkpoint, pixels = checkpoint_of(config), probe_pixels(config, 16)
    weights = {name: weight.double() for name, weight in checkpoint.weights.items()}
    lstm = torch.nn.LSTM(config.step_size, config.hidden_size, config.n_layers, batch_first=True).double()
    lstm.load_state_dict({name.removeprefix("lstm."): w for name, w in weights.items() if name.startswith("lstm.")})
    # (B, R, C) -> (B, T, S), written out on its own, row after row
    n = config.rows_per_step
    steps = [pixels[:, at : at + n].reshape(len(pixels), -1) for at in range(0, config.rows, n)]
    with torch.no_grad():
        outputs, _ = lstm(torch.from_numpy(np.stack(steps, 1) / 255.0))
        expected = outputs[:, -1] @ weights["head.weight"].T + weights["head.bias"]
    found = NumpyRunner(model_bytes_of(checkpoint)).logits(pixels)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=ATOL_FLOAT32)


@pytest.mark.parametrize("config", SEQUENCES.values(), ids=SEQUENCES)
def test_in_float64_values_and_lengths_are_torchs_too(config, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    sequences, lengths = probe_sequences(checkpoint, 16)
    model = checkpoint.model().double()
    with torch.no_grad():
        if lengths is None:
            expected = model(torch.from_numpy(sequences))
        else:  # each on its own, cut at its end
            ends = zip(torch.from_numpy(sequences), lengths, strict=True)
            expected = torch.cat([model(one[None, :n], torch.tensor([n])) for one, n in ends])
    found = NumpyRunner(model_bytes_of(checkpoint)).logits(sequences, lengths)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=ATOL_FLOAT32)
    file = open_model(model_bytes_of(checkpoint))
    by_rows = numpy_logits_by_rows(decode(file.form("stream")), sequences, config, lengths)
    np.testing.assert_allclose(by_rows, found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["picture", "stream"])
@EACH_CONFIG
def test_the_exported_graph_in_numpy_is_what_onnxruntime_computes(config, kind, checkpoint_of, model_bytes_of):
    content, pixels = model_bytes_of(checkpoint_of(config), "fp32", kind), probe_pixels(config, 16)
    expected = OrtRunner(content, provider="cpu").logits(pixels)
    np.testing.assert_allclose(NumpyRunner(content).logits(pixels), expected, rtol=0, atol=ATOL_FLOAT32)


@EACH_CONFIG
def test_row_by_row_the_stateful_form_ends_where_whole_sequences_do(config, checkpoint_of, model_bytes_of):
    file, pixels = open_model(model_bytes_of(checkpoint_of(config))), probe_pixels(config, 9)
    found = numpy_logits_by_rows(decode(file.form("stream")), pixels, config)
    np.testing.assert_allclose(found, NumpyRunner(file).logits(pixels), rtol=0, atol=1e-6)


def test_the_int8_operator_in_numpy_is_onnxruntimes_but_for_ties(checkpoint_of, model_bytes_of):
    config = ModelConfig(hidden_size=8)
    content, pixels = model_bytes_of(checkpoint_of(config), "int8"), probe_pixels(config, 64)
    expected, found = OrtRunner(content, provider="cpu").logits(pixels[:32]), NumpyRunner(content).logits(pixels[:32])
    assert np.isclose(expected, found, atol=1e-4).all(1).mean() > 0.5, "a tie is rounded the other way now and then"
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1)


def test_logits_are_float32_one_row_an_image_whatever_the_batch_size(tiny_model_bytes, sample):
    runner = NumpyRunner(tiny_model_bytes)
    whole = runner.logits(sample.sequences[:7])
    assert (np.float32, (7, 10)) == (whole.dtype, whole.shape)
    for batch_size in (1, 3, 7, 100):
        np.testing.assert_allclose(runner.logits(sample.sequences[:7], batch_size=batch_size), whole, rtol=0, atol=1e-6)


def lstm_model(**attributes):
    """x (3, 2, 4) -> LSTM without a bias -> its last state, as the logits."""
    draw = np.random.default_rng(0)
    weights = {"W": draw.normal(size=(1, 8, 4)), "R": draw.normal(size=(1, 8, 2))}
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("LSTM", ["pixels", "W", "R"], ["", "last"], hidden_size=2, **attributes),
                helper.make_node("Squeeze", ["last", "axis"], ["logits"]),
            ],
            "lstm",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [3, 2, 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 2])],
            [
                *(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()),
                numpy_helper.from_array(np.array([0]), "axis"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def test_an_lstm_without_a_bias_is_what_onnxs_own_reference_computes():
    model = lstm_model()
    x = np.random.default_rng(1).normal(size=(3, 2, 4)).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {"pixels": x})[0]
    found = NumpyRunner(decode(model.SerializeToString())).run({"pixels": x})["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_large_inputs_saturate_without_overflow():
    x = np.full((3, 2, 4), 1e9, np.float32)
    assert np.isfinite(NumpyRunner(decode(lstm_model().SerializeToString())).run({"pixels": x})["logits"]).all()


@pytest.mark.parametrize("attributes", [{"direction": "reverse"}, {"clip": 1.0}, {"input_forget": 1}, {"layout": 1}])
def test_an_lstm_of_another_kind_is_refused_not_guessed(attributes):
    graph = decode(lstm_model(**attributes).SerializeToString())
    with pytest.raises(ModelError, match=f"cannot run this model: found LSTM with .*{next(iter(attributes))}"):
        NumpyRunner(graph)


def test_peepholes_are_refused_not_guessed():
    graph = decode(lstm_model().SerializeToString())
    node = dataclasses.replace(graph.nodes[0], inputs=("pixels", "W", "R", "", "", "", "", "axis"))
    runner = NumpyRunner(dataclasses.replace(graph, nodes=(node, graph.nodes[1])))
    with pytest.raises(ModelError, match="found peepholes"):
        runner.run({"pixels": np.zeros((3, 2, 4), np.float32)})


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Relu", {}), ("Gemm", {"transB": 1, "alpha": 2.0}), ("DynamicQuantizeLSTM", {"hidden_size": 8, "clip": 1.0})],
)
def test_an_unknown_operator_or_attribute_is_refused_by_name(tiny_model_bytes, operator, attributes):
    graph = decode(tiny_model_bytes)
    other = dataclasses.replace(graph, nodes=(*graph.nodes, Node(operator, (), (), "x", attributes)))
    with pytest.raises(ModelError, match=f"found {operator} with"):
        NumpyRunner(other)


def test_a_file_is_checked_as_every_model_is(tiny_model_bytes):
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model"):
        NumpyRunner(tiny_model_bytes[:300])


# What rounding explains

LONG = ModelConfig(rows=100, cols=3, hidden_size=32, class_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("config", "spread"),
    [(CONFIGS["one layer"], 0.4), (CONFIGS["three layers"], 0.4), (CONFIGS["not square"], 1.0), (LONG, 0.7)],
    ids=["one layer", "three layers", "few steps", "100 steps"],
)
def test_the_tolerance_holds_what_rounding_does_and_not_one_weight_changed_by_a_hundredth(
    config, spread, checkpoint_of
):
    checkpoint, pixels = checkpoint_of(config, spread), probe_pixels(config, 64)
    graph = build_graph(checkpoint, contract_of(checkpoint))
    tolerance = rounding_tolerance(graph, pixels)
    reference = TorchRunner(checkpoint.model()).logits(pixels)

    def compared(other):
        return compare(reference, OrtRunner(encode(other), provider="cpu").logits(pixels), atol=tolerance, rtol=0.0)

    assert compared(graph).passed
    if config == LONG:
        same = compare(reference, OrtRunner(encode(graph), provider="cpu").logits(pixels), atol=ATOL, rtol=RTOL)
        assert not same.values_passed, "a fixed tolerance, made for 28 steps, would call this model broken"
    for name in ("lstm_0.W", "lstm_0.R", "lstm_0.B", "head.weight", "head.bias"):
        weight = graph.initializers[name].copy()
        weight.flat[np.abs(weight).argmax()] *= 1.01
        other = dataclasses.replace(graph, initializers=graph.initializers | {name: weight})
        assert not compared(other).values_passed, name


def test_the_tolerance_follows_the_model_and_its_logits(checkpoint_of):
    def tolerance(config, spread, scale=1.0):
        graph = build_graph(checkpoint_of(config, spread), contract_of(checkpoint_of(config, spread)))
        head = {name: array * np.float32(scale) for name, array in graph.initializers.items() if "head" in name}
        graph = dataclasses.replace(graph, initializers=graph.initializers | head)
        return rounding_tolerance(graph, probe_pixels(config, 32))

    short = tolerance(CONFIGS["one layer"], 0.4)
    assert 1e-6 < short < 2e-5
    assert 10 * short < tolerance(LONG, 0.7) < MAX_TOLERANCE
    assert tolerance(CONFIGS["one layer"], 0.4, 16) == pytest.approx(16 * short, rel=0.01)


def test_a_chaotic_model_is_given_no_more_than_the_largest_tolerance(checkpoint_of):
    checkpoint = checkpoint_of(LONG, 4.0)
    graph = build_graph(checkpoint, contract_of(checkpoint))
    assert rounding_tolerance(graph, probe_pixels(LONG, 16)) == MAX_TOLERANCE


def test_weights_of_nothing_still_leave_room_for_one_rounding(checkpoint_of):
    checkpoint = checkpoint_of(CONFIGS["not square"], 0.0)
    graph = build_graph(checkpoint, contract_of(checkpoint))
    assert 0 < rounding_tolerance(graph, probe_pixels(CONFIGS["not square"], 4)) < 1e-5
