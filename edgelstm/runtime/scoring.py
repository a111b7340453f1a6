"""Processes that read pictures for `edgelstm infer`: they decode and prepare, this process runs the model."""

import os
import pickle
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

from edgelstm.config import n_cores
from edgelstm.errors import PictureError

if TYPE_CHECKING:
    from edgelstm.runtime.classifier import Batch, Source

MAX_WORKERS = 8
"""More would only wait for the one process that runs the model."""
START = """\
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from edgelstm.runtime.scoring import serve
serve()
"""


def can_start() -> bool:
    """Whether there is a second core, and an interpreter to start on it: a frozen program has none."""
    return n_cores() > 1 and bool(sys.executable) and not getattr(sys, "frozen", False)


class Workers:
    """Worker processes, one a core; a context manager whose end is theirs.

    They also end with this process, however it comes to that: their input is closed. They are fresh
    interpreters and not forks, because a fork of a process with threads, such as NumPy's, may hang. This
    module imports no NumPy, so that they start while this process imports it.
    """

    def __init__(self, n: int | None = None) -> None:
        n = n or min(n_cores(), MAX_WORKERS)
        self.n_ahead = 2 * n + 1
        """Chunks that are taken at most before the first of them is answered: what bounds the memory."""
        self._threads = ThreadPoolExecutor(n)  # each waits for one process
        self._idle: SimpleQueue[Popen[bytes]] = SimpleQueue()
        self.processes: list[Popen[bytes]] = []
        try:
            for _ in range(n):
                self.processes.append(_start())
                self._idle.put(self.processes[-1])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing, and wait until they have."""
        for process in self.processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)  # a thread that waits for an answer sees its end
        for process in self.processes:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(BrokenPipeError):  # what was sent and never read
                    pipe.close()

    def prepare_each(self, chunks: "Iterator[list[Source]]", rows: int, cols: int) -> "Iterator[Batch]":
        """What `edgelstm.runtime.classifier.prepare_each` gives, in the same order, whichever worker is first."""
        waiting: deque[Future[Batch]] = deque()
        for chunk in chunks:
            waiting.append(self._threads.submit(self._ask, chunk, rows, cols))
            if len(waiting) == self.n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, chunk: "list[Source]", rows: int, cols: int) -> "Batch":
        """Have an idle process prepare a chunk. Raises PictureError if it breaks off instead."""
        process = self._idle.get()
        try:
            # a path of any class goes as text: the worker need not know the class
            sources = [source if isinstance(source, bytes) else os.fsdecode(source) for source in chunk]
            _send(process, (sources, rows, cols))
            assert process.stdout is not None
            batch: Batch = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            first = "-" if isinstance(chunk[0], bytes) else ascii(os.fsdecode(chunk[0]))
            raise PictureError(
                "the process that reads the pictures broke off",
                found=f"exit status {process.wait()} at {first} or one of the {len(chunk) - 1} after it",
                fix="leave out the picture that does it: read fewer at a time to find it",
            ) from error
        finally:
            self._idle.put(process)
        return batch


def serve() -> None:
    """A worker's life: chunks come on stdin, batches go to stdout, until either is closed."""
    from edgelstm.runtime.classifier import prepare

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a decoder may print gets between the answers
    try:
        while True:
            batch = prepare(*pickle.load(sys.stdin.buffer))
            pickle.dump(batch, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the other side has ended, perhaps in the middle of a message


def _start() -> "Popen[bytes]":
    process = Popen(
        [sys.executable, "-P", "-c", START],  # -P: never a module that lies beside the pictures
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # the processes are the threads
        start_new_session=True,  # Ctrl-C reaches this process only, which then ends them
    )
    _send(process, sys.path)  # they find the modules that this process finds
    return process


def _send(process: "Popen[bytes]", message: Any) -> None:
    assert process.stdin is not None
    pickle.dump(message, process.stdin, pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()
