"""Tests of edgelstm.exporting.export: no file unless every check passes; the trade-off; the rule is validation's."""

import dataclasses

import numpy as np
import pytest
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.contract import NoDigitRule, Score, in_batches
from edgelstm.data.dataset import Dataset, Part
from edgelstm.errors import DataError, ModelError, OutputError, ParityError
from edgelstm.exporting import export as export_module
from edgelstm.exporting import graph as graph_module
from edgelstm.exporting.export import MAX_LOSS, choose_early_rule, export, with_shifts, write_model
from edgelstm.exporting.graph import probe_sequences
from edgelstm.measure.timing import Ratio
from edgelstm.onnx_file import open_model
from edgelstm.runtime.early_exit import choose_rule
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream, logits_by_step, stateful_form
from edgelstm.training.checkpoint import load_checkpoint, save_checkpoint
from edgelstm.training.model import TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _few_validate(monkeypatch):
    monkeypatch.setattr(export_module, "MIN_FOR_RULE", 20)


@pytest.fixture(scope="module")
def digits(sample):
    return Part(sample.sequences[:60], sample.labels[:60], "sixty")


@pytest.fixture(scope="module")
def validation(sample):
    return Part(sample.sequences[100:120], sample.labels[100:120], "held out")


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    """A smaller precision takes 1.2 times as long here: that is told and refuses nothing."""
    monkeypatch.setattr(export_module, "ratio_of", lambda *arguments: Ratio(1.2, 1.1, 1.3, 0.95, 16))


@pytest.fixture
def untrained(monkeypatch):
    """Random weights decide by hairs."""
    monkeypatch.setattr(export_module, "MAX_LOSS", 1.0)


def test_the_same_checkpoint_gives_the_same_bytes(tiny_checkpoint, tiny_model_bytes, tmp_path):
    for name in ("one", "two"):
        write_model(tiny_checkpoint, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == tiny_model_bytes


def test_export_says_what_it_wrote_and_writes_the_named_file_alone(tiny_checkpoint, tmp_path):
    result = write_model(tiny_checkpoint, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx", (tmp_path / "model.onnx").stat().st_size) == (result.path, result.n_bytes)
    assert result.operators == ("Cast", "Transpose", "LSTM", "Squeeze", "Gemm")
    assert (result.parity.passed, result.parity.n) == (True, 256)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(rows=100, cols=3, hidden_size=24, class_names=("rest", "walk", "run")),
        ModelConfig(rows=1, cols=1, hidden_size=1, class_names=("a", "b")),
        ModelConfig(hidden_size=4, n_layers=3),
        ModelConfig(hidden_size=4, rows_per_step=4),
    ],
    ids=["100 steps of three columns", "one pixel", "layers", "rows a step"],
)
def test_models_of_every_shape_are_exported(config, checkpoint_of, tmp_path):
    """Over 100 steps rounding is more than over 28; what is allowed follows from the model."""
    done = write_model(checkpoint_of(config), tmp_path / "model.onnx")
    assert done.parity.values_passed
    assert open_model(done.path).contract.config == config


def test_a_model_in_which_rounding_alone_decides_is_not_written_and_says_why(checkpoint_of, tmp_path):
    config = ModelConfig(rows=100, cols=3, hidden_size=32, class_names=("rest", "walk", "run"))
    with pytest.raises(ParityError, match="rounding alone decides here, on each machine otherwise: train again"):
        write_model(checkpoint_of(config, 1.2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# Streams


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_streaming_writes_what_stream_runs_of_the_other_file(
    tiny_checkpoint, tmp_path, digits, validation, untrained, precision
):
    whole = write_model(tiny_checkpoint, tmp_path / "w.onnx", precision, evaluation=digits, validation=validation)
    stream = write_model(
        tiny_checkpoint, tmp_path / "s.onnx", precision, streaming=True, evaluation=digits, validation=validation
    )
    assert stateful_form(open_model(whole.path)) == stream.path.read_bytes() == stateful_form(open_model(stream.path))
    assert open_model(stream.path).contract == dataclasses.replace(open_model(whole.path).contract, kind="stream")
    assert (whole.early, whole.parity) == (stream.early, stream.parity)
    assert stream.n_bytes == stream.path.stat().st_size


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_rule_for_no_digit_goes_from_the_checkpoints_file_into_the_models(
    tiny_checkpoint, tmp_path, digits, precision
):
    rule = NoDigitRule(((0.25,) * 71,), (1.0, 0.5))
    save_checkpoint(tmp_path / "run.safetensors", dataclasses.replace(tiny_checkpoint, no_digit=rule))
    loaded = load_checkpoint(tmp_path / "run.safetensors")
    done = write_model(loaded, tmp_path / "model.onnx", precision, evaluation=digits, force=True)
    assert open_model(done.path).contract.no_digit == loaded.no_digit == rule


# The rule for early exit


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_the_rule_is_chosen_by_the_validation_sequences_alone(
    tiny_checkpoint, tmp_path, digits, validation, untrained, precision
):
    checkpoint = dataclasses.replace(tiny_checkpoint, temperature=0.5)
    done = write_model(checkpoint, tmp_path / "model.onnx", precision, evaluation=digits, validation=validation)
    sequences, labels = with_shifts(validation.sequences), np.tile(validation.labels, 9)
    # int8's logits depend on the streams beside: one alone, as on an edge device
    stream = Stream(done.path, n_streams=1 if precision == "int8" else 100)
    expected = choose_rule(logits_by_step(stream, sequences), labels, 1, 0.5)
    assert done.early == expected == stream.contract.early
    assert (done.early.validation.n, done.early.temperature) == (180, 0.5)


@pytest.mark.parametrize(("precision", "n_streams"), [("fp32", 100), ("fp16", 100), ("int8", 1)])
def test_int8_reads_validation_alone_because_its_logits_depend_on_the_streams_beside(
    tiny_checkpoint, model_bytes_of, validation, monkeypatch, precision, n_streams
):
    asked = []

    def stream(file, n_streams):
        asked.append(n_streams)
        return Stream(file, n_streams=n_streams)

    monkeypatch.setattr(export_module, "Stream", stream)
    choose_early_rule(open_model(model_bytes_of(tiny_checkpoint, precision)), validation)
    assert asked == [n_streams]


def test_a_few_sequences_that_settle_early_give_a_rule_that_reads_less(tmp_path, checkpoint_of):
    """Classes that the first rows tell apart: not every row need be read."""
    checkpoint = checkpoint_of(ModelConfig(rows=12, cols=4, hidden_size=8, class_names=("a", "b", "c")), 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 4), dtype=np.uint8)
    labels = OrtRunner(write_model(checkpoint, tmp_path / "m").path, provider="cpu").logits(pixels).argmax(1)
    settling = Part(pixels, labels.astype(np.uint8), "its own answers")
    rule = write_model(checkpoint, tmp_path / "model.onnx", validation=settling).early
    assert rule.mean_rows <= 12
    found = choose_early_rule(open_model(tmp_path / "model.onnx"), settling)
    assert (rule, rule.validation.n_right >= 40) == (found, True)


def test_without_validation_sequences_there_is_no_rule(tiny_checkpoint, tmp_path):
    done = write_model(tiny_checkpoint, tmp_path / "model.onnx")
    assert (None, None) == (done.early, open_model(done.path).contract.early)


def test_the_held_out_digits_are_shifted_a_pixel_in_every_direction(validation):
    shifted = with_shifts(validation.sequences)
    n = len(validation)
    assert (9 * n, 28, 28) == shifted.shape
    plain, found = validation.sequences, set()
    for part in shifted.reshape(9, n, 28, 28):
        for y, x in ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
            moved = np.roll(plain, (y, x), (1, 2))  # digits have blank edges, so nothing comes round
            if np.array_equal(moved[:, 1:-1, 1:-1], part[:, 1:-1, 1:-1]):
                found.add((y, x))
    assert len(found) == 9, found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({}, True), ({"rows": 27}, False), ({"cols": 27}, False), ({"class_names": tuple("012")}, False)],
)
def test_sequences_fit_a_model_of_their_shape_that_has_all_their_classes(sample, changed, expected):
    assert sample.fits(dataclasses.replace(ModelConfig(hidden_size=4), **changed)) is expected


# int8 and fp16


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_smaller_precision_holds_its_own_score_counted_one_by_one(
    tiny_checkpoint, tmp_path, digits, untrained, precision, streaming
):
    done = write_model(tiny_checkpoint, tmp_path / "model.onnx", precision, streaming=streaming, evaluation=digits)
    runner = OrtRunner(done.path, provider="cpu")
    counted = Score.of(in_batches(runner, digits.sequences, 1), digits.labels)
    assert (precision, counted) == (runner.contract.precision, runner.contract.test)
    assert (counted, precision, 1.2) == (done.tradeoff.reduced, done.tradeoff.precision, done.tradeoff.speed.value)
    assert done.tradeoff.fp32.n == done.parity.n == 60


def labelled_by(checkpoint, digits, model_bytes_of):
    """These sequences with the fp32 model's answers: it is always right."""
    logits = OrtRunner(model_bytes_of(checkpoint), provider="cpu").logits(digits.sequences)
    return dataclasses.replace(digits, labels=logits.argmax(1).astype(np.uint8))


def test_int8_that_costs_accuracy_is_refused_unless_forced_and_the_old_file_stays(
    tiny_checkpoint, tmp_path, digits, model_bytes_of
):
    weights = {name: weight * (300 if "weight_hh" in name else 1) for name, weight in tiny_checkpoint.weights.items()}
    wild = dataclasses.replace(tiny_checkpoint, weights=weights)  # chaotic: rounding changes decisions
    labelled = labelled_by(wild, digits, model_bytes_of)
    (tmp_path / "a.onnx").write_bytes(b"old")
    with pytest.raises(ParityError, match=r"a.onnx was not written: int8 costs accuracy: found .* instead of 60/60"):
        write_model(wild, tmp_path / "a.onnx", "int8", evaluation=labelled)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.onnx", b"old")]
    done = write_model(wild, tmp_path / "a.onnx", "int8", evaluation=labelled, force=True)
    assert (done.tradeoff.loss > MAX_LOSS, open_model(done.path).contract.test) == (True, done.tradeoff.reduced)


@pytest.mark.parametrize(("n_lost", "refused"), [(5, False), (6, True)])
def test_five_of_ten_thousand_may_be_lost_and_no_more(monkeypatch, tmp_path, n_lost, refused):
    tradeoff = export_module.Tradeoff(
        "int8", Score(9_960, 10_000), Score(9_960 - n_lost, 10_000), export_module.McNemar(n_lost, 0, 0.03), None
    )
    if refused:
        with pytest.raises(ParityError, match=r"expected at most 0\.05 points less; give --force"):
            export_module._refuse_a_loss(tmp_path / "a.onnx", tradeoff)
    else:
        export_module._refuse_a_loss(tmp_path / "a.onnx", tradeoff)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_smaller_precision_without_sequences_to_judge_it_is_a_mistake_of_the_caller(
    tiny_checkpoint, tmp_path, precision
):
    with pytest.raises(ValueError, match=f"{precision} is judged by evaluation sequences: found none"):
        write_model(tiny_checkpoint, tmp_path / "model.onnx", precision)


# Nothing is written unless it is right


@pytest.fixture
def broken(monkeypatch, tiny_checkpoint):
    """An exporter that swaps two gates: right shapes, wrong numbers."""
    monkeypatch.setattr(graph_module, "GATE_ORDER", (0, 1, 2, 3))
    return tiny_checkpoint


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_model_that_differs_from_the_checkpoint_is_not_written(broken, tmp_path, streaming, old):
    if old:
        (tmp_path / "model.onnx").write_bytes(old)
    with pytest.raises(ParityError, match=r"was not written: .*found a difference of .* other decisions, expected at"):
        write_model(broken, tmp_path / "model.onnx", streaming=streaming)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.parametrize(("shift", "refused"), [(1e-6, False), (1e-4, True)])
def test_a_difference_that_rounding_does_not_explain_is_refused(tiny_checkpoint, tmp_path, monkeypatch, shift, refused):
    class Off(export_module.TorchRunner):
        def logits(self, sequences, lengths):
            logits = super().logits(sequences, lengths)
            logits[7, 3] += np.float32(shift)
            return logits

    monkeypatch.setattr(export_module, "TorchRunner", Off)
    if refused:
        with pytest.raises(ParityError, match="which rounding explains"):
            write_model(tiny_checkpoint, tmp_path / "model.onnx")
    else:
        write_model(tiny_checkpoint, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists() is not refused


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_an_existing_file_survives_a_refused_graph(tiny_checkpoint, tmp_path, monkeypatch, digits, precision):
    (tmp_path / "model.onnx").write_bytes(b"old")
    build = export_module.build_graph

    def other(*arguments):
        graph = build(*arguments)
        return dataclasses.replace(graph, opsets={"": 19})

    monkeypatch.setattr(export_module, "build_graph", other)
    with pytest.raises(ModelError, match="opsets"):
        write_model(tiny_checkpoint, tmp_path / "model.onnx", precision, evaluation=digits, force=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]


@pytest.mark.parametrize("name", ["head.bias", "head.weight", "lstm.weight_hh_l0"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_checkpoint_with_weights_that_are_not_finite_is_not_exported(tiny_checkpoint, tmp_path, name, value):
    weights = {key: weight.clone() for key, weight in tiny_checkpoint.weights.items()}
    weights[name].view(-1)[0] = float(value)
    with pytest.raises(ModelError, match="weights that are not finite numbers"):
        write_model(dataclasses.replace(tiny_checkpoint, weights=weights), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_float16_are_not_exported_as_fp16(tiny_checkpoint, tmp_path, digits):
    weights = {key: weight.clone() for key, weight in tiny_checkpoint.weights.items()}
    weights["head.bias"][0] = 1e5
    checkpoint = dataclasses.replace(tiny_checkpoint, weights=weights)
    with pytest.raises(ModelError, match=r"not finite numbers in fp16: head\.bias; export fp32"):
        write_model(checkpoint, tmp_path / "model.onnx", "fp16", evaluation=digits, force=True)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tiny_checkpoint, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx"):
        write_model(tiny_checkpoint, tmp_path / "file" / "model.onnx")


# From a run folder, with the data it was trained on


@pytest.fixture
def gestures(tmp_path, checkpoint_of):
    """A run folder of a model of values, and data that it answers rightly."""
    checkpoint = dataclasses.replace(checkpoint_of(SEQUENCES["unequal lengths"]), data_sha256="1" * 64)
    sequences, lengths = probe_sequences(checkpoint, 30)
    labels = TorchRunner(checkpoint.model()).logits(sequences, lengths).argmax(1)
    parts = [Part(sequences[at], labels[at], "made up", lengths[at]) for at in np.split(np.arange(30), 3)]
    save_checkpoint(tmp_path / "run" / "model.safetensors", checkpoint)
    data = Dataset("gestures", "values", checkpoint.config.class_names, *parts, sha256="1" * 64, split="given")
    return tmp_path / "run", data


@pytest.mark.parametrize(
    ("precision", "streaming", "name"),
    [
        ("fp32", False, "model.onnx"), ("fp32", True, "model.stream.onnx"), ("int8", False, "model.int8.onnx"),
        ("fp16", False, "model.fp16.onnx"), ("int8", True, "model.stream.int8.onnx"),
    ],
)  # fmt: skip
def test_a_run_folder_is_exported_beside_its_checkpoint(gestures, precision, streaming, name, untrained):
    folder, data = gestures
    lines = []
    done = export(folder, precision=precision, streaming=streaming, data=data, on_progress=lines.append)
    assert (folder / name, done.n_bytes) == (done.path, (folder / name).stat().st_size)
    assert (done.early, done.tradeoff is None) == (None, precision == "fp32")
    expected = [] if precision == "fp32" else [f"comparing {precision} with fp32 on 10 sequences (made up)"]
    assert lines == expected


def test_a_smaller_precision_needs_the_models_own_data(gestures):
    folder, data = gestures
    with pytest.raises(DataError, match="int8 is judged by its accuracy, and no data here has this model's shape"):
        export(folder, precision="int8")
    with pytest.raises(DataError, match="gestures does not fit the model"):
        export(folder, precision="int8", data=dataclasses.replace(data, class_names=("a", "b", "c")))
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_other_data_than_it_was_trained_on_chooses_no_rule(tmp_path, checkpoint_of, monkeypatch):
    monkeypatch.setattr(export_module, "MIN_FOR_RULE", 5)
    checkpoint = dataclasses.replace(checkpoint_of(SEQUENCES["values"], 1.0), data_sha256="1" * 64)
    sequences, _ = probe_sequences(checkpoint, 30)
    labels = TorchRunner(checkpoint.model()).logits(sequences).argmax(1)
    parts = [Part(sequences[at], labels[at], "made up") for at in np.split(np.arange(30), 3)]
    data = Dataset("gestures", "values", checkpoint.config.class_names, *parts, sha256="1" * 64, split="given")
    assert export(checkpoint, tmp_path / "a.onnx", data=data).early is not None
    assert export(checkpoint, tmp_path / "b.onnx", data=dataclasses.replace(data, sha256="2" * 64)).early is None


def test_a_checkpoint_in_memory_has_no_place_of_its_own(tiny_checkpoint):
    with pytest.raises(ValueError, match="output: a checkpoint in memory has no place of its own"):
        export(tiny_checkpoint)


def test_where_lengths_differ_or_few_validate_there_is_no_rule(gestures, tiny_checkpoint, model_bytes_of, validation):
    folder, data = gestures
    file = open_model(export(folder, data=data).path)
    assert choose_early_rule(file, data.validation) is None
    few = validation.take(slice(0, 19))
    assert choose_early_rule(open_model(model_bytes_of(tiny_checkpoint)), few) is None
    assert choose_early_rule(open_model(model_bytes_of(tiny_checkpoint)), validation) is not None
