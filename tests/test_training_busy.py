"""Tests of edgelstm.training.busy: a machine whose cores others take is noticed, by clocks that the test moves."""

import pytest

from edgelstm.training.busy import BusyCheck, BusyMachine, Times, now


class Clock:
    """Seconds pass only by ``run``: wall time, and the share of it that each of n threads had a core."""

    def __init__(self):
        self.times = Times(100.0, 7.0, 9.0)

    def __call__(self):
        return self.times

    def run(self, seconds, share, threads=2):
        t = self.times
        self.times = Times(t.wall + seconds, t.main_thread + share * seconds, t.process + threads * share * seconds)


def seen(check, clock, seconds, share, threads=2):
    """All that the check says while so many seconds pass, a step every quarter."""
    found = []
    for _ in range(int(4 * seconds)):
        clock.run(0.25, share, threads)
        found.append(check.steps_done())
    return [one for one in found if one]


def test_threads_without_cores_are_noticed_after_three_seconds_and_said_once():
    clock = Clock()
    check = BusyCheck(2, clock)
    check.steps_done()
    assert [] == seen(check, clock, 2.75, 0.5)
    [busy] = seen(check, clock, 10, 0.5)
    assert BusyMachine(share=pytest.approx(0.5), seconds=3.0, threads=2, suggested=1) == busy


@pytest.mark.parametrize(("share", "n_said"), [(1.0, 0), (0.86, 0), (0.84, 1)])
def test_an_idle_machine_is_not_called_busy(share, n_said):
    clock = Clock()
    check = BusyCheck(2, clock)
    assert n_said == len(seen(check, clock, 10, share))


@pytest.mark.parametrize(("threads", "share", "suggested"), [(8, 0.7, 5), (8, 0.05, 1), (2, 0.84, 1), (16, 0.8, 12)])
def test_as_many_threads_are_suggested_as_cores_were_there(threads, share, suggested):
    clock = Clock()
    check = BusyCheck(threads, clock)
    [busy] = seen(check, clock, 4, share, threads)
    assert suggested == busy.suggested


def test_one_thread_is_never_too_many():
    clock = Clock()
    assert [] == seen(BusyCheck(1, clock), clock, 10, 0.3, 1)


def test_what_passes_while_a_checkpoint_is_written_does_not_count():
    clock = Clock()
    check = BusyCheck(2, clock)
    check.steps_done()
    for _ in range(20):
        assert [] == seen(check, clock, 0.5, 1.0)
        check.pause()
        clock.run(5, 0.0)
        assert check.steps_done() is None


def test_the_clocks_of_the_system_count_this_thread_within_its_process():
    first = now()
    sum(range(10_000))
    times = now()
    assert 0 <= times.main_thread - first.main_thread <= times.process - first.process + 1e-3
    assert times.wall > first.wall
