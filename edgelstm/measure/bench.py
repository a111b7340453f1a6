"""Accuracy, latency and size of any runners, measured side by side. Prints nothing."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from edgelstm.config import ModelConfig, n_cores
from edgelstm.contract import Pixels, Runner, Score, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.measure.machine import Machine, floor, measure_machine
from edgelstm.measure.memory import peak_memory_bytes
from edgelstm.measure.timing import (
    LatencySummary,
    Ratio,
    Rounds,
    calls_for_budget,
    measure_alternating,
    median_ratio,
    summarize,
)

SCHEMA_VERSION = 1
N_ROUNDS = 12
"""Every contestant runs once in each round; the statistics need at least 6."""
N_WARMUP = 20
CLEARLY = 0.95
"""Less than 5 % is not worth a second core."""
WHAT_IS_TIMED = (
    "one call from pixels in memory (uint8, NumPy) to logits (float32, NumPy), for a streaming model all the calls of "
    "a picture, and one step's alone; not timed: reading files, "
    "preparing pictures, loading the model, the first run (its own column), warm-up"
)


@dataclass(frozen=True)
class Contestant:
    """Something to be measured: how to load it, and what is known of it before."""

    name: str
    load: Callable[[], Runner]
    """Called once, timed."""
    provider_requested: str
    precision: str
    n_parameters: int
    file_bytes: int | None
    threads: int
    config: ModelConfig | None = None
    """Its shape, for the least time that this machine could take; None leaves that out."""


@dataclass(frozen=True)
class BatchResult:
    """Calls of one batch size."""

    batch_size: int
    latency: LatencySummary
    """Seconds of one call on the whole batch."""
    images_per_s: float
    """batch_size over the median call."""
    quantiles_s: tuple[float, ...]
    """101 quantiles of the calls, from the fastest to the slowest, for a plot of their distribution."""
    ratio_to_first: Ratio | None = None
    """Time over that of the first contestant, paired by round."""
    floor_s: float | None = None
    """The least time that this machine's fp32 matrix rate and memory allow for the batch."""


@dataclass(frozen=True)
class BenchResult:
    """One contestant's figures."""

    name: str
    provider_requested: str
    provider_used: str
    precision: str
    threads: int
    n_parameters: int
    file_bytes: int | None
    load_s: float
    first_run_s: float
    accuracy: Score
    batches: tuple[BatchResult, ...]
    peak_memory_bytes: int | None = None
    """Of a process of its own that loads it and runs it once; None if not measured."""
    steps: tuple[BatchResult, ...] = ()
    """A streaming model's calls of one step, state kept between them; empty for any other."""

    @property
    def single_stream_p90_s(self) -> float | None:
        """MLPerf's SingleStream: p90 at batch 1, the early-stopping estimate. None if not measured."""
        alone = [batch.latency for batch in self.batches if batch.batch_size == 1]
        return alone[0].early_stopping_p90_s if alone else None

    @property
    def offline(self) -> BatchResult:
        """MLPerf's Offline: the batch size with the most images a second."""
        return max(self.batches, key=lambda batch: batch.images_per_s)

    @property
    def stable(self) -> bool:
        """Whether every batch size was measured in a steady run."""
        return all(batch.latency.stable for batch in self.batches)


@dataclass(frozen=True)
class Environment:
    """What the figures depend on besides the model."""

    cpu: str
    cores: int
    """Cores this process may use."""
    load_average: float | None
    """Processes waiting for a core over the last minute, before measuring; None where unknown."""
    system: str
    versions: dict[str, str]
    gpu: str | None
    machine: Machine | None = None
    """Measured rates of the machine; None if not measured."""


@dataclass(frozen=True)
class BenchReport:
    """All contestants of one run; only figures of one run are comparable."""

    schema_version: int
    environment: Environment
    digits: str
    what_is_timed: str
    n_rounds: int
    results: tuple[BenchResult, ...]


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

    ``seconds`` is the measuring time, shared evenly by the batch sizes and contestants. ``with_machine``
    also measures the machine's own rates, and each contestant's peak memory in a process of its own, for
    which its ``load`` must be picklable. Raises what a contestant's ``load`` raises.
    """
    environment = read_environment()
    memory: list[int | None] = [None] * len(contestants)
    if with_machine:
        on_progress("measuring the machine's matrix rate and memory bandwidth")
        environment = replace(environment, machine=measure_machine(min(c.threads for c in contestants)))
        on_progress("measuring peak memory, each model in a process of its own")
        memory = [peak_memory_bytes(contestant.load, digits.images[:1]) for contestant in contestants]
    loaded = []
    for contestant in contestants:
        on_progress(f"loading {contestant.name}")
        loaded.append(_load(contestant, digits))
    sizes = sorted(set(batch_sizes))
    streaming = {str(i): item[1] for i, item in enumerate(loaded) if hasattr(item[1], "row_call")}
    budget_s = seconds / len(sizes) / (2 if streaming else 1)
    timed: dict[int, dict[str, Rounds]] = {}
    timed_steps: dict[int, dict[str, Rounds]] = {}
    for size in sizes:
        on_progress(f"timing batch {size}")
        pixels = _batch(digits.images, size)
        timed[size] = _timed({str(i): _call(item[1], pixels) for i, item in enumerate(loaded)}, budget_s)
        if streaming:
            on_progress(f"timing one step, batch {size}")
            timed_steps[size] = _timed({i: runner.row_call(pixels) for i, runner in streaming.items()}, budget_s)
    results = tuple(
        BenchResult(
            name=contestant.name, provider_requested=contestant.provider_requested,
            provider_used=str(getattr(runner, "provider_used", "torch")), precision=contestant.precision,
            threads=contestant.threads, n_parameters=contestant.n_parameters, file_bytes=contestant.file_bytes,
            load_s=load_s, first_run_s=first_run_s, accuracy=accuracy,
            batches=tuple(
                _batch_result(size, timed[size][str(i)], timed[size]["0"], contestant.config, environment.machine)
                for size in sizes
            ),
            peak_memory_bytes=memory[i],
            steps=tuple(
                # no floor: the state and the weights of one step stay in the caches that the floor leaves out
                _batch_result(size, rounds[str(i)], next(iter(rounds.values())), None, None)
                for size, rounds in timed_steps.items() if str(i) in rounds
            ),
        )
        for i, (contestant, runner, load_s, first_run_s, accuracy) in enumerate(loaded)
    )  # fmt: skip
    return BenchReport(
        SCHEMA_VERSION, environment, f"{len(digits):,} ({digits.source})", WHAT_IS_TIMED, N_ROUNDS, results
    )


def _load(contestant: Contestant, digits: Digits) -> tuple[Contestant, Runner, float, float, Score]:
    began = time.perf_counter()
    runner = contestant.load()
    loaded = time.perf_counter()
    runner.logits(digits.images[:1])
    ran = time.perf_counter()
    accuracy = Score.of(in_batches(runner, digits.images, 1000), digits.labels)
    return contestant, runner, loaded - began, ran - loaded, accuracy


def _call(runner: Runner, pixels: Pixels) -> Callable[[], object]:
    return lambda: runner.logits(pixels)


def _timed(calls: dict[str, Callable[[], object]], budget_s: float) -> dict[str, Rounds]:
    counts = calls_for_budget(calls, budget_s=budget_s, n_rounds=N_ROUNDS)
    return measure_alternating(calls, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=N_WARMUP)


def _batch(images: Pixels, size: int) -> Pixels:
    """``size`` real digits, repeated if there are not so many."""
    return np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))


def _batch_result(
    size: int, rounds: Rounds, first: Rounds, config: ModelConfig | None, machine: Machine | None
) -> BatchResult:
    latency = summarize(rounds)
    quantiles = np.quantile(np.concatenate(rounds), np.linspace(0, 1, 101))
    return BatchResult(
        size, latency, size / latency.p50.value_s, tuple(map(float, quantiles)),
        ratio_to_first=median_ratio(rounds, first),
        floor_s=floor(config, size, machine).seconds if config and machine else None,
    )  # fmt: skip


def advice(report: BenchReport) -> list[str]:
    """What a batch sweep says to do: from which batch more threads, or CUDA, are faster. One line each."""
    lines = []
    groups: dict[tuple[str, int, int], list[BenchResult]] = {}
    for result in report.results:
        groups.setdefault((result.precision, result.n_parameters, result.file_bytes or 0), []).append(result)
    for results in groups.values():
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


def read_environment() -> Environment:
    """The machine and the libraries, as far as they can be read without importing them."""
    versions = {"python": platform.python_version()}
    for package in ("edgelstm", "numpy", "onnxruntime", "onnxruntime-gpu", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return Environment(
        cpu=_cpu_name(), cores=n_cores(), load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.machine()}", versions=versions, gpu=_gpu_name(),
    )  # fmt: skip


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu_name() -> str | None:
    """The name of the first NVIDIA GPU, as its driver shows it; None without one."""
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None
