"""Tests of edgelstm.measure.bench: right answers counted, calls timed in turn. No time is asserted."""

import dataclasses
import json

import numpy as np
import pytest
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.contract import Score
from edgelstm.data.dataset import Dataset, Part
from edgelstm.errors import ProviderError
from edgelstm.measure import machine
from edgelstm.measure.bench import N_ROUNDS, N_WARMUP, SCHEMA_VERSION, Contestant, bench, bench_contestants
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream

SECONDS = 0.02
N = 2_500


@pytest.fixture(scope="module")
def digits():
    """Each image holds its index in its first pixels; label 3 for all."""
    images = np.zeros((N, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(N) % 256, np.arange(N) // 256
    return Part(images, np.full(N, 3, np.uint8), "made up")


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
        "provider_requested": "cpu", "precision": "fp32", "config": ModelConfig(), "file_bytes": 7, "threads": 1
    }  # fmt: skip
    return Contestant(name=name, load=load or (lambda: runner), **{**known, **values})


def run(digits, *contestants, batch_sizes=(1,), **values):
    contestants = [dataclasses.replace(one, data=digits) for one in contestants]
    return bench_contestants(contestants, batch_sizes=batch_sizes, seconds=SECONDS, **values)


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
        (r.name, r.model, r.threads, r.precision, r.file_bytes, r.n_parameters, r.provider_requested)
        for r in report.results
    ] == [("b cpu 2 threads", "b", 2, "fp32", 7, 82_186, "cpu"), ("a cpu", "a", 1, "int8", None, 82_186, "cpu")]


def test_batch_sizes_come_in_order_and_once(digits):
    [result] = run(digits, contestant(), batch_sizes=(4, 1, 4, 2)).results
    assert [batch.batch_size for batch in result.batches] == [1, 2, 4]


def test_a_batch_holds_the_digits_in_order_repeated_when_they_are_too_few(digits):
    runner = FakeRunner(N)
    run(digits, contestant(load=lambda: runner), batch_sizes=(N + 1,))
    batch = runner.seen[-1]
    np.testing.assert_array_equal(batch, np.concatenate([digits.sequences, digits.sequences[:1]]))
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
    assert [("b cpu", 1.0, 4.0), ("a cpu", 2.0, 2.0), ("c cpu", 3.0, 4 / 3)] == [
        (one.name, one.batches[0].latency.p50.value_s, one.batches[0].images_per_s) for one in results
    ]


def test_the_provider_used_is_what_the_runner_says_not_what_was_asked(digits):
    runner = FakeRunner(N, provider_used="cpu")
    [result] = run(digits, contestant(load=lambda: runner, provider_requested="cuda")).results
    assert (result.name, result.provider_requested, result.provider_used) == ("fake cpu", "cuda", "cpu")


def test_what_a_contestant_raises_comes_out(digits):
    def fail():
        raise ProviderError("no GPU")

    with pytest.raises(ProviderError, match="no GPU"):
        run(digits, contestant(), contestant("b", load=fail))


def test_the_report_says_what_was_measured_on_what(digits):
    report = run(digits, contestant())
    assert (report.schema_version, report.digits, report.n_rounds) == (SCHEMA_VERSION, "2,500 (made up)", N_ROUNDS)
    assert "not timed" in report.what_is_timed


def test_the_report_is_json_of_plain_values(digits):
    report = run(digits, contestant())
    values = dataclasses.asdict(report)
    assert json.loads(json.dumps(values, allow_nan=False))["results"][0]["accuracy"] == {"n_right": N, "n": N}


def test_the_exported_model_is_measured_like_any_runner(tiny_model_bytes, sample):
    load = lambda: OrtRunner(tiny_model_bytes, provider="cpu")  # noqa: E731 - a contestant's load
    expected = int((load().logits(sample.sequences).argmax(1) == sample.labels).sum())
    [result] = run(sample, contestant(load=load), batch_sizes=(1, 16)).results
    assert (Score(expected, 1000), "cpu") == (result.accuracy, result.provider_used)


def test_two_contestants_of_one_name_are_both_timed(digits):
    runners = FakeRunner(N), FakeRunner(N)
    run(digits, contestant(load=lambda: runners[0]), contestant(load=lambda: runners[1]), batch_sizes=(5,))
    assert [any(len(pixels) == 5 for pixels in runner.seen) for runner in runners] == [True, True]


@pytest.mark.parametrize("order", [["cpu", "auto"], ["auto", "cpu"], ["auto"]], ids=" ".join)
def test_auto_that_comes_out_as_what_was_asked_for_as_well_is_measured_once(digits, order):
    runners = [FakeRunner(N, provider_used="cpu") for _ in order]
    contestants = [
        contestant("a", provider_requested=provider, load=lambda runner=runner: runner)
        for provider, runner in zip(order, runners, strict=True)
    ]
    other = contestant("b", provider_requested="auto", load=lambda: FakeRunner(N, provider_used="cpu"))
    results = run(digits, *contestants, other, batch_sizes=(5,)).results
    kept = "cpu" if "cpu" in order else "auto"
    assert [("a cpu", kept), ("b cpu", "auto")] == [(one.name, one.provider_requested) for one in results]


def test_why_a_provider_was_chosen_is_said_where_the_runner_has_a_note(digits):
    lines = []
    noted = contestant("a", load=lambda: FakeRunner(N, provider_used="cuda", provider_note="placed on CUDA"))
    silent = contestant("b", load=lambda: FakeRunner(N, provider_used="cpu", provider_note=None))
    run(digits, noted, silent, on_progress=lines.append)
    assert lines[:3] == ["loading a", "a: placed on CUDA", "loading b"]


def test_the_scenarios_are_p90_at_batch_1_and_the_best_throughput(digits):
    [result] = run(digits, contestant(), batch_sizes=(1, 4)).results
    assert result.batches[0].latency.p90.value_s == result.single_stream_p90_s
    assert result.offline == max(result.batches, key=lambda batch: batch.images_per_s)
    assert run(digits, contestant(), batch_sizes=(4,)).results[0].single_stream_p90_s is None


@pytest.mark.parametrize(
    ("config", "shape", "said"),
    [
        (
            ModelConfig(rows=20, cols=3, class_names=("left", "right")), (20, 3),
            "fake: no labelled data of 20 rows x 3 columns and 2 classes: accuracy left out, random sequences are",
        ),
        (
            ModelConfig(class_names=("left", "right")), (28, 28),
            "fake: no labelled data of 28 rows x 28 columns and 2 classes: accuracy left out, random sequences are",
        ),
    ],
    ids=["shape", "classes"],
)  # fmt: skip
def test_a_model_that_the_data_does_not_fit_is_timed_without_accuracy(digits, config, shape, said):
    lines, runner = [], FakeRunner(N)
    odd = contestant(load=lambda: runner, config=config)
    report = run(digits, odd, contestant("other"), batch_sizes=(100,), on_progress=lines.append)
    assert [None, Score(N, N)] == [result.accuracy for result in report.results]
    assert [line for line in lines if "no labelled data" in line] == [f"{said} timed"]
    assert {(*shape,)} == {pixels.shape[1:] for pixels in runner.seen}
    assert (np.dtype(np.uint8), 100) == (runner.seen[-1].dtype, len(runner.seen[-1]))
    assert len(np.unique(runner.seen[-1][:, 0], axis=0)) > 10


def test_single_steps_are_timed_where_a_contestant_has_a_stream(sample, tiny_model_bytes, tiny_config, monkeypatch):
    pushed = {}
    push = Stream.push

    def kept(self, rows):
        pushed.setdefault(self, []).append(rows)
        return push(self, rows)

    monkeypatch.setattr(Stream, "push", kept)
    streaming = contestant(
        "a", load=lambda: OrtRunner(tiny_model_bytes, provider="cpu"), config=tiny_config,
        stream=lambda n: Stream(tiny_model_bytes, n_streams=n),
    )  # fmt: skip
    whole, other = dataclasses.replace(streaming, stream=None), dataclasses.replace(streaming, name="c")
    lines = []
    report = run(sample, whole, streaming, other, batch_sizes=(2, 1), on_progress=lines.append)
    assert [[], [1, 2], [1, 2]] == [[batch.batch_size for batch in result.steps] for result in report.results]
    assert lines[-4:] == [
        "timing batch 1", "timing one step of 1 stream", "timing batch 2", "timing one step of 2 streams"
    ]  # fmt: skip
    assert [1, 1, 2, 2] == [stream.n_streams for stream in pushed]
    for stream, steps in pushed.items():
        assert len(steps) > N_WARMUP + N_ROUNDS
        for step, rows in enumerate(steps):  # from the first again after the last
            expected = sample.sequences[: stream.n_streams, step % 28 : step % 28 + 1]
            np.testing.assert_array_equal(expected, rows)
    first, second = (result.steps[0] for result in report.results[1:])
    assert (first.ratio_to_first.value, first.roofline_s, second.roofline_s) == (1.0, None, None)
    assert 1 / first.latency.p50.value_s == first.images_per_s


def test_the_machine_is_measured_only_when_asked_and_gives_each_batch_its_roofline(digits, monkeypatch):
    rates = machine.Rates(1, 1e9, 1e12)
    monkeypatch.setattr(
        "edgelstm.measure.bench.measure_rates", lambda threads: dataclasses.replace(rates, threads=threads)
    )
    monkeypatch.setattr("edgelstm.measure.bench.peak_memory_bytes", lambda load, pixels: 10**6 * len(pixels))
    plain = run(digits, contestant())
    assert (None, None, None) == (
        plain.environment.rates, plain.results[0].peak_memory_bytes, plain.results[0].batches[0].roofline_s
    )  # fmt: skip
    report = run(digits, contestant("a", threads=4), contestant("b", threads=2), batch_sizes=(3,), with_machine=True)
    assert report.environment.rates.threads == 2
    assert [10**6] * 2 == [result.peak_memory_bytes for result in report.results]
    expected = machine.roofline_s(ModelConfig(), 3, rates)
    assert [expected] * 2 == [result.batches[0].roofline_s for result in report.results]


# By names, with data of one's own


def test_models_of_values_are_measured_on_their_own_data(checkpoint_of, model_bytes_of, monkeypatch):
    monkeypatch.setattr(machine, "N_TRIALS", 1)
    config = SEQUENCES["unequal lengths"]
    content = model_bytes_of(checkpoint_of(config))
    values = np.random.default_rng(0).standard_normal((12, 15, 3)).astype(np.float32)
    lengths = np.arange(4, 16, dtype=np.int32)
    labels = OrtRunner(content, provider="cpu").logits(values, lengths).argmax(1)
    part = Part(values, labels, "made up", lengths)
    data = Dataset("gestures", "values", config.class_names, part, part, part, sha256="1" * 64, split="given")
    lines = []
    report = bench(
        [content], data=data, providers=["cpu"], batch_sizes=(1, 20), seconds=SECONDS, streaming=True,
        on_progress=lines.append,
    )  # fmt: skip
    [result] = report.results
    assert (Score(12, 12), "12 (made up)") == (result.accuracy, report.digits)
    assert [1, 20] == [batch.batch_size for batch in result.batches] == [step.batch_size for step in result.steps]
    assert result.peak_memory_bytes > 0
    assert "measuring the model with 12 sequences (made up)" in lines


def test_without_data_of_its_own_a_model_of_values_is_timed_on_random_ones(checkpoint_of, model_bytes_of, monkeypatch):
    monkeypatch.setattr(machine, "N_TRIALS", 1)
    contents = [model_bytes_of(checkpoint_of(config)) for config in SEQUENCES.values()]
    report = bench(contents, providers=["cpu"], batch_sizes=(2,), seconds=SECONDS)
    assert [(None, 2)] * len(SEQUENCES) == [(one.accuracy, one.batches[0].batch_size) for one in report.results]
    assert report.digits == "random sequences"
