"""Tests of edgelstm.export.stream_export: no file unless it equals the checkpoint; the rule is validation's."""

import numpy as np
import pytest

from edgelstm.config import ModelConfig
from edgelstm.contract import Score
from edgelstm.data.mnist import Digits
from edgelstm.errors import ParityError
from edgelstm.export import graph as graph_module
from edgelstm.export import stream_export as export_module
from edgelstm.export.stream_export import export_stream, export_stream_int8, validation_digits
from edgelstm.measure.timing import Ratio
from edgelstm.runtime.early_exit import choose_rule
from edgelstm.runtime.stream import Stream
from edgelstm.runtime.stream_runner import logits_by_step

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training(sample, monkeypatch):
    """300 digits, of which the last 100 are held out."""
    monkeypatch.setattr(export_module, "N_VALIDATION", 100)
    return Digits(sample.images[:300], sample.labels[:300], "made up")


@pytest.fixture
def twice_as_fast(monkeypatch):
    monkeypatch.setattr(export_module, "speed_ratio", lambda *arguments: Ratio(0.5, 0.4, 0.6, 0.95, 16))


def test_a_streaming_file_is_the_same_bytes_and_its_parity_is_of_both_ways_to_call(tiny_checkpoint, tmp_path, training):
    one, two = (export_stream(tiny_checkpoint, tmp_path / name, training) for name in ("one", "two"))
    assert one.path.read_bytes() == two.path.read_bytes()
    assert (True, 512, True) == (one.parity.passed, one.parity.n, one.streaming)
    assert ("Cast", "Transpose", "LSTM", "Squeeze", "Gemm") == one.operators
    assert one.n_bytes == one.path.stat().st_size


@pytest.mark.parametrize(
    "config",
    [ModelConfig(hidden_size=4, n_layers=3), ModelConfig(hidden_size=4, rows_per_step=4)],
    ids=["layers", "rows"],
)
def test_layers_and_rows_a_step_are_exported_too(config, tmp_path, checkpoint_of):
    assert export_stream(checkpoint_of(config), tmp_path / "model.onnx").parity.passed


def test_the_rule_is_chosen_by_the_held_out_digits_alone(tiny_checkpoint, tmp_path, training):
    done = export_stream(tiny_checkpoint, tmp_path / "model.onnx", training)
    held_out = validation_digits(training)
    assert np.array_equal(training.images[-100:], held_out.images[:100])
    stream = Stream(done.path, n_streams=50)
    assert choose_rule(logits_by_step(stream, held_out.images), held_out.labels) == done.early
    assert done.early == stream.contract.early
    assert done.early.validation.n == 900


def test_without_training_images_there_is_no_rule(tiny_checkpoint, tmp_path):
    done = export_stream(tiny_checkpoint, tmp_path / "model.onnx")
    assert (None, None) == (done.early, Stream(done.path).contract.early)


def test_a_model_that_differs_from_the_checkpoint_is_not_written(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_module, "GATE_ORDER", (0, 1, 2, 3))
    (tmp_path / "model.onnx").write_bytes(b"old")
    with pytest.raises(ParityError, match="was not written: the exported model differs from the checkpoint"):
        export_stream(tiny_checkpoint, tmp_path / "model.onnx")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_a_graph_that_loses_its_state_between_calls_is_not_written(tiny_checkpoint, tmp_path, monkeypatch):
    """One call for the whole picture would still be right: the parity must be asked step by step."""
    monkeypatch.setattr(export_module, "check_stream_graph", lambda *arguments: None)
    build = export_module.build_stream_model

    def forgetful(*arguments):
        model = build(*arguments)
        lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
        lstm.input[5] = ""  # h begins as zeros in every call
        return model

    monkeypatch.setattr(export_module, "build_stream_model", forgetful)
    with pytest.raises(ParityError):
        export_stream(tiny_checkpoint, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_int8_says_so_and_holds_its_own_score(tiny_checkpoint, tmp_path, training, sample, twice_as_fast):
    digits = Digits(sample.images[:60], sample.labels[:60], "sixty")
    done = export_stream_int8(tiny_checkpoint, tmp_path / "model.onnx", digits, training, force=True)
    contract = Stream(done.path).contract
    counted = Score.of(logits_by_step(Stream(done.path), digits.images)[:, -1], digits.labels)
    assert ("int8", "stream", counted) == (contract.precision, contract.kind, contract.test)
    assert (counted, done.early) == (done.bargain.reduced, contract.early)
    assert "DynamicQuantizeLSTM" in done.operators


def test_int8_that_costs_accuracy_is_refused(tiny_checkpoint, tmp_path, sample, twice_as_fast, monkeypatch):
    digits = Digits(sample.images[:60], sample.labels[:60], "sixty")
    monkeypatch.setattr("edgelstm.export.export.MAX_LOSS", -1.0)
    with pytest.raises(ParityError, match="was not written: int8 costs accuracy"):
        export_stream_int8(tiny_checkpoint, tmp_path / "model.onnx", digits)
    assert list(tmp_path.iterdir()) == []


def test_the_held_out_digits_are_shifted_a_pixel_in_every_direction(training):
    held_out = validation_digits(training)
    assert (900, 28, 28) == held_out.images.shape
    plain, found = training.images[-100:], set()
    for part, labels in zip(held_out.images.reshape(9, 100, 28, 28), held_out.labels.reshape(9, 100), strict=True):
        assert np.array_equal(training.labels[-100:], labels)
        for y, x in ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
            moved = np.roll(plain, (y, x), (1, 2))  # digits have blank edges, so nothing comes round
            if np.array_equal(moved[:, 1:-1, 1:-1], part[:, 1:-1, 1:-1]):
                found.add((y, x))
    assert len(found) == 9, found
