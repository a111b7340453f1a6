"""Prove that an exported file answers as its checkpoint does: torch, torch's exporter, NumPy, providers, row by row."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from edgelstm.contract import INPUT_NAME, OUTPUT_NAME, Logits, Pixels, Runner, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.errors import EdgeLstmError, ModelError
from edgelstm.export.checks import (
    FP16_CUDA_ATOL,
    INT8_ATOL,
    Check,
    accuracy_check,
    claims_check,
    confidence_check,
    graph_check,
    kernel_check,
    near_parity,
    parity_answer,
    parity_check,
    restored_check,
    score_check,
)
from edgelstm.export.export import choose_early_rule, fits
from edgelstm.export.graph import build_graph, contract_of, probe_pixels
from edgelstm.export.torch_export import TorchExportedRunner
from edgelstm.onnx_file import ModelFile, ModelSource, decode, open_model
from edgelstm.runtime.early_exit import evaluate
from edgelstm.runtime.parity import compare
from edgelstm.runtime.reference import NumpyRunner, numpy_logits_by_rows, rounding_tolerance
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import Provider
from edgelstm.runtime.stream import Stream, logits_by_step
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import TorchRunner

BATCH_SIZES = (1, 2, 7, 64, 1000)
STREAM_SIZES = (1, 7, 64, 1000)
"""Streams side by side; each reads one step a call."""
N_RANDOM_SPLITS = 3
SPLIT_STREAMS = 1000
KERNEL_BATCH_SIZES = (7, 32)
"""At most the runner's chunk: int8 activations share one scale with their chunk."""
INT8_STREAM_ATOL = 0.25
"""int8 scales its input over one call: over a row here, over all rows there, so the pixels of a pale row are
rounded otherwise. On the validation images that moved a logit by up to 0.06 with one stream and 0.11 with 32
(the scale is over all of them too), where int8 itself moves them by up to 0.45 against fp32."""


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """All questions, in order."""

    model: str
    checkpoint: str
    evaluation: str
    """Which real sequences were compared, and how many."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True only if no check failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def n_open(self) -> int:
        """Questions that could not be asked here."""
        return sum(check.passed is None for check in self.checks)


@dataclasses.dataclass(frozen=True)
class _Case:
    """What every check needs."""

    checkpoint: Checkpoint
    file: ModelFile
    digits: Digits
    """Sequences with labels; of a model that no data at hand fits, random ones without."""
    labelled: bool
    tolerance: float
    """Largest difference of two float32 logits that rounding explains."""

    @property
    def int8(self) -> bool:
        """Whether activations are quantized, so that logits depend on the batch and on the rows of a call."""
        return self.file.contract.precision == "int8"


def verify(
    checkpoint: Checkpoint,
    model: ModelSource,
    digits: Digits | None,
    *,
    providers: tuple[Provider, ...] = ("auto",),
    validation: Digits | None = None,
    checkpoint_name: str = "the checkpoint",
) -> VerifyReport:
    """Ask whether graph, weights, values, decisions, confidences and claims of a file are the checkpoint's.

    ``digits`` are the evaluation sequences; if they are None, or not of the model's shape, random ones are
    compared, and no accuracy. ``validation`` are those that chose the rule for early exit, None if they are not at
    hand. The reference is eager torch, and for int8 a NumPy model of the kernel; a stream runs on the CPU whatever
    the ``providers``. Raises ProviderError if a provider that was asked for by name does not run the LSTM.
    """
    name = model.source if isinstance(model, ModelFile) else "the model" if isinstance(model, bytes) else str(model)
    checks = tuple(_checks(checkpoint, model, digits, providers, validation))
    fit = digits is not None and fits(digits, checkpoint.config)
    what = f"{len(digits):,} digits ({digits.source})" if digits and fit else "random pixels only"
    return VerifyReport(name, checkpoint_name, what, checks)


def _checks(
    checkpoint: Checkpoint,
    model: ModelSource,
    digits: Digits | None,
    providers: tuple[Provider, ...],
    validation: Digits | None,
) -> Iterator[Check]:
    try:
        file = open_model(model)
    except ModelError as error:
        yield Check("same contract", False, str(error))
        return
    contract, config = file.contract, checkpoint.config
    if contract.config != config:
        yield Check("same contract", False, f"found {contract.config}, expected {config}")
        return
    yield Check(
        "same contract", True,
        f"{INPUT_NAME} uint8 (batch, {config.rows}, {config.cols}) -> "
        f"{OUTPUT_NAME} float32 (batch, {config.n_classes})",
    )  # fmt: skip
    yield graph_check(build_graph(checkpoint, contract), file)
    noise = probe_pixels(config)
    labelled = digits is not None and fits(digits, config)
    if digits is None or not labelled:
        digits = Digits(noise, np.zeros(len(noise), np.uint8), "random pixels")
    tolerance = rounding_tolerance(
        build_graph(checkpoint, contract_of(checkpoint)), np.concatenate([noise, digits.images[:256]])
    )
    case = _Case(checkpoint, file, digits, labelled, tolerance)
    try:
        runners = [OrtRunner(file, provider=provider) for provider in providers]
    except ModelError as error:
        yield Check("runs in onnxruntime", False, str(error))
        return
    runners = list({runner.provider_used: runner for runner in runners}.values())
    values, streamed = (
        (_fp32_values, _fp32_streams) if contract.precision == "fp32" else (_reduced_values, _reduced_streams)
    )
    yield from values(case, runners)
    alone = logits_by_step(Stream(file), digits.images)
    yield from streamed(case, alone[:, -1])
    yield restored_check(file, digits.images)
    yield claims_check(checkpoint, contract)
    validation = validation if validation is not None and fits(validation, config) else None
    yield from _score_checks(case, validation)
    yield from _early_checks(case, alone, validation)


def _fp32_values(case: _Case, runners: list[OrtRunner]) -> Iterator[Check]:
    """Values and decisions of each runner and batch size, against eager torch."""
    noise = probe_pixels(case.checkpoint.config)
    torch_runner = TorchRunner(case.checkpoint.model())
    reference = (in_batches(torch_runner, case.digits.images, 1000), torch_runner.logits(noise))
    others: list[tuple[Callable[[], Runner], tuple[int, ...]]] = [
        (lambda: NumpyRunner(case.file), (1000,)),
        (lambda: TorchExportedRunner(case.checkpoint), (1000,)),
        *((partial(_same, runner), BATCH_SIZES) for runner in runners),
    ]
    for load, batch_sizes in others:
        try:
            runner = load()
            for batch_size in batch_sizes:
                found = in_batches(runner, case.digits.images, batch_size), in_batches(runner, noise, batch_size)
                yield parity_check(f"{runner.name}, batch {batch_size}", found, reference, case.tolerance)
        except EdgeLstmError as error:
            yield Check("same values and decisions", False, str(error))


def _same(runner: Runner) -> Runner:
    return runner


def _fp32_streams(case: _Case, alone: Logits) -> Iterator[Check]:
    """Fed row by row, to so many streams, in other splits into calls: after the last row, torch's logits."""
    config = case.checkpoint.config
    noise = probe_pixels(config)
    torch_runner = TorchRunner(case.checkpoint.model())
    reference = (in_batches(torch_runner, case.digits.images, 1000), torch_runner.logits(noise))

    def check(how: str, found: Logits, on_noise: Logits) -> Check:
        return parity_check(f"row by row on the CPU, {how}", (found, on_noise), reference, case.tolerance)

    for n in STREAM_SIZES:
        stream = Stream(case.file, n_streams=n)
        found = alone if n == 1 else logits_by_step(stream, case.digits.images)[:, -1]
        yield check(f"{n} stream{'s' if n > 1 else ''}", found, logits_by_step(stream, noise)[:, -1])
    for name, sizes in splits(config.n_steps):
        yield check(name, *(_fed(case.file, pixels, sizes) for pixels in (case.digits.images, noise)))
    yield check("NumPy", *(_numpy_fed(case.file, pixels, 1000) for pixels in (case.digits.images, noise)))


def _reduced_values(case: _Case, runners: list[OrtRunner]) -> Iterator[Check]:
    """int8 and fp16 are other functions than fp32: the kernel must be NumPy's, accuracy and confidences torch's."""
    images, labels = case.digits.images, case.digits.labels
    numpy_runner = NumpyRunner(case.file)
    for batch_size in KERNEL_BATCH_SIZES:
        expected = in_batches(numpy_runner, images, batch_size)
        for runner in runners:
            atol = INT8_ATOL if case.int8 else FP16_CUDA_ATOL if runner.provider_used == "cuda" else case.tolerance
            how, found = f"{runner.name}, batch {batch_size}", in_batches(runner, images, batch_size)
            yield kernel_check(how, expected, found, atol, int8=case.int8)
    reference = in_batches(TorchRunner(case.checkpoint.model()), images, 1000)
    for runner in runners:
        for batch_size in BATCH_SIZES:
            found, how = in_batches(runner, images, batch_size), f"{runner.name}, batch {batch_size}"
            if case.labelled:
                yield accuracy_check(how, reference, found, labels)
            yield confidence_check(how, reference, found, case.file.contract.temperature)


def _reduced_streams(case: _Case, alone: Logits) -> Iterator[Check]:
    """Row by row, a reduced model is near itself on whole sequences, equal to NumPy's, and as accurate as torch."""
    images, labels = case.digits.images, case.digits.labels
    reference = in_batches(TorchRunner(case.checkpoint.model()), images, 1000)
    whole = OrtRunner(case.file, provider="cpu")
    for n in sorted({1, 7, 32, *STREAM_SIZES}):
        found = alone if n == 1 else logits_by_step(Stream(case.file, n_streams=n), images)[:, -1]
        how = f"row by row on the CPU, {n} stream{'s' if n > 1 else ''}"
        if n <= max(KERNEL_BATCH_SIZES):
            atol, why = (INT8_STREAM_ATOL, "a call is scaled by itself") if case.int8 else (case.tolerance, "rounding")
            parity = compare(in_batches(whole, images, n), found, atol=atol, rtol=0.0)
            answer = f"{parity_answer(parity)} (at most {atol:.2g}: {why})"
            yield Check(f"near the whole sequences, {how}", near_parity(parity), answer, parity)
        if case.labelled:
            yield accuracy_check(how, reference, found, labels)
        yield confidence_check(how, reference, found, case.file.contract.temperature)
    n = max(KERNEL_BATCH_SIZES)
    found = logits_by_step(Stream(case.file, n_streams=n), images)[:, -1]
    atol = INT8_ATOL if case.int8 else case.tolerance
    how = f"row by row on the CPU, {n} streams"
    yield kernel_check(how, _numpy_fed(case.file, images, n), found, atol, int8=case.int8)


def _score_checks(case: _Case, validation: Digits | None) -> Iterator[Check]:
    """The scores that the file claims, counted as they were for it: on the CPU, one sequence at a time."""
    contract, runner = case.file.contract, OrtRunner(case.file, provider="cpu")
    evaluation = case.digits if case.labelled else None
    for question, claimed, digits in (
        ("claimed accuracy", contract.test, evaluation),
        ("claimed validation accuracy", contract.validation, validation if contract.validation else None),
    ):
        if digits is not None:
            yield score_check(question, claimed, in_batches(runner, digits.images, 1), digits.labels)
        elif claimed is not None:
            answer = f"the file claims {claimed}, and the sequences are not on this machine"
            yield Check(question, None, answer)


def _early_checks(case: _Case, alone: npt.NDArray[np.float32], validation: Digits | None) -> Iterator[Check]:
    """The rule is the one that its own data chooses; on the evaluation sequences it loses nothing measurable."""
    rule, config = case.file.contract.early, case.checkpoint.config
    if rule is None:
        return
    question = "rule for early exit"
    if validation is None:
        yield Check(question, None, f"a {rule}: the sequences that chose it are not on this machine")
    else:  # its own temperature: files of earlier versions have rules of temperature 1
        chosen = choose_early_rule(case.file, validation, rule.temperature)
        answer = f"a {rule}" if chosen == rule else f"the file says {rule!r}, validation chooses {chosen!r}"
        yield Check(question, chosen == rule, answer)
    if case.labelled:
        report = evaluate(alone, case.digits.labels, rule, config.rows_per_step)
        test = report.mcnemar
        answer = (
            f"{report.mean_rows:.1f} of {report.rows} rows ({report.mean_rows / report.rows:.1%}), {report.early} "
            f"instead of {report.full}: {test.n_lost} lost, {test.n_won} won, McNemar p = {test.p_value:.2g}"
        )
        yield Check("early exit", report.passed, answer)


def splits(n_steps: int) -> list[tuple[str, list[int]]]:
    """Ways to cut a sequence's steps into calls: a name, and the steps of each call."""
    found = [("all steps in one call", [n_steps])]
    draw = np.random.default_rng(0)
    for _ in range(N_RANDOM_SPLITS if n_steps > 2 else 0):
        cuts = np.sort(draw.choice(np.arange(1, n_steps), draw.integers(1, n_steps - 1), replace=False))
        sizes = np.diff([0, *cuts, n_steps]).tolist()
        found.append((f"{len(sizes)} calls of {min(sizes)} to {max(sizes)} steps", sizes))
    return found


def _fed(file: ModelFile, pixels: Pixels, steps_of_calls: list[int]) -> Logits:
    """The logits after the last row, so many steps in each call."""
    ends = np.cumsum(steps_of_calls)[:-1] * file.contract.config.rows_per_step

    def feed(part: Pixels) -> Logits:
        stream = Stream(file, n_streams=len(part))
        logits = [stream.push(np.ascontiguousarray(rows)) for rows in np.split(part, ends, axis=1)]
        return logits[-1]

    return _by_parts(feed, pixels, SPLIT_STREAMS)


def _numpy_fed(file: ModelFile, pixels: Pixels, batch_size: int) -> Logits:
    """The same by the NumPy reference, one step a call."""
    graph, config = decode(file.form("stream")), file.contract.config
    return _by_parts(lambda part: numpy_logits_by_rows(graph, part, config), pixels, batch_size)


def _by_parts(feed: Callable[[Pixels], Logits], pixels: Pixels, size: int) -> Logits:
    return np.concatenate([feed(pixels[at : at + size]) for at in range(0, len(pixels), size)])
