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
from typing import Any, Self

import numpy as np
import torch

from edgelstm import __version__
from edgelstm.config import N_VALIDATION, ModelConfig, TrainConfig, model_config_from, train_config_from
from edgelstm.contract import Score, in_batches
from edgelstm.data.mnist import FILES, Digits, load_mnist
from edgelstm.errors import CheckpointError, OutputError, TrainingError
from edgelstm.files import check_writable, write_bytes
from edgelstm.runtime.calibration import fit_temperature
from edgelstm.training.checkpoint import (
    MODEL_FILE,
    STATE_FILE,
    Checkpoint,
    Tensors,
    check_weights,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from edgelstm.training.distill import Lessons, Teacher, check_teachers, load_teacher
from edgelstm.training.fit import (
    EpochResult,
    Split,
    StepResult,
    TrainState,
    averaged_model,
    evaluate,
    fit,
    n_steps,
    new_state,
)
from edgelstm.training.model import RowLstm, TorchRunner, new_model

LOG_FILE = "log.jsonl"
BOARD_DIR = "tensorboard"
PLOT_FILE = "curves.png"
"""The log drawn, if that was asked for."""
LESSONS_DIR = "lessons"
"""Where the teachers' answers are kept, below the data folder: runs with the same teachers share them."""
N_FIRST = 128
"""The classic exercise reports its accuracy on so many first test images."""


@dataclass(frozen=True)
class RunPlan:
    """What a run trains; fixed when it begins."""

    name: str
    config: ModelConfig
    train: TrainConfig


@dataclass(frozen=True)
class RunStart:
    """The first thing a run yields."""

    n_fitting: int
    n_steps: int
    epochs_done: int
    """More than 0 if the run goes on from a checkpoint."""
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


Event = RunStart | StepResult | EpochResult | RunEnd


def begin_run(
    plan: RunPlan,
    folder: Path,
    data_folder: Path,
    device: str = "auto",
    *,
    teachers: Sequence[Path] = (),
    overwrite: bool = False,
) -> Iterator[Event]:
    """Train from the beginning into ``folder``, on the labels or on what the ``teachers`` say.

    Raises OutputError if the folder cannot be written, or already holds a run and ``overwrite`` is
    not given; then the old run is removed. Raises CheckpointError or ModelError for a bad teacher.
    """  # fmt: skip
    if not overwrite and any((folder / name).exists() for name in (STATE_FILE, MODEL_FILE, LOG_FILE)):
        raise OutputError(
            f"{folder} already holds a run",
            fix="go on with --resume, choose another folder with -o, or give --overwrite to train anew",
        )
    check_writable(folder)
    if plan.train.threads:
        torch.set_num_threads(plan.train.threads)
    loaded = [load_teacher(path, str(_device(device))) for path in teachers]
    train = dataclasses.replace(
        plan.train, threads=torch.get_num_threads(), teachers=tuple(teacher.sha256 for teacher in loaded)
    )
    check_teachers(loaded, plan.config, train.teachers)
    plan = dataclasses.replace(plan, train=train)
    generator = torch.Generator().manual_seed(plan.train.seed)
    model = new_model(
        plan.config, generator, forget_bias=plan.train.forget_bias,
        normal_head=plan.train.head_init == "normal",
    )  # fmt: skip
    return _run(plan, new_state(model.to(_device(device)), plan.train), folder, data_folder, loaded)


def _remove_run(folder: Path) -> None:
    for name in (STATE_FILE, MODEL_FILE, LOG_FILE, PLOT_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / BOARD_DIR, ignore_errors=True)


def resume_run(
    folder: Path, data_folder: Path, device: str = "auto", *, teachers: Sequence[Path] = ()
) -> tuple[RunPlan, Iterator[Event]]:
    """Go on from the last saved epoch, to the very bits of an uninterrupted run.

    Raises CheckpointError if there is no state, or it is damaged, or the teachers are others. The number of
    threads is set to the saved one: sums split over another number of threads round differently.
    """
    tensors, values = load_tensors(folder / STATE_FILE)
    try:
        plan = RunPlan(values["name"], model_config_from(values["config"]), train_config_from(values["train"]))
        epoch = int(values["epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / STATE_FILE} has damaged metadata", found=f"{type(error).__name__}: {error}",
            fix="train anew with --overwrite",
        ) from error  # fmt: skip
    torch.set_num_threads(plan.train.threads or torch.get_num_threads())
    loaded = [load_teacher(path, str(_device(device))) for path in teachers]
    check_teachers(loaded, plan.config, plan.train.teachers)
    state = new_state(RowLstm(plan.config).to(_device(device)), plan.train)
    _fill_state(folder / STATE_FILE, state, tensors)
    state.epoch = epoch
    return plan, _run(plan, state, folder, data_folder, loaded)


def _run(
    plan: RunPlan, state: TrainState, folder: Path, data_folder: Path, teachers: Sequence[Teacher]
) -> Iterator[Event]:
    device = state.model.head.weight.device
    digits = load_mnist("train", data_folder)
    fitting, validation = (
        _split(digits, slice(None, -N_VALIDATION), device), _split(digits, slice(-N_VALIDATION, None), device)
    )  # fmt: skip
    test = _split(load_mnist("test", data_folder), slice(None), device)
    if not state.epoch:
        _remove_run(folder)  # only now that nothing is missing for the new one
    lessons = Lessons(fitting.images, plan.train, teachers, data_folder / LESSONS_DIR) if teachers else None
    data_sha256 = FILES["train", "images"].sha256
    total, done = n_steps(plan.train, len(fitting)), state.epoch
    steps_done = min(total, done * (len(fitting) // plan.train.batch_size))
    checkpoint = Checkpoint(
        weights=state.average, config=plan.config, train=plan.train, name=plan.name, epoch=done,
        data_sha256=data_sha256, versions=_versions(),
    )  # fmt: skip
    trained: Score | None = None
    with _RunLog(folder, steps_done, state.model) as log, _denormals_flushed():
        yield RunStart(len(fitting), total, done, str(device), torch.get_num_threads())
        for result in fit(state, plan.train, fitting, validation, lessons):
            log.write(result)  # before the state: what a killed run logged beyond its state will come again
            if isinstance(result, EpochResult):
                trained = result.train
                checkpoint = dataclasses.replace(checkpoint, epoch=result.epoch, validation=result.validation)
                _save_state(folder / STATE_FILE, plan, state)
                save_checkpoint(folder / MODEL_FILE, checkpoint)
            yield result
    model = averaged_model(state)
    end = RunEnd(
        folder / MODEL_FILE, trained, evaluate(model, validation), evaluate(model, test),
        evaluate(model, Split(test.images[:N_FIRST], test.labels[:N_FIRST])),
    )  # fmt: skip
    logits = in_batches(TorchRunner(model), digits.images[-N_VALIDATION:], 1000)
    temperature = fit_temperature(logits, digits.labels[-N_VALIDATION:])
    checkpoint = dataclasses.replace(checkpoint, validation=end.validation, test=end.test, temperature=temperature)
    save_checkpoint(folder / MODEL_FILE, checkpoint)
    yield end


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
        # a run that was killed may have logged steps after its last checkpoint: they will come again
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= steps_done]
        write_bytes(path, "".join(line + "\n" for line in kept).encode())
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
        self._lines.write(json.dumps({"kind": kind, **dataclasses.asdict(result)}) + "\n")
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


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()  # a killed run may leave half a line


def _split(digits: Digits, part: slice, device: torch.device) -> Split:
    images, labels = digits.images[part].copy(), digits.labels[part].astype(np.int64)
    return Split(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError("cannot train on cuda: torch finds no GPU", fix="use --device cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuDNN's LSTM is not repeatable
    return torch.device(name)


def _state_tensors(state: TrainState) -> Tensors:
    """Every tensor that changes while training, by name; the tensors themselves, not copies."""
    tensors = {f"model.{name}": weight for name, weight in state.model.state_dict().items()}
    tensors |= {f"average.{name}": weight for name, weight in state.average.items()}
    for name, weight in state.model.named_parameters():
        moments = state.optimizer.state[weight]
        if not moments:  # AdamW makes its moments at its first step; a loaded run needs them before
            moments["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        tensors |= {f"adamw.{key}.{name}": value for key, value in moments.items()}
    return tensors


def _save_state(path: Path, plan: RunPlan, state: TrainState) -> None:
    values: dict[str, Any] = dataclasses.asdict(plan)
    save_tensors(path, _state_tensors(state), values | {"epoch": state.epoch})


def _fill_state(path: Path, state: TrainState, tensors: Tensors) -> None:
    expected = _state_tensors(state)
    check_weights(path, tensors, expected)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"edgelstm": __version__, "python": platform.python_version(), **versions}
