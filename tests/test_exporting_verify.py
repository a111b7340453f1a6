"""Tests of edgelstm.exporting.verify: an honest file passes, and no file that says or answers otherwise does."""

import dataclasses
import json
from shutil import which

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from sequences import SEQUENCES

from edgelstm import onnx_file
from edgelstm.config import ModelConfig, shipped_dir
from edgelstm.contract import EarlyRule, NoDigitRule, Score, in_batches
from edgelstm.data.dataset import Dataset, Part
from edgelstm.errors import ModelError, ProviderError
from edgelstm.exporting import checks as checks_module
from edgelstm.exporting import export as export_module
from edgelstm.exporting import verify as verify_module
from edgelstm.exporting.export import choose_early_rule
from edgelstm.exporting.graph import probe_sequences
from edgelstm.exporting.verify import BATCH_SIZES, STREAM_SIZES, splits, verify, verify_file
from edgelstm.native.runner import CRunner
from edgelstm.onnx_file import checkpoint_beside, field_bytes, field_number, open_model
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream, logits_by_step
from edgelstm.training.checkpoint import load_checkpoint, save_checkpoint
from edgelstm.training.model import RowLstm, TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")

SAME_CONTRACT, SAME_GRAPH, SAME_VALUES = "same contract", "same graph", "same values and decisions"
FORMS = [("fp32", "picture"), ("fp32", "stream"), ("int8", "picture"), ("int8", "stream"), ("fp16", "picture")]

needs_a_compiler = pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")


@pytest.fixture(scope="module")
def digits(sample):
    return Part(sample.sequences[:40], sample.labels[:40], "the first 40 of the sample")


@pytest.fixture(scope="module")
def validation(sample):
    return Part(sample.sequences[40:60], sample.labels[40:60], "held out")


@pytest.fixture(scope="module", autouse=True)
def _few_validate():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "MIN_FOR_RULE", 20)
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """torch's exporter takes seconds and has its own tests: torch stands in for it. Fewer random pixels."""

    def stand_in(checkpoint, rows):
        return TorchRunner(checkpoint.model())

    monkeypatch.setattr(verify_module, "TorchExportedRunner", stand_in)
    monkeypatch.setattr(verify_module, "probe_sequences", lambda checkpoint: probe_sequences(checkpoint, 32))


@pytest.fixture
def _untrained(monkeypatch):
    """The tiny model's weights are random: it decides by hairs, so a smaller precision loses accuracy by luck."""
    monkeypatch.setattr(checks_module, "costs_accuracy", lambda test, n: False)
    monkeypatch.setattr(checks_module, "INT8_SAME_SHARE", 0.0)


@pytest.fixture
def verdict(tiny_checkpoint, digits):
    """Verify a file's bytes against the tiny checkpoint on the CPU."""

    def ask(content, checkpoint=tiny_checkpoint, **options):
        content = content if isinstance(content, bytes) else content.SerializeToString()
        return verify_file(checkpoint, content, digits, providers=("cpu",), **options)

    return ask


@pytest.fixture
def model(tiny_model_bytes):
    """The honest file as onnx reads it, to be changed."""
    return onnx.load_model_from_string(tiny_model_bytes)


def failed(report):
    """The questions that were answered with no, without their details."""
    found = {check.question.split(":")[0] for check in report.checks if check.passed is False}
    assert report.passed == (not found)
    return found


def answers(report, question):
    return [check.answer for check in report.checks if check.question.startswith(question)]


def node(model, operator):
    return next(node for node in model.graph.node if node.op_type.endswith(operator))


def weight(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def changed(model, name, how):
    """Replace an initializer by ``how`` of its array."""
    tensor = weight(model, name)
    array = np.asarray(how(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def nudged(array):
    array.flat[3] = np.nextafter(array.flat[3], array.dtype.type(np.inf))
    return array


def nudged_last(array):
    array[-1] = np.nextafter(array[-1], array.dtype.type(np.inf))
    return array


def said(model, key, value):
    """Another value in the metadata."""
    entry = next(entry for entry in model.metadata_props if entry.key == f"edgelstm.{key}")
    entry.value = json.dumps(value)


# The honest file


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize(("precision", "kind"), [*FORMS, ("fp16", "stream")])
def test_an_honest_file_passes_in_every_precision_and_form(verdict, tiny_checkpoint, model_bytes_of, precision, kind):
    report = verdict(model_bytes_of(tiny_checkpoint, precision, kind))
    assert failed(report) == set(), [check for check in report.checks if check.passed is False]


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hidden_size=5, n_layers=3),
        ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2),
        ModelConfig(rows=100, cols=3, hidden_size=12, class_names=("rest", "walk", "run")),
        ModelConfig(rows=1, cols=7, hidden_size=3, class_names=("only", "two")),
    ],
    ids=["three layers", "four rows a step, two layers", "100 steps of three columns", "one step"],
)
@pytest.mark.parametrize(("precision", "kind"), FORMS)
@pytest.mark.usefixtures("_untrained")
def test_honest_files_of_every_shape_pass(verdict, checkpoint_of, model_bytes_of, config, precision, kind):
    checkpoint = checkpoint_of(config)
    report = verdict(model_bytes_of(checkpoint, precision, kind), checkpoint)
    assert failed(report) == set(), [check for check in report.checks if check.passed is False]


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize(("precision", "kind"), FORMS)
@pytest.mark.parametrize("config", SEQUENCES.values(), ids=SEQUENCES)
def test_honest_files_of_other_sequences_pass(config, precision, kind, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    part = part_of(checkpoint)
    content = model_bytes_of(checkpoint, precision, kind)
    report = verify_file(checkpoint, content, part, providers=("cpu",))
    assert failed(report) == set(), [check for check in report.checks if check.passed is False]
    assert report.evaluation == "40 sequences (made up)"
    padding = [check for check in report.checks if check.question == "same bits whatever the padding"]
    assert len(padding) == config.variable_length


def part_of(checkpoint):
    """Labelled sequences of a checkpoint's kind; those of unequal length go beyond the longest trained on."""
    sequences, lengths = probe_sequences(checkpoint, 40)
    if lengths is not None:
        sequences, lengths = np.pad(sequences, ((0, 0), (0, 4), (0, 0)), "edge"), lengths + np.int32(2)
    labels = TorchRunner(checkpoint.model()).logits(sequences, lengths).argmax(1)
    return Part(sequences, labels, "made up", lengths)


@pytest.mark.parametrize("name", ["mean", "scale"])
@pytest.mark.parametrize("how", [nudged_last, lambda array: -array, np.flip], ids=["one ulp", "sign", "other columns"])
def test_another_normalisation_is_caught_and_named(name, how, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(SEQUENCES["values"])
    model = onnx.load_model_from_string(model_bytes_of(checkpoint))
    changed(model, name, how)
    report = verify_file(checkpoint, model.SerializeToString(), part_of(checkpoint), providers=("cpu",))
    assert SAME_GRAPH in failed(report)
    assert answers(report, SAME_GRAPH) == [f"differ: {name}"]


def test_a_runner_that_reads_padding_is_caught(checkpoint_of, model_bytes_of, monkeypatch):
    class ReadsAll(verify_module.OrtRunner):
        def logits(self, sequences, lengths=None):
            return super().logits(sequences)

    monkeypatch.setattr("edgelstm.runtime.runner.OrtRunner", ReadsAll)
    checkpoint = checkpoint_of(SEQUENCES["unequal lengths"])
    report = verify_file(checkpoint, model_bytes_of(checkpoint), part_of(checkpoint), providers=("cpu",))
    assert "same bits whatever the padding" in failed(report)


def test_claims_about_other_data_are_not_asked(verdict, tiny_checkpoint, model_bytes_of):
    checkpoint = dataclasses.replace(tiny_checkpoint, test=Score(40, 40))
    content = model_bytes_of(checkpoint)
    assert failed(verdict(content, checkpoint)) == {"claimed accuracy"}
    assert failed(verdict(content, checkpoint, same_data=False)) == set()


def test_a_model_that_no_data_fits_is_compared_on_random_pixels_and_claims_nothing(
    verdict, checkpoint_of, model_bytes_of, validation
):
    config = ModelConfig(rows=100, cols=3, hidden_size=12, class_names=("rest", "walk", "run"))
    checkpoint = dataclasses.replace(checkpoint_of(config), test=Score(8, 10), validation=Score(3, 4))
    content = model_bytes_of(checkpoint, early=EarlyRule(0.9, 2, 50.0, Score(3, 4)))
    report = verdict(content, checkpoint, validation=validation)
    assert (report.passed, report.evaluation) == (True, "random sequences only")
    opened = {check.question for check in report.checks if check.passed is None}
    assert opened == {"claimed validation accuracy", "rule for early exit", "claimed accuracy"}


def test_labels_of_classes_that_the_model_has_not_count_as_other_data(verdict, checkpoint_of, model_bytes_of):
    config = ModelConfig(hidden_size=4, class_names=("0", "1", "2"))
    report = verdict(model_bytes_of(checkpoint_of(config)), checkpoint_of(config))
    assert (report.passed, report.evaluation) == (True, "random sequences only")


def test_every_runner_batch_and_way_to_feed_is_asked(verdict, tiny_model_bytes):
    questions = [check.question for check in verdict(tiny_model_bytes).checks]
    batches = [f"{SAME_VALUES}: onnxruntime CPU, batch {size}" for size in (1, 2, 7, 64, 1000)]
    streams = [
        f"{SAME_VALUES}: row by row on the CPU, {n}" for n in ("1 stream", "7 streams", "64 streams", "1000 streams")
    ]
    expected = [
        SAME_CONTRACT,
        SAME_GRAPH,
        f"{SAME_VALUES}: NumPy, batch 1000",
        f"{SAME_VALUES}: torch.onnx.export, batch 1000",
        *batches,
        *streams,
        f"{SAME_VALUES}: row by row on the CPU, all steps in one call",
    ]
    assert expected == questions[: len(expected)]
    assert sum("calls of" in question for question in questions) == 3
    assert questions[-4:] == [
        f"{SAME_VALUES}: row by row on the CPU, NumPy", "same bits from a saved state", "same claims",
        "claimed accuracy",
    ]  # fmt: skip


def test_a_smaller_precision_is_asked_for_its_kernel_accuracy_and_confidence(verdict, tiny_checkpoint, model_bytes_of):
    questions = {check.question for check in verdict(model_bytes_of(tiny_checkpoint, "int8")).checks}
    for batch in BATCH_SIZES:
        assert {f"same {what}: onnxruntime CPU, batch {batch}" for what in ("accuracy", "confidence")} <= questions
    for n in STREAM_SIZES[1:]:
        how = f"row by row on the CPU, {n} streams"
        assert {f"same accuracy: {how}", f"same confidence: {how}"} <= questions
    assert {f"same values as NumPy: onnxruntime CPU, batch {batch}" for batch in (7, 32)} <= questions
    assert "same values as NumPy: row by row on the CPU, 32 streams" in questions


C_PROVIDERS = ("cpu", "c", "c-int8")


@needs_a_compiler
@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("config", [None, SEQUENCES["unequal lengths, two layers"]], ids=["digits", "unequal lengths"])
def test_the_c_engine_is_asked_for_its_bits_and_decisions(
    tiny_checkpoint, checkpoint_of, model_bytes_of, digits, config
):
    checkpoint = tiny_checkpoint if config is None else checkpoint_of(config)
    part = digits if config is None else None
    report = verify_file(checkpoint, model_bytes_of(checkpoint), part, providers=C_PROVIDERS)
    assert failed(report) == set(), [check for check in report.checks if check.passed is False]
    questions = {check.question for check in report.checks}
    for name in ("C fp32", "C int8"):
        ways = ("whole sequences", "row by row, 100 streams")
        assert {f"same bits as NumPy: {name}, {way}" for way in ways} <= questions
    assert {f"{SAME_VALUES}: C fp32", "same confidence: C int8"} <= questions
    assert ("same accuracy: C int8" in questions) == (config is None)


@needs_a_compiler
def test_a_c_engine_of_other_bits_or_answers_is_caught(tiny_checkpoint, tiny_model_bytes, digits, monkeypatch):
    real = CRunner.logits

    def off(self, sequences, lengths=None):
        logits = real(self, sequences, lengths)
        return np.nextafter(logits, np.float32(np.inf)) if self.precision == "int8" else logits[:, ::-1].copy()

    monkeypatch.setattr(CRunner, "logits", off)
    found = failed(verify_file(tiny_checkpoint, tiny_model_bytes, digits, providers=C_PROVIDERS))
    assert found == {"same bits as NumPy", SAME_VALUES}


def test_the_report_says_which_digits_were_compared_and_the_answers_carry_the_numbers(verdict, tiny_model_bytes):
    report = verdict(tiny_model_bytes)
    assert ("40 sequences (the first 40 of the sample)", "the model", "the checkpoint") == (
        report.evaluation, report.model, report.checkpoint
    )  # fmt: skip
    checks = report.checks
    assert checks[0].answer == "pixels uint8 (batch, 28, 28) -> logits float32 (batch, 10)"
    assert checks[1].answer == "5 nodes, 6 initializers bit for bit"
    assert checks[2].answer.startswith("40/40 sequences and 32/32 random ones decided alike, largest difference ")
    assert checks[2].parity.n == 72


# Changed files. Each fails at the first question that can see it.


def _attribute(operator, **values):
    def change(model):
        for name, value in values.items():
            node(model, operator).attribute.append(helper.make_attribute(name, value))

    return change


def _without_input(operator, at, keep):
    def change(model):
        found = node(model, operator)
        name = found.input[at]
        found.input[at] = ""
        while not found.input[-1]:
            found.input.pop()
        if not keep:
            model.graph.initializer.remove(weight(model, name))

    return change


def _transposed(model):
    """(B, R, C) -> (C, B, R): the same shapes, the picture on its side."""
    node(model, "Transpose").attribute[0].ints[:] = [2, 0, 1]


def _bottom_up(model):
    """A Slice with step -1 over the rows, before the LSTM."""
    node(model, "LSTM").input[0] = "reversed"
    at = [n.name for n in model.graph.node].index("lstm_0")
    names = ["start", "end", "axis", "step"]
    model.graph.node.insert(at, helper.make_node("Slice", ["sequence", *names], ["reversed"], name="reverse"))
    for name, value in zip(names, (-1, -(2**31), 0, -1), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))


def _first_state(model):
    """Y's first step instead of Y_h: a Gather on the sequence of outputs."""
    lstm = node(model, "LSTM")
    lstm.output[:] = ["all", ""]
    at = list(model.graph.node).index(lstm) + 1
    model.graph.node.insert(at, helper.make_node("Gather", ["all", "direction_axis"], ["first"], axis=0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int64), "two_axes"))
    node(model, "Squeeze").input[:] = ["first", "two_axes"]


def _given_states(model):
    hidden = weight(model, "head.weight").dims[1]
    for at, name in ((5, "first_h"), (6, "first_c")):
        found = node(model, "LSTM")
        while len(found.input) <= at:
            found.input.append("")
        found.input[at] = name
        model.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, hidden), 0.1, np.float32), name))


def _loop(model):
    """Takes the logits through 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
        ],
    )
    last = model.graph.node[-1]
    last.output[0] = "once"
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "rounds"))
    model.graph.node.append(helper.make_node("Loop", ["rounds", "", "once"], ["logits"], body=body))


def _outside(model):
    tensor = weight(model, "head.weight")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL


def _renamed_value(model):
    node(model, "Transpose").output[0] = node(model, "LSTM").input[0] = "other"


def _more_metadata_of_ours(model):
    helper.set_model_props(model, {e.key: e.value for e in model.metadata_props} | {"edgelstm.extra": "1"})


def _set(message, **values):
    """Fields of a part of the model, found by a function."""

    def change(model):
        for name, value in values.items():
            setattr(message(model), name, value)

    return change


def _swapped(side, one, other):
    def change(model):
        names = getattr(node(model, "LSTM"), side)
        names[one], names[other] = names[other], names[one]

    return change


def _forgets(at):
    def change(model):
        node(model, "LSTM").input[at] = ""

    return change


def _spoiled(model):
    def spoil(array):
        array.flat[0] = np.nan
        return array

    changed(model, "head.bias", spoil)


STRANGE_GRAPHS = {
    "Gemm alpha 0.5": _attribute("Gemm", alpha=0.5),
    "Gemm beta 0": _attribute("Gemm", beta=0.0),
    "Gemm beta 2": _attribute("Gemm", beta=2.0),
    "LSTM clip": _attribute("LSTM", clip=0.5),
    "LSTM backwards": _attribute("LSTM", direction="reverse"),
    "LSTM input_forget": _attribute("LSTM", input_forget=1),
    "LSTM relu": _attribute("LSTM", activations=["Sigmoid", "Relu", "Relu"]),
    "no head bias": _without_input("Gemm", 2, keep=False),
    "head bias unused": _without_input("Gemm", 2, keep=True),
    "no LSTM bias": _without_input("LSTM", 3, keep=False),
    "LSTM bias unused": _without_input("LSTM", 3, keep=True),
    "columns as rows": _transposed,
    "bottom up": _bottom_up,
    "first state": _first_state,
    "states given": _given_states,
    "endless loop": _loop,
    "weights outside": _outside,
    "extra initializer": lambda model: model.graph.initializer.append(numpy_helper.from_array(np.ones(1), "extra")),
    "weight left out": lambda model: model.graph.initializer.remove(weight(model, "head.weight")),
    "another axis": lambda model: changed(model, "direction_axis", lambda array: array - 3),
    "node renamed": _set(lambda model: node(model, "Gemm"), name="other"),
    "value renamed": _renamed_value,
    "another domain": _set(lambda model: node(model, "Gemm"), domain="ai.other"),
    "opset 19": _set(lambda model: model.opset_import[0], version=19),
    "another opset": lambda model: model.opset_import.append(helper.make_opsetid("ai.other", 1)),
    "another output name": lambda model: _set(lambda m: m.graph.output[0], name="scores")(model),
    "fixed batch": _set(lambda model: model.graph.input[0].type.tensor_type.shape.dim[0], dim_value=1),
    "a doc string": _set(lambda model: model.graph, doc_string="hello"),
    "a local function": lambda model: model.functions.append(onnx.FunctionProto(name="Gemm", domain="")),
    "no metadata": lambda model: model.ClearField("metadata_props"),
    "foreign metadata of ours": _more_metadata_of_ours,
    "NaN": _spoiled,
}


@pytest.mark.parametrize("name", STRANGE_GRAPHS)
@pytest.mark.parametrize(("precision", "kind"), FORMS)
def test_a_graph_that_infer_would_not_run_is_not_run_and_not_verified(
    verdict, tiny_checkpoint, model_bytes_of, monkeypatch, precision, kind, name
):
    def run(*arguments, **options):
        raise AssertionError("a session was made")

    monkeypatch.setattr(verify_module, "OrtRunner", run)
    monkeypatch.setattr(verify_module, "Stream", run)
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, precision, kind))
    STRANGE_GRAPHS[name](model)
    report = verdict(model)
    assert (failed(report), len(report.checks)) == ({SAME_CONTRACT}, 1)


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "h forgotten": _forgets(5),
        "c forgotten": _forgets(6),
        "states swapped": _swapped("input", 5, 6),
        "next states swapped": _swapped("output", 1, 2),
    }.items(),
)
def test_a_stream_that_loses_its_state_is_not_verified(verdict, tiny_checkpoint, model_bytes_of, name, change):
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, kind="stream"))
    change(model)
    assert failed(verdict(model)) == {SAME_CONTRACT}


def _swapped_gates(array):
    """torch's order i, f, g, o left as it was."""
    axis = next(axis for axis, size in enumerate(array.shape) if size in (32, 64))
    order = (0, 2, 3, 1) if array.shape[axis] == 32 else (0, 2, 3, 1, 4, 6, 7, 5)
    parts = np.split(array, len(order), axis)
    return np.concatenate([parts[gate] for gate in order], axis)


def _one_bit(array):
    content = bytearray(array.tobytes())
    content[0] ^= 1
    return np.frombuffer(bytes(content), array.dtype).reshape(array.shape)


CHANGED_WEIGHTS = [
    *(("fp32", name, how) for name in ("lstm_0.W", "lstm_0.R", "lstm_0.B") for how in (nudged, _swapped_gates)),
    *(("fp32", name, nudged) for name in ("head.weight", "head.bias")),
    *(("fp16", name, nudged) for name in ("lstm_0.W", "lstm_0.R", "lstm_0.B", "head.weight", "head.bias")),
    *(("int8", name, nudged) for name in ("lstm_0.B", "head.weight", "head.bias")),
    *(("int8", name, how) for name in ("lstm_0.W", "lstm_0.R") for how in (_one_bit, _swapped_gates)),
    *(("int8", f"lstm_0.{key}_scale", lambda scale: scale * np.float32(1.01)) for key in "WR"),
    *(("int8", f"lstm_0.{key}_zero_point", lambda zero: zero + np.int8(1)) for key in "WR"),
]


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("kind", ["picture", "stream"])
@pytest.mark.parametrize(("precision", "name", "how"), CHANGED_WEIGHTS)
def test_a_weight_changed_by_its_last_bit_is_caught_and_named(
    verdict, tiny_checkpoint, model_bytes_of, precision, kind, name, how
):
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, precision, kind))
    if precision == "fp16" and kind == "stream":
        how = _one_bit
    changed(model, name, how)
    report = verdict(model)
    assert SAME_GRAPH in failed(report)
    assert answers(report, SAME_GRAPH) == [f"differ: {name}"]


def test_a_weight_of_zero_that_changed_its_sign_is_caught(verdict, tiny_checkpoint, model_bytes_of):
    weights = {name: value.clone() for name, value in tiny_checkpoint.weights.items()}
    weights["head.bias"][0] = 0.0
    checkpoint = dataclasses.replace(tiny_checkpoint, weights=weights)
    model = onnx.load_model_from_string(model_bytes_of(checkpoint))
    changed(model, "head.bias", lambda array: np.where(array == 0, np.float32(-0.0), array))
    assert failed(verdict(model, checkpoint)) == {SAME_GRAPH}


@pytest.mark.parametrize(
    "change",
    [
        _set(lambda model: model, ir_version=9),
        _set(lambda model: model, producer_name="other"),
        _set(lambda model: model.graph, name="other"),
        lambda model: node(model, "Cast").attribute[0].ints.append(1),
    ],
    ids=["ir version", "producer", "graph's name", "a second value in an attribute"],
)
def test_whatever_else_stands_in_the_file_otherwise_is_caught(verdict, model, change):
    change(model)
    assert failed(verdict(model)) & {SAME_GRAPH, SAME_CONTRACT}


def test_another_order_of_initializers_or_metadata_is_no_other_answer(verdict, model):
    """What a tool may do that reads the file and writes it again."""
    tensors = [*model.graph.initializer][::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    assert failed(verdict(model)) <= {SAME_GRAPH, SAME_CONTRACT}


@pytest.mark.parametrize(
    "tail",
    [
        b"\x00",
        b"garbage",
        field_number(1, 9),
        field_bytes(2, "other"),
        field_bytes(7, field_bytes(2, "other")),
        field_bytes(7, field_bytes(1, field_bytes(4, "Identity"))),
        field_bytes(8, field_bytes(1, "") + field_number(2, 19)),
        field_bytes(14, field_bytes(1, "edgelstm.seed") + field_bytes(2, "7")),
        field_bytes(25, field_bytes(1, "Gemm")),
        field_bytes(99, "unknown"),
    ],
    ids=["a zero", "text", "ir version", "producer", "graph", "node", "opset", "metadata", "function", "unknown"],
)
def test_what_is_appended_to_a_file_is_not_merged_into_it(verdict, tiny_model_bytes, tail):
    """protobuf takes the last of two values, and merges two messages."""
    assert failed(verdict(tiny_model_bytes + tail)) == {SAME_CONTRACT}


def test_a_truncated_file_is_caught(verdict, tiny_model_bytes):
    assert failed(verdict(tiny_model_bytes[:-100])) == {SAME_CONTRACT}


@pytest.mark.parametrize(("key", "value"), [("author", "someone"), ("edgelstm", "x")])
def test_metadata_of_others_change_no_answer_and_are_left_alone(verdict, tiny_model_bytes, key, value):
    content = tiny_model_bytes + field_bytes(14, field_bytes(1, key) + field_bytes(2, value))
    assert failed(verdict(content)) == set()
    assert Stream(content).contract == Stream(tiny_model_bytes).contract


def test_the_library_versions_of_an_older_export_are_no_lie(verdict, model):
    said(model, "versions", {"edgelstm": "0.0.1"})
    model.producer_version = "0.0.1"
    assert failed(verdict(model)) == set()


def test_an_int8_file_from_before_shapes_were_written_passes(verdict, tiny_checkpoint, model_bytes_of):
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, "int8"))
    assert model.graph.value_info
    del model.graph.value_info[:]
    assert SAME_GRAPH not in failed(verdict(model))


# Another checkpoint


def test_another_models_checkpoint_of_the_same_shape_is_caught(verdict, tiny_model_bytes, tiny_checkpoint):
    weights = {name: value + 0.1 for name, value in tiny_checkpoint.weights.items()}
    other = dataclasses.replace(tiny_checkpoint, weights=weights)
    assert {SAME_GRAPH, SAME_VALUES, "same claims"} <= failed(verdict(tiny_model_bytes, other))


def test_another_models_checkpoint_of_another_shape_is_caught_at_once(verdict, tiny_model_bytes, tiny_checkpoint):
    config = ModelConfig(hidden_size=4)
    other = dataclasses.replace(tiny_checkpoint, config=config, weights=RowLstm(config).state_dict())
    report = verdict(tiny_model_bytes, other)
    assert failed(report) == {SAME_CONTRACT}
    assert "hidden_size 8" in report.checks[0].answer.split("expected")[0]
    assert "hidden_size 4" in report.checks[0].answer.split("expected")[1]


def test_a_checkpoint_with_a_nan_verifies_no_file(verdict, tiny_checkpoint, model, tiny_model_bytes):
    weights = {name: value.clone() for name, value in tiny_checkpoint.weights.items()}
    weights["head.bias"][0] = float("nan")
    checkpoint = dataclasses.replace(tiny_checkpoint, weights=weights)
    with pytest.raises(ModelError, match=r"the checkpoint cannot be exported as fp32: .*head\.bias"):
        verdict(tiny_model_bytes, checkpoint)
    _spoiled(model)  # equally broken
    assert failed(verdict(model, checkpoint)) == {SAME_CONTRACT}


# What the file says of itself


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize(("precision", "kind"), [("fp32", "picture"), ("int8", "stream")])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("seed", 7),
        ("recipe", "best"),
        ("temperature", 1.5),
        ("no_digit", {"hidden": [[0.5] * 71], "output": [1.0, 0.0]}),
        ("weights_sha256", "1" * 64),
        ("data_sha256", None),
        ("validation", {"n_right": 9, "n": 10}),
    ],
)
def test_a_claim_that_is_not_the_checkpoints_is_caught(
    verdict, tiny_checkpoint, model_bytes_of, precision, kind, key, value
):
    rule = NoDigitRule(((0.5,) * 71,), (1.0, 0.5))
    checkpoint = dataclasses.replace(tiny_checkpoint, temperature=1.25, no_digit=rule)
    model = onnx.load_model_from_string(model_bytes_of(checkpoint, precision, kind))
    said(model, key, value)
    report = verdict(model, checkpoint)
    assert "same claims" in failed(report)
    assert f"{key} is " in answers(report, "same claims")[0]


def test_other_class_names_are_caught(verdict, model, tiny_config):
    config = dataclasses.replace(tiny_config, class_names=tuple("9876543210"))
    said(model, "config", dataclasses.asdict(config))
    assert failed(verdict(model)) == {SAME_CONTRACT}


def counted(checkpoint, digits):
    return Score.of(TorchRunner(checkpoint.model()).logits(digits.sequences), digits.labels)


@pytest.mark.parametrize("lie", [-1, 1])
@pytest.mark.parametrize("told_by", ["the file", "both"])
def test_an_accuracy_claim_that_is_off_by_one_is_caught(verdict, tiny_checkpoint, model_bytes_of, digits, lie, told_by):
    true = counted(tiny_checkpoint, digits)
    lying = dataclasses.replace(tiny_checkpoint, test=Score(true.n_right + lie, 40))
    report = verdict(model_bytes_of(lying), lying if told_by == "both" else tiny_checkpoint)
    assert failed(report) == {"claimed accuracy"} | ({"same claims"} if told_by == "the file" else set())
    assert answers(report, "claimed accuracy") == [f"counted {true}, the file says {lying.test}"]


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("kind", ["picture", "stream"])
@pytest.mark.parametrize("lie", [-1, 0, 1])
def test_the_own_score_of_int8_is_counted_again(verdict, tiny_checkpoint, model_bytes_of, digits, kind, lie):
    runner = OrtRunner(model_bytes_of(tiny_checkpoint, "int8"), provider="cpu")
    true = Score.of(in_batches(runner, digits.sequences, 1), digits.labels)
    content = model_bytes_of(tiny_checkpoint, "int8", kind, test=Score(true.n_right + lie, 40))
    assert failed(verdict(content)) == ({"claimed accuracy"} if lie else set())


@pytest.mark.usefixtures("_untrained")
def test_a_score_of_the_sample_is_counted_where_all_digits_are(verdict, tiny_checkpoint, model_bytes_of, digits):
    """The sample is the first of the test images. A file that was judged by it says so, and is held to it."""
    runner = OrtRunner(model_bytes_of(tiny_checkpoint, "int8"), provider="cpu")
    true = Score.of(in_batches(runner, digits.sequences[:10], 1), digits.labels[:10])
    for lie in (0, 1):
        claimed = Score(true.n_right + lie, 10)
        report = verdict(model_bytes_of(tiny_checkpoint, "int8", test=claimed))
        assert failed(report) == ({"claimed accuracy"} if lie else set())
        assert answers(report, "claimed accuracy") == [f"counted {true}, the file says {claimed}"]


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_claim_about_more_digits_than_are_here_is_open_or_refuted_by_these_alone(
    verdict, tiny_checkpoint, model_bytes_of, digits, precision
):
    n_wrong = 40 - counted(tiny_checkpoint, digits).n_right
    assert n_wrong > 5
    for claimed_wrong, verdict_on_it in ((n_wrong + 20, None), (n_wrong - 5, False)):
        claimed = Score(10_000 - claimed_wrong, 10_000)
        checkpoint = dataclasses.replace(tiny_checkpoint, test=claimed if precision == "fp32" else None)
        report = verdict(model_bytes_of(checkpoint, precision, test=claimed), checkpoint)
        found = next(check for check in report.checks if check.question == "claimed accuracy")
        assert found.passed is verdict_on_it
        assert f"the file claims {claimed}, and the others are not on this machine" in found.answer
        assert (f"no more than {claimed_wrong} may be wrong" in found.answer) == (verdict_on_it is False)
        assert report.n_open == (verdict_on_it is None)


def test_a_file_without_a_test_score_says_what_was_counted(verdict, tiny_model_bytes, tiny_checkpoint, digits):
    """An interrupted training has none."""
    found = next(c for c in verdict(tiny_model_bytes).checks if c.question == "claimed accuracy")
    expected = f"{counted(tiny_checkpoint, digits)} of these sequences; the file claims none"
    assert (found.passed, found.answer) == (None, expected)


@pytest.mark.parametrize("lie", [-1, 0, 1])
def test_the_validation_score_is_counted_again_where_the_data_is(
    verdict, tiny_checkpoint, model_bytes_of, validation, lie
):
    true = counted(tiny_checkpoint, validation)
    checkpoint = dataclasses.replace(tiny_checkpoint, validation=Score(true.n_right + lie, 20))
    report = verdict(model_bytes_of(checkpoint), checkpoint, validation=validation)
    assert failed(report) == ({"claimed validation accuracy"} if lie else set())
    report = verdict(model_bytes_of(checkpoint), checkpoint)
    found = next(c for c in report.checks if c.question == "claimed validation accuracy")
    assert (found.passed, found.answer) == (
        None, f"the file claims {checkpoint.validation}, and the sequences are not on this machine"
    )  # fmt: skip


# The rule for early exit


@pytest.fixture(scope="module")
def rule(tiny_checkpoint, model_bytes_of, validation):
    return choose_early_rule(open_model(model_bytes_of(tiny_checkpoint)), validation)


def rule_check(report):
    return next(check for check in report.checks if check.question == "rule for early exit")


def test_the_rule_that_validation_chooses_passes_and_is_open_without_it(
    verdict, tiny_checkpoint, model_bytes_of, validation, rule
):
    content = model_bytes_of(tiny_checkpoint, early=rule)
    found = rule_check(verdict(content, validation=validation))
    assert (found.passed, found.answer) == (True, f"a {rule}")
    found = rule_check(verdict(content))
    assert (found.passed, found.answer) == (None, f"a {rule}: the sequences that chose it are not on this machine")


def test_a_rule_of_an_earlier_versions_temperature_is_held_to_it(verdict, checkpoint_of, model_bytes_of, validation):
    checkpoint = dataclasses.replace(checkpoint_of(ModelConfig(hidden_size=8)), temperature=0.5)
    file = open_model(model_bytes_of(checkpoint))
    old = choose_early_rule(file, validation, 1.0)
    assert (old.temperature, choose_early_rule(file, validation).temperature) == (1.0, 0.5)
    for early, passed in ((old, True), (dataclasses.replace(old, mean_rows=1.0), False)):
        report = verdict(model_bytes_of(checkpoint, early=early), checkpoint, validation=validation)
        assert rule_check(report).passed is passed


@pytest.mark.parametrize("kind", ["picture", "stream"])
@pytest.mark.parametrize(
    "lie",
    [{"confidence": 0.51}, {"n_stable": 9}, {"mean_rows": 3.5}, {"validation": Score(180, 180)}],
    ids=str,
)
def test_a_rule_that_is_not_the_one_of_validation_is_caught(
    verdict, tiny_checkpoint, model_bytes_of, validation, rule, kind, lie
):
    lying = dataclasses.replace(rule, **lie)
    assert lying != rule
    report = verdict(model_bytes_of(tiny_checkpoint, kind=kind, early=lying), validation=validation)
    assert "rule for early exit" in failed(report)
    assert rule_check(report).answer.startswith("the file says EarlyRule(")


def test_a_rule_that_loses_digits_is_caught_without_validation_too(verdict, model_bytes_of, sample):
    shipped = dataclasses.replace(load_checkpoint(shipped_dir() / "nano.safetensors"), test=None, validation=None)
    content = model_bytes_of(shipped, early=EarlyRule(0.5, 1, temperature=shipped.temperature))
    digits = Part(sample.sequences[:200], sample.labels[:200], "some")
    report = verify_file(shipped, content, digits, providers=("cpu",))
    assert failed(report) == {"early exit"}
    assert "lost" in answers(report, "early exit")[0]


# Each question stands alone: what the contract and the graph would catch first is caught by the values too


@pytest.fixture
def values_of(verdict, monkeypatch):
    """The questions about values that a changed file fails when neither contract nor graph is looked at."""
    monkeypatch.setattr(onnx_file, "_check_graph", lambda *arguments: None)

    def ask(content, *arguments):
        return failed(verdict(content, *arguments)) - {SAME_GRAPH, "same claims", "claimed accuracy"}

    return ask


@pytest.mark.parametrize(
    "name", ["LSTM backwards", "LSTM bias unused", "columns as rows", "bottom up",
             "first state", "states given", "Gemm alpha 0.5", "Gemm beta 0", "LSTM clip"],
)  # fmt: skip
def test_a_graph_of_other_answers_is_caught_by_its_values(values_of, model, name):
    STRANGE_GRAPHS[name](model)
    assert SAME_VALUES in values_of(model)


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R", "lstm_0.B"])
def test_swapped_gates_are_caught_by_the_values(values_of, model, name):
    changed(model, name, _swapped_gates)
    assert SAME_VALUES in values_of(model)


def test_a_forgotten_pixel_scale_is_caught_by_the_values(values_of, model):
    changed(model, "lstm_0.W", lambda array: array * np.float32(255))
    assert SAME_VALUES in values_of(model)


def test_a_change_that_no_digit_shows_is_caught_by_the_random_pixels(verdict, model, digits):
    """The outermost column is background in every digit, so its weights change no real decision."""
    assert digits.sequences[:, :, 0].max() == 0

    def spoil(array):
        array[..., 0] += 1
        return array

    changed(model, "lstm_0.W", spoil)
    report = verdict(model)
    assert failed(report) == {SAME_GRAPH, SAME_VALUES}
    assert report.checks[2].answer.startswith("40/40 sequences")
    assert "MORE THAN" in report.checks[2].answer


@pytest.mark.parametrize(
    ("change", "lie"),
    [(_forgets(5), "h"), (_forgets(6), "c"), (_swapped("input", 5, 6), "swapped")],
    ids=["h", "c", "both"],
)
def test_a_state_that_each_call_forgets_is_caught_by_every_split_but_one_call(
    verdict, tiny_checkpoint, model_bytes_of, monkeypatch, change, lie
):
    monkeypatch.setattr(onnx_file, "_check_graph", lambda *arguments: None)
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, kind="stream"))
    change(model)
    report = verdict(model)
    wrong = [check.question for check in report.checks if check.passed is False]
    assert f"{SAME_VALUES}: row by row on the CPU, 1 stream" in wrong
    assert f"{SAME_VALUES}: row by row on the CPU, NumPy" in wrong
    assert f"{SAME_VALUES}: row by row on the CPU, all steps in one call" not in wrong


@pytest.mark.usefixtures("_untrained")
def test_int8_of_other_scales_is_caught_by_its_values(verdict, tiny_checkpoint, model_bytes_of):
    model = onnx.load_model_from_string(model_bytes_of(tiny_checkpoint, "int8"))
    changed(model, "lstm_0.W_scale", lambda scale: scale * np.float32(50))
    assert {SAME_GRAPH, "same confidence"} <= failed(verdict(model))


@pytest.mark.parametrize(("shift", "seen"), [(0.0, False), (1e-6, False), (1e-4, True)])
def test_a_runner_that_is_further_off_than_rounding_is_caught(verdict, tiny_model_bytes, monkeypatch, shift, seen):
    class Off(TorchRunner):
        def logits(self, pixels):
            logits = super().logits(pixels)
            logits[:, 3] += np.float32(shift)
            return logits

    monkeypatch.setattr(verify_module, "TorchExportedRunner", lambda checkpoint, rows: Off(checkpoint.model()))
    report = verdict(tiny_model_bytes)
    assert failed(report) == ({SAME_VALUES} if seen else set())
    assert ("MORE THAN" in answers(report, f"{SAME_VALUES}: torch.onnx.export")[0]) == seen


def test_a_state_that_is_restored_wrongly_is_caught(verdict, tiny_model_bytes, monkeypatch):
    restore = Stream.restore

    def forgetful(self, state):
        restore(self, state)
        self._steps.arrays[1][:] = 0

    monkeypatch.setattr(Stream, "restore", forgetful)
    assert failed(verdict(tiny_model_bytes)) == {"same bits from a saved state"}


def test_the_rows_logits_are_those_of_that_many_rows(tiny_model_bytes, digits):
    """logits_by_step at step t is a fresh stream's answer after t rows."""
    by_step = logits_by_step(Stream(tiny_model_bytes, n_streams=7), digits.sequences)
    for rows in (1, 13, 28):
        found = Stream(tiny_model_bytes, n_streams=40).push(digits.sequences[:, :rows])
        np.testing.assert_allclose(found, by_step[:, rows - 1], atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 28, 100])
def test_a_split_holds_every_step(n_steps):
    assert {n_steps} == {sum(sizes) for _, sizes in splits(n_steps)}
    assert all(min(sizes) >= 1 for _, sizes in splits(n_steps))


# Providers and files


def test_a_missing_file_is_a_clear_answer(tiny_checkpoint, digits, tmp_path):
    report = verify_file(tiny_checkpoint, tmp_path / "nowhere.onnx", digits)
    assert failed(report) == {SAME_CONTRACT}
    assert "no model" in report.checks[0].answer
    assert "nowhere.onnx: found no such file" in report.checks[0].answer


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_a_provider_asked_for_by_name_must_be_there(tiny_checkpoint, model_bytes_of, digits, monkeypatch, kind):
    monkeypatch.setattr("edgelstm.runtime.session.cuda_problem", lambda ort: "no GPU here")
    with pytest.raises(ProviderError, match="provider cuda cannot run this model: no GPU here"):
        verify_file(tiny_checkpoint, model_bytes_of(tiny_checkpoint, kind=kind), digits, providers=("cpu", "cuda"))


def test_a_provider_asked_for_twice_is_checked_once(tiny_checkpoint, digits, tiny_model_bytes, monkeypatch):
    monkeypatch.setattr("edgelstm.runtime.session.cuda_problem", lambda ort: "no GPU here")
    report = verify_file(tiny_checkpoint, tiny_model_bytes, digits, providers=("auto", "cpu"))
    assert len(BATCH_SIZES) == sum("onnxruntime CPU" in check.question for check in report.checks)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_keep_every_image_in_its_order(batch_size):
    class Ramp:
        name = "ramp"

        def logits(self, pixels):
            assert len(pixels) <= batch_size
            return pixels.reshape(len(pixels), -1).astype(np.float32)

    pixels = np.arange(7, dtype=np.uint8).reshape(7, 1, 1)
    assert in_batches(Ramp(), pixels, batch_size)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("ending", [".onnx", ".int8.onnx", ".fp16.onnx", ".stream.onnx", ".stream.int8.onnx"])
def test_the_checkpoint_is_expected_beside_the_model(tmp_path, ending):
    assert tmp_path / "model.safetensors" == checkpoint_beside(tmp_path / f"model{ending}")


# By names, with the data that the model was trained on


@pytest.fixture
def gestures(tmp_path, checkpoint_of, model_bytes_of):
    """A run folder of a model of values with its file, and data that it answers rightly."""
    checkpoint = dataclasses.replace(
        checkpoint_of(SEQUENCES["unequal lengths"]), data_sha256="1" * 64, test=Score(40, 40), validation=Score(40, 40)
    )
    part = part_of(checkpoint)
    save_checkpoint(tmp_path / "model.safetensors", checkpoint)
    (tmp_path / "model.onnx").write_bytes(model_bytes_of(checkpoint))
    names = checkpoint.config.class_names
    return tmp_path, Dataset("gestures", "values", names, part, part, part, sha256="1" * 64, split="given")


def test_a_run_folder_is_verified_with_its_own_data(gestures):
    folder, data = gestures
    lines = []
    report = verify(folder, data=data, providers=("cpu",), on_progress=lines.append)
    assert (failed(report), report.n_open) == (set(), 0)
    assert lines == [
        f"verifying {folder / 'model.onnx'} against {folder / 'model.safetensors'} on 40 sequences (made up)"
    ]
    assert answers(report, "claimed accuracy") == ["counted 40/40 (100.00 %), the file says 40/40 (100.00 %)"]


def test_with_other_data_claims_stay_open_and_that_is_said(gestures):
    folder, data = gestures
    other = dataclasses.replace(data, sha256="2" * 64, test=data.test.take(slice(0, 9)))
    lines = []
    report = verify(folder, data=other, providers=("cpu",), on_progress=lines.append)
    assert lines[1].startswith("this is not the data that the model was trained on")
    opened = {check.question for check in report.checks if check.passed is None}
    assert (failed(report), opened) == (set(), {"claimed accuracy", "claimed validation accuracy"})


def test_without_its_data_a_model_is_verified_on_random_sequences(gestures):
    folder, _ = gestures
    report = verify(folder, providers=("cpu",))
    assert (failed(report), report.evaluation) == (set(), "random sequences only")


def test_a_model_in_memory_needs_a_checkpoint_by_name(tiny_model_bytes, tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="checkpoint: a model in memory has none beside it"):
        verify(tiny_model_bytes)
    save_checkpoint(tmp_path / "x.safetensors", tiny_checkpoint)
    assert verify(tiny_model_bytes, tmp_path / "x.safetensors", providers=("cpu",)).passed
