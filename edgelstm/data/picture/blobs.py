"""Connected pieces of ink: label them, leave out ruled lines, choose those that are the digit."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


MAX_CONTACT = 0.5
"""What touches the picture's edge with more than this share of its longer side is a shadow or a desk."""


@dataclass(frozen=True)
class Blobs:
    """Connected pieces of ink; one entry per piece in each array."""

    labels: Ints
    """(H, W), -1 = background, otherwise the number of the piece."""
    area: Ints
    top: Ints
    bottom: Ints
    left: Ints
    right: Ints
    """Bounding boxes, bottom and right exclusive."""

    def __len__(self) -> int:
        return len(self.area)

    @property
    def extent(self) -> Ints:
        """Longer side of each bounding box."""
        extent: Ints = np.maximum(self.bottom - self.top, self.right - self.left)
        return extent


def label(mask: Mask) -> Blobs:
    """Number the pieces of a mask (H, W) that touch, diagonals included.

    Works on runs of a row instead of pixels: each run is joined with the runs it touches in the row
    above, smallest number first, until nothing changes.
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]  # exclusive; same order as the starts
    n = len(row)
    stride = width + 2
    first = np.searchsorted(row * stride + stop, (row - 1) * stride + start, side="left")
    last = np.searchsorted(row * stride + start, (row - 1) * stride + stop, side="right")
    count = np.maximum(last - first, 0)
    one = np.repeat(np.arange(n), count)
    other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    root = np.arange(n)
    while True:
        a, b = root[one], root[other]
        if (a == b).all():
            break
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]
    number = np.unique(root, return_inverse=True)[1]
    n_blobs = int(number.max()) + 1 if n else 0
    labels = np.full(mask.shape, -1, np.int64)
    labels[mask] = np.repeat(number, stop - start)
    top, left = np.full(n_blobs, height), np.full(n_blobs, width)
    bottom, right = np.zeros(n_blobs, np.int64), np.zeros(n_blobs, np.int64)
    np.minimum.at(top, number, row)
    np.maximum.at(bottom, number, row + 1)
    np.minimum.at(left, number, start)
    np.maximum.at(right, number, stop)
    area = np.bincount(number, stop - start, n_blobs).astype(np.int64)
    return Blobs(labels, area, top, bottom, left, right)


def choose(blobs: Blobs, votes: Floats, faint: bool = False) -> tuple[Ints | None, str | None]:
    """The pieces that make up the digit, and a note if there is another object.

    ``votes`` (H-2, W-2) is how far each inner pixel is an edge, as ``slope_votes`` says. ``faint``: the
    ground is hardly paler than the ink, so that one piece among many is grain and no digit.
    """
    if not len(blobs):
        return None, None
    flat = blobs.labels.ravel()
    inside = flat >= 0
    mask = blobs.labels >= 0
    n = len(blobs)
    weight = np.bincount(flat[inside], np.pad(votes, 1).ravel()[inside], n)
    border = np.concatenate([blobs.labels[0], blobs.labels[-1], blobs.labels[:, 0], blobs.labels[:, -1]])
    contact = np.bincount(border[border >= 0], minlength=n) / blobs.extent
    solid = np.pad(mask, 1)
    rim_pixels = mask & ~(solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:])
    thick = 2 * blobs.area / np.bincount(flat[inside], rim_pixels.ravel()[inside], n)
    score = weight / (1 + (3 * contact) ** 2) / (1 + (2.5 * thick / blobs.extent) ** 4)
    score[contact > MAX_CONTACT] = 0
    main = int(score.argmax())
    if not score[main]:
        return None, None
    size = blobs.extent[main]
    if size < 4:
        return None, None
    group = np.zeros(n, bool)
    group[main] = True
    rivals = 0
    order = np.argsort(-score)
    for i in order[:40]:
        if group[i] or contact[i] > 0.3 or blobs.area[i] < 0.02 * blobs.area[main]:
            continue
        top, bottom = blobs.top[group].min(), blobs.bottom[group].max()
        left, right = blobs.left[group].min(), blobs.right[group].max()
        taller = blobs.top[i] < top and blobs.bottom[i] > bottom
        if taller and blobs.left[i] < left and blobs.right[i] > right:  # a frame
            continue
        gap_y = max(0, blobs.top[i] - bottom, top - blobs.bottom[i])
        gap_x = max(0, blobs.left[i] - right, left - blobs.right[i])
        gap = max(gap_x, gap_y) / size
        overlap = min(right, blobs.right[i]) - max(left, blobs.left[i])
        tall = (blobs.bottom[i] - blobs.top[i]) > 0.6 * (bottom - top)
        beside = overlap < 0.2 * min(right - left, blobs.right[i] - blobs.left[i])
        if gap < 0.05 or (gap < 0.25 and not (tall and beside)):
            if blobs.extent[i] > 0.12 * size or gap < 0.02:
                group[i] = True
        elif score[i] > 0.3 * score[main]:
            rivals += 1
    if faint and weight[group].sum() < 0.5 * weight[contact <= MAX_CONTACT].sum():
        return None, None
    members = np.flatnonzero(group)
    members = np.append(main, members[members != main])
    return members, "more than one object: read the largest" if rivals else None


def sheet_of(blobs: Blobs, i: int, mask: Mask) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of the inside of piece ``i``, if it is a box around something else.

    Either a frame with another piece in it, or a filled sheet that leaves something out.
    """
    top, bottom, left, right = (int(side[i]) for side in (blobs.top, blobs.bottom, blobs.left, blobs.right))
    height, width = bottom - top, right - left
    own = blobs.labels[top:bottom, left:right] == i
    depth = max(2, min(height, width) // 16)
    ends = slice(None, depth), slice(-depth, None)
    sides = [own[end].any(axis=0) for end in ends] + [own[:, end].any(axis=1) for end in ends]
    if min(height, width) < 24 or max(height, width) > 3 * min(height, width):
        return None
    if min(float(side.mean()) for side in sides) < 0.9:
        return None
    within = (blobs.top > top) & (blobs.bottom < bottom) & (blobs.left > left) & (blobs.right < right)
    framed = bool((blobs.extent[within] > 0.25 * max(height, width)).any())
    holed = 0.5 < float((own & mask[top:bottom, left:right]).mean()) < 0.97
    if not framed and not holed:
        return None
    edge = depth + 2
    while edge < min(height, width) // 4 and (own[edge].mean() > 0.9 or own[:, edge].mean() > 0.9) and framed:
        edge += 1
    return top + edge, bottom - edge, left + edge, right - edge


def grown(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    across = out.copy()
    out[:, 1:] |= across[:, :-1]
    out[:, :-1] |= across[:, 1:]
    return out


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
