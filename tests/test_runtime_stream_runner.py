"""Tests of edgelstm.runtime.stream_runner: whole pictures through a streaming model."""

import numpy as np
import pytest

from edgelstm.config import ModelConfig
from edgelstm.contract import in_batches
from edgelstm.export.graph import build_model, probe_pixels
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.runtime.parity import compare
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import MAX_BOUND_SIZES, Stream
from edgelstm.runtime.stream_runner import StreamRunner, is_streaming, logits_by_step

CONFIG = ModelConfig(hidden_size=6, rows_per_step=2)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of):
    return checkpoint_of(CONFIG)


@pytest.fixture(scope="module")
def content(checkpoint):
    return build_stream_model(checkpoint).SerializeToString()


def test_it_answers_as_the_whole_picture_model_in_any_batches(checkpoint, content):
    pixels, runner = probe_pixels(CONFIG, 40), StreamRunner(content)
    whole = OrtRunner(build_model(checkpoint).SerializeToString(), provider="cpu").logits(pixels)
    for size in range(1, MAX_BOUND_SIZES + 5):
        report = compare(whole, in_batches(runner, pixels, size))
        assert report.passed, f"batch {size}: largest difference {report.max_difference:.2e}"
    assert runner.logits(pixels[:0]).shape == (0, 10)


def test_a_timed_call_is_one_step_and_begins_anew_after_the_last(content):
    pixels, runner = probe_pixels(CONFIG, 256)[-3:], StreamRunner(content)
    call, by_step = runner.row_call(pixels), logits_by_step(Stream(content, n_streams=3), pixels)
    for _ in range(2):
        for step in range(CONFIG.n_steps):
            np.testing.assert_allclose(by_step[:, step], call(), atol=1e-6)


def test_fewer_pictures_than_streams_at_the_end_are_read_too(content):
    pixels = probe_pixels(CONFIG, 7)
    expected = logits_by_step(Stream(content), pixels)
    found = logits_by_step(Stream(content, n_streams=4), pixels)
    assert (7, CONFIG.n_steps, 10) == found.shape
    np.testing.assert_allclose(expected, found, atol=1e-6)


def test_a_file_says_which_kind_it_is_before_it_runs(content, checkpoint, tiny_model_bytes):
    assert [True, False] == [is_streaming(content), is_streaming(tiny_model_bytes)]
    assert [False] * 3 == [is_streaming(b""), is_streaming(b"\xff" * 50), is_streaming(content[:100])]
