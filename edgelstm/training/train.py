"""`edgelstm.train`: a run from whatever data, with the command line's defaults."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from edgelstm.config import (
    DEFAULT_MODEL,
    DEFAULT_RECIPE,
    FAMILY,
    OWN_MODEL,
    RECIPES,
    RUNS_DIR,
    ModelConfig,
    Preparation,
    recipe_for,
    recipe_for_data,
    rows_per_step_for,
)
from edgelstm.data.arrays import dataset_from_arrays
from edgelstm.data.dataset import Dataset, open_dataset
from edgelstm.data.evaluation import DataSource, is_mnist_source, opened
from edgelstm.data.mnist import ensure_mnist
from edgelstm.training.distributed import joined
from edgelstm.training.run import Event, RunEnd, begin_run, resume_run
from edgelstm.training.state import RunPlan


@dataclass(frozen=True)
class Started:
    """What a run trains and where, once that is settled."""

    folder: Path
    plan: RunPlan


@dataclass(frozen=True)
class Trained:
    """A run that has ended."""

    folder: Path
    plan: RunPlan
    end: RunEnd
    is_writer: bool = True
    """Whether this is the process that wrote the files: with torchrun there are others, which have nothing to add."""


Arrays = tuple[npt.ArrayLike, npt.ArrayLike]
"""X (N, rows, cols) or (N, rows), and y (N,)."""


def train(
    data: DataSource | Arrays = None,
    model: str | None = None,
    *,
    recipe: str = DEFAULT_RECIPE,
    output: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    preparation: Preparation | None = None,
    channels_first: bool = False,
    hidden_size: int | None = None,
    n_layers: int | None = None,
    rows_per_step: int | None = None,
    epochs: int | None = None,
    teachers: Sequence[str | os.PathLike[str]] = (),
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    bf16: bool = False,
    shards: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[Event | Started | str], None] = lambda event: None,
) -> Trained:
    """Train a model into a run folder, as `edgelstm train` does.

    ``data`` is what `open_dataset` reads, a `Dataset`, or arrays (X, y); None or ``mnist`` is MNIST, which is fetched
    if it is not there. ``model`` is base, small or nano: the LSTM's size (default: base for MNIST, else small).
    ``size`` (rows, cols) and ``preparation`` (digit, plain) are for pictures. ``output`` is by default runs/MODEL, or
    runs/NAME for data of that name. What is None is the model's or the recipe's. ``on_progress`` gets lines, a
    Started, and each event of the run; what it raises ends the run, whose last checkpoint stays.

    Processes that torchrun began train one model together: the first of them writes and reports. ``shards`` (default:
    the number of processes) are the parts of a batch whose gradients are summed in order: they fix the bits, not how
    many processes compute them. If such processes fail, one raises and the others exit with status 1.

    Raises DataError for data that cannot be trained on, ValueError for a size that is out of range, OutputError if the
    folder cannot be written or holds a run, CheckpointError if it cannot be resumed.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    for what, found, known in (("model", model, FAMILY), ("recipe", recipe, RECIPES)):
        if found is not None and found not in known:
            raise ValueError(f"{what}: found {found!r}, expected {', '.join(known)}")
    with joined(device) as group:
        if not group.is_writer:
            on_progress = _say_nothing
        is_mnist, dataset = is_mnist_source(data), None
        if isinstance(data, tuple):
            data = dataset_from_arrays(*data, size=size, preparation=preparation, channels_first=channels_first)
        if isinstance(data, Dataset):
            dataset = None if is_mnist else data
        elif not is_mnist and not (resume and output):
            dataset = open_dataset(
                data, size=size, preparation=preparation, channels_first=channels_first, report=on_progress
            )
        if dataset and not resume:
            for line in (dataset.describe(), *(f"warning: {line}" for line in dataset.warnings)):
                on_progress(line)
        name = model or (DEFAULT_MODEL if is_mnist else OWN_MODEL)
        folder = Path(output or Path(RUNS_DIR) / (dataset.name if dataset else name))

        def open_data(config: ModelConfig) -> Dataset:
            if data in (None, "mnist"):  # after all that can be refused at once
                if not group.local_rank:
                    ensure_mnist(report=on_progress)
                group.gather(None)  # the others find it there
            # what was read already; a run that is resumed has its own size and preparation, so its data is read for it
            source = data if resume or dataset is None else dataset
            return opened(source, config, channels_first=channels_first, report=on_progress)

        files = [Path(teacher) for teacher in teachers]
        if resume:
            plan, events = resume_run(folder, open_data, device, teachers=files, group=group)
        else:
            config = config_for(name, dataset)
            config = dataclasses.replace(
                config, hidden_size=hidden_size or config.hidden_size, n_layers=n_layers or config.n_layers,
                rows_per_step=rows_per_step or config.rows_per_step,
            )  # fmt: skip
            settings = recipe_for_data(recipe, config, len(dataset.train)) if dataset else recipe_for(name, recipe)
            settings = dataclasses.replace(settings, seed=seed, threads=threads, bf16=bf16)
            if epochs:
                settings = dataclasses.replace(settings, epochs=epochs, n_samples=None)
            plan = RunPlan(dataset.name if dataset else name, config, settings)
            events = begin_run(
                plan, folder, open_data, device, teachers=files, overwrite=overwrite, shards=shards, group=group
            )
        on_progress(Started(folder, plan))
        event: Event | None = None
        with contextlib.closing(events):  # the run's folder is free again, whatever stops it
            for event in events:
                on_progress(event)
        assert isinstance(event, RunEnd), "a run ends with RunEnd or an exception"
        return Trained(folder, plan, event, group.is_writer)


def _say_nothing(event: object) -> None:
    """The first of several processes speaks."""


def config_for(model: str, dataset: Dataset | None) -> ModelConfig:
    """The shape of a member of the family for a data set. Raises ValueError if it is out of range."""
    member = FAMILY[model]
    if dataset is None:
        return member
    lengths = dataset.train.lengths
    rows, cols = dataset.rows if lengths is None else int(lengths.max()), dataset.cols
    stacked = rows_per_step_for(rows, cols) if dataset.preparation == "values" and lengths is None else 1
    return dataclasses.replace(
        member, rows=rows, cols=cols, rows_per_step=stacked, class_names=dataset.class_names,
        preparation=dataset.preparation, variable_length=lengths is not None,
    )  # fmt: skip
