"""Checkpoint -> ONNX file: gated, and proven as good as the checkpoint before it gets its name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgelstm.contract import EarlyRule, Precision, Score, in_batches
from edgelstm.data import Digits
from edgelstm.errors import ParityError
from edgelstm.files import write_bytes
from edgelstm.parity import McNemar, ParityReport, compare, mcnemar
from edgelstm.runtime import OrtRunner
from edgelstm.timing import Ratio, calls_for_budget, measure_alternating, median_ratio
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.graph import build_model, check_graph, probe_pixels
from edgelstm.training.model import TorchRunner

MAX_INT8_LOSS = 0.0005
"""Share of the digits that int8 may get wrong more than fp32."""
PRECISIONS: tuple[Precision, Precision] = ("fp32", "int8")
"""The reference, and what is held against it."""
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
    """fp32: onnxruntime against the checkpoint in torch. int8: against fp32, for information."""
    quantization: "Quantization | None" = None
    early: EarlyRule | None = None
    """A streaming model's rule for deciding early."""
    streaming: bool = False
    """Reads rows, not pictures."""


@dataclass(frozen=True)
class Quantization:
    """What int8 costs and gains against fp32, each digit run alone as on an edge device."""

    fp32: Score
    int8: Score
    mcnemar: McNemar
    speed: Ratio
    """int8's time over fp32's for one picture, or one row of a streaming model, on this machine."""

    @property
    def loss(self) -> float:
        """Share of the digits lost, negative if int8 is better."""
        return self.fp32.accuracy - self.int8.accuracy


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


def export_int8(checkpoint: Checkpoint, target: Path, digits: Digits, *, force: bool = False) -> Exported:
    """Write the checkpoint as int8 ONNX, if it is as accurate as fp32 on ``digits`` and faster here.

    Raises ParityError, and writes nothing, if it loses more than MAX_INT8_LOSS of the digits or is not
    faster at batch 1 on this machine, unless ``force``; ModelError and OutputError as export does.
    """
    runners = {precision: OrtRunner(_gated(checkpoint, precision)[0], provider="cpu") for precision in PRECISIONS}
    # one by one: int8's activations are scaled by the largest of a batch, so its logits depend on the company
    logits = {precision: in_batches(runner, digits.images, 1) for precision, runner in runners.items()}
    right = {precision: found.argmax(1) == digits.labels for precision, found in logits.items()}
    report = Quantization(
        fp32=Score.of(logits["fp32"], digits.labels),
        int8=Score.of(logits["int8"], digits.labels),
        mcnemar=mcnemar(right["fp32"], right["int8"]),
        speed=speed_ratio(*(partial(runners[precision].logits, digits.images[:1]) for precision in PRECISIONS[::-1])),
    )
    if not force:
        refuse_a_bad_bargain(target, report)
    content, operators = _gated(checkpoint, "int8", report.int8)
    write_bytes(target, content)
    return Exported(target, len(content), operators, compare(logits["fp32"], logits["int8"]), report)


def _gated(checkpoint: Checkpoint, precision: Precision, test: Score | None = None) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes and its operators, once the graph has passed the gates."""
    model = build_model(checkpoint, precision, test)
    check_graph(model, checkpoint.config, precision)
    return model.SerializeToString(deterministic=True), tuple(node.op_type for node in model.graph.node)


def speed_ratio(int8: Callable[[], object], fp32: Callable[[], object]) -> Ratio:
    """int8's time over fp32's, the two calls taking turns."""
    calls = {"int8": int8, "fp32": fp32}
    counts = calls_for_budget(calls, budget_s=TIMING_S, n_rounds=N_ROUNDS)
    rounds = measure_alternating(calls, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=20)
    return median_ratio(rounds["int8"], rounds["fp32"])


def refuse_a_bad_bargain(target: Path, report: Quantization) -> None:
    """Raise ParityError if int8 loses more than MAX_INT8_LOSS of the digits or is not faster."""
    fix = "give --force to keep it, or ship fp32"
    if report.loss > MAX_INT8_LOSS:
        raise ParityError(
            f"{target} was not written: int8 costs accuracy",
            found=f"{report.int8} instead of {report.fp32}, McNemar p = {report.mcnemar.p_value:.2g}",
            expected=f"at most {100 * MAX_INT8_LOSS:g} points less", fix=fix,
        )  # fmt: skip
    if report.speed.value >= 1:
        raise ParityError(
            f"{target} was not written: int8 is not faster on this machine",
            found=f"{report.speed.value:.2f} times the time of fp32", expected="less than 1", fix=fix,
        )  # fmt: skip
