"""Find the digit in a decoded picture: tell ink from paper, look inside sheets and frames, choose its pieces."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgelstm.data.picture.blobs import Blobs, choose, grown, inside, label
from edgelstm.data.picture.draw import BOX_SHARE, drawn, stroke_width
from edgelstm.data.picture.ink import Ink, Levels, even_ink, grey_from, photo_ink, rim_of, two_levels
from edgelstm.data.picture.lines import without_lines
from edgelstm.errors import PictureError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

WORK_PX = 320
"""Longest side at which ink is looked for; more are averaged in squares."""
ENLARGED_PX = 96
"""What is smaller is enlarged to this longest side first: in 8 x 8 pixels a loop is one pixel wide."""
MIN_PHOTO_PX = 24
"""A smaller picture is ink on paper or nothing: so few pixels do not tell shadows from ink."""
MARGIN_PX = 8
"""Added in the ground's colour where the ground is even: ink that touches the edge is then read as any other."""
MIN_SHEET_PX, MIN_INSIDE_PX = 24, 8
"""A smaller picture shows no sheet on a desk, and a smaller inside of one no digit."""
MAX_DEPTH = 3
"""Times that a part of the picture is looked at anew: a frame in a plot on a page on a desk."""
SMALL_SHARE = 0.3
"""A digit not larger is looked at closer, where the picture has more pixels than the view."""
MIN_SHARE, MIN_OWN_PX = 0.02, 4.5
"""Longest side of a digit, in shares of the picture's and in its pixels: what is smaller is dust."""
MAX_THICK = 0.33
"""What is thicker, in shares of its longer side, is no stroke: a disc has a half."""
MIN_PARTED, WELL_PARTED = 0.68, 0.85
"""Share of the variance that lies between ink and ground, near the digit; of grain cut at any level it is 0.64."""
OUTWEIGHS = 1.8
"""Where there are printed lines, ink is so many times as wide, or as dark."""
PALE = 0.28
"""Share of full ink that is ink in a picture of few pixels, which has strokes narrower than a pixel."""
AROUND = 0.25
"""Width of the part around the digit in which there are two levels, shares of its longer side."""


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
    if picture.shape[:2] == (rows, cols):
        grey = grey_from(picture)
        for candidate in (grey, 255 - grey):
            if candidate.any() and _is_ready(candidate):
                return DigitPicture(np.ascontiguousarray(candidate))
    try:
        found = _find(picture)
        pixels = None if found is None else drawn(found.cover, rows, cols)
    except Exception as error:  # whatever happens to one picture may only cost that picture
        what = f"{type(error).__name__}: {error}"
        raise PictureError("cannot find the digit in a picture", found=what, fix="report it as a bug") from error
    if found is None or pixels is None:
        return DigitPicture(np.zeros((rows, cols), np.uint8), "no ink found", empty=True)
    return DigitPicture(pixels, found.note)


def _is_ready(picture: Bytes) -> bool:
    """Whether it looks like a picture out of MNIST: light ink on black, boxed and centred."""
    rows, cols = picture.shape
    if rim_of(picture).mean() > 16 or picture.max() < 128:  # MNIST's edges are black, and its ink reaches white
        return False
    ink = picture > 96
    ys, xs = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not 0.45 * rows < max(ys[-1] - ys[0], xs[-1] - xs[0]) + 1 <= (BOX_SHARE + 0.08) * max(rows, cols):
        return False
    total = float(picture.sum())
    y = float(picture.sum(axis=1) @ np.arange(rows)) / total + 0.5
    x = float(picture.sum(axis=0) @ np.arange(cols)) / total + 0.5
    return bool(abs(y - rows / 2) < 0.05 * rows and abs(x - cols / 2) < 0.05 * cols)


@dataclass(frozen=True)
class Found:
    """What is taken for the digit."""

    cover: Floats
    """(h, w), how much ink covers each pixel of its box, 0 to 1."""
    note: str | None
    parted: float
    """Share of the variance near it that lies between ink and ground."""


def _cut(picture: Bytes, box: tuple[float, float, float, float], scale: float) -> Bytes:
    """A box, top, bottom, left and right, of a view with ``scale`` pixels for one of the picture, cut out of it."""
    height, width = picture.shape[:2]
    y0, y1 = (round(min(max(n / scale, 0), height)) for n in box[:2])
    x0, x1 = (round(min(max(n / scale, 0), width)) for n in box[2:])
    return picture[y0:y1, x0:x1]


def _look_inside(picture: Bytes, pieces: Blobs, i: int, margin: int, scale: float, depth: int) -> Found | None:
    """What ``_find`` finds inside a sheet or a frame; what of its box is beside it takes its colour."""
    found = inside(pieces, i)
    if found is None:
        return None
    hull, (top, left) = found
    ys, xs = np.flatnonzero(hull.any(axis=1)), np.flatnonzero(hull.any(axis=0))
    top, left = top - margin, left - margin
    cut = _cut(picture, (top + ys[0], top + ys[-1] + 1, left + xs[0], left + xs[-1] + 1), scale).copy()
    if min(cut.shape[:2]) < MIN_INSIDE_PX:
        return None
    own = Image.fromarray(hull[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]).resize(cut.shape[1::-1])
    within = np.asarray(own)
    cut[~within] = np.median(cut[within][:: max(1, cut.size // 10_000)], axis=0)
    return _find(cut, depth + 1)


def _find(picture: Bytes, depth: int = 0) -> Found | None:
    """How much ink covers each pixel of the digit's box, 0 to 1, and a note; None: no ink."""
    longest = max(picture.shape[:2])
    if min(picture.shape[:2]) == 0:
        return None
    image = Image.fromarray(picture)
    factor = -(-longest // WORK_PX)
    image = image.reduce(factor) if factor > 1 else image
    grey = grey_from(np.asarray(image))
    levels = two_levels(grey)
    if depth < MAX_DEPTH and min(levels.small.shape) >= MIN_SHEET_PX:
        for mask in (levels.small > levels.level, levels.small <= levels.level):
            if mask.sum() > 0 and rim_of(mask).mean() < 0.1:
                pieces = label(mask)
                at = max(levels.small.shape) / longest
                found = _look_inside(picture, pieces, int(pieces.area.argmax()), 0, at, depth)
                if found is not None:
                    return found
    best: Found | None = None
    for ink in _inks(grey, levels):
        found = _digit_of(picture, ink, max(grey.shape) / longest * ink.scale, depth)
        if found is not None and (best is None or found.parted > best.parted):
            best = found
        if best is not None and best.parted > WELL_PARTED:
            break
    return best


def _inks(grey: Bytes, levels: Levels) -> Iterator[Ink]:
    """The ink as that of a picture of two levels, if it is one, and as that of a photo."""
    longest = max(grey.shape)
    scale = max(1.0, ENLARGED_PX / longest)
    if scale > 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    if levels.clear:
        yield even_ink(grey, levels, MARGIN_PX, scale)
    if longest >= MIN_PHOTO_PX:
        ink = photo_ink(grey.astype(np.float32), scale)
        if ink is not None:
            yield ink


def _digit_of(picture: Bytes, ink: Ink, scale: float, depth: int) -> Found | None:
    """The digit among the pieces of ink, looked at closer if it is small, if it is one at all."""
    mask = ink.cover > (PALE if ink.scale > 1 else 0.5)
    inner = (slice(ink.margin, len(mask) - ink.margin), slice(ink.margin, mask.shape[1] - ink.margin))
    lines = np.zeros_like(mask)
    if depth == 0:  # lines end where the picture does, and its margin begins
        bare = without_lines(ink.cover[inner] > (0.5 if ink.margin else 0.3))
        lines[inner] = mask[inner] & ~bare
        mask &= ~lines
    blobs = label(grown(mask))  # a pixel or two between two pieces of a stroke is no gap
    chosen, note = choose(blobs, ink.votes, ink.margin)
    if chosen is None:
        return None
    keep = np.append(np.isin(np.arange(len(blobs)), chosen), False)[blobs.labels]
    if lines.any() and _weight(ink.cover, mask & keep) < OUTWEIGHS * _weight(ink.cover, lines):
        return None  # what is left of them
    if depth < MAX_DEPTH:
        found = _look_inside(picture, blobs, int(chosen[0]), ink.margin, scale, depth)
        if found is not None:
            return found
    top, bottom = int(blobs.top[chosen].min()), int(blobs.bottom[chosen].max())
    left, right = int(blobs.left[chosen].min()), int(blobs.right[chosen].max())
    extent = max(bottom - top, right - left)
    if extent - 2 < max(MIN_SHARE * max(mask.shape) if depth == 0 else 0, MIN_OWN_PX * scale):
        return None
    box = tuple(n - ink.margin for n in (top, bottom, left, right))
    if depth == 0 and extent < SMALL_SHARE * max(mask.shape) and scale < 0.67:  # small: look closer
        room = 0.6 * extent
        wider = (box[0] - room, box[1] + room, box[2] - room, box[3] + room)
        closer = _find(_cut(picture, wider, scale), depth + 1)
        if closer is not None:
            return replace(closer, note=note)
    crop = (slice(top, bottom), slice(left, right))
    if stroke_width(keep[crop]) > MAX_THICK * extent:
        return None
    room = round(AROUND * extent)
    near = (slice(max(0, top - room), bottom + room), slice(max(0, left - room), right + room))
    ground = (blobs.labels < 0) & ~grown(lines)
    parted = _parted(ink.cover[near][(mask & keep)[near]], ink.cover[near][ground[near]])
    if parted < MIN_PARTED:
        return None
    return Found(np.where(grown(keep[crop]), np.clip(ink.cover[crop], 0, 1), 0), note, parted)


def _weight(cover: Floats, mask: Mask) -> float:
    """Width of strokes, in pixels of full ink."""
    return stroke_width(mask) * float(cover[mask].mean())


def _parted(ink: Floats, ground: Floats) -> float:
    """Share of the variance that lies between ink and ground, 0 to 1."""
    if not len(ink) or not len(ground):
        return 1.0
    share = len(ink) / (len(ink) + len(ground))
    between = share * (1 - share) * float(ink.mean() - ground.mean()) ** 2
    within = share * float(ink.var()) + (1 - share) * float(ground.var())
    return between / max(between + within, 1e-9)
