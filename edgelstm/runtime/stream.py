"""A picture row by row: a session that keeps the LSTM's state between calls, for one stream or many."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import DEFAULT_MODEL, ModelConfig
from edgelstm.contract import (
    NEXT_STATE_NAMES,
    OUTPUT_NAME,
    ROW_NAME,
    STATE_NAMES,
    EarlyRule,
    Logits,
    ModelContract,
    Pixels,
)
from edgelstm.errors import ModelError
from edgelstm.files import sha256_of
from edgelstm.onnx_file import check_operators, check_weights
from edgelstm.runtime.early_exit import Decider
from edgelstm.runtime.runner import (
    SessionSettings,
    find_model,
    import_onnxruntime,
    onnxruntime_errors,
    open_session,
    placed_nodes,
    read_model,
    short_text,
)

DEFAULT_STREAM_MODEL = f"{DEFAULT_MODEL}.stream"
STREAM_FILE = "model.stream.onnx"
"""The exported streaming model of a run folder."""
STATE_FORMAT = "edgelstm-stream-state-1"
MAX_BOUND_SIZES = 8
EVERY_ROW = EarlyRule(1.0, 10**6)
"""Decides nothing before the last row."""

State = npt.NDArray[np.float32]
"""(layers, n, hidden)."""


@dataclass(frozen=True)
class _Bound:
    """Buffers for one number of rows a call, bound twice: from state 0 to state 1, and back."""

    row: Pixels
    logits: Logits
    bindings: tuple[Any, Any]


class Stream:
    """``n_streams`` pictures, each read row by row with its own LSTM state.

    ``model`` is a streaming ONNX file, a run folder, a shipped model's name, or the file's bytes. It runs on
    the CPU: a row takes a few microseconds there, less than any call to another device. One Stream belongs
    to one thread; as many as are wanted may live side by side.

    With ``early`` each call also asks the model's own rule, or the one given, whether the answer is settled
    (``decided``, ``decisions``); that costs some microseconds a call.

    Raises ModelError if the file is damaged, is no streaming model, or has no rule when ``early`` is True.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes = DEFAULT_STREAM_MODEL,
        *,
        n_streams: int = 1,
        early: bool | EarlyRule = False,
        settings: SessionSettings = SessionSettings(),
        source: str | None = None,
    ) -> None:
        if n_streams < 1:  # onnxruntime's LSTM ends the whole process on an empty batch
            raise ValueError(f"n_streams: found {n_streams}, expected at least 1")
        self._ort = import_onnxruntime()
        self._errors = onnxruntime_errors(self._ort)
        self.source = source or ("the model" if isinstance(model, bytes) else str(find_model(model, STREAM_FILE)))
        content = model if isinstance(model, bytes) else read_model(model, STREAM_FILE)
        check_weights(content, self.source)
        if not isinstance(model, bytes):
            check_operators(content, self.source)
        self.n_bytes = len(content)
        self.n_streams = n_streams
        self.settings = settings
        try:
            self._session = open_session(content, settings)
        except self._errors as error:
            raise ModelError(
                f"{self.source} cannot be loaded as an ONNX model", found=short_text(error),
                expected="an undamaged file written by `edgelstm export --streaming`", fix="export it again",
            ) from error  # fmt: skip
        self.contract = _checked_contract(self._session, self.source)
        self._config = self.contract.config
        rule = early if isinstance(early, EarlyRule) else self.contract.early if early else EVERY_ROW
        if rule is None:
            raise ModelError(
                f"{self.source} has no rule for deciding early", expected="one that validation images have chosen",
                fix="export it again where MNIST's training images are, or give edgelstm.Stream a rule",
            )  # fmt: skip
        self._decider = Decider(rule, n_streams)
        self._decides_early = early is not False
        shape = (self._config.n_layers, n_streams, self._config.hidden_size)
        # two of each: a call reads one and writes the other, so no state is ever copied
        self._states = [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(2)]
        self._now = 0
        self._bound: dict[int, _Bound] = {}
        self._rows_read = np.zeros(n_streams, np.int64)
        self._most_rows = 0

    def push(self, rows: Pixels, streams: Sequence[int] | None = None) -> Logits:
        """Read the next rows of every stream: (n_streams, rows, cols) uint8 -> (n_streams, classes) float32.

        The number of rows is free, but for being a multiple of the model's ``rows_per_step``; the logits are
        those after the last of them. A single stream also takes (rows, cols) or one row (cols,). With
        ``streams`` only those numbers go on, with (len(streams), rows, cols); that takes a slower way.

        Raises ValueError for another shape or dtype, for more rows than a picture has left (``reset`` begins
        the next one), or for a stream that is not there or there twice.
        """
        chosen = None if streams is None else self._chosen(streams)
        rows = self._checked(rows, self.n_streams if chosen is None else len(chosen))
        most = self._rows_after(rows.shape[1], chosen)
        try:
            logits = self._push_all(rows) if chosen is None else self._push_some(rows, chosen)
        except self._errors as error:
            raise ModelError(
                f"{self.source} cannot be run", found=short_text(error), fix="export the checkpoint again"
            ) from error
        self._count(rows.shape[1], most, chosen)
        if self._decides_early:
            which = slice(None) if chosen is None else chosen
            # the streams may stand at different rows: only those at their end must decide
            at_end = self._rows_read[which] == self._config.rows
            self._decider.update(logits, which, last=at_end)
        return logits

    def skip(self, n_rows: int, streams: Sequence[int] | None = None) -> None:
        """Count rows that came but need not be read, because these streams' answers are settled.

        Raises ValueError for more rows than a picture has left, as ``push`` does.
        """
        chosen = None if streams is None else self._chosen(streams)
        self._count(n_rows, self._rows_after(n_rows, chosen), chosen)

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Begin the next picture, of all streams or of those numbers."""
        which = slice(None) if streams is None else self._chosen(streams)
        for state in self._states[self._now]:
            state[:, which] = 0
        self._rows_read[which] = 0
        self._most_rows = int(self._rows_read.max())
        self._decider.reset(which)

    @property
    def rows_read(self) -> npt.NDArray[np.int64]:
        """(n_streams,) rows read of each picture."""
        return self._rows_read.copy()

    @property
    def decided(self) -> npt.NDArray[np.bool_]:
        """(n_streams,) whether each answer is settled: by the rule, or because the picture is read."""
        return self.decisions >= 0

    @property
    def decisions(self) -> npt.NDArray[np.int64]:
        """(n_streams,) the class each stream was decided on; -1 where it is open. Needs ``early``."""
        if not self._decides_early:
            raise ValueError("this Stream was made without early=True, so it decides nothing")
        return self._decider.decision.copy()

    def save(self) -> bytes:
        """The state of all streams, to go on from later or elsewhere: JSON and plain numbers, no code."""
        arrays = self._saved_arrays()
        header = {"format": STATE_FORMAT, "model": _identity(self.contract), "n_streams": self.n_streams}
        return json.dumps(header, sort_keys=True).encode() + b"\n" + b"".join(
            array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays
        )  # fmt: skip

    def restore(self, state: bytes) -> None:
        """Go on from what ``save`` gave. Raises ModelError if it is damaged, or of another model or number."""
        head, _, body = state.partition(b"\n")
        expected = {"format": STATE_FORMAT, "model": _identity(self.contract), "n_streams": self.n_streams}
        try:
            found = json.loads(head)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != STATE_FORMAT:
            raise ModelError("the saved state cannot be read", expected=STATE_FORMAT, fix="begin the picture anew")
        for key, what in (("model", "is of another model"), ("n_streams", "is of another number of streams")):
            if found.get(key) != expected[key]:
                raise ModelError(
                    f"the saved state {what}", found=str(found.get(key))[:80], expected=expected[key],
                    fix="begin the picture anew",
                )  # fmt: skip
        arrays = self._saved_arrays()
        if len(body) != sum(array.nbytes for array in arrays):
            raise ModelError(
                "the saved state is damaged", found=f"{len(body)} bytes of numbers",
                expected=sum(array.nbytes for array in arrays), fix="begin the picture anew",
            )  # fmt: skip
        read, at = [], 0
        for array in arrays:
            part = np.frombuffer(body, array.dtype.newbyteorder("<"), array.size, at)
            read.append(part.reshape(array.shape))
            at += array.nbytes
        h, c, rows_read, _, first, decision = read
        classes = self._config.n_classes
        sound = np.isfinite(h).all() and np.isfinite(c).all() and bool(
            (rows_read >= 0).all() and (rows_read <= self._config.rows).all()
            and all(((part >= -1) & (part < classes)).all() for part in (first, decision))
        )  # fmt: skip
        if not sound:
            raise ModelError("the saved state is damaged", found="impossible numbers", fix="begin the picture anew")
        for array, values in zip(arrays, read, strict=True):
            array[...] = values
        self._most_rows = int(self._rows_read.max())

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node, in running order, after onnxruntime's own fusions."""
        return placed_nodes(self._session)

    def _saved_arrays(self) -> list[npt.NDArray[Any]]:
        decider = self._decider
        return [*self._states[self._now], self._rows_read, decider.held, decider.first, decider.decision]

    def _push_all(self, rows: Pixels) -> Logits:
        """Through buffers that are bound once for each number of rows: nothing to look up, no state to copy."""
        bound = self._bound.get(rows.shape[1]) or self._bind(rows.shape[1])
        bound.row[...] = rows
        self._session.run_with_iobinding(bound.bindings[self._now])
        self._now = 1 - self._now
        return bound.logits.copy()

    def _bind(self, n_rows: int) -> _Bound:
        config, value = self._config, self._ort.OrtValue.ortvalue_from_numpy
        row = np.zeros((self.n_streams, n_rows, config.cols), np.uint8)
        logits = np.empty((self.n_streams, config.n_classes), np.float32)
        bindings = []
        for before in range(2):
            binding = self._session.io_binding()
            # on the CPU an OrtValue shares NumPy's memory
            inputs = zip((ROW_NAME, *STATE_NAMES), (row, *self._states[before]), strict=True)
            outputs = zip((OUTPUT_NAME, *NEXT_STATE_NAMES), (logits, *self._states[1 - before]), strict=True)
            for name, array in inputs:
                binding.bind_ortvalue_input(name, value(array))
            for name, array in outputs:
                binding.bind_ortvalue_output(name, value(array))
            bindings.append(binding)
        if len(self._bound) >= MAX_BOUND_SIZES:
            self._bound.clear()
        self._bound[n_rows] = _Bound(row, logits, (bindings[0], bindings[1]))
        return self._bound[n_rows]

    def _push_some(self, rows: Pixels, chosen: npt.NDArray[np.int64]) -> Logits:
        states = self._states[self._now]
        feeds = {name: state[:, chosen] for name, state in zip(STATE_NAMES, states, strict=True)}
        found = self._session.run([OUTPUT_NAME, *NEXT_STATE_NAMES], {ROW_NAME: rows, **feeds})
        for state, new in zip(states, found[1:], strict=True):
            state[:, chosen] = new
        logits: Logits = found[0]
        return logits

    def _rows_after(self, n_rows: int, chosen: npt.NDArray[np.int64] | None) -> int:
        """The row that the furthest of these streams will stand at after so many more."""
        most = self._most_rows if chosen is None else int(self._rows_read[chosen].max())
        if n_rows < 0 or most + n_rows > self._config.rows:
            raise ValueError(
                f"rows: found {n_rows} more for a picture of which {most} of {self._config.rows} are read; "
                "reset begins the next one"
            )
        return most + n_rows

    def _count(self, n_rows: int, most: int, chosen: npt.NDArray[np.int64] | None) -> None:
        if chosen is None:
            self._rows_read += n_rows
        else:
            self._rows_read[chosen] += n_rows
        self._most_rows = max(self._most_rows, most)

    def _chosen(self, streams: Sequence[int]) -> npt.NDArray[np.int64]:
        chosen = np.asarray(streams, np.int64)
        if chosen.ndim != 1 or not chosen.size or chosen.min() < 0 or chosen.max() >= self.n_streams:
            raise ValueError(f"streams: found {streams!r}, expected numbers from 0 to {self.n_streams - 1}")
        if np.unique(chosen).size != chosen.size:
            raise ValueError(f"streams: found {streams!r}, expected each number once")
        return chosen

    def _checked(self, rows: object, n: int) -> Pixels:
        config = self._config
        if isinstance(rows, np.ndarray) and n == 1 and rows.ndim in (1, 2) and rows.shape[-1] == config.cols:
            rows = rows.reshape(1, -1, config.cols)
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 3:
            found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise ValueError(f"rows: found {found}, expected a NumPy array uint8 ({n}, rows, {config.cols})")
        if rows.shape[0] != n or rows.shape[2] != config.cols:
            raise ValueError(f"rows: found {rows.dtype} {rows.shape}, expected uint8 ({n}, rows, {config.cols})")
        if not rows.shape[1] or rows.shape[1] % config.rows_per_step:
            raise ValueError(f"rows: found {rows.shape[1]}, expected a multiple of {config.rows_per_step}")
        return rows


def _identity(contract: ModelContract) -> str:
    """What a state belongs to: these weights in this shape and precision, whatever wrote the file."""
    parts = [contract.weights_sha256, contract.precision, asdict(contract.config)]
    return sha256_of(json.dumps(parts, sort_keys=True).encode())


def _checked_contract(session: Any, source: str) -> ModelContract:
    """The file's contract, held against what the session really takes and gives."""
    contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map, source, "stream")
    for what, values, expected in zip(
        ("input", "output"), (session.get_inputs(), session.get_outputs()), _signatures(contract.config), strict=True
    ):
        # names of axes are not promised, only which axes are free
        found = [(v.name, v.type, [size if isinstance(size, int) else None for size in v.shape]) for v in values]
        if found != expected:
            raise ModelError(
                f"{source} breaks the streaming contract in its {what}", found=found, expected=expected,
                fix="export the checkpoint again",
            )  # fmt: skip
    return contract


_Signature = list[tuple[str, str, list[int | None]]]


def _signatures(config: ModelConfig) -> tuple[_Signature, _Signature]:
    state = [config.n_layers, None, config.hidden_size]
    inputs: _Signature = [(ROW_NAME, "tensor(uint8)", [None, None, config.cols])]
    outputs: _Signature = [(OUTPUT_NAME, "tensor(float)", [None, config.n_classes])]
    inputs += [(name, "tensor(float)", state) for name in STATE_NAMES]
    outputs += [(name, "tensor(float)", state) for name in NEXT_STATE_NAMES]
    return inputs, outputs
