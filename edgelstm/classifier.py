"""A picture in, a digit out: the model and the picture preparation together."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import DEFAULT_MODEL
from edgelstm.contract import Logits, Pixels
from edgelstm.errors import EdgeLstmError, ModelError
from edgelstm.picture import DigitPicture, read_picture
from edgelstm.runtime import OrtRunner, Provider, SessionSettings

Source = str | os.PathLike[str] | bytes
"""A picture file's path, or the file's content."""
CHUNK = 64
"""Pictures that are read before the model runs once on all of them."""


@dataclass(frozen=True)
class Prediction:
    """What one picture was read as; ``error`` says why it could not be."""

    image: str
    """The picture's name."""
    digit: int | None
    """Index of the class; None if there is an error."""
    label: str | None
    """Name of the class."""
    confidence: float | None
    """Softmax probability of the class, 0 to 1."""
    top: tuple[tuple[str, float], ...] = ()
    """The most probable classes with their probabilities."""
    note: str | None = None
    """Something seen in the picture that is worth a look."""
    error: str | None = None
    pixels: Pixels | None = None
    """(rows, cols) uint8, what the model was shown."""

    def to_json(self) -> dict[str, Any]:
        """The values for JSON: all but the pixels, with class indices in ``top`` where names are digits."""
        values = {key: value for key, value in asdict(self).items() if key != "pixels"}
        values["top"] = [[int(name) if name.isdecimal() else name, share] for name, share in self.top]
        return values


class Classifier:
    """Reads pictures with an exported model.

    ``model`` is an ONNX file, a run folder or a shipped model's name; ``provider`` is ``auto``,
    ``cpu`` or ``cuda``. Raises ModelError or ProviderError if it cannot be set up.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes = DEFAULT_MODEL,
        *,
        provider: Provider = "auto",
        settings: SessionSettings = SessionSettings(),
        top: int = 3,
    ) -> None:
        self.runner = OrtRunner(model, provider=provider, settings=settings)
        self._config = self.runner.contract.config
        self._top = min(top, self._config.n_classes)

    def classify(self, picture: Source) -> Prediction:
        """Read one picture. Raises PictureError if it cannot be read as one."""
        prepared = self._prepare(picture)
        return self._predictions([_name(picture)], [prepared])[0]

    def classify_many(self, pictures: Iterable[Source]) -> Iterator[Prediction]:
        """Read pictures in order, in batches; a bad one becomes a Prediction with its error."""
        remaining = iter(pictures)
        while chunk := list(islice(remaining, CHUNK)):
            prepared: list[DigitPicture | str] = []
            for picture in chunk:
                try:
                    prepared.append(self._prepare(picture))
                except EdgeLstmError as error:
                    prepared.append(str(error))
            good = [i for i, item in enumerate(prepared) if isinstance(item, DigitPicture)]
            names = [_name(picture) for picture in chunk]
            read = self._predictions(
                [names[i] for i in good], [item for item in prepared if isinstance(item, DigitPicture)]
            )
            answers = dict(zip(good, read, strict=True))
            for i, item in enumerate(prepared):
                yield answers.get(i) or Prediction(names[i], None, None, None, error=str(item))

    def _prepare(self, picture: Source) -> DigitPicture:
        return read_picture(picture, self._config.rows, self._config.cols)

    def _predictions(self, names: list[str], pictures: list[DigitPicture]) -> list[Prediction]:
        if not pictures:
            return []
        logits = self.runner.logits(np.stack([picture.pixels for picture in pictures]))
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.runner.source} gives logits that are not numbers",
                fix="its weights are damaged: export the checkpoint again",
            )
        classes = self._config.class_names
        predictions = []
        for name, picture, shares in zip(names, pictures, probabilities(logits), strict=True):
            order = np.argsort(-shares, kind="stable")[: max(1, self._top)]
            best = int(order[0])
            top = tuple((classes[i], round(float(shares[i]), 4)) for i in order)
            predictions.append(
                Prediction(
                    name, best, classes[best], round(float(shares[best]), 4), top[: self._top],
                    picture.note, pixels=picture.pixels,
                )
            )  # fmt: skip
        return predictions


def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Softmax: (B, classes) logits -> (B, classes) probabilities that sum to 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _name(picture: Source) -> str:
    return "-" if isinstance(picture, bytes) else os.fspath(picture)
