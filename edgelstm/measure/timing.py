"""Seconds -> LatencySummary: percentiles with confidence, stability, and the alternating measurement loop.

The intervals are exact for independent calls from one distribution. Real calls are neighbours in time, so
an interval is only believed next to the stability verdict, which looks at how the rounds differ.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
"""Every interval covers the true value at least this often."""

MIN_ROUNDS = 6
"""Fewer rounds have no 95 % interval of their median (2 * 0.5**5 = 6 %), so nothing can be said of them."""
MAX_DRIFT = 0.05
"""The contestants worth telling apart differ by 5 to 10 %; a run that moved as much cannot do it."""
MAX_ROUND_SPREAD = 0.10
"""Interquartile range of the rounds' medians over p50: half of the rounds lie within about 5 % of p50."""
MAX_P50_WIDTH = 0.05
"""Width of the p50 interval over p50; wider means too few calls, or a median between two modes."""

Seconds = npt.NDArray[np.float64]
"""(n,) seconds of single calls, in the order they were made."""
Rounds = list[Seconds]
"""One array of seconds a round, in the order of the rounds."""


@dataclass(frozen=True)
class Percentile:
    """A percentile of single calls and the interval that covers the true one, with ends that were measured."""

    p: float
    """Percent, between 0 and 100."""
    value_s: float
    """The smallest measured time that at least p % of the calls do not exceed: nearest rank."""
    low_s: float | None
    """None, as the other end, if the calls are too few for it."""
    high_s: float | None
    confidence: float
    """Exact coverage for independent calls, at least CONFIDENCE; a missing end counts as infinitely far."""


@dataclass(frozen=True)
class LatencySummary:
    """What the seconds of one contestant's ``n`` calls say."""

    n: int
    n_rounds: int
    mean_s: float
    min_s: float
    max_s: float
    p50: Percentile
    p90: Percentile
    p99: Percentile
    quantiles_s: tuple[float, ...]
    """101 times from the fastest to the slowest call, for a plot of their distribution."""
    stable: bool
    """The run was shown to be steady: no limit above was passed."""
    reason: str | None
    """Each limit that was passed, with the figure; None if stable."""


@dataclass(frozen=True)
class Ratio:
    """How many times the time of another contestant, side by side in the same rounds."""

    value: float
    """Median over the rounds."""
    low: float | None
    """None, as the other end, below MIN_ROUNDS rounds."""
    high: float | None
    confidence: float
    """Exact coverage for independent rounds, as in Percentile."""
    n_rounds: int


def binomial_cdf(n: int, share: float) -> npt.NDArray[np.float64]:
    """(n + 1,) P(K <= k) for k = 0..n, K ~ Binomial(n, share). ValueError unless 0 < share < 1.

    Built outward from the mode by pmf(k + 1) / pmf(k) = (n - k) / (k + 1) * share / (1 - share), then
    normalised: no logarithms of huge factorials to lose digits in, and the far tails go to 0 quietly.
    """
    if n < 1 or not 0 < share < 1:
        raise ValueError(f"found n={n}, share={share}; expected n of at least 1, a share between 0 and 1")
    k = np.arange(n)
    step = (n - k) / (k + 1) * (share / (1 - share))
    mode = int((n + 1) * share)
    below = np.cumprod(1 / step[:mode][::-1])[::-1]
    cumulative = np.cumsum(np.concatenate([below, [1.0], np.cumprod(step[mode:])]))
    return np.asarray(cumulative / cumulative[-1], dtype=np.float64)


def interval_ranks(n: int, share: float) -> tuple[int | None, int | None, float]:
    """1-based ranks (low, high) of the order statistics around a quantile, and the coverage they reach.

    P(X_(low) <= quantile <= X_(high)) >= P(low <= K < high), K ~ Binomial(n, share), whatever the
    distribution (David & Nagaraja, Order Statistics, 3rd ed., section 7.1; equality if it is continuous).
    Each tail holds at most (1 - CONFIDENCE) / 2. A rank that no such sample has is None.
    """
    cdf = binomial_cdf(n, share)
    tail = (1 - CONFIDENCE) / 2
    low = int(np.searchsorted(cdf, tail, side="right"))  # the largest with P(K < low) <= tail
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1  # the smallest with P(K >= high) <= tail
    confidence = (cdf[high - 1] if high <= n else 1.0) - (cdf[low - 1] if low else 0.0)
    return low or None, high if high <= n else None, float(confidence)


def _interval(ordered: Seconds, share: float) -> tuple[float | None, float | None, float]:
    """The ends of a quantile's interval among these sorted values, and its coverage."""
    low, high, confidence = interval_ranks(ordered.size, share)
    ends = [None if rank is None else float(ordered[rank - 1]) for rank in (low, high)]
    return ends[0], ends[1], confidence


def percentile(ordered: Seconds, p: float) -> Percentile:
    """The p-th percentile (0 < p < 100) of (n,) sorted seconds by nearest rank (Hyndman & Fan 1996, type 1).

    Nearest rank always is a time that was measured and always lies in its own interval; interpolation
    would make up a p99 between the two slowest calls. Raises ValueError for another p.
    """
    interval = _interval(ordered, p / 100)
    rank = math.ceil(ordered.size * p / 100)  # in this order: n * p is exact for whole p, p / 100 is not
    return Percentile(p, float(ordered[rank - 1]), *interval)


def summarize(rounds: Sequence[npt.ArrayLike]) -> LatencySummary:
    """Percentiles and stability of one contestant's calls.

    ``rounds`` is one array of seconds a round, of any lengths, as measure_alternating gives. Raises ValueError
    if there is no round, if one is empty, or if a time is negative or not finite.
    """
    checked = [_checked(part) for part in rounds]
    if not checked:
        raise ValueError("seconds: found no rounds, expected at least 1")
    ordered = np.sort(np.concatenate(checked))
    p50, p90, p99 = (percentile(ordered, p) for p in (50, 90, 99))
    reason = _instability(checked, p50)
    return LatencySummary(
        ordered.size, len(checked), float(ordered.mean()), float(ordered[0]), float(ordered[-1]), p50, p90, p99,
        quantiles_s=tuple(ordered[np.linspace(0, ordered.size - 1, 101).round().astype(int)].tolist()),
        stable=reason is None, reason=reason,
    )  # fmt: skip


def median_ratio(a_rounds: Sequence[npt.ArrayLike], b_rounds: Sequence[npt.ArrayLike]) -> Ratio:
    """Median over the rounds of (median of a's round) / (median of b's round): below 1, a is faster.

    Paired by round, because what slows a whole round slows both. The median of the logarithms, so that b to a
    is one over a to b. Raises ValueError if the rounds do not pair, or a round's median is 0.
    """
    if len(a_rounds) != len(b_rounds):
        raise ValueError(f"rounds do not pair: found {len(a_rounds)} and {len(b_rounds)}, expected as many")
    a, b = (np.array([np.median(_checked(part)) for part in rounds]) for rounds in (a_rounds, b_rounds))
    if not a.size or not a.all() or not b.all():
        raise ValueError("rounds: found none, or one whose median is 0 s; expected times the clock can see")
    ratios = np.sort(a / b)
    return Ratio(math.exp(np.median(np.log(ratios))), *_interval(ratios, 0.5), n_rounds=ratios.size)


def calls_for_budget(
    contestants: Mapping[str, Callable[[], object]],
    *,
    budget_s: float,
    n_rounds: int,
    n_trials: int = 5,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, int]:
    """Calls a round for measure_alternating, at least 1, so that every turn takes about as long.

    A turn is ``budget_s / n_rounds / len(contestants)``; the length of a call is the median of the later
    half of ``n_trials`` calls, because the first ones allocate and compile.
    """
    if not contestants or n_rounds < 1 or n_trials < 1 or not budget_s > 0:
        raise ValueError("expected contestants, budget_s above 0, n_rounds and n_trials of at least 1")
    turn_s = budget_s / n_rounds / len(contestants)
    trials = {name: _turn(call, n_trials, clock)[n_trials // 2 :] for name, call in contestants.items()}
    # at least 1 ns a call: the clock's unit
    return {name: max(1, int(turn_s / max(float(np.median(part)), 1e-9))) for name, part in trials.items()}


def measure_alternating(
    contestants: Mapping[str, Callable[[], object]],
    *,
    n_rounds: int,
    calls_per_round: int | Mapping[str, int],
    n_warmup: int,
    n_settle: int = 1,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Rounds]:
    """Time every call of every contestant: for each name one (calls,) array of seconds a round.

    In each round every contestant has one turn, so a noisy minute hurts all alike. Orders come in pairs,
    a shuffled one and its reverse: over a pair each has the same mean place and steady drift cancels.
    Untimed are ``n_warmup`` calls of each before the first round and ``n_settle`` at the start of each turn
    (caches still hold the contestant before). Timed are the call itself, the release of what it returns,
    and one reading of the clock. Garbage is collected before, not during; the collector is put back as it
    was, also when a contestant raises. ``clock`` counts nanoseconds.
    """
    if not isinstance(calls_per_round, Mapping):
        calls_per_round = dict.fromkeys(contestants, calls_per_round)
    counts = [calls_per_round[name] for name in contestants]
    if not counts or n_rounds < 1 or min(counts) < 1 or n_warmup < 0 or n_settle < 0:
        raise ValueError("expected contestants, n_rounds and calls_per_round >= 1, untimed calls >= 0")
    shuffler, order = random.Random(seed), list(contestants)
    measured: dict[str, Rounds] = {name: [] for name in order}
    gc_was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for call in contestants.values():
            _turn(call, n_warmup, clock)
        for index in range(n_rounds):
            if index % 2:
                order.reverse()
            else:
                shuffler.shuffle(order)
            for name in order:
                _turn(contestants[name], n_settle, clock)
                measured[name].append(_turn(contestants[name], calls_per_round[name], clock))
    finally:
        if gc_was_enabled:
            gc.enable()
    return measured


def ratio_of(a: Callable[[], object], b: Callable[[], object], budget_s: float = 2.0) -> Ratio:
    """a's time over b's, the two alternating in 16 rounds that take about ``budget_s``."""
    calls = {"a": a, "b": b}
    counts = calls_for_budget(calls, budget_s=budget_s, n_rounds=16)
    rounds = measure_alternating(calls, n_rounds=16, calls_per_round=counts, n_warmup=20)
    return median_ratio(rounds["a"], rounds["b"])


def _turn(call: Callable[[], object], n_calls: int, clock: Callable[[], int]) -> Seconds:
    elapsed_ns = np.empty(n_calls, np.int64)  # written in place: a growing list could stall between calls
    for index in range(n_calls):
        start_ns = clock()
        call()
        elapsed_ns[index] = clock() - start_ns
    return elapsed_ns / 1e9


def _checked(seconds: npt.ArrayLike) -> Seconds:
    array = np.asarray(seconds, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"seconds: found shape {array.shape}, expected (n,) with n of at least 1")
    if not np.isfinite(array).all() or array.min() < 0:
        raise ValueError("seconds: found a negative or non-finite time, expected elapsed seconds")
    return array


def _instability(rounds: Rounds, p50: Percentile) -> str | None:
    """Every limit that the run passed, in words; None if it passed none."""
    if len(rounds) < MIN_ROUNDS:
        return f"{len(rounds)} rounds, at least {MIN_ROUNDS} are needed to judge"
    if p50.value_s == 0:
        return "the clock is too coarse: p50 is 0 s"
    third = len(rounds) // 3
    first, last = np.median(np.concatenate(rounds[:third])), np.median(np.concatenate(rounds[-third:]))
    lower, upper = np.quantile([np.median(part) for part in rounds], [0.25, 0.75])
    drift, spread = (last - first) / p50.value_s, (upper - lower) / p50.value_s
    reasons = []
    if abs(drift) > MAX_DRIFT:
        reasons.append(f"p50 moved {drift:+.1%} from the first to the last third of the rounds")
    if spread > MAX_ROUND_SPREAD:
        reasons.append(f"the middle half of the rounds' medians spreads over {spread:.1%} of p50")
    assert p50.low_s is not None, "MIN_ROUNDS calls are enough for an interval of p50"
    assert p50.high_s is not None
    if (width := (p50.high_s - p50.low_s) / p50.value_s) > MAX_P50_WIDTH:
        reasons.append(f"the interval of p50 is {width:.1%} of p50 wide")
    return "; ".join(reasons) or None
