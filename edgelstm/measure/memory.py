"""The peak memory of a model, measured in a process of its own."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from edgelstm.contract import Pixels, Runner

TIMEOUT_S = 120


def peak_memory_bytes(load: Callable[[], Runner], pixels: Pixels) -> int | None:
    """Peak resident memory of a fresh Python process that loads a runner and runs it once on ``pixels``.

    It holds everything: Python, NumPy, the runtime, the model. ``load`` must be picklable. None where
    the system does not say (it is read from Linux's /proc) or the process fails.
    """
    if not _STATUS.exists():
        return None
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(load, pixels, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return int(receiver.recv()) if receiver.poll(TIMEOUT_S) else None
    except EOFError:  # the process ended without an answer
        return None
    finally:
        process.kill()
        process.join()
        receiver.close()


_STATUS = Path("/proc/self/status")


def _measure(load: Callable[[], Runner], pixels: Pixels, answer: Connection) -> None:
    load().logits(pixels)
    # not getrusage: its peak is inherited from the parent, which may hold torch
    lines = _STATUS.read_text().splitlines()
    answer.send(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")))
