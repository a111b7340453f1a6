"""The same weights, in turn, in one run, against what users would pick instead: python tools/bench_peers.py

All contestants of ``tools/peers.py`` are timed from pixels in memory to logits, each with as many threads. One whose
logits are not torch eager's is not timed. A ratio above 1 says how many times longer than edgelstm a peer takes.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from peers import OURS, PEERS, Call, Peer

from edgelstm import __version__
from edgelstm.config import DEFAULT_MODEL, shipped_dir
from edgelstm.contract import Logits, Pixels
from edgelstm.data.mnist import sample_digits
from edgelstm.export.graph import probe_pixels
from edgelstm.measure.bench import N_ROUNDS, N_WARMUP, Environment, read_environment
from edgelstm.measure.timing import (
    LatencySummary,
    Ratio,
    calls_for_budget,
    measure_alternating,
    median_ratio,
    summarize,
)
from edgelstm.runtime.parity import compare
from edgelstm.show.tables import table
from edgelstm.training.checkpoint import Checkpoint, load_checkpoint
from edgelstm.training.model import TorchRunner

ATOL = 1e-4
"""Largest difference of two logits that passes: peers may sum in another order and approximate tanh."""
N_COMPARED = 512
"""Pictures compared before timing, half noise and half digits; more if one batch is larger."""
PROBE_S = 300
"""Seconds in which a peer must convert, load and run in a process of its own."""

Probe = Callable[[str, Sequence[int]], str | None]
"""(name, batch sizes) -> why the peer cannot be loaded into this process; None if it can."""


@dataclass(frozen=True)
class PeerResult:
    """One contestant at one batch size; without times, ``problem`` says why."""

    name: str
    version: str | None
    batch_size: int
    max_difference: float | None = None
    """Largest absolute difference of a logit from torch eager's."""
    latency: LatencySummary | None = None
    """Seconds of one call on the whole batch."""
    times_edgelstm: Ratio | None = None
    """Its time over edgelstm's, paired by round: above 1, edgelstm is faster."""
    problem: str | None = None


@dataclass(frozen=True)
class PeersReport:
    """All contestants of one run; only figures of one run are comparable."""

    environment: Environment
    model: str
    weights_sha256: str
    threads: int
    n_rounds: int
    atol: float
    results: tuple[PeerResult, ...]


def bench_peers(
    checkpoint: Checkpoint,
    peers: Mapping[str, Peer],
    *,
    batch_sizes: Sequence[int] = (1,),
    seconds: float = 60.0,
    threads: int = 1,
    probe: Probe = lambda name, batch_sizes: None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> PeersReport:
    """Load, compare, then time the peers; ``seconds`` is the measuring time of all, shared evenly.

    ``peers`` must hold edgelstm, the reference of the ratios. A peer that cannot be loaded or differs is a result
    with its ``problem``. Raises ValueError if edgelstm itself has one.
    """
    environment = read_environment()
    calls: dict[str, Call] = {}
    problems: dict[str, str] = {}
    for name, peer in peers.items():
        on_progress(f"loading {name}")
        try:
            if peer.probed and (problem := probe(name, batch_sizes)):
                problems[name] = problem
                continue
            with silence():
                calls[name] = peer.load(checkpoint, threads)
        except ImportError as error:
            problems[name] = f"not installed: {one_line(error)}"
        except Exception as error:  # whatever a foreign library raises is its row in the table
            problems[name] = f"not loaded: {one_line(error)}"
    versions = {name: __version__ if name == OURS else _version(peer) for name, peer in peers.items()}
    results: list[PeerResult] = []
    for size in batch_sizes:
        results += [PeerResult(name, versions[name], size, problem=problem) for name, problem in problems.items()]
        same: dict[str, tuple[Call, float]] = {}
        for name, call in calls.items():
            on_progress(f"comparing {name}, batch {size}")
            difference, problem = _parity(call, checkpoint, size)
            if problem is None and difference is not None:
                same[name] = call, difference
            else:
                results.append(PeerResult(name, versions[name], size, difference, problem=problem))
        if OURS not in same:
            raise ValueError(f"nothing to compare with: {[r.problem for r in results if r.name == OURS]}")
        on_progress(f"timing batch {size}")
        results += _timed(same, versions, size, seconds / len(batch_sizes))
    return PeersReport(environment, checkpoint.name, checkpoint.weights_sha256, threads, N_ROUNDS, ATOL, tuple(results))


def _parity(call: Call, checkpoint: Checkpoint, size: int) -> tuple[float | None, str | None]:
    """Largest difference from torch eager over N_COMPARED pictures in batches of ``size``, and what is wrong."""
    half = N_COMPARED // 2
    pictures = np.concatenate([probe_pixels(checkpoint.config, half), sample_digits().images[:half]])
    pictures = np.resize(pictures, (max(1, N_COMPARED // size) * size, *pictures.shape[1:]))
    reference = TorchRunner(checkpoint.model())
    try:
        with silence():
            batches = [pictures[at : at + size] for at in range(0, len(pictures), size)]
            found = np.concatenate([np.array(call(batch)) for batch in batches])  # a copy: some reuse their buffer
        parity = compare(np.concatenate([reference.logits(batch) for batch in batches]), found, atol=ATOL)
    except Exception as error:  # whatever a foreign library raises is its row in the table
        return None, f"does not run: {one_line(error)}"
    if parity.passed:
        return parity.max_difference, None
    changed = parity.n - parity.n_same
    return parity.max_difference, (
        f"other logits than torch: largest difference {parity.max_difference:.2g}, {changed} of {parity.n} decisions"
    )


def _timed(
    same: Mapping[str, tuple[Call, float]], versions: Mapping[str, str | None], size: int, seconds: float
) -> list[PeerResult]:
    """The contestants in turn, fastest first."""
    pixels = np.ascontiguousarray(np.resize(sample_digits().images, (size, *sample_digits().images.shape[1:])))
    contestants = {name: _on(call, pixels) for name, (call, _) in same.items()}
    counts = calls_for_budget(contestants, budget_s=seconds, n_rounds=N_ROUNDS)
    rounds = measure_alternating(contestants, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=N_WARMUP)
    results = [
        PeerResult(
            name, versions[name], size, difference, summarize(rounds[name]), median_ratio(rounds[name], rounds[OURS])
        )
        for name, (_, difference) in same.items()
    ]
    return sorted(results, key=lambda result: result.times_edgelstm.value if result.times_edgelstm else 0.0)


def _on(call: Call, pixels: Pixels) -> Callable[[], Logits]:
    return lambda: call(pixels)


def _version(peer: Peer) -> str | None:
    for package in peer.packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Converters warn, log and write on both outputs, from native code too; the table needs them clean."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


def one_line(error: BaseException) -> str:
    """Class and beginning of an error's message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) < 200 else text[:197] + '...'}"


def probe_in_process(checkpoint: str, threads: int) -> Probe:
    """A probe that lets the peer load and run in a process of its own, where it may abort or hang."""

    def probe(name: str, batch_sizes: Sequence[int]) -> str | None:
        sizes = [str(size) for size in batch_sizes]
        command = [sys.executable, __file__, checkpoint, "--probe", name, "--threads", str(threads)]
        try:
            done = subprocess.run(
                [*command, "--batch-size", *sizes], capture_output=True, text=True, errors="replace", timeout=PROBE_S
            )
        except subprocess.TimeoutExpired:
            return f"not loaded: no logits within {PROBE_S} s"
        if done.returncode >= 0:
            return None  # it works, or raises what it will raise again in this process
        return f"not loaded: it ends the process with {signal.Signals(-done.returncode).name}"

    return probe


def peers_text(report: PeersReport) -> str:
    """The report as a header and a table for each batch size, what was not measured beneath."""
    environment = report.environment
    load = "unknown" if environment.load_average is None else f"{environment.load_average:.2f}"
    lines = [
        f"machine   {environment.cpu}, {environment.cores} cores, {environment.system}, load {load}",
        f"versions  {', '.join(f'{name} {version}' for name, version in environment.versions.items())}",
        f"model     {report.model}, weights {report.weights_sha256[:12]}; threads {report.threads}, "
        "but for onnxruntime's default settings",
        "timed     one call from pixels in memory (uint8, NumPy) to logits (float32, NumPy), casts included",
        f"compared  logits with torch eager's, atol {report.atol:g}; difference is the largest",
        f"rounds    {report.n_rounds}, all in turn within each; 95 % intervals in brackets; ratios above 1: edgelstm "
        "is faster",
    ]
    for size in dict.fromkeys(result.batch_size for result in report.results):
        results = [result for result in report.results if result.batch_size == size]
        timed = [row for result in results if (row := _row(result))]
        lines += ["", f"batch {size}", table([_HEAD, *timed], left=2)]
        missing = [(r.name, r.version or "-", f"not measured: {r.problem}") for r in results if r.problem]
        if missing:
            lines += ["", table([("contestant", "version", "reason"), *missing], left=3)]
        lines += [
            f"warning: {r.name}: unsteady, believe the ratio more than the time ({r.latency.reason})"
            for r in results if r.latency and not r.latency.stable
        ]  # fmt: skip
    return "\n".join(lines)


_HEAD = ("contestant", "version", "p50 us", "times edgelstm", "difference")


def _row(result: PeerResult) -> tuple[str, ...] | None:
    if result.latency is None or result.times_edgelstm is None:
        return None
    p50, ratio = result.latency.p50, result.times_edgelstm
    ends = ["?" if end is None else f"{1e6 * end:,.0f}" for end in (p50.low_s, p50.high_s)]
    bounds = ["?" if end is None else f"{end:.2f}" for end in (ratio.low, ratio.high)]
    return (
        result.name, result.version or "-", f"{1e6 * p50.value_s:,.0f} [{ends[0]} {ends[1]}]",
        f"{ratio.value:.2f} [{bounds[0]} {bounds[1]}]", f"{result.max_difference:.1e}",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = shipped_dir() / f"{DEFAULT_MODEL}.safetensors"
    parser.add_argument(
        "checkpoint", nargs="?", default=str(default), help="weights to run (default: the shipped base)"
    )
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="images a call (default: 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="measuring time of all together (default: 60)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contestant (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--probe", choices=PEERS, help=argparse.SUPPRESS)  # what probe_in_process starts
    chosen = parser.parse_args(arguments)
    checkpoint = load_checkpoint(Path(chosen.checkpoint))
    if chosen.probe:
        call = PEERS[chosen.probe].load(checkpoint, chosen.threads)
        for size in chosen.batch_size:
            call(probe_pixels(checkpoint.config, size))
        return
    report = bench_peers(
        checkpoint, PEERS, batch_sizes=list(dict.fromkeys(chosen.batch_size)), seconds=chosen.seconds,
        threads=chosen.threads, probe=probe_in_process(chosen.checkpoint, chosen.threads),
        on_progress=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(json.dumps(asdict(report), indent=2) if chosen.json else peers_text(report))


if __name__ == "__main__":
    main()
