"""Labelled sequences in three parts, whatever file or folder they come from, and how they are parted."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import MAX_CLASSES, MAX_NAME, MAX_VALUES, MODEL_RANGES, ModelConfig, Preparation, data_dir, is_text
from edgelstm.data.npm import Report
from edgelstm.errors import DataError, printable

MAX_BYTES = 2**32
"""Of all decoded sequences of one data set: 4 GiB."""
MAX_SIDE = int(MODEL_RANGES["rows"][1])
"""Rows, and columns, of one sequence."""
N_ORDERS = 32
"""Orders in which groups are dealt out, of which the best is taken."""
FEWEST = {"test": 2, "validation": 4}
"""Sequences of a class from which a part gets at least one: the classes of few are kept for training."""


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
        return int(max(part.sequences.shape[1] for part in self.parts.values()))

    @property
    def cols(self) -> int:
        """Columns of every sequence."""
        return int(self.train.sequences.shape[2])

    @property
    def variable_length(self) -> bool:
        """Whether the sequences differ in rows."""
        return self.train.lengths is not None

    def with_parts(self, parts: Mapping[str, Part]) -> "Dataset":
        """The same with other sequences."""
        return replace(self, train=parts["train"], validation=parts["validation"], test=parts["test"])

    def describe(self) -> str:
        """What was understood, in one line."""
        rows = f"{self.rows} rows"
        if self.variable_length:
            rows = f"{min(int(p.lengths.min()) for p in self.parts.values() if p.lengths is not None)} to {rows}"
        parts = " / ".join(f"{len(part):,} {name}" for name, part in self.parts.items())
        n, kind = sum(map(len, self.parts.values())), self.train.sequences.dtype
        return f"{n:,} sequences of {rows} x {self.cols} columns, {kind}, {len(self.class_names)} classes, {parts}"


def open_dataset(
    source: str | os.PathLike[str] | None, *, size: tuple[int, int] | None = None, preparation: Preparation | None =
    None, class_names: tuple[str, ...] | None = None, channels_first: bool = False, report: Report = lambda line: None,
) -> Dataset:  # fmt: skip
    """Read MNIST (None, "mnist" or the folder of its files), a folder of classes, an .npz or a .ts file.

    ``size`` (rows, cols) is for pictures. ``class_names`` are a model's: the data's classes get its indices.
    ``channels_first``: values lie as (columns, rows). Raises DataError for what cannot be trained on.
    """
    from edgelstm.data import arrays, folders, mnist  # they build on this module

    path = data_dir() if source is None or source == "mnist" else Path(source)
    kinds, name = "a folder with a folder for each class, an .npz file, a .ts file, or mnist", printable(path, 4096)
    if source not in (None, "mnist") and not (source and os.path.exists(source)):  # Path.exists raises for long names
        raise DataError(f"no file or folder {name if source else repr(source)}", expected=kinds, fix="check its name")
    if source in (None, "mnist") or mnist.find_mnist(path):
        if class_names and (size or (28, 28), preparation or "digit") != ((28, 28), "digit"):
            expected = f"{preparation}, {size[0]} x {size[1]} pixels" if size else f"{preparation}"
            raise DataError("MNIST does not fit the model", found="digit, 28 x 28 pixels", expected=expected)
        if size not in (None, (28, 28)) or channels_first or preparation not in (None, "digit"):
            raise DataError("MNIST is 28 x 28 pixels, prepared as digits", fix="name other data, or no options for it")
        dataset = mnist.load_dataset(path)
        if class_names:
            parts = _renumbered(dataset.parts, dataset.class_names, class_names)
            dataset = replace(dataset, class_names=class_names).with_parts(parts)
        return dataset
    if path.is_dir():
        return folders.read_folder(path, size, preparation, class_names, channels_first, report)
    if path.suffix.lower() == ".npz":
        return arrays.read_npz(path, size, preparation, class_names, channels_first)
    if path.suffix.lower() in arrays.SEQUENCE_SUFFIXES:
        raise DataError(f"{name} is one sequence, for `edgelstm infer`, and no data set", expected=kinds)
    if path.suffix.lower() != ".ts":
        raise DataError(f"{name} is no data set", found=f"a file ending in {path.suffix!r}", expected=kinds)
    check_kind(name, True, size, preparation, False, class_names)
    if channels_first:
        raise DataError(f"{name} holds values, a column after the other", fix="leave out channels first")
    return arrays.read_ts(path, class_names)


def assemble(
    name: str, preparation: Preparation, parts: Mapping[str, Part], class_names: tuple[str, ...], sha256: str,
    model_classes: tuple[str, ...] | None = None, notes: tuple[str, ...] = (),
) -> Dataset:  # fmt: skip
    """A data set of at least the part ``train``: all of one shape, the missing parts drawn from it, the rest checked.

    ``notes`` are warnings of whoever read it. Raises DataError.
    """
    from edgelstm.data.checks import warnings_of  # it builds on this module

    parts = _of_one_shape(dict(parts))
    if model_classes is None:
        _check_classes(name, parts, class_names)
    else:
        parts, class_names = _renumbered(parts, class_names, model_classes), model_classes
    if drawn := [part for part in ("test", "validation") if part not in parts]:
        how = "by group" if parts["train"].groups is not None else "stratified by class"
        split = f"{' and '.join(drawn)} drawn from train, {how}" + (", the rest given" if len(drawn) == 1 else "")
        parts |= _divided(parts["train"], dict.fromkeys(drawn), name)
    else:
        split = "given"
    three = parts["train"], parts["validation"], parts["test"]
    dataset = Dataset(name, preparation, class_names, *three, sha256=sha256, split=split)
    return replace(dataset, warnings=(*notes, *warnings_of(dataset)))


def random_split(dataset: Dataset) -> Dataset:
    """The same sequences, in parts of the same sizes, drawn without regard to groups: how much that flatters."""
    parts = [*dataset.parts.values()]
    lengths = [part.lengths for part in parts if part.lengths is not None]
    names = tuple(name for part in parts for name in part.names) if all(part.names for part in parts) else ()
    whole = Part(
        np.concatenate([part.sequences for part in parts]), np.concatenate([part.labels for part in parts]),
        dataset.name, np.concatenate(lengths) if lengths else None, names=names,
    )  # fmt: skip
    drawn = _divided(whole, {"test": len(dataset.test), "validation": len(dataset.validation)}, dataset.name)
    return replace(dataset.with_parts(drawn), split="stratified by class, groups disregarded", warnings=())


def number_classes(
    labels: Mapping[str, list[str]], order: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, npt.NDArray[np.int64]]]:
    """The class names of all parts, sorted as people do unless in a given ``order``, and each part's indices."""
    found = {label for part in labels.values() for label in part}
    for label in sorted(found | set(order or ())):
        if not label or not is_text(label):
            shown, expected = printable(label, 60), f"text of 1 to {MAX_NAME} characters"
            raise DataError("a class cannot have this name", found=shown, expected=expected)
    if twice := [name for name in order or () if (order or ()).count(name) > 1]:
        raise DataError("a class is named twice", found=printable(twice[0]), fix="give each its own name")
    names = order or tuple(sorted(found, key=natural_key))
    if len(names) > MAX_CLASSES:
        fix = "are the labels numbers to predict? A classifier needs classes"
        raise DataError("too many classes", found=f"{len(names):,}", expected=f"at most {MAX_CLASSES:,}", fix=fix)
    if unknown := sorted(found - set(names), key=natural_key):
        raise DataError("a label is none of the classes", found=printable(unknown[0]), expected=shown_names(names))
    index = {name: at for at, name in enumerate(names)}
    return names, {part: np.array([index[label] for label in some], np.int64) for part, some in labels.items()}


def natural_key(name: str) -> tuple[int, list[Any], str]:
    """Sorts 2 before 10, -1 before 0, x2 before x10, and whole numbers before names."""
    if re.fullmatch(r"[-+]?\d+", name):
        return 0, [int(name)], name
    return 1, [int(piece) if at % 2 else piece for at, piece in enumerate(re.split(r"(\d+)", name))], name


def shown_names(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = [*names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(printable(name, 100) for name in names[:most]) + more


def check_shape(where: str, rows: int, cols: int) -> None:
    """Raise DataError unless a sequence of these rows and columns is one a model may have."""
    if not (0 < rows <= MAX_SIDE and 0 < cols <= MAX_SIDE and rows * cols <= MAX_VALUES):
        raise DataError(
            f"{where} is no sequence for a model", found=f"{rows:,} rows x {cols:,} columns",
            expected=f"1 to {MAX_SIDE:,} of each and at most {MAX_VALUES:,} values",
            fix="cut long sequences into windows; columns first are for --channels-first",
        )  # fmt: skip


def check_kind(
    where: str, are_values: bool, size: tuple[int, int] | None, preparation: Preparation | None, channels_first: bool,
    model_classes: tuple[str, ...] | None,
) -> None:  # fmt: skip
    """Raise DataError if it was asked for the other kind of sequences: by options, or by a model that has classes."""
    kind = "values" if are_values else "pictures"
    wants_values = are_values and not size if preparation is None else preparation == "values"
    if model_classes and are_values != wants_values:
        found = "sequences of values" if are_values else "pictures"
        expected = "sequences of values" if wants_values else f"pictures (preparation {preparation})"
        raise DataError(f"{where} holds {kind}", found=found, expected=expected)
    if are_values != wants_values or (are_values and size) or (channels_first and not are_values):
        raise DataError(f"{where} holds {kind}", fix="leave out the options for the other kind")


def check_total(n_bytes: int, where: str) -> None:
    """Raise DataError for decoded sequences beyond the limit; ask before memory is taken."""
    if n_bytes > MAX_BYTES:
        found, expected = f"{n_bytes:,} bytes once decoded and padded", f"at most {MAX_BYTES:,}"
        raise DataError(f"{where} is too large", found=found, expected=expected, fix="take fewer or shorter sequences")


def stacked(sequences: list[npt.NDArray[Any]], where: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Sequences (rows, cols) of one dtype and as many columns -> (N, rows of the longest, cols) with zeros, lengths."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    rows, cols = int(lengths.max()), sequences[0].shape[1]
    check_total(len(sequences) * rows * cols * sequences[0].itemsize, where)
    together = np.zeros((len(sequences), rows, cols), sequences[0].dtype)
    for padded, sequence in zip(together, sequences, strict=True):
        padded[: len(sequence)] = sequence
    return together, lengths


def _of_one_shape(parts: dict[str, Part]) -> dict[str, Part]:
    """With the rows of the longest sequence in every part; lengths only if they differ anywhere."""
    first = parts["train"]
    lengths = {}
    for name, part in parts.items():
        n, rows, cols = part.sequences.shape
        if not n:
            raise DataError(f"{part.source} has no sequences", fix="fill it, or leave it out: it is then drawn")
        if (cols, part.sequences.dtype) != (first.sequences.shape[2], first.sequences.dtype):
            found, expected = (f"{p.sequences.shape[2]} columns of {p.sequences.dtype}" for p in (part, first))
            raise DataError(f"{part.source} is not like {first.source}", found=found, expected=expected)
        lengths[name] = np.full(n, rows, np.int32) if part.lengths is None else part.lengths
    longest = max(int(some.max()) for some in lengths.values())
    differ = any((some != longest).any() for some in lengths.values())
    if differ and first.sequences.dtype == np.uint8:
        fix = "give all the same size; sequences of unequal length are float32 values"
        raise DataError(f"the pictures in {first.source} differ in rows", fix=fix)
    check_total(sum(map(len, parts.values())) * longest * first.sequences[0, :1].nbytes, first.source)
    shaped = {}
    for name, part in parts.items():
        sequences = part.sequences[:, :longest]
        if missing := longest - sequences.shape[1]:
            sequences = np.pad(sequences, ((0, 0), (0, missing), (0, 0)))
        shaped[name] = replace(part, sequences=sequences, lengths=lengths[name] if differ else None)
    return shaped


def _check_classes(name: str, parts: dict[str, Part], class_names: tuple[str, ...]) -> None:
    if len(class_names) < 2:
        found = f"only {shown_names(class_names)}" if class_names else "none"
        raise DataError(f"{name} has too few classes", found=found, expected="at least 2")
    counts = np.bincount(parts["train"].labels, minlength=len(class_names))
    least = 1 if len(parts) == 3 else 2  # one to train on, one to test with
    if (counts < least).any():
        at = int(counts.argmin())
        expected, fix = f"at least {least}", "record more, or leave the class out"
        raise DataError(
            f"class {printable(class_names[at])} of {name} has too few sequences to train on",
            found=counts[at], expected=expected, fix=fix,
        )  # fmt: skip


def _renumbered(parts: dict[str, Part], names: tuple[str, ...], model_classes: tuple[str, ...]) -> dict[str, Part]:
    """Labels that are indices into ``names`` -> into a model's classes."""
    present = {names[label] for part in parts.values() for label in np.unique(part.labels)}
    if unknown := sorted(present - set(model_classes), key=natural_key):
        fix = "train a model on this data, or leave these classes out"
        raise DataError(
            "the model does not know all classes of the data", found=shown_names(unknown),
            expected=shown_names(model_classes), fix=fix,
        )  # fmt: skip
    index = np.array([model_classes.index(name) if name in present else -1 for name in names], np.int64)
    return {name: replace(part, labels=index[part.labels]) for name, part in parts.items()}


def _divided(train: Part, wanted: Mapping[str, int | None], name: str) -> dict[str, Part]:
    """The parts that are drawn from ``train``, of so many sequences, and what is left of it.

    The same for the same sequences, whatever the seed of a training.
    """
    left, groups, parts = np.arange(len(train)), train.groups, {}
    for part, n_wanted in wanted.items():
        n, labels = len(left), train.labels[left]
        if n_wanted is None:
            # a test of 20 %; of the rest as many to validate as a choice needs, but no more than a fifth
            n_wanted = max(1, round(n / 5) if part == "test" else min(5000, max(n // 10, min(n // 5, 20))))
        if groups is None:
            chosen, of, how = _by_class(labels, n_wanted, FEWEST[part]), "", "by class"
        else:
            chosen, how = _by_group(labels, groups[left], n_wanted), "by group"
            of = f" of {len(np.unique(groups[left])):,} group(s)"
        if not chosen.any():
            fix = f"record more, or give the {part} part yourself" + (", or leave the groups out" if of else "")
            expected = "enough that every class stays in train" + (" and no group is on two sides" if of else "")
            what, found = f"{name} is too small to draw a {part} part from", f"{n:,} sequences{of}"
            raise DataError(what, found=found, expected=expected, fix=fix)
        parts[part] = train.take(left[chosen], f"{chosen.sum():,} sequences of {train.source}, drawn {how}")
        left = left[~chosen]
    return parts | {"train": train.take(left)}


def _by_class(labels: npt.NDArray[np.int64], n_wanted: int, fewest: int) -> npt.NDArray[np.bool_]:
    """Chosen (N,): of each class its share, but never its last; at least one of a class of ``fewest``."""
    counts = np.bincount(labels)
    share = counts * n_wanted / len(labels)
    quota = np.floor(share).astype(np.int64)
    for at in np.argsort(quota - share, kind="stable")[: n_wanted - quota.sum()]:  # the largest remainders first
        quota[at] += 1
    quota = np.minimum(np.maximum(quota, counts >= fewest), np.maximum(counts - 1, 0))
    chosen = np.zeros(len(labels), bool)
    order = _order(len(labels), 0)
    for label in np.flatnonzero(quota):
        chosen[order[labels[order] == label][: quota[label]]] = True
    return chosen


def _by_group(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], n_wanted: int) -> npt.NDArray[np.bool_]:
    """Chosen (N,): whole groups, about as many sequences as wanted and of about the same classes."""
    names, group = np.unique(groups, return_inverse=True)
    total = np.bincount(labels)
    contents: list[list[tuple[int, int]]] = [[] for _ in names]  # (class, count) of each group
    for pair, count in zip(*np.unique(group * len(total) + labels, return_counts=True), strict=True):
        contents[pair // len(total)].append((int(pair) % len(total), int(count)))
    best, chosen = np.inf, np.zeros(len(names), bool)
    for seed in range(N_ORDERS):
        left, taken = total.tolist(), np.zeros(len(names), bool)
        n_taken = 0
        for at in _order(len(names), seed):
            n_more = n_taken + sum(count for _, count in contents[at])
            is_last = any(left[label] == count for label, count in contents[at])  # of a class in train
            if is_last or (n_taken and abs(n_more - n_wanted) >= abs(n_taken - n_wanted)):
                continue
            for label, count in contents[at]:
                left[label] -= count
            n_taken, taken[at] = n_more, True
            if n_taken >= n_wanted:
                break
        if n_taken:
            shares = np.abs((total - left) / n_taken - total / len(labels)).sum() / 2
            if (distance := abs(n_taken - n_wanted) / n_wanted + shares) < best:
                best, chosen = distance, taken
    return np.asarray(chosen[group])


def _order(n: int, seed: int) -> npt.NDArray[np.int64]:
    """A random-looking order of n things, by the hash SplitMix64: the same in every version of NumPy."""
    mixed = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")
