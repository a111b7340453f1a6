"""edgelstm stream: rows from stdin as they come, an answer after each; or accuracy against rows read."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from edgelstm.cli.options import data_option, json_option, model_to_use, plot_file, print_json, say
from edgelstm.errors import DataError, ModelError, printable

if TYPE_CHECKING:
    from edgelstm.contract import Logits, Pixels
    from edgelstm.onnx_file import ModelFile
    from edgelstm.runtime.stream import Stream

OTHER_STATE_BYTES = 2**24
"""A saved state may be so much larger than this stream's to be read and told what it is of: another model, other
streams."""


@click.command(epilog="Example: edgelstm stream early --early < rows.raw")
@click.argument("model", required=False)
@click.option(
    "--streams", "n_streams", type=click.IntRange(1, 65_536), default=1, show_default=True,
    help="Pictures side by side: a step on stdin holds the rows of each in turn.",
)  # fmt: skip
@click.option("--early", is_flag=True, help="One line a picture, when the model's rule says that it is settled.")
@click.option(
    "--state", type=click.Path(path_type=Path, dir_okay=False),
    help="Go on from this file, if it is there, and leave the state in it at the end.",
)  # fmt: skip
@click.option("--evaluate", is_flag=True, help="Read no stdin: accuracy against rows read, on MNIST's test images.")
@click.option("--plot", callback=plot_file, metavar="FILE", help="With --evaluate: draw it into this PNG or SVG file.")
@data_option
@json_option
def command(
    model: str | None, n_streams: int, early: bool, state: Path | None, evaluate: bool, plot: Path | None,
    data_folder: Path, as_json: bool,
) -> None:  # fmt: skip
    """Read pictures row by row from stdin, a JSON line after each row.

    Stdin is raw bytes, one a pixel (0 = background), one step after the other without anything between:
    28 bytes a row for the shipped models. After 28 rows the next picture begins. With --early there is one
    line a picture, at its decision; the rows that come after it are taken from stdin but not run.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there, else the
    shipped base model). Every exported model streams.
    """
    if evaluate and (early or state or n_streams > 1):
        raise click.UsageError("--evaluate reads MNIST, not stdin: leave out --streams, --early and --state")
    if (plot or as_json) and not evaluate:
        raise click.UsageError("--plot and --json are for --evaluate; what is read from stdin is always JSON lines")
    if evaluate:
        _evaluate(model_to_use(model), plot, data_folder, as_json)
        return
    if sys.stdin is None:
        raise DataError("no rows to read", found="a closed standard input", expected="raw bytes, one a pixel")
    if sys.stdin.isatty():
        raise click.UsageError("give the rows on stdin, as raw bytes")
    from edgelstm.files import read_bounded, write_bytes
    from edgelstm.runtime.stream import Stream

    stream = Stream(model_to_use(model), n_streams=n_streams, early=early)
    if state and state.exists():
        most = len(stream.save()) + OTHER_STATE_BYTES
        stream.restore(read_bounded(state, most, "a saved state", ModelError))
        if len(set(stream.rows_read.tolist())) > 1:
            raise ModelError(
                f"{printable(state)} cannot be gone on with here", found="streams that stand at different rows",
                expected="all at the same, as on stdin", fix="go on with edgelstm.Stream",
            )  # fmt: skip
    try:
        _follow(stream, sys.stdin.buffer, early)
    finally:
        if state:
            write_bytes(state, stream.save())


def _follow(stream: "Stream", source: BinaryIO, early: bool) -> None:
    """Push each step as it comes; the streams stand at the same row, so they begin a picture together."""
    config, picture = stream.contract.config, 0
    everyone = list(range(stream.n_streams))
    if stream.rows_read[0] == config.rows:  # a state that was saved between a picture's last row and the next
        stream.reset()
    for step in _steps(source, stream):
        if early:
            _read_undecided(stream, step, picture)
        else:
            _tell(stream, picture, everyone, stream.push(step))
        if stream.rows_read[0] == config.rows:
            stream.reset()
            picture += 1
    if rows := int(stream.rows_read[0]):
        say(f"the input ended after row {rows} of {config.rows} of picture {picture}")


def _read_undecided(stream: "Stream", step: "Pixels", picture: int) -> None:
    """Push the step to the streams that are open, and tell of those that it settles."""
    settled, undecided = stream.decided.nonzero()[0].tolist(), (~stream.decided).nonzero()[0].tolist()
    if settled:
        stream.skip(step.shape[1], settled)
    if not undecided:
        return
    logits = stream.push(step[undecided], undecided) if settled else stream.push(step)
    now = stream.decided[undecided]
    _tell(stream, picture, [one for one, done in zip(undecided, now, strict=True) if done], logits[now])


def _tell(stream: "Stream", picture: int, streams: list[int], logits: "Logits") -> None:
    """A line for each of these streams."""
    from edgelstm.runtime.early_exit import confidences

    names, rows = stream.contract.config.class_names, stream.rows_read
    shares = confidences(logits, stream.contract.temperature)
    for one, label, confidence in zip(streams, logits.argmax(1), shares, strict=True):
        line = {
            "picture": picture, "stream": one, "rows": int(rows[one]), "label": names[label],
            "confidence": round(float(confidence), 6),
        }  # fmt: skip
        click.echo(json.dumps(line))


def _steps(source: BinaryIO, stream: "Stream") -> "Iterator[Pixels]":
    import numpy as np

    config = stream.contract.config
    shape = (stream.n_streams, config.rows_per_step, config.cols)
    size = stream.n_streams * config.step_size
    while content := source.read(size):
        if len(content) < size:
            raise DataError(
                "the input ends in the middle of a step", found=f"{len(content)} bytes", expected=size,
                fix=f"a step is {stream.n_streams} x {config.rows_per_step} rows of {config.cols} bytes",
            )  # fmt: skip
        yield np.frombuffer(content, np.uint8).reshape(shape)


def _evaluate(model: "ModelFile", plot: Path | None, data_folder: Path, as_json: bool) -> None:
    from edgelstm.data.mnist import evaluation_digits
    from edgelstm.files import write_bytes
    from edgelstm.runtime.early_exit import evaluate
    from edgelstm.runtime.stream import Stream, logits_by_step
    from edgelstm.show.plots import early_plot, format_of, new_figure
    from edgelstm.show.tables import early_text

    if plot:
        new_figure(1, 1)  # raises now if there is no matplotlib
    stream = Stream(model, early=True)  # one picture at a time, as at the edge: int8 logits depend on the others
    digits, config, rule = evaluation_digits(data_folder), stream.contract.config, stream.contract.early
    assert rule is not None, "early=True has asked for it"
    if digits.sequences.shape[1:] != (config.rows, config.cols):
        raise DataError(
            f"{stream.source} cannot be evaluated on MNIST",
            found=f"a model of {config.rows} rows x {config.cols} columns", expected="28 x 28",
        )  # fmt: skip
    say(f"reading {len(digits):,} digits ({digits.source}) row by row with {stream.source}")
    report = evaluate(logits_by_step(stream, digits.sequences), digits.labels, rule, config.rows_per_step)
    if plot:
        write_bytes(plot, early_plot(report, format_of(plot)))
        say(f"wrote {printable(plot)}")
    if as_json:
        print_json({"model": stream.source, "digits": digits.source, **dataclasses.asdict(report)})
    else:
        click.echo(early_text(report))
