"""Tests of edgelstm.runtime.scoring: the same batches in the same order, bounded, and nothing left behind."""

import itertools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from edgelstm.config import ModelConfig
from edgelstm.errors import PictureError
from edgelstm.runtime import scoring as workers_module
from edgelstm.runtime.classifier import CHUNK, prepare_each
from edgelstm.runtime.scoring import Workers

TIMEOUT_S = 60
MODEL = ModelConfig()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What Workers sets for good is put back."""
    for name in ("PYTHONSAFEPATH", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def workers():
    with Workers(2) as two:
        yield two


@pytest.fixture
def digit(tmp_path, sample):
    path = tmp_path / "digit.png"
    Image.fromarray(sample.sequences[0]).save(path)
    return path


@pytest.fixture
def mixed(tmp_path, sample):
    """Chunks of slow, quick and bad pictures, as text, paths and bytes: the slow chunk is the first."""
    quick = []
    for i, image in enumerate(sample.sequences[:40]):
        quick.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(quick[-1])
    slow = str(tmp_path / "slow.png")
    large = np.kron(255 - sample.sequences[0], np.ones((60, 60), np.uint8))
    Image.fromarray(large).save(slow)
    (tmp_path / "text.png").write_text("no picture")
    bad = [str(tmp_path / "missing.png"), tmp_path / "text.png", b"", "nul\0.png", os.fsdecode(b"\xff.png")]
    return [[slow] * 8, quick[:20], bad, [slow, *bad, *quick[20:]], [quick[0].read_bytes()], quick[:1]]


def test_workers_give_what_this_process_gives_in_the_same_order(workers, mixed):
    expected = list(prepare_each(iter(mixed), MODEL))
    found = list(workers.prepare_each(iter(mixed), MODEL))
    assert len(mixed) == len(found)
    for ours, theirs in zip(expected, found, strict=True):
        assert ours == theirs
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.sequence, other.sequence)


def test_workers_can_be_asked_again(workers, digit):
    for _ in range(2):
        found = list(workers.prepare_each(iter([[digit]] * 2), MODEL))
        assert [(28, 28), (28, 28)] == [one.sequence.shape for [one] in found]


def test_no_pictures_give_no_batches(workers):
    assert [] == list(workers.prepare_each(iter([]), MODEL))


def test_the_pictures_in_flight_are_bounded(workers, digit):
    taken = itertools.count()
    endless = ([digit] for _ in iter(lambda: next(taken), None))
    batches = workers.prepare_each(endless, MODEL)
    for n_answered in range(3):
        next(batches)
        assert workers.n_ahead + n_answered == _peek(taken)
    assert workers.n_ahead == 5


def _peek(counter):
    return counter.__reduce__()[1][0]


def test_many_bytes_do_not_lock_the_pipes(workers):
    """Messages larger than a pipe holds, both ways at once."""
    junk = [bytes(2**16)] * CHUNK
    answers = list(workers.prepare_each(iter([junk] * 8), MODEL))
    assert [CHUNK] * 8 == [sum(one.error is not None for one in batch) for batch in answers]


def test_the_end_ends_the_processes_in_the_middle_of_their_work(mixed):
    with Workers(2) as workers:
        next(workers.prepare_each(itertools.cycle(mixed), MODEL))
        processes = multiprocessing.active_children()
        assert [True, True] == [process.is_alive() for process in processes]
    assert [False, False] == [process.is_alive() for process in processes]


def test_the_processes_end_when_the_one_that_started_them_does(workers):
    processes = multiprocessing.active_children()
    workers._lifeline.close()  # as the system does, however a process ends
    assert processes
    for process in processes:
        process.join(timeout=TIMEOUT_S)
    for _ in range(1000):  # the pool waits for them too: it may have the exit status, and not have told it yet
        if not any(process.is_alive() for process in processes):
            break
        time.sleep(0.01)
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_is_killed_is_a_clear_error_after_what_was_answered_before(digit):
    with Workers(1) as worker:
        answers = worker.prepare_each(iter([[digit]] * 20), MODEL)
        next(answers)
        worker._pool.submit(os.getpid).result(timeout=TIMEOUT_S)  # so it has answered what it was given before
        [process] = multiprocessing.active_children()
        process.kill()
        process.join(timeout=TIMEOUT_S)
        for _ in range(worker.n_ahead - 1):
            assert [None] == [one.error for one in next(answers)]
        with pytest.raises(PictureError, match=f"broke off: found no answer from {digit} on; leave out the one"):
            list(answers)


class Broken:
    """Pickles well, and raises where it arrives."""

    def __reduce__(self):
        return int, ("no number",)


def broken_answer(*_):
    return Broken()


def test_a_worker_that_sends_what_cannot_be_read_is_a_clear_error(workers, digit, monkeypatch):
    monkeypatch.setattr(workers_module, "prepare", broken_answer)
    with pytest.raises(PictureError, match="a process that prepares the inputs broke off"):
        list(workers.prepare_each(iter([[digit]]), MODEL))


def test_the_workers_compute_on_one_thread_each_and_ignore_ctrl_c(workers):
    assert workers._pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "1"
    assert workers._pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_module_beside_the_pictures_is_not_imported(monkeypatch, tmp_path, digit):
    (tmp_path / "pickle.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    with Workers(1) as workers:
        [batch] = workers.prepare_each(iter([[digit]]), MODEL)
    assert [None] == [one.error for one in batch]


def test_a_frozen_program_and_one_core_have_no_workers(monkeypatch):
    monkeypatch.setattr(workers_module, "n_cores", lambda: 2)
    assert workers_module.can_start()
    monkeypatch.setattr("sys.frozen", True, raising=False)
    assert not workers_module.can_start()
    monkeypatch.delattr("sys.frozen")
    monkeypatch.setattr(workers_module, "n_cores", lambda: 1)
    assert not workers_module.can_start()
