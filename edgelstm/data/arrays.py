"""Arrays, .npz files, .ts files of the UEA archive, and one sequence as .csv or .npy: hostile ones included."""

import io
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import FLOAT32_MAX, MAX_VALUES, Preparation
from edgelstm.data.dataset import (
    MAX_BYTES,
    MAX_SIDE,
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
from edgelstm.errors import DataError, printable
from edgelstm.files import read_bounded, sha256_of

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float32]

SEQUENCE_SUFFIXES = (".csv", ".npy")
"""File endings of one sequence of values."""
MAX_SEQUENCE_BYTES = 32 * MAX_VALUES
"""Of the file of one sequence: 32 characters a value."""
MAX_MEMBERS = 1000
"""Files in an .npz."""
MAX_LINES = 1_000_000
"""Of a text, empty ones too."""
_SUFFIXES = {"train": "", "validation": "_validation", "test": "_test"}
_KEYS = {f"{key}{suffix}" for key in ("X", "y", "lengths", "group") for suffix in _SUFFIXES.values()} | {"class_names"}
_RAGGED = "store sequences of unequal length in one float32 array, padded with zeros, and their rows as lengths"


def read_npz(
    path: Path, size: tuple[int, int] | None = None, preparation: Preparation | None = None, model_classes: tuple[str,
    ...] | None = None, channels_first: bool = False,
) -> Dataset:  # fmt: skip
    """The data set in an .npz file: what ``dataset_from_arrays`` takes, by name. Raises DataError."""
    if (start := _start(path)) and not start.startswith(b"PK"):
        raise DataError(f"{printable(path, 4096)} is no .npz file", fix="write it with np.savez")
    content = read_bounded(path, MAX_BYTES, "an .npz file", DataError)
    arrays, others = npz_arrays(content, printable(path, 4096), _KEYS)
    if "X" not in arrays:
        found, expected = shown_names(sorted([*arrays, *others]), 20) or "no arrays", "X and y"
        raise DataError(f"{printable(path, 4096)} is no data set", found=found, expected=expected)
    meant = {key: get_close_matches(key, _KEYS - {*arrays}, 1, 0.8) for key in others}
    others = [f"{key} (did you mean {near[0]}?)" if near else key for key, near in meant.items()]
    notes = (f"not used of {printable(path.name)}: {shown_names(others)}",) if others else ()
    digest = sha256_of(content)
    del content
    return _from_arrays(arrays, path.name, digest, size, preparation, model_classes, channels_first, notes)


def dataset_from_arrays(
    X: npt.ArrayLike,  # noqa: N803 - its name everywhere
    y: npt.ArrayLike,
    *,
    class_names: npt.ArrayLike | None = None,
    name: str = "arrays",
    size: tuple[int, int] | None = None,
    preparation: Preparation | None = None,
    model_classes: tuple[str, ...] | None = None,
    channels_first: bool = False,
    **more: npt.ArrayLike | None,
) -> Dataset:
    """A data set of X (n, rows, cols) or (n, rows), and y (n,), the classes as whole numbers or texts.

    uint8 are pixels, everything else becomes float32 values. ``more`` are X_test, y_test, X_validation, y_validation;
    lengths, lengths_test, lengths_validation, the rows (n,) of each sequence of a padded X; group, group_test,
    group_validation, the person or recording (n,) of each. With ``class_names`` whole numbers in y are indices into
    them. Raises DataError, and TypeError for an unknown name.
    """
    if unknown := set(more) - _KEYS:
        raise TypeError(f"unknown arrays {sorted(unknown)}")
    arrays = {}
    for key, value in {"X": X, "y": y, "class_names": class_names, **more}.items():
        if value is not None:
            try:
                arrays[key] = np.asarray(value)
                if arrays[key].dtype == object:  # as pandas has texts
                    arrays[key] = np.array(arrays[key].tolist())
            except ValueError as error:
                raise DataError(f"{key} of {name} is no array", found=error, fix=_RAGGED) from error
    import hashlib

    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return _from_arrays(arrays, name, digest.hexdigest(), size, preparation, model_classes, channels_first, ())


def read_ts(path: Path, model_classes: tuple[str, ...] | None = None) -> Dataset:
    """The data set in NAME_TRAIN.ts and, if it lies beside it, NAME_TEST.ts; either may be named. Raises DataError."""
    stem = re.sub(r"_(train|test)$", "", path.stem, flags=re.IGNORECASE)
    paths = {"train": path}
    if stem != path.stem:
        upper = path.stem.removeprefix(stem)[1:].isupper()
        for part in ("train", "test"):
            other = path.with_name(f"{stem}_{part.upper() if upper else part}{path.suffix}")
            if part == "train" or other.exists():
                paths[part] = other
    for file in paths.values():
        if b"\0" in _start(file):
            raise DataError(f"{printable(file, 4096)} is no .ts file", found="binary or UTF-16", expected="UTF-8 text")
    contents = {part: read_bounded(file, MAX_BYTES // 2, "a .ts file", DataError) for part, file in paths.items()}
    read = {part: _ts_cases(content, printable(paths[part].name)) for part, content in contents.items()}
    class_names, labels = number_classes({part: [label for label, _, _ in cases] for part, cases in read.items()})
    parts = {}
    for part, cases in read.items():
        source = paths[part].name
        sequences, lengths = stacked([sequence for _, sequence, _ in cases], printable(source))
        names = tuple(f"{source}, line {line}" for _, _, line in cases)
        parts[part] = Part(sequences, labels[part], source, lengths, names=names)
        cases.clear()  # they are copied
    digest = sha256_of("".join(map(sha256_of, contents.values())).encode())
    return assemble(stem, "values", parts, class_names, digest, model_classes)


def _start(path: Path) -> bytes:
    """The first bytes, so that a huge file of another kind is refused unread; none of what is no regular file."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as stream:
                return stream.read(1000)
    return b""


def read_sequence(path: str | os.PathLike[str], channels_first: bool = False) -> Values:
    """The sequence in a .csv or .npy file: (rows, cols) float32; one dimension is one column.

    A .csv is parted by commas, semicolons, tabs or blanks; a first line of names and lines that begin with # are
    skipped. Raises DataError.
    """
    content = read_bounded(path, MAX_SEQUENCE_BYTES, "a sequence", DataError)
    return sequence_from(content, printable(path, 4096), channels_first)


def sequence_from(content: bytes, name: str, channels_first: bool = False) -> Values:
    """What ``read_sequence`` gives, of the content of a file: its first bytes say which kind it is."""
    if content.startswith(b"\x93NUMPY"):
        with _readable(name):
            values = _npy_array(io.BytesIO(content), name)
        values = _as_float32(values, name)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2:
            raise DataError(f"{name} is no sequence", found=f"shape {values.shape}", expected="(rows, cols)")
    else:
        values = _csv_values(content, name)
    values = np.ascontiguousarray(values.T) if channels_first else values
    check_shape(name, *values.shape)
    check_finite(values[None], lambda _: name)
    return values


def check_finite(values: Values, where: Callable[[int], str], fix: str = "fill or cut out what is missing") -> None:
    """Raise DataError for NaN and infinities in (N, rows, cols); ``where`` names a sequence."""
    step = max(1, 2**22 // max(1, values[0].size))
    for start in range(0, len(values), step):
        bad = ~np.isfinite(values[start : start + step])
        if bad.any():
            at, row, col = (int(some[0]) for some in bad.nonzero())
            raise DataError(
                f"{where(start + at)}: row {row + 1}, column {col + 1}", found=values[start + at, row, col],
                expected="a finite float32 number", fix=fix,
            )  # fmt: skip


def npz_arrays(content: bytes, name: str, keys: set[str] | None = None) -> tuple[dict[str, Array], list[str]]:
    """The arrays of an .npz file, of those keys, and the names of its others. Raises DataError.

    What its headers announce is checked before anything is unpacked; nothing is unpickled.
    """
    if content.count(b"PK\1\2") > MAX_MEMBERS:
        raise DataError(f"{name} is no data set", found=f"more than {MAX_MEMBERS:,} arrays")
    arrays, others, n_bytes = {}, [], 0
    with _readable(name), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if keys is not None and key not in keys:
                others.append(key)
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA may ask for any memory
                raise DataError(f"{name} is compressed in another way", expected="what np.savez_compressed writes")
            with archive.open(member) as stream:
                arrays[key] = _npy_array(stream, f"{printable(key)} of {name}", MAX_BYTES - n_bytes)
            n_bytes += arrays[key].nbytes
    return arrays, others


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Any error of a decoder fed with hostile bytes becomes a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about headers of Python 2
            yield
    except DataError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{name} is damaged", found=found, fix="save or copy it again") from error


def _npy_array(stream: IO[bytes], name: str, max_bytes: int = MAX_BYTES) -> Array:
    """The array in a .npy stream; its header decides whether the rest is read."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which are never loaded", fix=f"{_RAGGED}; texts as dtype str")
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes > max_bytes or len(shape) > 3 or min(shape, default=1) < 0:
        found, expected = f"{dtype} of shape {shape}", f"at most 3 dimensions and {MAX_BYTES:,} bytes in all"
        raise DataError(f"{name} is no array for a data set", found=found, expected=expected)
    flat = np.empty(math.prod(shape), dtype)  # memory is taken only as it is filled
    if n_bytes:
        left = flat.view(np.uint8)
        while len(left):
            chunk = stream.read(min(len(left), 2**24))
            if not chunk:
                raise EOFError("an end that comes too early")
            left[: len(chunk)] = np.frombuffer(chunk, np.uint8)
            left = left[len(chunk) :]
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _from_arrays(
    arrays: dict[str, Array], name: str, sha256: str, size: tuple[int, int] | None, preparation: Preparation | None,
    model_classes: tuple[str, ...] | None, channels_first: bool, notes: tuple[str, ...],
) -> Dataset:  # fmt: skip
    given = [part for part, suffix in _SUFFIXES.items() if f"X{suffix}" in arrays]
    lone = [key for key in sorted(arrays) if (key.partition("_")[2] or "train") not in [*given, "names"]]
    if "train" not in given or lone:
        found = shown_names(sorted(arrays)) or "no arrays"
        raise DataError(f"{name} is no data set", found=found, expected="X and y, or X_test and y_test beside them")
    order = arrays.get("class_names")
    classes = None if order is None else tuple(_labels(order, f"class_names of {name}"))
    labels, shaped = {}, {}
    for part in given:
        suffix = _SUFFIXES[part]
        n = len(arrays[f"X{suffix}"]) if arrays[f"X{suffix}"].ndim else 0
        for key in ("y", "lengths", "group"):
            column = arrays.get(f"{key}{suffix}")
            if column is None and key != "y":
                continue
            if column is None or column.shape != (n,) or column.dtype.kind not in "biufcUS":
                found = "none" if column is None else f"{column.dtype} of shape {column.shape}"
                raise DataError(f"{key}{suffix} of {name} does not fit X{suffix}", found=found, expected=f"({n},)")
        is_pixels = arrays[f"X{suffix}"].dtype == np.uint8  # which may be values too
        if model_classes and not (is_pixels and preparation == "values"):
            check_kind(name, not is_pixels, size, preparation, False, model_classes)
        shaped[part] = _sequences(arrays, suffix, name, size, preparation, channels_first)
        labels[part] = _labels(arrays[f"y{suffix}"], f"y{suffix} of {name}", classes)
    class_names, indices = number_classes(labels, classes)
    parts = {}
    for part, (sequences, lengths) in shaped.items():
        group = arrays.get(f"group{_SUFFIXES[part]}")
        source = f"X{_SUFFIXES[part]} of {name}"
        groups = None if group is None else np.array(_labels(group, f"group of {source}"), np.str_)
        parts[part] = Part(sequences, indices[part], source, lengths, groups)
    if preparation is None:
        preparation = "plain" if parts["train"].sequences.dtype == np.uint8 else "values"
    return assemble(Path(name).stem, preparation, parts, class_names, sha256, model_classes, notes)


def _sequences(
    arrays: dict[str, Array], suffix: str, name: str, size: tuple[int, int] | None,
    preparation: Preparation | None, channels_first: bool,
) -> tuple[Array, npt.NDArray[np.int32] | None]:  # fmt: skip
    """X of one part as pixels or values (n, rows, cols), checked, and its lengths."""
    key, lengths = f"X{suffix}", arrays.get(f"lengths{suffix}")
    x, where = arrays[key], f"{key} of {name}"
    x = x[:, :, None] if x.ndim == 2 else x
    x = x.swapaxes(1, 2) if channels_first and x.ndim == 3 else x
    if x.ndim != 3 or not len(x):
        raise DataError(f"{where} has no sequences", found=f"shape {arrays[key].shape}", expected="(n, rows, cols)")
    check_shape(where, *x.shape[1:])
    check_total(x.size * (1 if x.dtype == np.uint8 else 4), where)
    is_pixels = x.dtype == np.uint8 and preparation != "values"
    if not is_pixels and (size or preparation not in (None, "values")):
        raise DataError(f"{where} holds no pictures", found=str(x.dtype), expected="uint8 for a size or preparation")
    if is_pixels:
        from edgelstm.data.folders import prepared  # it builds on this module

        rows, cols = size or x.shape[1:]
        check_shape("the size", rows, cols)
        x = np.ascontiguousarray(x)
        if preparation == "digit" or (rows, cols) != x.shape[1:]:
            x = np.stack([prepared(picture, preparation or "plain", rows, cols) for picture in x])
        if lengths is not None:
            raise DataError(f"{where} holds pictures, which have no lengths", fix="store values as float32")
        return x, None
    x = _as_float32(x, where)
    if lengths is not None:
        if lengths.dtype.kind not in "iu" or not ((lengths > 0) & (lengths <= x.shape[1])).all():
            expected = f"whole numbers from 1 to {x.shape[1]}"
            raise DataError(f"lengths{suffix} of {name} do not fit {key}", found=_range(lengths), expected=expected)
        padding = np.arange(x.shape[1]) >= lengths[:, None]  # (n, rows)
        x = np.where(padding[:, :, None], np.float32(0), x)  # whatever it was padded with, NaN too
        lengths = lengths.astype(np.int32)
    check_finite(x, lambda at: f"{key}[{at}] of {name}", f"fill or cut out what is missing; {_RAGGED}")
    return np.ascontiguousarray(x), lengths


def _as_float32(values: Array, where: str) -> Values:
    """Real numbers of any dtype; infinite where float32 ends."""
    if values.dtype.kind not in "biuf":
        expected, fix = "real numbers", "store values as float32, pictures as uint8"
        raise DataError(f"{where} holds no numbers", found=str(values.dtype), expected=expected, fix=fix)
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _labels(y: Array, where: str, classes: tuple[str, ...] | None = None) -> list[str]:
    """The classes (n,) as texts; whole numbers are indices into ``classes``, if there are any."""
    expected = "whole numbers or texts of shape (n,)"
    if y.ndim != 1 or y.dtype.kind not in "biufUS":
        raise DataError(f"{where} are no classes", found=f"{y.dtype} of shape {y.shape}", expected=expected)
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.floor(y)) & (np.abs(y) < 2**53)
        if not whole.all():
            found = f"labels as floats, such as {y[~whole][0]}"
            raise DataError(f"{where} are no classes", found=found, expected=expected, fix="name the classes")
    if y.dtype.kind == "S":
        return [text.decode("utf-8", "replace") for text in y.tolist()]
    if y.dtype.kind == "U":
        return [str(text) for text in y.tolist()]
    if classes and len(y) and not (y.min() >= 0 and y.max() < len(classes)):
        found = _range(y)
        expected = f"indices 0 to {len(classes) - 1} of its class_names, or these names"
        raise DataError(f"{where} are no classes", found=found, expected=expected)
    return [classes[int(label)] if classes else str(int(label)) for label in y.tolist()]


def _range(values: Array) -> str:
    return f"{values.dtype}" + (f" from {values.min()} to {values.max()}" if values.dtype.kind in "biuf" else "")


def _ts_cases(content: bytes, name: str) -> list[tuple[str, Values, int]]:
    """Label, values (rows, cols) and line of each case of a .ts file."""
    cases: list[tuple[str, Values, int]] = []
    declared: list[str] | None = None
    n_bytes, in_data = 0, False
    for line, text in _text_lines(content, name):
        where = f"{name}, line {line}"
        if not text or text[0] in "#%":
            continue
        if not in_data:
            word, *rest = text[:MAX_VALUES].split()
            word, flag = word.lower(), rest[0].lower() if rest else ""
            in_data = word == "@data"
            if not word.startswith("@"):
                break
            if word == "@timestamps" and flag != "false":
                raise DataError(f"{where}: series with time stamps", expected="@timeStamps false, values alone")
            if word == "@targetlabel" and flag != "false":
                raise DataError(f"{where}: labels as floats", expected="@classLabel true and the classes")
            if word == "@classlabel" and flag == "true":
                declared = rest[1:]
            if in_data and declared is None:
                raise DataError(f"{where}: no classes", expected="a line @classLabel true and the classes before @data")
            continue
        if text.count(",") + text.count(":") > 2 * MAX_VALUES:
            raise DataError(f"{where} is too long", expected=f"at most {MAX_VALUES:,} values")
        *columns, label = text.split(":")
        label = label.strip()
        if declared and label not in declared:
            found, expected = printable(label, 60), shown_names(declared)
            raise DataError(f"{where}: no class at its end", found=found, expected=expected)
        values = [_numbers(texts.split(","), f"{where}, column {at}, row ") for at, texts in enumerate(columns, 1)]
        if not values or (cases and len(values) != cases[0][1].shape[1]):
            expected = f"{cases[0][1].shape[1]}, as in line {cases[0][2]}" if cases else "columns, parted by :"
            raise DataError(f"{where}: columns", found=len(values), expected=expected)
        if len({len(column) for column in values}) > 1:
            found = f"{min(map(len, values))} to {max(map(len, values))} values"
            raise DataError(f"{where}: columns of unequal length", found=found, expected="as many in each")
        sequence = np.stack(values, axis=1)
        check_shape(where, *sequence.shape)
        n_bytes += sequence.nbytes
        check_total(n_bytes, name)
        cases.append((re.sub(r"^([-+]?\d+)\.0*$", r"\1", label), sequence, line))
    if not cases:
        found = "a line @data and no cases" if in_data else "no line @data"
        raise DataError(f"{name} is no .ts file with classes", found=found, expected="the format of the UEA archive")
    return cases


def _csv_values(content: bytes, name: str) -> Values:
    """(rows, cols) of a .csv file."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:1000]:
        raise DataError(f"{name} is no .csv file", found="binary or UTF-16", expected="UTF-8 text")
    rows: list[Values] = []
    has_names = False
    for line, tokens in _csv_tokens(content, name):
        if not (rows or has_names) and all(map(_is_name, tokens)):
            has_names = True
            continue
        if len(tokens) > MAX_SIDE or len(rows) >= MAX_SIDE:
            check_shape(f"{name}, line {line}", len(rows) + 1, len(tokens))
        if rows and len(tokens) != len(rows[0]):
            expected = f"{len(rows[0])} as before"
            raise DataError(f"{name}, line {line}: columns", found=len(tokens), expected=expected)
        rows.append(_numbers(tokens, f"{name}, line {line}, column "))
    if not rows:
        raise DataError(f"{name} has no rows of numbers", fix="fill it, or remove it")
    return np.stack(rows)


def column_names(content: bytes) -> list[str]:
    """In the first line of a .csv file; none if it has no names, or is another file."""
    tokens = [] if content.startswith(b"\x93NUMPY") else next(_csv_tokens(content, ""), (0, []))[1]
    return [token.strip(" \"'") for token in tokens] if all(map(_is_name, tokens)) else []


def _csv_tokens(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Of each line that is no comment: its number and what is parted by the mark of the first one."""
    mark, is_first = None, True
    for line, text in _text_lines(content, name):
        if text and text[0] != "#":
            mark = next((mark for mark in ";,\t" if mark in text), None) if is_first else mark
            is_first = False
            yield line, text.split(mark, MAX_SIDE + 1)


def _text_lines(content: bytes, name: str) -> Iterator[tuple[int, str]]:
    stream = io.BytesIO(content.removeprefix(b"\xef\xbb\xbf"))
    for line, raw in enumerate(iter(lambda: stream.readline(MAX_SEQUENCE_BYTES + 1), b""), 1):
        if len(raw) > MAX_SEQUENCE_BYTES or line > MAX_LINES:
            expected = f"at most {MAX_LINES:,} lines of {MAX_SEQUENCE_BYTES:,} bytes"
            raise DataError(f"{name}, line {line} is too long or one too many", expected=expected)
        yield line, raw.decode("utf-8", "replace").strip(" \r\n")


def _numbers(tokens: list[str], where: str) -> Values:
    """Finite numbers; ``where`` ends before the number of the bad one."""
    try:
        values = np.array(tokens, np.float64)
    except ValueError:
        values = np.full(1, np.nan)
    if not (np.abs(values) <= FLOAT32_MAX).all():
        at = next(at for at, token in enumerate(tokens) if not _is_number(token))
        has_comma = re.fullmatch(r"\s*[-+]?\d+(,|[\t ]+[-+]?)\d+\s*", tokens[at])
        fix = "a decimal comma? Write a point" if has_comma else "fill or cut out what is missing"
        raise DataError(
            f"{where}{at + 1}", found=printable(tokens[at].strip(), 40), expected="a finite float32 number",
            fix=fix,
        )  # fmt: skip
    return values.astype(np.float32)


def _is_name(token: str) -> bool:
    """Of a column: it has a letter and is not NaN, infinity or another number."""
    try:
        float(token)
    except ValueError:
        return any(map(str.isalpha, token))
    return False


def _is_number(token: str) -> bool:
    try:
        return abs(float(token)) <= FLOAT32_MAX
    except ValueError:
        return False
