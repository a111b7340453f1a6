"""A picture in, a class out: the model and the picture preparation together."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL.Image import Image, fromarray

from edgelstm.config import DEFAULT_MODEL
from edgelstm.contract import Pixels
from edgelstm.data.picture import MAX_FILE_BYTES, digit_from_array, pixels_of, read_pixels
from edgelstm.errors import EdgeLstmError, ModelError, PictureError, printable
from edgelstm.onnx_file import ModelSource, open_model
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import Provider, SessionSettings

Source = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[np.uint8] | Image
"""A picture: a file's path, its content, a file open for reading in binary, an array or a Pillow image.

An array is uint8, (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, of any size and polarity: it is prepared
as a file with these pixels would be, so the digit is looked for in it. For sequences that are prepared already,
(B, rows, cols), there is ``OrtRunner.logits``.
"""
LOW_CONFIDENCE = 0.7
"""Below, an answer gets a note: of such answers about every third is wrong or more."""
CHUNK = 16
"""Pictures that are read before the model runs once on all of them: what one costs a run is then small."""


@dataclass(frozen=True)
class Prediction:
    """What one picture was read as; ``error`` says why it could not be."""

    image: str
    """The picture's name: its path, or - if it has none."""
    index: int | None = None
    """Index of the class; None if there is an error, no ink, or less confidence than was asked for."""
    label: str | None = None
    """Name of the class; None where ``index`` is."""
    confidence: float | None = None
    """Probability of the most probable class, 0 to 1, by the model's temperature; None if nothing was read."""
    top: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    """Names of the most probable classes with their probabilities, falling."""
    note: str | None = None
    """Something seen in the picture that is worth a look."""
    error: str | None = None
    pixels: Pixels | None = field(default=None, repr=False, compare=False)
    """(rows, cols) uint8, what the model was shown."""

    @property
    def abstained(self) -> bool:
        """Whether the picture was read and still got no class: nothing in it, or too little confidence."""
        return self.index is None and self.error is None

    def to_json(self) -> dict[str, object]:
        """The values for JSON: all but the pixels, probabilities with six digits."""
        values: dict[str, object] = {key: value for key, value in vars(self).items() if key != "pixels"}
        values["confidence"] = None if self.confidence is None else round(self.confidence, 6)
        values["top"] = [[name, round(share, 6)] for name, share in self.top]
        return values


def prepare(pictures: list[Source], rows: int, cols: int) -> list[Prediction]:
    """Decode pictures and find their digits: predictions with pixels and no answer yet.

    One that fails, however it does, has its error and no pixels.
    """
    prepared = []
    for picture in pictures:
        try:
            prepared.append(_prepared(picture, rows, cols))
        except (EdgeLstmError, TypeError) as error:
            prepared.append(Prediction(_name(picture), error=str(error)))
    return prepared


def prepare_each(chunks: Iterator[list[Source]], rows: int, cols: int) -> Iterator[list[Prediction]]:
    """``prepare`` for each chunk in turn, in this process."""
    return (prepare(chunk, rows, cols) for chunk in chunks)


PrepareEach = Callable[[Iterator[list[Source]], int, int], Iterator[list[Prediction]]]
"""Prepares chunks of pictures, in order: ``prepare_each``, or something that has others do it."""


class Classifier:
    """Reads pictures with an exported model.

    ``model`` is an ONNX file, a run folder, a shipped model's name, a file's content or what `open_model` gave;
    ``provider`` is ``auto``, ``cpu`` or ``cuda``; ``top`` is how many classes a Prediction names at most. An answer
    less probable than ``min_confidence``, 0 to 1, is no answer: its index and label are None. Can be pickled: the
    model goes along, and its session is opened where it arrives. Raises ModelError or ProviderError if it cannot be
    set up, ValueError for a value out of range.
    """

    def __init__(
        self,
        model: ModelSource = DEFAULT_MODEL,
        *,
        provider: Provider = "auto",
        settings: SessionSettings = SessionSettings(),
        top: int = 3,
        min_confidence: float = 0.0,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence: found {min_confidence}, expected 0 to 1")
        if top < 1:
            raise ValueError(f"top: found {top}, expected at least 1")
        self._file = open_model(model)
        self.runner = OrtRunner(self._file, provider=provider, settings=settings)
        self._config = self.runner.contract.config
        self._top = top
        self._min_confidence = min_confidence

    def __repr__(self) -> str:
        return (
            f"Classifier({self.runner.source!r}, provider={self.runner.provider_used!r}, "
            f"top={self._top}, min_confidence={self._min_confidence})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        runner, file = self.runner, self._file
        values = (file.content, file.source, runner.provider_requested, runner.settings)
        return _unpickled, (*values, self._top, self._min_confidence)

    def classify(self, picture: Source) -> Prediction:
        """Read one picture. Raises PictureError if it cannot be read as one, TypeError if it is no Source."""
        return self._predictions([_prepared(picture, self._config.rows, self._config.cols)])[0]

    def classify_many(
        self, pictures: Iterable[Source], prepare_each: PrepareEach = prepare_each
    ) -> Iterator[Prediction]:
        """Read pictures in order, in batches; one that cannot be read becomes a Prediction with its error.

        Raises TypeError for one picture in place of many.
        """
        if isinstance(pictures, str | bytes | os.PathLike | np.ndarray | Image) or hasattr(pictures, "read"):
            raise TypeError(
                f"classify_many: found one {type(pictures).__name__}, expected an iterable of pictures; "
                "give a list, or call classify"
            )
        remaining = iter(pictures)
        chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
        each = prepare_each(chunks, self._config.rows, self._config.cols)
        return (prediction for prepared in each for prediction in self._predictions(prepared))

    def _predictions(self, prepared: list[Prediction]) -> list[Prediction]:
        pixels = [each.pixels for each in prepared if each.pixels is not None]
        if not pixels:
            return prepared
        logits = self.runner.logits(np.stack(pixels))
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.runner.source} gives logits that are not numbers",
                fix="its weights are damaged: export the checkpoint again",
            )
        shares = probabilities(logits, self.runner.contract.temperature)
        order = np.argsort(-shares, axis=1, kind="stable")[:, : self._top]
        # as Python's own numbers in one go: a NumPy scalar at a time costs more than the model does
        best = iter(zip(order.tolist(), np.take_along_axis(shares, order, 1).tolist(), strict=True))
        return [each if each.pixels is None else self._answered(each, *next(best)) for each in prepared]

    def _answered(self, prepared: Prediction, indices: list[int], shares: list[float]) -> Prediction:
        assert prepared.pixels is not None
        if not prepared.pixels.any():  # the logits of an empty picture are the model's bias: not an answer
            return prepared
        top = tuple((self._config.class_names[i], share) for i, share in zip(indices, shares, strict=True))
        label, confidence = top[0]
        note = prepared.note
        if confidence < max(LOW_CONFIDENCE, self._min_confidence):
            note = "; ".join(filter(None, (note, "low confidence")))
        index, name = (None, None) if confidence < self._min_confidence else (indices[0], label)
        return Prediction(prepared.image, index, name, confidence, top, note, pixels=prepared.pixels)


def _unpickled(
    content: bytes, source: str, provider: Provider, settings: SessionSettings, top: int, min_confidence: float
) -> Classifier:
    file = open_model(content, source)
    return Classifier(file, provider=provider, settings=settings, top=top, min_confidence=min_confidence)


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


def _prepared(picture: Source, rows: int, cols: int) -> Prediction:
    """The picture's digit; what fails in an unforeseen way is a PictureError too: it may be one of thousands."""
    name = _name(picture)
    try:
        found = digit_from_array(pixels_from(picture), rows, cols)
    except (EdgeLstmError, TypeError):
        raise
    except OSError as error:  # from a file object, or a Pillow image that has not been loaded yet
        raise PictureError(f"cannot read {printable(name)}", found=error) from error
    except Exception as error:
        fix = "report it as a bug, with the picture"
        raise PictureError(f"{printable(name)} cannot be prepared", found=repr(error), fix=fix) from error
    return Prediction(name, note=found.note, pixels=found.pixels)


def _name(picture: Source) -> str:
    """A path as text; of a file object or a Pillow image the path it was opened by; else -."""
    if isinstance(picture, str | os.PathLike):
        return os.fsdecode(picture)
    for attribute in ("name", "filename"):
        name = getattr(picture, attribute, None)
        if isinstance(name, str) and name:
            return name
    return "-"
