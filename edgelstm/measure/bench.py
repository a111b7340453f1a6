"""Accuracy, latency and size of any runners, measured side by side. Prints nothing."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgelstm.config import ModelConfig
from edgelstm.contract import Lengths, Runner, Score, Sequences, in_batches
from edgelstm.data.dataset import Part
from edgelstm.data.evaluation import DataSource, evaluation_of
from edgelstm.errors import printable
from edgelstm.measure.machine import Environment, measure_rates, peak_memory_bytes, read_environment, roofline_s
from edgelstm.measure.timing import (
    LatencySummary,
    Ratio,
    calls_for_budget,
    measure_alternating,
    median_ratio,
    summarize,
)
from edgelstm.native.runner import c_constant_bytes, c_precision
from edgelstm.onnx_file import ModelFile, ModelSource, default_model, open_model
from edgelstm.runtime.runner import AnyProvider, open_runner
from edgelstm.runtime.session import SessionSettings, has_nvidia_driver
from edgelstm.runtime.stream import Stream

SCHEMA_VERSION = 2
N_ROUNDS = 12
"""Every contestant runs once in each round; the statistics need at least 6."""
N_WARMUP = 20
N_RANDOM = 64
"""Random sequences that are timed where there is no data of a model's shape; repeated for larger batches."""
CLEARLY = 0.95
"""Less than 5 % is not worth a second core."""
WHAT_IS_TIMED = (
    "one call from pixels or values in memory (NumPy) to logits (float32, NumPy), of whole sequences, and of one step "
    "where a stream was asked for; not timed: reading files, preparing pictures, loading the model, the first run "
    "(its own column), warm-up"
)


Batch = tuple[Sequences] | tuple[Sequences, Lengths]
"""What `Runner.logits` takes."""


@dataclass(frozen=True)
class Contestant:
    """A model on a provider: how to load it, and what is known of it before."""

    name: str
    """Of the model; results add what it ran on."""
    load: Callable[[], Runner]
    """Called once, timed."""
    provider_requested: str
    precision: str
    config: ModelConfig
    file_bytes: int | None
    """Of the file; of the C engine, its constants."""
    threads: int
    stream: Callable[[int], Stream] | None = None
    """Makes its stream of so many sequences, to time single steps as well; None leaves that out."""
    data: Part | None = None
    """What its accuracy is counted on, and what it is timed on; None: random sequences, and no accuracy."""


@dataclass(frozen=True)
class BatchResult:
    """Calls of one batch size."""

    batch_size: int
    latency: LatencySummary
    """Seconds of one call on the whole batch."""
    images_per_s: float
    """batch_size over the median call."""
    ratio_to_first: Ratio
    """Time over that of the first contestant, paired by round."""
    roofline_s: float | None = None
    """The least time that this machine's fp32 matrix rate and memory allow for the batch; None if not measured."""


@dataclass(frozen=True)
class BenchResult:
    """One contestant's figures."""

    name: str
    model: str
    provider_requested: str
    provider_used: str
    precision: str
    threads: int
    n_parameters: int
    file_bytes: int | None
    load_s: float
    """From a file that is read and checked to a runner; in torch from the checkpoint, with the import of torch."""
    first_run_s: float
    accuracy: Score | None
    """None if there is no labelled data of the model's shape and classes."""
    batches: tuple[BatchResult, ...] = ()
    peak_memory_bytes: int | None = None
    """Of a process of its own that loads it and runs it once; None if not measured."""
    steps: tuple[BatchResult, ...] = ()
    """Calls of one step, the LSTM's state kept between them, of as many sequences as the batch; empty if not asked."""

    @property
    def single_stream_p90_s(self) -> float | None:
        """MLPerf's SingleStream: p90 at batch 1. None if not measured."""
        return next((batch.latency.p90.value_s for batch in self.batches if batch.batch_size == 1), None)

    @property
    def offline(self) -> BatchResult:
        """MLPerf's Offline: the batch size with the most images a second."""
        return max(self.batches, key=lambda batch: batch.images_per_s)


@dataclass(frozen=True)
class BenchReport:
    """All contestants of one run; only figures of one run are comparable."""

    schema_version: int
    environment: Environment
    digits: str
    what_is_timed: str
    n_rounds: int
    results: tuple[BenchResult, ...]


@dataclass(frozen=True)
class _Loaded:
    contestant: Contestant
    runner: Runner
    batch: Batch
    """What it is timed on."""
    result: BenchResult
    """What is known of it before it is timed."""


def bench(
    models: Sequence[ModelSource] = (),
    *,
    data: DataSource = None,
    channels_first: bool = False,
    providers: Sequence[AnyProvider] = (),
    batch_sizes: Iterable[int] = (1, 64, 1000),
    threads: int | Sequence[int] = 1,
    seconds: float = 10.0,
    streaming: bool = False,
    with_torch: Callable[[ModelFile, str, Part | None], Contestant | None] | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> BenchReport:
    """Measure models side by side in onnxruntime and in the C engine, as `bench_contestants` does.

    ``models`` are what `open_model` takes (none: the run of this folder, else the shipped base model). ``providers``
    are by default cpu, and auto where there is an NVIDIA driver; ``data`` is what accuracy is counted on (None:
    MNIST, for models that read such). ``streaming`` times one step of each model's stream, too. ``with_torch`` makes
    one more contestant of a model's file, name and data: the command line's loads the checkpoint beside it.
    """
    providers = tuple(dict.fromkeys(providers)) or (("cpu", "auto") if has_nvidia_driver() else ("cpu",))
    contestants: list[Contestant] = []
    evaluations = []
    counts = [threads] if isinstance(threads, int) else threads
    for model in models or (default_model(),):
        file = open_model(model)
        name = file.source if isinstance(model, bytes | ModelFile) else printable(model)
        evaluation = evaluation_of(data, file.contract.config, channels_first=channels_first, report=on_progress)
        contestants += [
            contestant
            for count in counts
            for contestant in contestants_of(
                file, name, providers, count, streaming, evaluation.test, first=count == counts[0]
            )
        ]
        evaluations.append(str(evaluation))
        if with_torch and (other := with_torch(file, name, evaluation.test)):
            contestants.append(other)
    on_progress(f"measuring {', '.join(dict.fromkeys(one.name for one in contestants))} with {evaluations[0]}")
    return bench_contestants(
        contestants, batch_sizes=batch_sizes, seconds=seconds, with_machine=True, on_progress=on_progress
    )


def contestants_of(
    file: ModelFile, name: str, providers: Sequence[AnyProvider], threads: int, streaming: bool, data: Part | None,
    *, first: bool,
) -> list[Contestant]:  # fmt: skip
    """A model on each provider; those without CPU threads of their own only with the ``first`` number of them."""
    contract, settings = file.contract, SessionSettings(threads=threads)

    def stream_on(provider: AnyProvider) -> Callable[[int], Stream]:
        return lambda n_streams: Stream(file, n_streams=n_streams, provider=provider, settings=settings)

    found = []
    for provider in providers:
        precision: str = contract.precision
        n_bytes = file.n_bytes
        if provider in ("c", "c-int8", "cuda") and not first:  # threads are the CPU's in onnxruntime
            continue
        if provider == "c" or provider == "c-int8":
            precision, n_bytes = c_precision(file, provider), c_constant_bytes(file, provider)
        found.append(
            Contestant(
                name, partial(open_runner, file, provider=provider, settings=settings), provider, precision,
                contract.config, n_bytes, 1 if provider in ("c", "c-int8") else threads,
                stream=stream_on(provider) if streaming and provider in ("cpu", "c", "c-int8") else None, data=data,
            )
        )  # fmt: skip
    return found


def bench_contestants(
    contestants: Sequence[Contestant],
    *,
    batch_sizes: Iterable[int] = (1, 64, 1000),
    seconds: float = 10.0,
    with_machine: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
) -> BenchReport:
    """Load each contestant, count its right answers, and time all of them in turn.

    ``seconds`` is the measuring time, shared evenly by the batch sizes and contestants. One that asked for
    ``auto`` is left out if that gave what another of the same name asked for. ``with_machine`` also measures the
    machine's own rates, and each contestant's peak memory in a process of its own, for which its ``load`` must be
    picklable. Raises what a contestant's ``load`` raises.
    """
    environment = read_environment()
    if with_machine:
        on_progress("measuring the machine's matrix rate and memory bandwidth")
        environment = replace(environment, rates=measure_rates(min(contestant.threads for contestant in contestants)))
    rates = environment.rates
    loaded = [_load(contestant, on_progress) for contestant in contestants]
    asked_for = {one.result.name for one in loaded if one.contestant.provider_requested != "auto"}
    loaded = [o for o in loaded if o.contestant.provider_requested != "auto" or o.result.name not in asked_for]
    results = [one.result for one in loaded]
    if with_machine:
        on_progress("measuring peak memory, each model in a process of its own")
        peaks = [peak_memory_bytes(one.contestant.load, *_repeated(one.batch, 1)) for one in loaded]
        results = [replace(each, peak_memory_bytes=peak) for each, peak in zip(results, peaks, strict=True)]
    sizes = sorted(set(batch_sizes))
    streams = {i: one.contestant.stream for i, one in enumerate(loaded) if one.contestant.stream}
    budget_s = seconds / len(sizes) / (2 if streams else 1)
    for size in sizes:
        parts = [_repeated(one.batch, size) for one in loaded]
        on_progress(f"timing batch {size}")
        calls = [partial(one.runner.logits, *part) for one, part in zip(loaded, parts, strict=True)]
        for i, batch in enumerate(_timed(size, calls, budget_s)):
            # the rates are the CPU's
            on_cpu = loaded[i].result.provider_used != "cuda"
            least = roofline_s(loaded[i].contestant.config, size, rates) if rates and on_cpu else None
            results[i] = replace(results[i], batches=(*results[i].batches, replace(batch, roofline_s=least)))
        if streams:
            on_progress(f"timing one step of {size} stream{'s' if size > 1 else ''}")
            steps = [stream(size).row_call(parts[i][0]) for i, stream in streams.items()]
            for i, step in zip(streams, _timed(size, steps, budget_s), strict=True):
                results[i] = replace(results[i], steps=(*results[i].steps, step))
    used = dict.fromkeys(f"{len(one.data):,} ({one.data.source})" for one in contestants if one.data)
    return BenchReport(
        SCHEMA_VERSION, environment, "; ".join(used) or "random sequences", WHAT_IS_TIMED, N_ROUNDS, tuple(results)
    )


def _load(contestant: Contestant, on_progress: Callable[[str], None]) -> _Loaded:
    on_progress(f"loading {contestant.name}")
    config, data = contestant.config, contestant.data
    if data and data.fits(config):
        batch: Batch = (data.sequences,) if data.lengths is None else (data.sequences, data.lengths)
    else:
        data, batch = None, _random(config)
        on_progress(
            f"{contestant.name}: no labelled data of {config.rows} rows x {config.cols} columns and {config.n_classes} "
            "classes: accuracy left out, random sequences are timed"
        )
    began = time.perf_counter()
    runner = contestant.load()
    loaded = time.perf_counter()
    runner.logits(*_repeated(batch, 1))
    ran = time.perf_counter()
    if note := getattr(runner, "provider_note", None):
        on_progress(f"{contestant.name}: {note}")
    accuracy = Score.of(in_batches(runner, data.sequences, 1000, data.lengths), data.labels) if data else None
    # a runner that does not say what it runs on can only run on what was requested
    used = str(getattr(runner, "provider_used", contestant.provider_requested))
    threads = "" if contestant.threads == 1 else f" {contestant.threads} threads"
    result = BenchResult(
        name=f"{contestant.name} {used}{threads}", model=contestant.name, provider_used=used,
        provider_requested=contestant.provider_requested, precision=contestant.precision, threads=contestant.threads,
        n_parameters=config.n_parameters, file_bytes=contestant.file_bytes, load_s=loaded - began,
        first_run_s=ran - loaded, accuracy=accuracy,
    )  # fmt: skip
    return _Loaded(contestant, runner, batch, result)


def _random(config: ModelConfig) -> Batch:
    """Sequences to time a model on that has no data here; values of any size would do."""
    draw, shape = np.random.default_rng(0), (N_RANDOM, config.rows, config.cols)
    if not config.is_values:
        return (draw.integers(0, 256, shape, np.uint8),)
    values = draw.standard_normal(shape, np.float32)
    return (values, np.full(N_RANDOM, config.rows, np.int32)) if config.variable_length else (values,)


def _repeated(batch: Batch, size: int) -> Batch:
    """So many sequences, repeated if there are too few."""
    sequences, *lengths = (np.resize(array, (size, *array.shape[1:])) for array in batch)
    return (sequences, lengths[0]) if lengths else (sequences,)


def _timed(size: int, calls: Sequence[Callable[[], object]], budget_s: float) -> list[BatchResult]:
    named = {str(i): call for i, call in enumerate(calls)}  # two contestants may have one name
    counts = calls_for_budget(named, budget_s=budget_s, n_rounds=N_ROUNDS)
    rounds = measure_alternating(named, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=N_WARMUP)
    latencies = [summarize(rounds[name]) for name in named]
    return [
        BatchResult(size, latency, size / latency.p50.value_s, median_ratio(rounds[name], rounds["0"]))
        for name, latency in zip(named, latencies, strict=True)
    ]


def advice(report: BenchReport) -> list[str]:
    """What a batch sweep says to do: from which batch more threads, or CUDA, are faster. One line each."""
    lines = []
    for model in dict.fromkeys(result.model for result in report.results):
        results = [result for result in report.results if result.model == model]
        one = next((r for r in results if r.provider_used == "cpu" and r.threads == 1), None)
        if one is None:
            continue
        others = [r for r in results if r is not one and r.provider_used in ("cpu", "cuda")]
        for other in others:
            use = "CUDA" if other.provider_used == "cuda" else f"{other.threads} threads"
            start = crossover(one, other)
            lines.append(
                f"{one.name}: one thread at every batch measured; {use} is never clearly faster" if start is None
                else f"{one.name}: {use} from the start" if start == one.batches[0].batch_size
                else f"{one.name}: below batch {start} one thread, from {start} {use}"
            )  # fmt: skip
        if not any(other.provider_used == "cuda" for other in others):
            lines.append(f"{one.name}: CUDA not measured: {report.environment.gpu or 'no GPU'}")
    return lines


def crossover(one: BenchResult, other: BenchResult) -> int | None:
    """The batch size from which ``other`` is faster by at least CLEARLY at every size measured; None if never."""
    start = None
    for mine, theirs in zip(reversed(one.batches), reversed(other.batches), strict=True):
        if theirs.latency.p50.value_s > CLEARLY * mine.latency.p50.value_s:
            break
        start = mine.batch_size
    return start
