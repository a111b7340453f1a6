"""Fit the score of being no digit, and the temperature: python tools/outliers.py CHECKPOINT... (they are rewritten)

Draws what is no digit: letters, signs, scribbles, several digits, halves of two; quick drawings of about 100 pixels,
light on black. What no_digits.py draws is left to judge by. The digits are MNIST's validation digits, as they are, by
other hands, worn, as the small scans and crops of crops.py, and scikit-learn's. Every second picture fits the weights,
the others the bias, so that few of the digits that are read right are said to be none, and how sure a score is. All go
through the picture preparation, so this is to be run again when that changes.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from crops import SETS, made, validation
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scenes import Bytes, Rng, smooth
from torch.nn import functional

from edgelstm.config import OTHER_HANDS
from edgelstm.contract import Logits, NoDigitRule
from edgelstm.data.picture import digit_from_array
from edgelstm.runtime.calibration import fit_temperature, logits_of_views, no_digit_score
from edgelstm.training.augment import augment
from edgelstm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgelstm.training.model import TorchRunner

N_UNITS, SMOOTHING, WEIGHT_DECAY, N_STEPS, BATCH = 10, 0.05, 0.3, 3400, 256
"""Chosen on held-out kinds of pictures: more units, steps or certainty fit these drawings and say less of others."""
CLEAN_ACCUSED, HARD_ACCUSED = 0.005, 0.02
"""Shares of MNIST's digits, and of the changed ones, that may be said to be no digit."""
SKIPPED = ("real", "drawn", "blank", "texture", "2000")
"""Sets of crops.py that hold no digits, judge, or take long."""

SIDE = 96
LETTERS = "ACDEFGHJKLMNPQRTUVWXYadefhkmnprtuvwxy&@#%?"
Strokes = list[npt.NDArray[np.float64]]
"""Points (n, 2) each, x and y."""
SIGNS = (
    """
0830 3068 1555|0008 00415204 04455608|613003053867|0008 004153554708|6000 0008 0868 0444|0008 0060 0444
612002063865 6535|0008 6068 0464|6066482806|0008 6004 0468|0008 0868|0800 0034 3460 6068|0800 0068 6860
0008 0041534404|30010538656130 4568|0008 0041534404 3468|0060 3038|000628486660|0038 3860|0018 1834 3458 5860
0068 6008|0034 6034 3438|543314173856 5358|5058 543314173856|0555543314062857|51412228 0343|0008 0524445558
0008 5305 2458|0308 0514243538 3544546568|0308 0524445558|0309 0433553706|0308 052443|20273848 0343|0306184856 5358
0338 3863|0318 1834 3458 5863|0358 5308|0336 6309|6812204114073865|3037 0464|013052343536|2018 5048 0363 0565
3036 0165 6105|4334354564613001053868|6004 0468|0803 0330 3063 6368 6808|0464 4264 4664|0538 3860|322001043864614032
0262 6218 1830 3058 5802|0060 6068 6808 0800|3038 0868 0630 3066
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Letters that look like no digit, and signs: strokes of points x and y, two are a line, more a curve."""


def curve(points: npt.NDArray[np.float64], n: int = 24) -> npt.NDArray[np.float64]:
    """Through the points (Catmull and Rom 1974)."""
    p = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, n)[:, None]
    parts = [
        b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate(parts)


def drawn(strokes: Strokes, rng: Rng) -> Bytes:
    """By a pen of any width, slanted, turned and stretched a little."""
    points = np.concatenate(strokes)
    angle, shear, aspect = rng.uniform(-0.2, 0.2), rng.uniform(-0.3, 0.3), np.exp(rng.uniform(-0.35, 0.2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    change = np.array([[aspect, 0], [shear, 1]]) @ turn
    low, high = (points @ change).min(axis=0), (points @ change).max(axis=0)
    scale, pen = 0.72 * SIDE / max(high - low), round(np.exp(rng.uniform(np.log(4), np.log(26))))
    image = Image.new("L", (2 * SIDE, 2 * SIDE))
    for stroke in strokes:
        at = [(float(x), float(y)) for x, y in 2 * ((stroke @ change - (low + high) / 2) * scale + SIDE / 2)]
        ImageDraw.Draw(image).line(at, 255, pen, "curve")
        for x, y in (at[0], at[-1]):
            ImageDraw.Draw(image).ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return np.asarray(image.reduce(2))


def sign(digits: list[Bytes], rng: Rng) -> Bytes:
    """A letter or sign, with an unsteady hand."""
    strokes = [
        np.array([[int(x), int(y)] for x, y in zip(word[::2], word[1::2], strict=True)], float)
        for word in SIGNS[rng.integers(len(SIGNS))].split()
    ]
    return drawn([curve(each + rng.normal(0, 0.35, each.shape) + rng.normal(0, 0.2, 2)) for each in strokes], rng)


def strokes(digits: list[Bytes], rng: Rng) -> Bytes:
    """Two to five strokes anywhere, straight or bent: a sign of no known script."""
    return drawn([curve(rng.uniform(0, 8, (rng.integers(2, 5), 2))) for _ in range(rng.integers(2, 6))], rng)


def scribble(digits: list[Bytes], rng: Rng) -> Bytes:
    """One long stroke."""
    return drawn([curve(rng.uniform(0, 8, (rng.integers(6, 16), 2)))], rng)


def printed(least: int, most: int, digits: list[Bytes], rng: Rng, of: str = LETTERS) -> Bytes:
    """So many letters in a row, any that are no digit's twins, thicker or thinner, bent."""
    text = "".join(rng.choice(list(of), rng.integers(least, most + 1)))
    font = ImageFont.load_default(size=float(rng.uniform(30, 120)))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    image = Image.new("L", (right - left + 40, bottom - top + 40))
    ImageDraw.Draw(image).text((20 - left, 20 - top), text, 255, font)
    widen = rng.integers(4)
    if widen:
        image = image.filter(ImageFilter.MaxFilter(3) if widen > 1 else ImageFilter.MinFilter(3))
    width, height = image.size
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]]) + rng.normal(0, 0.08, (4, 2)) * image.size
    flat = tuple(float(value) for value in corners.ravel())
    return np.asarray(image.transform(image.size, Image.Transform.QUAD, flat, Image.Resampling.BILINEAR))


def beside(digits: list[Bytes], rng: Rng) -> Bytes:
    """Two to four digits side by side, so near that they touch."""
    step = int(rng.integers(12, 20))
    cover = np.zeros((34, 28 + 3 * step), np.uint8)
    for i, digit in enumerate(digits[: rng.choice([2, 2, 2, 3, 4])]):
        top, at = int(rng.integers(0, 6)), i * step
        cover[top : top + 28, at : at + 28] = np.maximum(cover[top : top + 28, at : at + 28], digit)
    return enlarged(cover)


def over(digits: list[Bytes], rng: Rng) -> Bytes:
    """Two digits over each other, one turned at times, or two halves put together."""
    one, other = digits[0], np.roll(digits[1], rng.integers(-3, 4, 2), (0, 1))
    how = rng.integers(4)
    if how == 0:
        other = np.rot90(other)
    if how <= 1:
        return enlarged(np.maximum(one, other))
    halves = (slice(None), slice(14, None)) if how == 2 else (slice(14, None), slice(None))
    one = one.copy()
    one[halves] = np.roll(digits[1], rng.integers(-3, 4), how - 2)[halves]
    return enlarged(one)


def turned(digits: list[Bytes], rng: Rng) -> Bytes:
    """A digit lying on its side."""
    return enlarged(np.rot90(digits[0], rng.choice([1, 3])))


def solid(digits: list[Bytes], rng: Rng) -> Bytes:
    """A polygon, filled or not, with holes."""
    image = Image.new("L", (SIDE, SIDE))
    for level in (255, 0, 255)[: rng.integers(1, 4)]:
        middle, reach = rng.uniform(0.3, 0.7, 2) * SIDE, (0.42 if level else 0.2) * SIDE
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        outline = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.5, 1, (len(angles), 1)) * reach + middle
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in outline], fill=level)
    return np.asarray(image)


def texture(digits: list[Bytes], rng: Rng) -> Bytes:
    """Clouds and grain of any size, in grey or in black and white."""
    cells = rng.integers(2, 24, 2)
    field = smooth((SIDE, SIDE), int(cells[0]), rng) + rng.uniform(0, 1) * smooth((SIDE, SIDE), int(cells[1]), rng)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    field = field - rng.uniform(0, 1.5) * (x * x + y * y) ** 2
    return np.clip(128 + rng.choice([60, 100, 1000]) * field, 0, 255).astype(np.uint8)


def enlarged(pixels: Bytes) -> Bytes:
    return np.pad(np.asarray(Image.fromarray(pixels).resize((pixels.shape[1] * 3, pixels.shape[0] * 3))), 6)


OUTLIERS: dict[str, tuple[int, Callable[[list[Bytes], Rng], Bytes]]] = {
    "sign": (2000, sign), "strokes": (1000, strokes), "scribble": (600, scribble),
    "letter": (2400, partial(printed, 1, 1)), "word": (600, partial(printed, 2, 6)), "beside": (1000, beside),
    "over": (1600, over), "turned": (1000, turned), "solid": (800, solid), "texture": (800, texture),
}  # fmt: skip
"""How many of each kind."""


@cache
def none_pixels(scale: float = 1) -> tuple[Bytes, npt.NDArray[np.float64]]:
    """(N, 28, 28) pictures without a digit, as the preparation leaves them, and (N,) weights: all kinds alike.

    Letters, signs and pairs count for two to three: they are what people show. Where the preparation finds nothing, or
    several pieces and says so, there is nothing to add.
    """
    images, labels = validation()
    pixels, weights = [], []
    for kind, (n, draw) in OUTLIERS.items():
        rng = np.random.default_rng([1, *kind.encode()])
        # lying on their side, other digits than these may look like one
        which = np.flatnonzero(np.isin(labels, (3, 4, 7)) | (kind != "turned"))
        found = [
            digit_from_array(draw(list(images[rng.choice(which, 5, replace=False)]), rng))
            for _ in range(round(n * scale))
        ]
        own = [each.pixels for each in found if not each.empty and each.note is None]
        pixels += own
        weights += [{"sign": 3, "letter": 3, "over": 2}.get(kind, 1) / len(own)] * len(own)
    return np.stack(pixels), np.array(weights) / np.mean(weights)


@cache
def digit_pixels(scale: float = 1) -> tuple[Bytes, npt.NDArray[np.int64], int]:
    """(N, 28, 28) pictures of digits, (N,) labels, and how many of them, the first ones, are MNIST's own."""
    images, labels = validation()
    copies = torch.tensor(np.tile(images, (max(1, round(2 * scale)), 1, 1)))
    twice = np.tile(labels, len(copies) // len(labels)).astype(np.int64)
    changed = augment(copies, OTHER_HANDS, torch.Generator().manual_seed(1), torch.tensor(twice)).numpy()
    sets = [name for name in SETS if not any(word in name for word in SKIPPED)]
    drawings = [(label, digit_from_array(picture)) for label, picture in _scans(sets, max(1, round(50 * scale)))]
    drawings = [(label, each) for label, each in drawings if not each.empty]
    pixels = np.concatenate([images, changed, np.stack([each.pixels for _, each in drawings])])
    return pixels, np.concatenate([labels, twice, [label for label, _ in drawings]]).astype(np.int64), len(images)


def _scans(sets: list[str], n: int) -> Iterator[tuple[int, Bytes]]:
    for name in sets:
        yield from ((label, picture) for label, picture in made(name, n, 11) if label is not None)
    rng = np.random.default_rng(2)
    for label in rng.integers(10, size=20 * n).tolist():
        yield label, printed(1, 1, [], rng, str(label))


def fitted(checkpoint: Checkpoint, scale: float = 1) -> Checkpoint:
    """The checkpoint with a rule for no digit, and with the temperature of clean and hard digits together."""
    runner = TorchRunner(checkpoint.model())
    pixels, labels, n_clean = digit_pixels(scale)
    none, none_weights = none_pixels(scale)
    views, none_views = (
        np.concatenate([logits_of_views(runner, part) for part in np.array_split(some, len(some) // 500 + 1)])
        for some in (pixels, none)
    )
    logits = views[:, : checkpoint.config.n_classes]
    right = logits.argmax(1) == labels
    judged, weights = np.arange(len(pixels)) % 2 == 0, np.where(np.arange(len(pixels)) < 3 * n_clean, 1.0, 2.0)
    fitting = right & ~judged
    rule = fit_rule(views[fitting], weights[fitting] / weights[fitting].mean(), none_views, none_weights)
    scores, clean = no_digit_score(views, rule), np.arange(len(pixels)) < n_clean
    bias = max(
        np.quantile(scores[judged & right & own], 1 - share)
        for own, share in ((clean, CLEAN_ACCUSED), (~clean, HARD_ACCUSED))
    )
    # the pictures without a digit are many here and few in life: how sure a score is, digits alone say
    excess = scores[judged] - bias
    sureness = fit_temperature(np.stack([0 * excess, excess], 1).astype(np.float32), np.zeros(len(excess), np.int64))
    output = [weight / sureness for weight in (*rule.output[:-1], rule.output[-1] - bias)]
    rule = NoDigitRule(rule.hidden, tuple(map(_rounded, output)))
    return dataclasses.replace(checkpoint, no_digit=rule, temperature=fit_temperature(logits[judged], labels[judged]))


def fit_rule(
    digits: Logits, weights: npt.NDArray[np.float64], none: Logits, none_weights: npt.NDArray[np.float64]
) -> NoDigitRule:
    """Units that tell (N, N_VIEWS * classes) logits of digits from those of none, by logistic regression on them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.tensor(np.concatenate([digits, none]))
    wanted = torch.cat([torch.full((len(digits),), SMOOTHING), torch.full((len(none),), 1 - SMOOTHING)])
    weight = torch.tensor(np.concatenate([weights, none_weights]), dtype=torch.float32)
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-3
    inputs = (inputs - mean) / deviation
    n = inputs.shape[1]
    hidden = torch.empty(n + 1, N_UNITS).uniform_(-(n**-0.5), n**-0.5, generator=generator).requires_grad_()
    output = torch.empty(N_UNITS + 1).uniform_(-(N_UNITS**-0.5), N_UNITS**-0.5, generator=generator).requires_grad_()
    optimizer = torch.optim.AdamW([hidden, output], lr=0.01, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=N_STEPS)
    for _ in range(N_STEPS):
        some = torch.randint(len(inputs), (BATCH,), generator=generator)
        score = torch.tanh(inputs[some] @ hidden[:-1] + hidden[-1]) @ output[:-1] + output[-1]
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(score, wanted[some], weight[some]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # on the logits as they are
        weights_in = hidden[:-1] / deviation[:, None]
        units = torch.cat([weights_in, (hidden[-1] - mean @ weights_in)[None]]).T
    return NoDigitRule(
        tuple(tuple(map(_rounded, unit)) for unit in units.tolist()), tuple(map(_rounded, output.tolist()))
    )


def _rounded(weight: float) -> float:
    return float(f"{weight:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="+")
    torch.set_num_threads(1)  # so that the sums, and what is fitted, do not hang on the number of cores
    for path in parser.parse_args().checkpoint:
        found = fitted(load_checkpoint(path))
        save_checkpoint(path, found)
        print(f"{path}: a rule for no digit, temperature {found.temperature}", flush=True)


if __name__ == "__main__":
    main()
