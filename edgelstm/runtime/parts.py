"""A scoring job in parts: one part's rows read, answered and written as a Parquet file, whatever they do."""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from edgelstm.config import ModelConfig
from edgelstm.errors import OutputError, PictureError, printable
from edgelstm.files import write_bytes
from edgelstm.runtime.classifier import Classifier, Prediction, prepare
from edgelstm.runtime.inputs import Inputs, Part, Row, import_pyarrow, read_rows

MAX_DEATHS = 2
"""A process that ends over one input alone, so often, did not do so by chance."""
_COLUMNS = ("path", "label", "index", "confidence", "note", "error", "model_sha256")


@dataclass(frozen=True)
class Job:
    """All that a process must know to score any part, on whatever machine it runs."""

    output: Path
    classifier: Classifier
    inputs: Inputs
    model_sha256: str
    batch_size: int
    fingerprint: str
    """Of the inputs, the model and the options: what decides every row."""
    folder: str
    """Where relative paths begin."""

    def target(self, index: int) -> Path:
        """The file of a part."""
        return self.output / f"part-{index:06}.parquet"


@dataclass(frozen=True)
class Counts:
    """What became of inputs."""

    n: int = 0
    n_errors: int = 0
    n_abstained: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(one + another for one, another in zip(vars(self).values(), vars(other).values(), strict=True)))


def score_part(job: Job, index: int) -> Counts:
    """Score one part and write its file; one that is there already stays. Raises OutputError, ModelError, DataError."""
    global _tries
    if done := finished(job, index):
        return done
    part, target = job.inputs.parts[index], job.target(index)
    rows: list[Prediction] = []
    _tries = _Tries(target.with_name(f".{target.name}.tries"))
    try:
        for answered in _answered(job, part, _tries):
            rows += [replace(one, sequence=None) for one in answered]  # or all that the model saw stays in memory
        counts = Counts(len(rows), sum(row.error is not None for row in rows), sum(row.abstained for row in rows))
        write_bytes(target, _as_parquet(job, index, rows, counts))
        _tries.path.unlink(missing_ok=True)
    except BaseException:
        _tries.withdraw()  # it did not die
        raise
    finally:
        _tries.close()
        _tries = None
    return counts


def _as_parquet(job: Job, index: int, rows: list[Prediction], counts: Counts) -> bytes:
    pa = import_pyarrow()
    texts = pa.dictionary(pa.int32(), pa.string())
    kinds = (pa.string(), texts, pa.int32(), pa.float64(), texts, pa.string(), texts)
    columns = [[getattr(row, name) for row in rows] for name in ("source", *_COLUMNS[1:-1])]
    arrays = [
        pa.array(column, kind) for column, kind in zip([*columns, [job.model_sha256] * len(rows)], kinds, strict=True)
    ]
    metadata = {"edgelstm.part": f"{job.fingerprint} {index}", "edgelstm.counts": json.dumps(asdict(counts))}
    stream = pa.BufferOutputStream()
    table = pa.Table.from_arrays(arrays, schema=pa.schema(list(zip(_COLUMNS, kinds, strict=True)), metadata))
    pa.parquet.write_table(table, stream, compression="zstd", write_page_checksum=True)
    content: bytes = stream.getvalue().to_pybytes()
    return content


def finished(job: Job, index: int) -> Counts | None:
    """What became of a part whose file is there, whole and of this job."""
    pa, path = import_pyarrow(), job.target(index)
    if not path.exists():
        return None
    try:
        table = pa.parquet.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        counts = Counts(**json.loads(metadata[b"edgelstm.counts"]))
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        return None
    ours = metadata.get(b"edgelstm.part") == f"{job.fingerprint} {index}".encode()
    return counts if ours and counts.n == len(table) == job.inputs.parts[index].n else None


def _answered(job: Job, part: Part, tries: "_Tries") -> Iterator[list[Prediction]]:
    """The answers of a part, a batch at a time: the same batches in every try, as int8 answers depend on them.

    Where an earlier try of the part died, its batch is prepared one by one, then answered one by one, and what it dies
    of once more gets an error in place of an answer.
    """
    rows, config = read_rows(part), job.classifier.runner.contract.config
    for start in range(0, part.n, job.batch_size):
        n = min(job.batch_size, part.n - start)
        if tries.died(start, 0) >= MAX_DEATHS:  # in reading: nothing behind can be had
            for at in range(start, part.n):
                yield [_deadly(Row(f"{part.file}#{part.start + at}", None))]
            return
        tries.at(start, 0)
        batch = list(islice(rows, n))
        tries.at(start, n)
        n_died = tries.died(start, n)
        prepared = []
        for at, row in enumerate(batch, start):
            if n_died and tries.died(at, 1) >= MAX_DEATHS:
                prepared.append(_deadly(row))
                continue
            if n_died:
                tries.at(at, 1)
            prepared.append(_prepare(row, config))
        if n_died <= 1:
            tries.at(start, n)
            yield job.classifier.answer(prepared)
            continue
        for at, one in enumerate(prepared, start):
            tries.at(at, 1)
            yield job.classifier.answer([one])


def _prepare(row: Row, config: ModelConfig) -> Prediction:
    if row.source is None:
        return Prediction(row.name, error=row.error)
    [prepared] = prepare([row.source], config)
    return replace(prepared, source=row.name)


def _deadly(row: Row) -> Prediction:
    found = "a process that ended, each time, while it read this input"
    return Prediction(row.name, error=str(PictureError(f"cannot read {printable(row.name, 4096)}", found=found)))


class _Tries:
    """Where each try to score a part stands, in a file that outlives it: a record a try, inputs from ``start`` on.

    The last record of a try that ended in the middle of its work says which inputs it ended over.
    """

    _RECORD = struct.Struct("<qq")

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            content = os.read(self._handle, 2**16)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}", found=error.strerror, fix="choose another folder with -o"
            ) from error
        self._end = len(content) // self._RECORD.size * self._RECORD.size
        self._died = Counter(self._RECORD.iter_unpack(content[: self._end]))

    def died(self, start: int, n: int) -> int:
        """Tries that ended over these inputs."""
        return self._died[start, n]

    def at(self, start: int, n: int) -> None:
        """Now come ``n`` inputs from ``start`` on; 0: their reading."""
        os.pwrite(self._handle, self._RECORD.pack(start, n), self._end)

    def withdraw(self) -> None:
        """This try is ended from outside: it does not count."""
        with suppress(OSError):
            os.ftruncate(self._handle, self._end)

    def close(self) -> None:
        os.close(self._handle)


_tries: _Tries | None = None
"""Of the part that this process scores now."""


def withdraw() -> None:
    """This process is ended from outside: what it was doing is not to blame."""
    if _tries is not None:
        _tries.withdraw()
