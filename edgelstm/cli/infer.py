"""edgelstm infer"""

import glob
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import json_option, provider_option, say
from edgelstm.cli.output import Answers, Form, with_bar
from edgelstm.config import DEFAULT_MODEL
from edgelstm.errors import DataError

if TYPE_CHECKING:
    from edgelstm.runtime.classifier import Prediction, Source
    from edgelstm.runtime.runner import Provider
    from edgelstm.runtime.scoring import Workers

ENOUGH_S = 1.0
"""Worker processes are started if the pictures would keep one process busy for longer: they cost half of that."""
SMALL_BYTES, SMALL_S = 1_500, 0.0003
"""A file below is a picture of MNIST's size, read so fast."""
LARGE_S, BYTE_S = 0.007, 2e-8
"""Any other takes so long to find its digit in, and to decode a byte."""
MAX_NAMES_BYTES = 256 * 2**20


@click.command(epilog="Example: edgelstm infer digit.png scans/ --top 3")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="An ONNX file, a run folder, or a shipped model's name.",
)
@provider_option
@click.option("--top", type=click.IntRange(1), help="Show the K most probable classes.", metavar="K")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Give no digit where the confidence is below P, 0 to 1; then the exit status is 3.",
)
@click.option("--show-input", is_flag=True, help="Draw what the network saw, in the terminal.")
@click.option(
    "--save-input",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Save each picture beside what the network saw: all in one PATH.png, or a PNG each into a folder.",
)
@click.option(
    "--files0-from",
    metavar="FILE",
    help="Read the pictures whose names FILE holds, each ended by NUL; - is standard input, for find -print0.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print a table for spreadsheets, with a header.")
@json_option
def command(
    images: tuple[str, ...],
    model: str,
    provider: "Provider",
    top: int | None,
    min_confidence: float | None,
    show_input: bool,
    save_input: Path | None,
    files0_from: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Read the digit in each picture.

    IMAGE is a picture file, a folder (searched with its subfolders), a glob, or - for a picture on
    standard input. One line per picture, in the order given; with --json one JSON object per line. A
    picture that cannot be read gets its own error, the others are still answered, and the exit status
    is 1. A picture without ink gets no digit, and a note. With --min-confidence the exit status is 3 if
    all could be read but some got no digit, for want of ink or of confidence.
    """
    _check_usage(images, files0_from, as_csv and as_json, min_confidence)
    form: Form = "json" if as_json else "csv" if as_csv else "text"
    answers = Answers(form, with_top=top is not None, show_input=show_input)
    try:
        named = _names_from(files0_from) if files0_from else []
        _infer(images, named, model, provider, top or 3, min_confidence or 0.0, save_input, answers)
    except KeyboardInterrupt:
        say(f"Stopped: {answers.n:,} answered.")
        sys.exit(130)
    sys.exit(1 if answers.n_failed else 3 if answers.n_abstained and min_confidence is not None else 0)


def _check_usage(
    images: tuple[str, ...], files0_from: str | None, both_forms: bool, min_confidence: float | None
) -> None:
    if not images and not files0_from:
        raise click.UsageError("Missing argument 'IMAGE...'.")
    if "-" in images and files0_from == "-":
        raise click.UsageError("Standard input cannot hold both a picture and names: give - once.")
    if both_forms:
        raise click.UsageError("Give --json or --csv, not both.")
    if min_confidence is not None and math.isnan(min_confidence):  # slips through every range
        raise click.BadParameter("nan is not a probability", param_hint="--min-confidence")


def _infer(
    images: tuple[str, ...],
    named: list[str],
    model: str,
    provider: "Provider",
    top: int,
    min_confidence: float,
    save_input: Path | None,
    answers: Answers,
) -> None:
    with _workers(images, named) as workers:
        from edgelstm.runtime.classifier import Classifier, prepare_each

        classifier = Classifier(model, provider=provider, top=top, min_confidence=min_confidence)
        if classifier.runner.provider_note:
            say(classifier.runner.provider_note)
        names = [*_names(images), *named]
        keep = _Keep(save_input, names) if save_input else None
        sources = _pictures(names)
        predictions = classifier.classify_many(
            keep.seen(sources) if keep else sources, workers.prepare_each if workers else prepare_each
        )
        try:
            for prediction in with_bar(predictions, len(names)):
                answers.add(prediction)
                if keep:
                    keep.predictions.append(prediction)
        finally:  # what is finished is written, whatever stops the rest
            answers.write()
        if keep:
            keep.save()


class _Keep:
    """Pictures and their predictions, to be saved beside each other."""

    def __init__(self, target: Path, names: "list[str | None]") -> None:
        from edgelstm.show.contact_sheet import check_target

        check_target(target, [name for name in names if name is not None])
        self.predictions: list[Prediction] = []
        self._sources: list[Source] = []
        self._target = target

    def seen(self, sources: "Iterator[str | bytes]") -> "Iterator[str | bytes]":
        for source in sources:
            self._sources.append(source)
            yield source

    def save(self) -> None:
        from edgelstm.show.contact_sheet import save_pairs

        save_pairs(list(zip(self._sources, self.predictions, strict=True)), self._target)


def _workers(images: tuple[str, ...], named: list[str]) -> "AbstractContextManager[Workers | None]":
    """Worker processes if there is enough for them to do.

    Asked before anything is known of the files but their number and size, so that they start while this
    process imports NumPy and onnxruntime.
    """
    found: Iterator[Iterable[str | Path]] = (
        Path(image).rglob("*") if os.path.isdir(image)
        else glob.iglob(image, recursive=True) if glob.has_magic(image)
        else (image,)
        for image in images
    )  # fmt: skip
    left_s = ENOUGH_S
    for path in chain(chain.from_iterable(found), named):
        left_s -= _expected_s(path)
        if left_s < 0:
            break
    else:
        return nullcontext()
    from edgelstm.runtime.scoring import Workers, can_start

    return Workers() if can_start() else nullcontext()


def _expected_s(path: str | os.PathLike[str]) -> float:
    """Roughly how long a picture file takes to decode and to find the digit in."""
    try:
        n_bytes = os.stat(path).st_size
    except (OSError, ValueError):  # it will be refused in its turn
        return 0.0
    return SMALL_S if n_bytes < SMALL_BYTES else LARGE_S + BYTE_S * n_bytes


def _names_from(source: str) -> list[str]:
    """The names of a list whose items end in NUL. Raises DataError if there is none."""
    try:
        if source == "-":
            content = sys.stdin.buffer.read(MAX_NAMES_BYTES + 1) if sys.stdin else b""
        else:
            with open(source, "rb") as stream:
                content = stream.read(MAX_NAMES_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise DataError(f"cannot read names from {source!a}", found=reason, fix="check the path") from error
    where = "standard input" if source == "-" else ascii(source)
    if len(content) > MAX_NAMES_BYTES:
        raise DataError(f"too many names in {where}", expected=f"at most {MAX_NAMES_BYTES // 2**20} MiB")
    if b"\0" not in content and b"\n" in content:
        raise DataError(
            f"the names in {where} do not end in NUL", found="lines", expected="what `find -print0` writes",
            fix="put tr '\\n' '\\0' between",
        )  # fmt: skip
    return [os.fsdecode(name) for name in content.split(b"\0") if name]


def _names(images: Iterable[str]) -> "Iterator[str | None]":
    """What the arguments stand for, in order, None for stdin; what is nothing is left for the reader to refuse."""
    from edgelstm.data.picture import SUFFIXES

    for image in images:
        if image == "-":
            yield None
        elif os.path.isdir(image):
            paths = Path(image).rglob("*")
            yield from sorted(str(path) for path in paths if path.suffix.lower() in SUFFIXES) or [image]
        elif glob.has_magic(image) and not os.path.exists(image):
            yield from sorted(glob.glob(image, recursive=True)) or [image]
        else:
            yield image


def _pictures(names: "Iterable[str | None]") -> Iterator[str | bytes]:
    from edgelstm.data.picture import MAX_FILE_BYTES

    for name in names:
        if name is not None:
            yield name
        else:
            # one byte too many is refused like a long file, and a closed input like an empty one
            yield sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if sys.stdin else b""
