"""What `edgelstm score` is given, a folder, a list, Parquet, an .npz or a URI, in parts that any process reads."""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from edgelstm.config import ModelConfig
from edgelstm.data.arrays import MAX_SEQUENCE_BYTES, SEQUENCE_SUFFIXES, npz_arrays
from edgelstm.data.dataset import MAX_BYTES
from edgelstm.data.folders import GROUPS_FILE
from edgelstm.data.picture import MAX_FILE_BYTES, SUFFIXES, UNREADABLE_SUFFIXES
from edgelstm.errors import DataError, EdgeLstmError, MissingDependencyError, OutputError, PictureError, printable
from edgelstm.files import sha256_of
from edgelstm.runtime.classifier import Source

PART_ROWS = 4096
"""Inputs of a part where there are many: about a second of a core's work, and what a killed process loses."""
MIN_PART_ROWS, FEWEST_PARTS = 256, 64
"""Of fewer inputs the parts are smaller, so that every core has several; below 256 a file costs more than its rows."""
MOST_SLICES = 16
"""A row group is cut into so many parts at most: each reads over what stands before it."""
READ_ROWS = 64
"""Rows of a Parquet file in memory at a time: they may be photos."""
MAX_PATH_BYTES = 2**16
_URI = re.compile(r"([a-z][a-z0-9+.-]*://[^/?]*)([^?]*)(\?.*)?", re.ASCII | re.DOTALL)
NUL = b"\0"
COLUMNS = ("path", "bytes", "image")
"""Columns of a Parquet file that are read: paths; contents, named by a path beside them; or both in one."""

ERROR = "edgelstm.error"
"""The column of a listing that says why a folder could not be searched."""


@dataclass(frozen=True)
class Part:
    """Rows of one Parquet file: what is scored as one piece, by one process, into one file."""

    file: str
    start: int
    n: int


@dataclass(frozen=True)
class Inputs:
    """Everything that is to be scored, in order."""

    parts: tuple[Part, ...]
    n: int
    sha256: str
    """Of all names; of Parquet files of their names, sizes and times of change; of an .npz of its content."""
    listed: bool
    """Whether they had to be written as Parquet first."""


@dataclass(frozen=True)
class Row:
    """One input: its name as text, and what is read, or why nothing can be."""

    name: str
    source: Source | None
    error: str | None = None


def import_pyarrow() -> Any:
    """pyarrow with its modules parquet and fs; MissingDependencyError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "score", purpose="scoring a collection") from error
    return pyarrow


def suffixes(config: ModelConfig) -> tuple[str, ...]:
    """How the names of files end that a model reads."""
    return SEQUENCE_SUFFIXES if config.is_values else SUFFIXES


def search(
    folder: str, config: ModelConfig, more_suffixes: tuple[str, ...] = (), without: Path | None = None
) -> Iterator[tuple[str, OSError | None]]:
    """The files in a folder and its subfolders that a model reads, in the order of their paths.

    Pictures of formats that cannot be read come too: they get their error. So do folders that cannot be searched; the
    folder ``without`` is left out. Only the names in the folders on the way are in memory.
    """
    named = suffixes(config) if config.is_values else (*SUFFIXES, *UNREADABLE_SUFFIXES)
    match = _URI.fullmatch(folder)
    query = match[3] or "" if match else ""
    left = [os.path.join(folder.removesuffix(query), "")]
    while left:
        path = left.pop()
        if not path.endswith("/"):
            yield path + query, None
            continue
        if without is not None and os.path.realpath(path) == os.path.realpath(without):
            continue
        try:
            entries = _remote_entries(path + query) if match else _entries(path)
        except OSError as error:
            yield path.rstrip("/") or path, error
            continue
        below = any(name.endswith("/") for name in entries)
        names = [name for name in entries if name.lower().endswith(("/", *named, *more_suffixes))]
        left += [path + name for name in sorted(names, reverse=True) if not (below and name == GROUPS_FILE)]


def unsearched(name: str, error: OSError) -> str:
    """The error of a folder whose names cannot be had."""
    found = (error.strerror or str(error)).lower()
    return str(PictureError(f"cannot search {printable(name, 4096)}", found=found))


def find_inputs(source: str, config: ModelConfig, listing: Path, final: Path) -> Inputs:
    """What ``source`` stands for. What is no Parquet file is written as one into ``listing``, to be renamed ``final``.

    Raises DataError if there is nothing in it, or nothing that can be read, and OutputError if it cannot be written.
    """
    import_pyarrow()
    where, digest = printable(source, 4096), hashlib.sha256()
    tables: list[str] = []
    groups: dict[str, list[int]] = {}
    if os.path.isdir(source) and os.path.realpath(source) == os.path.realpath(final.parent):
        raise DataError(f"{where} is the output folder too", fix="choose another with -o")
    with _Listing(listing) as listed:
        if source != "-" and _is_folder(source):
            for name, problem in search(source, config, (".parquet",), final.parent):
                if not problem and name.partition("?")[0].lower().endswith(".parquet"):
                    tables.append(name)
                    continue
                if problem and name.rstrip("/") == source.rstrip("/"):
                    raise DataError(unsearched(source, problem))
                digest.update(os.fsencode(name) + NUL)
                listed.add(name, error=unsearched(name, problem) if problem else None)
            if tables and listed.n:
                found = f"{listed.n:,} files that the model reads, and {len(tables):,} Parquet files"
                raise DataError(f"{where} holds two kinds of inputs", found=found, fix="name the one or the other")
        else:
            with _opened(source) as stream:
                start = stream.peek(1)[:4]
                if start[:4] == b"PAR1":
                    tables.append(source)
                elif start[:2] == b"PK":
                    digest.update(_list_arrays(stream.read(MAX_BYTES + 1), source, listed).encode())
                else:
                    for line in _lines(stream, where):
                        digest.update(line + NUL)
                        listed.add(os.fsdecode(line))
    if not tables:
        if not listed.n:
            kind = "sequences of values" if config.is_values else "pictures"
            expected = f"{kind}, their paths, a line each, or Parquet files"
            raise DataError(f"{where} holds no inputs", expected=expected)
        sizes = [min(PART_ROWS, listed.n - at) for at in range(0, listed.n, PART_ROWS)]
        return Inputs(_parts({str(final): sizes}), listed.n, digest.hexdigest(), True)
    for name in tables:
        with _parquet(name) as (file, size, changed):
            _columns(file, name)
            groups[name] = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            digest.update(f"{os.fsencode(name)!r} {size} {changed} {sum(groups[name])}\n".encode())
    n = sum(map(sum, groups.values()))
    if not n:
        raise DataError(f"{where} holds no inputs", expected="Parquet files with rows")
    return Inputs(_parts(groups), n, digest.hexdigest(), False)


def read_rows(part: Part) -> Iterator[Row]:
    """Exactly ``part.n`` rows, streamed: those that cannot be had any more come with their error.

    Raises DataError if the file cannot be opened.
    """
    n = 0
    with _parquet(part.file) as (file, _, _):
        columns = _columns(file, part.file)
        try:
            for row in islice(_rows(file, part, columns), part.n):
                n += 1
                yield row
            problem = "fewer rows than when the work began"
        except (OSError, ValueError, import_pyarrow().ArrowException) as error:
            problem = " ".join(str(error).split())[:200]
    for at in range(part.start + n, part.start + part.n):
        name = f"{_shown(part.file)}#{at}"
        yield Row(name, None, str(DataError(f"cannot read {printable(name, 4096)}", found=problem)))


def _rows(file: Any, part: Part, columns: list[str]) -> Iterator[Row]:
    """From the first of the part's rows to the end of the row groups that hold them."""
    skipped, end = part.start, 0
    groups: list[int] = []
    for i in range(file.metadata.num_row_groups):
        start, end = end, end + file.metadata.row_group(i).num_rows
        if start < part.start + part.n and end > part.start:
            skipped = skipped if groups else part.start - start
            groups.append(i)
    at = part.start
    for batch in file.iter_batches(READ_ROWS, groups, columns=columns, use_threads=False):
        for row in batch.slice(min(skipped, len(batch))).to_pylist():
            yield _row(row, f"{_shown(part.file)}#{at}")
            at += 1
        skipped = max(0, skipped - len(batch))


def _row(row: dict[str, Any], place: str) -> Row:
    """One row of a Parquet file as an input. ``place`` names it if it has no path."""
    if row.get(ERROR):
        return Row(_shown(os.fsdecode(row["path"])), None, row[ERROR])
    if isinstance(row.get("image"), dict):
        row = row["image"]
    content, path = row.get("bytes", row.get("image")), row.get("path")
    name = os.fsdecode(path) if path else place
    if content is None and path and not ({"bytes", "image"} & {*row}):
        if not _URI.match(name):
            return Row(_shown(name), name)
        try:
            return Row(name, _content(name))
        except EdgeLstmError as error:
            return Row(name, None, str(error))
    if content is None:
        return Row(_shown(name), None, str(DataError(f"{printable(name, 4096)} is empty", found="null")))
    if content.startswith(b"\x93NUMPY") and ERROR in row:  # of an .npz
        return Row(name, np.load(io.BytesIO(content), allow_pickle=False))
    return Row(_shown(name), content)


class _Listing:
    """Inputs written as Parquet while they are found, so that no list of them is in memory."""

    def __init__(self, path: Path) -> None:
        self.n = 0
        self._path, self._rows = path, []  # type: ignore[var-annotated]
        self._writer: Any = None

    def __enter__(self) -> "_Listing":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._rows and kind is None:
            self._write()
        if self._writer is not None:
            with _written(self._path):
                self._writer.close()

    def add(self, name: str, content: bytes | None = None, error: str | None = None) -> None:
        self.n += 1
        self._rows.append({"path": os.fsencode(name), "bytes": content, ERROR: error})
        if len(self._rows) == PART_ROWS:
            self._write()

    def _write(self) -> None:
        pa = import_pyarrow()
        with _written(self._path):
            if self._writer is None:
                fields = {"path": pa.binary(), "bytes": pa.binary(), ERROR: pa.string()}
                if self._rows[0]["bytes"] is None:
                    del fields["bytes"]
                self._schema = pa.schema(fields)
                self._writer = pa.parquet.ParquetWriter(self._path, self._schema, compression="zstd")
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "free some space or choose a folder that can be written"
        raise OutputError(
            f"cannot write {path.parent}", found=os.strerror(error.errno) if error.errno else error, fix=fix
        ) from error


def _list_arrays(content: bytes, source: str, listed: _Listing) -> str:
    """The sequences of X in an .npz file, each as .npy; the sha256 of the file."""
    where = printable(source, 4096)
    if len(content) > MAX_BYTES:
        raise DataError(f"{where} is too large an .npz file", expected=f"at most {MAX_BYTES:,} bytes")
    arrays, others = npz_arrays(content, where, {"X", "lengths"})
    if "X" not in arrays or not arrays["X"].ndim:
        found = printable(", ".join(sorted([*arrays, *others]))) or "no arrays"
        raise DataError(f"{where} holds no inputs", found=found, expected="an array X (n, rows, cols)")
    lengths = arrays.get("lengths", np.full(len(arrays["X"]), arrays["X"][:1].size))
    if lengths.shape != arrays["X"].shape[:1] or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise DataError(f"{where}: lengths do not fit X", found=f"{lengths.dtype} of shape {lengths.shape}")
    for i, (sequence, n) in enumerate(zip(arrays["X"], lengths.tolist(), strict=True)):
        stream = io.BytesIO()
        np.save(stream, sequence[:n], allow_pickle=False)
        listed.add(f"{source}#{i}", stream.getvalue())
    return sha256_of(content)


def _lines(stream: io.BufferedReader, where: str) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(MAX_PATH_BYTES):
        number += 1
        if NUL in line or len(line) == MAX_PATH_BYTES:
            found = f"line {number:,} with {'a NUL in it' if NUL in line else 'no end'}"
            fix = "a single picture is for `edgelstm infer`; names that end in NUL for infer's --files0-from"
            raise DataError(f"{where} is no list of paths", found=found, expected="a path a line", fix=fix)
        if name := line.rstrip(b"\r\n"):
            yield name


def _parts(groups: dict[str, list[int]]) -> tuple[Part, ...]:
    """The same parts for the same files, wherever and however often they are made."""
    n = sum(map(sum, groups.values()))
    size = min(PART_ROWS, max(MIN_PART_ROWS, -(-n // FEWEST_PARTS)))
    parts = []
    for file, rows in groups.items():
        pieces: list[int] = []
        for n_rows in rows:
            k = min(MOST_SLICES, -(-n_rows // size))
            for i in range(k):
                piece = n_rows * (i + 1) // k - n_rows * i // k
                if pieces and pieces[-1] + piece <= size:
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
        starts = np.cumsum([0, *pieces]).tolist()
        parts += [Part(file, start, piece) for start, piece in zip(starts, pieces, strict=False)]
    return tuple(parts)


def _columns(file: Any, name: str) -> list[str]:
    schema = file.schema_arrow
    found = [column for column in (*COLUMNS, ERROR) if column in schema.names]
    problems = [column for column in found if not _fits(schema.field(column).type, column)]
    if problems or not {*COLUMNS} & {*found}:
        shown = (
            printable(", ".join(f"{field.name} ({field.type})" for field in schema)) if len(schema) else "no columns"
        )
        expected = "a column path (text), bytes (binary) or image (binary, or a struct of bytes and path)"
        raise DataError(f"{printable(name, 4096)} holds no inputs", found=shown, expected=expected)
    return found


def _fits(kind: Any, column: str) -> bool:
    types = import_pyarrow().types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    binary = types.is_binary(kind) or types.is_large_binary(kind)
    if column in ("bytes", "image"):
        fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
        return bool(binary) or (column == "image" and "bytes" in fields and _fits(fields["bytes"], "bytes"))
    return bool(binary or types.is_string(kind) or types.is_large_string(kind))


def _shown(name: str) -> str:
    """A name as UTF-8 can hold it: bytes that it cannot come as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# Files of this machine, and those that pyarrow opens by URI


def _entries(folder: str) -> set[str]:
    """Names in a local folder, those of folders with / behind; linked folders are not followed."""
    with os.scandir(folder.rstrip("/") or folder) as entries:
        return {entry.name + "/" * entry.is_dir() for entry in entries if not (entry.is_dir() and entry.is_symlink())}


def _remote_entries(folder: str) -> set[str]:
    files, path = _remote(folder)
    pa = import_pyarrow()
    found = files.get_file_info(pa.fs.FileSelector(path, recursive=False))
    return {quote(info.base_name) + "/" * (info.type == pa.fs.FileType.Directory) for info in found}


def _is_folder(source: str) -> bool:
    if not _URI.match(source):
        return os.path.isdir(source)
    with _understood(source):
        files, path = _remote(source)
        [info] = files.get_file_info([path])
        return bool(info.type == import_pyarrow().fs.FileType.Directory)


@contextmanager
def _understood(name: str) -> Iterator[None]:
    """What the system or pyarrow says of a file becomes a DataError."""
    try:
        yield
    except EdgeLstmError:
        raise
    except (OSError, ValueError, import_pyarrow().ArrowException) as error:
        found = (getattr(error, "strerror", None) or str(error)).lower()
        raise DataError(
            f"cannot read {printable(name, 4096)}", found=found[:300], fix="check its name and rights"
        ) from error


@contextmanager
def _opened(name: str) -> Iterator[io.BufferedReader]:
    with _understood(name):
        if _URI.match(name):
            files, path = _remote(name)
            stream = io.BufferedReader(files.open_input_file(path))
        elif name != "-" and os.path.exists(name) and not os.path.isfile(name):  # a pipe waits for who writes into it
            raise DataError(
                f"cannot read {printable(name, 4096)}", found="no regular file", expected="one, or a folder"
            )
        else:
            stream = open(0 if name == "-" else name, "rb", closefd=name != "-")  # noqa: SIM115 - closed below
    with stream:
        yield stream


@contextmanager
def _parquet(name: str) -> Iterator[tuple[Any, int, object]]:
    """An open Parquet file, its size and when it was changed. Raises DataError."""
    with _opened(name) as stream:
        with _understood(name):
            file = import_pyarrow().parquet.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
            if _URI.match(name):
                files, path = _remote(name)
                [info] = files.get_file_info([path])
                size, changed = info.size, info.mtime_ns
            else:
                status = os.fstat(stream.fileno())
                size, changed = status.st_size, status.st_mtime_ns
        yield file, size, changed


def _content(uri: str) -> bytes:
    """The bytes of a picture or a sequence that a URI names, at most as many as either may have."""
    limit = max(MAX_FILE_BYTES, MAX_SEQUENCE_BYTES)
    with _opened(uri) as stream, _understood(uri):
        return stream.read(limit + 1)


def _remote(uri: str) -> tuple[Any, str]:
    match = _URI.match(uri)
    assert match is not None
    place, path, query = match.groups()
    files, root = _filesystem(place, query or "")
    return files, root.rstrip("/") + unquote(path).rstrip("/")


@lru_cache
def _filesystem(place: str, query: str) -> tuple[Any, str]:
    """Made once: of object stores it asks the network for the region."""
    found: tuple[Any, str] = import_pyarrow().fs.FileSystem.from_uri(f"{place}/{query}")
    return found
