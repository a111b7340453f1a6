"""Find the digit in a decoded picture: look for a sheet, tell ink from paper, choose the pieces that are the digit."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgelstm.data.picture.blobs import choose, grown, label
from edgelstm.data.picture.draw import BOX_SHARE, drawn, stroke_width
from edgelstm.data.picture.ink import (
    blurred,
    even_ground,
    grey_from,
    ink_from,
    ink_is_dark,
    ink_on_even_ground,
    slope_votes,
    threshold,
)
from edgelstm.data.picture.lines import without_lines
from edgelstm.data.picture.sheet import inside_frame, pasted_sheet, sheet_on_desk
from edgelstm.errors import PictureError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WORK_PX = 320
"""Longest side at which ink is looked for."""

MAX_DEPTH = 2
"""Times that a part of the picture is looked at anew: a plot on a page on a desk."""
SMALL_PX = 100
"""A digit not larger at WORK_PX is looked at closer, where the picture has more pixels: a pen's stroke is a fourteenth
of a digit's height, so 7 pixels wide at this size, and narrower ones lose their edges."""
HAIRLINE_PX = 2.5
"""Strokes narrower than this are blurred: whether they fall on one column of pixels or between two shows too much."""
FAINT = 3.5
"""Ink that is not so many times darker than its ground may be grain."""


@dataclass(frozen=True)
class DigitPicture:
    """A digit as MNIST would have it, and what was seen on the way."""

    pixels: Bytes
    """(rows, cols), 0 = background, 255 = ink."""
    note: str | None = None
    """In plain words, what was out of the ordinary; None if nothing was."""
    empty: bool = False
    """No ink was found: ``pixels`` is all background."""


def digit_from_array(picture: Bytes, rows: int = 28, cols: int = 28) -> DigitPicture:
    """The digit of a decoded picture: uint8 (H, W) grey or (H, W, 3) colour -> (rows, cols) uint8.

    A picture that already is MNIST-like comes back bit for bit (negated if its ink is dark). Raises PictureError for
    an array of another shape or type, or without pixels.
    """
    if picture.dtype != np.uint8 or not picture.size or picture.ndim < 2 or picture.shape[2:] not in ((), (3,)):
        what = f"{picture.dtype} of shape {picture.shape}"
        raise PictureError("an array is no picture", found=what, expected="uint8 of shape (H, W) or (H, W, 3)")
    if picture.ndim == 3 and (picture == picture[:, :, :1]).all():
        picture = picture[:, :, 0]
    if picture.shape == (rows, cols):
        for candidate in (picture, 255 - picture):
            if not candidate.any():
                return DigitPicture(np.zeros((rows, cols), np.uint8), "no ink found", empty=True)
            if _is_ready(candidate):
                return DigitPicture(np.ascontiguousarray(candidate))
    found = _find(picture)
    if found is None:
        return DigitPicture(np.zeros((rows, cols), np.uint8), "no ink found", empty=True)
    ink, note = found
    return DigitPicture(drawn(ink, rows, cols), note)


def _is_ready(picture: Bytes) -> bool:
    """Whether it looks like a picture out of MNIST: light ink on black, boxed and centred."""
    rows, cols = picture.shape
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    if edge.mean() > 16 or picture.max() < 128:  # MNIST's edges are black, and its ink reaches white
        return False
    ink = picture > 96
    ys, xs = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not 0.45 * rows < max(ys[-1] - ys[0], xs[-1] - xs[0]) + 1 <= (BOX_SHARE + 0.08) * max(rows, cols):
        return False
    total = float(picture.sum())
    y = float(picture.sum(axis=1) @ np.arange(rows)) / total + 0.5
    x = float(picture.sum(axis=0) @ np.arange(cols)) / total + 0.5
    return bool(abs(y - rows / 2) < 0.05 * rows and abs(x - cols / 2) < 0.05 * cols)


def _find(picture: Bytes, depth: int = 0) -> tuple[Floats, str | None] | None:
    """The digit's ink, cropped: (h, w) float32, above 0.5 inside the strokes; and a note. None: no ink."""
    grey = grey_from(_reduce(picture, WORK_PX))
    if depth < MAX_DEPTH:
        within = _within(picture, grey)
        if within is not None:
            return _find(within, depth + 1)
    inked = _inked(grey)
    if inked is None:
        return None
    ink, votes, level = inked
    mask = (ink > level) & without_lines(ink > 0.6 * level)
    thick = grown(mask)
    blobs = label(thick)  # a pixel or two between two pieces of a stroke is no gap
    ground = ink[~thick]
    chosen, note = choose(blobs, votes, faint=bool(len(ground)) and level < FAINT * float(ground.mean()))
    if chosen is None:
        return None
    inside = inside_frame(blobs, int(chosen[0])) if depth < MAX_DEPTH else None
    if inside is not None:
        found = _find(_cut(picture, grey, inside), depth + 1)
        if found is not None:
            return found
    top, bottom = int(blobs.top[chosen].min()), int(blobs.bottom[chosen].max())
    left, right = int(blobs.left[chosen].min()), int(blobs.right[chosen].max())
    extent = max(bottom - top, right - left)
    if depth == 0 and extent < SMALL_PX and max(picture.shape[:2]) > 1.5 * max(grey.shape):  # small: look closer
        margin = 0.6 * extent
        closer = _find(_cut(picture, grey, (top - margin, bottom + margin, left - margin, right + margin)), depth + 1)
        if closer is not None:
            return closer[0], note
    box = (slice(top, bottom), slice(left, right))
    keep = np.append(np.isin(np.arange(len(blobs)), chosen), False)[blobs.labels[box]]
    level = threshold(ink[box], slope_votes(ink[box])) or level
    crop = np.where(grown(keep), ink[box], 0) * np.float32(0.5 / level)
    return crop, note


def _within(picture: Bytes, grey: Floats) -> Bytes | None:
    """What of the picture is the sheet, if that is not all; ``grey`` is its smaller copy."""
    pasted = pasted_sheet(grey)
    if pasted is not None:
        return _cut(picture, grey, pasted)
    return sheet_on_desk(picture, grey) if even_ground(grey) is None else None


def _cut(picture: Bytes, grey: Floats, box: tuple[float, float, float, float]) -> Bytes:
    """Top, bottom, left, right in ``grey``, a smaller copy, as a part of the picture."""
    scale = max(picture.shape[:2]) / max(grey.shape)
    y0, y1, x0, x1 = (max(0, round(n * scale)) for n in box)
    return picture[y0:y1, x0:x1]


def _inked(grey: Floats) -> tuple[Floats, Floats, float] | None:
    """How much ink covers each pixel, how far each is an edge, and the level of the edges; None: no ink."""
    ink = ink_on_even_ground(grey)
    if ink is None:
        ink = ink_from(grey, ink_is_dark(grey))
    votes = slope_votes(ink)
    if votes is None:  # blank, or all edges, as the dots of a fax: blur them together
        for _ in range(4):
            grey = blurred(grey)
        ink = ink_from(grey, ink_is_dark(grey))
        votes = slope_votes(ink)
    level = threshold(ink, votes)
    if votes is None or level is None:
        return None
    if stroke_width(ink > level) < HAIRLINE_PX:
        softer = blurred(ink)
        soft_votes = slope_votes(softer)
        soft_level = threshold(softer, soft_votes)
        if soft_votes is not None and soft_level is not None:
            return softer, soft_votes, soft_level
    return ink, votes, level


def _reduce(picture: Bytes, longest: int) -> Bytes:
    """The picture with its longest side at most ``longest``, averaged, so that hairlines stay."""
    height, width = picture.shape[:2]
    scale = max(height, width) / longest
    if scale <= 1:
        return picture
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
