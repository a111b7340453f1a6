"""Draw ink as MNIST would: its size, its stroke width, its centre of mass."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FINE = 4
"""Subpixels of one final pixel, each way: strokes are thickened and centred at this scale."""
BOX_SHARE = 20 / 28
"""MNIST fits each digit into a box of 20 x 20 of its 28 x 28 pixels, keeping the aspect ratio."""
THINNEST, THICKEST = 2.2 / 20, 3.6 / 20
"""Stroke widths, in shares of the box, that are left as they are; most MNIST strokes lie between."""


def drawn(cover: Floats, rows: int, cols: int) -> Bytes:
    """How much ink covers each pixel (h, w), 0 to 1 -> (rows, cols) uint8 with MNIST's size, pen and centre."""
    box = BOX_SHARE * min(rows, cols) * FINE
    fitted = _fit(cover, box)
    for _ in range(2):  # thickening makes the digit larger, so it is fitted again into what is left
        mask = fitted > 0.5
        width = stroke_width(mask)
        goal = min(max(width, THINNEST * box), THICKEST * box)
        radius = (goal - width) / 2
        if abs(radius) <= 0.5:
            return _centre(fitted, rows, cols)
        if radius < 0:
            break
        fitted = _fit(cover, box - 2 * radius)
    return _centre(_thicken(mask, radius).astype(np.float32), rows, cols)


def _fit(ink: Floats, box: float) -> Floats:
    """Scale to a longest side of ``box`` subpixels: coverage, 0 to 1."""
    scale = box / max(ink.shape)
    padded = np.pad(ink, 1)
    height, width = (max(3, round(n * scale)) for n in padded.shape)
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    scaled = np.asarray(Image.fromarray(padded).resize((width, height), method))
    return np.asarray(np.clip(scaled, 0, 1) if (scaled > 0.5).any() else scaled >= scaled.max(), np.float32)


def _near(mask: Mask, radius: float) -> Mask:
    """Pixels whose distance to the nearest pixel of the mask is at most ``radius``, Euclid's way."""
    height, width = mask.shape
    reach = int(radius) + 1
    x = np.arange(width, dtype=np.int16)
    far = np.int16(width + 2 * reach)
    before = np.maximum.accumulate(np.where(mask, x, -far), axis=1)
    after = np.minimum.accumulate(np.where(mask, x, 2 * far)[:, ::-1], axis=1)[:, ::-1]
    across = np.minimum(np.minimum(x - before, after - x), reach)
    square = np.full((height + 2 * reach, width), reach * reach, np.int16)
    square[reach : reach + height] = across * across
    best = square[reach : reach + height].copy()
    for step in range(1, reach + 1):
        for start in (reach - step, reach + step):
            np.minimum(best, square[start : start + height] + np.int16(step * step), out=best)
    return np.asarray(best <= radius * radius)


def stroke_width(mask: Mask) -> float:
    """Mean width of the strokes in pixels: twice their area over their outline's length.

    The outline is measured by how often lines of four directions cross it (Cauchy and Crofton), which a
    staircase of pixels does not deceive.
    """
    solid = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    solid[1:-1, 1:-1] = mask
    straight = np.count_nonzero(solid[1:] != solid[:-1]) + np.count_nonzero(solid[:, 1:] != solid[:, :-1])
    slanted = np.count_nonzero(solid[1:, 1:] != solid[:-1, :-1]) + np.count_nonzero(solid[1:, :-1] != solid[:-1, 1:])
    outline = np.pi / 8 * (straight + slanted / np.sqrt(2))
    return float(max(2 * np.count_nonzero(mask) / max(outline, 1.0), 1.0))


def _thicken(mask: Mask, radius: float) -> Mask:
    """Widen the strokes by ``radius`` on each side, or thin them if it is negative."""
    if radius >= 0.5:
        return _near(np.pad(mask, int(radius) + 1), radius)
    if radius <= -0.5:
        return ~_near(~np.pad(mask, 1), -radius)[1:-1, 1:-1]
    return mask


def _centre(mask: Floats, rows: int, cols: int) -> Bytes:
    """Put the centre of mass into the middle of the canvas and average each FINE x FINE subpixels."""
    canvas = np.zeros((rows * FINE, cols * FINE), np.float32)
    places = []
    for axis, size in ((1, canvas.shape[0]), (0, canvas.shape[1])):
        share = mask.sum(axis=axis)
        middle = float(share @ np.arange(len(share))) / float(share.sum()) + 0.5
        start = round(size / 2 - middle)
        places.append(min(max(start, 0), max(0, size - len(share))))
    height, width = (min(n, m) for n, m in zip(mask.shape, canvas.shape, strict=True))
    canvas[places[0] : places[0] + height, places[1] : places[1] + width] = mask[:height, :width]
    small = canvas.reshape(rows, FINE, cols, FINE).mean(axis=(1, 3))
    return np.asarray(np.rint(255 * small), np.uint8)
