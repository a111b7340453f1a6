"""Checkpoint -> streaming ONNX file: gated, proven as good as the checkpoint, with a rule for deciding early."""

from pathlib import Path

import numpy as np

from edgelstm.config import N_VALIDATION
from edgelstm.contract import EarlyRule, Logits, Pixels, Precision, Score
from edgelstm.data.mnist import Digits
from edgelstm.errors import ParityError
from edgelstm.export.export import Exported, bargain_of, refuse_a_bad_bargain, speed_ratio
from edgelstm.export.graph import probe_pixels
from edgelstm.export.stream_graph import build_stream_model, check_stream_graph
from edgelstm.files import write_bytes
from edgelstm.runtime.early_exit import choose_rule
from edgelstm.runtime.parity import compare
from edgelstm.runtime.stream import Stream
from edgelstm.runtime.stream_runner import StreamRunner, logits_by_step
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import TorchRunner

VALIDATION_STREAMS = {"fp32": 100, "int8": 1}
"""Pictures side by side while the rule is chosen: fp32's logits do not depend on it, int8's do."""


def export_stream(checkpoint: Checkpoint, target: Path, training: Digits | None = None) -> Exported:
    """Write the checkpoint as an fp32 streaming model. Nothing is written unless every gate and the parity pass.

    With the ``training`` images, their ``validation_digits`` choose the rule for deciding early. Raises ModelError
    if the graph is not exactly what the contract promises, ParityError if the logits after the last row, with
    one row a call and with all in one, are not torch's; OutputError if it cannot be written.
    """
    content = _gated(checkpoint, "fp32")[0]
    pixels = probe_pixels(checkpoint.config)
    expected = TorchRunner(checkpoint.model()).logits(pixels)
    stream = Stream(content, n_streams=len(pixels), source=f"{target}, which was not written,")
    parity = compare(np.concatenate([expected] * 2), np.concatenate([_last(stream, pixels), stream.push(pixels)]))
    if not parity.passed:
        raise ParityError(
            f"{target} was not written: the exported model differs from the checkpoint",
            found=f"a difference of {parity.max_difference:.3g} and {parity.n - parity.n_same} other decisions",
            expected=f"at most {parity.atol:g} + {parity.rtol:g} * |logit| and none",
            fix="report this as a bug, with the checkpoint",
        )
    rule = _rule(content, "fp32", training)
    content, operators = _gated(checkpoint, "fp32", early=rule)
    write_bytes(target, content)
    return Exported(target, len(content), operators, parity, early=rule, streaming=True)


def export_stream_int8(
    checkpoint: Checkpoint, target: Path, digits: Digits, training: Digits | None = None, *, force: bool = False
) -> Exported:
    """Write it as an int8 streaming model, if it is as accurate as fp32 on ``digits`` and its rows are faster here.

    Each digit is read alone, row by row. Raises and refuses as export_reduced does.
    """
    fp32, int8 = (_gated(checkpoint, precision)[0] for precision in _PRECISIONS)
    logits, found = (_last(Stream(content), digits.images) for content in (fp32, int8))
    speed = speed_ratio(*(StreamRunner(content).row_call(digits.images[:1]) for content in (int8, fp32)))
    bargain = bargain_of("int8", digits, logits, found, speed)
    if not force:
        refuse_a_bad_bargain(target, bargain)
    rule = _rule(int8, "int8", training)
    content, operators = _gated(checkpoint, "int8", bargain.reduced, rule)
    write_bytes(target, content)
    return Exported(target, len(content), operators, compare(logits, found), bargain, rule, streaming=True)


_PRECISIONS: tuple[Precision, Precision] = ("fp32", "int8")


def validation_digits(training: Digits) -> Digits:
    """The held-out training images, and each shifted by a pixel in the eight directions.

    Where a rule loses none of 5,000 pictures it may still lose 6 of 10,000 others (the rule of three), which
    is a measurable loss; the shifts show more of the pictures that are nearly lost.
    """
    at = slice(-N_VALIDATION, None)
    images, labels = training.images[at], training.labels[at]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows, cols = images.shape[1:]
    offsets = [(1, 1), *((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1))]
    shifted = np.concatenate([padded[:, y : y + rows, x : x + cols] for y, x in offsets])
    return Digits(shifted, np.tile(labels, len(offsets)), f"the last {N_VALIDATION:,} training images, shifted")


def _last(stream: Stream, pixels: Pixels) -> Logits:
    """(N, classes) after the last row, one step a call."""
    return logits_by_step(stream, pixels)[:, -1]


def _rule(content: bytes, precision: Precision, training: Digits | None) -> EarlyRule | None:
    if training is None:
        return None
    held_out = validation_digits(training)
    stream = Stream(content, n_streams=VALIDATION_STREAMS[precision])
    logits = logits_by_step(stream, held_out.images)
    return choose_rule(logits, held_out.labels, stream.contract.config.rows_per_step)


def _gated(
    checkpoint: Checkpoint, precision: Precision, test: Score | None = None, early: EarlyRule | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes and its operators, once the graph has passed the gates."""
    model = build_stream_model(checkpoint, precision, test, early)
    check_stream_graph(model, checkpoint.config, precision)
    return model.SerializeToString(deterministic=True), tuple(node.op_type for node in model.graph.node)
