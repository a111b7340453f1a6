"""Tests of the C engine behind the Runner protocol: NumPy's bits, compiled once, and one clear line if it cannot be."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from commands import process
from sequences import SEQUENCES

import edgelstm
from edgelstm.config import ModelConfig, cache_dir
from edgelstm.errors import ModelError, ProviderError
from edgelstm.exporting.graph import probe_sequences
from edgelstm.native import runner as runner_module
from edgelstm.native.runner import CRunner
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import open_model
from edgelstm.runtime.classifier import Classifier
from edgelstm.runtime.runner import open_runner
from edgelstm.runtime.stream import Stream, last_logits

pytestmark = pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")
CONFIGS = {**SEQUENCES, "digits": ModelConfig(hidden_size=18, rows_per_step=2, n_layers=2)}
PROVIDERS = {"c": "fp32", "c-int8": "int8"}


@pytest.fixture(scope="module", autouse=True)
def _a_cache_of_their_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CC", raising=False)
        yield


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=CONFIGS)
def batch_and_file(request, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(CONFIGS[request.param])
    return probe_sequences(checkpoint, 40), open_model(model_bytes_of(checkpoint))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_bits_are_numpys_in_any_batch_and_row_by_row(batch_and_file, provider):
    (sequences, lengths), file = batch_and_file
    expected = scheme_of(file, PROVIDERS[provider]).logits(sequences, lengths)
    runner = open_runner(file, provider=provider)
    assert isinstance(runner, CRunner)
    np.testing.assert_array_equal(runner.logits(sequences, lengths).view(np.uint32), expected.view(np.uint32))
    for i in range(3):
        one = (sequences[i : i + 1], None if lengths is None else lengths[i : i + 1])
        np.testing.assert_array_equal(runner.logits(*one), expected[i : i + 1])
    streams = Stream(file, n_streams=7, provider=provider)
    np.testing.assert_array_equal(last_logits(streams, sequences, lengths), expected)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_lies_behind_an_end_is_not_read(checkpoint_of, model_bytes_of, provider):
    checkpoint = checkpoint_of(CONFIGS["unequal lengths"])
    runner = CRunner(model_bytes_of(checkpoint), provider=provider)
    sequences, lengths = probe_sequences(checkpoint, 9)
    expected = runner.logits(sequences, lengths)
    for i, length in enumerate(lengths):
        sequences[i, length:] = np.nan
    np.testing.assert_array_equal(runner.logits(sequences, lengths), expected)


def test_any_layout_and_no_sequence_at_all(tiny_model_bytes, sample):
    runner = CRunner(tiny_model_bytes)
    expected = runner.logits(sample.sequences[:6])
    turned = np.asfortranarray(sample.sequences[:6])
    np.testing.assert_array_equal(runner.logits(turned), expected)
    np.testing.assert_array_equal(runner.logits(np.asfortranarray(sample.sequences[:1])), expected[:1])
    np.testing.assert_array_equal(runner.logits(sample.sequences[:12:2]), runner.logits(sample.sequences[:12])[::2])
    assert (0, 10) == runner.logits(sample.sequences[:0]).shape
    with pytest.raises(ValueError, match="pixels: found float32"):
        runner.logits(sample.sequences[:1].astype(np.float32))


def test_threads_share_a_runner(tiny_model_bytes, sample):
    runner = CRunner(tiny_model_bytes)
    expected = runner.logits(sample.sequences)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: runner.logits(sample.sequences[i : i + 1])[0], range(1000)))
    np.testing.assert_array_equal(np.stack(found), expected)


def test_an_answer_that_was_given_stays_as_it_is(tiny_model_bytes, sample):
    runner = CRunner(tiny_model_bytes)
    first = runner.logits(sample.sequences[:1])
    kept = first.copy()
    runner.logits(sample.sequences[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_windows_of_a_signal_are_read_as_each_alone(checkpoint_of, model_bytes_of, provider):
    checkpoint = checkpoint_of(CONFIGS["unequal lengths"])
    file = open_model(model_bytes_of(checkpoint))
    signal = probe_sequences(checkpoint, 5)[0].reshape(-1, 3)
    found = Stream(file, window=8, hop=3, provider=provider).push(signal)
    windows = np.stack([signal[at : at + 8] for at in range(0, len(signal) - 7, 3)])
    np.testing.assert_array_equal(found, CRunner(file, provider=provider).logits(windows))


def test_streams_may_be_chosen_by_any_array(tiny_model_bytes, sample):
    chosen = np.arange(10)[::-3]
    one, other = (Stream(tiny_model_bytes, n_streams=10, provider="c") for _ in range(2))
    rows = sample.sequences[: len(chosen), :5]
    np.testing.assert_array_equal(one.push(rows, chosen), other.push(rows, chosen.tolist()))
    assert one.save() == other.save()


def test_a_saved_state_goes_on_and_is_no_other_engines(tiny_model_bytes, sample):
    for provider in PROVIDERS:
        one = Stream(tiny_model_bytes, n_streams=3, provider=provider)
        one.push(sample.sequences[:3, :10])
        other = Stream(tiny_model_bytes, n_streams=3, provider=provider)
        other.restore(one.save())
        rest = sample.sequences[:3, 10:]
        np.testing.assert_array_equal(one.push(rest), other.push(rest))
    with pytest.raises(ModelError, match="the saved state is of another provider: found C int8, expected C fp32"):
        Stream(tiny_model_bytes, n_streams=3, provider="c").restore(one.save())
    with pytest.raises(ModelError, match="of another provider: found C int8; begin"):
        Stream(tiny_model_bytes, n_streams=3).restore(one.save())


def test_a_classifier_takes_it_and_is_pickled_with_it(sample):
    import pickle

    classifier = Classifier("nano", provider="c-int8")
    copy = pickle.loads(pickle.dumps(classifier))
    assert "provider='c-int8'" in repr(copy)
    assert copy.classify(sample.sequences[0]) == classifier.classify(sample.sequences[0])


def test_an_unknown_provider_is_refused_by_name(tiny_model_bytes):
    with pytest.raises(ValueError, match="provider: found 'gpu', expected one of auto, cpu, cuda, c, c-int8"):
        open_runner(tiny_model_bytes, provider="gpu")


def test_infer_needs_no_onnxruntime(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('onnxruntime was imported')")
    folder = Path(edgelstm.__file__).parents[1]
    picture = next((folder / "tests" / "pictures" / "3").glob("*.png"))
    done = process("infer", picture, "--provider", "c-int8", "--model", "nano", flags=("-m", "edgelstm"), cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert "  3  " in done.stdout


# --- the compiler and the cache ---------------------------------------------------------------------


def _libraries():
    return sorted((cache_dir() / "native").glob("*.so"))


def test_a_model_is_compiled_once(empty_cache, tiny_model_bytes, monkeypatch):
    CRunner(tiny_model_bytes)
    [library] = _libraries()
    monkeypatch.setattr(subprocess, "run", None)
    CRunner(tiny_model_bytes)
    assert [library] == _libraries()


def test_each_model_precision_and_compiler_has_its_own(empty_cache, tiny_model_bytes, monkeypatch):
    CRunner(tiny_model_bytes)
    CRunner(tiny_model_bytes, provider="c-int8")
    monkeypatch.setenv("CC", "cc -O1")
    CRunner(tiny_model_bytes)
    monkeypatch.setattr(runner_module, "_processor", lambda: "another one")
    CRunner(tiny_model_bytes)
    assert len(_libraries()) == 4


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c[:900] + b"x" + c[901:]])
def test_a_damaged_library_is_compiled_again(empty_cache, tiny_model_bytes, sample, damage):
    # in a process of its own: a library that is loaded must not be changed under it
    code = (
        "import sys; from edgelstm.native.runner import load; from edgelstm.onnx_file import open_model; "
        "load(open_model(sys.argv[1]), 'int8')"
    )
    model = empty_cache.parent / "tiny.onnx"
    model.write_bytes(tiny_model_bytes)
    command = [sys.executable, "-c", code, str(model)]
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])}
    subprocess.run(command, env=environment, check=True)
    [library] = _libraries()
    whole = library.read_bytes()
    library.write_bytes(damage(whole))
    subprocess.run(command, env=environment, check=True)
    assert whole == library.read_bytes()


def test_without_a_compiler_it_says_what_to_install(empty_cache, tiny_model_bytes, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ProviderError, match="needs a C compiler: found none of cc, gcc and clang; install gcc or clang"
    ):
        CRunner(tiny_model_bytes)
    monkeypatch.setenv("CC", 'cc "')
    with pytest.raises(ProviderError, match="needs a C compiler: No closing quotation"):
        CRunner(tiny_model_bytes)
    monkeypatch.setenv("CC", "nocc -O2")
    with pytest.raises(ProviderError, match="found CC=nocc -O2, which is no program"):
        CRunner(tiny_model_bytes)


def test_a_compiler_that_fails_is_quoted_in_one_line(empty_cache, tiny_model_bytes, monkeypatch, tmp_path):
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\necho 'warning: first' >&2\necho \"$0: error: no such machine\" >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CC", str(bad))
    with pytest.raises(ProviderError, match=r"bad cannot compile the model: found .*error: no such machine; set CC"):
        CRunner(tiny_model_bytes)
    assert [] == _libraries()
    assert [] == list((cache_dir() / "native").iterdir())
    bad.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(ProviderError, match="cannot compile the model: found exit status 0"):
        CRunner(tiny_model_bytes)


def test_a_compiler_that_does_not_know_the_machine_compiles_without(
    empty_cache, tiny_model_bytes, monkeypatch, tmp_path
):
    plain = tmp_path / "plain"
    plain.write_text('#!/bin/sh\ncase "$*" in *native*) exit 1;; esac\nexec cc "$@"\n')
    plain.chmod(0o755)
    monkeypatch.setenv("CC", str(plain))
    CRunner(tiny_model_bytes)


@pytest.mark.skipif(not which("g++"), reason="needs g++, a C++ compiler")
def test_a_compiler_of_cpp_is_told_that_it_is_c(empty_cache, tiny_model_bytes, monkeypatch):
    monkeypatch.setenv("CC", "g++")
    CRunner(tiny_model_bytes)


def test_a_compiler_that_changes_the_bits_is_found_out(empty_cache, tiny_model_bytes, monkeypatch, tmp_path):
    wrong = tmp_path / "wrong"
    change = "s/t = engine_limited(t);/t = engine_limited(t) + 0.25f;/"
    wrong.write_text(f'#!/bin/sh\nfor f; do case $f in *.c) sed -i "{change}" "$f";; esac; done\nexec cc "$@"\n')
    wrong.chmod(0o755)
    monkeypatch.setenv("CC", str(wrong))
    with pytest.raises(ProviderError, match="makes C that gives other bits than it must; set CC to another compiler"):
        CRunner(tiny_model_bytes)


def test_a_cache_that_cannot_be_written_is_one_line(tiny_model_bytes, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        ProviderError, match=r"cannot be kept: found .*Not a directory.*; set XDG_CACHE_HOME to a folder"
    ):
        CRunner(tiny_model_bytes)
