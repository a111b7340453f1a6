"""Tests of edgelstm.measure.timing: percentiles, intervals, stability, ratios, alternation. No real clock."""

import contextlib
import gc
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelstm.measure import timing

SECONDS = st.lists(st.floats(0, 1e3), min_size=1, max_size=300)


def exact_cdf(n, percent):
    """[P(K <= k) for k = 0..n], K ~ Binomial(n, percent / 100), in whole numbers until the last division."""
    terms = [math.comb(n, k) * percent**k * (100 - percent) ** (n - k) for k in range(n + 1)]
    total, sums = 0, []
    for term in terms:
        total += term
        sums.append(total / 100**n)
    return sums


def percentile(seconds, p):
    return timing.percentile(np.sort(seconds), p)


class FakeClock:
    """Nanoseconds that pass only when a contestant spends them."""

    def __init__(self):
        self.now_ns = 0
        self.calls = []

    def __call__(self):
        return self.now_ns

    def contestant(self, name, cost_ns, first_ns=None):
        """Costs ``cost_ns`` (a number, or a function of the time); ``first_ns`` lists its first calls."""
        first = list(first_ns or [])

        def call():
            self.calls.append(name)
            cost = first.pop(0) if first else cost_ns
            self.now_ns += int(cost(self.now_ns) if callable(cost) else cost)

        return call


# Percentiles


@given(SECONDS, st.integers(1, 99))
def test_a_percentile_is_the_smallest_time_that_p_percent_do_not_exceed_and_lies_in_its_interval(seconds, p):
    expected = min(x for x in seconds if 100 * sum(y <= x for y in seconds) >= p * len(seconds))
    found = percentile(seconds, p)
    assert expected == found.value_s
    assert found.low_s is None or found.low_s <= found.value_s
    assert found.high_s is None or found.value_s <= found.high_s


@pytest.mark.parametrize("p", [50, 90, 99])
def test_percentiles_are_numpys_inverted_cdf(p):
    for n in (1, 2, 3, 10, 99, 100, 101, 1000):
        seconds = np.random.default_rng(n).exponential(size=n)
        assert np.percentile(seconds, p, method="inverted_cdf") == percentile(seconds, p).value_s, n


def test_rounding_never_moves_a_percentile_by_a_rank():
    for n in (20, 50, 100, 1000):  # 0.55 * 1000 is a hair above 550
        ranks = [-(-n * p // 100) for p in range(1, 100)]
        assert ranks == [percentile(np.arange(1, n + 1), p).value_s for p in range(1, 100)]


@pytest.mark.parametrize("p", [0, 100, -1, math.nan])
def test_a_percentile_outside_0_to_100_is_refused(p):
    with pytest.raises(ValueError, match="share"):
        percentile([1.0, 2.0], p)


# Intervals


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000])
def test_the_binomial_sum_is_the_exact_one(n, percent):
    expected = exact_cdf(n, percent)
    np.testing.assert_allclose(timing.binomial_cdf(n, percent / 100), expected, rtol=1e-11, atol=1e-300)


def test_the_binomial_sum_of_a_million_calls_is_close_to_the_normal_law():
    n, share = 1_000_000, 0.9
    law = statistics.NormalDist(n * share, math.sqrt(n * share * (1 - share)))
    cdf = timing.binomial_cdf(n, share)
    for k in (899_000, 899_700, 900_000, 900_300, 901_000):
        assert cdf[k] == pytest.approx(law.cdf(k + 0.5), abs=2e-4)  # Berry-Esseen: of the order 1 / sqrt(n)


@pytest.mark.parametrize("percent", [50, 90, 99])
@pytest.mark.parametrize("n", [1, 5, 6, 20, 100, 367, 368, 1000])
def test_interval_ranks_are_the_tightest_that_leave_no_more_than_half_the_risk_in_each_tail(n, percent):
    cdf = exact_cdf(n, percent)
    lows = [rank for rank in range(1, n + 1) if cdf[rank - 1] <= 0.025]
    highs = [rank for rank in range(1, n + 1) if 1 - cdf[rank - 1] <= 0.025]
    low, high = (max(lows) if lows else None), (min(highs) if highs else None)
    covered = (cdf[high - 1] if high else 1.0) - (cdf[low - 1] if low else 0.0)
    assert (low, high, pytest.approx(covered, abs=1e-12)) == timing.interval_ranks(n, percent / 100)


@settings(max_examples=30)
@given(st.integers(1, 400), st.sampled_from([50, 90, 99]))
def test_the_coverage_said_is_never_below_95_percent(n, percent):
    assert timing.interval_ranks(n, percent / 100)[2] >= 0.95


@pytest.mark.parametrize(
    ("n", "low", "high", "coverage"), [(6, 1, 6, 0.9688), (10, 2, 9, 0.9785), (100, 40, 61, 0.9648)]
)
def test_interval_ranks_of_the_median_are_those_of_the_textbooks(n, low, high, coverage):
    assert (low, high, pytest.approx(coverage, abs=5e-5)) == timing.interval_ranks(n, 0.5)


def test_a_bound_that_the_sample_cannot_have_is_none():
    few = percentile(range(1, 6), 50)
    assert (few.low_s, few.high_s, few.confidence) == (None, None, 1.0)
    assert percentile(range(1, 368), 99).high_s is None
    assert percentile(range(1, 369), 99).high_s == 368
    assert percentile(range(1, 101), 99).low_s is not None


LOGNORMAL = statistics.NormalDist()
DISTRIBUTIONS = {
    "uniform": (lambda rng, size: rng.uniform(size=size), lambda q: q),
    "exponential": (lambda rng, size: rng.exponential(size=size), lambda q: -math.log(1 - q)),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), lambda q: math.exp(LOGNORMAL.inv_cdf(q))),
    "bimodal": (  # 4 of 5 calls take 1 to 1.1, the others 3 to 3.1
        lambda rng, size: np.where(rng.uniform(size=size) < 0.8, 1, 3) + rng.uniform(0, 0.1, size),
        lambda q: 1 + 0.1 * q / 0.8 if q < 0.8 else 3 + 0.1 * (q - 0.8) / 0.2,
    ),
}


@pytest.mark.parametrize("p", [50, 90, 99])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_cover_the_true_percentile_as_often_as_they_say(name, p):
    draw, quantile = DISTRIBUTIONS[name]
    n_runs, n, truth = 1500, 500, quantile(p / 100)
    runs = np.sort(draw(np.random.default_rng(p), (n_runs, n)))
    low, high, confidence = timing.interval_ranks(n, p / 100)
    coverage = np.mean((runs[:, low - 1] <= truth) & (truth <= runs[:, high - 1]))
    error = math.sqrt(coverage * (1 - coverage) / n_runs)
    assert coverage >= 0.95 - 3 * error
    assert coverage == pytest.approx(confidence, abs=4 * error)


# The summary


def test_a_summary_is_taken_over_the_calls_of_all_rounds():
    rounds = [np.array([3.0, 1.0]), np.array([2.0, 4.0, 10.0])]
    summary = timing.summarize(rounds)
    assert (summary.n, summary.n_rounds, summary.mean_s, summary.min_s, summary.max_s) == (5, 2, 4.0, 1.0, 10.0)
    ordered = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    assert [summary.p50, summary.p90, summary.p99] == [timing.percentile(ordered, p) for p in (50, 90, 99)]
    assert [summary.p50.value_s, summary.p90.value_s, summary.p99.value_s] == [3.0, 10.0, 10.0]
    assert [summary.p50.p, summary.p90.p, summary.p99.p] == [50, 90, 99]


def test_the_quantiles_of_a_summary_are_measured_times_from_the_fastest_to_the_slowest():
    calls = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert timing.summarize([*np.split(calls[:-1], 10), calls[-1:]]).quantiles_s == tuple(np.arange(0.0, 1001, 10))
    assert timing.summarize([[2.0]]).quantiles_s == (2.0,) * 101


def test_a_summary_sorts_the_calls_once(monkeypatch):
    sorted_sizes = []
    sort = np.sort

    def counted(values, *arguments, **options):
        sorted_sizes.append(np.size(values))
        return sort(values, *arguments, **options)

    monkeypatch.setattr(np, "sort", counted)
    timing.summarize(np.ones((6, 50)))
    assert sorted_sizes == [300]


@pytest.mark.parametrize(
    "rounds", [[], [[]], [[1.0], []], [1.0], [[1.0], [-1e-9]], [[1.0], [math.nan]], [[math.inf]], [[[1.0]]]], ids=str
)
def test_what_is_not_elapsed_seconds_is_refused(rounds):
    with pytest.raises(ValueError, match="seconds: found"):
        timing.summarize(rounds)


# Stability


def steady(seed=0, n_rounds=12, n_calls=100):
    """(rounds, calls) around 1 ms, 10 % wide, with the long right tail that latencies have."""
    return 1e-3 * np.random.default_rng(seed).lognormal(sigma=0.1, size=(n_rounds, n_calls))


def constant(*medians, n_calls=100):
    """Rounds of equal calls."""
    return [np.full(n_calls, median) for median in medians]


def spoiled():
    """One bad round and a few slow calls."""
    seconds = steady()
    seconds[5] *= 3
    seconds[:, ::50] *= 20
    return seconds


def test_steady_runs_are_stable():
    assert {timing.summarize(steady(seed)).reason for seed in range(40)} == {None}


@pytest.mark.parametrize(
    "rounds",
    [
        steady(),
        spoiled(),
        steady() * np.linspace(1, 1.03, 12)[:, None],
        constant(*[0.96] * 4, *[1.0] * 4, *[1.0] * 4),
        # drift is told by thirds of the rounds: median 1.04 of the first four, though 1.08 of the first three
        constant(1.08, 1.08, 1, 1, *[1.0] * 8),
        constant(*[1.0, 0.955, 1.045] * 4),
        constant(*[1.0] * 5, 1.3, 1.3, *[1.0] * 5),
        constant(*[1.0] * 5, 1.04, n_calls=1),
    ],
    ids=["steady", "spoiled", "slower", "drift 4 %", "first quarter", "spread 9 %", "two bad rounds", "width 4 %"],
)
def test_what_stays_below_the_limits_is_stable(rounds):
    summary = timing.summarize(rounds)
    assert (summary.stable, summary.reason) == (True, None)


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        (steady() * np.linspace(1, 1.12, 12)[:, None], ["p50 moved +"]),
        (steady() * np.linspace(1.12, 1, 12)[:, None], ["p50 moved -"]),
        (constant(*[1.0] * 8, *[1.06] * 4), ["p50 moved +6.0%"]),
        # the first four rounds, not the first three
        (constant(1, 1, 1.12, 1.12, *[1.0] * 8), ["p50 moved -6.0%"]),
        (constant(*[1.0] * 8, 1.12, 1.12, 1, 1), ["p50 moved +6.0%"]),
        (steady() * np.tile([1.0, 1.2, 1.2, 1.0], 3)[:, None], ["rounds' medians spreads over"]),
        (constant(*[1.0, 0.945, 1.055] * 4), ["rounds' medians spreads over 11.0% of p50"]),
        (
            steady() * np.where(np.random.default_rng(0).uniform(size=(12, 100)) < 0.5, 1, 2),
            ["moved", "interval of p50 is"],
        ),
        (constant(*[1.0] * 5, 1.06, n_calls=1), ["interval of p50 is 6.0% of p50 wide"]),
        (constant(*[1.0] * 4, *[1.2] * 4, *[1.4] * 4), ["p50 moved +33.3%", "; the middle half of the rounds"]),
        (steady(n_rounds=5), ["5 rounds, at least 6"]),
        (np.zeros((6, 10)), ["clock is too coarse"]),
    ],
)
def test_what_passes_a_limit_is_unstable_and_says_by_how_much(rounds, words):
    summary = timing.summarize(rounds)
    assert not summary.stable
    assert [word for word in words if word not in summary.reason] == [], summary.reason
    assert ("moved" in summary.reason) == ("moved" in words[0])


# Ratios


def test_a_ratio_is_paired_by_round_so_that_noise_shared_by_a_round_cancels():
    noise = np.random.default_rng(0).uniform(1, 5, size=(9, 1))
    ratio = timing.median_ratio(noise * [0.5, 0.5, 9.0], noise * [2.0, 2.0, 2.0])
    assert pytest.approx((ratio.value, ratio.low, ratio.high, ratio.n_rounds)) == (0.25, 0.25, 0.25, 9)


@pytest.mark.parametrize("n_rounds", [1, 2, 5, 6, 7, 30])
def test_the_ratio_of_b_to_a_is_one_over_that_of_a_to_b(n_rounds):
    a, b = steady(1, n_rounds), steady(2, n_rounds)
    there, back = timing.median_ratio(a, b), timing.median_ratio(b, a)
    assert there.value == pytest.approx(1 / back.value, rel=1e-12)
    if n_rounds < timing.MIN_ROUNDS:
        assert there.low is there.high is None
    else:
        assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low), rel=1e-12)
        assert there.low <= there.value <= there.high
        assert there.confidence >= 0.95


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
    rng, n_runs = np.random.default_rng(3), 500
    found = []
    for _ in range(n_runs):
        busy = rng.uniform(1, 3, size=(10, 1))  # rounds of a noisy machine
        a, b = busy * rng.lognormal(sigma=0.2, size=(2, 10, 15))
        found.append(timing.median_ratio(0.8 * a, b))
    coverage = sum(each.low <= 0.8 <= each.high for each in found) / n_runs
    error = math.sqrt(coverage * (1 - coverage) / n_runs)
    assert coverage == pytest.approx(found[0].confidence, abs=4 * error)


@pytest.mark.parametrize(
    ("a", "b"), [([[1.0]], [[1.0], [1.0]]), ([], []), ([[0.0]], [[1.0]]), ([[1.0]], [[0.0]]), ([[]], [[1.0]])]
)
def test_rounds_that_give_no_ratio_are_refused(a, b):
    with pytest.raises(ValueError, match=r"(rounds|seconds).* found"):
        timing.median_ratio(a, b)


# The loop


def test_each_call_is_timed_singly_and_untimed_calls_are_left_out():
    clock = FakeClock()
    call = clock.contestant("a", 7_000, first_ns=[10**9] * 5)
    plan = {"n_rounds": 1, "calls_per_round": 3, "n_warmup": 3, "n_settle": 2}
    measured = timing.measure_alternating({"a": call}, **plan, clock=clock)
    assert [seconds.tolist() for seconds in measured["a"]] == [[7e-6, 7e-6, 7e-6]]
    assert measured["a"][0].dtype == np.float64
    assert len(clock.calls) == 3 + 2 + 3


def turns(seed, n_rounds=8, names="abc"):
    """The order of each round, checked to be one unbroken turn of each contestant."""
    clock = FakeClock()
    contestants = {name: clock.contestant(name, 1) for name in names}
    plan = {"n_rounds": n_rounds, "calls_per_round": 3, "n_warmup": 0, "n_settle": 1, "seed": seed}
    timing.measure_alternating(contestants, **plan, clock=clock)
    blocks = ["".join(clock.calls[at : at + 4]) for at in range(0, len(clock.calls), 4)]
    assert all(len(set(block)) == 1 for block in blocks)
    order = "".join(block[0] for block in blocks)
    rounds = [order[at : at + len(names)] for at in range(0, len(order), len(names))]
    assert [sorted(names)] * n_rounds == [sorted(each) for each in rounds]
    return rounds


def test_contestants_alternate_and_every_second_round_runs_backwards():
    rounds = turns(seed=0)
    assert [each[::-1] for each in rounds[::2]] == rounds[1::2]
    assert len(set(rounds[::2])) > 1


def test_the_order_is_fixed_by_the_seed():
    assert turns(seed=5) == turns(seed=5)
    assert len({tuple(turns(seed)) for seed in range(5)}) > 1


def test_a_machine_that_slows_down_to_a_third_does_not_change_the_ratio():
    clock = FakeClock()

    def slowing(cost_ns):
        return lambda now_ns: cost_ns * (1 + now_ns / 3e6)

    contestants = {"a": clock.contestant("a", slowing(900)), "b": clock.contestant("b", slowing(1000))}
    measured = timing.measure_alternating(contestants, n_rounds=20, calls_per_round=50, n_warmup=0, clock=clock)
    first, last = np.median(measured["b"][0]), np.median(measured["b"][-1])
    assert last > 1.5 * first
    assert not timing.summarize(measured["a"]).stable
    assert timing.median_ratio(measured["a"], measured["b"]).value == pytest.approx(0.9, rel=0.005)


@pytest.fixture(params=[True, False], ids=["on", "off"])
def collector(request):
    """The garbage collector on or off, put back whatever a test did."""
    was_enabled = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("error", [None, RuntimeError("no such device")], ids=["passes", "raises"])
def test_garbage_is_not_collected_while_measuring_and_the_collector_is_put_back(collector, error):
    seen = []

    def call():
        seen.append(gc.isenabled())
        if error and len(seen) == 3:
            raise error

    with pytest.raises(RuntimeError, match="no such device") if error else contextlib.nullcontext():
        timing.measure_alternating({"a": call}, n_rounds=2, calls_per_round=2, n_warmup=1, clock=FakeClock())
    assert ({False}, 3 if error else 7) == (set(seen), len(seen))
    assert collector == gc.isenabled()


def test_a_budget_gives_every_contestant_turns_of_the_same_length():
    clock = FakeClock()
    contestants = {
        "fast": clock.contestant("fast", 10**6, first_ns=[10**9] * 3),  # its first calls compile
        "slow": clock.contestant("slow", 10**7),
        "endless": clock.contestant("endless", 10**10),
    }
    counts = timing.calls_for_budget(contestants, budget_s=1.66, n_rounds=10, clock=clock)
    assert counts == {"fast": 55, "slow": 5, "endless": 1}
    measured = timing.measure_alternating(contestants, n_rounds=2, calls_per_round=counts, n_warmup=0, clock=clock)
    assert [len(measured[name][0]) for name in ("fast", "slow", "endless")] == [55, 5, 1]


@pytest.mark.parametrize(
    "change",
    [{"contestants": {}}, {"n_rounds": 0}, {"calls_per_round": 0}, {"n_warmup": -1}, {"n_settle": -1}],
    ids=str,
)
def test_a_measurement_of_nothing_is_refused(change):
    plan = {"contestants": {"a": int}, "n_rounds": 1, "calls_per_round": 1, "n_warmup": 0, **change}
    with pytest.raises(ValueError, match="expected contestants"):
        timing.measure_alternating(plan.pop("contestants"), **plan)


@pytest.mark.parametrize("change", [{"budget_s": 0}, {"n_rounds": 0}, {"n_trials": 0}], ids=str)
def test_a_budget_for_nothing_is_refused(change):
    with pytest.raises(ValueError, match="expected contestants"):
        timing.calls_for_budget({"a": int}, **{"budget_s": 1.0, "n_rounds": 1, **change})
