"""Tests of edgelstm.runtime.reference: the NumPy LSTM against torch.nn.LSTM and onnxruntime, on random weights."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgelstm.config import RECIPES, ModelConfig
from edgelstm.errors import ModelError
from edgelstm.export.graph import build_model, probe_pixels
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import RowLstm

ATOL_FLOAT32 = 1e-5
"""float32 against float64: logits of a few units, one rounding of 6e-8 each step."""
CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step": ModelConfig(hidden_size=6, rows_per_step=2),
    "four rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}


def random_checkpoint(config):
    torch.manual_seed(0)
    model = RowLstm(config)
    weights = {name: torch.randn_like(weight) * 0.4 for name, weight in model.state_dict().items()}
    return Checkpoint(weights, config, RECIPES["fast"], "random", 1, "0" * 64)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_exported_graph_in_numpy_is_torchs_lstm_in_float64(config):
    checkpoint, pixels = random_checkpoint(config), probe_pixels(config, 16)
    weights = {name: weight.double() for name, weight in checkpoint.weights.items()}
    lstm = torch.nn.LSTM(config.step_size, config.hidden_size, config.n_layers, batch_first=True).double()
    lstm.load_state_dict({name.removeprefix("lstm."): w for name, w in weights.items() if name.startswith("lstm.")})
    # (B, R, C) -> (B, T, S), written out on its own, row after row
    n = config.rows_per_step
    steps = [pixels[:, at : at + n].reshape(len(pixels), -1) for at in range(0, config.rows, n)]
    with torch.no_grad():
        outputs, _ = lstm(torch.from_numpy(np.stack(steps, 1) / 255.0))
        expected = outputs[:, -1] @ weights["head.weight"].T + weights["head.bias"]
    found = NumpyRunner(build_model(checkpoint).SerializeToString()).logits(pixels)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=ATOL_FLOAT32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_exported_graph_in_numpy_is_what_onnxruntime_computes(config):
    content = build_model(random_checkpoint(config)).SerializeToString()
    pixels = probe_pixels(config, 16)
    expected = OrtRunner(content, provider="cpu").logits(pixels)
    np.testing.assert_allclose(NumpyRunner(content).logits(pixels), expected, rtol=0, atol=ATOL_FLOAT32)


def test_logits_are_float32_one_row_an_image(tiny_model_bytes, sample):
    logits = NumpyRunner(tiny_model_bytes).logits(sample.images[:7])
    assert (np.float32, (7, 10)) == (logits.dtype, logits.shape)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_changes_nothing_but_rounding(tiny_model_bytes, sample, batch_size):
    runner = NumpyRunner(tiny_model_bytes)
    found = runner.logits(sample.images[:7], batch_size=batch_size)
    np.testing.assert_allclose(found, runner.logits(sample.images[:7]), rtol=0, atol=1e-6)


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
    np.testing.assert_allclose(NumpyRunner(model.SerializeToString()).logits(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attributes", [{"direction": "reverse"}, {"clip": 1.0}, {"input_forget": 1}, {"layout": 1}])
def test_an_lstm_of_another_kind_is_refused_not_guessed(attributes):
    runner = NumpyRunner(lstm_model(**attributes).SerializeToString())
    with pytest.raises(ModelError, match="cannot run this LSTM: found attributes"):
        runner.logits(np.zeros((3, 2, 4), np.float32))


def test_an_unknown_operator_is_refused_by_name(tiny_checkpoint):
    model = build_model(tiny_checkpoint)
    model.graph.node[-1].op_type = "Relu"
    with pytest.raises(ModelError, match="found the operator Relu, expected Cast, Reshape"):
        NumpyRunner(model.SerializeToString())


def test_bytes_that_are_no_onnx_file_are_refused():
    with pytest.raises(ModelError, match="not an ONNX model"):
        NumpyRunner(b"not a model")


def test_large_inputs_saturate_without_overflow():
    x = np.full((3, 2, 4), 1e9, np.float32)
    assert np.isfinite(NumpyRunner(lstm_model().SerializeToString()).logits(x)).all()
