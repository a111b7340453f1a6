"""Accuracy, latency and size of any runners, measured side by side. Prints nothing."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgelstm.config import DIGITS, ModelConfig
from edgelstm.contract import Pixels, Runner, Score, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.measure.machine import Environment, Rates, measure_rates, peak_memory_bytes, read_environment, roofline_s
from edgelstm.measure.timing import (
    LatencySummary,
    Ratio,
    Rounds,
    calls_for_budget,
    measure_alternating,
    median_ratio,
    summarize,
)
from edgelstm.runtime.stream import Stream

SCHEMA_VERSION = 2
N_ROUNDS = 12
"""Every contestant runs once in each round; the statistics need at least 6."""
N_WARMUP = 20
N_RANDOM = 64
"""Random pictures that are timed where there is no data of a model's shape; repeated for larger batches."""
CLEARLY = 0.95
"""Less than 5 % is not worth a second core."""
WHAT_IS_TIMED = (
    "one call from pixels in memory (uint8, NumPy) to logits (float32, NumPy), of whole pictures, and of one step "
    "where a stream was asked for; not timed: reading files, preparing pictures, loading the model, the first run "
    "(its own column), warm-up"
)


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
    threads: int
    stream: Callable[[int], Stream] | None = None
    """Makes its stream of so many sequences, to time single steps as well; None leaves that out."""


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
    """A contestant ready to run, and what is known of it so far."""

    contestant: Contestant
    runner: Runner
    images: Pixels
    """What it is timed on."""
    result: BenchResult


def bench(
    contestants: Sequence[Contestant],
    digits: Digits,
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
        rates = measure_rates(min(contestant.threads for contestant in contestants))
        environment = replace(environment, rates=rates)
    loaded = _distinct([_load(contestant, digits, on_progress) for contestant in contestants])
    results = [one.result for one in loaded]
    if with_machine:
        on_progress("measuring peak memory, each model in a process of its own")
        peaks = [peak_memory_bytes(one.contestant.load, one.images[:1]) for one in loaded]
        results = [replace(each, peak_memory_bytes=peak) for each, peak in zip(results, peaks, strict=True)]
    sizes = sorted(set(batch_sizes))
    streams = {i: one.contestant.stream for i, one in enumerate(loaded) if one.contestant.stream}
    budget_s = seconds / len(sizes) / (2 if streams else 1)
    for size in sizes:
        pixels = [_batch(one.images, size) for one in loaded]
        on_progress(f"timing batch {size}")
        rounds = _timed([_call(one.runner, part) for one, part in zip(loaded, pixels, strict=True)], budget_s)
        for i, found in enumerate(rounds):
            timed = _batch_result(size, found, rounds[0], loaded[i].contestant.config, environment.rates)
            results[i] = replace(results[i], batches=(*results[i].batches, timed))
        if streams:
            on_progress(f"timing one step of {size} stream{'s' if size > 1 else ''}")
            rounds = _timed([stream(size).row_call(pixels[i]) for i, stream in streams.items()], budget_s)
            for i, found in zip(streams, rounds, strict=True):
                results[i] = replace(results[i], steps=(*results[i].steps, _batch_result(size, found, rounds[0])))
    digits_used = f"{len(digits):,} ({digits.source})"
    return BenchReport(SCHEMA_VERSION, environment, digits_used, WHAT_IS_TIMED, N_ROUNDS, tuple(results))


def _load(contestant: Contestant, digits: Digits, on_progress: Callable[[str], None]) -> _Loaded:
    on_progress(f"loading {contestant.name}")
    config, images = contestant.config, digits.images
    same_shape = images.shape[1:] == (config.rows, config.cols)
    fits = same_shape and config.class_names == DIGITS
    if not same_shape:
        images = np.random.default_rng(0).integers(0, 256, (N_RANDOM, config.rows, config.cols), np.uint8)
    if not fits:
        what = f"{config.rows} rows x {config.cols} columns and {config.n_classes} classes"
        timed = "the digits are" if same_shape else "random pixels are"
        on_progress(f"{contestant.name}: no labelled data of {what}: accuracy left out, {timed} timed")
    began = time.perf_counter()
    runner = contestant.load()
    loaded = time.perf_counter()
    runner.logits(images[:1])
    ran = time.perf_counter()
    if note := getattr(runner, "provider_note", None):
        on_progress(f"{contestant.name}: {note}")
    accuracy = Score.of(in_batches(runner, images, 1000), digits.labels) if fits else None
    # a runner that does not say what it runs on can only run on what was requested
    used = str(getattr(runner, "provider_used", contestant.provider_requested))
    threads = "" if contestant.threads == 1 else f" {contestant.threads} threads"
    result = BenchResult(
        name=f"{contestant.name} {used}{threads}", model=contestant.name, provider_used=used,
        provider_requested=contestant.provider_requested, precision=contestant.precision, threads=contestant.threads,
        n_parameters=config.n_parameters, file_bytes=contestant.file_bytes, load_s=loaded - began,
        first_run_s=ran - loaded, accuracy=accuracy,
    )  # fmt: skip
    return _Loaded(contestant, runner, images, result)


def _distinct(loaded: list[_Loaded]) -> list[_Loaded]:
    named = {one.result.name for one in loaded if one.contestant.provider_requested != "auto"}
    return [one for one in loaded if one.contestant.provider_requested != "auto" or one.result.name not in named]


def _call(runner: Runner, pixels: Pixels) -> Callable[[], object]:
    return lambda: runner.logits(pixels)


def _timed(calls: Sequence[Callable[[], object]], budget_s: float) -> list[Rounds]:
    named = {str(i): call for i, call in enumerate(calls)}  # two contestants may have one name
    counts = calls_for_budget(named, budget_s=budget_s, n_rounds=N_ROUNDS)
    rounds = measure_alternating(named, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=N_WARMUP)
    return [rounds[name] for name in named]


def _batch(images: Pixels, size: int) -> Pixels:
    """``size`` pictures, repeated if there are not so many."""
    return np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))


def _batch_result(
    size: int, rounds: Rounds, first: Rounds, config: ModelConfig | None = None, rates: Rates | None = None
) -> BatchResult:
    latency = summarize(rounds)
    least = roofline_s(config, size, rates) if config and rates else None
    return BatchResult(size, latency, size / latency.p50.value_s, median_ratio(rounds, first), least)


def advice(report: BenchReport) -> list[str]:
    """What a batch sweep says to do: from which batch more threads, or CUDA, are faster. One line each."""
    lines = []
    for model in dict.fromkeys(result.model for result in report.results):
        results = [result for result in report.results if result.model == model]
        one = next((r for r in results if r.provider_used == "cpu" and r.threads == 1), None)
        if one is None:
            continue
        for other in results:
            if other is one or other.provider_used not in ("cpu", "cuda"):
                continue
            use = "CUDA" if other.provider_used == "cuda" else f"{other.threads} threads"
            start = crossover(one, other)
            lines.append(
                f"{one.name}: one thread at every batch measured; {use} is never clearly faster" if start is None
                else f"{one.name}: {use} from the start" if start == one.batches[0].batch_size
                else f"{one.name}: below batch {start} one thread, from {start} {use}"
            )  # fmt: skip
        if not any(r.provider_used == "cuda" for r in results):
            lines.append(f"{one.name}: CUDA not measured: {report.environment.gpu or 'no GPU'}")
    return lines


def crossover(one: BenchResult, other: BenchResult) -> int | None:
    """The batch size from which ``other`` is faster by at least CLEARLY at every size measured; None if never."""
    start = None
    for mine, theirs in zip(one.batches, other.batches, strict=True):
        if theirs.latency.p50.value_s > CLEARLY * mine.latency.p50.value_s:
            start = None
        elif start is None:
            start = mine.batch_size
    return start
