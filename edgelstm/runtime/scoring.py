"""Many inputs: a pool of processes that prepares them for `infer`, and `score`, whose processes do all of the work."""

import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgelstm.config import ModelConfig, n_cores
from edgelstm.errors import EdgeLstmError, MissingDependencyError, OutputError, PictureError, printable
from edgelstm.files import FolderLock, check_writable, read_bounded, sha256_of, write_bytes
from edgelstm.onnx_file import ModelSource, open_model
from edgelstm.runtime.classifier import CHUNK, Classifier, Prediction, Source, prepare
from edgelstm.runtime.inputs import find_inputs, import_pyarrow
from edgelstm.runtime.parts import Counts, Job, finished, score_part, withdraw

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_WORKERS = 8
"""Of those that prepare: more would only wait for the one process that runs the model."""
MANIFEST, LISTING = "_manifest.json", "_inputs.parquet"
"""Parquet readers pass over names that begin with _: the folder is one table."""
MAX_MANIFEST_BYTES = 2**20
FORMAT = 1
"""Another number wherever the same job would give other rows or other parts."""
MAX_OBJECTS_BYTES = 80 * 2**20
"""Of Ray's store on this machine, the least that it takes: only counts go through it."""
CONNECT_S = 10


def can_start() -> bool:
    """Whether there is a second core, and an interpreter to start on it: a frozen program has none."""
    return n_cores() > 1 and bool(sys.executable) and not getattr(sys, "frozen", False)


class WorkerDied(Exception):
    """A worker process ended before it had answered ``task``."""

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.task = task


class Workers:
    """Worker processes, one a core; a context manager whose end is theirs, whatever they are doing.

    Each calls ``setup``, if given, with its arguments first. For the main thread of a program whose main module is
    guarded, as the command line's is: a worker is a fresh interpreter and imports it. (The fork of a process with
    threads, such as NumPy's, may hang.)
    """

    def __init__(self, n: int | None = None, setup: Callable[..., None] | None = None, *arguments: object) -> None:
        n = n or min(n_cores(), MAX_WORKERS)
        self.n_ahead = 2 * n + 1
        """Tasks that are taken at most before the first of them is answered: what bounds the memory."""
        # what they inherit, and the process that tracks their semaphores: no module that lies beside the pictures, one
        # thread each, and no Ctrl-C but ours
        os.environ.update(PYTHONSAFEPATH="1", OPENBLAS_NUM_THREADS="1")
        spawn = get_context("spawn")
        theirs, self._lifeline = spawn.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(n, spawn, _begin, (theirs, setup, arguments))
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

    def each(self, function: Callable[..., Result], tasks: Iterable[Task], *arguments: object) -> Iterator[Result]:
        """What ``function(task, *arguments)`` gives for each task, in order. Raises WorkerDied, and what it raises."""
        waiting: deque[tuple[Task, Future[Result]]] = deque()
        for task in tasks:
            waiting.append((task, self._submit(function, task, *arguments)))
            if len(waiting) == self.n_ahead:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())

    def prepare_each(
        self, chunks: Iterator[list[Source]], config: ModelConfig, channels_first: bool = False
    ) -> Iterator[list[Prediction]]:
        """What `classifier.prepare_each` gives, in the same order. Raises PictureError if a worker breaks off."""
        try:
            yield from self.each(prepare, chunks, config, channels_first)
        except WorkerDied as error:
            first: Source = error.task[0]
            name = printable(first) if isinstance(first, str | os.PathLike) else "-"
            raise PictureError(
                "a process that prepares the inputs broke off", found=f"no answer from {name} on",
                fix="leave out the one that does it: read fewer at a time to find it",
            ) from error  # fmt: skip

    def _submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:  # said in its turn: what came before it may be answered
            failed: Future[Result] = Future()
            failed.set_exception(error)
            return failed


def _result(task: object, future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise WorkerDied(task) from error


def _begin(lifeline: Connection, setup: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    """In a worker, before its first task: end at once when the process that started it closes its end, or ends."""

    def end() -> None:
        withdraw()
        os._exit(0)

    def wait() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv()
        end()

    def obey() -> None:  # the pool ends all processes when one of them died: the work of the others is not to blame
        signal.sigwait([signal.SIGTERM])
        end()

    with suppress(OSError):  # stderr may be closed
        os.dup2(2, 1)  # nothing that a decoder may print gets between the answers
    if hasattr(signal, "pthread_sigmask"):  # before any thread starts, which inherits it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=obey, daemon=True).start()
    threading.Thread(target=wait, daemon=True).start()
    if setup is not None:
        setup(*arguments)


# A job: parts of the inputs, each scored by one process into one Parquet file


@dataclass(frozen=True)
class Scored:
    """A finished job."""

    counts: Counts
    n_earlier: int
    """Inputs that earlier runs of the same job had scored."""
    n_parts: int
    seconds: float
    """Of this run, the search for inputs included."""
    fingerprint: str
    model_sha256: str

    @property
    def per_second(self) -> float:
        """Inputs that this run scored in a second."""
        return (self.counts.n - self.n_earlier) / max(self.seconds, 1e-9)


Engine = Literal["local", "ray"]


def score(
    source: str, output: Path, model: ModelSource, *, engine: Engine = "local", batch_size: int = CHUNK,
    address: str | None = None, progress: Callable[[Counts, int, int], None] = lambda counts, earlier, n: None,
) -> Scored:  # fmt: skip
    """Score every input of ``source`` into Parquet files in ``output``; go on where an earlier run of the job ended.

    ``progress`` gets the counts so far, the inputs of earlier runs and the number of all. Raises DataError for a source
    that cannot be read, OutputError if ``output`` cannot be written or holds another job.
    """
    start = time.perf_counter()
    import_pyarrow()
    if engine == "ray":
        _import_ray()
    file = open_model(model)
    classifier = Classifier(file, provider="cpu")
    check_writable(output)
    lock = FolderLock(output, "another scoring writes into")
    try:
        listing = output / f".{LISTING}.part"
        for left in (listing, *output.glob(".part-*.parquet.*.part")):  # of a run that was killed
            left.unlink(missing_ok=True)
        try:
            inputs = find_inputs(source, file.contract.config, listing, (output / LISTING).absolute())
            manifest: dict[str, Any] = {
                "format": FORMAT, "source": printable(source, 4096), "inputs": inputs.sha256, "n_inputs": inputs.n,
                "n_parts": len(inputs.parts), "model": file.source, "model_sha256": sha256_of(file.content),
                "batch_size": batch_size,
            }  # fmt: skip
            decisive = [
                manifest[key] for key in ("format", "inputs", "n_inputs", "n_parts", "model_sha256", "batch_size")
            ]
            manifest["fingerprint"] = sha256_of(json.dumps(decisive).encode())
            _check_manifest(output, manifest)
            if inputs.listed:
                os.replace(listing, output / LISTING)
        finally:
            listing.unlink(missing_ok=True)
        job = Job(
            output.absolute(), classifier, inputs, manifest["model_sha256"], batch_size, manifest["fingerprint"],
            os.getcwd(),
        )  # fmt: skip
        write_bytes(output / MANIFEST, _as_json({**manifest, "finished": None}))
        counts, left_over = Counts(), []
        for index in range(len(inputs.parts)):
            done = finished(job, index)
            counts = counts + done if done else counts
            left_over += [] if done else [index]
        n_earlier = counts.n
        progress(counts, n_earlier, inputs.n)
        for done in _ENGINES[engine](job, left_over, address) if left_over else ():
            counts = counts + done
            progress(counts, n_earlier, inputs.n)
        assert counts.n == inputs.n, (counts, inputs.n)
        write_bytes(output / MANIFEST, _as_json({**manifest, "finished": asdict(counts)}))
    finally:
        lock.close()
    seconds = time.perf_counter() - start
    return Scored(counts, n_earlier, len(inputs.parts), seconds, job.fingerprint, job.model_sha256)


def _check_manifest(output: Path, manifest: dict[str, Any]) -> None:
    """Raise OutputError if the folder holds parts of another job, or what may be such."""
    path, fix = output / MANIFEST, "choose another folder with -o"
    if not os.path.lexists(path):
        if any(output.glob("part-*.parquet")):
            raise OutputError(f"{output} holds parts, but no {MANIFEST}", fix=fix)
        return
    try:
        found = json.loads(read_bounded(path, MAX_MANIFEST_BYTES, "a manifest", OutputError))
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path} is damaged", found=f"no JSON ({error})"[:200], fix=fix) from error
    if not isinstance(found, dict) or found.get("fingerprint") != manifest["fingerprint"]:
        known = found if isinstance(found, dict) else {}
        others = [key for key in manifest if known.get(key) != manifest[key]]
        names = {"inputs": "inputs", "n_inputs": "inputs", "model_sha256": "model", "batch_size": "batch size"}
        what = ", ".join(dict.fromkeys(names[key] for key in others if key in names)) or "fingerprint"
        raise OutputError(f"{output} holds another job", found=f"another {what} in {MANIFEST}", fix=fix)


def _as_json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


# Engines: each gives the counts of every part in ``indices``, whatever dies on the way


def _on_this_machine(job: Job, indices: list[int], address: str | None) -> Iterator[Counts]:
    if getattr(sys, "frozen", False) or not sys.executable:
        yield from (score_part(job, index) for index in indices)
        return
    while indices:
        with Workers(min(n_cores(), len(indices)), _open_job, job) as workers:
            try:
                list(workers.each(int, [0]))
            except WorkerDied as error:
                what, fix = "a worker process ended at its start", "see how much memory is free"
                raise EdgeLstmError(what, fix=fix) from error
            with suppress(WorkerDied):  # others go on, and know by the records of its tries what it died of
                for counts in workers.each(_score_opened, list(indices)):
                    yield counts
                    del indices[0]


_job: Job | None = None


def _open_job(job: Job) -> None:
    global _job
    _job = job


def _score_opened(index: int) -> Counts:
    assert _job is not None
    return score_part(_job, index)


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, level in {"RAY_DATA_LOG_LEVEL": "CRITICAL", "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, level)  # what Ray would print, our errors say in one line
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("ray[data]", "ray", purpose="scoring on a cluster") from error
    return ray


def _on_ray(job: Job, indices: list[int], address: str | None) -> Iterator[Counts]:
    """By Ray Data, an actor a core. Raises EdgeLstmError if there is no such cluster, or it cannot do the work."""
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "CRITICAL"}
    try:
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
            if address == "local":
                options |= {"num_cpus": n_cores(), "include_dashboard": False, "_temp_dir": folder}
                options["object_store_memory"] = MAX_OBJECTS_BYTES
            elif match := re.fullmatch(r"([^/]+):(\d+)", address):  # Ray itself would try for minutes
                socket.create_connection((match[1], int(match[2])), CONNECT_S).close()
            theirs = ray.is_initialized()
            if not theirs:
                with _without_stderr():
                    ray.init(**options)
            try:
                yield from _by_actors(ray, job, indices)
            finally:
                if not theirs:
                    ray.shutdown()
    except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, EdgeLstmError):
            raise
        found = " ".join(str(error).split())[:300]
        raise EdgeLstmError(f"Ray at {printable(address)} cannot score", found=found, fix="see `ray status`") from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's C++ side says on stderr that it will say nothing there."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _by_actors(ray: Any, job: Job, indices: list[int]) -> Iterator[Counts]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    n = max(1, min(len(indices), int(ray.cluster_resources().get("CPU", 1))))
    parts = ray.data.from_items([{"part": index} for index in indices], override_num_blocks=len(indices))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=n, initial_size=n, max_tasks_in_flight_per_actor=2)
    scored = parts.map_batches(_Actor, batch_size=1, compute=pool, fn_constructor_args=(job,), num_cpus=1)
    for row in scored.iter_rows():
        if row["problem"]:
            raise EdgeLstmError(row["problem"])
        yield Counts(row["n"], row["n_errors"], row["n_abstained"])


class _Actor:
    """Ray's side of a job: one session, and any number of parts after each other."""

    def __init__(self, job: Job) -> None:
        self._job, self._problem = job, ""
        try:
            found = json.loads(read_bounded(job.output / MANIFEST, MAX_MANIFEST_BYTES, "a manifest", OutputError))
            if found["fingerprint"] != job.fingerprint:
                self._problem = f"{job.output} is another folder on {os.uname().nodename}"
            os.chdir(job.folder)
        except (OSError, ValueError) as error:
            self._problem = f"{os.uname().nodename} does not see what this machine does: {error}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[object]]:
        counts, problem = Counts(), self._problem
        try:
            counts = counts if problem else score_part(self._job, int(batch["part"][0]))
        except EdgeLstmError as error:  # as it is, not wrapped into Ray's
            problem = str(error)
        return {"problem": [problem], **{key: [value] for key, value in asdict(counts).items()}}


_ENGINES = {"local": _on_this_machine, "ray": _on_ray}
