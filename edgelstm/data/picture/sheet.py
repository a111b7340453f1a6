"""A sheet of paper that lies on something else: find it, and let it fill the picture."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgelstm.data.picture.blobs import label
from edgelstm.data.picture.ink import median, rim_of

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_PX = 64
"""A smaller picture shows no sheet on a desk."""
MIN_SIDE = 0.3
"""A sheet is at least so wide and so high, in shares of the picture."""
MIN_PASTED = 0.4
"""A sheet on an even margin takes this share of the picture each way: thick digits take less of their rows."""
MIN_FULL = 0.9
"""Share of a straight side of a sheet or a frame that is there: corners may be rounded, pens skip."""
MIN_FRAME_PX = 24
"""A smaller frame has no room for a digit."""
RIM_PX = 2
"""Taken off each side of a sheet on a margin: the blurred edge between the two."""


def sheet_on_desk(picture: Bytes, grey: Floats) -> Bytes | None:
    """The picture cropped to its sheet, with the sheet's own rim continued over what is beside it.

    ``grey`` (h, w) is a smaller copy of ``picture``, (H, W) or (H, W, 3). None if there is no sheet: an
    even area with four straight sides that has something else all around.
    """
    ends = _row_ends(grey) if min(grey.shape) >= MIN_PX else None
    if ends is None:
        return None
    top, left, right = ends
    scale_y, scale_x = picture.shape[0] / grey.shape[0], picture.shape[1] / grey.shape[1]
    rows = np.arange(int(top * scale_y) + 1, int((top + len(left)) * scale_y))
    at = (rows + 0.5) / scale_y - top - 0.5
    first = np.rint(np.interp(at, np.arange(len(left)), left) * scale_x).astype(np.int64)
    last = np.rint(np.interp(at, np.arange(len(left)), right) * scale_x).astype(np.int64) - 1
    columns = np.arange(first.min(), last.max() + 1)[None]
    return np.asarray(picture[rows[:, None], np.clip(columns, first[:, None], last[:, None])])


def pasted_sheet(grey: Bytes) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of a sheet that lies on a margin of one value: its four sides are straight."""
    margin = int(median(rim_of(grey)))
    image = Image.fromarray(grey)
    if min(grey.shape) < 8 or np.mean(np.abs(rim_of(grey).astype(np.int16) - margin) < 8) < 0.98:
        return None
    box = image.point([255 * (abs(value - margin) > 12) for value in range(256)]).getbbox()
    if box is None or box == (0, 0, *image.size):
        return None
    left, top, right, bottom = box
    if min(bottom - top, right - left) < 8:
        return None
    sheet = np.abs(grey[top:bottom, left:right].astype(np.int16) - margin) > 12
    sides = (sheet[:2], sheet[-2:], sheet[:, :2], sheet[:, -2:])
    if min(float(side.mean()) for side in sides) < MIN_FULL:  # four straight sides, which no digit has
        return None
    return top + RIM_PX, bottom - RIM_PX, left + RIM_PX, right - RIM_PX


def _row_ends(grey: Floats) -> tuple[int, Floats, Floats] | None:
    """The sheet's first row, and where each of its rows begins and ends; a little inside its rim."""
    height, width = grey.shape
    bright = grey > _otsu(grey)
    for mask in (bright, ~bright):
        blobs = label(mask)
        if not len(blobs):
            continue
        i = int(blobs.area.argmax())
        rim = np.concatenate([blobs.labels[0], blobs.labels[-1], blobs.labels[:, 0], blobs.labels[:, -1]])
        if np.mean(rim == i) > 0.1:
            continue
        top, bottom, left, right = (int(side[i]) for side in (blobs.top, blobs.bottom, blobs.left, blobs.right))
        if bottom - top < MIN_SIDE * height or right - left < MIN_SIDE * width:
            continue
        own = blobs.labels[top:bottom, left:right] == i
        filled = _spanned(own) & _spanned(own.T).T
        if not (_straight_sides(filled) and _straight_sides(filled.T)):
            continue
        inset = 2 + min(height, width) // 80
        filled = filled[inset:-inset]
        first = filled.argmax(axis=1) + inset
        last = filled.shape[1] - filled[:, ::-1].argmax(axis=1) - inset
        wide = np.flatnonzero(last - first > MIN_SIDE / 2 * width)  # not the tips of a sheet that lies askew
        if len(wide):
            rows = slice(int(wide[0]), int(wide[-1]) + 1)
            ends = (left + first[rows]).astype(np.float32), (left + last[rows]).astype(np.float32)
            return top + inset + rows.start, *ends
    return None


def _spanned(mask: Mask) -> Mask:
    """Each row filled from its first to its last pixel."""
    before = np.logical_or.accumulate(mask, axis=1)
    return np.asarray(before & np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1])


def _straight_sides(filled: Mask) -> bool:
    """Whether left and right are straight lines, corners aside."""
    n = len(filled)
    middle = slice(int(0.2 * n), n - int(0.2 * n))
    y = np.arange(n, dtype=np.float64)[middle]
    y -= y.mean()
    for side in (filled.argmax(axis=1)[middle], filled[:, ::-1].argmax(axis=1)[middle]):
        x = side - side.mean()
        away = np.abs(x - (x @ y) / (y @ y) * y)
        if away.max() > 2 + 0.012 * filled.shape[1]:
            return False
    return True


def _otsu(grey: Floats) -> float:
    """The level that parts the picture into two classes of least variance (Otsu 1979)."""
    levels = np.clip(grey, 0, 255).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256).astype(np.float64)
    below, total = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    apart = (total[-1] * below - total * below[-1]) ** 2 / np.maximum(below * above, 1)
    return float(apart.argmax())
