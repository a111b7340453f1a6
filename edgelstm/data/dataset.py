"""Labelled sequences in three parts, whatever file or folder they come from, and how they are parted."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig, Preparation
from edgelstm.data.npm import Report


@dataclass(frozen=True)
class Part:
    """Labelled sequences."""

    sequences: npt.NDArray[Any]
    """(N, rows, cols), uint8 pixels or float32 values; shorter ones end in zeros."""
    labels: npt.NDArray[np.int64]
    """(N,), the index of each sequence's class."""
    source: str
    """Where they come from, for reports."""
    lengths: npt.NDArray[np.int32] | None = None
    """(N,), rows of each, where they differ in the data set; None: each has all rows."""
    groups: npt.NDArray[np.str_] | None = None
    """(N,), the person or recording of each."""
    names: tuple[str, ...] = ()
    """Of the file or row that each was, for warnings; none if they are of no use."""

    def __len__(self) -> int:
        return len(self.labels)

    def fits(self, config: ModelConfig) -> bool:
        """Whether a model of this shape can be scored on them."""
        rows, cols = self.sequences.shape[1:]
        same_rows = rows == config.rows and (self.lengths is None or bool((self.lengths == rows).all()))
        return (
            (self.sequences.dtype != np.uint8) == config.is_values
            and cols == config.cols
            and (config.variable_length or same_rows)
            and int(self.labels.max(initial=0)) < config.n_classes
        )

    def take(self, indices: npt.NDArray[np.integer] | slice, source: str | None = None) -> "Part":
        """Those sequences, in that order; all of their names, lengths and groups go with them."""
        return Part(
            self.sequences[indices], self.labels[indices], self.source if source is None else source,
            None if self.lengths is None else self.lengths[indices],
            None if self.groups is None else self.groups[indices],
            tuple(np.array(self.names, object)[indices]) if self.names else (),
        )  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """What a model is trained on, chosen by, and tested on once."""

    name: str
    """Of the folder or file."""
    preparation: Preparation
    """What its sequences are made of."""
    class_names: tuple[str, ...]
    """By index, in natural order or in a model's."""
    train: Part
    validation: Part
    test: Part
    sha256: str
    """Of what was read; the order of the files in a folder is no part of it."""
    split: str
    """How it was split, in words."""
    warnings: tuple[str, ...] = ()
    """What will mislead, a line each."""

    @property
    def parts(self) -> dict[str, Part]:
        """train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def rows(self) -> int:
        """Of the longest sequence."""
        return max(part.sequences.shape[1] for part in self.parts.values())

    @property
    def cols(self) -> int:
        """Columns of every sequence."""
        return int(self.train.sequences.shape[2])

    @property
    def variable_length(self) -> bool:
        """Whether the sequences differ in rows."""
        return self.train.lengths is not None

    def describe(self) -> str:
        """What was understood, in one line."""
        rows = f"{self.rows} rows"
        if self.variable_length:
            rows = f"{min(int(p.lengths.min()) for p in self.parts.values() if p.lengths is not None)} to {rows}"
        parts = " / ".join(f"{len(part):,} {name}" for name, part in self.parts.items())
        n, kind = sum(map(len, self.parts.values())), self.train.sequences.dtype
        return f"{n:,} sequences of {rows} x {self.cols} columns, {kind}, {len(self.class_names)} classes, {parts}"


def open_dataset(
    source: str | os.PathLike[str] | None,
    *,
    size: tuple[int, int] | None = None,
    preparation: Preparation | None = None,
    class_names: tuple[str, ...] | None = None,
    channels_first: bool = False,
    report: Report = lambda line: None,
) -> Dataset:
    """Read a folder, an .npz or a .ts file, or MNIST. Raises DataError."""
    raise NotImplementedError
