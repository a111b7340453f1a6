"""Printed lines that cross the picture, as on ruled and squared paper: take them off the ink."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


STEEPEST, STEP = 0.2, 0.005
"""Slopes of lines that are tried, for a sheet photographed up to 11 degrees askew; one step moves the ends of a line
320 pixels long by less than one pixel."""
WHOLE, PARTIAL = 0.55, 0.65
"""Share of the picture's width that a line covers: less is asked of one that reaches both edges. A 1 lying across
the picture or the bar of a 7 seldom does."""
MIN_PARTIAL = 3
"""Lines that do not reach both edges are printed if there are so many of them; two may be those of a Z-like 2."""


def without_lines(mask: Mask) -> Mask:
    """The mask without printed lines that cross the whole picture, whatever they cross on the way."""
    across = _without_rules(mask)
    return _without_rules(across.T).T


def _without_rules(mask: Mask) -> Mask:
    """Take away near-horizontal lines. Where a stroke crosses one, the ink is too high to be a line."""
    height, width = mask.shape
    if mask.any(axis=0).mean() < WHOLE:  # the common case, and quick
        return mask
    highest = max(3, height // 70)  # pixels; lines are printed thinner than people write
    thin = mask & ~_opened(mask, highest + 1)
    y, x = np.nonzero(thin)
    if len(y) < width // 2:  # too few for any line
        return mask
    found: list[tuple[bool, Ints]] = []
    edge = max(2, width // 25)
    room = height + width // 10 + 1  # for the steepest line, however wide the picture
    for slope in np.arange(-STEEPEST, STEEPEST + STEP / 50, STEP):
        level = y - np.rint(slope * (x - width / 2)).astype(np.int64) + room
        counts = np.bincount(level, minlength=2 * room + height)
        peaks = np.flatnonzero(counts[:-1] + counts[1:] > 0.5 * width)
        if len(peaks) > height // 2:  # not lines but grain, which would take long
            return mask
        for peak in peaks:
            on = np.flatnonzero((level >= peak - 1) & (level <= peak + 2))
            columns = np.bincount(x[on], minlength=width) > 0
            whole = bool(columns[:edge].any() and columns[-edge:].any())
            if columns.sum() > (WHOLE if whole else PARTIAL) * width:
                found.append((whole, on))
    n_partial = len({int(y[on].mean()) // max(4, height // 30) for _, on in found})  # one line is found many times
    out = mask.copy()
    if n_partial < MIN_PARTIAL and any(_turns(mask, y[on], x[on], highest) for _, on in found):
        return mask
    for whole, on in found:
        if whole or n_partial >= MIN_PARTIAL:
            out[y[on], x[on]] = False
    return out if out.sum() > 0.02 * mask.sum() else mask  # or the line is all there is: a 1 from edge to edge


def _turns(mask: Mask, y: Ints, x: Ints, highest: int) -> bool:
    """Whether other ink joins one of its ends: a bar of a 2, 5 or 7 as wide as the picture; a printed line goes on."""
    height, width = mask.shape
    zone = width // 8
    for end in (x < zone, x >= width - zone):
        if end.any():
            columns = np.unique(x[end])
            level = round(float(y[end].mean()))
            for at in (level - 2 * highest, level + 2 * highest):
                if 0 <= at < height and mask[at, columns].any():
                    return True
    return False


def _opened(mask: Mask, length: int) -> Mask:
    """Only what lies in vertical runs of at least ``length`` pixels."""
    padded = np.pad(mask, ((length - 1, length - 1), (0, 0)))
    full = padded[: len(padded) - length + 1].copy()
    for step in range(1, length):
        full &= padded[step : len(padded) - length + 1 + step]
    out = full[: len(mask)].copy()
    for step in range(1, length):
        out |= full[step : step + len(mask)]
    return out
