"""Tests of the C engine's arithmetic in NumPy: near the exact model, and free of what could make answers differ."""

import numpy as np
import pytest
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.errors import ModelError
from edgelstm.exporting.graph import build_graph, contract_of, probe_sequences
from edgelstm.native import scheme as scheme_module
from edgelstm.native.scheme import EXP2, VALUE_LEVELS, scheme_of
from edgelstm.onnx_file import open_model
from edgelstm.runtime.reference import NumpyRunner, rounding_tolerance

CONFIGS = {**SEQUENCES, "digits": ModelConfig(hidden_size=9, rows_per_step=2, n_layers=2)}


@pytest.fixture(params=CONFIGS)
def checkpoint(request, checkpoint_of):
    return checkpoint_of(CONFIGS[request.param])


def test_fp32_is_the_exact_model_but_for_rounding(checkpoint, model_bytes_of):
    batch = probe_sequences(checkpoint, 40)
    file = open_model(model_bytes_of(checkpoint))
    found = scheme_of(file, "fp32").logits(*batch)
    tolerance = rounding_tolerance(build_graph(checkpoint, contract_of(checkpoint)), *batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, NumpyRunner(file).logits(*batch), rtol=0, atol=tolerance)


def test_int8_is_near_the_exact_model_and_nearer_with_more_levels(checkpoint, model_bytes_of, monkeypatch):
    batch = probe_sequences(checkpoint, 40)
    file = open_model(model_bytes_of(checkpoint))
    expected = NumpyRunner(file).logits(*batch)
    spread = expected.std()
    error = np.abs(scheme_of(file, "int8").logits(*batch) - expected).mean() / spread
    monkeypatch.setattr(scheme_module, "WEIGHT_LEVELS", 15)
    coarse = np.abs(scheme_of(file, "int8").logits(*batch) - expected).mean() / spread
    assert error < 0.05
    assert error < coarse


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_answer_depends_on_no_other_sequence_and_on_no_cut(checkpoint, model_bytes_of, precision):
    sequences, lengths = probe_sequences(checkpoint, 12)
    scheme = scheme_of(open_model(model_bytes_of(checkpoint)), precision)
    whole = scheme.logits(sequences, lengths)
    alone = [scheme.logits(sequences[i : i + 1], None if lengths is None else lengths[i : i + 1]) for i in range(12)]
    np.testing.assert_array_equal(np.concatenate(alone), whole)
    state, n = scheme.start(1), scheme.config.rows_per_step
    for row in range(0, scheme.config.rows if lengths is None else lengths[0], n):
        state = scheme.step(sequences[:1, row : row + n], state)
    np.testing.assert_array_equal(scheme.head_logits(state[-1][0]), whole[:1])


def test_powers_of_two_are_right_to_two_units_in_the_last_place_and_exact_at_whole_numbers():
    t = np.linspace(-40, 40, 800_001, dtype=np.float32)
    error = np.abs(scheme_module._exp2(t) / 2.0 ** t.astype(np.float64) - 1)
    assert error.max() < 2.1e-7
    whole = np.arange(-40, 41, dtype=np.float32)
    np.testing.assert_array_equal(scheme_module._exp2(whole), 2.0**whole)
    ends = np.array([-1e30, -np.inf, np.nan, np.inf, 1e30], np.float32)
    np.testing.assert_array_equal(scheme_module._exp2(ends), np.array([2.0**-40] * 3 + [2.0**40] * 2, np.float32))
    assert EXP2[0] == 1, "tanh(0) is 0"


def test_values_far_outside_saturate_and_are_counted_up_to_each_sequences_end(checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(SEQUENCES["unequal lengths"])
    scheme = scheme_of(open_model(model_bytes_of(checkpoint)), "int8")
    sequences, lengths = probe_sequences(checkpoint, 8)
    assert (0, int(lengths.sum()) * 3) == scheme.saturated(sequences, lengths)
    limit = (scheme.mean + 32767 / VALUE_LEVELS / scheme.scale)[1]
    beyond = sequences.copy()
    beyond[:, 0, 1], sequences[:, 0, 1] = limit * 1000, limit
    beyond[lengths < 11, -1] = np.inf  # behind the end
    assert scheme.saturated(beyond, lengths)[0] == 8
    np.testing.assert_array_equal(scheme.logits(beyond, lengths), scheme.logits(sequences, lengths))


def test_int8_weights_of_a_file_are_taken_as_they_are(checkpoint_of, model_bytes_of):
    file = open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=6)), "int8"))
    [layer] = scheme_of(file, "int8").layers
    np.testing.assert_array_equal(layer.r.reshape(24, 6), file.graph.initializers["lstm_0.R"][0].T)
    assert np.unique(layer.r_scale[:3]).size == 1
    assert np.abs(layer.w).max() == 63


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R_zero_point"])
def test_int8_weights_outside_the_engines_range_are_refused(checkpoint_of, model_bytes_of, name):
    file = open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=6)), "int8"))
    file.graph.initializers[name] = np.full_like(file.graph.initializers[name], -128)
    with pytest.raises(ModelError, match="do not fit the C engine: expected integers of -127 to 127 around zero"):
        scheme_of(file, "int8")


def test_what_cannot_be_is_refused(checkpoint_of, model_bytes_of):
    with pytest.raises(ModelError, match="has int8 weights: expected an fp32 or fp16 model"):
        scheme_of(open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=6)), "int8")), "fp32")
    wide = ModelConfig(rows=272, cols=256, rows_per_step=272, hidden_size=1)
    with pytest.raises(ModelError, match="too wide for int8: found 69,632 pixels or values a step"):
        scheme_of(open_model(model_bytes_of(checkpoint_of(wide))), "int8")


def test_an_fp16_file_is_widened(checkpoint_of, model_bytes_of, sample):
    file = open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=6)), "fp16"))
    found = scheme_of(file, "fp32").logits(sample.sequences[:9])
    np.testing.assert_allclose(found, NumpyRunner(file).logits(sample.sequences[:9]), rtol=0, atol=1e-4)
