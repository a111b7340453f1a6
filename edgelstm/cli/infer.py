"""`edgelstm infer`: read pictures or sequences of values from files, folders, globs, lists and standard input."""

import math
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelstm.cli import EXIT_INTERRUPTED
from edgelstm.cli.options import json_option, model_option, model_to_use, provider_option, read_stdin, say
from edgelstm.cli.output import MAX_PATH, Answers
from edgelstm.errors import DataError, PictureError, printable

if TYPE_CHECKING:
    from edgelstm.config import ModelConfig
    from edgelstm.onnx_file import ModelFile
    from edgelstm.runtime.classifier import Source
    from edgelstm.runtime.runner import AnyProvider
    from edgelstm.runtime.scoring import Workers

MANY_BYTES = 2**20
"""Worker processes are started for more: 3,000 pictures of MNIST's size or a few photos, about a second's work.
Each costs 0.3 s of a core before its first answer."""
MAX_NAMES_BYTES = 256 * 2**20


def _no_nan(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # slips through every range
        raise click.BadParameter("nan is not a probability", param_hint="--min-confidence")
    return value


def _sheet_or_folder(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value and value.suffix.lower() not in ("", ".png") and not value.is_dir():
        expected = "expected a name that ends in .png, or a folder's"
        raise click.BadParameter(f"found {printable(value)}, {expected}", param_hint="--save-input")
    return value


@click.command(epilog="Example: edgelstm infer digit.png scans/ --top 3")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@model_option
@provider_option
@click.option("--top", type=click.IntRange(1), help="Show the K most probable classes.", metavar="K")
@click.option(
    "--min-confidence", type=click.FloatRange(0, 1), callback=_no_nan, metavar="P",
    help="Give no class where the confidence is below P, 0 to 1; then the exit status is 3.",
)  # fmt: skip
@click.option("--show-input", is_flag=True, help="Draw what the network saw as text.")
@click.option(
    "--save-input", type=click.Path(path_type=Path), callback=_sheet_or_folder, metavar="PATH",
    help="Save each picture beside what the network saw: all in one PATH.png, or a PNG each into a folder.",
)  # fmt: skip
@click.option(
    "--files0-from", metavar="FILE",
    help="Read the files whose names FILE holds, each ended by NUL; - is standard input, for find -print0.",
)  # fmt: skip
@click.option(
    "--channels-first", is_flag=True, help="Values in .npy and .csv files lie as (columns, rows): a channel a line."
)
@click.option(
    "--csv", "as_csv", is_flag=True,
    help="Print a table for spreadsheets, with a header; names that would be formulas there get ' before them.",
)  # fmt: skip
@json_option
def command(
    inputs: tuple[str, ...], model: str | None, provider: "AnyProvider", top: int | None, min_confidence: float | None,
    show_input: bool, save_input: Path | None, files0_from: str | None, channels_first: bool, as_csv: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Read the digit in each picture, or the class of each input of your own.

    INPUT is a picture, or for a model of values a .csv or .npy file of one sequence, a line a time step; a folder
    (searched with its subfolders for what the model reads), a glob, or - for one of these on standard input. One line
    per input, in the order given; with --json one JSON object per line. An input that cannot be read gets its own
    error, the others are still answered, and the exit status is 1. A picture without ink gets no digit, and a note.
    With --min-confidence the exit status is 3 if all could be read but some got no class, for want of ink or of
    confidence.
    """
    if not inputs and not files0_from:
        raise click.UsageError("Missing argument 'INPUT...'.")
    if "-" in inputs and files0_from == "-":
        raise click.UsageError("Standard input cannot hold both a picture and names: give - once.")
    if as_csv and as_json:
        raise click.UsageError("Give --json or --csv, not both.")
    if as_csv and top is not None:
        raise click.UsageError("--csv has one class a row: take --json for --top.")
    answers = Answers("json" if as_json else "csv" if as_csv else "text", top is not None, show_input)
    try:
        names = _names_from(files0_from) if files0_from else []
        file = model_to_use(model)
        config = file.contract.config
        if (show_input or save_input) and config.is_values:
            raise click.UsageError("--show-input and --save-input draw pictures; edgelstm explain draws values")
        sources, problems = _sources(inputs, config)
        if not (model or config.is_values) and any(name.lower().endswith((".csv", ".npy")) for name in inputs):
            say(f"the default model, {file.source}, reads pictures; one of values is given as --model RUN")
        options = {"provider": provider, "top": top or 3, "min_confidence": min_confidence or 0.0}
        _infer([*sources, *names], problems, file, save_input, answers, channels_first=channels_first, **options)
    except KeyboardInterrupt:
        say(f"Stopped: {answers.n:,} answered.")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(1 if answers.n_failed else 3 if answers.n_abstained and min_confidence is not None else 0)


def _infer(
    pictures: "list[Source]", problems: dict[str, str], model: "ModelFile", save_input: Path | None, answers: Answers,
    **options: Any,
) -> None:  # fmt: skip
    from edgelstm.runtime.classifier import Classifier, prepare_each

    if save_input:
        from edgelstm.show.contact_sheet import check_target, save_pairs

        check_target(save_input, [name for name in pictures if isinstance(name, str)])
    shown = []
    with _workers(pictures) as workers:
        classifier = Classifier(model, **options)
        if classifier.runner.provider_note:
            say(classifier.runner.provider_note)
        predictions = classifier.classify_many(pictures, workers.prepare_each if workers else prepare_each)
        try:
            for prediction in answers.with_bar(predictions, len(pictures)):
                if prediction.source in problems:
                    prediction = replace(prediction, error=problems[prediction.source])
                answers.add(prediction)
                if save_input:
                    shown.append(prediction)
        finally:  # what is finished is written, whatever stops the rest
            answers.write()
    if save_input:
        save_pairs(list(zip(pictures, shown, strict=True)), save_input)


def _workers(pictures: "list[Source]") -> "AbstractContextManager[Workers | None]":
    """Worker processes if there is enough for them to do, in more than one share of the work."""
    from edgelstm.runtime.classifier import CHUNK

    n_bytes = 0
    for picture in pictures if len(pictures) > CHUNK else ():
        try:
            n_bytes += os.stat(picture).st_size if isinstance(picture, str) else 0
        except (OSError, ValueError):  # it will be refused in its turn
            continue
        if n_bytes > MANY_BYTES:
            from edgelstm.runtime.scoring import Workers, can_start

            return Workers() if can_start() else nullcontext()
    return nullcontext()


def _names_from(source: str) -> list[str]:
    """The names of a list whose items end in NUL. Raises DataError if there is none."""
    try:
        if source == "-":
            content = read_stdin(MAX_NAMES_BYTES)
        else:
            with open(source, "rb") as stream:
                content = stream.read(MAX_NAMES_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise DataError(f"cannot read names from {printable(source)}", found=reason, fix="check the path") from error
    where = "standard input" if source == "-" else printable(source)
    if len(content) > MAX_NAMES_BYTES:
        raise DataError(f"too many names in {where}", expected=f"at most {MAX_NAMES_BYTES // 2**20} MiB")
    if b"\0" not in content and b"\n" in content:
        raise DataError(
            f"the names in {where} do not end in NUL", found="lines", expected="what `find -print0` writes",
            fix="put tr '\\n' '\\0' between",
        )  # fmt: skip
    return [os.fsdecode(name) for name in content.split(b"\0") if name]


def _sources(inputs: tuple[str, ...], config: "ModelConfig") -> "tuple[list[Source], dict[str, str]]":
    """What the arguments stand for, in order, and what is wrong with folders; other errors are left to the reader."""
    sources: list[Source] = []
    problems: dict[str, str] = {}
    for name in inputs:
        if name == "-":
            from edgelstm.data.picture import MAX_FILE_BYTES

            sources.append(read_stdin(MAX_FILE_BYTES))
        elif os.path.isdir(name):
            sources += _in_folder(name, config, problems)
        elif any(c in name for c in "*?[") and not os.path.exists(name):
            import glob

            sources += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            sources.append(name)
    return sources, problems


def _in_folder(folder: str, config: "ModelConfig", problems: dict[str, str]) -> list[str]:
    """What a model reads in a folder and its subfolders, pictures that cannot be read too: they get their error.

    A folder that cannot be searched, or holds none, is named itself, with its error in ``problems``.
    """
    from edgelstm.runtime.inputs import search, suffixes, unsearched

    names = []
    for name, error in search(folder, config):
        names.append(name)
        if error is not None:
            problems[name] = unsearched(name, error)
    if names:
        return names
    kind = "sequences of values" if config.is_values else "pictures"
    expected = f"files that end in {', '.join(suffixes(config))}"
    problems[folder] = str(PictureError(f"{printable(folder, MAX_PATH)} holds no {kind}", expected=expected))
    return [folder]
