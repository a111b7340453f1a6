"""That an exported file answers as its checkpoint does: torch, torch's exporter, NumPy, providers, row by row."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from edgelstm.contract import INPUT_NAME, OUTPUT_NAME, Logits, Pixels, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.errors import EdgeLstmError, ModelError
from edgelstm.export.checks import (
    FP16_CUDA_ATOL,
    INT8_ATOL,
    INT8_STREAM_ATOL,
    Check,
    accuracy_check,
    claims_check,
    confidence_check,
    early_check,
    graph_check,
    kernel_check,
    near_check,
    parity_check,
    restored_check,
    rule_check,
    score_check,
)
from edgelstm.export.graph import build_graph, contract_of, probe_pixels
from edgelstm.export.torch_export import TorchExportedRunner
from edgelstm.onnx_file import ModelFile, ModelSource, decode, open_model
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
NEAR_STREAM_SIZES = (1, 7, 32)


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
    digits, validation = (
        each if each is not None and each.fits(checkpoint.config) else None for each in (digits, validation)
    )
    what = f"{len(digits):,} digits ({digits.source})" if digits else "random pixels only"
    checks = tuple(_checks(checkpoint, model, digits, providers, validation))
    return VerifyReport(name, checkpoint_name, what, checks)


def _checks(
    checkpoint: Checkpoint,
    model: ModelSource,
    digits: Digits | None,
    providers: tuple[Provider, ...],
    validation: Digits | None,
) -> Iterator[Check]:
    config = checkpoint.config
    try:
        file = open_model(model)
    except ModelError as error:
        yield Check("same contract", False, str(error))
        return
    contract = file.contract
    if contract.config != config:
        names = [field.name for field in dataclasses.fields(config)]
        differ = [name for name in names if getattr(contract.config, name) != getattr(config, name)]
        found, expected = ([f"{name} {getattr(one, name)}" for name in differ] for one in (contract.config, config))
        yield Check("same contract", False, f"found {', '.join(found)}, expected {', '.join(expected)}")
        return
    yield Check(
        "same contract", True,
        f"{INPUT_NAME} uint8 (batch, {config.rows}, {config.cols}) -> "
        f"{OUTPUT_NAME} float32 (batch, {config.n_classes})",
    )  # fmt: skip
    yield graph_check(build_graph(checkpoint, contract), file)
    noise = probe_pixels(config)
    images = digits.images if digits else noise
    fp32 = build_graph(checkpoint, contract_of(checkpoint))
    tolerance = rounding_tolerance(fp32, np.concatenate([noise, images[:256]]))
    runners = [OrtRunner(file, provider=provider) for provider in providers]
    runners = list({runner.provider_used: runner for runner in runners}.values())
    if contract.precision == "fp32":
        yield from _exact_checks(checkpoint, file, runners, images, noise, tolerance)
    else:
        yield from _reduced_checks(checkpoint, file, runners, images, digits, tolerance)
    yield restored_check(file, images)
    yield claims_check(checkpoint, contract)
    yield from _score_checks(file, digits, validation)
    if contract.early:
        yield rule_check(file, contract.early, validation)
    if contract.early and digits:
        yield early_check(contract.early, logits_by_step(Stream(file), images), digits.labels, config.rows_per_step)


def _exact_checks(
    checkpoint: Checkpoint,
    file: ModelFile,
    runners: list[OrtRunner],
    images: Pixels,
    noise: Pixels,
    tolerance: float,
) -> Iterator[Check]:
    """fp32: however the sequences are fed, values and decisions are eager torch's."""
    pixels, n = np.concatenate([images, noise]), len(images)
    reference = in_batches(TorchRunner(checkpoint.model()), pixels, 1000)
    ways: list[tuple[str, Callable[[], Logits]]] = [
        ("NumPy, batch 1000", lambda: NumpyRunner(file).logits(pixels)),
        ("torch.onnx.export, batch 1000", lambda: in_batches(TorchExportedRunner(checkpoint), pixels, 1000)),
        *((_whole(runner, n), partial(in_batches, runner, pixels, n)) for runner in runners for n in BATCH_SIZES),
        *((_by_rows(n), partial(_streamed, file, pixels, n)) for n in STREAM_SIZES),
        *(
            (f"row by row on the CPU, {how}", partial(_fed, file, pixels, calls))
            for how, calls in splits(checkpoint.config.n_steps)
        ),
        ("row by row on the CPU, NumPy", lambda: _numpy_fed(file, pixels, 1000)),
    ]
    for how, logits in ways:
        try:
            found = logits()
        except EdgeLstmError as error:
            yield Check(f"same values and decisions: {how}", False, str(error))
        else:
            yield parity_check(how, (found[:n], found[n:]), (reference[:n], reference[n:]), tolerance)


def _reduced_checks(
    checkpoint: Checkpoint,
    file: ModelFile,
    runners: list[OrtRunner],
    images: Pixels,
    digits: Digits | None,
    tolerance: float,
) -> Iterator[Check]:
    """int8 and fp16 are other functions than fp32: the kernel must be NumPy's, accuracy and confidences torch's.

    int8 activations are quantized, so the logits depend on the batch and on the rows of a call.
    """
    int8 = file.contract.precision == "int8"
    numpy_runner = NumpyRunner(file)
    for n in KERNEL_BATCH_SIZES:
        expected = in_batches(numpy_runner, images, n)
        for runner in runners:
            atol = INT8_ATOL if int8 else FP16_CUDA_ATOL if runner.provider_used == "cuda" else tolerance
            yield kernel_check(_whole(runner, n), expected, in_batches(runner, images, n), atol, int8=int8)
    streamed = {n: _streamed(file, images, n) for n in sorted({*NEAR_STREAM_SIZES, *STREAM_SIZES})}
    n = max(NEAR_STREAM_SIZES)
    atol = INT8_ATOL if int8 else tolerance
    yield kernel_check(_by_rows(n), _numpy_fed(file, images, n), streamed[n], atol, int8=int8)
    cpu = OrtRunner(file, provider="cpu")
    atol, why = (INT8_STREAM_ATOL, "a call is scaled by itself") if int8 else (tolerance, "rounding")
    for n in NEAR_STREAM_SIZES:
        yield near_check(_by_rows(n), in_batches(cpu, images, n), streamed[n], atol, why)
    reference = in_batches(TorchRunner(checkpoint.model()), images, 1000)
    ways = [(_whole(runner, n), in_batches(runner, images, n)) for runner in runners for n in BATCH_SIZES]
    for how, found in [*ways, *((_by_rows(n), found) for n, found in streamed.items())]:
        if digits:
            yield accuracy_check(how, reference, found, digits.labels)
        yield confidence_check(how, reference, found, file.contract.temperature)


def _score_checks(file: ModelFile, digits: Digits | None, validation: Digits | None) -> Iterator[Check]:
    """The scores that the file claims, counted as they were for it: on the CPU, one sequence at a time."""
    contract, runner = file.contract, OrtRunner(file, provider="cpu")
    for question, claimed, sequences in (
        ("claimed accuracy", contract.test, digits),
        ("claimed validation accuracy", contract.validation, validation if contract.validation else None),
    ):
        if sequences:
            yield score_check(question, claimed, in_batches(runner, sequences.images, 1), sequences.labels)
        elif claimed:
            yield Check(question, None, f"the file claims {claimed}, and the sequences are not on this machine")


def _whole(runner: OrtRunner, batch_size: int) -> str:
    return f"{runner.name}, batch {batch_size}"


def _by_rows(n_streams: int) -> str:
    return f"row by row on the CPU, {n_streams} stream{'s' if n_streams > 1 else ''}"


def splits(n_steps: int) -> list[tuple[str, list[int]]]:
    """Ways to cut a sequence's steps into calls: a name, and the steps of each call."""
    found = [("all steps in one call", [n_steps])]
    draw = np.random.default_rng(0)
    for _ in range(N_RANDOM_SPLITS if n_steps > 2 else 0):
        cuts = np.sort(draw.choice(np.arange(1, n_steps), draw.integers(1, n_steps - 1), replace=False))
        sizes = np.diff([0, *cuts, n_steps]).tolist()
        found.append((f"{len(sizes)} calls of {min(sizes)} to {max(sizes)} steps", sizes))
    return found


# Each of these gives the logits (B, classes) after the last row of sequences (B, rows, cols).


def _streamed(file: ModelFile, pixels: Pixels, n_streams: int) -> Logits:
    return logits_by_step(Stream(file, n_streams=n_streams), pixels)[:, -1]


def _fed(file: ModelFile, pixels: Pixels, steps_of_calls: list[int]) -> Logits:
    """So many steps in each call."""
    ends = np.cumsum(steps_of_calls)[:-1] * file.contract.config.rows_per_step

    def feed(part: Pixels) -> Logits:
        stream = Stream(file, n_streams=len(part))
        return [stream.push(np.ascontiguousarray(rows)) for rows in np.split(part, ends, axis=1)][-1]

    return _by_parts(feed, pixels, SPLIT_STREAMS)


def _numpy_fed(file: ModelFile, pixels: Pixels, batch_size: int) -> Logits:
    """By the NumPy reference, one step a call."""
    graph, config = decode(file.form("stream")), file.contract.config
    return _by_parts(lambda part: numpy_logits_by_rows(graph, part, config), pixels, batch_size)


def _by_parts(feed: Callable[[Pixels], Logits], pixels: Pixels, size: int) -> Logits:
    return np.concatenate([feed(pixels[at : at + size]) for at in range(0, len(pixels), size)])
