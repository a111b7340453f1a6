"""Tests of edgelstm.Stream: rows one by one end where the whole picture does, whatever the calls and streams."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import edgelstm
from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule
from edgelstm.errors import ModelError
from edgelstm.export.graph import build_model, probe_pixels
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.runtime.parity import compare
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import EVERY_ROW, Stream

CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=2, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}
RULE = EarlyRule(0.6, 2)


@pytest.fixture(scope="module")
def streaming(checkpoint_of):
    """The bytes of a streaming model of a shape."""
    return lambda config, **values: build_stream_model(checkpoint_of(config), **values).SerializeToString()


@pytest.fixture(scope="module")
def content(streaming):
    return streaming(CONFIGS["one layer"], early=RULE)


@pytest.fixture(scope="module")
def whole(checkpoint_of):
    """The whole-picture model's answer."""

    def logits(config, pixels, precision="fp32"):
        model = build_model(checkpoint_of(config), precision)
        return OrtRunner(model.SerializeToString(), provider="cpu").logits(pixels)

    return logits


def step_by_step(stream, pixels):
    size = stream.contract.config.rows_per_step
    return [stream.push(pixels[:, at : at + size]) for at in range(0, pixels.shape[1], size)]


def assert_same(reference, found):
    report = compare(reference, found)
    assert report.passed, f"largest difference {report.max_difference:.2e}, {report.disagreements[:3]}"


# After the last row: the whole picture's answer


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_one_step_a_call_ends_where_the_whole_picture_does(config, n, whole, streaming):
    pixels = probe_pixels(config, 64)[-n:]
    assert_same(whole(config, pixels), step_by_step(Stream(streaming(config), n_streams=n), pixels)[-1])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_any_split_into_calls_ends_there_too(config, whole, streaming):
    pixels, content = probe_pixels(config, 5), streaming(config)
    reference = whole(config, pixels)

    @settings(max_examples=25, deadline=None)
    @given(st.sets(st.integers(1, config.n_steps - 1)))
    def check(cuts):
        stream = Stream(content, n_streams=5)
        for rows in np.split(pixels, [cut * config.rows_per_step for cut in sorted(cuts)], axis=1):
            logits = stream.push(rows)
        assert_same(reference, logits)

    check()


def test_int8_with_all_rows_in_one_call_is_the_whole_pictures_int8_bit_for_bit(whole, streaming):
    config = CONFIGS["one layer"]
    pixels = probe_pixels(config, 16)
    found = Stream(streaming(config, precision="int8"), n_streams=16).push(pixels)
    assert np.array_equal(whole(config, pixels, "int8"), found)


def test_a_real_digit_is_read_by_the_shipped_weights(sample):
    from edgelstm.config import shipped_dir
    from edgelstm.training.checkpoint import load_checkpoint

    shipped = build_stream_model(load_checkpoint(shipped_dir() / "base.safetensors")).SerializeToString()
    logits = step_by_step(Stream(shipped, n_streams=50), sample.images[:50])
    assert_same(OrtRunner("base", provider="cpu").logits(sample.images[:50]), logits[-1])
    n_right = int((logits[-1].argmax(1) == sample.labels[:50]).sum())
    assert n_right >= 48, f"{n_right}/50"
    assert (logits[5].argmax(1) == sample.labels[:50]).mean() < 0.5, "after 5 rows nothing can be known yet"


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


def test_more_numbers_of_rows_than_are_kept_bound_change_nothing(content):
    pixels = probe_pixels(CONFIGS["one layer"], 3)
    stream = Stream(content, n_streams=3)
    for n_rows in [*range(1, 20), 1, 2]:
        stream.reset()
        found = stream.push(pixels[:, :n_rows])
        assert np.array_equal(Stream(content, n_streams=3).push(pixels[:, :n_rows]), found), n_rows


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
        (np.zeros((1, 1, 28), np.uint8), r"found uint8 \(1, 1, 28\), expected uint8 \(2, rows, 28\)"),
        (np.zeros((2, 1, 27), np.uint8), r"expected uint8 \(2, rows, 28\)"),
        (np.zeros((2, 28), np.uint8), r"expected a NumPy array uint8 \(2, rows, 28\)"),
        (np.zeros((2, 0, 28), np.uint8), "found 0, expected a multiple of 1"),
        (np.zeros((2, 29, 28), np.uint8), "29 more for a picture of which 0 of 28 are read"),
        (b"x" * 56, "found bytes"),
    ],
)
def test_other_rows_are_refused_and_nothing_is_read(content, rows, message):
    stream = Stream(content, n_streams=2)
    with pytest.raises(ValueError, match=message):
        stream.push(rows)
    assert stream.rows_read.tolist() == [0, 0]


def test_half_a_step_is_refused(streaming):
    stream = Stream(streaming(CONFIGS["two rows a step, two layers"]))
    with pytest.raises(ValueError, match="found 3, expected a multiple of 2"):
        stream.push(np.zeros((3, 28), np.uint8))


def test_a_row_after_the_last_is_refused_until_reset(content):
    stream = Stream(content)
    stream.push(np.zeros((28, 28), np.uint8))
    with pytest.raises(ValueError, match="1 more for a picture of which 28 of 28 are read; reset begins the next one"):
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


def test_a_whole_picture_model_is_refused_with_what_to_do(tiny_model_bytes):
    with pytest.raises(ModelError, match=r"reads whole pictures: expected a streaming model; .*export --streaming"):
        Stream(tiny_model_bytes)


def test_a_streaming_model_is_refused_as_a_whole_picture_one(content):
    with pytest.raises(ModelError, match=r"reads a picture row by row: .*run it with `edgelstm stream`"):
        OrtRunner(content, provider="cpu")


def changed(content, change):
    model = onnx.load_model_from_string(content)
    change(model)
    return model.SerializeToString()


def test_another_version_of_the_streaming_contract_is_refused(content):
    def newer(model):
        props = {entry.key: entry.value for entry in model.metadata_props} | {"edgelstm.version": "2"}
        helper.set_model_props(model, props)

    with pytest.raises(ModelError, match="another version of the model contract: found 2, expected 1"):
        Stream(changed(content, newer))


@pytest.mark.parametrize(("side", "index"), [("input", 0), ("input", 1), ("output", 0), ("output", 2)])
def test_a_graph_that_breaks_its_contract_is_refused(content, side, index):
    def rename(model):
        value = getattr(model.graph, side)[index]
        old, value.name = value.name, "other"
        for node in model.graph.node:
            names = node.input if side == "input" else node.output
            names[:] = ["other" if name == old else name for name in names]
            if side == "output":
                node.input[:] = ["other" if name == old else name for name in node.input]

    with pytest.raises(ModelError, match=f"breaks the streaming contract in its {side}: found .*other"):
        Stream(changed(content, rename))


def test_a_truncated_file_is_refused(content):
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model"):
        Stream(content[:-50])


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


def test_a_state_of_another_model_is_refused(content, checkpoint_of, streaming):
    checkpoint = checkpoint_of(CONFIGS["one layer"])
    weights = {name: value + 0.1 for name, value in checkpoint.weights.items()}
    other = build_stream_model(dataclasses.replace(checkpoint, weights=weights)).SerializeToString()
    with pytest.raises(ModelError, match="the saved state is of another model"):
        Stream(other).restore(Stream(content).save())
    with pytest.raises(ModelError, match="the saved state is of another model"):
        Stream(streaming(CONFIGS["one layer"], precision="int8")).restore(Stream(content).save())


def test_a_state_of_another_number_of_streams_is_refused(content):
    with pytest.raises(ModelError, match="of another number of streams: found 2, expected 1"):
        Stream(content).restore(Stream(content, n_streams=2).save())


def test_the_same_weights_exported_anew_take_the_state(content, streaming):
    stream = Stream(streaming(CONFIGS["one layer"], early=EarlyRule(0.9, 1)))
    stream.restore(Stream(content).save())


NAN = np.array([np.nan], np.float32).tobytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: b"",
        lambda state: b"\x80\x04N.",
        lambda state: b"[" * 100_000,
        lambda state: state[:-1],
        lambda state: state + b"\0",
        lambda state: state.replace(b"state-1", b"state-2"),
        lambda state: state.partition(b"\n")[0] + b"\n" + NAN + state.partition(b"\n")[2][4:],
        lambda state: state[:-8] + (10).to_bytes(8, "little"),
        lambda state: state[:-32] + (29).to_bytes(8, "little") + state[-24:],
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


def test_skipped_rows_are_counted_and_not_run(content):
    stream = Stream(content, n_streams=2)
    state = stream.save()
    stream.skip(3, [1])
    assert stream.rows_read.tolist() == [0, 3]
    assert len(state) - 32 * 2 == state.find(b"\n") + 1 + 2 * 2 * 8 * 4
    assert stream.save()[: len(state) - 64] == state[: len(state) - 64], "the LSTM's state has moved"
    with pytest.raises(ValueError, match="26 more for a picture of which 3 of 28 are read"):
        stream.skip(26)


def test_a_model_without_a_rule_says_so(streaming):
    with pytest.raises(ModelError, match="has no rule for deciding early"):
        Stream(streaming(CONFIGS["one layer"]), early=True)


def test_a_stream_that_was_not_asked_decides_nothing(content):
    with pytest.raises(ValueError, match="made without early=True"):
        _ = Stream(content).decisions


def test_the_public_name_is_the_class():
    assert edgelstm.Stream is Stream
