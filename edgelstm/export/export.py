"""Checkpoint -> ONNX file: gated, and proven as good as the checkpoint before it gets its name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgelstm.contract import EarlyRule, Logits, Precision, Score, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.errors import ParityError
from edgelstm.export.graph import build_model, check_graph, probe_pixels
from edgelstm.files import write_bytes
from edgelstm.measure.timing import Ratio, calls_for_budget, measure_alternating, median_ratio
from edgelstm.runtime.parity import McNemar, ParityReport, compare, mcnemar
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import TorchRunner

MAX_LOSS = 0.0005
"""Share of the digits that int8 or fp16 may get wrong more than fp32."""
N_ROUNDS = 16
TIMING_S = 2.0


@dataclass(frozen=True)
class Exported:
    """A model file that passed every gate."""

    path: Path
    n_bytes: int
    operators: tuple[str, ...]
    """The graph's operators, in order."""
    parity: ParityReport
    """fp32: onnxruntime against the checkpoint in torch. int8, fp16: against fp32, for information."""
    bargain: "Bargain | None" = None
    early: EarlyRule | None = None
    """A streaming model's rule for deciding early."""
    streaming: bool = False
    """Reads rows, not pictures."""


@dataclass(frozen=True)
class Bargain:
    """What a smaller precision costs and gains against fp32, each digit run alone as on an edge device."""

    precision: Precision
    fp32: Score
    reduced: Score
    mcnemar: McNemar
    speed: Ratio
    """Its time over fp32's for one picture, or one row of a streaming model, on this machine's CPU."""

    @property
    def loss(self) -> float:
        """Share of the digits lost, negative if the smaller one is better."""
        return self.fp32.accuracy - self.reduced.accuracy


def export(checkpoint: Checkpoint, target: Path) -> Exported:
    """Write the checkpoint as fp32 ONNX. Nothing is written unless every gate and the parity pass.

    Raises ModelError if the graph is not exactly what the contract promises, ParityError if
    onnxruntime's logits or decisions differ from torch's, OutputError if it cannot be written.
    """
    content, operators = _gated(checkpoint, "fp32")
    pixels = probe_pixels(checkpoint.config)
    runner = OrtRunner(content, provider="cpu", source=f"{target}, which was not written,")
    parity = compare(TorchRunner(checkpoint.model()).logits(pixels), runner.logits(pixels))
    if not parity.passed:
        raise ParityError(
            f"{target} was not written: the exported model differs from the checkpoint",
            found=f"a difference of {parity.max_difference:.3g} and {parity.n - parity.n_same} other decisions",
            expected=f"at most {parity.atol:g} + {parity.rtol:g} * |logit| and none",
            fix="report this as a bug, with the checkpoint",
        )
    write_bytes(target, content)
    return Exported(target, len(content), operators, parity)


def export_reduced(
    checkpoint: Checkpoint, target: Path, digits: Digits, precision: Precision, *, force: bool = False
) -> Exported:
    """Write the checkpoint as int8 or fp16 ONNX, if it is as accurate as fp32 on ``digits``.

    Raises ParityError, and writes nothing, if it loses more than MAX_LOSS of the digits, or if int8 is not
    faster at batch 1 on this machine, unless ``force``; ModelError and OutputError as export does. fp16 is
    not asked for speed here: on a CPU onnxruntime widens its weights once and computes in float32.
    """
    fp32, reduced = (OrtRunner(_gated(checkpoint, kind)[0], provider="cpu") for kind in ("fp32", precision))
    # one by one: int8's activations are scaled by the largest of a batch, so its logits depend on the company
    logits, found = (in_batches(runner, digits.images, 1) for runner in (fp32, reduced))
    speed = speed_ratio(*(partial(runner.logits, digits.images[:1]) for runner in (reduced, fp32)))
    bargain = bargain_of(precision, digits, logits, found, speed)
    if not force:
        refuse_a_bad_bargain(target, bargain)
    content, operators = _gated(checkpoint, precision, bargain.reduced)
    write_bytes(target, content)
    return Exported(target, len(content), operators, compare(logits, found), bargain)


def _gated(checkpoint: Checkpoint, precision: Precision, test: Score | None = None) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes and its operators, once the graph has passed the gates."""
    model = build_model(checkpoint, precision, test)
    check_graph(model, checkpoint.config, precision)
    return model.SerializeToString(deterministic=True), tuple(node.op_type for node in model.graph.node)


def bargain_of(precision: Precision, digits: Digits, fp32: Logits, reduced: Logits, speed: Ratio) -> Bargain:
    """Logits (N, classes) of the digits in fp32 and in ``precision``, and how long the latter takes, as a Bargain."""
    right = [logits.argmax(1) == digits.labels for logits in (fp32, reduced)]
    scores = [Score.of(logits, digits.labels) for logits in (fp32, reduced)]
    return Bargain(precision, scores[0], scores[1], mcnemar(right[0], right[1]), speed)


def speed_ratio(reduced: Callable[[], object], fp32: Callable[[], object]) -> Ratio:
    """The first call's time over the second's, the two taking turns."""
    calls = {"reduced": reduced, "fp32": fp32}
    counts = calls_for_budget(calls, budget_s=TIMING_S, n_rounds=N_ROUNDS)
    rounds = measure_alternating(calls, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=20)
    return median_ratio(rounds["reduced"], rounds["fp32"])


def refuse_a_bad_bargain(target: Path, bargain: Bargain) -> None:
    """Raise ParityError if more than MAX_LOSS of the digits are lost, or int8 is not faster."""
    fix = "give --force to keep it, or ship fp32"
    if bargain.loss > MAX_LOSS:
        raise ParityError(
            f"{target} was not written: {bargain.precision} costs accuracy",
            found=f"{bargain.reduced} instead of {bargain.fp32}, McNemar p = {bargain.mcnemar.p_value:.2g}",
            expected=f"at most {100 * MAX_LOSS:g} points less", fix=fix,
        )  # fmt: skip
    if bargain.precision == "int8" and bargain.speed.value >= 1:
        raise ParityError(
            f"{target} was not written: int8 is not faster on this machine",
            found=f"{bargain.speed.value:.2f} times the time of fp32", expected="less than 1", fix=fix,
        )  # fmt: skip
