"""Tests of edgelstm.Stream: rows one by one end where the whole picture does, whatever the calls and streams."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgelstm
from edgelstm import Classifier
from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule
from edgelstm.errors import ModelError
from edgelstm.exporting.graph import probe_pixels
from edgelstm.onnx_file import open_model
from edgelstm.runtime.early_exit import confidences
from edgelstm.runtime.parity import compare
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import EVERY_ROW, Stream, logits_by_step, stateful_form

CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=2, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}
RULE = EarlyRule(0.6, 2)


@pytest.fixture(scope="module")
def model_of(checkpoint_of, model_bytes_of):
    """The bytes of a model of a shape."""
    return lambda config, precision="fp32", **values: model_bytes_of(checkpoint_of(config), precision, **values)


@pytest.fixture(scope="module")
def content(model_of):
    return model_of(CONFIGS["one layer"], early=RULE)


@pytest.fixture(scope="module")
def whole(model_of):
    """The whole sequences' logits."""
    return lambda config, pixels, precision="fp32": OrtRunner(model_of(config, precision), provider="cpu").logits(
        pixels
    )


def step_by_step(stream, pixels):
    size = stream.contract.config.rows_per_step
    return [stream.push(pixels[:, at : at + size]) for at in range(0, pixels.shape[1], size)]


def assert_same(reference, found):
    report = compare(reference, found)
    assert report.passed, f"largest difference {report.max_difference:.2e}, {report.disagreements[:3]}"


# After the last row: the whole picture's answer


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_all_rows_in_one_call_give_the_whole_pictures_very_bits(config, precision, model_of, whole):
    """fp16 too: its weights are widened once, here by us, there by onnxruntime's CPU provider."""
    pixels, file = probe_pixels(config, 16), open_model(model_of(config, precision))
    found = Stream(file, n_streams=16).push(pixels)
    np.testing.assert_array_equal(whole(config, pixels, precision), found)
    np.testing.assert_array_equal(Stream(stateful_form(file), n_streams=16).push(pixels), found)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_one_step_a_call_ends_where_the_whole_picture_does(config, n, whole, model_of):
    pixels = probe_pixels(config, 64)[-n:]
    assert_same(whole(config, pixels), step_by_step(Stream(model_of(config), n_streams=n), pixels)[-1])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_any_split_into_calls_ends_there_too(config, whole, model_of):
    pixels, file = probe_pixels(config, 5), open_model(model_of(config))
    reference = whole(config, pixels)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.sets(st.integers(1, config.n_steps - 1)))
    def check(cuts):
        stream = Stream(file, n_streams=5)
        for rows in np.split(pixels, [cut * config.rows_per_step for cut in sorted(cuts)], axis=1):
            logits = stream.push(rows)
        assert_same(reference, logits)

    check()


@pytest.mark.parametrize("name", ["base", "base.int8"])
def test_a_real_digit_is_read_by_the_shipped_models(name, sample):
    logits = step_by_step(Stream(name, n_streams=50), sample.sequences[:50])
    n_right = int((logits[-1].argmax(1) == sample.labels[:50]).sum())
    assert n_right >= 48, f"{n_right}/50"
    assert (logits[5].argmax(1) == sample.labels[:50]).mean() < 0.5, "after 5 rows nothing can be known yet"
    if name == "base":
        assert_same(OrtRunner(name, provider="cpu").logits(sample.sequences[:50]), logits[-1])


def test_without_a_name_it_is_the_default_model(monkeypatch, tmp_path, content):
    monkeypatch.chdir(tmp_path)
    assert Stream().contract.name == "base"
    (tmp_path / "runs/base").mkdir(parents=True)
    (tmp_path / "runs/base/model.onnx").write_bytes(content)
    assert Stream().contract.name == "random"


def test_a_stream_is_as_sure_of_a_picture_as_the_classifier(sample):
    """Both divide by the temperature that the model keeps."""
    stream = Stream("base", early=True)
    assert stream.contract.temperature != 1
    assert stream.contract.early.temperature == stream.contract.temperature
    for image in sample.sequences[:5]:
        prediction = Classifier("base", provider="cpu").classify(image)
        stream.reset()
        # what the classifier has found in the picture and shown the model, row by row
        last = step_by_step(stream, prediction.sequence[None])[-1]
        [confidence] = confidences(last, stream.contract.temperature)
        assert prediction.index == stream.decisions[0] == last[0].argmax()
        assert abs(prediction.confidence - confidence) < 1e-5


def test_a_single_stream_takes_a_bare_row_or_bare_rows(content):
    pixels = probe_pixels(CONFIGS["one layer"], 1)
    reference, stream = step_by_step(Stream(content), pixels)[-1], Stream(content)
    for row in pixels[0, :20]:
        stream.push(row)
    assert np.array_equal(reference, stream.push(pixels[0, 20:]))


def test_logits_belong_to_the_caller(content):
    stream, pixels = Stream(content), probe_pixels(CONFIGS["one layer"], 200)[-1]
    first = stream.push(pixels[0])
    before = first.copy()
    stream.push(pixels[1])
    assert np.array_equal(before, first)


def test_more_numbers_of_rows_than_are_kept_bound_change_nothing(content, monkeypatch):
    monkeypatch.setattr("edgelstm.runtime.stream.MAX_BOUND_SHAPES", 8)
    pixels = probe_pixels(CONFIGS["one layer"], 3)
    stream = Stream(content, n_streams=3)
    for n_rows in [*range(1, 20), 1, 2]:
        stream.reset()
        found = stream.push(pixels[:, :n_rows])
        assert np.array_equal(Stream(content, n_streams=3).push(pixels[:, :n_rows]), found), n_rows
        assert len(stream._steps._bound) <= 8
    assert [*range(14, 20), 1, 2] == list(stream._steps._bound), "the first made goes"


# Many streams


def test_streams_at_different_rows_do_not_touch_each_other(content):
    pixels = probe_pixels(CONFIGS["one layer"], 256)[[100, 180, 250]]
    alone = [step_by_step(Stream(content), pixels[i : i + 1])[-1][0] for i in range(3)]
    stream = Stream(content, n_streams=3)
    draw, last = np.random.default_rng(1), {}
    while (stream.rows_read < 28).any():
        open_ = np.flatnonzero(stream.rows_read < 28)
        some = draw.permutation(open_)[: draw.integers(1, len(open_) + 1)].tolist()
        rows = np.stack([pixels[i, stream.rows_read[i]] for i in some])[:, None]
        last |= dict(zip(some, stream.push(rows, some), strict=True))
    assert_same(np.stack(alone), np.stack([last[i] for i in range(3)]))


def test_one_stream_begins_anew_while_the_others_go_on(content):
    pixels = probe_pixels(CONFIGS["one layer"], 256)[[150, 200, 250]]
    stream = Stream(content, n_streams=2)
    stream.push(pixels[:2, :10])
    stream.reset([1])
    assert stream.rows_read.tolist() == [10, 0]
    found = stream.push(pixels[[0, 2], 10:20])  # the second stream reads another picture's rows as its first
    assert_same(Stream(content).push(pixels[2, 10:20]), found[1:])
    assert_same(Stream(content).push(pixels[0, :20]), found[:1])


def test_reset_forgets_everything(content):
    pixels, stream = probe_pixels(CONFIGS["one layer"], 256)[-2:], Stream(content, n_streams=2)
    fresh = stream.push(pixels[:, :9])
    stream.push(pixels[:, 9:])
    stream.reset()
    assert stream.rows_read.tolist() == [0, 0]
    assert np.array_equal(fresh, stream.push(pixels[:, :9]))


# What is refused


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 1, 28), np.float32), r"found float32 \(2, 1, 28\), expected a NumPy array uint8 \(2, rows, 28\)"),
        (np.zeros((1, 1, 28), np.uint8), r"found uint8 \(1, 1, 28\), expected a NumPy array uint8 \(2, rows, 28\)"),
        (np.zeros((2, 1, 27), np.uint8), r"found uint8 \(2, 1, 27\), expected a NumPy array uint8 \(2, rows, 28\)"),
        (np.zeros((2, 28), np.uint8), r"expected a NumPy array uint8 \(2, rows, 28\)"),
        (np.zeros((2, 0, 28), np.uint8), "found 0, expected a multiple of 1"),
        (np.zeros((2, 29, 28), np.uint8), "29 more for a sequence of which 0 of 28 are read"),
        (b"x" * 56, "found bytes"),
    ],
)
def test_other_rows_are_refused_and_nothing_is_read(content, rows, message):
    stream = Stream(content, n_streams=2)
    with pytest.raises(ValueError, match=message):
        stream.push(rows)
    assert stream.rows_read.tolist() == [0, 0]


def test_one_stream_says_what_it_was_given_and_that_it_takes_a_row(content):
    stream = Stream(content, source="m.onnx")
    with pytest.raises(ValueError, match=r"found float64 \(28,\), expected .* uint8 \(1, rows, 28\) or \(28,\)"):
        stream.push(np.zeros(28))
    assert repr(stream) == "Stream('m.onnx', n_streams=1)"


def test_half_a_step_is_refused(model_of):
    stream = Stream(model_of(CONFIGS["two rows a step, two layers"]))
    with pytest.raises(ValueError, match="found 3, expected a multiple of 2"):
        stream.push(np.zeros((3, 28), np.uint8))
    with pytest.raises(ValueError, match="found 1, expected a multiple of 2"):
        stream.skip(1)
    assert stream.rows_read.tolist() == [0]


def test_a_row_after_the_last_is_refused_until_reset(content):
    stream = Stream(content)
    stream.push(np.zeros((28, 28), np.uint8))
    with pytest.raises(ValueError, match="1 more for a sequence of which 28 of 28 are read; reset begins the next one"):
        stream.push(np.zeros(28, np.uint8))
    stream.reset()
    stream.push(np.zeros(28, np.uint8))


@pytest.mark.parametrize("streams", [[], [2], [-1], [0, 0], [[0]]])
def test_streams_that_are_not_there_are_refused(content, streams):
    with pytest.raises(ValueError, match="streams: found"):
        Stream(content, n_streams=2).push(np.zeros((1, 1, 28), np.uint8), streams)


def test_no_stream_at_all_is_refused(content):
    with pytest.raises(ValueError, match="n_streams: found 0, expected at least 1"):
        Stream(content, n_streams=0)


def test_a_damaged_file_is_refused(content):
    with pytest.raises(ModelError, match=r"m\.onnx cannot be loaded as an ONNX model"):
        Stream(content[:-50], source="m.onnx")


# Saved states


def test_a_saved_state_goes_on_to_the_same_bits_elsewhere(content):
    pixels = probe_pixels(CONFIGS["one layer"], 256)[-3:]
    one, other = Stream(content, n_streams=3, early=True), Stream(content, n_streams=3, early=True)
    one.push(pixels[:, :5])
    one.push(pixels[[0], 5:9], [0])
    other.push(pixels[:, 7:21])  # whatever the other was reading is given up
    other.restore(one.save())
    assert one.rows_read.tolist() == other.rows_read.tolist() == [9, 5, 5]
    for row in range(9, 26):
        assert np.array_equal(one.push(pixels[:, [row]]), other.push(pixels[:, [row]])), row
        assert one.decisions.tolist() == other.decisions.tolist(), row


def test_a_saved_state_holds_no_code_and_only_its_numbers(content):
    state = Stream(content, n_streams=2).save()
    head, _, body = state.partition(b"\n")
    assert {"format", "model", "n_streams"} == set(json.loads(head))
    assert 2 * (2 * 8 * 4 + 4 * 8) == len(body)


def test_a_state_of_another_model_is_refused(content, checkpoint_of, model_of, model_bytes_of):
    checkpoint = checkpoint_of(CONFIGS["one layer"])
    weights = {name: value + 0.1 for name, value in checkpoint.weights.items()}
    other = model_bytes_of(dataclasses.replace(checkpoint, weights=weights))
    for model in (other, model_of(CONFIGS["one layer"], "int8")):
        with pytest.raises(ModelError, match="the saved state is of another model"):
            Stream(model).restore(Stream(content).save())


def test_a_state_of_another_number_of_streams_is_refused(content):
    with pytest.raises(ModelError, match="of another number of streams: found 2, expected 1"):
        Stream(content).restore(Stream(content, n_streams=2).save())


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_the_same_weights_exported_anew_or_in_the_other_form_take_the_state(content, model_of, kind):
    stream = Stream(model_of(CONFIGS["one layer"], kind=kind, early=EarlyRule(0.9, 1)))
    stream.restore(Stream(content).save())


def test_a_state_that_the_first_version_saved_goes_on(model_of):
    """Written by edgelstm 0.1.0 on a model of these weights, after two rows."""
    stream = Stream(
        model_of(ModelConfig(rows=4, cols=3, hidden_size=2, class_names=("a", "b"))), early=EarlyRule(0.5, 3)
    )
    old = (
        b'{"format": "edgelstm-stream-state-1", "model": '
        b'"a90ece25087cfdc8db8f24aa4a5aac98ed648b46d26946679159a211b80de20c", "n_streams": 1}\n'
    ) + bytes.fromhex("d54cc8bd0681bf3b13d13bbe46c3063c02" + "00" * 7 + "02" + "00" * 15 + "ff" * 8)
    stream.restore(old)
    assert old == stream.save()
    assert stream.rows_read.tolist() == [2]
    found = stream.push(np.full(3, 200, np.uint8))
    np.testing.assert_allclose(found, [[-0.28917342, -0.25340614]], atol=1e-6)


COUNTS = ("rows_read", "held", "first", "decision")


def with_number(state, name, value):
    """The saved state of one stream with another count: they stand last, eight bytes each."""
    at = len(state) - 8 * (len(COUNTS) - COUNTS.index(name))
    return state[:at] + int(value).to_bytes(8, "little", signed=True) + state[at + 8 :]


def with_state(state, **values):
    """The same with the first number of h or c replaced: 8 of each stand behind the first line."""
    body = state.index(b"\n") + 1
    for name, value in values.items():
        at = body + {"h": 0, "c": 32}[name]
        state = state[:at] + np.float32(value).tobytes() + state[at + 4 :]
    return state


def test_a_state_within_a_step_is_refused(model_of):
    stream = Stream(model_of(CONFIGS["two rows a step, two layers"]))
    state = stream.save()
    with pytest.raises(ModelError, match="the saved state is damaged"):
        stream.restore(with_number(state, "rows_read", 1))
    stream.restore(with_number(state, "rows_read", 2))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: b"",
        lambda state: b"\x80\x04N.",
        lambda state: b"[" * 100_000,
        lambda state: state[:-1],
        lambda state: state + b"\0",
        lambda state: state.replace(b"state-1", b"state-2"),
        lambda state: with_number(state, "rows_read", 29),
        lambda state: with_number(state, "rows_read", -1),
        lambda state: with_number(state, "held", -1),
        lambda state: with_number(state, "held", 6),
        lambda state: with_number(state, "held", 2**63 - 1),
        lambda state: with_number(state, "first", 10),
        lambda state: with_number(state, "decision", -2),
        lambda state: with_number(state, "decision", 10),
        lambda state: with_state(state, h=1.1),
        lambda state: with_state(state, h=np.nan),
        lambda state: with_state(state, c=-29),
        lambda state: with_state(state, c=np.inf),
        lambda state: state.replace(b"{", b'{"x": ' + b"[" * 100_000 + b", "),
        lambda state: state.replace(b"{", b'{"x": [' + b"[], " * 1_000 + b"[]], "),
    ],
)
def test_a_damaged_state_is_refused_and_the_stream_goes_on_as_it_was(content, spoil):
    stream, pixels = Stream(content), probe_pixels(CONFIGS["one layer"], 256)[-1]
    stream.push(pixels[:5])
    before = stream.save()
    with pytest.raises(ModelError, match=r"the saved state (cannot be read|is damaged)"):
        stream.restore(spoil(before))
    assert before == stream.save()


# Deciding early


def test_a_stream_decides_when_the_rule_says_and_keeps_its_decision(content):
    pixels = probe_pixels(CONFIGS["one layer"], 256)[-40:]
    stream = Stream(content, n_streams=40, early=EarlyRule(0.3, 3))
    held, first, expected = np.zeros(40, int), np.full(40, -1), np.full(40, -1)
    for row in range(28):
        logits = stream.push(pixels[:, [row]]).astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for i in range(40):
            same = shares[i].argmax() == first[i]
            first[i] = shares[i].argmax()
            held[i] = 0 if shares[i].max() < 0.3 else held[i] + 1 if same else 1
            if expected[i] < 0 and (held[i] >= 3 or row == 27):
                expected[i] = first[i]
        assert expected.tolist() == stream.decisions.tolist(), f"row {row + 1}"
        assert (expected >= 0).tolist() == stream.decided.tolist()
    assert len(set(expected.tolist())) > 1


def test_the_last_row_decides_what_is_still_open_and_only_that_streams(content):
    stream = Stream(content, n_streams=2, early=EVERY_ROW)
    stream.push(np.zeros((2, 20, 28), np.uint8))
    stream.push(np.zeros((1, 8, 28), np.uint8), [1])
    assert stream.decided.tolist() == [False, True]
    stream.reset([1])
    stream.push(np.zeros((2, 8, 28), np.uint8))
    assert stream.decided.tolist() == [True, False], "also where all are pushed and one of them ends"


def test_skipped_rows_are_counted_and_not_run(content):
    stream = Stream(content, n_streams=2)
    state = stream.save()
    stream.skip(3, [1])
    assert stream.rows_read.tolist() == [0, 3]
    assert len(state) - 32 * 2 == state.find(b"\n") + 1 + 2 * 2 * 8 * 4
    assert stream.save()[: len(state) - 64] == state[: len(state) - 64], "the LSTM's state has moved"
    with pytest.raises(ValueError, match="26 more for a sequence of which 3 of 28 are read"):
        stream.skip(26)


def test_a_model_without_a_rule_says_so(model_of):
    with pytest.raises(ModelError, match=r"has no rule for early exit: .*export it again"):
        Stream(model_of(CONFIGS["one layer"]), early=True)


def test_a_stream_that_was_not_asked_decides_nothing(content):
    with pytest.raises(ValueError, match="made without early=True"):
        _ = Stream(content).decisions


def test_the_public_name_is_the_class():
    assert edgelstm.Stream is Stream


# Whole sequences through a Stream


def test_fewer_sequences_than_streams_at_the_end_are_read_too(model_of):
    config = CONFIGS["two rows a step, two layers"]
    pixels, content = probe_pixels(config, 7), model_of(config)
    stream = Stream(content, n_streams=4)
    stream.push(pixels[:4, :2])  # whatever it was reading is given up
    found = logits_by_step(stream, pixels)
    assert (7, config.n_steps, 10) == found.shape
    np.testing.assert_allclose(logits_by_step(Stream(content), pixels), found, atol=1e-6)
    assert stream.rows_read.tolist() == [0] * 4


def test_a_timed_call_is_one_step_and_begins_anew_after_the_last(model_of):
    config = CONFIGS["two rows a step, two layers"]
    pixels, stream = probe_pixels(config, 256)[-3:], Stream(model_of(config), n_streams=3)
    by_step = logits_by_step(stream, pixels)
    call = stream.row_call(pixels)
    for _ in range(2):
        for step in range(config.n_steps):
            np.testing.assert_array_equal(by_step[:, step], call())


# Signals without end

VALUES = ModelConfig(rows=12, cols=3, hidden_size=6, class_names=("a", "b", "c"), preparation="values")
ENDLESS = {
    "values": VALUES,
    "values, any length": dataclasses.replace(VALUES, variable_length=True, n_layers=2),
    "values, three rows a step": dataclasses.replace(VALUES, rows_per_step=3),
    "pixels": dataclasses.replace(VALUES, preparation="plain"),
}


def signal_of(config, n_rows, seed=0):
    random = np.random.default_rng(seed)
    if config.is_values:
        return random.normal(0, 1, (n_rows, config.cols)).astype(np.float32)
    return random.integers(0, 256, (n_rows, config.cols), dtype=np.uint8)


def cut(signal, window, hop):
    """Every whole window (k, window, cols), and where each ends."""
    ends = np.arange(window, len(signal) + 1, hop)
    return np.stack([signal[end - window : end] for end in ends]), ends


@pytest.mark.parametrize("config", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("hop", [1, 2, 3, 5, 6, 9, 12])
def test_each_window_of_a_signal_is_answered_as_if_it_were_cut_out(config, hop, model_of):
    if hop % config.rows_per_step:
        return
    signal, file = signal_of(config, 120), open_model(model_of(config))
    windows, ends = cut(signal, 12, hop)
    expected = OrtRunner(file, provider="cpu").logits(windows)
    random = np.random.default_rng(hop)
    for most in (1, 7, 60):
        stream, found, found_ends, at = Stream(file, window=12, hop=hop), [], [], 0
        while at < len(signal):
            n = int(random.integers(0, most + 1)) * config.rows_per_step
            logits = stream.push(signal[at : at + n])
            at += len(signal[at : at + n])
            assert logits.shape == (len(stream.window_ends), config.n_classes)
            assert stream.rows_read.tolist() == [at]
            found += [*logits]
            found_ends += stream.window_ends.tolist()
        assert ends.tolist() == found_ends
        assert_same(expected, np.stack(found))


@pytest.mark.parametrize(("window", "hop"), [(1, 1), (30, 7), (30, None), (5000, 4999)])
def test_a_model_of_any_length_has_windows_of_any(window, hop, model_of):
    config = ENDLESS["values, any length"]
    signal, file = signal_of(config, 10_050), open_model(model_of(config))
    stream = Stream(file, window=window, hop=hop)
    ends = stream.push(signal) is not None and stream.window_ends
    assert np.arange(window, 10_051, hop or window).tolist() == ends.tolist()
    if window <= 4096:
        runner = OrtRunner(file, provider="cpu")
        stream.reset()
        assert_same(runner.logits(cut(signal[:500], window, hop or window)[0]), stream.push(signal[:500]))


def test_a_bare_row_is_a_row_of_the_signal_and_reset_begins_anew(model_of):
    signal, stream = signal_of(VALUES, 40), Stream(model_of(VALUES), window=12, hop=4)
    one_by_one = [logits for row in signal for logits in stream.push(row)]
    stream.reset()
    assert (stream.rows_read.tolist(), len(stream.push(signal[:11]))) == ([0], 0)
    stream.reset()
    assert_same(np.stack(one_by_one), stream.push(signal))


@pytest.mark.parametrize("at", [0, 3, 11, 12, 29])
def test_a_saved_signal_goes_on_elsewhere_to_the_same_bits(model_of, at):
    signal, content = signal_of(VALUES, 60), model_of(VALUES)
    one, other = (Stream(content, window=12, hop=5) for _ in range(2))
    one.push(signal[:at])
    other.push(signal[20:33])
    other.restore(one.save())
    for row in signal[at:]:
        np.testing.assert_array_equal(one.push(row), other.push(row))
        assert one.window_ends.tolist() == other.window_ends.tolist()


def test_a_state_of_other_windows_or_of_streams_at_several_rows_is_refused(model_of):
    content = model_of(VALUES)
    stream = Stream(content, window=12, hop=5)
    with pytest.raises(ModelError, match=r"is of another window and hop: found \[12, 5\], expected \[12, 6\]"):
        Stream(content, window=12, hop=6).restore(stream.save())
    for one, other in ((stream, Stream(content)), (Stream(content), stream)):
        with pytest.raises(ModelError, match="is of another window and hop"):
            one.restore(other.save())
    state = stream.save()
    body = 4 * 2 * 3 * 6  # h and c of three windows; the rows come next
    at = state.index(b"\n") + 1 + body
    with pytest.raises(ModelError, match="is damaged"):
        stream.restore(state[:at] + (3).to_bytes(8, "little") + state[at + 8 :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 11}, "window: found 11, expected 12, which is what the model reads"),
        ({"window": 12, "hop": 0}, "hop: found 0 for a window of 12 rows, expected a multiple of 3 up to it"),
        ({"window": 12, "hop": 15}, "hop: found 15 for"),
        ({"window": 12, "hop": 4}, "hop: found 4 for"),
        ({"hop": 3}, "hop: found some without window"),
        ({"window": 12, "n_streams": 2}, "window: found n_streams or early beside it"),
        ({"window": 12, "early": RULE}, "window: found n_streams or early beside it"),
    ],
)
def test_windows_that_cannot_be_are_refused(model_of, options, message):
    with pytest.raises(ValueError, match=message):
        Stream(model_of(ENDLESS["values, three rows a step"]), **options)


def test_windows_of_numpys_numbers_are_saved_and_parts_of_a_row_are_refused(model_of):
    model = model_of(ENDLESS["values, any length"])
    state = Stream(model, window=np.int64(12), hop=np.int32(5)).save()
    Stream(model, window=12, hop=5).restore(state)
    for options in ({"window": 12.0}, {"window": 12, "hop": 2.5}, {"window": "12"}):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            Stream(model, **options)


def test_more_windows_side_by_side_than_memory_are_refused(model_of):
    with pytest.raises(ValueError, match="window: found 100,000 that overlap, expected at most 65,536"):
        Stream(model_of(ENDLESS["values, any length"]), window=100_000, hop=1)


def test_a_signal_is_one_and_is_read_whole(model_of):
    stream = Stream(model_of(ENDLESS["values, three rows a step"]), window=12, source="m")
    for call in (lambda: stream.push(np.zeros((3, 3), np.float32), [0]), lambda: stream.reset([0])):
        with pytest.raises(ValueError, match="windows are of one signal"):
            call()
    with pytest.raises(ValueError, match="no rows to skip"):
        stream.skip(3)
    with pytest.raises(ValueError, match="found 4, expected a multiple of 3"):
        stream.push(np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        stream.push(np.full((3, 3), np.nan, np.float32))
    assert (stream.rows_read.tolist(), repr(stream)) == ([0], "Stream('m', n_streams=1, window=12, hop=12)")


def test_a_model_of_any_length_goes_on_until_reset(model_of):
    config = ENDLESS["values, any length"]
    signal, stream = signal_of(config, 200), Stream(model_of(config))
    for at in range(0, 200, 8):
        logits = stream.push(signal[at : at + 8])
    assert_same(OrtRunner(model_of(config), provider="cpu").logits(signal[None]), logits)
    stream.reset()
    assert_same(OrtRunner(model_of(config), provider="cpu").logits(signal[None, :5]), stream.push(signal[:5]))
