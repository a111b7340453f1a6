"""That an exported file answers as its checkpoint does: torch, torch's exporter, NumPy, providers, row by row."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edgelstm.contract import Lengths, Logits, Runner, Sequences, in_batches
from edgelstm.data.dataset import Part
from edgelstm.data.evaluation import DataSource, evaluation_of
from edgelstm.data.npm import Report
from edgelstm.errors import CheckpointError, EdgeLstmError, ModelError, printable
from edgelstm.exporting.checks import (
    FP16_CUDA_ATOL,
    FP16_VALUES_ATOL,
    INT8_ATOL,
    INT8_STREAM_ATOL,
    Check,
    accuracy_check,
    bits_check,
    claims_check,
    confidence_check,
    early_check,
    graph_check,
    kernel_check,
    near_check,
    padding_check,
    parity_check,
    restored_check,
    rule_check,
    score_check,
)
from edgelstm.exporting.graph import build_graph, contract_of, probe_sequences
from edgelstm.exporting.torch_export import TorchExportedRunner
from edgelstm.native.runner import CRunner
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import (
    ModelFile,
    ModelSource,
    checkpoint_beside,
    decode,
    default_model,
    find_model,
    open_model,
)
from edgelstm.runtime.reference import NumpyRunner, numpy_logits_by_rows, rounding_tolerance
from edgelstm.runtime.runner import AnyProvider, AnyRunner, OrtRunner, open_runner
from edgelstm.runtime.stream import Stream, last_logits, logits_by_step
from edgelstm.training.checkpoint import Checkpoint, load_checkpoint
from edgelstm.training.model import TorchRunner

BATCH_SIZES = (1, 2, 7, 64, 1000)
STREAM_SIZES = (1, 7, 64, 1000)
"""Streams side by side; each reads one step a call."""
N_RANDOM_SPLITS = 3
SPLIT_STREAMS = 1000
KERNEL_BATCH_SIZES = (7, 32)
"""At most the runner's chunk: int8 activations share one scale with their chunk."""
NEAR_STREAM_SIZES = (1, 7, 32)
C_BITS = 512
"""Sequences whose bits are held against NumPy's, which takes a second for so many."""

Batch = tuple[Sequences, Lengths | None]
"""(B, rows, cols), and (B,) lengths where they differ."""


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
    model: ModelSource | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    data: DataSource = None,
    channels_first: bool = False,
    providers: tuple[AnyProvider, ...] = ("cpu", "auto"),
    on_progress: Report = lambda line: None,
) -> VerifyReport:
    """Prove that an exported model answers exactly as its checkpoint, as `verify_file` asks it.

    ``model`` is what `open_model` takes (None: the run of this folder, else the shipped base model); ``checkpoint``
    by default the one beside it. ``data`` is what the model was trained on (None: MNIST, if it reads such).
    Raises CheckpointError, ModelError or DataError if one of the three cannot be read.
    """
    found = default_model() if model is None else model
    path = found.path if isinstance(found, ModelFile) else None if isinstance(found, bytes) else find_model(found)
    if checkpoint is None and path is None:
        raise ValueError("checkpoint: a model in memory has none beside it, expected a file name")
    beside = checkpoint_beside(path) if path and checkpoint is None else Path(checkpoint or "")
    if checkpoint is None and not beside.exists():
        raise CheckpointError(
            f"no checkpoint at {printable(beside)}", expected=f"the one that {printable(path or '')} was exported from",
            fix="name it: edgelstm verify CHECKPOINT MODEL",
        )  # fmt: skip
    trained = load_checkpoint(beside)
    evaluation = evaluation_of(data, trained.config, channels_first=channels_first, report=on_progress)
    name = printable(path or "the model")
    on_progress(f"verifying {name} against {printable(beside)} on {evaluation}")
    if evaluation.sha256 not in (None, trained.data_sha256):
        on_progress("this is not the data that the model was trained on: what it claims of that cannot be asked here")
        evaluation = replace(evaluation, validation=None)
    return verify_file(
        trained, path or found, evaluation.test, providers=providers, validation=evaluation.validation,
        checkpoint_name=str(beside), same_data=evaluation.sha256 == trained.data_sha256,
    )  # fmt: skip


def verify_file(
    checkpoint: Checkpoint,
    model: ModelSource,
    evaluation: Part | None,
    *,
    providers: tuple[AnyProvider, ...] = ("auto",),
    validation: Part | None = None,
    checkpoint_name: str = "the checkpoint",
    same_data: bool = True,
) -> VerifyReport:
    """Ask whether graph, weights, values, decisions, confidences and claims of a file are the checkpoint's.

    ``evaluation`` are labelled sequences; if they are None, or not of the model's shape, random ones are
    compared, and no accuracy. ``validation`` are those that chose the rule for early exit, None if they are not at
    hand. Without ``same_data`` the sequences are no part of what the model was trained on, so its claims are not
    asked. The reference is eager torch, and for int8 a NumPy model of the kernel; a stream runs on the CPU whatever
    the ``providers``. Raises ProviderError if a provider that was asked for by name does not run the LSTM.
    """
    name = model.source if isinstance(model, ModelFile) else "the model" if isinstance(model, bytes) else str(model)
    evaluation, validation = (
        each if each is not None and each.fits(checkpoint.config) else None for each in (evaluation, validation)
    )
    what = f"{len(evaluation):,} sequences ({evaluation.source})" if evaluation else "random sequences only"
    checks = tuple(_checks(checkpoint, model, evaluation, providers, validation, same_data))
    return VerifyReport(name, checkpoint_name, what, checks)


def _checks(
    checkpoint: Checkpoint,
    model: ModelSource,
    evaluation: Part | None,
    providers: tuple[AnyProvider, ...],
    validation: Part | None,
    same_data: bool,
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
        f"{', '.join(map(str, file.graph.inputs))} -> {', '.join(map(str, file.graph.outputs))}",
    )  # fmt: skip
    yield graph_check(build_graph(checkpoint, contract), file)
    probe = probe_sequences(checkpoint)
    fp32 = build_graph(checkpoint, contract_of(checkpoint))
    sequences, lengths = _arrays(evaluation) if evaluation else probe
    some = slice(0, len(probe[0]))
    tolerance = max(
        rounding_tolerance(fp32, *one)
        for one in (probe, (sequences[some], None if lengths is None else lengths[some]))
    )  # fmt: skip
    all_runners = [open_runner(file, provider=provider) for provider in providers]
    runners: list[AnyRunner] = list(
        {one.provider_used: one for one in all_runners if not isinstance(one, CRunner)}.values()
    )
    if contract.precision == "fp32":
        yield from _exact_checks(checkpoint, file, runners, (sequences, lengths), probe, tolerance)
    else:
        yield from _reduced_checks(checkpoint, file, runners, (sequences, lengths), evaluation, tolerance)
    for c_runner in {one.provider_used: one for one in all_runners if isinstance(one, CRunner)}.values():
        yield from _c_checks(checkpoint, file, c_runner, (sequences, lengths), probe, evaluation, tolerance)
    yield restored_check(file, sequences)
    if lengths is not None:
        yield padding_check(all_runners, sequences, lengths)
    yield claims_check(checkpoint, contract)
    yield from _score_checks(file, evaluation if same_data else None, validation)
    if contract.early:
        yield rule_check(file, contract.early, validation)
    if contract.early and evaluation:
        logits = logits_by_step(Stream(file), evaluation.sequences)
        yield early_check(contract.early, logits, evaluation.labels, config.rows_per_step)


def _exact_checks(
    checkpoint: Checkpoint,
    file: ModelFile,
    runners: list[AnyRunner],
    real: Batch,
    noise: Batch,
    tolerance: float,
) -> Iterator[Check]:
    """fp32: however the sequences are fed, values and decisions are eager torch's."""
    both, n = _joined(real, noise), len(real[0])
    reference = _batched(TorchRunner(checkpoint.model()), both, 1000)
    ways: list[tuple[str, Callable[[], Logits]]] = [
        ("NumPy, batch 1000", lambda: NumpyRunner(file).logits(*both)),
        (
            "torch.onnx.export, batch 1000",
            lambda: _batched(TorchExportedRunner(checkpoint, both[0].shape[1]), both, 1000),
        ),
        *((_whole(runner, n), partial(_batched, runner, both, n)) for runner in runners for n in BATCH_SIZES),
        *((_by_rows(n), partial(_streamed, file, both, n)) for n in STREAM_SIZES),
        *((f"row by row on the CPU, {how}", partial(_fed, file, both, calls)) for how, calls in _splits(checkpoint)),
        ("row by row on the CPU, NumPy", lambda: _numpy_fed(file, both, 1000)),
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
    runners: list[AnyRunner],
    real: Batch,
    evaluation: Part | None,
    tolerance: float,
) -> Iterator[Check]:
    """int8 and fp16 are other functions than fp32: the kernel must be NumPy's, accuracy and confidences torch's.

    int8 activations are quantized, so the logits depend on the batch and on the rows of a call.
    """
    int8 = file.contract.precision == "int8"
    numpy_runner = NumpyRunner(file)
    # where lengths differ the runner takes int8 sequences one by one
    sizes = (1,) if int8 and real[1] is not None else KERNEL_BATCH_SIZES
    for n in sizes:
        expected = _batched(numpy_runner, real, n)
        for runner in runners:
            atol = INT8_ATOL if int8 else FP16_CUDA_ATOL if runner.provider_used == "cuda" else tolerance
            yield kernel_check(_whole(runner, n), expected, _batched(runner, real, n), atol, int8=int8)
    streamed = {n: _streamed(file, real, n) for n in sorted({*NEAR_STREAM_SIZES, *STREAM_SIZES})}
    n = 1 if int8 and real[1] is not None else max(NEAR_STREAM_SIZES)
    atol = INT8_ATOL if int8 else tolerance
    yield kernel_check(_by_rows(n), _numpy_fed(file, real, n), streamed[n], atol, int8=int8)
    cpu = OrtRunner(file, provider="cpu")
    atol, why = (INT8_STREAM_ATOL, "a call is scaled by itself") if int8 else (tolerance, "rounding")
    if not int8 and file.contract.config.is_values:
        atol, why = FP16_VALUES_ATOL, "whole sequences are rounded to float16, rows are not"
    for n in NEAR_STREAM_SIZES:
        yield near_check(_by_rows(n), _batched(cpu, real, n), streamed[n], atol, why)
    reference = _batched(TorchRunner(checkpoint.model()), real, 1000)
    ways = [(_whole(runner, n), _batched(runner, real, n)) for runner in runners for n in BATCH_SIZES]
    for how, found in [*ways, *((_by_rows(n), found) for n, found in streamed.items())]:
        if evaluation:
            yield accuracy_check(how, reference, found, evaluation.labels)
        yield confidence_check(how, reference, found, file.contract.temperature)


def _c_checks(
    checkpoint: Checkpoint,
    file: ModelFile,
    runner: CRunner,
    real: Batch,
    noise: Batch,
    evaluation: Part | None,
    tolerance: float,
) -> Iterator[Check]:
    """The C engine has the bits of its definition, whole and row by row; and it decides as torch does."""
    both, n = _joined(real, noise), len(real[0])
    found = _batched(runner, both, 1000)
    some = np.linspace(0, len(both[0]) - 1, min(len(both[0]), C_BITS)).astype(int)
    part = both[0][some], None if both[1] is None else both[1][some]
    yield bits_check(f"{runner.name}, whole sequences", scheme_of(file, runner.precision).logits(*part), found[some])
    stream = Stream(file, n_streams=100, provider=runner.provider_used)
    yield bits_check(f"{runner.name}, row by row, 100 streams", found[some], last_logits(stream, *part))
    reference = _batched(TorchRunner(checkpoint.model()), both, 1000)
    if runner.precision == file.contract.precision == "fp32":  # fp16 is another function, in float32 too
        yield parity_check(runner.name, (found[:n], found[n:]), (reference[:n], reference[n:]), tolerance)
        return
    if evaluation:
        yield accuracy_check(runner.name, reference[:n], found[:n], evaluation.labels)
    yield confidence_check(runner.name, reference[:n], found[:n], file.contract.temperature)


def _score_checks(file: ModelFile, evaluation: Part | None, validation: Part | None) -> Iterator[Check]:
    """The scores that the file claims, counted as they were for it: on the CPU, one sequence at a time."""
    contract, runner = file.contract, OrtRunner(file, provider="cpu")
    for question, claimed, part in (
        ("claimed accuracy", contract.test, evaluation),
        ("claimed validation accuracy", contract.validation, validation if contract.validation else None),
    ):
        if part:
            yield score_check(question, claimed, _batched(runner, _arrays(part), 1), part.labels)
        elif claimed:
            yield Check(question, None, f"the file claims {claimed}, and the sequences are not on this machine")


def _whole(runner: AnyRunner, batch_size: int) -> str:
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


def _splits(checkpoint: Checkpoint) -> list[tuple[str, list[int]]]:
    """Where lengths differ the sequences are cut into single rows only: a call ends where a sequence may end."""
    config = checkpoint.config
    return [] if config.variable_length else splits(config.n_steps)


def _arrays(part: Part) -> Batch:
    return part.sequences, part.lengths


def _joined(one: Batch, other: Batch) -> Batch:
    """Both, the shorter ones ended by zeros."""
    rows = max(one[0].shape[1], other[0].shape[1])
    sequences = [np.pad(part, ((0, 0), (0, rows - part.shape[1]), (0, 0))) for part, _ in (one, other)]
    lengths = None if one[1] is None or other[1] is None else np.concatenate([one[1], other[1]])
    return np.concatenate(sequences), lengths


# Each of these gives the logits (B, classes) after the last row of sequences (B, rows, cols).


def _batched(runner: Runner, batch: Batch, size: int) -> Logits:
    return in_batches(runner, batch[0], size, batch[1])


def _streamed(file: ModelFile, batch: Batch, n_streams: int) -> Logits:
    return last_logits(Stream(file, n_streams=n_streams), *batch)


def _fed(file: ModelFile, batch: Batch, steps_of_calls: list[int]) -> Logits:
    """So many steps in each call."""
    ends = np.cumsum(steps_of_calls)[:-1] * file.contract.config.rows_per_step

    def feed(part: Sequences, _: Lengths | None) -> Logits:
        stream = Stream(file, n_streams=len(part))
        return [stream.push(np.ascontiguousarray(rows)) for rows in np.split(part, ends, axis=1)][-1]

    return _by_parts(feed, batch, SPLIT_STREAMS)


def _numpy_fed(file: ModelFile, batch: Batch, batch_size: int) -> Logits:
    """By the NumPy reference, one step a call."""
    graph, config = decode(file.form("stream")), file.contract.config
    return _by_parts(lambda part, lengths: numpy_logits_by_rows(graph, part, config, lengths), batch, batch_size)


def _by_parts(feed: Callable[[Sequences, Lengths | None], Logits], batch: Batch, size: int) -> Logits:
    sequences, lengths = batch
    parts = [slice(at, at + size) for at in range(0, len(sequences), size)]
    return np.concatenate([feed(sequences[part], None if lengths is None else lengths[part]) for part in parts])
