"""One training run in its folder: data, checkpoints, logs, resume. It yields results, prints nothing."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgelstm import __version__
from edgelstm.config import FLOAT32_MAX, ModelConfig, cache_dir
from edgelstm.contract import Score
from edgelstm.data.checks import column_statistics, largest_class_baseline
from edgelstm.data.dataset import Dataset, Part, random_split
from edgelstm.errors import CheckpointError, DataError, OutputError, TrainingError
from edgelstm.files import FolderLock, check_writable, remove_parts, write_bytes
from edgelstm.measure.classes import ClassReport
from edgelstm.runtime.calibration import fit_temperature
from edgelstm.training.busy import BusyCheck, BusyMachine
from edgelstm.training.checkpoint import CHECKPOINT_FILE, STATE_FILE, Checkpoint, save_checkpoint
from edgelstm.training.distill import Teacher, TeacherLogits, check_teachers, load_teacher
from edgelstm.training.distributed import ALONE, Group
from edgelstm.training.fit import EpochResult, Split, StepResult, fit, logits_of, n_steps, score_of, steps_per_epoch
from edgelstm.training.model import RowLstm, new_model
from edgelstm.training.state import RunPlan, TrainState, averaged_model, load_state, new_state, save_state, state_from

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
    processes: int = 1
    shards: int = 1


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
    classes: ClassReport
    """The test sequences, class by class."""
    baseline: Score
    """Of the test sequences, if the largest class of the training split were always the answer."""
    random_split: Score | None = None
    """The same recipe on a split that disregards groups: how much that would have flattered. None without groups
    or if the sequences are too few."""


OpenData = Callable[[ModelConfig], Dataset]
"""Opens what a model of this shape is trained on; called once all that can be refused at once has been."""
Event = RunStart | StepResult | BusyMachine | EpochResult | RunEnd | str
"""What a run yields; a text is a line for the user."""


def begin_run(
    plan: RunPlan, folder: Path, open_data: OpenData, device: str = "auto", *, teachers: Sequence[Path] = (),
    overwrite: bool = False, shards: int | None = None, group: Group = ALONE,
) -> Generator[Event, None, None]:  # fmt: skip
    """Train from the beginning into ``folder``, on the labels or on the logits of the ``teachers``.

    The plan's ``shards`` are those given, else as many as the group has processes. A group that torchrun began goes
    on with the very same run if the folder holds it: torchrun starts killed processes anew with the same arguments.

    Raises OutputError if the folder cannot be written, if another training writes there, or if it already holds a
    run and ``overwrite`` is not given; then the old run is removed. Raises CheckpointError or ModelError for a bad
    teacher, and while it is iterated DataError for missing data.
    """
    if plan.train.threads:
        torch.set_num_threads(plan.train.threads)
    on = _device(device)  # what can be refused is, before a folder is made
    loaded = [load_teacher(path, str(on)) for path in teachers]
    train = dataclasses.replace(
        plan.train, threads=torch.get_num_threads(), teachers=tuple(teacher.sha256 for teacher in loaded),
        shards=shards or group.size,
    )  # fmt: skip
    check_teachers(loaded, plan.config, train.teachers)
    plan = dataclasses.replace(plan, train=train)
    if group.is_writer:
        check_writable(folder)
    with _locked(folder, group) as lock:
        found = None
        if group.is_writer:
            if group.is_launched and (group.n_restarts or not overwrite):
                found = _begun(plan, folder, on, any_shards=not shards)
            # torchrun starts a run anew that was killed in its first epoch, when it has a log only
            names = (STATE_FILE, CHECKPOINT_FILE) if group.is_launched else RUN_FILES
            if not (found or overwrite) and any((folder / name).exists() for name in names):
                fix = "go on with --resume, choose another folder with -o, or give --overwrite to train anew"
                raise OutputError(f"{folder} already holds a run", fix=fix)
            found = found or (plan, _fresh(plan, on))
        plan, state = _to_all(group, found, on)
        return _run(plan, state, folder, open_data, loaded, lock, group)


def resume_run(
    folder: Path, open_data: OpenData, device: str = "auto", *, teachers: Sequence[Path] = (), group: Group = ALONE
) -> tuple[RunPlan, Generator[Event, None, None]]:
    """Go on from the last saved epoch, to the very bits of an uninterrupted run, with any number of processes.

    Raises CheckpointError if there is no state, or it is damaged, or the teachers are others; OutputError if
    another training writes into the folder. The number of threads is set to the saved one: sums split over
    another number of threads round differently.
    """
    with _locked(folder, group) as lock:
        on = _device(device)
        plan, state = _to_all(group, load_state(folder / STATE_FILE, on) if group.is_writer else None, on)
        loaded = [load_teacher(path, str(on)) for path in teachers]
        check_teachers(loaded, plan.config, plan.train.teachers)
        return plan, _run(plan, state, folder, open_data, loaded, lock, group)


def _begun(plan: RunPlan, folder: Path, device: torch.device, *, any_shards: bool) -> tuple[RunPlan, TrainState] | None:
    """What a killed process left of the run of this plan, if there is anything."""
    if not (folder / STATE_FILE).exists():
        return None
    held, state = load_state(folder / STATE_FILE, device)
    asked = dataclasses.replace(plan.train, shards=held.train.shards if any_shards else plan.train.shards)
    return (held, state) if dataclasses.replace(plan, train=asked, data_sha256=held.data_sha256) == held else None


def _to_all(group: Group, found: tuple[RunPlan, TrainState] | None, device: torch.device) -> tuple[RunPlan, TrainState]:
    """What the group's writer found, in each process, with the threads of the plan."""
    if group.size > 1:
        sent = None
        if found:
            sent = found[0], found[1].epoch, {name: tensor.cpu() for name, tensor in found[1].tensors().items()}
        received = group.gather(sent)[0]
        assert received, "the first process is the writer"
        plan, epoch, tensors = received
        found = found or (plan, state_from(plan, epoch, tensors, device))
    assert found
    torch.set_num_threads(found[0].train.threads or torch.get_num_threads())
    return found


@contextlib.contextmanager
def _locked(folder: Path, group: Group) -> Iterator[FolderLock | None]:
    """The lock of a run's folder, without what killed runs left there; it is given back only if the block raises."""
    if not group.is_writer:
        yield None
        return
    lock = FolderLock(folder, "another training writes into")
    try:
        remove_parts(folder, RUN_FILES)
        yield lock
    except BaseException:
        lock.close()
        raise


def _run(
    plan: RunPlan, state: TrainState, folder: Path, open_data: OpenData, teachers: Sequence[Teacher],
    lock: FolderLock | None, group: Group,
) -> Generator[Event, None, None]:  # fmt: skip
    device = state.model.head.weight.device
    with contextlib.closing(lock) if lock else contextlib.nullcontext():
        dataset = open_data(plan.config)
        group.check_same("data", dataset.sha256)
        if plan.data_sha256 not in ("", dataset.sha256):
            raise CheckpointError(
                f"{folder} holds a run on other data", found=f"sha256 {dataset.sha256[:12]}",
                expected=plan.data_sha256[:12], fix="name the data that it was begun with, or give --overwrite",
            )  # fmt: skip
        plan = dataclasses.replace(plan, data_sha256=dataset.sha256)
        fitting, validation, test = (_split_on(device, part, plan.config) for part in dataset.parts.values())
        if not state.epoch:
            set_normalisation(state, dataset.train)
        kept = cache_dir() / TEACHER_LOGITS_DIR
        teacher = (
            TeacherLogits(
                fitting.sequences, fitting.labels, fitting.lengths, state.model, plan.train, teachers, kept, group
            )
            if teachers
            else None
        )
        checkpoint = Checkpoint(
            weights=state.average, config=plan.config, train=plan.train, name=plan.name, epoch=state.epoch,
            data_sha256=dataset.sha256, versions=_versions(), ranges=_ranges(dataset),
        )  # fmt: skip
        total = n_steps(plan.train, len(fitting))
        steps_done = min(total, state.epoch * steps_per_epoch(plan.train, len(fitting)))
        if group.is_writer and not state.epoch:  # the old run goes only now that nothing is missing for the new one
            for name in RUN_FILES:
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / BOARD_DIR, ignore_errors=True)
        last: EpochResult | None = None
        with contextlib.ExitStack() as stack:
            log = None
            if group.is_writer:
                log = stack.enter_context(contextlib.closing(_RunLog(folder, steps_done, state.model)))
            stack.callback(torch.set_flush_denormal, False)
            torch.set_flush_denormal(True)  # gates near 0 make denormals, and each costs a CPU a hundredfold
            yield RunStart(
                len(fitting), total, state.epoch, steps_done, str(device), torch.get_num_threads(), group.size,
                plan.train.shards,
            )  # fmt: skip
            busy = BusyCheck(torch.get_num_threads())
            for result in fit(state, plan.train, fitting, validation, teacher, group):
                if log:
                    log.write(result)  # before the state: what a killed run logged beyond its state will come again
                if isinstance(result, EpochResult):
                    last = result
                    checkpoint = dataclasses.replace(checkpoint, epoch=result.epoch, validation=result.validation)
                    group.check_same("weights", state.sha256 if group.size > 1 else "")
                    if group.is_writer:
                        save_state(folder / STATE_FILE, plan, state)
                        save_checkpoint(folder / CHECKPOINT_FILE, checkpoint)
                    busy.pause()
                elif device.type == "cpu" and (found := busy.steps_done()):
                    yield found
                yield result
            # before anything else: an interrupted run shall have its scores
            baseline = largest_class_baseline(dataset)
            end = _end(state, checkpoint, last, validation, test, baseline, folder / CHECKPOINT_FILE, group)
            flattered = None
            if dataset.train.groups is not None:
                yield "once more, on a split that disregards groups, to show how much that would flatter"
                flattered = _flattered(plan, dataset, device, group)
        yield dataclasses.replace(end, random_split=flattered)


def _end(
    state: TrainState, checkpoint: Checkpoint, last: EpochResult | None, validation: Split, test: Split,
    baseline: Score, file: Path, group: Group,
) -> RunEnd:  # fmt: skip
    """Score the trained weights, fit the temperature, and write both into the run's checkpoint."""
    model = averaged_model(state)
    logits = last.validation_logits if last else logits_of(model, validation, group=group)
    test_logits, labels = logits_of(model, test, group=group), test.labels.cpu().numpy()
    first = Score.of(test_logits[:N_FIRST], labels[:N_FIRST])
    classes = ClassReport.of(test_logits, labels, checkpoint.config.class_names)
    train, score = last.train if last else None, score_of(logits, validation)
    end = RunEnd(file, train, score, classes.score, first, classes, baseline)
    temperature = fit_temperature(logits, validation.labels.cpu().numpy())
    if group.is_writer:
        save_checkpoint(
            file, dataclasses.replace(checkpoint, validation=end.validation, test=end.test, temperature=temperature)
        )
    return end


class _RunLog:
    """The run's log twice: JSON Lines for programs, TensorBoard for eyes."""

    def __init__(self, folder: Path, steps_done: int, model: RowLstm) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, so only when a run begins

        path = folder / LOG_FILE
        write_bytes(path, b"".join(_lines_until(path, steps_done)))
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / BOARD_DIR), purge_step=steps_done + 1)
        if not steps_done:
            kind = torch.float32 if model.config.is_values else torch.uint8
            pixels = torch.zeros(1, model.config.rows, model.config.cols, dtype=kind)
            with warnings.catch_warnings():
                # TensorBoard traces with torch.jit, which is deprecated and warns about every size it fixes
                warnings.simplefilter("ignore", FutureWarning)
                warnings.filterwarnings("ignore", "Converting a tensor")
                self._board.add_graph(model, pixels.to(model.head.weight.device))

    def close(self) -> None:
        self._lines.close()
        self._board.close()

    def write(self, result: StepResult | EpochResult) -> None:
        values = dataclasses.asdict(result)
        values.pop("validation_logits", None)
        scalars = {"loss": result.loss, "accuracy/train": result.train.accuracy}
        if isinstance(result, StepResult):
            kind, more = "step", {"learning_rate": result.learning_rate}
        else:
            kind = "epoch"
            more = {"accuracy/validation": result.validation.accuracy, "images_per_s": result.images_per_s}
        self._lines.write(json.dumps({"kind": kind, **values}) + "\n")
        self._lines.flush()
        for name, value in (scalars | more).items():
            self._board.add_scalar(f"{kind}/{name}", value, result.step)


def _lines_until(path: Path, steps_done: int) -> Iterator[bytes]:
    """The whole lines of the log up to a step: what a killed run logged after its last checkpoint will come again.

    Lines that cannot be read are left out: a process may be killed, or the power fail, within one.
    """
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n") and json.loads(line)["step"] <= steps_done:
                yield line


def set_normalisation(state: TrainState, train: Part) -> None:
    """What values or plain pixels are normalised by, from the training split: fixed before the first step."""
    found: dict[str, torch.Tensor] = {}
    if state.model.config.is_values:
        columns = column_statistics(train)
        # beyond float32 in the smallest units; such a column then stays smaller than the others
        scale = np.minimum(1 / columns.std, FLOAT32_MAX)
        found = {"mean": torch.from_numpy(columns.mean), "scale": torch.from_numpy(scale)}
    elif state.model.config.preparation == "plain":
        found = {"scale": torch.tensor([1 / max(1, int(train.sequences.max(initial=0)))])}
    for name, values in found.items():
        state.model.get_buffer(name).copy_(values)
        state.average[name].copy_(values)


def _ranges(dataset: Dataset) -> tuple[tuple[float, float], ...]:
    if dataset.preparation != "values":
        return ()
    columns = column_statistics(dataset.train)
    limits = np.clip([columns.minimum, columns.maximum], -FLOAT32_MAX, FLOAT32_MAX)
    return tuple(zip(*limits.tolist(), strict=True))


def _flattered(plan: RunPlan, dataset: Dataset, device: torch.device, group: Group) -> Score | None:
    """The test score of the same recipe where the same groups are on both sides of the split; nothing is written."""
    try:
        drawn = random_split(dataset)
    except DataError:  # too few sequences; the run itself has ended well
        return None
    state = _fresh(plan, device)
    set_normalisation(state, drawn.train)
    fitting, validation, test = (_split_on(device, part, plan.config) for part in drawn.parts.values())
    for _ in fit(state, dataclasses.replace(plan.train, teachers=()), fitting, validation, group=group):
        pass
    return score_of(logits_of(averaged_model(state), test, group=group), test)


def _fresh(plan: RunPlan, device: torch.device) -> TrainState:
    """Weights as the seed draws them."""
    train = plan.train
    generator, normal_head = torch.Generator().manual_seed(train.seed), train.head_init == "normal"
    model = new_model(plan.config, generator, forget_bias=train.forget_bias, normal_head=normal_head)
    return new_state(model.to(device), train)


def _split_on(device: torch.device, part: Part, config: ModelConfig) -> Split:
    """The sequences on the device. Raises DataError if the model does not read such ones or tell apart such labels."""
    if not part.fits(config):
        shape = f"{part.sequences.dtype} {part.sequences.shape[1:]}, classes up to {int(part.labels.max(initial=0))}"
        expected = f"({config.rows}, {config.cols}) of {config.preparation}, {config.n_classes} classes"
        raise DataError(f"{part.source} do not fit the model", found=shape, expected=expected)
    labels = torch.tensor(part.labels, dtype=torch.int64, device=device)
    lengths = None if part.lengths is None else torch.tensor(part.lengths, device=device)
    return Split(torch.tensor(part.sequences, device=device), labels, lengths)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError("cannot train on cuda: torch finds no GPU", fix="use --device cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuDNN's LSTM is not repeatable
    return torch.device(name)


def _versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {"edgelstm": __version__, "python": platform.python_version(), **libraries}
