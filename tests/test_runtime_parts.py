"""Tests of edgelstm.runtime.parts: what tries leave behind, and whose end counts; whole jobs: test_runtime_scoring."""

import multiprocessing
import os
import signal
import time

import pytest
from scored import hang

from edgelstm.errors import OutputError
from edgelstm.runtime.parts import _Tries
from edgelstm.runtime.scoring import Workers

TIMEOUT_S = 60


def tried(path, *places):
    tries = _Tries(path)
    for place in places:
        tries.at(*place)
    tries.close()


def test_the_last_place_of_each_try_counts(tmp_path):
    path = tmp_path / "tries"
    tried(path, (0, 0), (0, 16), (16, 16))
    tried(path, (0, 16), (16, 16), (17, 1))
    tried(path, (17, 1))
    found = _Tries(path)
    assert [1, 2, 0, 0] == [found.died(*place) for place in ((16, 16), (17, 1), (0, 16), (0, 0))]
    found.close()


def test_a_try_that_is_withdrawn_or_was_cut_off_in_writing_does_not_count(tmp_path):
    path = tmp_path / "tries"
    tried(path, (3, 1))
    tries = _Tries(path)
    tries.at(9, 1)
    tries.withdraw()
    tries.close()
    with path.open("ab") as stream:
        stream.write(b"half a r")
    found = _Tries(path)
    assert [1, 0] == [found.died(3, 1), found.died(9, 1)]
    found.close()


def test_tries_that_cannot_be_written_are_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        _Tries(tmp_path / "missing" / "tries")


@pytest.mark.parametrize("how", ["its parent ends", "another worker died"])
def test_a_worker_that_is_ended_from_outside_is_not_to_blame(tmp_path, monkeypatch, how):
    for name in ("PYTHONSAFEPATH", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    path = tmp_path / "tries"
    with Workers(1) as workers:
        workers._pool.submit(hang, path)
        for _ in range(TIMEOUT_S * 100):
            if path.exists() and path.stat().st_size:
                break
            time.sleep(0.01)
        [process] = multiprocessing.active_children()
        workers._lifeline.close() if how == "its parent ends" else os.kill(process.pid, signal.SIGTERM)
        process.join(timeout=TIMEOUT_S)
    assert 0 == path.stat().st_size
