"""Predictions in words: text, JSON or CSV, in blocks, whole even when Ctrl-C comes."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

import click

from edgelstm.cli.options import say
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.runtime.classifier import Prediction

SHADES = " .:-=+*#%@"
BLOCK = 64
"""Lines that are written at once: a system call a line costs more than the model does."""
BAR_FROM = 51
"""Fewer inputs need no progress bar."""
MAX_PATH = 4096
"""Characters of an input's name that are shown: of a path, all."""


class Answers:
    """Puts each prediction into words and writes them in blocks; what is not written yet, ``write`` does."""

    def __init__(self, form: Literal["text", "json", "csv"], with_top: bool, show_input: bool) -> None:
        self.n = self.n_failed = self.n_abstained = 0
        self._form, self._with_top, self._show_input = form, with_top, show_input
        self._above_bar = ""
        self._lines = [_csv_line("source", "label", "confidence", "note", "error")] if form == "csv" else []

    def add(self, prediction: "Prediction") -> None:
        """One more; it is counted when it can be written."""
        if self._form == "json":
            self._lines.append(json.dumps(prediction.to_json()))
        elif self._form == "csv":
            self._lines.append(_csv_of(prediction))
        elif prediction.error is None:
            self._lines.append(text_line(prediction, self._with_top))
        else:
            self.write()  # first, for those who send both to one place
            say(f"{self._above_bar}Error: {prediction.error}")
        self.n_failed += prediction.error is not None
        self.n_abstained += prediction.abstained
        if self._show_input and prediction.sequence is not None:
            (self._lines.append if self._form == "text" else say)(drawing(prediction))
        self.n += 1  # last: Ctrl-C may come here
        if self.n % BLOCK == 0:
            self.write()

    def with_bar(self, predictions: "Iterator[Prediction]", n: int) -> "Iterator[Prediction]":
        """The predictions, counted by a bar on stderr if it is a terminal and the answers go elsewhere."""
        if n < BAR_FROM or not _is_terminal(sys.stderr) or _is_terminal(sys.stdout):
            yield from predictions
            return
        self._above_bar = "\r\x1b[K"  # clears the line, where the bar is drawn anew after it
        step = max(1, n // 100)  # drawn a hundred times at most
        with click.progressbar(predictions, n, show_pos=True, file=sys.stderr, update_min_steps=step) as bar:
            yield from bar

    def write(self) -> None:
        lines, self._lines = self._lines, []  # a write that fails is not tried again
        if lines:
            with _whole():
                _write("\n".join(lines) + "\n")


def _write(text: str) -> None:
    """All of the text on stdout: with PYTHONUNBUFFERED, a write that a signal interrupts takes only a part of it."""
    stream, left = sys.stdout, memoryview(text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
    stream.flush()
    while left:
        left = left[stream.buffer.write(left) :]
    stream.buffer.flush()


@contextmanager
def _whole() -> Iterator[None]:
    """Holds Ctrl-C back until the block is done, so that no answer is torn; a second one is obeyed at once."""
    held = False

    def hold(*_: object) -> None:
        nonlocal held
        if held:
            raise KeyboardInterrupt
        held = True

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # Ctrl-C does not come here
        yield
        return
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def _is_terminal(stream: "TextIO | None") -> bool:
    return stream is not None and stream.isatty()  # None: it was closed before we began


def text_line(prediction: "Prediction", with_top: bool) -> str:
    """Name, answer, percentage, note."""
    shares = prediction.top if with_top else prediction.top[:1]
    words = [f"{printable(name)}  {100 * share:.1f} %" for name, share in shares]
    if prediction.abstained:
        words.insert(0, "unsure" if words else "no digit")
    line = f"{printable(prediction.source, MAX_PATH)}  " + "   ".join(words)
    return f"{line}  ({printable(prediction.note)})" if prediction.note else line


def _csv_of(prediction: "Prediction") -> str:
    share = "" if prediction.confidence is None else str(round(prediction.confidence, 6))
    source, label, *rest = map(_csv_cell, (prediction.source, prediction.label, prediction.note, prediction.error))
    return _csv_line(source, label, share, *rest)


def _csv_cell(text: str | None) -> str:
    """The text in one line; what a spreadsheet would take for a formula gets an apostrophe, which it does not show."""
    shown = "" if text is None else printable(text, MAX_PATH)
    return f"'{shown}" if len(shown) > 1 and shown[0] in "=+-@" else shown


def _csv_line(*cells: str) -> str:
    import csv
    import io

    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


def drawing(prediction: "Prediction") -> str:
    """A picture as the model saw it, as text, two characters a pixel."""
    assert prediction.sequence is not None
    levels = prediction.sequence.astype(int) * len(SHADES) // 256
    return "\n".join("".join(SHADES[level] * 2 for level in row).rstrip() for row in levels)
