"""One training run in its folder: data, checkpoints, logs, resume. It yields results, prints nothing."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from edgelstm import __version__
from edgelstm.config import ModelConfig, cache_dir
from edgelstm.contract import Score
from edgelstm.data.mnist import Digits, load_splits
from edgelstm.errors import DataError, OutputError, TrainingError
from edgelstm.files import FolderLock, check_writable, remove_parts, write_bytes
from edgelstm.runtime.calibration import fit_temperature
from edgelstm.training.busy import BusyCheck, BusyMachine
from edgelstm.training.checkpoint import CHECKPOINT_FILE, STATE_FILE, Checkpoint, save_checkpoint
from edgelstm.training.distill import Teacher, TeacherLogits, check_teachers, load_teacher
from edgelstm.training.fit import EpochResult, Split, StepResult, fit, logits_of, n_steps, score_of
from edgelstm.training.model import RowLstm, new_model
from edgelstm.training.state import RunPlan, TrainState, averaged_model, load_state, new_state, save_state

LOG_FILE = "log.jsonl"
BOARD_DIR = "tensorboard"
RUN_FILES = (STATE_FILE, CHECKPOINT_FILE, LOG_FILE)
TEACHER_LOGITS_DIR = "teacher-logits"
"""In the user's cache folder: runs with the same teachers share it."""
N_FIRST = 128
"""The classic exercise reports its accuracy on so many first test images."""


@dataclass(frozen=True)
class RunStart:
    """The first thing a run yields."""

    n_fitting: int
    n_steps: int
    epochs_done: int
    """More than 0 if the run goes on from a checkpoint."""
    steps_done: int
    device: str
    threads: int


@dataclass(frozen=True)
class RunEnd:
    """The last thing a run yields: the test images, looked at once."""

    model_file: Path
    train: Score | None
    """Right answers while training in the last epoch; None if no epoch was left to train."""
    validation: Score
    test: Score
    first_test: Score
    """On the first 128 test images, the classic exercise's number."""


Event = RunStart | StepResult | BusyMachine | EpochResult | RunEnd


def begin_run(
    plan: RunPlan,
    folder: Path,
    data_folder: Path,
    device: str = "auto",
    *,
    teachers: Sequence[Path] = (),
    overwrite: bool = False,
) -> Iterator[Event]:
    """Train from the beginning into ``folder``, on the labels or on the logits of the ``teachers``.

    Raises OutputError if the folder cannot be written, if another training writes there, or if it already holds a
    run and ``overwrite`` is not given; then the old run is removed. Raises CheckpointError or ModelError for a bad
    teacher, and while it is iterated DataError for missing data.
    """  # fmt: skip
    check_writable(folder)
    with _locked(folder) as lock:
        if not overwrite and any((folder / name).exists() for name in RUN_FILES):
            raise OutputError(
                f"{folder} already holds a run",
                fix="go on with --resume, choose another folder with -o, or give --overwrite to train anew",
            )
        if plan.train.threads:
            torch.set_num_threads(plan.train.threads)
        on = _device(device)
        loaded = [load_teacher(path, str(on)) for path in teachers]
        train = dataclasses.replace(
            plan.train, threads=torch.get_num_threads(), teachers=tuple(teacher.sha256 for teacher in loaded)
        )
        check_teachers(loaded, plan.config, train.teachers)
        model = new_model(
            plan.config, torch.Generator().manual_seed(train.seed), forget_bias=train.forget_bias,
            normal_head=train.head_init == "normal",
        )  # fmt: skip
        plan = dataclasses.replace(plan, train=train)
        return _run(plan, new_state(model.to(on), train), folder, data_folder, loaded, lock)


def resume_run(
    folder: Path, data_folder: Path, device: str = "auto", *, teachers: Sequence[Path] = ()
) -> tuple[RunPlan, Iterator[Event]]:
    """Go on from the last saved epoch, to the very bits of an uninterrupted run.

    Raises CheckpointError if there is no state, or it is damaged, or the teachers are others; OutputError if
    another training writes into the folder. The number of threads is set to the saved one: sums split over
    another number of threads round differently.
    """
    with _locked(folder) as lock:
        on = _device(device)
        plan, state = load_state(folder / STATE_FILE, on)
        torch.set_num_threads(plan.train.threads or torch.get_num_threads())
        loaded = [load_teacher(path, str(on)) for path in teachers]
        check_teachers(loaded, plan.config, plan.train.teachers)
        return plan, _run(plan, state, folder, data_folder, loaded, lock)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[FolderLock | None]:
    """The lock of a run's folder, without what killed runs left there; it is given back only if the block raises."""
    if not folder.is_dir():
        yield None
        return
    lock = FolderLock(folder, "another training writes into")
    try:
        remove_parts(folder, RUN_FILES)
        yield lock
    except BaseException:
        lock.close()
        raise


def _remove_run(folder: Path) -> None:
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / BOARD_DIR, ignore_errors=True)


def _run(
    plan: RunPlan, state: TrainState, folder: Path, data_folder: Path, teachers: Sequence[Teacher],
    lock: FolderLock | None,
) -> Iterator[Event]:  # fmt: skip
    with contextlib.closing(lock) if lock else contextlib.nullcontext():
        device = state.model.head.weight.device
        splits = load_splits(data_folder)
        for digits in (splits.fitting, splits.validation, splits.test):
            _check_digits(digits, plan.config)
        fitting, validation, test = (_on(device, s) for s in (splits.fitting, splits.validation, splits.test))
        teacher = (
            TeacherLogits(fitting.images, plan.train, teachers, cache_dir() / TEACHER_LOGITS_DIR) if teachers else None
        )
        checkpoint = Checkpoint(
            weights=state.average, config=plan.config, train=plan.train, name=plan.name, epoch=state.epoch,
            data_sha256=splits.sha256, versions=_versions(),
        )  # fmt: skip
        total = n_steps(plan.train, len(fitting))
        steps_done = min(total, state.epoch * (len(fitting) // plan.train.batch_size))
        if not state.epoch:
            _remove_run(folder)  # only now that nothing is missing for the new one
        last: EpochResult | None = None
        with _RunLog(folder, steps_done, state.model) as log, _denormals_flushed():
            yield RunStart(len(fitting), total, state.epoch, steps_done, str(device), torch.get_num_threads())
            busy = BusyCheck(torch.get_num_threads())
            for result in fit(state, plan.train, fitting, validation, teacher):
                log.write(result)  # before the state: what a killed run logged beyond its state will come again
                if isinstance(result, EpochResult):
                    last = result
                    checkpoint = dataclasses.replace(checkpoint, epoch=result.epoch, validation=result.validation)
                    save_state(folder / STATE_FILE, plan, state)
                    save_checkpoint(folder / CHECKPOINT_FILE, checkpoint)
                    busy.pause()
                elif device.type == "cpu" and (found := busy.steps_done()):
                    yield found
                yield result
        yield _end(state, checkpoint, last, validation, test, folder / CHECKPOINT_FILE)


def _end(
    state: TrainState, checkpoint: Checkpoint, last: EpochResult | None, validation: Split, test: Split, file: Path
) -> RunEnd:
    """Score the trained weights, fit the temperature, and write both into the run's checkpoint."""
    model = averaged_model(state)
    logits = last.validation_logits if last else logits_of(model, validation.images)
    test_logits = logits_of(model, test.images)
    first = Split(test.images[:N_FIRST], test.labels[:N_FIRST])
    end = RunEnd(
        file, last.train if last else None, score_of(logits, validation), score_of(test_logits, test),
        score_of(test_logits[:N_FIRST], first),
    )  # fmt: skip
    temperature = fit_temperature(logits, validation.labels.cpu().numpy())
    save_checkpoint(
        file, dataclasses.replace(checkpoint, validation=end.validation, test=end.test, temperature=temperature)
    )
    return end


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Round denormals to 0 on the CPU: gates near 0 make them, and each costs a hundredfold."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _RunLog:
    """The run's log twice: JSON Lines for programs, TensorBoard for eyes."""

    def __init__(self, folder: Path, steps_done: int, model: RowLstm) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, so only when a run begins

        path = folder / LOG_FILE
        write_bytes(path, b"".join(_lines_until(path, steps_done)))
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / BOARD_DIR), purge_step=steps_done + 1)
        if not steps_done:
            pixels = torch.zeros(1, model.config.rows, model.config.cols, dtype=torch.uint8)
            with warnings.catch_warnings():
                # TensorBoard traces with torch.jit, which is deprecated and warns about every size it fixes
                warnings.simplefilter("ignore", FutureWarning)
                warnings.filterwarnings("ignore", "Converting a tensor")
                self._board.add_graph(model, pixels.to(model.head.weight.device))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()

    def write(self, result: StepResult | EpochResult) -> None:
        kind = "step" if isinstance(result, StepResult) else "epoch"
        values = dataclasses.asdict(result)
        values.pop("validation_logits", None)
        self._lines.write(json.dumps({"kind": kind, **values}) + "\n")
        self._lines.flush()
        scalars = {"loss": result.loss, "accuracy/train": result.train.accuracy}
        if isinstance(result, StepResult):
            scalars["learning_rate"] = result.learning_rate
        else:
            scalars |= {
                "accuracy/validation": result.validation.accuracy,
                "images_per_s": result.images_per_s,
            }
        for name, value in scalars.items():
            self._board.add_scalar(f"{kind}/{name}", value, result.step)


def _lines_until(path: Path, steps_done: int) -> Iterator[bytes]:
    """The whole lines of the log up to a step: what a killed run logged after its last checkpoint will come again.

    Lines that cannot be read are left out: a process may be killed, or the power fail, within one.
    """
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n") and json.loads(line)["step"] <= steps_done:
                yield line


def _check_digits(digits: Digits, config: ModelConfig) -> None:
    """Raise DataError unless images and labels are such as the model reads and tells apart."""
    shape, expected = digits.images.shape[1:], (config.rows, config.cols)
    if shape != expected:
        raise DataError(f"{digits.source} do not fit the model", found=f"shape {shape}", expected=expected)
    if len(digits) and int(digits.labels.max()) >= config.n_classes:
        found = f"class {int(digits.labels.max())}"
        raise DataError(f"{digits.source} do not fit the model", found=found, expected=f"{config.n_classes} classes")


def _on(device: torch.device, digits: Digits) -> Split:
    images, labels = torch.from_numpy(digits.images.copy()), torch.from_numpy(digits.labels.astype(np.int64))
    return Split(images.to(device), labels.to(device))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError("cannot train on cuda: torch finds no GPU", fix="use --device cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuDNN's LSTM is not repeatable
    return torch.device(name)


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"edgelstm": __version__, "python": platform.python_version(), **versions}
