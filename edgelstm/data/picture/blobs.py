"""Connected pieces of ink: label them, leave out ruled lines, choose those that are the digit."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_CONTACT = 0.5
"""What touches the picture's edge with more than this share of its longer side is a shadow or a desk."""
MAX_LOOSE_CONTACT = 0.3
"""And with more than this, no loose stroke of a digit, which keeps away from the edge."""
WHOLE, HALF = 0.95, 0.5
"""Share of a side of the picture that is all of it, and that is much of it."""
SLIVER = 0.07
"""What is not wider and lies along the picture's edge is the edge of what the sheet lies on."""
MIN_SHADOW_PX = 100
"""A smaller view is of a small scan, which has no shadows."""
FAT = 0.25
"""Strokes are seldom so thick, in shares of their longer side. A shadow is, and does not touch all four sides."""
MIN_AREA, MIN_STROKE = 0.02, 0.12
"""Specks: a loose stroke, such as the bar of a 5, has more than this of the main piece's area, and of its extent."""
TOUCHING, CLOSE, NEAR = 0.02, 0.1, 0.25
"""Gaps in shares of the main piece's extent. Touching: even a speck belongs to it, for a pen that skips leaves some.
Close: any stroke does. Near: a stroke that does not stand beside it like another digit; people leave up to a fifth."""
MIN_FRAME = 0.3
"""A sheet or a frame is at least so wide and so high, in shares of the view."""
MIN_UPRIGHT = 0.7
"""And so much of its box, or it lies too far askew."""
MIN_FULL = 0.9
"""Share of its outline that is there: pens skip."""
MIN_QUAD = 0.93
"""Share of what a sheet or a frame reaches around that lies between its four corners; of a disc it is 0.64."""
SHEET, FULL_SHEET = 0.5, 0.97
"""What fills so much of what it reaches around, and of its outline, is a sheet; what fills less, a frame."""
RIVAL = 0.3
"""A piece with so much of the main one's score is worth a note: it may be another digit."""
MAX_PIECES = 40
"""Pieces looked at, best first: a page of grain has thousands."""


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

    SciPy would do it, but is no dependency. Works on runs of a row instead of pixels: each run is joined with the
    runs it touches in the row above, smallest number first, until nothing changes.
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


def choose(blobs: Blobs, votes: Floats | None, margin: int) -> tuple[Ints | None, str | None]:
    """The pieces that make up the digit, and a note if there is another object.

    ``votes`` (H-2, W-2) is how far each inner pixel is an edge, as ``slope_votes`` says. ``margin``: width of the even
    ground that was added, in which case the picture's edges mean little; 0 in a photo.
    """
    if not len(blobs):
        return None, None
    contact, score = _scores(blobs, votes, margin)
    main = int(score.argmax())
    if not score[main]:
        return None, None
    group = np.zeros(len(blobs), bool)
    group[main] = True
    rivals = 0
    for i in np.argsort(-score)[:MAX_PIECES]:
        if (
            group[i]
            or not score[i]
            or (contact[i] > MAX_LOOSE_CONTACT and not margin)
            or blobs.area[i] < MIN_AREA * blobs.area[main]
        ):
            continue
        if _surrounds(blobs, i, group):  # a drawn frame
            continue
        gap, apart = _gap(blobs, i, group)
        gap /= blobs.extent[main]
        if gap < CLOSE or (gap < NEAR and not apart):
            group[i] = blobs.extent[i] > MIN_STROKE * blobs.extent[main] or gap < TOUCHING
        elif score[i] > RIVAL * score[main]:
            rivals += 1
    members = np.flatnonzero(group)
    members = np.append(main, members[members != main])
    return members, "more than one object: read the largest" if rivals else None


def _scores(blobs: Blobs, votes: Floats | None, margin: int) -> tuple[Scores, Scores]:
    """Of each piece: its contact with the picture's edge, and its score as a digit.

    Strokes have long edges. The more of its longer side a piece lies along the picture's edge, the rather it is a
    shadow, a finger or a sleeve. What is about as thick as long is a blot or a coin: the score of a disc falls to a
    fifth, that of strokes a fifth as thick as long, MNIST's boldest, by a twentieth.
    """
    flat = blobs.labels.ravel()
    inside = flat >= 0
    mask = blobs.labels >= 0
    n = len(blobs)
    inner = blobs.labels[margin : len(mask) - margin, margin : mask.shape[1] - margin] if margin else blobs.labels
    edges = (inner[0], inner[-1], inner[:, 0], inner[:, -1])
    counts = [np.bincount(edge[edge >= 0], minlength=n) for edge in edges]
    contact = sum(counts) / blobs.extent
    solid = np.pad(mask, 1)
    rim_pixels = mask & ~(solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:])
    outline = np.bincount(flat[inside], rim_pixels.ravel()[inside], n)
    thick = 2 * blobs.area / outline / blobs.extent
    weight: Scores = outline.astype(np.float64)
    if votes is not None:
        weight = np.bincount(flat[inside], np.pad(votes, 1).ravel()[inside], n).astype(np.float64)
    score = weight / (1 + (6 * contact) ** 2) / (1 + (2.5 * thick) ** 4)
    if margin:
        # a shadow or a desk covers one side, or much of two that meet; a digit goes on to the opposite side
        top, bottom, left, right = (count / len(edge) for count, edge in zip(counts, edges, strict=True))
        high, wide = blobs.bottom - blobs.top, blobs.right - blobs.left
        spans = (high > WHOLE * len(inner)) & (wide > WHOLE * inner.shape[1])
        one = np.max([top, bottom, left, right], axis=0) > WHOLE
        meeting = np.minimum(np.maximum(top, bottom), np.maximum(left, right))
        opposite = np.maximum(np.minimum(top, bottom), np.minimum(left, right)) > HALF
        sliver = (np.minimum(high, wide) < SLIVER * blobs.extent) & (contact > WHOLE)
        four = np.min([top, bottom, left, right], axis=0) > 0
        fat = (thick > FAT) & (meeting > HALF / 2) & ~four & (max(inner.shape) > MIN_SHADOW_PX)
        score[sliver | fat | ((one | ((meeting > HALF) & ~opposite)) & ~spans)] = 0
    else:
        n_sides = np.sum([count > 0 for count in counts], axis=0)  # a shadow's edge or a fold goes from side to side
        score[(contact > MAX_CONTACT) | (n_sides > 1)] = 0
    return contact, score


def _surrounds(blobs: Blobs, i: int, group: Mask) -> bool:
    """Whether piece ``i`` reaches beyond the group on all four sides."""
    higher = blobs.top[i] < blobs.top[group].min() and blobs.bottom[i] > blobs.bottom[group].max()
    return bool(higher and blobs.left[i] < blobs.left[group].min() and blobs.right[i] > blobs.right[group].max())


def _gap(blobs: Blobs, i: int, group: Mask) -> tuple[float, bool]:
    """Pixels between the boxes of piece ``i`` and the group, and whether it stands beside it like another digit."""
    top, bottom = blobs.top[group].min(), blobs.bottom[group].max()
    left, right = blobs.left[group].min(), blobs.right[group].max()
    gap_y = max(0, blobs.top[i] - bottom, top - blobs.bottom[i])
    gap_x = max(0, blobs.left[i] - right, left - blobs.right[i])
    overlap = min(right, blobs.right[i]) - max(left, blobs.left[i])
    tall = (blobs.bottom[i] - blobs.top[i]) > 0.6 * (bottom - top)
    beside = overlap < 0.2 * min(right - left, blobs.right[i] - blobs.left[i])
    return float(max(gap_x, gap_y)), bool(tall and beside)


def inside(blobs: Blobs, i: int) -> tuple[Mask, tuple[int, int]] | None:
    """The inside of piece ``i`` if that is a sheet or a frame, and its top and left: corners say how large it is."""
    height, width = blobs.bottom[i] - blobs.top[i], blobs.right[i] - blobs.left[i]
    if min(height, width) < MIN_FRAME * min(blobs.labels.shape):
        return None
    top, left = int(blobs.top[i]), int(blobs.left[i])
    own = np.pad(blobs.labels[top : blobs.bottom[i], left : blobs.right[i]] == i, 1)
    hull = _spanned(own) & _spanned(own.T).T
    rim = own[hull & grown(~hull)].mean()
    if hull.sum() < MIN_UPRIGHT * height * width or rim < MIN_FULL:
        return None
    y, x = np.nonzero(hull)
    first, second = x + y, x - y
    ends = [first.argmin(), first.argmax(), second.argmin(), second.argmax()]
    dy, dx = (axis[ends[1::2]] - axis[ends[::2]] for axis in (y, x))  # the two diagonals
    # pixels reach half a pixel beyond their middles, hence the root
    quad = abs(float(dy[0] * dx[1] - dx[0] * dy[1])) / 2 + 2 * np.sqrt(len(y))
    if not MIN_QUAD < quad / len(y) < 1 / MIN_QUAD:
        return None
    for _ in range(3 + min(blobs.labels.shape) // 80):  # not its rim, which is blurred
        hull = ~grown(~hull)
    if rim < FULL_SHEET or own.sum() < SHEET * len(y):
        hull &= ~grown(grown(own))
    return (hull, (top - 1, left - 1)) if hull.any() else None


def _spanned(mask: Mask) -> Mask:
    """Each row filled from its first to its last pixel."""
    before = np.logical_or.accumulate(mask, axis=1)
    return np.asarray(before & np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1])


def grown(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    across = out.copy()
    out[:, 1:] |= across[:, :-1]
    out[:, :-1] |= across[:, 1:]
    return out
