"""A sequence as its rows come: the LSTM's state kept between calls, for one stream or many side by side."""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from operator import index
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig
from edgelstm.contract import (
    MAX_COUNT,
    NEXT_STATE_NAMES,
    OUTPUT_NAME,
    ROW_NAME,
    STATE_NAMES,
    EarlyRule,
    Lengths,
    Logits,
    Sequences,
)
from edgelstm.errors import ModelError
from edgelstm.files import sha256_of
from edgelstm.onnx_file import ModelFile, ModelSource, default_model, open_model
from edgelstm.runtime.early_exit import EVERY_ROW, Decider, StepLogits
from edgelstm.runtime.runner import AnyProvider
from edgelstm.runtime.session import MAX_BOUND_SHAPES, BoundSession, SessionSettings

STATE_FORMAT = "edgelstm-stream-state-1"
MAX_STREAMS = 65_536
"""Side by side, also of windows that overlap."""
MAX_STATE_HEAD = 1000
"""Bytes of a saved state's JSON: ours has about 150, and parsed JSON takes up to 30 times its text."""

_Call = Callable[[], None]
_Which = slice | npt.NDArray[np.int64]
_ALL = slice(None)


def stateful_form(file: ModelFile) -> bytes:
    """The model as an ONNX file of rows and state: what a Stream runs, and `edgelstm export --streaming` writes."""
    return file.form("stream")


class _Steps(Protocol):
    """What runs the steps of streams side by side, and holds their states."""

    @property
    def arrays(self) -> list[npt.NDArray[Any]]:
        """h and c as they are now, the arrays themselves."""
        ...

    def push(self, rows: Sequences, chosen: npt.NDArray[np.int64] | None = None) -> Logits:
        """(n, rows, cols) of all streams, or of those chosen -> (n, classes) float32."""
        ...

    def reset(self, which: "_Which | int") -> None:
        """Zero states."""
        ...

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node."""
        ...


class Stream:
    """``n_streams`` sequences, each read row by row with its own LSTM state.

    ``model`` is what OrtRunner takes: every exported model streams. It runs on the CPU, in onnxruntime or with
    ``provider`` c or c-int8 in the C engine: a row takes a few microseconds there, less than any call to another
    device. One Stream belongs to one thread; as many as are wanted may live side by side.

    A sequence ends after the model's rows; where lengths differ it ends when ``reset`` says so, and may go on for
    ever. With ``window`` it is one signal without end instead, and there is an answer for each window of so many rows
    that begins every ``hop`` rows (``window``): all of the model's rows, or any number where lengths differ.
    Overlapping windows run side by side, no row is read twice or kept; an int8 model rounds by the largest value of a
    call, so they touch each other's last digits, but not in the C engine.

    With ``early`` each call also asks the model's own rule, or the one given, whether the answer is settled
    (``decided``, ``decisions``); that costs some microseconds a call.

    Raises ModelError if the file does not keep the contract, or has no rule when ``early`` is True; ValueError for
    other values out of range.
    """

    def __init__(
        self,
        model: ModelSource | None = None,
        *,
        n_streams: int = 1,
        window: int | None = None,
        hop: int | None = None,
        early: bool | EarlyRule = False,
        provider: AnyProvider = "cpu",
        settings: SessionSettings = SessionSettings(),
        source: str | None = None,
    ) -> None:
        if not 1 <= n_streams <= MAX_STREAMS:  # onnxruntime's LSTM ends the whole process on an empty batch
            raise ValueError(f"n_streams: found {n_streams}, expected at least 1 and at most {MAX_STREAMS:,}")
        if window is None and hop is not None:
            raise ValueError("hop: found some without window, expected both")
        file = open_model(default_model() if model is None else model, source)
        self.source, self.contract, self.n_bytes = file.source, file.contract, file.n_bytes
        self.n_streams = n_streams
        self._config = self.contract.config
        self._dtype = np.dtype(np.float32 if self._config.is_values else np.uint8)
        endless = self._config.variable_length or window is not None
        self._max_rows = MAX_COUNT - 1 if endless else self._config.rows
        # as Python's own: a state keeps them as JSON, which NumPy's numbers are not
        self.window = None if window is None else index(window)
        self.hop = self.window if hop is None else index(hop)
        """Rows of each window of a signal without end, and from the beginning of one to that of the next; or None."""
        self.window_ends: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        """(k,) how many rows of the signal were read at the end of each window that the last ``push`` answered."""
        # windows overlap: each reads with a state of its own, which the window that begins after its end takes over
        self._n = n_streams if self.window is None else self._n_windows(n_streams, early is not False)
        rule = early if isinstance(early, EarlyRule) else self.contract.early if early else EVERY_ROW
        if rule is None:
            raise ModelError(f"{self.source} has no rule for early exit", **_wanted_for_a_rule(self._config))
        self._decider = Decider(rule, self._n)
        self._decides_early = early is not False
        self._steps, self._engine = _steps_of(file, self._n, provider, settings)
        self._rows_read = np.zeros(self._n, np.int64)
        self._most_rows = 0

    def __repr__(self) -> str:
        windows = "" if self.window is None else f", window={self.window}, hop={self.hop}"
        return f"Stream({self.source!r}, n_streams={self.n_streams}{windows})"

    def push(self, rows: Sequences, streams: Sequence[int] | None = None) -> Logits:
        """Read the next rows of every stream: (n_streams, rows, cols) -> (n_streams, classes) float32.

        Rows are uint8 pixels or float32 values, as the model has it.

        The number of rows is free, but for being a multiple of the model's ``rows_per_step``; the logits are
        those after the last of them. A single stream also takes (rows, cols) or one row (cols,). With
        ``streams`` only those numbers go on, with (len(streams), rows, cols); that takes a slower way.

        With ``window``: the next rows of the signal, none or any number, (rows, cols) or (cols,) -> (k, classes), the
        answers to the k windows that end within them; ``window_ends`` says where.

        Raises ValueError for another shape or dtype, for values that are not finite, for more rows than a sequence
        has left (``reset`` begins the next one), or for a stream that is not there or there twice.
        """
        if self.window is not None:
            return self._push_windows(rows, streams)
        which = self._chosen(streams)
        rows = self._checked(rows, self.n_streams if isinstance(which, slice) else len(which))
        most = self._most_after(rows.shape[1], which)
        logits = self._steps.push(rows, None if isinstance(which, slice) else which)
        self._rows_read[which] += rows.shape[1]
        self._most_rows = max(self._most_rows, most)
        if self._decides_early:
            # the streams may stand at different rows: only those at their end must decide
            at_end = self._rows_read[which] == self._max_rows
            self._decider.update(logits, which, last=at_end)
        return logits

    def skip(self, n_rows: int, streams: Sequence[int] | None = None) -> None:
        """Count rows that came but need not be read, because these streams' answers are settled.

        Raises ValueError for more rows than a sequence has left or for a part of a step, as ``push`` does.
        """
        if self.window is not None:
            raise ValueError("a signal that is read in windows has no rows to skip; reset begins anew after a gap")
        which = self._chosen(streams)
        self._check_steps(n_rows)
        most = self._most_after(n_rows, which)
        self._rows_read[which] += n_rows
        self._most_rows = max(self._most_rows, most)

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Begin the next sequence, of all streams or of those numbers; with ``window`` the next signal."""
        which = self._chosen(streams)
        self._steps.reset(which)
        self._rows_read[which] = 0
        self._most_rows = int(self._rows_read.max())
        self._decider.reset(which)

    @property
    def rows_read(self) -> npt.NDArray[np.int64]:
        """(n_streams,) rows read of each sequence, or of the signal."""
        return self._rows_read[: self.n_streams].copy()

    @property
    def decided(self) -> npt.NDArray[np.bool_]:
        """(n_streams,) whether each answer is settled: by the rule, or because the sequence is read."""
        return self.decisions >= 0

    @property
    def decisions(self) -> npt.NDArray[np.int64]:
        """(n_streams,) the class each stream was decided on; -1 where it is open. Needs ``early``."""
        if not self._decides_early:
            raise ValueError("this Stream was made without early=True, so it decides nothing")
        return self._decider.decision.copy()

    def save(self) -> bytes:
        """The state of all streams, to go on from later or elsewhere: JSON and plain numbers, no code."""
        return json.dumps(self._header(), sort_keys=True).encode() + b"\n" + b"".join(
            array.astype(array.dtype.newbyteorder("<")).tobytes() for array in self._saved_arrays()
        )  # fmt: skip

    def restore(self, state: bytes) -> None:
        """Go on from what ``save`` gave. Raises ModelError if it is damaged, or of another model or number."""
        end = state.find(b"\n", 0, MAX_STATE_HEAD)
        head, body = state[: max(end, 0)], state[end + 1 :]
        try:
            found = json.loads(head)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != STATE_FORMAT:
            raise _unusable("cannot be read", None, STATE_FORMAT)
        keys = {"model": "model", "n_streams": "number of streams", "window": "window and hop", "engine": "provider"}
        for key, what in keys.items():
            expected = self._header().get(key)
            if found.get(key) != expected:
                raise _unusable(f"is of another {what}", str(found.get(key))[:80], expected)
        arrays, read = self._saved_arrays(), []
        n_bytes = sum(array.nbytes for array in arrays)
        if len(body) != n_bytes:
            raise _unusable("is damaged", f"{len(body)} bytes of numbers", n_bytes)
        for array in arrays:
            part, body = body[: array.nbytes], body[array.nbytes :]
            read.append(np.frombuffer(part, array.dtype.newbyteorder("<")).reshape(array.shape))
        if not self._possible(read):
            raise _unusable("is damaged", "impossible numbers")
        for array, values in zip(arrays, read, strict=True):
            array[...] = values
        self._most_rows = int(self._rows_read.max())

    def row_call(self, sequences: Sequences) -> Callable[[], Logits]:
        """A call to be timed: reads one more step of ``sequences`` (n_streams, rows, cols), then the first again."""
        n_steps = sequences.shape[1] // self._config.rows_per_step
        steps = [np.ascontiguousarray(step) for step in np.split(sequences, n_steps, axis=1)]
        at = 0
        self.reset()

        def call() -> Logits:
            nonlocal at
            if at == len(steps):
                self.reset()
                at = 0
            at += 1
            return self.push(steps[at - 1])

        return call

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node, in running order, after onnxruntime's own fusions."""
        return self._steps.nodes()

    def _header(self) -> dict[str, object]:
        contract = self.contract
        # a state belongs to these weights in this shape and precision, whatever wrote the file
        shape = asdict(contract.config)
        if shape["preparation"] == "digit":  # as in states from before there were others
            del shape["preparation"], shape["variable_length"]
        parts = [contract.weights_sha256, contract.precision, shape]
        model = sha256_of(json.dumps(parts, sort_keys=True).encode())
        windows = {} if self.window is None else {"window": [self.window, self.hop]}
        return {"format": STATE_FORMAT, "model": model, "n_streams": self.n_streams, **windows, **self._engine}

    def _saved_arrays(self) -> list[npt.NDArray[Any]]:
        decider = self._decider
        return [*self._steps.arrays, self._rows_read, decider.held, decider.first, decider.decision]

    def _possible(self, arrays: list[npt.NDArray[Any]]) -> bool:
        """Whether an LSTM can have been in such a state: |h| is at most 1, |c| grows by 1 a step, but for rounding."""
        h, c, rows_read, held, first, decision = arrays
        config = self._config
        return bool(
            (h.dtype == np.int8 or (np.abs(h) <= 1.001).all())
            and (np.abs(c) <= 1.001 * max(1, rows_read.max(initial=0))).all()
            and (self.window is None or not rows_read.size or (rows_read == rows_read[0]).all())
            and ((rows_read >= 0) & (rows_read <= self._max_rows) & (rows_read % config.rows_per_step == 0)).all()
            and ((held >= 0) & (held <= rows_read // config.rows_per_step)).all()
            and all(((part >= -1) & (part < config.n_classes)).all() for part in (first, decision))
        )  # fmt: skip

    def _n_windows(self, n_streams: int, early: bool) -> int:
        """How many windows overlap at most. Raises ValueError for windows that cannot be read."""
        config, window, hop = self._config, self.window or 0, self.hop or 0
        if n_streams != 1 or early:
            raise ValueError("window: found n_streams or early beside it, expected one signal, read to each end")
        if not config.variable_length and window != config.rows:
            raise ValueError(f"window: found {window}, expected {config.rows}, which is what the model reads")
        step = config.rows_per_step
        if window < 1 or not 1 <= hop <= window or hop % step:
            why = f"; the model reads {step} rows a step, `train --rows-per-step 1` frees it" if hop % step else ""
            found = f"found {hop} for a window of {window} rows"
            raise ValueError(f"hop: {found}, expected a multiple of {step} up to it{why}")
        if (n := -(-window // hop)) > MAX_STREAMS:
            raise ValueError(f"window: found {n:,} that overlap, expected at most {MAX_STREAMS:,}; take a larger hop")
        return n

    def _push_windows(self, rows: Sequences, streams: Sequence[int] | None) -> Logits:
        """Windows begin at multiples of hop: each row is read once, by all states; those between windows are idle."""
        window, hop = self.window or 0, self.hop or 0
        self._chosen(streams)
        rows = self._checked(rows, 1, fewest=0)  # (1, rows, cols)
        found: list[npt.NDArray[np.float32]] = []
        ends: list[int] = []
        begin = at = int(self._rows_read[0])
        last = self._most_after(rows.shape[1], _ALL)
        while at < last:
            begun, left = divmod(at, hop)
            if not left:
                self._steps.reset(begun % self._n)
            end = max(at + 1, window)
            end += (window - end) % hop  # of the next window to end
            stop = min(last, at - left + hop, end)
            # each window's state reads them: the C engine takes them one after the other
            logits = self._steps.push(
                np.broadcast_to(rows[:, at - begin : stop - begin], (self._n, stop - at, rows.shape[2]))
            )
            self._rows_read[:] = self._most_rows = at = stop
            if at == end:
                ends.append(at)
                found.append(logits[(at - window) // hop % self._n])
        self.window_ends = np.array(ends, np.int64)
        return np.stack(found) if found else np.zeros((0, self._config.n_classes), np.float32)

    def _most_after(self, n_rows: int, which: _Which) -> int:
        """The row that the furthest of these streams will stand at after so many more."""
        most = self._most_rows if isinstance(which, slice) else int(self._rows_read[which].max())
        if most + n_rows > self._max_rows:
            raise ValueError(
                f"rows: found {n_rows} more for a sequence of which {most} of {self._max_rows} are read; "
                "reset begins the next one"
            )
        return most + n_rows

    def _chosen(self, streams: Sequence[int] | None) -> _Which:
        if streams is None:
            return _ALL
        if self.window is not None:
            raise ValueError("streams: found some, expected none: windows are of one signal")
        chosen = np.asarray(streams, np.int64)
        if chosen.ndim != 1 or not chosen.size or chosen.min() < 0 or chosen.max() >= self.n_streams:
            raise ValueError(f"streams: found {streams!r}, expected numbers from 0 to {self.n_streams - 1}")
        if np.unique(chosen).size != chosen.size:
            raise ValueError(f"streams: found {streams!r}, expected each number once")
        return chosen

    def _checked(self, rows: object, n: int, fewest: int = 1) -> Sequences:
        given, cols = rows, self._config.cols
        if isinstance(rows, np.ndarray):
            if n == 1 and rows.ndim in (1, 2) and rows.shape[-1] == cols:
                rows = rows.reshape(1, -1, cols)
            if rows.dtype == self._dtype and rows.ndim == 3 and rows.shape[0] == n and rows.shape[2] == cols:
                self._check_steps(rows.shape[1], fewest)
                if self._config.is_values and not np.isfinite(rows).all():  # one would stay in the state for ever
                    raise ValueError("rows: found a value that is not finite, expected numbers; reset after a gap")
                return rows
        found = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        one = f" or ({cols},)" if n == 1 else ""
        raise ValueError(f"rows: found {found}, expected a NumPy array {self._dtype} ({n}, rows, {cols}){one}")

    def _check_steps(self, n_rows: int, fewest: int = 1) -> None:
        if n_rows < fewest or n_rows % self._config.rows_per_step:
            raise ValueError(f"rows: found {n_rows}, expected a multiple of {self._config.rows_per_step}")


def _steps_of(
    file: ModelFile, n: int, provider: AnyProvider, settings: SessionSettings
) -> tuple[_Steps, dict[str, str]]:
    """What runs n streams, and how a saved state says that it is another's than onnxruntime's."""
    if provider == "c" or provider == "c-int8":
        from edgelstm.native.runner import CSteps

        steps = CSteps(file, n, provider)
        return steps, {"engine": f"C {steps.precision}"}
    return _OrtSteps(file, n, settings), {}


class _OrtSteps:
    """Streams in an onnxruntime session on the CPU."""

    def __init__(self, file: ModelFile, n: int, settings: SessionSettings) -> None:
        self._config, self._n = file.contract.config, n
        self._session = BoundSession(stateful_form(file), "cpu", settings, file.source)
        shape = (self._config.n_layers, n, self._config.hidden_size)
        # two of each: a call reads one and writes the other, so no state is ever copied
        self._states = [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(2)]
        self._now = 0
        self._bound: OrderedDict[int, tuple[Sequences, Logits, tuple[_Call, _Call]]] = OrderedDict()

    @property
    def arrays(self) -> list[npt.NDArray[Any]]:
        """h and c, each (layers, n, hidden)."""
        return list(self._states[self._now])

    def reset(self, which: _Which | int) -> None:
        for state in self._states[self._now]:
            state[:, which] = 0

    def nodes(self) -> list[tuple[str, str]]:
        return self._session.nodes()

    def push(self, rows: Sequences, chosen: npt.NDArray[np.int64] | None = None) -> Logits:
        return self._push_all(rows) if chosen is None else self._push_some(rows, chosen)

    def _push_all(self, rows: Sequences) -> Logits:
        """Through buffers that are bound once for each number of rows: nothing to look up, no state to copy."""
        row, logits, calls = self._bound.get(rows.shape[1]) or self._bind(rows.shape[1])
        row[...] = rows
        try:
            calls[self._now]()
        except self._session.errors as error:
            raise self._session.cannot_run(error) from error
        self._now = 1 - self._now
        return logits.copy()

    def _bind(self, n_rows: int) -> tuple[Sequences, Logits, tuple[_Call, _Call]]:
        """Rows, logits, and a call that reads and writes them: from state 0 to state 1, and one back."""
        row = np.zeros((self._n, n_rows, self._config.cols), np.float32 if self._config.is_values else np.uint8)
        logits = np.empty((self._n, self._config.n_classes), np.float32)

        def call(before: int) -> _Call:
            inputs = dict(zip(STATE_NAMES, self._states[before], strict=True))
            outputs = dict(zip(NEXT_STATE_NAMES, self._states[1 - before], strict=True))
            return self._session.bind({ROW_NAME: row, **inputs}, {OUTPUT_NAME: logits, **outputs})

        if len(self._bound) >= MAX_BOUND_SHAPES:
            self._bound.popitem(last=False)
        self._bound[n_rows] = row, logits, (call(0), call(1))
        return self._bound[n_rows]

    def _push_some(self, rows: Sequences, chosen: npt.NDArray[np.int64]) -> Logits:
        states = self._states[self._now]
        feeds = {name: state[:, chosen] for name, state in zip(STATE_NAMES, states, strict=True)}
        shapes = {name: feed.shape for name, feed in zip(NEXT_STATE_NAMES, feeds.values(), strict=True)}
        logits_shape = (len(chosen), self._config.n_classes)
        found = self._session.run({ROW_NAME: rows, **feeds}, {OUTPUT_NAME: logits_shape, **shapes})
        for state, name in zip(states, NEXT_STATE_NAMES, strict=True):
            state[:, chosen] = found[name]
        logits: Logits = found[OUTPUT_NAME]
        return logits


def _wanted_for_a_rule(config: ModelConfig) -> dict[str, str]:
    """What an error says where a model has no rule: `export` chooses one by no fewer sequences than it trusts."""
    wanted, give = "at least 500 validation sequences of one length", "give edgelstm.Stream a rule"
    if config.variable_length:
        return {"found": "a model of sequences of any length", "expected": f"one chosen by {wanted}", "fix": give}
    return {"expected": f"one chosen by {wanted}", "fix": f"export it again where these are, or {give}"}


def _unusable(why: str, found: object, expected: object = None) -> ModelError:
    return ModelError(f"the saved state {why}", found=found, expected=expected, fix="begin the sequence anew")


def logits_by_step(stream: Stream, sequences: Sequences) -> StepLogits:
    """Sequences (N, rows, cols) through a Stream, one step a call -> (N, steps, classes).

    As many at a time as it has streams; whatever it was reading is given up.
    """
    config, n = stream.contract.config, stream.n_streams
    n_steps = sequences.shape[1] // config.rows_per_step
    found = np.empty((len(sequences), n_steps, config.n_classes), np.float32)
    for at in range(0, len(sequences), n):
        part = sequences[at : at + n]
        # the last sequences may be fewer than the streams
        some = None if len(part) == n else range(len(part))
        stream.reset()
        for step in range(n_steps):
            rows = part[:, step * config.rows_per_step : (step + 1) * config.rows_per_step]
            found[at : at + n, step] = stream.push(rows, some)
    stream.reset()
    return found


def last_logits(stream: Stream, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
    """The same, but (N, classes) after each sequence's own last row; one that has ended is pushed no more."""
    if lengths is None:
        return logits_by_step(stream, sequences)[:, -1]
    found = np.empty((len(sequences), stream.contract.config.n_classes), np.float32)
    for at in range(0, len(sequences), stream.n_streams):
        part, ends = sequences[at : at + stream.n_streams], lengths[at : at + stream.n_streams]
        stream.reset()
        for row in range(int(ends.max())):
            goes_on = np.flatnonzero(ends > row)
            some = None if len(goes_on) == stream.n_streams else goes_on.tolist()
            logits = stream.push(part[goes_on, row : row + 1], some)
            found[at + goes_on] = logits
    stream.reset()
    return found
