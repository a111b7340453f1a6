"""Find the digit in a decoded picture: tell ink from paper, look inside sheets and frames, choose its pieces."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgelstm.data.picture.blobs import choose, grown, inside_frame, label
from edgelstm.data.picture.draw import BOX_SHARE, drawn, stroke_width
from edgelstm.data.picture.ink import (
    blurred,
    even_ground,
    grey_from,
    ink_from,
    ink_is_dark,
    made_small,
    rim_of,
    slope_votes,
    small_ground,
    threshold,
)
from edgelstm.data.picture.lines import without_lines
from edgelstm.data.picture.sheet import pasted_sheet, sheet_on_desk
from edgelstm.errors import PictureError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Top, bottom, left and right, the ends exclusive."""

WORK_PX = 320
"""Longest side at which ink is looked for."""
ENLARGED_PX = 96
"""What is smaller is enlarged to this longest side first: in 8 x 8 pixels a loop is one pixel wide."""
SCAN_PX = 64
"""A picture not larger is a digit cut out of something, and goes on beyond its edges as its rim begins."""
FEW_PX, MAX_LOST = 48, 0.03
"""Such a cut-out made large shows no more than this longest side can: made small again it loses hardly any of its
variance."""
MARGIN = 0.2
"""Width of the margin in the ground's colour around such a picture and around drawings, shares of the longer side."""
MAX_DEPTH = 3
"""Times that a part of the picture is looked at anew: a frame in a plot on a page on a desk."""
SMALL_PX = 100
"""A digit not larger at WORK_PX is looked at closer, where the picture has more pixels: a pen's stroke is a fourteenth
of a digit's height, so 7 pixels wide at this size, and narrower ones lose their edges."""
HAIRLINE_PX = 2.5
"""Strokes narrower than this are blurred: whether they fall on one column of pixels or between two shows too much."""
PALE = 0.5
"""In a small scan, which has no grain, ink of this share of the level halfway up its strokes is ink."""
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
            if candidate.any() and _is_ready(candidate):
                return DigitPicture(np.ascontiguousarray(candidate))
    try:
        # if there is nothing that keeps away from the edges, a digit cut out of a photo may fill it
        found = _find(picture) or _find(picture, max_lost=2 * MAX_LOST)
    except PictureError:
        raise
    except Exception as error:  # whatever happens to one picture may only cost that picture
        what = f"{type(error).__name__}: {error}"
        raise PictureError("cannot find the digit in a picture", found=what, fix="report it as a bug") from error
    if found is None:
        return DigitPicture(np.zeros((rows, cols), np.uint8), "no ink found", empty=True)
    ink, note, grey_kept = found
    return DigitPicture(drawn(ink, rows, cols, grey_kept), note)


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
class _View:
    """A part of a picture, made larger or smaller, with a margin around it."""

    grey: Bytes
    top: float
    left: float
    scale: float
    """Pixels of the view for one of the picture."""
    margin: int
    ground: int | None
    """The one value of a drawing's ground."""
    few: bool
    """It shows no more than a few pixels can: their grey says as much as their number."""

    def cut(self, picture: Bytes, box: Box) -> Bytes:
        """A box in the view as a part of the picture."""
        height, width = picture.shape[:2]
        y0, y1 = (round(min(max((n - self.margin) / self.scale + self.top, 0), height)) for n in box[:2])
        x0, x1 = (round(min(max((n - self.margin) / self.scale + self.left, 0), width)) for n in box[2:])
        return picture[y0:y1, x0:x1]


def _view(grey: Bytes, max_lost: float) -> _View | None:
    """What of a picture is looked at, and how large: a drawing's ink, all of a photo. None: all of one value.

    A drawing's ground is the same beyond the edges, and so is that of a digit cut out of a page: with a margin, ink
    that touches the edge is read as any other. In a photo such things are shadows, desks and fingers.
    """
    ground, top, left = even_ground(grey), 0, 0
    if ground is not None:
        away = Image.fromarray(grey).point([abs(value - ground) for value in range(256)])
        darkest = int(np.asarray(away).max())
        box = away.point([255 * (value > max(2, darkest // 4)) for value in range(256)]).getbbox()
        if box is None:
            return None
        left, top = box[:2]
        grey = grey[top : box[3], left : box[2]]
    longest = max(grey.shape)
    few = longest <= SCAN_PX
    if ground is None:
        small = grey if few else made_small(grey, FEW_PX, max_lost)
        if small is not None:
            ground, few = small_ground(small), True
    scale = min(WORK_PX / longest, 1.0) if longest >= ENLARGED_PX else ENLARGED_PX / longest
    if scale != 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
        grey = np.asarray(Image.fromarray(grey).resize(size, method))
    margin = 0
    if ground is not None:
        margin = round(MARGIN * max(grey.shape))
        grey = np.pad(grey, margin, constant_values=ground)
    return _View(grey, top, left, scale, margin, ground, few)


def _cut(picture: Bytes, box: tuple[int, int, int, int]) -> Bytes:
    return picture[box[0] : box[1], box[2] : box[3]]


def _find(picture: Bytes, depth: int = 0, max_lost: float = MAX_LOST) -> tuple[Floats, str | None, bool] | None:
    """The digit's ink, cropped: (h, w) float32, above 0.5 inside the strokes; a note; whether its grey is kept.

    None: no ink.
    """
    if min(picture.shape) == 0:
        return None
    levels = grey_from(picture)
    if depth < MAX_DEPTH:
        pasted = pasted_sheet(levels)
        if pasted is not None:
            found = _find(_cut(picture, pasted), depth + 1)
            if found is not None:
                return found
    view = _view(levels, max_lost)
    if view is None:
        return None
    grey = view.grey.astype(np.float32)
    if depth < MAX_DEPTH and view.ground is None and not view.margin:
        sheet = sheet_on_desk(picture, grey)
        if sheet is not None:
            return _find(sheet, depth + 1)
    inked = _inked(grey) if view.ground is None else _drawn_ink(grey, view.ground)
    if inked is None:
        return None
    ink, votes, level = inked
    grey_kept = view.few and view.ground is not None
    share = PALE if grey_kept else 1.0
    mask = ink > share * level
    if depth == 0:  # lines end where the picture does, and its margin begins
        inner = (slice(view.margin, len(mask) - view.margin), slice(view.margin, mask.shape[1] - view.margin))
        lined = ink[inner] > (0.6 if view.ground is None else share) * level
        mask[inner] &= without_lines(lined)
    thick = grown(mask)
    blobs = label(thick)  # a pixel or two between two pieces of a stroke is no gap
    ground = ink[~thick]
    faint = view.ground is None and bool(len(ground)) and level < FAINT * float(ground.mean())
    chosen, note = choose(blobs, votes, faint)
    if chosen is None:
        return None
    inside = inside_frame(blobs, int(chosen[0])) if depth < MAX_DEPTH else None
    if inside is not None:
        found = _find(view.cut(picture, inside), depth + 1)
        if found is not None:
            return found
    top, bottom = int(blobs.top[chosen].min()), int(blobs.bottom[chosen].max())
    left, right = int(blobs.left[chosen].min()), int(blobs.right[chosen].max())
    extent = max(bottom - top, right - left)
    if depth == 0 and extent < SMALL_PX and view.scale < 0.67:  # small: look closer
        margin = 0.6 * extent
        around = view.cut(picture, (top - margin, bottom + margin, left - margin, right + margin))
        closer = _find(around, depth + 1)
        if closer is not None:
            return closer[0], note, closer[2]
    box = (slice(top, bottom), slice(left, right))
    keep = np.append(np.isin(np.arange(len(blobs)), chosen), False)[blobs.labels[box]]
    if view.ground is None:
        level = threshold(ink[box], slope_votes(ink[box])) or level
    crop = np.where(grown(keep), ink[box], 0) * np.float32(0.5 / level)
    return crop, note, grey_kept


def _drawn_ink(grey: Floats, ground: int) -> tuple[Floats, None, float]:
    """How much ink covers each pixel of a drawing, 0 to 1, and the level halfway up its strokes."""
    away = grey - np.float32(ground)
    dark = float(np.square(np.minimum(away, 0)).sum()) >= float(np.square(np.maximum(away, 0)).sum())
    ink = np.maximum(-away if dark else away, 0)
    if stroke_width(ink > 0.5 * ink.max()) < HAIRLINE_PX:
        ink = blurred(ink)
    strokes = ink[ink > 0.25 * ink.max()]
    return ink, None, float(np.partition(strokes, int(0.75 * len(strokes)))[int(0.75 * len(strokes))]) / 2


def _inked(grey: Floats) -> tuple[Floats, Floats, float] | None:
    """How much ink covers each pixel, how far each is an edge, and the level of the edges; None: no ink."""
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
