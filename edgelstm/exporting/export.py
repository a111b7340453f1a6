"""Checkpoint -> ONNX file: checked, and proven as good as the checkpoint before it gets its name."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgelstm.config import FAMILY, ModelConfig, shipped_dir
from edgelstm.contract import EarlyRule, Pixels, Precision, Score, in_batches
from edgelstm.data.dataset import Part
from edgelstm.data.evaluation import DataSource, evaluation_of
from edgelstm.data.npm import Report
from edgelstm.errors import CheckpointError, DataError, ParityError
from edgelstm.exporting.graph import build_graph, checked_file, contract_of, probe_sequences
from edgelstm.files import write_bytes
from edgelstm.measure.timing import Ratio, ratio_of
from edgelstm.onnx_file import ModelFile
from edgelstm.runtime.early_exit import choose_rule
from edgelstm.runtime.parity import MAX_LOSS, McNemar, ParityReport, compare, costs_accuracy, mcnemar
from edgelstm.runtime.reference import MAX_TOLERANCE, rounding_tolerance
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream, logits_by_step
from edgelstm.training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from edgelstm.training.model import TorchRunner

MIN_FOR_RULE = 500
"""Validation sequences that a rule for early exit is chosen by, at least."""
VALIDATION_STREAMS = {"fp32": 100, "fp16": 100, "int8": 1}
"""Sequences side by side while the rule is chosen: fp32's logits do not depend on it, int8's do."""


@dataclass(frozen=True)
class Exported:
    """A model file that passed every check."""

    path: Path
    n_bytes: int
    operators: tuple[str, ...]
    """The graph's operators, in order."""
    parity: ParityReport
    """fp32: onnxruntime against the checkpoint in torch. int8, fp16: against fp32, for information."""
    tradeoff: "Tradeoff | None" = None
    early: EarlyRule | None = None
    """The rule for early exit, if validation sequences were at hand."""


@dataclass(frozen=True)
class Tradeoff:
    """What a smaller precision costs and gains against fp32, each sequence run alone as on an edge device."""

    precision: Precision
    fp32: Score
    reduced: Score
    mcnemar: McNemar
    speed: Ratio
    """Its time over fp32's for one sequence on this machine's CPU."""

    @property
    def loss(self) -> float:
        """Share of the sequences lost, negative if the smaller one is better."""
        return self.fp32.accuracy - self.reduced.accuracy


def export(
    run: Checkpoint | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    precision: Precision = "fp32",
    *,
    data: DataSource = None,
    channels_first: bool = False,
    streaming: bool = False,
    force: bool = False,
    on_progress: Report = lambda line: None,
) -> Exported:
    """Export a run folder or a checkpoint as `write_model` does, judged and tuned by ``data``.

    ``output`` is by default model.onnx, model.int8.onnx, model.stream.onnx ... in the run folder, or beside the
    checkpoint. ``data`` is what the model was trained on (None: MNIST, if it reads such); int8 and fp16 need it.
    Raises CheckpointError or DataError besides what `write_model` raises.
    """
    checkpoint, source = run if isinstance(run, Checkpoint) else None, None
    if checkpoint is None:
        assert not isinstance(run, Checkpoint)
        source = Path(run) / CHECKPOINT_FILE if os.path.isdir(run) else Path(run)
        if not source.exists() and str(source) in FAMILY:
            fix = f"name it: edgelstm export {shipped_dir() / source}.safetensors -o {source}.onnx"
            raise CheckpointError(f"{source} is the name of a shipped model, which has been exported", fix=fix)
        checkpoint = load_checkpoint(source)
    if output is None:
        if source is None:
            raise ValueError("output: a checkpoint in memory has no place of its own, expected a file name")
        suffix = (".stream" if streaming else "") + ("" if precision == "fp32" else f".{precision}") + ".onnx"
        output = source.with_suffix(suffix)
    evaluation = evaluation_of(data, checkpoint.config, channels_first=channels_first, report=on_progress)
    if precision != "fp32":
        if evaluation.test is None:
            raise DataError(
                f"{precision} is judged by its accuracy, and no data here has this model's shape",
                found=f"a model of {_shape_of(checkpoint.config)}", expected="the data that it was trained on",
                fix="name it with --data, or export fp32",
            )  # fmt: skip
        on_progress(f"comparing {precision} with fp32 on {evaluation}")
    # a rule that other data has chosen is none that its own validation sequences can prove
    validation = evaluation.validation if evaluation.sha256 == checkpoint.data_sha256 else None
    if validation and can_choose_rule(checkpoint.config, validation):
        on_progress("choosing the rule for early exit on the validation sequences")
    return write_model(
        checkpoint, Path(output), precision, streaming=streaming, evaluation=evaluation.test, validation=validation,
        force=force,
    )  # fmt: skip


def write_model(
    checkpoint: Checkpoint,
    target: Path,
    precision: Precision = "fp32",
    *,
    streaming: bool = False,
    evaluation: Part | None = None,
    validation: Part | None = None,
    force: bool = False,
) -> Exported:
    """Write the checkpoint as ONNX. Nothing is written unless every check passes.

    fp32: onnxruntime's logits must be torch's, to what rounding explains, and its decisions the same. int8 and fp16:
    at most MAX_LOSS of the ``evaluation`` sequences may be lost, unless ``force``. The ``validation`` sequences
    choose the rule for early exit; without them the file has none. ``streaming`` writes the stateful form, for
    runtimes in other languages; edgelstm itself streams every model.

    Raises ModelError if the graph is not exactly the contract's, ParityError if a check fails, OutputError if the file
    cannot be written, ValueError if a reduced precision comes without ``evaluation``.
    """
    source = f"{target}, which was not written,"
    fp32 = checked_file(build_graph(checkpoint, contract_of(checkpoint)), source)
    tradeoff, file = None, fp32
    if precision == "fp32":
        parity = _checked_parity(checkpoint, fp32, target)
    else:
        if evaluation is None:
            raise ValueError(f"{precision} is judged by evaluation sequences: found none")
        file = checked_file(build_graph(checkpoint, contract_of(checkpoint, precision)), source)
        tradeoff, parity = _tradeoff(precision, evaluation, fp32, file)
        if not force:
            _refuse_a_loss(target, tradeoff)
    rule = choose_early_rule(file, validation) if validation is not None else None
    contract = contract_of(
        checkpoint, precision, test=tradeoff.reduced if tradeoff else None, early=rule,
        kind="stream" if streaming else "picture",
    )  # fmt: skip
    written = checked_file(build_graph(checkpoint, contract), source)
    write_bytes(target, written.content)
    operators = tuple(node.operator for node in written.graph.nodes)
    return Exported(target, written.n_bytes, operators, parity, tradeoff, rule)


def _checked_parity(checkpoint: Checkpoint, file: ModelFile, target: Path) -> ParityReport:
    """onnxruntime against torch on random sequences. Raises ParityError if they differ by more than rounding."""
    probe = probe_sequences(checkpoint)
    tolerance = rounding_tolerance(file.graph, *probe)
    expected, found = (
        runner.logits(*probe) for runner in (TorchRunner(checkpoint.model()), OrtRunner(file, provider="cpu"))
    )
    parity = compare(expected, found, atol=tolerance, rtol=0.0)
    if not parity.values_passed:
        raise ParityError(
            f"{target} was not written: the exported model differs from the checkpoint",
            found=f"a difference of {parity.max_difference:.3g} and {parity.n - parity.n_same} other decisions",
            expected=f"at most {tolerance:.2g}, which rounding explains",
            fix="rounding alone decides here, on each machine otherwise: train again"
            if tolerance >= MAX_TOLERANCE
            else "report this as a bug with the checkpoint",
        )
    return parity


def _tradeoff(precision: Precision, part: Part, fp32: ModelFile, reduced: ModelFile) -> tuple[Tradeoff, ParityReport]:
    runners = {name: OrtRunner(file, provider="cpu") for name, file in (("fp32", fp32), ("reduced", reduced))}
    # one by one: int8's activations share one scale with the batch, so its logits depend on the other sequences
    expected, found = (in_batches(runner, part.sequences, 1, part.lengths) for runner in runners.values())
    one = part.sequences[:1], None if part.lengths is None else part.lengths[:1]
    tradeoff = Tradeoff(
        precision, Score.of(expected, part.labels), Score.of(found, part.labels),
        mcnemar(expected.argmax(1) == part.labels, found.argmax(1) == part.labels),
        ratio_of(partial(runners["reduced"].logits, *one), partial(runners["fp32"].logits, *one)),
    )  # fmt: skip
    return tradeoff, compare(expected, found)


def _refuse_a_loss(target: Path, tradeoff: Tradeoff) -> None:
    """Raise ParityError if it costs accuracy."""
    if costs_accuracy(tradeoff.mcnemar, tradeoff.fp32.n):
        raise ParityError(
            f"{target} was not written: {tradeoff.precision} costs accuracy",
            found=f"{tradeoff.reduced} instead of {tradeoff.fp32}, McNemar p = {tradeoff.mcnemar.p_value:.2g}",
            expected=f"at most {100 * MAX_LOSS:g} points less", fix="give --force to keep it, or ship fp32",
        )  # fmt: skip


def can_choose_rule(config: ModelConfig, validation: Part) -> bool:
    """Whether a rule for early exit that these sequences choose could be trusted, see `choose_early_rule`."""
    return not config.variable_length and len(validation) >= MIN_FOR_RULE


def choose_early_rule(file: ModelFile, validation: Part, temperature: float | None = None) -> EarlyRule | None:
    """The rule that reads the fewest rows of the validation sequences, and of pictures shifted, and loses none.

    Its probabilities are those at ``temperature``, or at the model's own. None where a rule could not be trusted: of
    fewer than MIN_FOR_RULE sequences none is lost by many a rule that loses one in a hundred of others; and where
    lengths differ, no model knows how much of a sequence is still to come.
    """
    config = file.contract.config
    if not can_choose_rule(config, validation):
        return None
    sequences, labels = validation.sequences, validation.labels
    if not config.is_values:
        sequences = with_shifts(sequences)
        labels = np.tile(labels, len(sequences) // len(labels))
    stream = Stream(file, n_streams=VALIDATION_STREAMS[file.contract.precision])
    temperature = file.contract.temperature if temperature is None else temperature
    return choose_rule(logits_by_step(stream, sequences), labels, config.rows_per_step, temperature)


def _shape_of(config: ModelConfig) -> str:
    return f"{config.rows} rows x {config.cols} columns and {config.n_classes} classes"


def with_shifts(pixels: Pixels) -> Pixels:
    """(N, rows, cols) pictures -> (9 N, rows, cols): as they are, then shifted by a pixel in the eight directions.

    Where a rule loses none of 5,000 pictures it may still lose 6 of 10,000 others (the rule of three), which
    is a measurable loss; the shifts show more of the pictures that are nearly lost.
    """
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    rows, cols = pixels.shape[1:]
    offsets = [(1, 1), *((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1))]
    return np.concatenate([padded[:, y : y + rows, x : x + cols] for y, x in offsets])
