"""A picture or a sequence of values in, a class out: a model together with the preparation it was trained with."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL.Image import Image, fromarray

from edgelstm.config import DEFAULT_MODEL, ModelConfig
from edgelstm.contract import MAX_ROWS, Lengths, ModelContract, Pixels, Sequences
from edgelstm.data.picture import MAX_FILE_BYTES, digit_from_array, pixels_of, read_pixels
from edgelstm.errors import DataError, EdgeLstmError, ModelError, PictureError, printable
from edgelstm.onnx_file import ModelSource, open_model
from edgelstm.runtime.calibration import logits_of_views, no_digit_score, probabilities
from edgelstm.runtime.runner import AnyProvider, open_runner
from edgelstm.runtime.session import SessionSettings

Source = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any] | Image
"""What a model reads, as it was trained.

Pictures (``digit`` and ``plain`` models): a file's path, its content, a file open for reading in binary, an array or a
Pillow image. An array is uint8, (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, of any size: it is prepared
as a file with these pixels would be.

Values: the path of a .csv or .npy file, its content, or an array of real numbers of any dtype, (rows, columns), or
(rows,) for a model of one column. Rows are time steps; as many as the model reads, or any number where lengths differ.

For sequences that are prepared already, (B, rows, cols), there is ``OrtRunner.logits``.
"""
LOW_CONFIDENCE = 0.7
"""Below, an answer gets a note: of such answers about every third is wrong or more."""
NO_DIGIT = "no digit"
"""The note of a picture that looks like none; the model's nearest class is named all the same."""
CHUNK = 16
"""Inputs that are read before the model runs once on all of them: what one costs a run is then small."""


@dataclass(frozen=True)
class Prediction:
    """What one input was read as; ``error`` says why it could not be."""

    source: str
    """Its name: its path, or - if it has none."""
    index: int | None = None
    """Index of the class; None if there is an error, no ink, or less confidence than was asked for."""
    label: str | None = None
    """Name of the class; None where ``index`` is."""
    confidence: float | None = None
    """Probability of the most probable class, 0 to 1, by the model's temperature; None if nothing was read.

    Where the note says that it is no digit, times the probability that it is one: less than a half."""
    top: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    """Names of the most probable classes with their probabilities, falling."""
    note: str | None = None
    """Something that is worth a look, such as values far outside those that the model was trained on."""
    error: str | None = None
    sequence: Sequences | None = field(default=None, repr=False, compare=False)
    """(rows, cols) uint8 or float32, what the model was shown."""

    @property
    def abstained(self) -> bool:
        """Whether the input was read and still got no class: nothing in it, or too little confidence."""
        return self.index is None and self.error is None

    def to_json(self) -> dict[str, object]:
        """The values for JSON: all but the sequence, probabilities with six digits."""
        values: dict[str, object] = {key: value for key, value in vars(self).items() if key != "sequence"}
        values["confidence"] = None if self.confidence is None else round(self.confidence, 6)
        values["top"] = [[name, round(share, 6)] for name, share in self.top]
        return values


def prepare(sources: list[Source], config: ModelConfig, channels_first: bool = False) -> list[Prediction]:
    """Read inputs as the model's preparation says: predictions with what it is shown, and no answer yet.

    One that fails, however it does, has its error and no sequence.
    """
    prepared = []
    for source in sources:
        try:
            prepared.append(_prepared(source, config, channels_first))
        except (EdgeLstmError, TypeError) as error:
            prepared.append(Prediction(_name(source), error=str(error)))
    return prepared


def prepare_each(
    chunks: Iterator[list[Source]], config: ModelConfig, channels_first: bool = False
) -> Iterator[list[Prediction]]:
    """``prepare`` for each chunk in turn, in this process."""
    return (prepare(chunk, config, channels_first) for chunk in chunks)


PrepareEach = Callable[[Iterator[list[Source]], ModelConfig, bool], Iterator[list[Prediction]]]
"""Prepares chunks of inputs, in order: ``prepare_each``, or something that has others do it."""


class Classifier:
    """Reads pictures, or sequences of values, with an exported model: what it was trained on, prepared as then.

    ``model`` is an ONNX file, a run folder, a shipped model's name, a file's content or what `open_model` gave;
    ``provider`` is what `open_runner` takes; ``top`` is how many classes a Prediction names at most. An answer
    less probable than ``min_confidence``, 0 to 1, is no answer: its index and label are None. With ``channels_first``
    arrays and files of values lie as (columns, rows). Can be pickled: the model goes along, and its session is opened
    where it arrives. Raises ModelError or ProviderError if it cannot be set up, ValueError for a value out of range.
    """

    def __init__(
        self,
        model: ModelSource = DEFAULT_MODEL,
        *,
        provider: AnyProvider = "auto",
        settings: SessionSettings = SessionSettings(),
        top: int = 3,
        min_confidence: float = 0.0,
        channels_first: bool = False,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence: found {min_confidence}, expected 0 to 1")
        if top < 1:
            raise ValueError(f"top: found {top}, expected at least 1")
        self._file = open_model(model)
        self.runner = open_runner(self._file, provider=provider, settings=settings)
        self._settings = settings
        self._config = self.runner.contract.config
        self._top = top
        self._min_confidence = min_confidence
        self._channels_first = channels_first

    def __repr__(self) -> str:
        return (
            f"Classifier({self.runner.source!r}, provider={self.runner.provider_used!r}, "
            f"top={self._top}, min_confidence={self._min_confidence})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        options = {
            "provider": self.runner.provider_requested, "settings": self._settings, "top": self._top,
            "min_confidence": self._min_confidence, "channels_first": self._channels_first,
        }  # fmt: skip
        return _unpickled, (self._file.content, self._file.source, options)

    def classify(self, source: Source) -> Prediction:
        """Read one input: a picture or a sequence of values, whichever the model was trained on.

        Raises PictureError or DataError if it cannot be read or does not fit the model, TypeError if it is no Source.
        """
        return self.answer([_prepared(source, self._config, self._channels_first)])[0]

    def classify_many(
        self, sources: Iterable[Source], prepare_each: PrepareEach = prepare_each
    ) -> Iterator[Prediction]:
        """Read inputs in order, in batches; one that cannot be read becomes a Prediction with its error.

        For a model of values ``sources`` may be an array (N, rows, columns). Lengths may be mixed if the model reads
        such. Raises TypeError for one input in place of many.
        """
        many = self._config.is_values and getattr(sources, "ndim", 0) == 3  # one sequence has two dimensions
        one = isinstance(sources, str | bytes | os.PathLike | Image) or hasattr(sources, "read")
        if one or (hasattr(sources, "__array__") and not many):
            raise TypeError(
                f"classify_many: found one {type(sources).__name__}, expected an iterable of "
                f"{'sequences' if self._config.is_values else 'pictures'}; give a list, or call classify"
            )
        remaining = iter(sources)
        chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
        each = prepare_each(chunks, self._config, self._channels_first)
        return (prediction for prepared in each for prediction in self.answer(prepared))

    def answer(self, prepared: list[Prediction]) -> list[Prediction]:
        """What ``prepare`` gave, with the answers of one run of the model; errors stay. Raises ModelError."""
        sequences = [each.sequence for each in prepared if each.sequence is not None]
        if not sequences:
            return prepared
        logits = self.runner.logits(*self._batch(sequences))
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.runner.source} gives logits that are not numbers",
                fix="its weights are damaged: export the checkpoint again",
            )
        shares = probabilities(logits, self.runner.contract.temperature)
        none = np.zeros(len(shares), bool)
        if rule := self.runner.contract.no_digit:
            score = no_digit_score(logits_of_views(self.runner, np.stack(sequences), logits), rule)
            none = score > 0
            # how probable it is that there is a digit, and that it is this one; else as a stream of its rows says
            shares[none] /= 1 + np.exp(np.minimum(score[none, None], 700))
        order = np.argsort(-shares, axis=1, kind="stable")[:, : self._top]
        # as Python's own numbers in one go: a NumPy scalar at a time costs more than the model does
        best = iter(zip(order.tolist(), np.take_along_axis(shares, order, 1).tolist(), none.tolist(), strict=True))
        return [each if each.sequence is None else self._answered(each, *next(best)) for each in prepared]

    def _batch(self, sequences: list[Sequences]) -> tuple[Sequences, Lengths] | tuple[Sequences]:
        """(B, rows, cols), and (B,) rows where they may differ."""
        if not self._config.variable_length:
            return (np.stack(sequences),)
        from edgelstm.data.dataset import stacked

        return stacked(sequences, "the input")

    def _answered(self, prepared: Prediction, indices: list[int], shares: list[float], none: bool) -> Prediction:
        assert prepared.sequence is not None
        if self._config.preparation == "digit" and not prepared.sequence.any():
            return prepared  # the logits of an empty picture are the model's bias: not an answer
        top = tuple((self._config.class_names[i], share) for i, share in zip(indices, shares, strict=True))
        label, confidence = top[0]
        notes = [prepared.note]
        if self._config.is_values:
            notes += _unlike_training(prepared.sequence, self.runner.contract)
        if none:
            notes.append(NO_DIGIT)
        elif confidence < max(LOW_CONFIDENCE, self._min_confidence):
            notes.append("low confidence")
        note = "; ".join(filter(None, notes)) or None
        index, name = (None, None) if confidence < self._min_confidence else (indices[0], label)
        return Prediction(prepared.source, index, name, confidence, top, note, sequence=prepared.sequence)


def _unlike_training(sequence: Sequences, contract: ModelContract) -> list[str]:
    """What a model of values has never been trained on in (rows, cols): so long a sequence, or values so far off."""
    notes, most = [], contract.config.rows
    if len(sequence) > most:
        notes.append(f"longer than any it was trained on: {len(sequence):,} rows, at most {most:,}")
    if far := far_outside(sequence, contract):
        notes.append(far)
    return notes


def far_outside(rows: Sequences, contract: ModelContract) -> str | None:
    """Which values in (rows, cols) lie far outside those of training, if any do and the ranges are known.

    Far is further outside a column's range in training than that range is wide. No unit or offset changes that;
    new data often go a little beyond the old, but hardly so far: then the unit, the sensor or its place is another,
    or a reading is broken. Of a column that never changed, a millionth of it may be rounding.
    """
    if not contract.ranges or not len(rows):
        return None
    least, largest = np.array(contract.ranges).T
    margin = np.maximum(largest - least, 1e-6 * np.maximum(np.abs(least), np.abs(largest)))
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    far = np.flatnonzero((low < least - margin) | (high > largest + margin))
    if not far.size:
        return None
    at, n_more = far[0], far.size - 1
    more = f"; and {n_more:,} more column{'s'[: n_more > 1]}" if n_more else ""
    return (
        f"far outside what it was trained on: column {at + 1} reaches {low[at]:.4g} to {high[at]:.4g}, "
        f"in training {least[at]:.4g} to {largest[at]:.4g}{more}"
    )


def _unpickled(content: bytes, source: str, options: dict[str, Any]) -> Classifier:
    return Classifier(open_model(content, source), **options)


def pixels_from(picture: Source) -> Pixels:
    """Any picture -> (H, W) or (H, W, 3) uint8, upright, nothing transparent, large ones reduced.

    Raises PictureError if it cannot be read, TypeError if it is no Source.
    """
    if isinstance(picture, str | os.PathLike | bytes):
        return read_pixels(picture)
    if isinstance(picture, Image):
        return pixels_of(picture)
    found = f"a {type(picture).__name__}"
    if isinstance(picture, np.ndarray):
        channels = picture.shape[2] if picture.ndim == 3 else 1
        if picture.dtype == np.uint8 and picture.size and picture.ndim in (2, 3) and channels in (1, 3, 4):
            return pixels_of(fromarray(picture[:, :, 0] if picture.shape[2:] == (1,) else picture))
        found = f"an array of {picture.dtype} {picture.shape}"
    elif hasattr(picture, "read"):
        content: object = picture.read(MAX_FILE_BYTES + 1)
        if isinstance(content, bytes):
            return read_pixels(content)
        found = f"a file that gives {type(content).__name__}"
    raise TypeError(
        f"a picture: found {found}, expected a path, bytes, a file open for reading in binary, "
        "a uint8 array (H, W), (H, W, 3) or (H, W, 4), or a Pillow image"
    )


def values_from(source: Source, config: ModelConfig, channels_first: bool = False) -> npt.NDArray[np.float32]:
    """A .csv or .npy file, or an array of real numbers -> (rows, cols) float32 that a model of this shape reads.

    Raises DataError if it cannot be read or does not fit, TypeError if it is neither path nor array.
    """
    from edgelstm.data.arrays import SEQUENCE_SUFFIXES, check_finite, read_sequence, sequence_from

    name, found, fix = _name(source), f"a {type(source).__name__}", None
    where = "the input" if name == "-" else printable(name, 4096)
    shape = f"({'rows' if config.variable_length else config.rows}, {config.cols})"
    array = np.asarray(source) if hasattr(source, "__array__") else None  # of other libraries too
    if array is not None and array.dtype.kind in "biuf":
        with np.errstate(over="ignore"):  # infinite where float32 ends
            values = array.astype(np.float32)
        values = values[:, None] if values.ndim == 1 and config.cols == 1 else values.T if channels_first else values
    elif isinstance(source, str | os.PathLike):
        if not name.lower().endswith(SEQUENCE_SUFFIXES):
            found = f"a name ending in {printable(os.path.splitext(name)[1])}"
            expected = f"a .csv or .npy file of {config.cols} columns, as the model reads"
            raise DataError(f"{where} is no sequence of values", found=found, expected=expected)
        values = read_sequence(source, channels_first)
    elif isinstance(source, bytes):
        values = sequence_from(source, where, channels_first)
    else:
        found = found if array is None else f"an array of {array.dtype} {array.shape}"
        expected = f"the path of a .csv or .npy file, or an array {shape} of real numbers"
        raise TypeError(f"a sequence of values: found {found}, expected {expected}")
    if values.ndim != 2 or values.shape[1] != config.cols:
        if values.ndim == 3:
            fix = "of several sequences give classify_many"
        elif values.shape[:1] == (config.cols,):  # here the other way round: (rows, columns) as it came
            option = "channels_first (on the command line --channels-first)"
            fix = f"leave out {option}" if channels_first else f"columns first are for {option}"
    elif config.variable_length and not 1 <= len(values) <= MAX_ROWS:
        shape, fix = f"1 to {MAX_ROWS:,} rows", "Stream reads on without end"
    elif config.variable_length or len(values) == config.rows:
        check_finite(values[None], lambda _: where)
        return np.ascontiguousarray(values)
    else:
        fix = "Stream reads the windows of a longer signal" if len(values) > config.rows else None
    raise DataError(f"{where} does not fit the model", found=f"shape {values.shape}", expected=shape, fix=fix)


def _prepared(source: Source, config: ModelConfig, channels_first: bool) -> Prediction:
    """What the model is shown; what fails in an unforeseen way is an error too: it may be one of thousands."""
    name, kind = _name(source), DataError if config.is_values else PictureError
    try:
        if config.is_values:
            return Prediction(name, sequence=values_from(source, config, channels_first))
        pixels = pixels_from(source)
        if config.preparation == "digit":
            found = digit_from_array(pixels, config.rows, config.cols)
            return Prediction(name, note=found.note, sequence=found.pixels)
        from edgelstm.data.folders import plain_pixels

        return Prediction(name, sequence=plain_pixels(pixels, config.rows, config.cols))
    except PictureError as error:
        if not name.lower().endswith((".csv", ".npy")):
            raise
        what, fix = f"{printable(name)} is no picture", "choose a model of values: --model RUN"
        expected = "one, as the model reads"
        raise PictureError(what, found="values, by its name", expected=expected, fix=fix) from error
    except (EdgeLstmError, TypeError):
        raise
    except OSError as error:  # from a file object, or a Pillow image that has not been loaded yet
        raise kind(f"cannot read {printable(name)}", found=error) from error
    except Exception as error:
        fix = "report it as a bug, with the input"
        raise kind(f"{printable(name)} cannot be prepared", found=repr(error), fix=fix) from error


def _name(picture: Source) -> str:
    """A path as text; of a file object or a Pillow image the path it was opened by; else -."""
    if isinstance(picture, str | os.PathLike):
        return os.fsdecode(picture)
    for attribute in ("name", "filename"):
        name = getattr(picture, attribute, None)
        if isinstance(name, str) and name:
            return name
    return "-"
