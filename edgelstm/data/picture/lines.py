"""Printed lines that cross the picture, as on ruled and squared paper: take them off the ink."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def without_lines(mask: Mask) -> Mask:
    """The mask without printed lines that cross the whole picture, whatever they cross on the way."""
    across = _without_rules(mask)
    return _without_rules(across.T).T


def _without_rules(mask: Mask) -> Mask:
    """Take away near-horizontal lines. Where a stroke crosses one, the ink is too high to be a line."""
    height, width = mask.shape
    highest = max(3, height // 70)
    thin = mask & ~_opened(mask, highest + 1)
    y, x = np.nonzero(thin)
    if len(y) < width // 2:
        return mask
    found: list[tuple[bool, Ints]] = []
    room = height + width // 10 + 1  # for the steepest line, however wide the picture
    for slope in np.arange(-0.2, 0.2001, 0.005):
        level = y - np.rint(slope * (x - width / 2)).astype(np.int64) + room
        counts = np.bincount(level, minlength=2 * room + height)
        peaks = np.flatnonzero(counts[:-1] + counts[1:] > 0.5 * width)
        if len(peaks) > height // 2:  # not lines but grain
            return mask
        for peak in peaks:
            on = np.flatnonzero((level >= peak - 1) & (level <= peak + 2))
            columns = np.bincount(x[on], minlength=width) > 0
            edge = max(2, width // 25)
            whole = columns[:edge].any() and columns[-edge:].any()
            if columns.sum() > (0.55 if whole else 0.65) * width:
                found.append((bool(whole), on))
    n_partial = len({int(y[on].mean()) // max(4, height // 30) for _, on in found})
    out = mask.copy()
    for crosses, on in found:
        if crosses or n_partial >= 3:
            out[y[on], x[on]] = False
    return out if out.sum() > 0.02 * mask.sum() else mask


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
