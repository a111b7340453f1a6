"""A picture in, a digit out: the model and the picture preparation together."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from edgelstm.config import DEFAULT_MODEL
from edgelstm.contract import Pixels
from edgelstm.data.picture import read_picture
from edgelstm.errors import EdgeLstmError, ModelError
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.runner import OrtRunner, Provider, SessionSettings

Source = str | os.PathLike[str] | bytes
"""A picture file's path, or the file's content."""
LOW_CONFIDENCE = 0.7
"""Below, an answer gets a note: of such answers about every third is wrong or more."""
CHUNK = 64
"""Pictures that are read before the model runs once on all of them."""


@dataclass(frozen=True)
class Prediction:
    """What one picture was read as; ``error`` says why it could not be."""

    image: str
    """The picture's name."""
    digit: int | None
    """Index of the class; None if there is an error, no ink, or less confidence than was asked for."""
    label: str | None
    """Name of the class; None where ``digit`` is."""
    confidence: float | None
    """Probability of the most probable class, 0 to 1, by the model's temperature; None if nothing was read."""
    top: tuple[tuple[str, float], ...] = ()
    """The most probable classes with their probabilities."""
    note: str | None = None
    """Something seen in the picture that is worth a look."""
    error: str | None = None
    pixels: Pixels | None = None
    """(rows, cols) uint8, what the model was shown."""

    @property
    def abstained(self) -> bool:
        """Whether the picture was read and still got no digit: nothing in it, or too little confidence."""
        return self.digit is None and self.error is None

    def to_json(self) -> dict[str, Any]:
        """The values for JSON: all but the pixels, with class indices in ``top`` where names are digits."""
        values = {key: value for key, value in vars(self).items() if key != "pixels"}
        values["top"] = [[int(name) if name.isdecimal() else name, share] for name, share in self.top]
        return values


@dataclass(frozen=True)
class Batch:
    """Some pictures, prepared: one array and three lists, which cross cheaply from process to process."""

    names: list[str]
    notes: list[str | None]
    errors: list[str | None]
    """One entry per picture each, in order."""
    pixels: Pixels
    """(B, rows, cols) uint8, only of the B pictures without an error."""


def prepare(pictures: list[Source], rows: int, cols: int) -> Batch:
    """Decode pictures and find their digits; a bad one leaves its error and no pixels."""
    notes, errors, pixels = [], [], []
    for picture in pictures:
        note = problem = None
        try:
            found = read_picture(picture, rows, cols)
        except EdgeLstmError as error:
            problem = str(error)
        else:
            note = found.note
            pixels.append(found.pixels)
        notes.append(note)
        errors.append(problem)
    stacked = np.stack(pixels) if pixels else np.empty((0, rows, cols), np.uint8)
    return Batch([_name(picture) for picture in pictures], notes, errors, stacked)


def prepare_each(chunks: Iterator[list[Source]], rows: int, cols: int) -> Iterator[Batch]:
    """``prepare`` for each chunk in turn, in this process."""
    return (prepare(chunk, rows, cols) for chunk in chunks)


PrepareEach = Callable[[Iterator[list[Source]], int, int], Iterator[Batch]]
"""Prepares chunks of pictures, in order: ``prepare_each``, or something that has others do it."""


class Classifier:
    """Reads pictures with an exported model.

    ``model`` is an ONNX file, a run folder or a shipped model's name; ``provider`` is ``auto``,
    ``cpu`` or ``cuda``. An answer less probable than ``min_confidence``, 0 to 1, is no answer: its digit is
    None. Raises ModelError or ProviderError if it cannot be set up.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes = DEFAULT_MODEL,
        *,
        provider: Provider = "auto",
        settings: SessionSettings = SessionSettings(),
        top: int = 3,
        min_confidence: float = 0.0,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence: found {min_confidence}, expected 0 to 1")
        self.runner = OrtRunner(model, provider=provider, settings=settings)
        self._config = self.runner.contract.config
        self._top = min(top, self._config.n_classes)
        self._min_confidence = min_confidence

    def classify(self, picture: Source) -> Prediction:
        """Read one picture. Raises PictureError if it cannot be read as one."""
        prepared = read_picture(picture, self._config.rows, self._config.cols)
        batch = Batch([_name(picture)], [prepared.note], [None], prepared.pixels[None])  # (1, rows, cols)
        return self._predictions(batch)[0]

    def classify_many(
        self, pictures: Iterable[Source], prepare_each: PrepareEach = prepare_each
    ) -> Iterator[Prediction]:
        """Read pictures in order, in batches; a bad one becomes a Prediction with its error."""
        remaining = iter(pictures)
        chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
        for batch in prepare_each(chunks, self._config.rows, self._config.cols):
            yield from self._predictions(batch)

    def _predictions(self, batch: Batch) -> list[Prediction]:
        no_logits = np.empty((0, self._config.n_classes), np.float32)
        logits = self.runner.logits(batch.pixels) if len(batch.pixels) else no_logits
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.runner.source} gives logits that are not numbers",
                fix="its weights are damaged: export the checkpoint again",
            )
        shares = probabilities(logits, self.runner.contract.temperature)
        order = np.argsort(-shares, axis=1, kind="stable")[:, : max(1, self._top)]
        # as Python's own numbers in one go: a NumPy scalar at a time costs more than the model does
        best = iter(zip(order.tolist(), np.take_along_axis(shares, order, 1).tolist(), batch.pixels, strict=True))
        predictions = []
        for name, note, error in zip(batch.names, batch.notes, batch.errors, strict=True):
            if error is not None:
                predictions.append(Prediction(name, None, None, None, error=error))
            else:
                predictions.append(self._prediction(name, note, *next(best)))
        return predictions

    def _prediction(
        self, name: str, note: str | None, digits: list[int], values: list[float], pixels: Pixels
    ) -> Prediction:
        if not pixels.any():  # what a model makes of nothing says nothing
            return Prediction(name, None, None, None, note=note, pixels=pixels)
        classes = self._config.class_names
        top = tuple((classes[i], round(share, 4)) for i, share in zip(digits, values, strict=True))
        label, confidence = top[0]
        if confidence < max(LOW_CONFIDENCE, self._min_confidence):
            note = "; ".join(filter(None, (note, "low confidence")))
        sure = confidence >= self._min_confidence
        digit, name_of_digit = (digits[0], label) if sure else (None, None)
        return Prediction(name, digit, name_of_digit, confidence, top[: self._top], note, pixels=pixels)


def _name(picture: Source) -> str:
    return "-" if isinstance(picture, bytes) else os.fspath(picture)
