"""edgelstm infer"""

import glob
import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from edgelstm.cli.options import json_option, provider_option, say
from edgelstm.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from edgelstm.classifier import Prediction
    from edgelstm.cli.workers import Workers
    from edgelstm.runtime import Provider

SHADES = " .:-=+*#%@"
BLOCK = 64
"""Lines that are written at once: a system call a line costs more than the model does."""
MANY = 128
"""Up to so many pictures are read before worker processes could have started."""
BAR_FROM = 51
"""Fewer pictures need no progress bar."""


@click.command(epilog="Example: edgelstm infer digit.png scans/ --top 3")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="An ONNX file, a run folder, or a shipped model's name.",
)
@provider_option
@click.option("--top", type=click.IntRange(1), help="Show the K most probable classes.", metavar="K")
@click.option("--show-input", is_flag=True, help="Draw what the network saw.")
@json_option
def command(
    images: tuple[str, ...], model: str, provider: "Provider", top: int | None, show_input: bool, as_json: bool
) -> None:
    """Read the digit in each picture.

    IMAGE is a picture file, a folder (searched with its subfolders), a glob, or - for a picture on
    standard input. One line per picture, in the order given; with --json one JSON object per line. A
    picture that cannot be read gets its own error, the others are still answered, and the exit status
    is 1.
    """
    answers = _Answers(as_json, with_top=top is not None, show_input=show_input)
    try:
        _infer(images, model, provider, top or 3, answers)
    except KeyboardInterrupt:
        say(f"Stopped: {answers.n:,} answered.")
        sys.exit(130)
    sys.exit(1 if answers.n_failed else 0)


def _infer(images: tuple[str, ...], model: str, provider: "Provider", top: int, answers: "_Answers") -> None:
    with _workers(images) as workers:
        from edgelstm.classifier import Classifier, prepare_each

        classifier = Classifier(model, provider=provider, top=top)
        if classifier.runner.provider_note:
            say(classifier.runner.provider_note)
        names = list(_names(images))
        predictions = classifier.classify_many(_pictures(names), workers.prepare_each if workers else prepare_each)
        try:
            for prediction in _with_bar(predictions, len(names)):
                answers.add(prediction)
        finally:  # what is finished is written, whatever stops the rest
            answers.write()


def _workers(images: tuple[str, ...]) -> "AbstractContextManager[Workers | None]":
    """Worker processes if there may be enough pictures for them.

    Asked before anything is known of the files but their number, so that they start while this process
    imports NumPy and onnxruntime.
    """
    found = (
        Path(image).rglob("*") if image and Path(image).is_dir()
        else glob.iglob(image, recursive=True) if glob.has_magic(image)
        else (image,)
        for image in images
    )  # fmt: skip
    if next(islice(chain.from_iterable(found), MANY, None), None) is None:
        return nullcontext()
    from edgelstm.cli.workers import Workers, can_start

    return Workers() if can_start() else nullcontext()


class _Answers:
    """Puts each prediction into words and writes them in blocks; what is not written yet, ``write`` does."""

    def __init__(self, as_json: bool, with_top: bool, show_input: bool) -> None:
        self.n = self.n_failed = 0
        self._as_json, self._with_top, self._show_input = as_json, with_top, show_input
        self._lines: list[str] = []

    def add(self, prediction: "Prediction") -> None:
        if self._as_json:
            self._lines.append(json.dumps(prediction.to_json()))
        elif prediction.error is None:
            self._lines.append(_line(prediction, self._with_top))
        if prediction.error is not None:
            self.n_failed += 1
            if not self._as_json:
                self.write()  # first, for those who send both to one place
                say(f"Error: {prediction.error}")
        if self._show_input and prediction.pixels is not None:
            if self._as_json:
                say(drawing(prediction))
            else:
                self._lines.append(drawing(prediction))
        self.n += 1  # last: what is counted can be written, if Ctrl-C comes here
        if self.n % BLOCK == 0:
            self.write()

    def write(self) -> None:
        lines, self._lines = self._lines, []  # a write that fails is not tried again
        if lines:
            with _whole():
                click.echo("\n".join(lines))


@contextmanager
def _whole() -> Iterator[None]:
    """Holds Ctrl-C back until the block is done, so that no answer is torn; a second one is obeyed at once."""
    held = False

    def hold(*_: object) -> None:
        nonlocal held
        if held:
            raise KeyboardInterrupt
        held = True

    if threading.current_thread() is not threading.main_thread():  # Ctrl-C does not come here
        yield
        return
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def _with_bar(predictions: "Iterator[Prediction]", n: int) -> "Iterator[Prediction]":
    """The predictions, counted by a bar on stderr if it is a terminal and the answers go elsewhere."""
    if n < BAR_FROM or not _is_terminal(sys.stderr) or _is_terminal(sys.stdout):
        yield from predictions
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # stdout holds the answers: rich must not lead it to its console
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        yield from progress.track(predictions, total=n)


def _is_terminal(stream: "TextIO | None") -> bool:
    return stream is not None and stream.isatty()  # None: it was closed before we began


def _line(prediction: "Prediction", with_top: bool) -> str:
    from edgelstm.picture import printable

    shares = prediction.top if with_top else prediction.top[:1]
    line = f"{printable(prediction.image)}  " + "   ".join(f"{name}  {100 * share:.1f} %" for name, share in shares)
    return f"{line}  ({prediction.note})" if prediction.note else line


def _names(images: Iterable[str]) -> "Iterator[str | None]":
    """What the arguments stand for, in order, None for stdin; what is nothing is left for the reader to refuse."""
    from edgelstm.picture import SUFFIXES

    for image in images:
        if image == "-":
            yield None
        elif image and Path(image).is_dir():
            paths = Path(image).rglob("*")
            yield from sorted(str(path) for path in paths if path.suffix.lower() in SUFFIXES) or [image]
        elif not Path(image).exists() and glob.has_magic(image):
            yield from sorted(glob.glob(image, recursive=True)) or [image]
        else:
            yield image


def _pictures(names: "Iterable[str | None]") -> Iterator[str | bytes]:
    from edgelstm.picture import MAX_FILE_BYTES

    for name in names:
        if name is not None:
            yield name
        else:
            # one byte too many is refused like a long file, and a closed input like an empty one
            yield sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if sys.stdin else b""


def drawing(prediction: "Prediction") -> str:
    """The model's input as text, two characters a pixel."""
    assert prediction.pixels is not None
    return "\n".join(
        "".join(SHADES[int(pixel) * len(SHADES) // 256] * 2 for pixel in row).rstrip() for row in prediction.pixels
    )
