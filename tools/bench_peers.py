"""The same weights, in turn, in one run, against what users would pick instead: python tools/bench_peers.py

All contestants of ``tools/peers.py`` are timed from pixels in memory to logits, each with as many threads. One whose
logits are not torch eager's, or in int8 its decisions, is not timed, and says so. A ratio above 1 says how many times
longer than edgelstm a peer takes. The environment that holds every peer is ``tools/peers.txt``; in another one those
that are missing say so.
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
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from peers import OURS, PEERS, Peer
from runtimes import Call

from edgelstm import __version__
from edgelstm.config import DEFAULT_MODEL, shipped_dir
from edgelstm.contract import Precision
from edgelstm.data.mnist import sample_digits
from edgelstm.exporting.graph import probe_pixels
from edgelstm.measure.bench import N_ROUNDS, N_WARMUP
from edgelstm.measure.machine import Environment, read_environment
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
INT8_SAME_SHARE = 0.99
"""Of the digits, int8 must decide so many as torch does. Each engine rounds otherwise: logits of the shipped models
move by up to 1, decisions of at most 2 in 1,000."""
N_COMPARED = 512
"""Pictures compared before timing, half noise and half digits; more if one batch is larger. int8: the digits only."""
PROBE_S = 300
"""Seconds in which a peer must convert, load and run in a process of its own."""

Probe = Callable[[str], str | None]
"""Name -> why the peer cannot be loaded into this process; None if it can."""


@dataclass(frozen=True)
class PeerResult:
    """One contestant; without times, ``problem`` says why."""

    name: str
    version: str | None
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
    batch_size: int
    threads: int
    n_rounds: int
    atol: float
    results: tuple[PeerResult, ...]


def bench_peers(
    checkpoint: Checkpoint,
    peers: Mapping[str, Peer],
    *,
    batch_size: int = 1,
    seconds: float = 60.0,
    threads: int = 1,
    probe: Probe = lambda name: None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> PeersReport:
    """Load, compare, then time the peers; ``seconds`` is the measuring time of all, shared evenly.

    ``peers`` must hold edgelstm, the reference of the ratios. A peer that cannot be loaded or differs is a result
    with its ``problem``. Raises ValueError if edgelstm itself has one.
    """
    environment = read_environment()
    calls: dict[str, Call] = {}
    results: dict[str, PeerResult] = {}
    for name, peer in peers.items():
        on_progress(f"loading {name}")
        result = PeerResult(name, __version__ if name == OURS else _version(peer))
        call, problem = _loaded(name, peer, checkpoint, threads, probe)
        if call is not None:
            calls[name] = call
            difference, problem = _parity(peer.precision, call, checkpoint, batch_size)
            result = replace(result, max_difference=difference)
        results[name] = replace(result, problem=problem)
    if problem := results[OURS].problem:
        raise ValueError(f"nothing to compare with: {problem}")
    on_progress("timing")
    timed = {name: call for name, call in calls.items() if not results[name].problem}
    for name, (latency, ratio) in _timed(timed, batch_size, seconds).items():
        results[name] = replace(results[name], latency=latency, times_edgelstm=ratio)
    fastest_first = sorted(results.values(), key=lambda r: r.times_edgelstm.value if r.times_edgelstm else np.inf)
    return PeersReport(
        environment, checkpoint.name, checkpoint.weights_sha256, batch_size, threads, N_ROUNDS, ATOL,
        tuple(fastest_first),
    )  # fmt: skip


def _loaded(
    name: str, peer: Peer, checkpoint: Checkpoint, threads: int, probe: Probe
) -> tuple[Call | None, str | None]:
    """The peer's call, or why there is none."""
    if peer.probed and (problem := probe(name)):
        return None, problem
    try:
        with silence():
            return peer.load(checkpoint, threads), None
    except ImportError as error:
        return None, f"not installed: {one_line(error)}"
    except Exception as error:  # whatever a foreign library raises is its row in the table
        return None, f"not loaded: {one_line(error)}"


def _parity(
    precision: Precision | None, call: Call, checkpoint: Checkpoint, size: int
) -> tuple[float | None, str | None]:
    """Largest difference from torch eager over the compared pictures in batches of ``size``, and what is wrong."""
    if precision is None:
        return None, None
    pictures = sample_digits().sequences
    if precision == "fp32":
        half = N_COMPARED // 2
        pictures = np.concatenate([probe_pixels(checkpoint.config, half), pictures[:half]])
    pictures = np.resize(pictures, (max(1, len(pictures) // size) * size, *pictures.shape[1:]))
    batches = [pictures[at : at + size] for at in range(0, len(pictures), size)]
    reference = TorchRunner(checkpoint.model())
    try:
        with silence():
            found = np.concatenate([np.array(call(batch)) for batch in batches])  # a copy: some reuse their buffer
        expected = np.concatenate([reference.logits(batch) for batch in batches])
        parity = compare(expected, found, atol=ATOL, rtol=0)
    except Exception as error:  # whatever a foreign library raises is its row in the table
        return None, f"does not run: {one_line(error)}"
    same = parity.n_same >= INT8_SAME_SHARE * parity.n and bool(np.isfinite(found).all())
    if parity.passed if precision == "fp32" else same:
        return parity.max_difference, None
    changed = parity.n - parity.n_same
    return parity.max_difference, (
        f"other logits than torch: largest difference {parity.max_difference:.2g}, {changed} of {parity.n} decisions"
    )


def _timed(calls: Mapping[str, Call], size: int, seconds: float) -> dict[str, tuple[LatencySummary, Ratio]]:
    """The contestants in turn."""
    digits = sample_digits().sequences
    pixels = np.ascontiguousarray(np.resize(digits, (size, *digits.shape[1:])))
    contestants = {name: partial(call, pixels) for name, call in calls.items()}
    counts = calls_for_budget(contestants, budget_s=seconds, n_rounds=N_ROUNDS)
    rounds = measure_alternating(contestants, n_rounds=N_ROUNDS, calls_per_round=counts, n_warmup=N_WARMUP)
    return {name: (summarize(rounds[name]), median_ratio(rounds[name], rounds[OURS])) for name in contestants}


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


def probe_in_process(checkpoint: str, batch_size: int, threads: int) -> Probe:
    """A probe that lets the peer load and run in a process of its own, where it may abort or hang."""

    def probe(name: str) -> str | None:
        command = [sys.executable, __file__, checkpoint, "--probe", name, "--threads", str(threads)]
        command += ["--batch-size", str(batch_size)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROBE_S)
        except subprocess.TimeoutExpired:
            return f"not loaded: no logits within {PROBE_S} s"
        if done.returncode >= 0:
            return None  # it works, or raises what it will raise again in this process
        return f"not loaded: it ends the process with {signal.Signals(-done.returncode).name}"

    return probe


def peers_text(report: PeersReport) -> str:
    """The report as a header and a table, and beneath it what was not measured and why."""
    environment = report.environment
    load = "unknown" if environment.load_average is None else f"{environment.load_average:.2f}"
    timed = [row for result in report.results if (row := _row(result))]
    missing = [(r.name, r.version or "-", f"not measured: {r.problem}") for r in report.results if r.problem]
    lines = [
        f"machine   {environment.cpu}, {environment.cores} cores, {environment.system}, load {load}",
        f"versions  {', '.join(f'{name} {version}' for name, version in environment.versions.items())}",
        f"model     {report.model}, weights {report.weights_sha256[:12]}; batch {report.batch_size}; threads "
        f"{report.threads}, but for onnxruntime's default settings",
        "timed     one call from pixels in memory (uint8, NumPy) to logits (float32, NumPy), casts included",
        f"compared  logits with torch eager's, atol {report.atol:g}; int8's decisions, {INT8_SAME_SHARE:.0%} the same; "
        "difference is the largest",
        f"rounds    {report.n_rounds}, all in turn within each; 95 % intervals in brackets; ratios above 1: edgelstm "
        "is faster",
        f"measured  {len(timed)} of {len(report.results)} contestants"
        + ("; tools/peers.txt is an environment that holds them all" if missing else ""),
        "",
        table([("contestant", "version", "p50 us", "times edgelstm", "difference"), *timed], left=2),
    ]
    if missing:
        lines += ["", table([("contestant", "version", "reason"), *missing], left=3)]
    lines += [
        f"warning: {r.name}: unsteady, believe the ratio more than the time ({r.latency.reason})"
        for r in report.results if r.latency and not r.latency.stable
    ]  # fmt: skip
    return "\n".join(lines)


def _row(result: PeerResult) -> tuple[str, ...] | None:
    if result.latency is None or result.times_edgelstm is None:
        return None
    p50, ratio = result.latency.p50, result.times_edgelstm
    difference = "-" if result.max_difference is None else f"{result.max_difference:.1e}"
    ends = ["?" if end is None else f"{1e6 * end:,.0f}" for end in (p50.low_s, p50.high_s)]
    bounds = ["?" if end is None else f"{end:.2f}" for end in (ratio.low, ratio.high)]
    return (
        result.name, result.version or "-", f"{1e6 * p50.value_s:,.0f} [{ends[0]} {ends[1]}]",
        f"{ratio.value:.2f} [{bounds[0]} {bounds[1]}]", difference,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = shipped_dir() / f"{DEFAULT_MODEL}.safetensors"
    parser.add_argument("checkpoint", nargs="?", default=str(default), help="weights to run (default: shipped base)")
    parser.add_argument("--batch-size", type=int, default=1, help="images a call (default: 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="measuring time of all together (default: 60)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contestant (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--probe", choices=PEERS, help=argparse.SUPPRESS)  # what probe_in_process starts
    chosen = parser.parse_args(arguments)
    checkpoint = load_checkpoint(Path(chosen.checkpoint))
    if chosen.probe:
        PEERS[chosen.probe].load(checkpoint, chosen.threads)(probe_pixels(checkpoint.config, chosen.batch_size))
        return
    report = bench_peers(
        checkpoint, PEERS, batch_size=chosen.batch_size, seconds=chosen.seconds, threads=chosen.threads,
        probe=probe_in_process(chosen.checkpoint, chosen.batch_size, chosen.threads),
        on_progress=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(json.dumps(asdict(report), indent=2) if chosen.json else peers_text(report))


if __name__ == "__main__":
    main()
