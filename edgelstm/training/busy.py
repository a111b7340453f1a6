"""Notice in the first seconds of a run that other programs take the cores its threads wait for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_S = 3.0
"""Seconds of training to look at: more than a passing disturbance, few enough to begin again."""
MIN_SHARE = 0.85
"""An idle machine runs the main thread nearly all the time: it computes, or waits for the others without sleeping."""


class Times(NamedTuple):
    """Seconds since some moment: of the clock, and of CPU time of this thread and of all threads."""

    wall: float
    main_thread: float
    process: float


def now() -> Times:
    """What the system's clocks say now."""
    return Times(time.perf_counter(), time.thread_time(), time.process_time())


@dataclass(frozen=True)
class BusyMachine:
    """The threads of a run did not get the cores they are made for."""

    share: float
    """Of the time in which the main thread ran, 0 to 1."""
    seconds: float
    threads: int
    suggested: int
    """Threads that the cores it got would keep busy: every step waits for its slowest thread."""


class BusyCheck:
    """Adds up the time between steps, and says once whether the machine was busy. It changes nothing in the run."""

    def __init__(self, threads: int, clock: Callable[[], Times] = now) -> None:
        self._threads, self._clock = threads, clock
        self._since: Times | None = None
        self._spent = Times(0.0, 0.0, 0.0)
        self._done = threads == 1  # fewer than one thread cannot be tried

    def pause(self) -> None:
        """What comes now, a checkpoint's write for example, is no training."""
        self._since = None

    def steps_done(self) -> BusyMachine | None:
        """Call it after some steps; a BusyMachine once, if after WINDOW_S seconds the main thread had too little."""
        if self._done:
            return None
        times, since = self._clock(), self._since
        self._since = times
        if since:
            self._spent = Times(*(spent + b - a for spent, a, b in zip(self._spent, since, times, strict=True)))
        wall, main_thread, process = self._spent
        if wall < WINDOW_S:
            return None
        self._done = True
        if main_thread / wall >= MIN_SHARE:
            return None
        suggested = max(1, min(self._threads - 1, int(process / wall)))
        return BusyMachine(main_thread / wall, wall, self._threads, suggested)
