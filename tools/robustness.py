"""How many digits models read right when the digits are shifted, turned, thinned, noisy, blurred, inverted ...

    python tools/robustness.py base small --split validation
    python tools/robustness.py base runs/tutorial/model.safetensors --split test --json robustness.json

Prints a Markdown table. The same changes to the same digits each time: everything random has a fixed seed. The
changed digits go straight into the model, but for the last row, which goes through `edgelstm infer`'s preparation.
"""

import argparse
import io
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from answers import load, split_digits
from PIL import Image, ImageFilter

from edgelstm.contract import Pixels, Score
from edgelstm.data.mnist import Digits
from edgelstm.data.picture import read_picture
from edgelstm.errors import EdgeLstmError
from edgelstm.files import write_bytes

Rng = np.random.Generator
Change = Callable[[npt.NDArray[np.uint8], Rng], npt.NDArray[np.uint8]]
"""(28, 28) uint8 -> (28, 28) uint8."""

FINE = 4
"""Strokes are made thinner or thicker on a raster so much finer, by steps of a quarter of a pixel."""


def shifted(pixels: float) -> Change:
    """Moved so far in a random direction."""

    def change(image: npt.NDArray[np.uint8], rng: Rng) -> npt.NDArray[np.uint8]:
        angle = rng.uniform(0, 2 * np.pi)
        return _affine(image, np.eye(2), pixels * np.array([np.cos(angle), np.sin(angle)]))

    return change


def rotated(degrees: float) -> Change:
    """Turned so far about the middle, one way or the other."""

    def change(image: npt.NDArray[np.uint8], rng: Rng) -> npt.NDArray[np.uint8]:
        angle = np.radians(degrees) * rng.choice([-1, 1])
        return _affine(image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))

    return change


def scaled(factor: float) -> Change:
    """Made larger or smaller about the middle."""
    return lambda image, rng: _affine(image, np.eye(2) / factor)


def thicker(pixels: float) -> Change:
    """Strokes wider by so much on each side; thinner if negative."""
    size = 2 * round(abs(pixels) * FINE) + 1
    kind = ImageFilter.MaxFilter(size) if pixels > 0 else ImageFilter.MinFilter(size)

    def change(image: npt.NDArray[np.uint8], rng: Rng) -> npt.NDArray[np.uint8]:
        rows, cols = image.shape
        fine = Image.fromarray(image).resize((cols * FINE, rows * FINE), Image.Resampling.BICUBIC)
        return np.asarray(fine.filter(kind).resize((cols, rows), Image.Resampling.BOX))

    return change


def noisy(deviation: float) -> Change:
    """Gaussian noise of so many grey levels on every pixel."""
    return lambda image, rng: _levels(image + rng.normal(0, deviation, image.shape))


def specked(share: float) -> Change:
    """So many of the pixels black or white instead."""

    def change(image: npt.NDArray[np.uint8], rng: Rng) -> npt.NDArray[np.uint8]:
        hit, white = rng.random(image.shape) < share, rng.random(image.shape) < 0.5
        return np.where(hit, np.where(white, 255, 0), image).astype(np.uint8)

    return change


def blurred(radius: float) -> Change:
    """Gaussian blur of this standard deviation, in pixels."""
    return lambda image, rng: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def fainter(share: float) -> Change:
    """Ink of only so much strength."""
    return lambda image, rng: _levels(image * share)


def inverted(image: npt.NDArray[np.uint8], rng: Rng) -> npt.NDArray[np.uint8]:
    """Dark ink on white, which the model contract rules out."""
    return 255 - image


def inverted_and_read(image: npt.NDArray[np.uint8], rng: Rng) -> npt.NDArray[np.uint8]:
    """The same as a picture file that `edgelstm infer` reads."""
    return read_picture(_png(255 - image)).pixels


CHANGES: dict[str, Change] = {
    "as they are": lambda image, rng: image,
    **{f"shifted {pixels} px": shifted(pixels) for pixels in (1, 2, 3, 4)},
    **{f"rotated {degrees} degrees": rotated(degrees) for degrees in (10, 20, 30)},
    **{f"scaled to {100 * factor:.0f} %": scaled(factor) for factor in (0.7, 0.85, 1.15, 1.3)},
    **{f"thinned by {pixels} px a side": thicker(-pixels) for pixels in (0.25, 0.5)},
    **{f"thickened by {pixels} px a side": thicker(pixels) for pixels in (0.5, 1.0)},
    **{f"noise, {deviation} of 255 levels": noisy(deviation) for deviation in (25, 50, 100)},
    **{f"{100 * share:.0f} % of the pixels black or white": specked(share) for share in (0.05, 0.1)},
    **{f"blurred, {radius} px": blurred(radius) for radius in (0.5, 1.0, 1.5)},
    **{f"ink at {100 * share:.0f} %": fainter(share) for share in (0.5, 0.25)},
    "contrast inverted": inverted,
    "contrast inverted, read by `infer`": inverted_and_read,
}


def changed(images: Pixels, name: str) -> Pixels:
    """(N, 28, 28) -> (N, 28, 28): every image changed, image i the same way whatever the others are."""
    key = zlib.crc32(name.encode())
    return np.stack([CHANGES[name](image, np.random.default_rng([key, i])) for i, image in enumerate(images)])


def table(scores: dict[str, dict[str, Score]]) -> str:
    """Markdown: a row a change, a column a model."""
    names = list(next(iter(scores.values())))
    lines = [f"| digits | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {change} | {' | '.join(str(row[name]) for name in names)} |" for change, row in scores.items()]
    return "\n".join(lines)


def robustness(models: list[str], digits: Digits, changes: list[str]) -> dict[str, dict[str, Score]]:
    """Change -> model -> right answers."""
    loaded = [load(model) for model in models]
    names = [model.name for model in loaded]
    if len(set(names)) < len(names):  # two runs of one model: call them as they were given
        names = models
    scores: dict[str, dict[str, Score]] = {}
    for change in changes:
        images = changed(digits.images, change)
        scores[change] = {
            name: Score.of(model.logits(images), digits.labels) for name, model in zip(names, loaded, strict=True)
        }
        print(f"{change}: {', '.join(map(str, scores[change].values()))}", file=sys.stderr, flush=True)
    return scores


def _affine(
    image: npt.NDArray[np.uint8], inverse: npt.NDArray[np.float64], shift: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.uint8]:
    """Each new pixel (x, y) from the middle is read at ``inverse`` @ (x, y) - ``shift``, bilinearly; 0 outside."""
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    offset = middle - inverse @ middle - (0 if shift is None else shift)
    values = (*inverse[0], offset[0], *inverse[1], offset[1])
    size = (image.shape[1], image.shape[0])
    kind = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).transform(size, Image.Transform.AFFINE, values, kind))


def _levels(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints, ONNX files, run folders, shipped models' names")
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="test only to report")
    parser.add_argument("--change", action="append", choices=tuple(CHANGES), help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, help="write the figures into this file too")
    args = parser.parse_args()
    try:
        digits = split_digits(args.split)
        scores = robustness(args.models, digits, args.change or list(CHANGES))
        if args.json:
            document = {
                "digits": digits.source,
                "right": {
                    change: {name: {"n_right": score.n_right, "n": score.n} for name, score in row.items()}
                    for change, row in scores.items()
                },
            }
            write_bytes(args.json, (json.dumps(document, indent=2) + "\n").encode())
    except EdgeLstmError as error:
        sys.exit(f"Error: {error}")
    print(table(scores))


if __name__ == "__main__":
    main()
