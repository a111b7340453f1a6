"""Find the digit in a decoded picture and draw it as MNIST would have it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

WORK_PX = 384
"""Longest side at which ink is looked for."""
FINE = 8
"""Subpixels of one final pixel, each way: strokes are thickened and centred at this scale."""
BOX_SHARE = 20 / 28
"""MNIST fits each digit into a box of 20 x 20 of its 28 x 28 pixels, keeping the aspect ratio."""
THINNEST, THICKEST = 2.2 / 20, 3.6 / 20
"""Stroke widths, in shares of the box, that are left as they are; most MNIST strokes lie between."""
MIN_CONTRAST = 0.04
"""Ink fainter than this share of the paper's brightness is not ink."""


@dataclass(frozen=True)
class DigitPicture:
    """A digit as MNIST would have it, and what was seen on the way."""

    pixels: Bytes
    """(rows, cols), 0 = background, 255 = ink."""
    note: str | None = None
    """In plain words, what was out of the ordinary; None if nothing was."""
    empty: bool = False
    """No ink was found: ``pixels`` is all background."""


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


def digit_from_array(picture: Bytes, rows: int = 28, cols: int = 28) -> DigitPicture:
    """The digit of a decoded picture: uint8 (H, W) grey or (H, W, 3) colour -> (rows, cols) uint8.

    A picture that already is MNIST-like comes back bit for bit (negated if its ink is dark).
    """
    if picture.ndim == 3 and (picture == picture[:, :, :1]).all():
        picture = picture[:, :, 0]
    if picture.shape == (rows, cols):
        for candidate in (picture, 255 - picture):
            if _is_ready(candidate):
                return DigitPicture(
                    np.ascontiguousarray(candidate),
                    None if candidate.any() else "no ink found",
                    not candidate.any(),
                )
    found = _find(picture)
    if found is None:
        return DigitPicture(np.zeros((rows, cols), np.uint8), "no ink found", empty=True)
    ink, note = found
    return DigitPicture(_draw(ink, rows, cols), note)


def _is_ready(picture: Bytes) -> bool:
    """Whether it looks like a picture out of MNIST: light ink on black, boxed and centred."""
    rows, cols = picture.shape
    if not picture.any():
        return True
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    if np.median(edge) > 8 or edge.mean() > 16 or np.median(picture) > 140 or picture.max() < 128:
        return False
    ink = picture > 96
    ys, xs = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not 0.45 * rows < max(ys[-1] - ys[0], xs[-1] - xs[0]) + 1 <= (BOX_SHARE + 0.08) * max(rows, cols):
        return False
    total = float(picture.sum())
    y = float(picture.sum(axis=1) @ np.arange(rows)) / total + 0.5
    x = float(picture.sum(axis=0) @ np.arange(cols)) / total + 0.5
    return bool(abs(y - rows / 2) < 0.05 * rows and abs(x - cols / 2) < 0.05 * cols)


# --- where the ink is -------------------------------------------------------------------------------


def _find(picture: Bytes, depth: int = 0) -> tuple[Floats, str | None] | None:
    """The digit's ink, cropped: (h, w) float32, above 0.5 inside the strokes; and a note. None: no ink."""
    grey = _grey(_reduce(picture, WORK_PX))
    scale = max(picture.shape[:2]) / max(grey.shape)
    pasted = _pasted(grey) if depth < 2 else None
    if pasted is not None:
        y0, y1, x0, x1 = (round(n * scale) for n in pasted)
        return _find(picture[y0:y1, x0:x1], depth + 1)
    dark = _ink_is_dark(grey)
    ink = _ink(grey, dark)
    level = _threshold(ink)
    if level is None:
        return None
    if _stroke_width(ink > level) < 2.5:  # hairlines: even out where they fall between pixels
        ink = _blurred(ink)
        level = _threshold(ink) or level
    mask = (ink > level) & _without_lines(ink > 0.6 * level)
    blobs = label(_grow(mask))  # a pixel or two between two pieces of a stroke is no gap
    chosen, note = _choose(blobs, ink)
    if chosen is None:
        return None
    inside = _sheet(blobs, int(chosen[0]), mask) if depth < 2 else None
    if inside is not None:
        y0, y1, x0, x1 = (round(n * scale) for n in inside)
        found = _find(picture[y0:y1, x0:x1], depth + 1)
        if found is not None:
            return found
    keep = np.append(np.isin(np.arange(len(blobs)), chosen), False)[blobs.labels] & _grow(mask)
    top, bottom = int(blobs.top[chosen].min()), int(blobs.bottom[chosen].max())
    left, right = int(blobs.left[chosen].min()), int(blobs.right[chosen].max())
    extent = max(bottom - top, right - left)
    if depth == 0 and extent < 100 and scale > 1.5:  # small in a large picture: look closer
        margin = 0.6 * extent
        y0, y1 = max(0, int((top - margin) * scale)), int((bottom + margin) * scale)
        x0, x1 = max(0, int((left - margin) * scale)), int((right + margin) * scale)
        closer = _find(picture[y0:y1, x0:x1], depth + 1)
        if closer is not None:
            return closer[0], note
    box = (slice(top, bottom), slice(left, right))
    level = _threshold(ink[box]) or level
    crop = np.where(_grow(keep[box]), ink[box], 0) * np.float32(0.5 / level)
    return crop, note


def _pasted(grey: Floats) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of a sheet that lies on an even margin, as a frame or a saved plot has."""
    height, width = grey.shape
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    margin = np.median(rim)
    if np.mean(np.abs(rim - margin) < 8) < 0.98:
        return None
    other = np.abs(grey - margin) > 12
    ys = np.flatnonzero(other.mean(axis=1) > 0.4)
    xs = np.flatnonzero(other.mean(axis=0) > 0.4)
    if not len(ys) or not len(xs):
        return None
    top, bottom, left, right = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    sheet = other[top:bottom, left:right]
    full = [float(side.mean()) for side in (sheet[:3], sheet[-3:], sheet[:, :3], sheet[:, -3:])]
    if bottom - top < 0.4 * height or right - left < 0.4 * width or min(full) < 0.9:
        return None
    return top + 2, bottom - 2, left + 2, right - 2


def _reduce(picture: Bytes, longest: int) -> Bytes:
    """The picture with its longest side at most ``longest``, averaged, so that hairlines stay."""
    height, width = picture.shape[:2]
    scale = max(height, width) / longest
    if scale <= 1:
        return picture
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX, reducing_gap=None))


def _grey(picture: Bytes) -> Floats:
    """(H, W) float32: grey as it is; colour along the direction in which the ink differs most."""
    if picture.ndim == 2:
        return picture.astype(np.float32)
    flat = picture.reshape(-1, 3).astype(np.float32)
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    away = flat - np.median(flat, axis=0)
    spread, axes = np.linalg.eigh(away.T @ away / len(away))
    main = axes[:, -1].astype(np.float32)
    if float(np.var(away @ luma)) * 3 < float(spread[-1]) * float(luma @ luma) * 1.0:
        main = main / np.abs(main).sum()
        if main @ luma < 0:
            main = -main
        grey = flat @ main
        grey = grey - min(0.0, float(255 * main[main < 0].sum()))
    else:
        grey = flat @ luma
    return np.asarray(grey.reshape(picture.shape[:2]), np.float32)


def _extreme(values: Floats, size: int, highest: bool) -> Floats:
    """Running maximum (or minimum) over squares of odd side ``size``; the edge is repeated outwards."""
    pick = np.maximum if highest else np.minimum
    half = size // 2
    for axis in (0, 1):
        padded = np.pad(values, [(half, half) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        window, n = 1, padded.shape[axis]
        while window < size:  # doubling: a window of 2k is the pick of two windows of k
            step = min(window, size - window)
            n -= step
            first, second = [slice(None)] * 2, [slice(None)] * 2
            first[axis], second[axis] = slice(0, n), slice(step, step + n)
            padded = pick(padded[tuple(first)], padded[tuple(second)])
            window += step
        values = padded
    return values


def _ground(grey: Floats, share: float, dark: bool) -> Floats:
    """The paper without its ink: closing (dark ink) or opening (light ink) of a small copy."""
    height, width = grey.shape
    scale = max(1.0, max(height, width) / 160)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    small = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
    window = 2 * int(share * min(small.shape) / 2) + 1
    window = max(window, 3)
    ground = _extreme(_extreme(small, window, highest=dark), window, highest=not dark)
    if scale == 1:
        return ground
    return np.asarray(Image.fromarray(ground).resize((width, height), Image.Resampling.BILINEAR))


def _centre_weight(shape: tuple[int, int]) -> Floats:
    """1 in the middle, falling towards the edges, where frames and shadows are."""
    y, x = (1 - np.abs(np.linspace(-1, 1, n, dtype=np.float32)) ** 4 for n in shape)
    return np.outer(y, x).astype(np.float32)


def _surface(grey: Floats) -> Floats:
    """A smooth surface through the majority of the pixels: paper and its shading, not the ink.

    The quadratic with the smallest sum of absolute differences, by reweighted least squares.
    """
    height, width = grey.shape
    size = (min(width, 48), min(height, 48))
    small = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX)).ravel()
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (size[1], size[0]))
    shape = (len(y), len(x))
    terms = np.stack([np.broadcast_to(t, shape).ravel() for t in _quadratic(y[:, None], x[None])], axis=1)
    level, fitted = np.zeros(6), np.full_like(small, np.median(small))
    for _ in range(8):
        weighted = terms / (np.abs(small - fitted) + 2)[:, None]
        level = np.linalg.lstsq(weighted.T @ terms, weighted.T @ small, rcond=None)[0]
        fitted = terms @ level
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (height, width))
    surface = sum(c * t for c, t in zip(level, _quadratic(y[:, None], x[None]), strict=True))
    return np.asarray(surface, np.float32)


def _quadratic(y: Floats, x: Floats) -> tuple[Floats, ...]:
    return np.ones_like(x), x, y, x * x, x * y, y * y


def _ink_is_dark(grey: Floats) -> bool:
    """Whether the things in the picture are darker than the majority, and than what is around them."""
    weight = _centre_weight((grey.shape[0], grey.shape[1]))
    away = grey - _surface(grey)
    darker, lighter = np.maximum(-away, 0), np.maximum(away, 0)
    balance = 0.0
    for share, trust in ((0.06, 4), (0.12, 2), (0.3, 1)):  # thin things say more than wide ones
        dark = np.clip(_ground(grey, share, dark=True) - grey, 0, darker)
        light = np.clip(grey - _ground(grey, share, dark=False), 0, lighter)
        balance += trust * float((weight * (dark * dark - light * light)).sum())
    return balance >= 0


def _ink(grey: Floats, dark: bool) -> Floats:
    """How much ink covers each pixel, (H, W) float32 from 0 to about 1.

    The ground is looked for under wide strokes only if there are any: under narrow ones it keeps to
    the edges of shadows and folds.
    """
    wide = np.abs(_ground(grey, 0.35, dark) - grey)
    narrow = np.abs(_ground(grey, 0.08, dark) - grey)
    votes = _slope_votes(grey)
    inner = (slice(1, -1), slice(1, -1))
    if votes is not None:
        votes = np.where(_centre_weight((grey.shape[0], grey.shape[1]))[inner] > 0.6, votes, 0)
    if votes is not None and float((votes * narrow[inner]).sum()) > 0.85 * float((votes * wide[inner]).sum()):
        wide = np.abs(_ground(grey, 0.16, dark) - grey)
    if dark:  # ink takes a share of the light, in the sun as in the shadow
        return np.asarray(wide / np.maximum(grey + wide, 32), np.float32)
    return np.asarray(wide / 255, np.float32)


def _slope_votes(values: Floats) -> Floats | None:
    """How far each inner pixel, (H-2, W-2), is an edge of something in the middle; None if there are none."""
    if min(values.shape) < 3:
        return None
    down = np.abs(values[2:, 1:-1] - values[:-2, 1:-1])
    across = np.abs(values[1:-1, 2:] - values[1:-1, :-2])
    slope = np.maximum(down, across)
    slope = np.where(slope > 4 * float(np.median(slope)), slope, 0)  # the median slope is grain
    votes = slope * slope * _centre_weight((values.shape[0], values.shape[1]))[1:-1, 1:-1]
    return votes if float(votes.sum()) > 0 else None


def _threshold(ink: Floats) -> float | None:
    """The ink level halfway up the edges of strokes; None if nothing stands out of the noise.

    Each pixel votes with its own level, weighted by the square of its gradient (Kittler,
    Illingworth and Foeglein's robust automatic threshold selection): hairlines count as much as blots.
    """
    votes = _slope_votes(ink)
    if votes is None or float(ink.max()) < MIN_CONTRAST:
        return None
    return max(float((votes * ink[1:-1, 1:-1]).sum() / votes.sum()), MIN_CONTRAST / 2)


def _blurred(ink: Floats) -> Floats:
    """Averaged over 3 x 3 pixels with the weights 1, 2, 1 each way."""
    for axis in (0, 1):
        padded = np.pad(ink, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        n = ink.shape[axis]
        before, after = (np.take(padded, range(i, i + n), axis) for i in (0, 2))
        ink = np.asarray((before + 2 * ink + after) / 4, np.float32)
    return ink


def _grow(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    across = out.copy()
    out[:, 1:] |= across[:, :-1]
    out[:, :-1] |= across[:, 1:]
    return out


def _without_lines(mask: Mask) -> Mask:
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
    for slope in np.arange(-0.2, 0.2001, 0.005):
        level = y - np.rint(slope * (x - width / 2)).astype(np.int64) + height
        counts = np.bincount(level, minlength=3 * height)
        peaks = np.flatnonzero(counts[:-1] + counts[1:] > 0.5 * width)
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


# --- pieces of ink ----------------------------------------------------------------------------------


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


def _choose(blobs: Blobs, ink: Floats) -> tuple[Ints | None, str | None]:
    """The pieces that make up the digit, and a note if there is another object."""
    if not len(blobs):
        return None, None
    flat = blobs.labels.ravel()
    inside = flat >= 0
    mask = blobs.labels >= 0
    n = len(blobs)
    votes = _slope_votes(ink)
    if votes is None:
        return None, None
    weight = np.bincount(flat[inside], np.pad(votes, 1).ravel()[inside], n)
    border = np.concatenate([blobs.labels[0], blobs.labels[-1], blobs.labels[:, 0], blobs.labels[:, -1]])
    contact = np.bincount(border[border >= 0], minlength=n) / blobs.extent
    solid = np.pad(mask, 1)
    rim_pixels = mask & ~(solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:])
    thick = 2 * blobs.area / np.bincount(flat[inside], rim_pixels.ravel()[inside], n)
    score = weight / (1 + (3 * contact) ** 2) / (1 + (2.5 * thick / blobs.extent) ** 4)
    main = int(score.argmax())
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
    members = np.flatnonzero(group)
    members = np.append(main, members[members != main])
    return members, "more than one object: read the largest" if rivals else None


def _sheet(blobs: Blobs, i: int, mask: Mask) -> tuple[int, int, int, int] | None:
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


# --- as MNIST draws ---------------------------------------------------------------------------------


def _draw(ink: Floats, rows: int, cols: int) -> Bytes:
    """Cropped ink (h, w), strokes above 0.5 -> (rows, cols) uint8 with MNIST's size, pen and centre."""
    box = BOX_SHARE * min(rows, cols) * FINE
    mask = _fit(ink, box)
    radius = 0.0
    for _ in range(2):  # thickening makes the digit larger, so it is fitted again into what is left
        width = _stroke_width(mask) + 0.0
        goal = min(max(width, THINNEST * box), THICKEST * box)
        radius = (goal - width) / 2
        if radius <= 0.5:
            break
        mask = _fit(ink, box - 2 * radius)
    mask = _thicken(mask, radius)
    return _centre(mask, rows, cols)


def _fit(ink: Floats, box: float) -> Mask:
    """Scale to a longest side of ``box`` subpixels, and cut at half ink."""
    scale = box / max(ink.shape)
    padded = np.pad(ink, 1)
    height, width = (max(3, round(n * scale)) for n in padded.shape)
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    scaled = np.asarray(Image.fromarray(padded).resize((width, height), method))
    mask = scaled > 0.5
    return mask if mask.any() else scaled >= scaled.max()


def _distance(mask: Mask, reach: int) -> Floats:
    """Distance of each pixel to the nearest pixel of the mask, exact up to ``reach`` and capped there."""
    height, width = mask.shape
    x = np.arange(width)
    before = np.maximum.accumulate(np.where(mask, x, -4 * reach - width), axis=1)
    after = np.minimum.accumulate(np.where(mask, x, 4 * reach + 2 * width)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.minimum(np.minimum(x - before, after - x), reach).astype(np.float32) ** 2
    padded = np.pad(nearest, ((reach, reach), (0, 0)), constant_values=float(reach * reach))
    best = nearest
    for step in range(-reach, reach + 1):
        best = np.minimum(best, padded[reach + step : reach + step + height] + step * step)
    return np.sqrt(best)


def _stroke_width(mask: Mask) -> float:
    """Mean width of the strokes in pixels: inside a stroke the mean distance to its edge is a quarter."""
    depth = _distance(~np.pad(mask, 1), 40)[1:-1, 1:-1][mask]
    return float(max(4 * (depth.mean() - 0.5), 1.0))


def _thicken(mask: Mask, radius: float) -> Mask:
    """Widen the strokes by ``radius`` on each side, or thin them if it is negative."""
    if radius >= 0.5:
        reach = int(radius) + 1
        return _distance(np.pad(mask, reach), reach) <= radius
    if radius <= -0.5:
        reach = int(-radius) + 1
        thin = _distance(~np.pad(mask, 1), reach)[1:-1, 1:-1] > -radius
        return thin if thin.any() else mask
    return mask


def _centre(mask: Mask, rows: int, cols: int) -> Bytes:
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
