"""Tests of edgelstm.export.stream_verify: an honest streaming file passes, and every lie is caught."""

import dataclasses

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule, Score
from edgelstm.data.mnist import Digits
from edgelstm.export import stream_verify
from edgelstm.export.graph import build_model
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.export.stream_verify import splits, verify_stream
from edgelstm.runtime.stream import Stream
from edgelstm.runtime.stream_runner import logits_by_step

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(sample):
    return Digits(sample.images[:60], sample.labels[:60], "the first 60 of the sample")


@pytest.fixture
def verdict(tiny_checkpoint, digits, tmp_path):
    def ask(model, checkpoint=tiny_checkpoint):
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return verify_stream(checkpoint, path, digits)

    return ask


def failed(report):
    return sorted({check.question.split(":")[0].split(",")[0] for check in report.checks if not check.passed})


def lstm(model):
    return next(node for node in model.graph.node if node.op_type.endswith("LSTM"))


@pytest.fixture
def model(tiny_checkpoint):
    """A fresh graph, to be broken."""
    return build_stream_model(tiny_checkpoint)


SAME_WEIGHTS, SAME_VALUES = "same weights", "same values and decisions"


@pytest.mark.parametrize(
    "config",
    [ModelConfig(hidden_size=8), ModelConfig(hidden_size=5, n_layers=3), ModelConfig(hidden_size=6, rows_per_step=4)],
    ids=["one layer", "three layers", "four rows a step"],
)
def test_the_honest_file_passes_every_check(verdict, config, checkpoint_of):
    checkpoint = checkpoint_of(config)
    report = verdict(build_stream_model(checkpoint), checkpoint)
    assert report.passed, [check.answer for check in report.checks if not check.passed]


def test_int8_passes_its_own_checks(verdict, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(stream_verify, "MAX_LOSS", 0.1)  # random weights decide by hairs
    report = verdict(build_stream_model(tiny_checkpoint, "int8"))
    assert report.passed, [(check.question, check.answer) for check in report.checks if not check.passed]
    assert "near the whole-picture int8 model, batch 7" in [check.question for check in report.checks]


def test_every_batch_and_split_is_asked(verdict, model):
    questions = [check.question for check in verdict(model).checks]
    for batch in (1, 7, 64, 1000):
        assert f"{SAME_VALUES}: one step a call, batch {batch}" in questions
    assert f"{SAME_VALUES}: all steps in one call, batch 1000" in questions
    assert sum("calls of" in question for question in questions) == 3
    assert questions[-3:] == ["same claims", "claimed accuracy", "deciding early"]


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 28])
def test_a_split_holds_every_step(n_steps):
    assert {n_steps} == {sum(sizes) for _, sizes in splits(n_steps)}
    assert all(min(sizes) >= 1 for _, sizes in splits(n_steps))


@pytest.mark.parametrize("state", [5, 6])
def test_a_state_that_each_call_forgets_is_caught(verdict, model, state):
    """All rows in one call are right all the same: only the other splits show it."""
    lstm(model).input[state] = ""
    report = verdict(model)
    assert SAME_VALUES in failed(report)
    wrong = [check.question for check in report.checks if not check.passed]
    assert f"{SAME_VALUES}: all steps in one call, batch 1000" not in wrong
    assert f"{SAME_VALUES}: one step a call, batch 1" in wrong


def test_swapped_states_are_caught(verdict, model):
    node = lstm(model)
    node.input[5], node.input[6] = node.input[6], node.input[5]
    assert SAME_VALUES in failed(verdict(model))


def test_states_given_on_the_wrong_way_round_are_caught(verdict, model):
    node = lstm(model)
    node.output[1], node.output[2] = node.output[2], node.output[1]
    assert not verdict(model).passed


def test_one_weight_changed_by_its_last_bit_is_caught_and_named(verdict, model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "lstm_0.R")
    array = numpy_helper.to_array(tensor).copy()
    array.flat[3] = np.nextafter(array.flat[3], np.float32(np.inf))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    report = verdict(model)
    assert failed(report) == [SAME_WEIGHTS]
    assert report.checks[1].answer == "differ: lstm_0.R"


def test_another_models_checkpoint_is_caught(verdict, model, tiny_checkpoint):
    weights = {name: value + 0.1 for name, value in tiny_checkpoint.weights.items()}
    report = verdict(model, dataclasses.replace(tiny_checkpoint, weights=weights))
    assert {SAME_WEIGHTS, SAME_VALUES, "same claims"} <= set(failed(report))


def test_a_whole_picture_file_is_caught_at_once(verdict, tiny_checkpoint):
    report = verdict(build_model(tiny_checkpoint))
    assert failed(report) == ["same names and shapes"]
    assert "reads whole pictures" in report.checks[0].answer


def test_a_false_accuracy_is_caught(verdict, tiny_checkpoint):
    claiming = dataclasses.replace(tiny_checkpoint, test=Score(59, 60))
    assert failed(verdict(build_stream_model(claiming))) == ["claimed accuracy", "same claims"]


def test_a_rule_that_loses_digits_is_caught(verdict, tiny_checkpoint, digits, sample):
    from edgelstm.config import shipped_dir
    from edgelstm.training.checkpoint import load_checkpoint

    shipped = dataclasses.replace(load_checkpoint(shipped_dir() / "base.safetensors"), test=None)
    report = verdict(build_stream_model(shipped, early=EarlyRule(0.5, 1)), shipped)
    assert failed(report) == ["deciding early"]
    assert "lost" in report.checks[-1].answer


def test_a_state_that_is_restored_wrongly_is_caught(verdict, model, monkeypatch):
    restore = Stream.restore

    def forgetful(self, state):
        restore(self, state)
        self._states[self._now][1][:] = 0

    monkeypatch.setattr(Stream, "restore", forgetful)
    assert failed(verdict(model)) == ["same bits from a saved state"]


def test_int8_of_other_scales_is_caught(verdict, tiny_checkpoint):
    model = build_stream_model(tiny_checkpoint, "int8")
    for tensor in model.graph.initializer:
        if tensor.name == "lstm_0.W_scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name))
    assert {SAME_WEIGHTS, "near the whole-picture int8 model"} <= set(failed(verdict(model)))


def test_the_rows_logits_are_those_of_that_many_rows(tiny_checkpoint, digits):
    """logits_by_step at step t is a fresh stream's answer after t rows."""
    content = build_stream_model(tiny_checkpoint).SerializeToString()
    by_step = logits_by_step(Stream(content, n_streams=7), digits.images)
    for rows in (1, 13, 28):
        found = Stream(content, n_streams=60).push(digits.images[:, :rows])
        np.testing.assert_allclose(found, by_step[:, rows - 1], atol=1e-5)


def test_metadata_of_another_kind_are_no_damage(model):
    props = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, props | {"author": "someone"})
    assert Stream(model.SerializeToString()).contract.kind == "stream"
