"""What a data set holds, and what about it will mislead: counts, columns, duplicates and overlaps across its parts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Score
from edgelstm.data.dataset import Dataset, Part, shown_names

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

CHUNK_VALUES = 2**20
"""Values looked at together."""
UNEQUAL = 10
"""Times that the largest class has the sequences of the smallest one before it is worth a warning."""
MIN_OVERLAP_VALUES = 16
"""Values that change along the rows two windows share: so many are no chance."""
MAX_PAIRS = 100_000
"""Pairs of windows with equal hashes that are compared."""
N_BITS = 24
_FACTOR, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(64 - N_BITS)


@dataclass(frozen=True)
class ColumnStatistics:
    """Of each column (cols,), in float64, without padding."""

    mean: Floats
    std: Floats
    """1 for a column that is constant: to divide by it is safe."""
    minimum: Floats
    maximum: Floats


@dataclass(frozen=True)
class DataReport:
    """What `edgelstm inspect` shows of a data set."""

    description: str
    split: str
    sha256: str
    class_names: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Of each part the sequences of each class."""
    lengths: tuple[int, float, int]
    """Rows of the shortest, the median and the longest sequence."""
    statistics: ColumnStatistics
    """Of the training part."""
    baseline: Score
    """Of always answering the largest class of the training part, on the test part."""
    warnings: tuple[str, ...]


def report(dataset: Dataset) -> DataReport:
    """Look at a whole data set once."""
    lengths = np.concatenate([lengths_of(part) for part in dataset.parts.values()])
    counts = {name: tuple(_counts(dataset, part).tolist()) for name, part in dataset.parts.items()}
    return DataReport(
        dataset.describe(), dataset.split, dataset.sha256, dataset.class_names, counts,
        (int(lengths.min()), float(np.median(lengths)), int(lengths.max())), column_statistics(dataset.train),
        largest_class_baseline(dataset), dataset.warnings,
    )  # fmt: skip


def lengths_of(part: Part) -> npt.NDArray[np.int32]:
    """(N,) rows of each sequence, also where all have all."""
    return np.full(len(part), part.sequences.shape[1], np.int32) if part.lengths is None else part.lengths


def largest_class_baseline(dataset: Dataset) -> Score:
    """The score on the test part of always answering the largest class of the training part."""
    return Score(int((dataset.test.labels == _counts(dataset, dataset.train).argmax()).sum()), len(dataset.test))


def column_statistics(part: Part) -> ColumnStatistics:
    """Mean, standard deviation and range of each column: float64 (cols,), padding excluded, exact for any offset."""
    cols = part.sequences.shape[2]
    n, mean, squares = 0, np.zeros(cols), np.zeros(cols)
    minimum, maximum = np.full(cols, np.inf), np.full(cols, -np.inf)
    for _, values, inside in _chunks(part):
        rows = values[inside].astype(np.float64)  # (rows of all sequences, cols)
        # Chan, Golub and LeVeque (1979): means and squared deviations of two sets give those of both
        step = rows.mean(0) - mean
        share = len(rows) / (n + len(rows))
        squares += ((rows - rows.mean(0)) ** 2).sum(0) + step**2 * n * share
        mean, n = mean + step * share, n + len(rows)
        minimum, maximum = np.minimum(minimum, rows.min(0)), np.maximum(maximum, rows.max(0))
    std = np.sqrt(squares / max(n, 1))
    return ColumnStatistics(mean, np.where((minimum == maximum) | (std == 0), 1.0, std), minimum, maximum)


def warnings_of(dataset: Dataset) -> tuple[str, ...]:
    """What will mislead whoever trains on it or reads its score, a line each."""
    warnings = []
    for name, part in dataset.parts.items():
        if missing := [dataset.class_names[at] for at in np.flatnonzero(_counts(dataset, part) == 0)]:
            warnings.append(f"{name} has no sequence of {shown_names(missing)}")
    counts = _counts(dataset, dataset.train)
    if counts.max() > UNEQUAL * counts.min():
        names = [shown_names([dataset.class_names[int(at)]]) for at in (counts.argmax(), counts.argmin())]
        warnings.append(
            f"the classes are very unequal: {counts.max():,} sequences of {names[0]}, {counts.min():,} of {names[1]}; "
            "look at macro-F1, not at accuracy alone"
        )
    is_values = dataset.preparation == "values"
    if is_values:
        columns = column_statistics(dataset.train)
        offset = np.maximum(np.abs(columns.minimum), np.abs(columns.maximum))
        constant = columns.minimum == columns.maximum
        coarse = ~constant & (offset * 2.0**-24 > columns.std / 100)  # half the distance of two float32 numbers
        for flags, what in (
            (constant, "constant"),
            (coarse, "too far from 0 for float32: subtract their offset"),
            (_rises(dataset.train), "never falling, as a time stamp or counter: leave those out"),
        ):
            if flags.any():
                warnings.append(f"columns that are {what}: {shown_names(map(str, np.flatnonzero(flags) + 1))}")
    if dataset.train.groups is None and dataset.split != "given" and "test" in dataset.split.split("drawn")[0]:
        warnings.append(
            "no groups are known: if a person or recording gave several sequences, it is on both sides of the split "
            "and the score flatters; name them (group in an .npz, groups.csv in a folder)"
        )
    warnings += _shared_groups(dataset)
    warnings += _duplicates(dataset)
    if is_values and (overlap := _overlap(dataset)):
        warnings.append(f"windows overlap across the split, such as {overlap}: the score flatters; give them a group")
    return tuple(warnings)


def _counts(dataset: Dataset, part: Part) -> npt.NDArray[np.int64]:
    return np.bincount(part.labels, minlength=len(dataset.class_names))


def _chunks(part: Part) -> Iterator[tuple[slice, npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Some sequences at a time: which, (n, rows, cols), and which rows (n, rows) are no padding."""
    _, rows, cols = part.sequences.shape
    lengths, step = lengths_of(part), max(1, CHUNK_VALUES // (rows * cols))
    for start in range(0, len(part), step):
        chosen = slice(start, start + step)
        yield chosen, part.sequences[chosen], np.arange(rows) < lengths[chosen, None]


def _name(dataset: Dataset, part: str, at: int) -> str:
    names = dataset.parts[part].names
    return shown_names([names[at]]) if names else f"{part}[{at}]"


def _shared_groups(dataset: Dataset) -> list[str]:
    """Groups on several sides of a split that was given."""
    seen = {name: set(part.groups.tolist()) for name, part in dataset.parts.items() if part.groups is not None}
    return [
        f"{len(both):,} group(s) in {one} and in {other}, such as {shown_names(sorted(both), 1)}: the score flatters"
        for one, other in combinations(seen, 2)
        if (both := seen[one] & seen[other])
    ]


def _rises(part: Part) -> npt.NDArray[np.bool_]:
    """Of each column whether it never falls, and rises, within every sequence of several rows."""
    never_falls, several = np.ones(part.sequences.shape[2], bool), False
    for chosen, values, inside in _chunks(part):
        lengths = lengths_of(part)[chosen]
        never_falls &= ((values[:, 1:] >= values[:, :-1]) | ~inside[:, 1:, None]).all((0, 1))
        ends = values[np.arange(len(values)), lengths - 1]
        never_falls &= (ends > values[:, 0])[lengths > 1].all(0)
        several |= bool((lengths > 1).any())
    return never_falls & several


def _duplicates(dataset: Dataset) -> list[str]:
    """Warnings of sequences that are in an earlier part too, and of equal ones of different classes."""
    first: dict[bytes, tuple[str, int, str]] = {}
    warnings, unlike = [], []
    for part_name, part in dataset.parts.items():
        twins = []
        for at, (sequence, length) in enumerate(zip(part.sequences, lengths_of(part), strict=True)):
            key = hashlib.blake2b(sequence[:length].tobytes(), digest_size=16).digest()
            name, label = _name(dataset, part_name, at), int(part.labels[at])
            other, its_label, its_part = first.setdefault(key, (name, label, part_name))
            if its_part != part_name:
                twins.append(f"{name} = {other}")
            if its_label != label:
                mine, its = (shown_names([dataset.class_names[of]]) for of in (label, its_label))
                unlike.append(f"{name} ({mine}) = {other} ({its})")
        if twins:
            n = f"{len(twins):,} of {len(part):,} {part_name}"
            warnings.append(f"{n} sequences are in another part too, such as {twins[0]}")
    if unlike:
        warnings.append(f"{len(unlike):,} sequences equal one of another class, such as {unlike[0]}")
    return warnings


def _overlap(dataset: Dataset) -> str:
    """Two windows in different parts of which one goes on where the other began; empty if there are none.

    The first k rows of each are looked for inside all others by a rolling hash, in time linear in the data. Where they
    are found the windows are compared to the end of one, so nothing is claimed by a hash alone.
    """
    parts = dataset.parts
    lengths = {name: lengths_of(part) for name, part in parts.items()}
    shortest = min(int(some.min()) for some in lengths.values())
    k = max(shortest // 4, -(-MIN_OVERLAP_VALUES // dataset.cols) + 1)
    if k >= shortest:
        return ""
    heads, known = {}, {}  # by the first bits alone most windows are ruled out, before any search
    for name, part in parts.items():
        found = [_hashes(values[:, :k], k)[0][:, 0] for _, values, _ in _chunks(part)]
        heads[name] = np.unique(np.concatenate(found), return_index=True)
        known[name] = np.zeros(2**N_BITS, bool)
        known[name][heads[name][0] >> _SHIFT] = True
    n_compared = 0
    for name, part in parts.items():
        for chosen, values, inside in _chunks(part):
            hashes, changes = _hashes(values, k)
            usable = inside[:, k - 1 :] & (changes >= MIN_OVERLAP_VALUES)
            usable[:, 0] = False  # the same from the start on is a duplicate
            for other in parts.keys() - {name}:
                keys, owners = heads[other]
                at_rows = np.argwhere(usable & known[other][hashes >> _SHIFT])
                found_hashes = hashes[tuple(at_rows.T)]
                places = np.minimum(np.searchsorted(keys, found_hashes), len(keys) - 1)
                equal = np.flatnonzero(keys[places] == found_hashes)[: MAX_PAIRS - n_compared]
                for (at, row), owner in zip(at_rows[equal], owners[places[equal]], strict=True):
                    mine, its = chosen.start + int(at), int(owner)
                    n_rows = min(lengths[name][mine] - row, lengths[other][its])
                    if np.array_equal(part.sequences[mine, row:][:n_rows], parts[other].sequences[its, :n_rows]):
                        return f"{_name(dataset, name, mine)} and {_name(dataset, other, its)}"
                    n_compared += 1
    return ""


def _hashes(values: npt.NDArray[Any], k: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Of the k rows from each row on, (n, rows - k + 1): a hash, and how many values change along them."""
    n, rows, cols = values.shape
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    row_hash = (bits * _FACTOR ** np.arange(1, cols + 1, dtype=np.uint64)).sum(2, dtype=np.uint64)  # modulo 2**64
    row_hash = (row_hash ^ (row_hash >> np.uint64(29))) * _FACTOR
    # sums from the first row on; the factor is odd, so its inverse takes the place of a window out of its hash
    powers = _FACTOR ** np.arange(rows, dtype=np.uint64)
    sums = np.zeros((n, rows + 1), np.uint64)
    np.cumsum(row_hash * powers, axis=1, out=sums[:, 1:])
    inverse = np.uint64(pow(int(_FACTOR), -1, 2**64)) ** np.arange(rows - k + 1, dtype=np.uint64)
    changed = np.zeros((n, rows), np.int64)
    np.cumsum((values[:, 1:] != values[:, :-1]).sum(2), axis=1, out=changed[:, 1:])
    return (sums[:, k:] - sums[:, : rows - k + 1]) * inverse, changed[:, k - 1 :] - changed[:, : rows - k + 1]
