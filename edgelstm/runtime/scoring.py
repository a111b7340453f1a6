"""Processes that prepare inputs for the one that runs the model: decode, and find the digit, or parse."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

from edgelstm.config import ModelConfig, n_cores
from edgelstm.errors import PictureError, printable
from edgelstm.runtime.classifier import Prediction, Source, prepare

MAX_WORKERS = 8
"""More would only wait for the one process that runs the model."""


def can_start() -> bool:
    """Whether there is a second core, and an interpreter to start on it: a frozen program has none."""
    return n_cores() > 1 and bool(sys.executable) and not getattr(sys, "frozen", False)


class Workers:
    """Worker processes, one a core; a context manager whose end is theirs, whatever they are doing.

    For the main thread of a program whose main module is guarded, as the command line's is: a worker is a fresh
    interpreter and imports it. (The fork of a process with threads, such as NumPy's, may hang.)
    """

    def __init__(self, n: int | None = None) -> None:
        n = n or min(n_cores(), MAX_WORKERS)
        self.n_ahead = 2 * n + 1
        """Chunks that are taken at most before the first of them is answered: what bounds the memory."""
        spawn = get_context("spawn")
        theirs, self._lifeline = spawn.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(n, spawn, _begin, (theirs,))
        # what they inherit: no module that lies beside the pictures, one thread each, and no Ctrl-C but ours
        os.environ.update(PYTHONSAFEPATH="1", OPENBLAS_NUM_THREADS="1")
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for _ in range(n):  # the pool starts a process at each task that finds none idle
                self._pool.submit(os.getpid)
        finally:
            signal.signal(signal.SIGINT, handler)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._lifeline.close()
        self._pool.shutdown(cancel_futures=True)

    def prepare_each(
        self, chunks: Iterator[list[Source]], config: ModelConfig, channels_first: bool = False
    ) -> Iterator[list[Prediction]]:
        """What `classifier.prepare_each` gives, in the same order. Raises PictureError if a worker breaks off."""
        waiting: deque[tuple[list[Source], Future[list[Prediction]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, self._submit(chunk, config, channels_first)))
            if len(waiting) == self.n_ahead:
                yield _answer(*waiting.popleft())
        while waiting:
            yield _answer(*waiting.popleft())

    def _submit(self, chunk: list[Source], config: ModelConfig, channels_first: bool) -> Future[list[Prediction]]:
        try:
            return self._pool.submit(prepare, chunk, config, channels_first)
        except BrokenProcessPool as error:  # said in its turn: what came before it may be answered
            failed: Future[list[Prediction]] = Future()
            failed.set_exception(error)
            return failed


def _answer(chunk: list[Source], prepared: Future[list[Prediction]]) -> list[Prediction]:
    try:
        return prepared.result()
    except BrokenProcessPool as error:
        first = printable(chunk[0]) if isinstance(chunk[0], str | os.PathLike) else "-"
        raise PictureError(
            "a process that prepares the inputs broke off", found=f"no answer from {first} on",
            fix="leave out the one that does it: read fewer at a time to find it",
        ) from error  # fmt: skip


def _begin(lifeline: Connection) -> None:
    """In a worker, before its first task: end at once when the process that started it closes its end, or ends."""

    def wait() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv()
        os._exit(0)

    with suppress(OSError):  # stderr may be closed
        os.dup2(2, 1)  # nothing that a decoder may print gets between the answers
    threading.Thread(target=wait, daemon=True).start()
