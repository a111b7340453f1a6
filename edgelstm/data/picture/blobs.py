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


def grown(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    across = out.copy()
    out[:, 1:] |= across[:, :-1]
    out[:, :-1] |= across[:, 1:]
    return out
