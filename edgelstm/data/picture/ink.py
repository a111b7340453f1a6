"""Which pixels are ink: grey values, the paper behind them, the polarity, the threshold."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

EVEN_SHARE, EVEN_SHARE_OF_TWO, EVEN_RIM_OF_TWO = 0.6, 0.5, 0.7
"""Paper never has one value over so much of a picture, nor paper and ink two, there and along the rim; a drawing's
canvas does."""
EVEN_RIM, MIN_SMALL_CONTRAST = 5, 40
"""Ink differs from the ground of a small scan so many times more than that ground varies, and so many levels."""
NEAR_LEVELS, EXACT = 2, 0.5
"""JPEG leaves an even ground within two levels, and half of it on one of them."""
DITHERED_PX = 128
"""In a larger picture of two values these are looked at in twos: dots that make a grey are no ground."""
DITHERED_PX = 128
"""In a larger picture of two values these are looked at in twos: dots that make a grey are no ground."""
MIN_FULL_CONTRAST, MIN_FILLED = 128, 0.12
"""A digit cut out fills its picture: it differs by so many levels, and takes so much of it."""
MAX_RUN = 0.27
"""And it touches no more of the rim in one place: the bar of a 7 takes one side."""
MIN_APART = 48
"""Levels between ground and ink where each has much of the picture."""
GROUND_PX = 160
"""Longest side of the copy in which paper is told from ink."""
MIN_CONTRAST = 0.04
"""Ink fainter than this share of the paper's brightness is not ink."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey, after ITU-R BT.601, as in JPEG."""
DARKEST = 32
"""Grey level below which paper counts as this bright: dividing by less would turn grain into ink."""
WIDE, NARROW = 0.35, 0.08
"""Width of strokes, in shares of the picture's shorter side, under which paper is looked for: the boldest, and most."""
MIDDLE = 0.6
"""Centre weight of the part of the picture in which it is asked how wide the strokes are, away from shadows."""
GRAIN = 4
"""A slope is an edge if it is so many times steeper than the median slope."""


def grey_from(picture: Bytes) -> Bytes:
    """(H, W) uint8: grey as it is; colour along the direction in which the ink differs most."""
    if picture.ndim == 2:
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    flat = picture.reshape(-1, 3)
    flat = flat[:: max(1, len(flat) // 10_000)].astype(np.float32)  # enough to see how the colours spread
    away = flat - np.array([median(channel) for channel in flat.T], np.float32)
    spread, axes = np.linalg.eigh(away.T @ away / len(away))
    # another direction is worth its noise only if things differ there three times as much as in brightness
    if float(np.var(away @ LUMA)) * 3 >= float(spread[-1]) * float(LUMA @ LUMA):
        return np.asarray(image.convert("L"))
    main = axes[:, -1] / np.abs(axes[:, -1]).sum()
    main = main if main @ LUMA >= 0 else -main
    return np.asarray(image.convert("L", (*main.tolist(), float(-255 * main[main < 0].sum()))))


def rim_of(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The pixels along the four edges."""
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def median(values: npt.NDArray[Any]) -> float:
    """The middle value; of a large array that of an even sample, which is near enough here.

    NumPy's own imports numpy.ma, which costs a tenth of the whole start-up.
    """
    flat = np.ascontiguousarray(values.ravel()[:: max(1, values.size // 4_096)])
    return float(np.partition(flat, flat.size // 2)[flat.size // 2])


def _extreme(values: Floats, size: int, highest: bool) -> Floats:
    """Running maximum (or minimum) over squares of odd side ``size``; the edge is repeated outwards."""
    pick = np.maximum if highest else np.minimum
    half = size // 2
    for _ in (0, 1):
        n = len(values) + 2 * half
        window, padded = 1, np.empty((n, values.shape[1]), np.float32)
        padded[:half], padded[half : n - half], padded[n - half :] = values[0], values, values[-1]
        while window < size:  # doubling: a window of 2k is the pick of two windows of k
            step = min(window, size - window)
            padded = pick(padded[: len(padded) - step], padded[step:])
            window += step
        values = np.ascontiguousarray(padded.T)
    return values


def _small(grey: Floats) -> Floats:
    """A copy of at most GROUND_PX, averaged."""
    height, width = grey.shape
    scale = max(height, width) / GROUND_PX
    if scale <= 1:
        return grey
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))


def _ground(small: Floats, share: float, dark: bool) -> Floats:
    """The paper without its ink: closing (dark ink) or opening (light ink) of a small copy."""
    window = max(2 * int(share * min(small.shape) / 2) + 1, 3)
    return _extreme(_extreme(small, window, highest=dark), window, highest=not dark)


def _contrast(grey: Floats, small: Floats, share: float, dark: bool) -> Floats:
    """How far each pixel is from the paper behind it."""
    ground = _ground(small, share, dark)
    if small is not grey:
        size = (grey.shape[1], grey.shape[0])
        ground = np.asarray(Image.fromarray(ground).resize(size, Image.Resampling.BILINEAR))
    return np.asarray(np.abs(ground - grey), np.float32)


@lru_cache(maxsize=4)
def _centre_weight(shape: tuple[int, int]) -> Floats:
    """1 in the middle, falling towards the edges, where frames and shadows are."""
    y, x = (1 - np.abs(np.linspace(-1, 1, n, dtype=np.float32)) ** 4 for n in shape)
    return np.outer(y, x).astype(np.float32)


def _surface(grey: Floats) -> Floats:
    """A smooth surface through the majority of the pixels: paper and its shading, not the ink.

    The quadratic with the smallest sum of absolute differences, by reweighted least squares.
    """
    height, width = grey.shape
    size = (min(width, 48), min(height, 48))  # enough for six unknowns, and quick
    small = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX)).ravel()
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (size[1], size[0]))
    shape = (len(y), len(x))
    terms = np.stack([np.broadcast_to(t, shape).ravel() for t in _quadratic(y[:, None], x[None])], axis=1)
    level, fitted = np.zeros(6), np.full_like(small, median(small))
    for _ in range(8):  # it has settled by then
        weighted = terms / (np.abs(small - fitted) + 2)[:, None]  # 2 grey levels: what differs less is noise
        level = np.linalg.lstsq(weighted.T @ terms, weighted.T @ small, rcond=None)[0]
        fitted = terms @ level
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (height, width))
    surface = sum(c * t for c, t in zip(level, _quadratic(y[:, None], x[None]), strict=True))
    return np.asarray(surface, np.float32)


def _quadratic(y: Floats, x: Floats) -> tuple[Floats, ...]:
    return np.ones_like(x), x, y, x * x, x * y, y * y


def even_ground(grey: Bytes) -> int | None:
    """The one grey value of a drawing's ground; None for other pictures.

    Either it covers most of the picture, or it and one other value, the ink's, do. In a digit cut to its ink there is
    more ink than ground, but not along the rim.
    """
    image = Image.fromarray(grey)
    counts = np.array(image.histogram(), np.float64) / grey.size
    if min(image.size) >= DITHERED_PX:
        halved = image.reduce(2)
        counts = np.minimum(counts, np.array(halved.histogram(), np.float64) / (halved.width * halved.height))
    near = np.convolve(counts, np.ones(2 * NEAR_LEVELS + 1), "same")
    first = int(counts.argmax())
    apart = np.abs(np.arange(256) - first) >= MIN_APART
    second = int(np.where(apart, counts, 0).argmax())
    exact = counts[first] >= EXACT * near[first]  # no bell of values, as of paper
    if exact and near[first] >= EVEN_SHARE:
        return first
    rim = rim_of(grey).astype(np.int16)
    on_rim = [float(np.mean(np.abs(rim - value) <= NEAR_LEVELS)) for value in (first, second)]
    two = exact and counts[second] >= EXACT * near[second] and near[first] + near[second] >= EVEN_SHARE_OF_TWO
    if not two or sum(on_rim) < EVEN_RIM_OF_TWO:
        return None
    return first if near[first] + on_rim[0] >= near[second] + on_rim[1] else second


def made_small(grey: Bytes, longest: int, max_lost: float) -> Bytes | None:
    """A digit cut out of something, small; None if it is none, or loses more of its variance than ``max_lost``."""
    height, width = grey.shape
    scale = longest / max(height, width)
    image = Image.fromarray(grey)
    small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    few = np.asarray(small)
    ordered = np.sort(few.ravel()).astype(int)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    dark = few <= (low + high) // 2
    rim = np.concatenate([dark[0], dark[:, -1], dark[-1, ::-1], dark[::-1, 0]])
    rim = rim if dark.mean() + rim.mean() < 1 else ~rim  # where there is ink
    starts = np.flatnonzero(rim & ~np.roll(rim, 1))
    ends = np.flatnonzero(~rim & np.roll(rim, 1))
    longest_run = max((int(((ends - start) % len(rim)).min()) for start in starts), default=0)
    filled = min(dark.mean(), 1 - dark.mean())
    if high - low < MIN_FULL_CONTRAST or filled < MIN_FILLED or longest_run > MAX_RUN * len(rim):  # a shadow, a desk
        return None
    again = np.asarray(small.resize(image.size, Image.Resampling.BICUBIC), np.float32)
    if float(np.square(again - grey).mean()) > max_lost * float(grey.var(dtype=np.float32)):
        return None
    return few


def small_ground(grey: Bytes) -> int | None:
    """The grey value of the ground of a small scan, None if it shows nothing: dark or light, whichever there is more
    of in the picture and along its rim.
    """
    low, high = int(grey.min()), int(grey.max())
    rim = rim_of(grey)
    dark, dark_rim = grey <= (low + high) // 2, rim <= (low + high) // 2
    own = dark_rim if np.mean(dark) + np.mean(dark_rim) >= 1 else ~dark_rim
    if not own.any():
        return None
    ground = median(rim[own])
    spread = float(np.mean(np.abs(rim[own] - np.float32(ground))))
    return round(ground) if high - low > max(MIN_SMALL_CONTRAST, EVEN_RIM * spread) else None


def ink_is_dark(grey: Floats) -> bool:
    """Whether the things in the picture are darker than the majority, and than what is around them."""
    grey = _small(grey)
    weight = _centre_weight((grey.shape[0], grey.shape[1]))
    away = grey - _surface(grey)
    darker, lighter = np.maximum(-away, 0), np.maximum(away, 0)
    balance = 0.0
    for share, trust in ((0.06, 8), (0.12, 2), (0.3, 1)):  # thin things say more than wide ones
        dark = np.minimum(_ground(grey, share, dark=True) - grey, darker)
        light = np.minimum(grey - _ground(grey, share, dark=False), lighter)
        balance += trust * float((weight * (dark * dark - light * light)).sum())
    return balance >= 0


def ink_from(grey: Floats, dark: bool) -> Floats:
    """How much ink covers each pixel, (H, W) float32 from 0 to about 1.

    The ground is looked for under wide strokes only if there are any: under narrow ones it keeps to
    the edges of shadows and folds.
    """
    small = _small(grey)
    wide = _contrast(grey, small, WIDE, dark)
    narrow = _contrast(grey, small, NARROW, dark)
    votes = slope_votes(grey)
    inner = (slice(1, -1), slice(1, -1))
    if votes is not None:
        votes = np.where(_centre_weight((grey.shape[0], grey.shape[1]))[inner] > MIDDLE, votes, 0)
    if votes is not None and float((votes * narrow[inner]).sum()) > 0.7 * float((votes * wide[inner]).sum()):
        wide = _contrast(grey, small, 1.5 * NARROW, dark)
    if dark:  # ink takes a share of the light, in the sun as in the shadow
        return np.asarray(wide / np.maximum(grey + wide, DARKEST), np.float32)
    return np.asarray(wide / 255, np.float32)


def slope_votes(values: Floats) -> Floats | None:
    """How far each inner pixel, (H-2, W-2), is an edge of something in the middle; None if there are none."""
    if min(values.shape) < 3:
        return None
    down = np.abs(values[2:, 1:-1] - values[:-2, 1:-1])
    across = np.abs(values[1:-1, 2:] - values[1:-1, :-2])
    slope = np.maximum(down, across)
    slope = np.where(slope > GRAIN * median(slope), slope, 0)
    votes = slope * slope * _centre_weight((values.shape[0], values.shape[1]))[1:-1, 1:-1]
    return votes if float(votes.sum()) > 0 else None


def threshold(ink: Floats, votes: Floats | None) -> float | None:
    """The ink level halfway up the edges of strokes; None if nothing stands out of the noise.

    Each pixel votes with its own level, weighted by the square of its gradient (Kittler,
    Illingworth and Foeglein's robust automatic threshold selection): hairlines count as much as blots.
    ``votes`` is what ``slope_votes`` says of the ink.
    """
    if votes is None or float(ink.max()) < MIN_CONTRAST:
        return None
    return max(float((votes * ink[1:-1, 1:-1]).sum() / votes.sum()), MIN_CONTRAST / 2)


def blurred(ink: Floats) -> Floats:
    """Averaged over 3 x 3 pixels with the weights 1, 2, 1 each way."""
    for axis in (0, 1):
        padded = np.pad(ink, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        n = ink.shape[axis]
        before, after = (np.take(padded, range(i, i + n), axis) for i in (0, 2))
        ink = np.asarray((before + 2 * ink + after) / 4, np.float32)
    return ink
