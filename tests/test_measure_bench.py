"""Tests of edgelstm.measure.bench: right answers counted, calls timed in turn. No time is asserted."""

import dataclasses
import json

import numpy as np
import pytest

from edgelstm.contract import Score
from edgelstm.data.mnist import Digits
from edgelstm.errors import ProviderError
from edgelstm.measure.bench import N_ROUNDS, SCHEMA_VERSION, Contestant, bench, read_environment
from edgelstm.runtime.runner import OrtRunner

SECONDS = 0.02
N = 2_500


@pytest.fixture(scope="module")
def digits():
    """Each image holds its index in its first pixels; label 3 for all."""
    images = np.zeros((N, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(N) % 256, np.arange(N) // 256
    return Digits(images, np.full(N, 3, np.uint8), "made up")


class FakeRunner:
    """Answers 3 for the first ``n_right`` images of ``digits``, and 4 for the others."""

    def __init__(self, n_right, **attributes):
        self.name, self.n_right, self.seen = "fake", n_right, []
        vars(self).update(attributes)

    def logits(self, pixels):
        self.seen.append(pixels)
        index = pixels[:, 0, 0].astype(int) + 256 * pixels[:, 0, 1].astype(int)
        return np.eye(10, dtype=np.float32)[np.where(index < self.n_right, 3, 4)]


def contestant(name="fake", n_right=N, load=None, **values):
    runner = FakeRunner(n_right)
    known = {
        "provider_requested": "auto", "precision": "fp32", "n_parameters": 5, "file_bytes": 7, "threads": 1
    }  # fmt: skip
    return Contestant(name=name, load=load or (lambda: runner), **{**known, **values})


def run(digits, *contestants, batch_sizes=(1,), **values):
    return bench(contestants, digits, batch_sizes=batch_sizes, seconds=SECONDS, **values)


@pytest.mark.parametrize("n_right", [0, 1, 999, 1000, 1001, N])
def test_right_answers_are_counted_over_all_digits(digits, n_right):
    [result] = run(digits, contestant(n_right=n_right)).results
    assert Score(n_right, N) == result.accuracy


def test_the_first_run_is_one_picture_and_the_first_call_of_all(digits):
    runner = FakeRunner(N)
    run(digits, contestant(load=lambda: runner), batch_sizes=(8,))
    assert runner.seen[0].shape == (1, 28, 28)


def test_each_contestant_is_loaded_once_and_before_any_is_timed(digits):
    loaded = []

    def load(name):
        def one():
            loaded.append(name)
            return FakeRunner(N)

        return one

    lines = []
    run(
        digits, contestant("a", load=load("a")), contestant("b", load=load("b")), batch_sizes=(2, 1),
        on_progress=lines.append,
    )  # fmt: skip
    assert loaded == ["a", "b"]
    assert lines == ["loading a", "loading b", "timing batch 1", "timing batch 2"]


def test_results_are_in_the_order_of_the_contestants_and_keep_what_is_known_of_them(digits):
    report = run(digits, contestant("b", threads=2), contestant("a", precision="int8", file_bytes=None))
    assert [
        (r.name, r.threads, r.precision, r.file_bytes, r.n_parameters, r.provider_requested) for r in report.results
    ] == [("b", 2, "fp32", 7, 5, "auto"), ("a", 1, "int8", None, 5, "auto")]


def test_batch_sizes_come_in_order_and_once(digits):
    [result] = run(digits, contestant(), batch_sizes=(4, 1, 4, 2)).results
    assert [batch.batch_size for batch in result.batches] == [1, 2, 4]


def test_a_batch_holds_the_digits_in_order_repeated_when_they_are_too_few(digits):
    runner = FakeRunner(N)
    run(digits, contestant(load=lambda: runner), batch_sizes=(N + 1,))
    batch = runner.seen[-1]
    np.testing.assert_array_equal(batch, np.concatenate([digits.images, digits.images[:1]]))
    assert (np.dtype(np.uint8), True) == (batch.dtype, batch.flags.c_contiguous)


def test_images_a_second_are_the_batch_over_the_median_call(digits):
    [result] = run(digits, contestant(), batch_sizes=(8,)).results
    [batch] = result.batches
    assert 8 / batch.latency.p50.value_s == batch.images_per_s
    assert batch.latency.n_rounds == N_ROUNDS


def test_each_contestant_gets_its_own_times(digits, monkeypatch):
    def measured(calls, **options):
        return {name: [np.full(3, 1.0 + i)] * N_ROUNDS for i, name in enumerate(calls)}

    monkeypatch.setattr("edgelstm.measure.bench.measure_alternating", measured)
    results = run(digits, contestant("b"), contestant("a"), contestant("c"), batch_sizes=(4,)).results
    assert [("b", 1.0, 4.0), ("a", 2.0, 2.0), ("c", 3.0, 4 / 3)] == [
        (one.name, one.batches[0].latency.p50.value_s, one.batches[0].images_per_s) for one in results
    ]


def test_the_provider_used_is_what_the_runner_says_not_what_was_asked(digits):
    runner = FakeRunner(N, provider_used="cpu")
    [result] = run(digits, contestant(load=lambda: runner, provider_requested="cuda")).results
    assert (result.provider_requested, result.provider_used) == ("cuda", "cpu")


def test_what_a_contestant_raises_comes_out(digits):
    def fail():
        raise ProviderError("no GPU")

    with pytest.raises(ProviderError, match="no GPU"):
        run(digits, contestant(), contestant("b", load=fail))


def test_a_result_is_stable_only_if_every_batch_is(digits):
    [result] = run(digits, contestant(), batch_sizes=(1, 2)).results
    for verdicts in ([True, True], [True, False], [False, True]):
        batches = tuple(
            dataclasses.replace(batch, latency=dataclasses.replace(batch.latency, stable=stable))
            for batch, stable in zip(result.batches, verdicts, strict=True)
        )
        assert all(verdicts) == dataclasses.replace(result, batches=batches).stable, verdicts


def test_the_report_says_what_was_measured_on_what(digits):
    report = run(digits, contestant())
    assert (report.schema_version, report.digits, report.n_rounds) == (SCHEMA_VERSION, "2,500 (made up)", N_ROUNDS)
    assert "not timed" in report.what_is_timed


def test_the_report_is_json_of_plain_values(digits):
    report = run(digits, contestant())
    values = dataclasses.asdict(report)
    assert json.loads(json.dumps(values, allow_nan=False))["results"][0]["accuracy"] == {"n_right": N, "n": N}


def test_the_environment_names_the_machine_and_the_libraries():
    environment = read_environment()
    assert environment.cpu
    assert environment.cores >= 1
    assert {"python", "edgelstm", "numpy"} <= environment.versions.keys()


def test_the_exported_model_is_measured_like_any_runner(tiny_model_bytes, sample):
    load = lambda: OrtRunner(tiny_model_bytes, provider="cpu")  # noqa: E731 - a contestant's load
    expected = int((load().logits(sample.images).argmax(1) == sample.labels).sum())
    [result] = run(sample, contestant(load=load), batch_sizes=(1, 16)).results
    assert (Score(expected, 1000), "cpu") == (result.accuracy, result.provider_used)


def test_two_contestants_of_one_name_are_both_timed(digits):
    runners = FakeRunner(N), FakeRunner(N)
    run(digits, contestant(load=lambda: runners[0]), contestant(load=lambda: runners[1]), batch_sizes=(5,))
    assert [any(len(pixels) == 5 for pixels in runner.seen) for runner in runners] == [True, True]
