"""A model file as C: written only if it decides as well, with what it costs and gains."""

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from edgelstm.contract import Logits, Runner, Score, in_batches
from edgelstm.data.dataset import Part
from edgelstm.data.evaluation import DataSource, evaluation_of
from edgelstm.data.npm import Report
from edgelstm.errors import DataError, EdgeLstmError, OutputError, ParityError, printable
from edgelstm.files import read_bounded, replacing, sha256_of
from edgelstm.measure.timing import Ratio, ratio_of
from edgelstm.native.generate import c_source, check_c
from edgelstm.native.runner import CProvider, CRunner
from edgelstm.native.scheme import Precision, Scheme, scheme_of
from edgelstm.onnx_file import ModelFile, ModelSource, default_model, open_model
from edgelstm.runtime.parity import MAX_LOSS, McNemar, costs_accuracy, mcnemar
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner

HEADER_MARK = b"/* Written by edgelstm compile. */\n"
"""A header that does not begin so is another's, and is not replaced: only the .c file was named."""


@dataclass(frozen=True)
class CAccuracy:
    """The C against the model file in onnxruntime, on the evaluation sequences."""

    reference: Score
    c: Score
    mcnemar: McNemar
    n_same: int
    """Sequences decided alike."""
    n_saturated: int
    """Values that are cut to the range of int8's integers."""
    n_values: int
    logits_sha256: str
    """Of the C's logits as little-endian float32: the same on every machine."""


@dataclass(frozen=True)
class Compiled:
    """A C file that decides as well as its model."""

    path: Path
    """The .c file; the header beside it ends in .h."""
    name: str
    """What its functions begin with."""
    precision: Precision
    n_bytes: int
    """Of the .c file's text."""
    constant_bytes: int
    """What a device keeps in flash beside 2 to 3 kB of code."""
    state_bytes: int
    """RAM of one sequence."""
    stack_bytes: int
    """RAM that a call takes on a processor without vectors, about."""
    accuracy: CAccuracy | None
    """None if there was no data."""
    speed: Ratio | None
    """Its time over onnxruntime's for one sequence, called from Python on this machine; None: see ``no_speed``."""
    no_speed: str | None


def compile(  # noqa: A001 - the command's name
    model: ModelSource | None = None,
    output: str | os.PathLike[str] | None = None,
    precision: Precision = "int8",
    *,
    name: str | None = None,
    data: DataSource = None,
    channels_first: bool = False,
    force: bool = False,
    on_progress: Report = lambda line: None,
) -> Compiled:
    """Write a model as one C99 file, and a header for those who call it, without torch, onnx or a C compiler.

    ``model`` is what `open_model` takes (None: the run of this folder, else the shipped base model); ``output`` ends in
    .c, by default NAME.c in this folder. ``name`` begins the C functions' names (by default the file's). ``data`` is
    what the model was trained on (None: MNIST, if it reads such): int8 needs it, and at most MAX_LOSS of its test
    sequences may be lost, unless ``force``. Time is measured only if onnxruntime and a compiler are there.

    Raises ModelError if the model cannot be C, DataError, ParityError if it costs accuracy, OutputError.
    """
    file = open_model(default_model() if model is None else model)
    target = Path(f"{name or _identifier(file)}.c" if output is None else output)
    if target.suffix != ".c":
        raise OutputError(
            f"cannot write {printable(target)}", expected="a name that ends in .c", fix="choose another -o"
        )
    header = target.with_suffix(".h")
    if header.exists() and not read_bounded(header, 2**20, "a C header", OutputError).startswith(HEADER_MARK):
        expected, fix = "no file, or one that compile has written", "choose another -o, or remove it"
        raise OutputError(f"cannot write {printable(header)}", found="another header", expected=expected, fix=fix)
    name = name or (_identifier(file) if output is None else _as_identifier(target.stem))
    scheme = scheme_of(file, precision)
    check_c(scheme, name)  # before minutes pass
    evaluation = evaluation_of(data, file.contract.config, channels_first=channels_first, report=on_progress)
    part = evaluation.test
    if part is None and precision == "int8" and not force:
        raise DataError(
            "int8 is judged by its accuracy, and no data here has this model's shape",
            expected="the data that it was trained on", fix="name it with --data, or take --precision fp32",
        )  # fmt: skip
    reference, runner, no_speed = _runners(file, scheme, precision)
    accuracy = None
    if part is not None:
        on_progress(f"comparing C with the model file on {evaluation}")
        accuracy = _accuracy(scheme, reference, runner, part)
        if costs_accuracy(accuracy.mcnemar, accuracy.c.n) and not force:
            raise ParityError(
                f"{printable(target)} was not written: {precision} costs accuracy",
                found=f"{accuracy.c} instead of {accuracy.reference}, McNemar p = {accuracy.mcnemar.p_value:.2g}",
                expected=f"at most {100 * MAX_LOSS:g} points less", fix="give --force to keep it, or --precision fp32",
            )  # fmt: skip
    said = f"{accuracy.c} of {printable(part.source)}" if accuracy and part else ""
    source = c_source(scheme, file.contract, name=name, model_sha256=sha256_of(file.content), accuracy=said)
    with replacing(target) as code, replacing(header) as declared:  # both or neither
        code.write_bytes(source.code.encode())
        declared.write_bytes(HEADER_MARK + source.header.encode())
    speed = None
    if no_speed is None:
        on_progress("timing one sequence in C and in onnxruntime")
        speed = _speed(reference, runner, part, file)
    return Compiled(
        target, name, precision, len(source.code.encode()), source.constant_bytes, source.state_bytes,
        source.stack_bytes, accuracy, speed, no_speed,
    )  # fmt: skip


def _identifier(file: ModelFile) -> str:
    return _as_identifier(file.contract.name if file.path is None else file.path.name.removesuffix(".onnx"))


def _as_identifier(text: str) -> str:
    """The nearest name in C."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40]
    return plain if plain[:1].isalpha() else f"model_{plain}".strip("_")


def _runners(file: ModelFile, scheme: Scheme, precision: Precision) -> tuple[Runner, Runner, str | None]:
    """The model file, the C, and why the two cannot be timed: what is missing here NumPy does, and decides alike."""
    reference, runner, problem = cast(Runner, NumpyRunner(file)), cast(Runner, scheme), None
    provider: CProvider = "c-int8" if precision == "int8" else "c"
    try:
        runner = CRunner(file, provider=provider)
    except EdgeLstmError as error:
        problem = str(error)
    try:
        reference = OrtRunner(file, provider="cpu")
    except EdgeLstmError as error:
        problem = problem or str(error)
    return reference, runner, problem


def _accuracy(scheme: Scheme, reference: Runner, runner: Runner, part: Part) -> CAccuracy:
    expected, found = (in_batches(each, part.sequences, 100, part.lengths) for each in (reference, runner))
    test = mcnemar(expected.argmax(1) == part.labels, found.argmax(1) == part.labels)
    n_saturated, n_values = scheme.saturated(part.sequences, part.lengths)
    return CAccuracy(
        Score.of(expected, part.labels), Score.of(found, part.labels), test,
        int((expected.argmax(1) == found.argmax(1)).sum()), n_saturated, n_values, logits_sha256(found),
    )  # fmt: skip


def logits_sha256(logits: Logits) -> str:
    """Of (N, classes) logits as little-endian float32."""
    return sha256_of(logits.astype("<f4").tobytes())


def _speed(reference: Runner, runner: Runner, part: Part | None, file: ModelFile) -> Ratio:
    config = file.contract.config
    one: list[np.ndarray] = []
    if part is None:
        one.append(np.zeros((1, config.rows, config.cols), np.float32 if config.is_values else np.uint8))
    else:
        one += [part.sequences[:1]] + ([] if part.lengths is None else [part.lengths[:1]])
    return ratio_of(partial(runner.logits, *one), partial(reference.logits, *one))
