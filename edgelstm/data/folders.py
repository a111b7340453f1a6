"""Folders with a folder for each class: pictures, or a .csv or .npy a sequence; and pictures fitted as they are."""

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgelstm.config import MAX_NAME, Preparation, cache_dir
from edgelstm.data.arrays import MAX_SEQUENCE_BYTES, SEQUENCE_SUFFIXES, column_names, npz_arrays, sequence_from
from edgelstm.data.dataset import (
    Dataset,
    Part,
    assemble,
    check_kind,
    check_shape,
    check_total,
    number_classes,
    shown_names,
    stacked,
)  # fmt: skip
from edgelstm.data.npm import Report
from edgelstm.data.picture import MAX_FILE_BYTES, SUFFIXES, decode, digit_from_array
from edgelstm.errors import DataError, EdgeLstmError, PictureError, printable
from edgelstm.files import read_bounded, replacing, sha256_of

Pixels = npt.NDArray[np.uint8]
_Read = tuple[npt.NDArray[Any], npt.NDArray[Any], str]
"""Sequences (N, rows, cols), lengths (N,) and the sha256 of all names and contents."""

DEFAULT_SIZE = (28, 28)
"""Rows and columns of pictures that differ in size, or are larger than SMALL_PX."""
SMALL_PX = 64
PART_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
GROUPS_FILE = "groups.csv"
MAX_FILES = 1_000_000
MAX_GROUPS_BYTES = 2**27
N_CACHED = 8
"""Data sets in the cache folder; beyond, the oldest goes."""
MAX_CACHED_BYTES = 2**30
CACHE_VERSION = 3
"""Another number wherever the same files would be read into other sequences, or be refused."""


@dataclass(frozen=True)
class _File:
    """One sequence to read."""

    path: Path
    name: str
    """Below the top folder, parted by /."""
    part: str
    label: str


def plain_pixels(pixels: Pixels, rows: int, cols: int) -> Pixels:
    """A picture (H, W) or (H, W, 3) as grey (rows, cols): fitted and centred, neither inverted nor stretched.

    What it does not cover is filled with the median of its edge. One of that size already comes back bit for bit.
    """
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    if grey.shape == (rows, cols):
        return grey
    height, width = grey.shape
    scale = min(rows / height, cols / width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    # bilinear in Pillow averages all pixels that become one, and never overshoots as its sharper filters do
    fitted = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
    sheet = np.full((rows, cols), np.median(edge), np.uint8)
    top, left = (rows - height) // 2, (cols - width) // 2
    sheet[top : top + height, left : left + width] = np.asarray(fitted)
    return sheet


def prepared(pixels: Pixels, preparation: Preparation, rows: int, cols: int) -> Pixels:
    """A decoded picture -> (rows, cols), ``plain`` or as a ``digit``."""
    if preparation == "digit":
        return digit_from_array(pixels, rows, cols).pixels
    return plain_pixels(pixels, rows, cols)


def read_folder(
    folder: Path, size: tuple[int, int] | None = None, preparation: Preparation | None = None, model_classes: tuple[str,
    ...] | None = None, channels_first: bool = False, report: Report = lambda line: None,
) -> Dataset:  # fmt: skip
    """The data set in a folder of class folders, or of train, validation and test above them. Raises DataError.

    What was read lies in the cache folder, until a file changes.
    """
    where = printable(folder, 4096)
    files, others = _listed(folder, where)
    are_values = files[0].path.suffix.lower() in SEQUENCE_SUFFIXES
    if preparation is None:
        preparation = "values" if are_values else "plain"
    check_kind(where, are_values, size, preparation, channels_first, model_classes)
    if size:
        check_shape("the size", *size)
    groups = _groups(folder / GROUPS_FILE, files) if (folder / GROUPS_FILE).exists() else None
    sequences, lengths, digest = _cached(
        [repr((CACHE_VERSION, size, preparation, channels_first)), *map(_state, files)],
        lambda: _read(files, where, size, preparation, channels_first, report),
    )
    if groups is not None:
        digest = sha256_of(f"{digest} {groups.tolist()}".encode("utf-8", "surrogateescape"))
    class_names, labels = number_classes({"all": [file.label for file in files]})
    whole = Part(sequences, labels["all"], where, lengths, groups, tuple(file.name for file in files))
    parts = {}
    for part in dict.fromkeys(file.part for file in files):
        chosen = np.array([file.part == part for file in files])
        parts[part] = whole if chosen.all() else whole.take(np.flatnonzero(chosen), f"{part} of {where}")
    notes = (f"not read in {where}: {shown_names(others)}",) if others else ()
    name = printable(folder.resolve().name)
    return assemble(name, preparation, parts, class_names, digest, model_classes, notes)


def _listed(folder: Path, where: str) -> tuple[list[_File], list[str]]:
    """Every sequence in the folder, by name, and the names of what is none; hidden files are none of either."""
    layout = "a folder for each class, or train, validation and test with a folder for each class"
    tops = _folders(folder)
    found_parts = [PART_FOLDERS[top.lower()] for top in tops if top.lower() in PART_FOLDERS]
    if found_parts and (len(found_parts) != len(tops) or "train" not in found_parts or len({*found_parts}) < len(tops)):
        raise DataError(f"{where} is parted unclearly", found=shown_names(tops), expected=layout)
    homes = [(PART_FOLDERS[top.lower()], folder / top) for top in tops] if found_parts else [("train", folder)]
    files: list[_File] = []
    others: list[str] = []
    for part, home in homes:
        for label in _folders(home):
            n_before = len(files)
            for path in _walk(home / label, others):
                name = path.relative_to(folder).as_posix()
                if path.suffix.lower() in (*SUFFIXES, *SEQUENCE_SUFFIXES):
                    files.append(_File(path, name, part, label))
                else:
                    others.append(name)
                if len(files) + len(others) > MAX_FILES:
                    raise DataError(f"{where} is too large", found=f"more than {MAX_FILES:,} files", fix="use an .npz")
            if len(files) == n_before:
                what = f"class {printable(label)} in {printable(home, 4096)} is empty"
                expected = f"files ending in {' '.join((*SEQUENCE_SUFFIXES, *SUFFIXES))}"
                raise DataError(what, expected=expected, fix="fill the folder, or remove it")
    if not files:
        raise DataError(f"{where} has no classes", found="no folders in it", expected=layout)
    files.sort(key=lambda file: file.name)
    values = [file.name for file in files if file.path.suffix.lower() in SEQUENCE_SUFFIXES]
    if 0 < len(values) < len(files):
        picture = next(file.name for file in files if file.path.suffix.lower() in SUFFIXES)
        found = f"{printable(picture)} and {printable(values[0])}"
        raise DataError(f"{where} mixes pictures and sequences of values", found=found, expected="one kind")
    return files, sorted(others)


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise DataError(f"cannot read the folder {printable(folder, 4096)}", found=error.strerror) from error


def _walk(folder: Path, others: list[str]) -> Iterator[Path]:
    """Files at any depth; links to folders further down, which may go round in circles, are among the others."""

    def failed(error: OSError) -> None:
        raise DataError(f"cannot read the folder {printable(error.filename, 4096)}", found=error.strerror)

    for place, below, names in os.walk(folder, onerror=failed):
        others += [f"{name} (a link to a folder)" for name in below if os.path.islink(os.path.join(place, name))]
        below[:] = [name for name in below if name[0] != "."]
        yield from (Path(place, name) for name in names if name[0] != "." and name not in ("Thumbs.db", "desktop.ini"))


def _groups(path: Path, files: list[_File]) -> npt.NDArray[np.str_]:
    """The group (N,) of each file, out of lines ``path,group`` or ``path;group``."""
    name = printable(path, 4096)
    text = read_bounded(path, MAX_GROUPS_BYTES, "a table of groups", DataError).decode("utf-8-sig", "surrogateescape")
    groups: dict[str, str] = {}
    try:
        mark = "," if "," in text.lstrip().partition("\n")[0] else ";"
        for line, row in enumerate(csv.reader(io.StringIO(text), delimiter=mark), 1):
            if not row:
                continue
            if len(row) != 2 or not 0 < len(row[1]) <= MAX_NAME:
                raise DataError(f"{name}, line {line}", found=f"{len(row)} columns", expected="path,group")
            if groups.setdefault(row[0].replace("\\", "/"), row[1]) != row[1]:
                raise DataError(f"{name}, line {line}: a second group", found=printable(row[1]), expected="one a file")
    except csv.Error as error:
        raise DataError(f"{name} is no table", found=error, expected="lines of path,group") from error
    names = [file.name for file in files]
    if missing := [name for name in names if name not in groups]:
        known = {*names}
        others = [key for key in groups if "." in key and key not in known]
        unknown = f"; no file is called {printable(others[0])}" if others else ""
        raise DataError(f"{name} does not name all files", found=f"{len(missing):,} without a group, such as "
                        f"{printable(missing[0])}{unknown}", expected="a line path,group for each")  # fmt: skip
    return np.array([groups[name] for name in names], np.str_)


def _read(
    files: list[_File], where: str, size: tuple[int, int] | None, preparation: Preparation, channels_first: bool,
    report: Report,
) -> _Read:  # fmt: skip
    """Every file; of those that cannot be used one error."""
    read: list[npt.NDArray[Any]] = []
    bad: list[str] = []
    header: tuple[str, list[str]] | None = None
    digest, n_bytes, guessed = hashlib.sha256(), 0, False
    for n, file in enumerate(files):
        if n and n % 1000 == 0:
            report(f"read {n:,} of {len(files):,} files")
        name = printable(file.path, 4096)
        try:
            sequence: npt.NDArray[Any]
            if preparation == "values":
                content = read_bounded(file.path, MAX_SEQUENCE_BYTES, "a sequence", DataError)
                sequence = sequence_from(content, name, channels_first)
                if read and sequence.shape[1] != read[0].shape[1]:
                    found, expected = f"{sequence.shape[1]} columns", f"{read[0].shape[1]}, as in the files before"
                    raise DataError(name, found=found, expected=expected)
                if not channels_first and (columns := column_names(content)):  # else a name is a row's
                    header = header or (file.name, columns)
                    if columns != header[1]:
                        same = sorted(columns) == sorted(header[1])
                        what = "the columns in another order" if same else "other columns"
                        found = shown_names(columns, 12)
                        expected = f"{shown_names(header[1], 12)}, as in {printable(header[0])}"
                        raise DataError(f"{name} has {what}", found=found, expected=expected)
            else:
                content = read_bounded(file.path, MAX_FILE_BYTES, "a picture", PictureError)
                pixels = decode(content, name)
                shape = (pixels.shape[0], pixels.shape[1])
                if size is None:
                    guessed = preparation == "plain" and max(shape) <= SMALL_PX
                    size = shape if guessed else DEFAULT_SIZE
                elif guessed and shape != size:  # they differ: all get the default size
                    size, guessed = DEFAULT_SIZE, False
                    read = [plain_pixels(picture, *DEFAULT_SIZE) for picture in read]
                sequence = prepared(pixels, preparation, *size)
            digest.update(os.fsencode(file.name) + b"\0" + sha256_of(content).encode())
        except EdgeLstmError as error:
            bad.append(str(error))
            continue
        n_bytes += sequence.nbytes
        check_total(n_bytes, where)
        read.append(sequence)
    if bad:
        found, fix = " | ".join(bad[:5]), "repair or remove them: nothing is left out silently"
        raise DataError(f"{len(bad):,} of {len(files):,} files of {where} cannot be used", found=found, fix=fix)
    return *stacked(read, where), digest.hexdigest()


def _state(file: _File) -> str:
    """What changes when a file does: a rewritten one of the same size and time has another ctime or inode."""
    with contextlib.suppress(OSError):
        status = file.path.stat()
        return repr((file.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return file.name


def _cached(state: list[str], read: Callable[[], _Read]) -> _Read:
    """What ``read`` gives, from the cache folder if it lies there for the same ``state``, else kept there."""
    folder = cache_dir() / "data"
    path = folder / f"{sha256_of(chr(0).join(state).encode('utf-8', 'surrogateescape'))}.npz"
    with contextlib.suppress(EdgeLstmError, KeyError, OSError):  # none, or a damaged one: read anew
        arrays, _ = npz_arrays(read_bounded(path, 2 * MAX_CACHED_BYTES, "an .npz file", DataError), path.name)
        sequences, lengths, digest = arrays["sequences"], arrays["lengths"], str(arrays["sha256"])
        if sequences.shape[:1] == lengths.shape == (len(state) - 1,):
            return sequences, lengths, digest
    sequences, lengths, digest = read()
    if sequences.nbytes <= MAX_CACHED_BYTES:
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            with replacing(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, sequences=sequences, lengths=lengths, sha256=np.array(digest))
            for old in sorted(folder.glob("*.npz"), key=os.path.getmtime)[:-N_CACHED]:
                old.unlink(missing_ok=True)
    return sequences, lengths, digest
