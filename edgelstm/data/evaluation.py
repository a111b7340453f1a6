"""What a trained model is scored on: the parts of its data that it was not trained on."""

import os
from dataclasses import dataclass
from pathlib import Path

from edgelstm.config import DIGITS, ModelConfig, data_dir
from edgelstm.data.dataset import Dataset, Part, open_dataset
from edgelstm.data.mnist import FILES, evaluation_digits, find_mnist, validation_digits
from edgelstm.data.npm import Report
from edgelstm.errors import DataError

DataSource = str | os.PathLike[str] | Dataset | None
"""A folder or file that `open_dataset` reads, ``mnist``, a data set that is open already; None: MNIST."""


@dataclass(frozen=True)
class Evaluation:
    """Labelled sequences that a model was not trained on."""

    test: Part | None = None
    """To score it on; None if none of its shape is at hand."""
    validation: Part | None = None
    """What its rules were chosen by; None if it is not at hand."""
    sha256: str | None = None
    """Of all the data that they are parts of."""

    def __str__(self) -> str:
        return (
            f"{len(self.test):,} sequences ({self.test.source})"
            if self.test
            else "random sequences, as no data here has its shape"
        )


def evaluation_of(
    data: DataSource, config: ModelConfig, *, channels_first: bool = False, report: Report = lambda line: None
) -> Evaluation:
    """What a model of this shape is scored on. Without ``data`` MNIST, if it reads such: all of it if it is on this
    machine, else the shipped sample; nothing is fetched.

    Raises DataError for named data that cannot be read or does not fit the model.
    """
    if is_mnist_source(data) and not isinstance(data, Dataset):
        folder = data_dir() if data in (None, "mnist") else Path(data)
        if (config.preparation, config.rows, config.cols, config.class_names) != ("digit", 28, 28, DIGITS):
            if data is None:
                return Evaluation()
            raise DataError("MNIST does not fit the model", found="28 x 28 pixels, digits", expected=_shape(config))
        validation = validation_digits(folder) if find_mnist(folder) else None
        return Evaluation(evaluation_digits(folder), validation, FILES["train", "images"].sha256)
    dataset = opened(data, config, channels_first=channels_first, report=report)
    return Evaluation(dataset.test, dataset.validation, dataset.sha256)


def opened(
    data: DataSource, config: ModelConfig, *, channels_first: bool = False, report: Report = lambda line: None
) -> Dataset:
    """The data as a model of this shape reads it: its size, its preparation, its classes. Raises DataError."""
    if not isinstance(data, Dataset):
        pictures = not config.is_values
        data = open_dataset(
            data, size=(config.rows, config.cols) if pictures else None, preparation=config.preparation,
            class_names=config.class_names, channels_first=channels_first, report=report,
        )  # fmt: skip
    wrong = data.class_names != config.class_names or data.preparation != config.preparation
    for part in data.parts.values():
        if wrong or not part.fits(config):
            raise DataError(f"{data.name} does not fit the model", found=data.describe(), expected=_shape(config))
    return data


def is_mnist_source(data: object) -> bool:
    """Whether it is MNIST that is meant: by no name, by its name, by its folder, or as an open data set."""
    if isinstance(data, Dataset):
        return data.sha256 == FILES["train", "images"].sha256
    return data is None or (isinstance(data, str | os.PathLike) and (data == "mnist" or bool(find_mnist(Path(data)))))


def _shape(config: ModelConfig) -> str:
    rows = "any number of" if config.variable_length else config.rows
    return f"{rows} rows x {config.cols} columns, {config.preparation}, classes {', '.join(config.class_names[:5])}" + (
        " ..." if config.n_classes > 5 else ""
    )
