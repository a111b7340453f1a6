"""Which pixels are ink: grey values, the paper behind them, the polarity, the threshold."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgelstm.data.picture.blobs import label
from edgelstm.data.picture.draw import stroke_width

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TWO_LEVELS_PX = 64
"""Longest side of the copy in which two levels are looked for: averaged so far, grain is gone and strokes are not."""
CLEAR, CLEAR_FAR_APART = 0.79, 0.7
"""Share of the variance that two levels explain where there are only ink and paper; less will do where the two are as
far apart as shades of one paper never are."""
NEAR_TOGETHER, FAR_APART = 6, 100
"""Grey levels: averages of grain are whole numbers too, two or three of them."""
EVEN_RIM = 0.1
"""Ink along so little of the rim leaves no doubt about the ground."""
TOGETHER = 1.0
"""Weight of how far ink hangs together, against the shares of picture and rim that ground covers."""
FULL = 0.75
"""Share of the ink that is paler than full ink."""
HAIRLINE_PX = 2.5
"""Strokes narrower than this are blurred: whether they fall on one column of pixels or between two shows too much."""
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


def _small(grey: npt.NDArray[Any], longest: int = GROUND_PX) -> npt.NDArray[Any]:
    """A copy of at most so many pixels, averaged."""
    height, width = grey.shape
    scale = max(height, width) / longest
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


@dataclass(frozen=True)
class Ink:
    """How much ink covers each pixel of a picture, at some scale."""

    cover: Floats
    """(H, W), above 0.5 inside the strokes, 1 in their middle."""
    votes: Floats | None
    """(H-2, W-2), how far each inner pixel is an edge; None: all edges are alike."""
    margin: int
    """Pixels of even ground that were added all around; 0 in a photo, which ends at its edges."""
    scale: float
    """Pixels of ``cover`` for one of what it was made of."""


@dataclass(frozen=True)
class Levels:
    """A small copy of a picture, parted in two."""

    small: Bytes
    level: float
    """What is above it is light, the rest dark."""
    clear: bool
    """Whether there are just ink and paper."""


def two_levels(grey: Bytes) -> Levels:
    """Part a small copy by Otsu's level (1979), and tell whether it shows just ink and paper.

    Averaged so far that grain is gone, these are two levels. Shading, grain or soft shadows are two levels, cut
    anywhere, to two thirds or three quarters only.
    """
    small = _small(grey, TWO_LEVELS_PX)
    counts = np.bincount(small.ravel(), minlength=256).astype(np.float64)
    below, total = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    between = (total[-1] * below - total * below[-1]) ** 2 / np.maximum(below * above, 1)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    level = float(best.mean())
    share = float(between.max()) / max(float(small.var()) * below[-1] ** 2, 1e-9)
    apart = float(small[small > level].mean() - small[small <= level].mean()) if share > 1e-6 else 0.0
    return Levels(small, level, apart > NEAR_TOGETHER and share > (CLEAR if apart < FAR_APART else CLEAR_FAR_APART))


def even_ink(grey: Bytes, levels: Levels, margin: int, scale: float) -> Ink:
    """The ink of a picture of two levels, in a margin of its ground."""
    level, dark = levels.level, levels.small <= levels.level
    on_rim = float(rim_of(dark).mean())
    ground_is_dark = on_rim > 0.5
    if EVEN_RIM < on_rim < 1 - EVEN_RIM:
        ground_is_dark = _ground_score(dark) >= _ground_score(~dark)
    own = grey[(grey <= level) == ground_is_dark]
    ground = median(own)
    away = (grey.astype(np.float32) - np.float32(ground)) * (1 if ground_is_dark else -1)
    away = np.pad(np.maximum(away, 0), margin)
    for _ in range(4):
        strokes = away[away > abs(level - ground)]
        full = float(np.partition(strokes, int(FULL * len(strokes)))[int(FULL * len(strokes))]) if len(strokes) else 1.0
        if stroke_width(away > full / 2) >= HAIRLINE_PX:
            break
        away = blurred(away)
    return Ink(away / np.float32(max(full, 1)), None, margin, scale)


def _ground_score(mask: Mask) -> float:
    """How far a part of the picture is ground: it covers most of it, and of the rim, and ink divides it."""
    pieces = label(mask)
    together = float(pieces.area.max() / mask.sum()) if len(pieces) else 0.0
    return float(mask.mean() + rim_of(mask).mean()) - TOGETHER * together


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


def photo_ink(grey: Floats, scale: float) -> Ink | None:
    """The ink of a photo, whose paper has shadows and shading; None: no ink."""
    ink = ink_from(grey, ink_is_dark(grey))
    votes = slope_votes(ink)
    if votes is None:  # blank, or all edges, as the dots of a fax: blur them together
        for _ in range(4):
            grey = blurred(grey)
        ink = ink_from(grey, ink_is_dark(grey))
        votes = slope_votes(ink)
    level = threshold(ink, votes)
    if level is None:
        return None
    if stroke_width(ink > level) < HAIRLINE_PX:
        softer = blurred(ink)
        soft_votes = slope_votes(softer)
        soft_level = threshold(softer, soft_votes)
        if soft_level is not None:
            ink, votes, level = softer, soft_votes, soft_level
    return Ink(ink * np.float32(0.5 / level), votes, 0, scale)
