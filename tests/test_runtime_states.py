"""Tests of states: a file that answers after every step says what torch says of the shorter sequence."""

import numpy as np
import onnx
import pytest
import torch

from edgelstm.config import RECIPES, ModelConfig
from edgelstm.contract import INPUT_NAME, OUTPUT_NAME
from edgelstm.errors import ModelError
from edgelstm.export.graph import build_model, probe_pixels
from edgelstm.runtime.runner import SessionSettings, open_session
from edgelstm.runtime.states import STEP_OUTPUT_NAME, with_step_logits
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import PIXEL_SCALE, RowLstm

ATOL_FLOAT32 = 1e-5
"""onnxruntime and torch round float32 sums of a few units in other orders."""
CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "four rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2),
    "one step": ModelConfig(hidden_size=4, rows_per_step=28),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}


def random_checkpoint(config):
    draw = np.random.default_rng(0)
    weights = {
        name: torch.from_numpy(draw.normal(0, 0.5, tuple(weight.shape)).astype(np.float32))
        for name, weight in RowLstm(config).state_dict().items()
    }
    return Checkpoint(weights, config, RECIPES["fast"], "random", 1, "0" * 64)


def answers(content, pixels):
    """(steps, classes) and (1, classes): what the file says after each step, and at the end."""
    session = open_session(content, SessionSettings())
    return session.run([STEP_OUTPUT_NAME, OUTPUT_NAME], {INPUT_NAME: pixels})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_answer_after_a_step_is_torchs_answer_to_so_many_steps(config):
    checkpoint, pixels = random_checkpoint(config), probe_pixels(config, 16)[9:10]
    found, last = answers(with_step_logits(build_model(checkpoint).SerializeToString()), pixels)
    model = checkpoint.model()
    sequence = torch.from_numpy(pixels.copy()).reshape(config.n_steps, 1, config.step_size) * PIXEL_SCALE
    with torch.inference_mode():
        expected = [model.head(model.lstm(sequence[: n + 1])[1][0][-1])[0].numpy() for n in range(config.n_steps)]
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=ATOL_FLOAT32)
    np.testing.assert_allclose(found[-1:], last, rtol=0, atol=ATOL_FLOAT32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_answer_after_the_last_step_is_the_files_own(tiny_checkpoint, sample, precision):
    content = build_model(tiny_checkpoint, precision).SerializeToString()
    for image in sample.images[:20]:
        found, last = answers(with_step_logits(content), image[None])
        np.testing.assert_allclose(found[-1:], last, rtol=0, atol=1e-6)


def test_the_rest_of_the_file_is_as_it_was(tiny_model_bytes):
    before, after = (onnx.load_model_from_string(c) for c in (tiny_model_bytes, with_step_logits(tiny_model_bytes)))
    onnx.checker.check_model(before)
    assert [node.name for node in after.graph.node[5:]] == ["step_lstm_0", "step_lstm_0_squeeze", "step_head"]
    assert [value.name for value in after.graph.output] == [OUTPUT_NAME, STEP_OUTPUT_NAME]
    del after.graph.node[5:], after.graph.initializer[-1:], after.graph.output[1:]
    assert before == after


def test_another_graph_is_refused(tiny_checkpoint):
    model = build_model(tiny_checkpoint)
    model.graph.node[2].op_type = "GRU"
    with pytest.raises(ModelError, match=r"x\.onnx cannot be asked after every step: found .*'GRU'"):
        with_step_logits(model.SerializeToString(), "x.onnx")
    model = build_model(tiny_checkpoint)
    del model.graph.node[-1]
    with pytest.raises(ModelError, match="expected an LSTM with Squeeze and Gemm behind it"):
        with_step_logits(model.SerializeToString())
