"""Tests of edgelstm.OrtRunner: pixels to logits, whatever the batch, the layout in memory and the thread."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sequences import SEQUENCES, UNEQUAL

import edgelstm
from edgelstm.config import ModelConfig
from edgelstm.errors import ModelError
from edgelstm.exporting.graph import probe_pixels, probe_sequences
from edgelstm.onnx_file import open_model
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import BoundSession, SessionSettings

TIMEOUT_S = 60


@pytest.fixture
def runner(tiny_model_bytes):
    return OrtRunner(tiny_model_bytes, provider="cpu")


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_logits_are_those_of_the_numpy_reference(runner, tiny_model_bytes, sample, batch):
    found = runner.logits(sample.sequences[:batch])
    expected = NumpyRunner(tiny_model_bytes).logits(sample.sequences[:batch])
    assert (np.dtype(np.float32), (batch, 10)) == (found.dtype, found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_picture_is_read_alike_alone_and_in_a_batch_of_several_chunks(runner, sample):
    alone = np.concatenate([runner.logits(sample.sequences[i : i + 1]) for i in range(80)])
    np.testing.assert_array_equal(runner.logits(sample.sequences[:80]), alone)


def test_on_the_cpu_a_batch_is_run_in_chunks_and_on_cuda_whole(tiny_model_bytes, runner, sample, monkeypatch):
    sizes, real = [], BoundSession.run

    def run(self, feeds, outputs, key):
        sizes.append(len(feeds["pixels"]))
        return real(self, feeds, outputs, key)

    monkeypatch.setattr(BoundSession, "run", run)
    runner.logits(sample.sequences[:70])
    assert sizes == [32, 32, 6]
    monkeypatch.setattr(
        BoundSession, "_open", lambda self, content, provider: ("cuda", self._session_on("cpu", content))
    )
    OrtRunner(tiny_model_bytes, provider="cuda").logits(sample.sequences[:70])
    assert sizes[3:] == [70]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("config", UNEQUAL.values(), ids=UNEQUAL)
def test_padding_changes_no_bit_nor_does_being_alone(config, precision, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    runner = OrtRunner(model_bytes_of(checkpoint, precision), provider="cpu")
    sequences, lengths = probe_sequences(checkpoint, 70)
    expected = runner.logits(sequences, lengths)
    behind = np.arange(config.rows) >= lengths[:, None]
    for padding in (0.0, -3e38, np.nan, np.inf):
        sequences[behind] = padding
        np.testing.assert_array_equal(runner.logits(sequences, lengths), expected)
    longer = np.pad(sequences, ((0, 0), (0, 9), (0, 0)))
    np.testing.assert_array_equal(runner.logits(longer, lengths), expected)
    for i in range(0, 70, 7):
        np.testing.assert_array_equal(runner.logits(sequences[i : i + 1, : lengths[i]])[0], expected[i])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("config", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_of_every_kind_are_those_of_the_numpy_reference(config, precision, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    content = model_bytes_of(checkpoint, precision)
    runner, numpy_runner = OrtRunner(content, provider="cpu"), NumpyRunner(content)
    sequences, lengths = probe_sequences(checkpoint, 32)
    found = runner.logits(sequences, lengths)
    size = 1 if lengths is not None and precision == "int8" else 32
    expected = numpy_runner.logits(sequences, lengths, batch_size=size)
    assert np.isclose(found, expected, atol=1e-4).all(1).mean() > (0.7 if precision == "int8" else 0.99)


def test_an_empty_batch_of_unequal_lengths_has_no_logits(checkpoint_of, model_bytes_of):
    runner = OrtRunner(model_bytes_of(checkpoint_of(SEQUENCES["unequal lengths"])), provider="cpu")
    assert runner.logits(np.zeros((0, 5, 3), np.float32), np.zeros(0, np.int32)).shape == (0, 3)


def test_a_chunk_of_another_size_gives_the_same_logits(tiny_model_bytes, runner, sample):
    other = OrtRunner(tiny_model_bytes, provider="cpu", settings=SessionSettings(chunk=7))
    np.testing.assert_array_equal(runner.logits(sample.sequences[:40]), other.logits(sample.sequences[:40]))


@pytest.mark.parametrize("busy", [False, True], ids=["bound", "unbound"])
def test_the_layout_of_the_pixels_in_memory_changes_nothing(runner, sample, busy):
    pixels = sample.sequences[:6]
    expected = runner.logits(pixels)
    if busy:
        runner._session._lock.acquire()
    for other in (np.asfortranarray(pixels), pixels[::-1][::-1], np.repeat(pixels, 2, axis=2)[:, :, ::2]):
        np.testing.assert_array_equal(expected, runner.logits(other))


def test_threads_may_share_a_runner(runner, sample):
    expected = runner.logits(sample.sequences[:64])

    def ask(i):
        return all(
            np.array_equal(expected[i : i + n], runner.logits(sample.sequences[i : i + n])) for n in (1, 3, 40, 2)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, [*range(24)] * 3))


def test_a_batch_of_no_pictures_gives_no_logits_and_does_not_end_the_process(tiny_model_path):
    code = (
        "import sys, numpy as np; from edgelstm import OrtRunner\n"
        "print(OrtRunner(sys.argv[1], provider='cpu').logits(np.zeros((0, 28, 28), np.uint8)).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_path)], capture_output=True, text=True, timeout=TIMEOUT_S,
        cwd=Path(edgelstm.__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "(0, 10)\n", "")


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.zeros((1, 28, 28), np.float32), "float32 (1, 28, 28)"),
        (np.zeros((28, 28), np.uint8), "uint8 (28, 28)"),
        (np.zeros((1, 28, 27), np.uint8), "uint8 (1, 28, 27)"),
        (np.zeros((1, 1, 28, 28), np.uint8), "uint8 (1, 1, 28, 28)"),
        ([[0] * 28] * 28, "list"),
    ],
)
def test_pixels_of_another_dtype_or_shape_are_refused_with_what_was_found(runner, pixels, found):
    with pytest.raises(ValueError, match="pixels: found") as raised:
        runner.logits(pixels)
    assert found in str(raised.value)
    assert "uint8 (batch, 28, 28)" in str(raised.value)


def test_it_says_its_contract_size_source_and_name(tiny_model_path, tiny_config):
    runner = OrtRunner(tiny_model_path, provider="cpu")
    assert (tiny_config, "tiny", "fp32") == (runner.contract.config, runner.contract.name, runner.contract.precision)
    assert (tiny_model_path.stat().st_size, str(tiny_model_path)) == (runner.n_bytes, runner.source)
    assert (runner.name, runner.provider_requested, runner.provider_used) == ("onnxruntime CPU", "cpu", "cpu")
    assert OrtRunner(open_model(tiny_model_path), provider="cpu", name="mine").name == "mine"


def test_a_damaged_file_is_refused_before_onnxruntime_sees_it(tiny_model_bytes, monkeypatch):
    monkeypatch.setattr("edgelstm.runtime.session.open_session", lambda *arguments: pytest.fail("it was loaded"))
    with pytest.raises(ModelError, match=r"m\.onnx cannot be loaded"):
        OrtRunner(tiny_model_bytes[:500], provider="cpu", source="m.onnx")


def test_an_unknown_provider_is_refused(tiny_model_bytes):
    with pytest.raises(ValueError, match="provider: found 'gpu', expected one of auto, cpu, cuda"):
        OrtRunner(tiny_model_bytes, provider="gpu")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_file_in_the_stateful_form_answers_as_the_picture_file(n_layers, precision, checkpoint_of, model_bytes_of):
    config = ModelConfig(rows=6, cols=5, rows_per_step=2, hidden_size=4, n_layers=n_layers, class_names=("a", "b", "c"))
    files = [model_bytes_of(checkpoint_of(config), precision, kind) for kind in ("picture", "stream")]
    expected, found = (OrtRunner(file, provider="cpu").logits(probe_pixels(config, 40)) for file in files)
    np.testing.assert_array_equal(expected, found)


def test_the_public_name_is_the_class():
    assert edgelstm.OrtRunner is OrtRunner
