"""edgelstm stream: rows from stdin as they come, an answer after each row or window; or accuracy against rows read."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelstm.cli.options import cpu_provider_option, data_option, json_option, model_to_use, plot_file, print_json, say
from edgelstm.errors import DataError, ModelError, printable

if TYPE_CHECKING:
    from edgelstm.contract import Logits, Sequences
    from edgelstm.onnx_file import ModelFile
    from edgelstm.runtime.runner import AnyProvider
    from edgelstm.runtime.stream import Stream

OTHER_STATE_BYTES = 2**24
"""A saved state may be so much larger than this stream's to be read and told what it is of: another model, other
streams."""


CHARACTERS = 64
"""Of one number and its comma in --csv, with room to spare: a longer line is none of the columns asked for."""


@click.command(epilog="Example: edgelstm stream runs/gestures --window 100 --hop 25 --csv < signal.csv")
@click.argument("model", required=False)
@cpu_provider_option
@click.option(
    "--streams", "n_streams", type=click.IntRange(1, 65_536), default=1, show_default=True,
    help="Sequences side by side: a step on stdin holds the rows of each in turn.",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(1), metavar="ROWS",
    help="Stdin is one signal without end: a line for each window of ROWS rows, at its end. The model's rows, or any "
    "number where it reads any.",
)  # fmt: skip
@click.option(
    "--hop", type=click.IntRange(1), metavar="ROWS", help="Rows from one window's begin to the next one's.  [window]"
)
@click.option("--csv", "as_csv", is_flag=True, help="Stdin is text, a row of numbers a line.")
@click.option("--early", is_flag=True, help="One line a sequence, when the model's rule says that it is settled.")
@click.option(
    "--state", type=click.Path(path_type=Path, dir_okay=False),
    help="Go on from this file, if it is there, and leave the state in it at the end.",
)  # fmt: skip
@click.option("--evaluate", is_flag=True, help="Read no stdin: accuracy against rows read, on the test part of --data.")
@click.option("--plot", callback=plot_file, metavar="FILE", help="With --evaluate: draw it into this PNG or SVG file.")
@data_option
@json_option
def command(
    model: str | None, provider: "AnyProvider", n_streams: int, window: int | None, hop: int | None, as_csv: bool,
    early: bool, state: Path | None, evaluate: bool, plot: Path | None, data: str | None, channels_first: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Read sequences row by row from stdin, a JSON line after each row or window.

    Stdin is raw: for a model of pictures one byte a pixel (0 = background), for a model of values one
    little-endian float32 of four bytes a value. A row is its columns from first to last, and the next row follows
    without anything between: 28 bytes a row for the shipped models. With --csv a row is a line of numbers, parted by
    commas, semicolons, tabs or blanks; a first line of names, and lines that begin with #, are skipped, and a blank
    line ends the sequence.

    After the model's rows the next sequence begins; a model of any length reads on until a blank line or the end of
    stdin. With --early there is one line a sequence, at its decision; the rows that come after it are taken from
    stdin but not run. What was answered before an error stays.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there, else the
    shipped base model). Every exported model streams.
    """
    if evaluate and (early or state or n_streams > 1 or window or hop or as_csv):
        raise click.UsageError("--evaluate reads --data, not stdin: leave out what is for stdin")
    if (plot or as_json or data or channels_first) and not evaluate:
        only = "--plot, --json and --data are for --evaluate"
        raise click.UsageError(f"{only}; what is read from stdin is always JSON lines")
    if n_streams > 1 and (window or as_csv):
        raise click.UsageError("--window and --csv are of one stream: leave out --streams")
    if (window and early) or (hop and not window):
        raise click.UsageError("--hop goes with --window, --early does not")
    if evaluate:
        _evaluate(model_to_use(model), provider, plot, data, channels_first, as_json)
        return
    if sys.stdin is None:
        raise DataError("no rows to read", found="a closed standard input", expected="raw rows, or lines with --csv")
    if sys.stdin.isatty():
        raise click.UsageError("give the rows on stdin")
    from edgelstm.files import read_bounded, write_bytes
    from edgelstm.runtime.stream import Stream

    try:
        stream = Stream(
            model_to_use(model), n_streams=n_streams, window=window, hop=hop, early=early, provider=provider
        )
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise click.UsageError(f"--{error}") from error  # it names window or hop
    if as_csv and not stream.contract.config.is_values:
        raise click.UsageError("--csv is for models of values")
    if state and state.exists():
        most = len(stream.save()) + OTHER_STATE_BYTES
        stream.restore(read_bounded(state, most, "a saved state", ModelError))
        if len(set(stream.rows_read.tolist())) > 1:
            raise ModelError(
                f"{printable(state)} cannot be gone on with here", found="streams that stand at different rows",
                expected="all at the same, as on stdin", fix="go on with edgelstm.Stream",
            )  # fmt: skip
    try:
        _follow(stream, sys.stdin.buffer, early, as_csv)
    finally:
        if state:
            write_bytes(state, stream.save())


def _follow(stream: "Stream", source: Any, early: bool, as_csv: bool) -> None:
    """Push what comes; the streams stand at the same row, so they begin a sequence together."""
    from edgelstm.runtime.classifier import far_outside

    config, number, warned = stream.contract.config, 0, False
    everyone = list(range(stream.n_streams))
    last = None if config.variable_length or stream.window else config.rows
    if stream.rows_read[0] == last:  # a state that was saved between a sequence's last row and the next
        stream.reset()
    content = _rows_of_text(source, config.cols) if as_csv else iter(lambda: source.read1(2**16), b"")
    if config.is_values and not as_csv:
        content = _no_text(content)
    came = False
    for rows in _steps(content, stream, as_csv):
        came = came or rows.shape[1] > 0
        if config.is_values and not warned and (far := far_outside(rows.reshape(-1, config.cols), stream.contract)):
            say(f"warning: {far}")
            warned = True
        if not rows.shape[1] and stream.rows_read[0]:  # a blank line
            _say_cut(stream, last, number)
            stream.reset()
            number += 1
        if stream.window:
            _tell_windows(stream, rows)
            continue
        for at in range(0, rows.shape[1], config.rows_per_step):
            step = rows[:, at : at + config.rows_per_step]
            if early:
                _read_undecided(stream, step, number)
            else:
                _tell(stream, number, everyone, stream.push(step))
            if stream.rows_read[0] == last:
                stream.reset()
                number += 1
    if came:
        _say_cut(stream, last, number)
    else:
        say("no rows came on standard input")


def _say_cut(stream: "Stream", last: int | None, number: int) -> None:
    if last and (rows := int(stream.rows_read[0])):
        say(f"the input ended after row {rows} of {last} of sequence {number}")
    if stream.window and stream.rows_read[0] < stream.window:
        say(f"the input ended after row {stream.rows_read[0]}, before the first window of {stream.window} rows did")


def _read_undecided(stream: "Stream", step: "Sequences", number: int) -> None:
    """Push the step to the streams that are open, and tell of those that it settles."""
    settled, undecided = stream.decided.nonzero()[0].tolist(), (~stream.decided).nonzero()[0].tolist()
    if settled:
        stream.skip(step.shape[1], settled)
    if not undecided:
        return
    logits = stream.push(step[undecided], undecided) if settled else stream.push(step)
    now = stream.decided[undecided]
    _tell(stream, number, [one for one, done in zip(undecided, now, strict=True) if done], logits[now])


def _tell(stream: "Stream", number: int, streams: list[int], logits: "Logits") -> None:
    """A line for each of these streams."""
    rows = stream.rows_read
    name = "sequence" if stream.contract.config.is_values else "picture"
    _print(stream, [{name: number, "stream": one, "rows": int(rows[one])} for one in streams], logits)


def _tell_windows(stream: "Stream", rows: "Sequences") -> None:
    """A line for each window that ends in these rows; ``end_row`` is its last, counted from 1."""
    logits, window, hop = stream.push(rows), stream.window or 0, stream.hop or 1
    if ends := stream.window_ends.tolist():
        _print(stream, [{"window": (end - window) // hop, "end_row": end} for end in ends], logits)


def _print(stream: "Stream", heads: list[dict[str, int]], logits: "Logits") -> None:
    from edgelstm.runtime.early_exit import confidences

    names, shares = stream.contract.config.class_names, confidences(logits, stream.contract.temperature)
    for head, label, confidence in zip(heads, logits.argmax(1), shares, strict=True):
        click.echo(json.dumps({**head, "label": names[label], "confidence": round(float(confidence), 6)}))


def _steps(content: "Iterator[bytes]", stream: "Stream", as_csv: bool) -> "Iterator[Sequences]":
    """Raw rows as they come -> (streams, rows, cols) of whole steps; no rows where nothing is between: a blank line."""
    import numpy as np

    config, n = stream.contract.config, stream.n_streams
    dtype = np.dtype("<f4" if config.is_values else "u1")
    size = n * config.step_size * dtype.itemsize
    left, n_read = bytearray(), 0
    for more in content:
        left += more
        whole = len(left) // size * size
        if not more and left:
            break
        if whole or not more:
            steps = np.frombuffer(bytes(left[:whole]), dtype).astype(dtype.newbyteorder("="), copy=False)
            del left[:whole]
            steps = steps.reshape(-1, n, config.rows_per_step, config.cols)  # (T, streams, rows of a step, cols)
            finite = np.isfinite(steps).all((1, 2, 3))
            good = steps if finite.all() else steps[: finite.argmin()]
            if len(good) or not more:
                yield good.swapaxes(0, 1).reshape(n, len(good) * config.rows_per_step, config.cols)
            n_read += len(good)
            if len(good) < len(steps):
                what = f"step {n_read + 1:,} of the input holds a value that is not finite"
                raise DataError(what, expected="little-endian float32 numbers", fix="fill or cut out what is missing")
    if left:
        what, values = "the input ends in the middle of a step", "float32 values" if config.is_values else "bytes"
        if as_csv:
            n_rows = len(left) * config.rows_per_step // size
            found = f"{n_rows} row{'s'[: n_rows > 1]}"
            raise DataError(what, found=found, expected=f"{config.rows_per_step}, as the model reads at a time")
        fix = f"a step is {n} x {config.rows_per_step} rows of {config.cols} {values}"
        raise DataError(what, found=f"{len(left)} bytes", expected=size, fix=fix)


def _no_text(content: "Iterator[bytes]") -> "Iterator[bytes]":
    """The same. Raises DataError if it begins as text does: read as float32, that too would be numbers."""
    first = next(content, b"")
    if first and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in first):
        if len(first) >= 16:  # of fewer, a chance in some thousands that they are values
            found, expected = printable(first[:40].decode(), 60), "little-endian float32 numbers"
            raise DataError("the input looks like text", found=found, expected=expected, fix="give --csv")
        say("warning: the input looks like text; --csv?")
    if first:
        yield first
    yield from content


def _rows_of_text(source: Any, cols: int) -> "Iterator[bytes]":
    """The raw values of each line of numbers; nothing for a blank line."""
    import numpy as np

    from edgelstm.config import FLOAT32_MAX

    most, begun = CHARACTERS * (cols + 1), False
    for number, line in enumerate(iter(lambda: source.readline(most), b""), 1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
        tokens = text.split(next((mark for mark in ";,\t" if mark in text), None))
        try:
            values = np.array(tokens, np.float64)
        except ValueError:
            values = None
        if not text:
            yield b""
        elif values is not None and len(values) == cols and (np.abs(values) <= FLOAT32_MAX).all() and len(line) < most:
            yield values.astype("<f4").tobytes()
        elif text[0] != "#" and (begun or values is not None or any(token.strip()[:1].isdigit() for token in tokens)):
            finite = values is not None and bool((np.abs(values) <= FLOAT32_MAX).all())
            found = f"{len(tokens)} numbers" if finite else printable(text, 60)
            expected = f"{cols} finite numbers, parted by commas, semicolons, tabs or blanks"
            raise DataError(f"line {number} of the input is no row", found=found, expected=expected)
        begun = begun or text[:1] not in ("", "#")


def _evaluate(
    model: "ModelFile", provider: "AnyProvider", plot: Path | None, data: str | None, channels_first: bool,
    as_json: bool,
) -> None:  # fmt: skip
    from edgelstm.data.evaluation import evaluation_of
    from edgelstm.files import write_bytes
    from edgelstm.runtime.early_exit import EVERY_ROW, evaluate
    from edgelstm.runtime.stream import Stream, logits_by_step
    from edgelstm.show.plots import early_plot, format_of, new_figure
    from edgelstm.show.tables import early_text

    if plot:
        new_figure(1, 1)  # raises now if there is no matplotlib
    stream = Stream(model, provider=provider)  # one sequence at a time, as at the edge: int8's depend on the others
    config, rule = stream.contract.config, stream.contract.early or EVERY_ROW
    what = f"{stream.source} cannot be evaluated"
    if config.variable_length:
        raise DataError(what, found="sequences of any length", expected="a model of sequences of one length")
    part = evaluation_of(data, config, channels_first=channels_first, report=say).test
    if part is None:
        raise DataError(what, found="no data of its shape", expected="what it was trained on, with --data")
    say(f"reading {len(part):,} sequences ({printable(part.source)}) row by row with {stream.source}")
    report = evaluate(logits_by_step(stream, part.sequences), part.labels, rule, config.rows_per_step)
    if plot:
        write_bytes(plot, early_plot(report, format_of(plot)))
        say(f"wrote {printable(plot)}")
    if as_json:
        values = dataclasses.asdict(report) | ({} if stream.contract.early else {"rule": None})
        print_json({"model": stream.source, "data": part.source, **values})
    else:
        click.echo(early_text(report))
