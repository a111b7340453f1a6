"""How many digits models read right when the digits are shifted, turned, thinned, noisy, blurred, inverted ...

    python tools/robustness.py base small --split validation
    python tools/robustness.py base runs/tutorial/model.safetensors --split test --json robustness.json

Prints a Markdown table. The same changes to the same digits each time: everything random has a fixed seed. The
changed digits go straight into the model, but for the last row, which goes through `edgelstm infer`'s preparation.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from evaluation import MODELS_HELP, SPLITS, load, markdown, split_digits
from PIL import Image, ImageFilter

from edgelstm.contract import Pixels, Score
from edgelstm.data.dataset import Part
from edgelstm.data.picture import digit_from_array
from edgelstm.errors import EdgeLstmError
from edgelstm.files import write_bytes

Rng = np.random.Generator
Change = Callable[[Pixels, Rng], Pixels]
"""(28, 28) uint8 -> (28, 28) uint8."""

FINE = 4
"""Strokes are made thinner or thicker on a raster so much finer, by steps of a quarter of a pixel."""


def as_it_is(image: Pixels, rng: Rng) -> Pixels:
    return image


def shifted(image: Pixels, rng: Rng, pixels: float) -> Pixels:
    """Moved so far in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    return _affine(image, np.eye(2), pixels * np.array([np.cos(angle), np.sin(angle)]))


def rotated(image: Pixels, rng: Rng, degrees: float) -> Pixels:
    """Turned so far about the middle, one way or the other."""
    angle = np.radians(degrees) * rng.choice([-1, 1])
    return _affine(image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def scaled(image: Pixels, rng: Rng, factor: float) -> Pixels:
    """Made larger or smaller about the middle."""
    return _affine(image, np.eye(2) / factor)


def thickened(image: Pixels, rng: Rng, pixels: float) -> Pixels:
    """Strokes wider by so much on each side; thinner if negative."""
    rows, cols = image.shape
    size = 2 * round(abs(pixels) * FINE) + 1
    kind = ImageFilter.MaxFilter(size) if pixels > 0 else ImageFilter.MinFilter(size)
    fine = Image.fromarray(image).resize((cols * FINE, rows * FINE), Image.Resampling.BICUBIC)
    return np.asarray(fine.filter(kind).resize((cols, rows), Image.Resampling.BOX))


def noisy(image: Pixels, rng: Rng, deviation: float) -> Pixels:
    """Gaussian noise of so many grey levels on every pixel."""
    return _levels(image + rng.normal(0, deviation, image.shape))


def specked(image: Pixels, rng: Rng, share: float) -> Pixels:
    """So many of the pixels black or white instead."""
    hit, white = rng.random(image.shape) < share, rng.random(image.shape) < 0.5
    return np.where(hit, np.where(white, 255, 0), image).astype(np.uint8)


def blurred(image: Pixels, rng: Rng, radius: float) -> Pixels:
    """Gaussian blur of this standard deviation, in pixels."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def fainter(image: Pixels, rng: Rng, share: float) -> Pixels:
    """Ink of only so much strength."""
    return _levels(image * share)


def inverted(image: Pixels, rng: Rng) -> Pixels:
    """Dark ink on white, which the model contract rules out."""
    return 255 - image


def inverted_and_read(image: Pixels, rng: Rng) -> Pixels:
    """The same as a picture that `edgelstm infer` reads."""
    return digit_from_array(255 - image).pixels


CHANGES: dict[str, Change] = {
    "as they are": as_it_is,
    **{f"shifted {pixels} px": partial(shifted, pixels=pixels) for pixels in (1, 2, 3, 4)},
    **{f"rotated {degrees} degrees": partial(rotated, degrees=degrees) for degrees in (10, 20, 30)},
    **{f"scaled to {100 * factor:.0f} %": partial(scaled, factor=factor) for factor in (0.7, 0.85, 1.15, 1.3)},
    **{f"thinned by {pixels} px a side": partial(thickened, pixels=-pixels) for pixels in (0.25, 0.5)},
    **{f"thickened by {pixels} px a side": partial(thickened, pixels=pixels) for pixels in (0.5, 1.0)},
    **{f"noise, {level} of 255 levels": partial(noisy, deviation=level) for level in (25, 50, 100)},
    **{f"{100 * share:.0f} % of the pixels black or white": partial(specked, share=share) for share in (0.05, 0.1)},
    **{f"blurred, {radius} px": partial(blurred, radius=radius) for radius in (0.5, 1.0, 1.5)},
    **{f"ink at {100 * share:.0f} %": partial(fainter, share=share) for share in (0.5, 0.25)},
    "contrast inverted": inverted,
    "contrast inverted, read by `infer`": inverted_and_read,
}


def changed(images: Pixels, name: str) -> Pixels:
    """(N, 28, 28) -> (N, 28, 28): every image changed, image i the same way whatever the others are."""
    key = zlib.crc32(name.encode())
    return np.stack([CHANGES[name](image, np.random.default_rng([key, i])) for i, image in enumerate(images)])


def robustness(models: list[str], digits: Part, changes: list[str]) -> dict[str, dict[str, Score]]:
    """Change -> model -> right answers."""
    loaded = [load(model) for model in models]
    names = [model.name for model in loaded]
    if len(set(names)) < len(names):  # two runs of one model: call them as they were given
        names = models
    scores: dict[str, dict[str, Score]] = {}
    for change in changes:
        images = changed(digits.sequences, change)
        scores[change] = {
            name: Score.of(model.logits(images), digits.labels) for name, model in zip(names, loaded, strict=True)
        }
        print(f"{change}: {', '.join(map(str, scores[change].values()))}", file=sys.stderr, flush=True)
    return scores


def _affine(image: Pixels, inverse: npt.NDArray[np.float64], shift: npt.ArrayLike = 0) -> Pixels:
    """Each new pixel (x, y) from the middle is read at ``inverse`` @ (x, y) - ``shift``, bilinearly; 0 outside."""
    size = (image.shape[1], image.shape[0])
    middle = np.array(size) / 2
    offset = middle - inverse @ middle - np.asarray(shift)
    values = (*inverse[0], offset[0], *inverse[1], offset[1])
    return np.asarray(Image.fromarray(image).transform(size, Image.Transform.AFFINE, values, Image.Resampling.BILINEAR))


def _levels(values: npt.NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help=MODELS_HELP)
    parser.add_argument("--split", choices=SPLITS, default="validation", help="test only to report")
    parser.add_argument("--change", action="append", choices=tuple(CHANGES), help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, help="write the figures into this file too")
    args = parser.parse_args()
    try:
        digits = split_digits(args.split)
        scores = robustness(args.models, digits, args.change or list(CHANGES))
    except EdgeLstmError as error:
        sys.exit(f"Error: {error}")
    if args.json:
        right = {
            change: {name: {"n_right": score.n_right, "n": score.n} for name, score in row.items()}
            for change, row in scores.items()
        }
        document = {"digits": digits.source, "right": right}
        write_bytes(args.json, (json.dumps(document, indent=2) + "\n").encode())
    names = next(iter(scores.values()))
    print(markdown(("digits", *names), [(change, *row.values()) for change, row in scores.items()]))


if __name__ == "__main__":
    main()
