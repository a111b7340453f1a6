"""Small scans, tight crops, digits at the edge and more for ablation.py, made of MNIST's validation digits."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
from hard_kinds import KINDS, encode, photo
from no_digits import NO_DIGIT
from PIL import Image, ImageDraw, ImageFilter
from scenes import Bytes, Floats, Rng, coverage, middle_line, photograph, smooth

from edgelstm.config import N_VALIDATION
from edgelstm.data.mnist import load_mnist
from edgelstm.data.picture import decode

Made = tuple[int | None, Bytes]
"""The digit, None for no digit, and the picture as it comes out of the decoder."""
METHODS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
ROOT = Path(__file__).resolve().parent.parent


@cache
def validation() -> tuple[Bytes, Bytes]:
    digits = load_mnist("train")
    return digits.sequences[-N_VALIDATION:], digits.labels[-N_VALIDATION:]


def trimmed(cover: Floats | Bytes, level: float) -> Floats | Bytes:
    """Cut to the pixels above ``level``: no margin at all."""
    ys, xs = np.flatnonzero((cover > level).any(1)), np.flatnonzero((cover > level).any(0))
    return cover[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]


def resized(pixels: Bytes, height: int, width: int, method: Image.Resampling) -> Bytes:
    return np.asarray(Image.fromarray(pixels).resize((max(1, width), max(1, height)), method))


def fitted(pixels: Bytes, side: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> Bytes:
    """Longer side ``side``, aspect kept."""
    scale = side / max(pixels.shape)
    return resized(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale), method)


def drawing(digit: Bytes, rng: Rng, side: int = 500, pen: float = 0.0) -> Bytes:
    """A drawing of this longer side, light on black, cut to its ink."""
    pen = pen or rng.uniform(0.05, 0.16)
    points = middle_line(digit) * side * (1 - pen)
    points = points - points.min(axis=0) + pen * side
    height, width = (int(n) for n in points.max(axis=0) + pen * side + 1)
    return trimmed((255 * coverage(points, pen * side, width, height)).astype(np.uint8), 127)  # type: ignore[return-value]


def either_way(pixels: Bytes, rng: Rng) -> Bytes:
    """Dark on white, or as it is."""
    return 255 - pixels if rng.random() < 0.5 else pixels


def tight(margin: float, low: int, high: int, digit: Bytes, rng: Rng) -> Bytes:
    """MNIST's pixels cut to their ink with so much margin, and made any size."""
    crop = np.asarray(trimmed(digit, 60))
    side = round(np.exp(rng.uniform(np.log(low), np.log(high))))
    scaled = fitted(crop, side, METHODS[rng.integers(3)] if side > 28 else Image.Resampling.BOX)
    return either_way(np.pad(scaled, round(margin * side)), rng)


def binary(side: int, stretched: bool, digit: Bytes, rng: Rng) -> Bytes:
    """A bitmap, size-normalised as old collections are."""
    large = drawing(digit, rng, 200)
    ratio = large.shape[1] / large.shape[0]
    if stretched and ratio > 0.35:
        small = resized(large, side, side, Image.Resampling.BOX)
    else:
        small = fitted(large, side, Image.Resampling.BOX)
        left = (side - small.shape[1]) // 2
        small = np.pad(small, [(0, 0), (left, side - left - small.shape[1])]) if small.shape[0] >= side else small
    return either_way(np.where(small > 127, 255, 0).astype(np.uint8), rng)


def grey_scan(side: int, digit: Bytes, rng: Rng) -> Bytes:
    """A small scan in grey, the strokes blurred, cut to its ink."""
    image = Image.fromarray(np.pad(drawing(digit, rng, 160), 8)).filter(ImageFilter.GaussianBlur(rng.uniform(2, 5)))
    return either_way(fitted(np.asarray(trimmed(np.asarray(image), 60)), side, Image.Resampling.BOX), rng)


def cut_drawing(digit: Bytes, rng: Rng) -> Bytes:
    return either_way(drawing(digit, rng), rng)


def cut_photo(margin: float, digit: Bytes, rng: Rng) -> Bytes:
    """A cell cut out of a photographed page, close to the ink."""
    own = drawing(digit, rng, 260)
    cover = np.zeros((440, 520), np.float32)
    top, left = (440 - own.shape[0]) // 2, (520 - own.shape[1]) // 2
    cover[top : top + own.shape[0], left : left + own.shape[1]] = own / 255
    scene = photo(perspective=0, turn_deg=0, shading=0.2, noise=3)
    pixels = np.asarray(photograph(cover, scene, rng).convert("L"))
    by = round(margin * 260)
    return pixels[top - by : top + own.shape[0] + by, left - by : left + own.shape[1] + by]


def at_edges(edges: int, low: int, high: int, digit: Bytes, rng: Rng) -> Bytes:
    """A drawing that touches so many edges of a canvas that is larger the other ways."""
    own = drawing(digit, rng, round(np.exp(rng.uniform(np.log(low), np.log(high)))))
    away = rng.permutation([0] * edges + [1] * (4 - edges)) * rng.uniform(0.1, 0.5, 4) * max(own.shape)
    top, bottom, left, right = away.astype(int)
    return either_way(np.pad(own, [(top, bottom), (left, right)]), rng)


def pasted(digit: Bytes, rng: Rng) -> Bytes:
    """A small crop, on its own ground or inverted, in the middle of a white or black square."""
    crop = tight(float(rng.uniform(0, 0.2)), 20, 200, digit, rng)
    side = round(max(crop.shape) * rng.uniform(1.1, 2))
    canvas = np.full((side, side), 255 if rng.random() < 0.7 else 0, np.uint8)
    top, left = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    canvas[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return canvas


def blurred_small(digit: Bytes, rng: Rng) -> Bytes:
    side = int(rng.integers(14, 40))
    own = np.pad(fitted(drawing(digit, rng, 200), side, Image.Resampling.BOX), round(side * 0.3))
    image = Image.fromarray(either_way(own, rng)).filter(ImageFilter.GaussianBlur(side * rng.uniform(0.02, 0.05)))
    return np.asarray(image)


def ruled(spans: bool, squared: bool, digit: Bytes, rng: Rng) -> Bytes:
    """A scanned cell of ruled or squared paper; the digit as wide as the picture, or smaller."""
    own = drawing(digit, rng, 240, rng.uniform(0.03, 0.08))
    pad = (0 if spans else 60), (0 if spans else 80)
    cover = np.pad(own / np.float32(255), [(20 + pad[0],) * 2, (3 + pad[1],) * 2])
    height, width = cover.shape
    pitch, thick = rng.uniform(35, 70), rng.uniform(1, 2.5)
    y, x = np.ogrid[:height, :width]
    lines = (y + rng.uniform(-0.02, 0.02) * x + rng.uniform(0, pitch)) % pitch < thick
    if squared:
        lines = lines | ((x + rng.uniform(0, pitch)) % pitch < thick)
    paper = 225 - rng.uniform(60, 150) * lines
    pixels = paper * (1 - cover) + 40 * cover + rng.normal(0, 2, cover.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def spanning_bar(digit: Bytes, rng: Rng) -> Bytes:
    """A drawing without any margin left and right: the bar of a 7, 5, 2 or 4 runs through the whole width."""
    own = drawing(digit, rng, 300, np.exp(rng.uniform(np.log(0.006), np.log(0.09))))
    above, below = rng.integers(0, 60, 2)
    pixels = np.pad(own, [(above, below), (0, 0)])
    return np.clip(either_way(pixels, rng) * 0.8 + 20 + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def underlined(digit: Bytes, rng: Rng) -> Bytes:
    """A printed line below the digit, as of a form."""
    own = drawing(digit, rng, 200, rng.uniform(0.04, 0.1))
    pixels = np.pad(own, [(40, 60), (70, 70)])
    at = 40 + own.shape[0] + int(rng.integers(-2, 25))
    reach = 0 if rng.random() < 0.6 else int(rng.integers(5, 30))
    pixels[at : at + int(rng.integers(1, 5)), reach : pixels.shape[1] - reach] = 255
    return np.clip((255 - pixels) * 0.7 + 40 + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def open_four(digit: Bytes, rng: Rng) -> Bytes:
    """A 4 of two strokes that do not touch."""
    gap, x, slant = rng.uniform(0.08, 0.2), rng.uniform(0.55, 0.75), rng.uniform(-0.06, 0.1)
    image = Image.new("L", (300, 360))
    pen, width = ImageDraw.Draw(image), int(rng.integers(8, 26))
    foot = (x - gap) if rng.random() < 0.5 else x + 0.2
    first = [(0.3 + slant, 0.15), (0.18, 0.6), (foot, 0.6 + rng.uniform(-0.03, 0.03))]
    second = [(x + gap * (foot > x) * 0 + slant, 0.3), (x, 0.9)]
    if foot > x:  # the bar passes below the second stroke
        second = [(x + slant, 0.12), (x, 0.6 - gap)]
    for stroke in (first, second):
        pen.line([(a * 300, b * 360) for a, b in stroke], 255, width, "curve")
    pixels = np.asarray(image)
    return np.clip((255 - pixels) * 0.8 + 20 + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def pen_stroke(digit: Bytes, rng: Rng) -> Bytes:
    """A mouse drawing of any pen, in a canvas with room."""
    own = drawing(digit, rng, 300, np.exp(rng.uniform(np.log(0.006), np.log(0.25))))
    return either_way(np.pad(own, rng.integers(20, 150, (2, 2)).tolist()), rng)


def _of(make: Callable[[Bytes, Rng], Bytes], n: int, rng: Rng, only: tuple[int, ...] = tuple(range(10))) -> list[Made]:
    images, labels = validation()
    which = rng.choice(np.flatnonzero(np.isin(labels, only)), n, replace=False)
    return [(int(labels[i]), make(images[i], rng)) for i in which]


def _real(n: int, rng: Rng) -> list[Made]:
    files = sorted((ROOT / "tests/pictures").glob("?/*.*"))
    return [(int(path.parent.name), decode(path.read_bytes())) for path in files]


def _scikit(kind: str, n: int, rng: Rng) -> list[Made]:
    """Scikit-learn's real digits: as they are, 8 x 8, or blown up, or cut to their ink."""
    from sklearn.datasets import load_digits

    found, digits = [], load_digits()
    for i in rng.choice(len(digits.target), 2 * n, replace=False):
        pixels = np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)
        if "cut" in kind:
            pixels = np.asarray(trimmed(pixels, 60))
        if "large" in kind:
            factor = int(rng.integers(2, 60))
            pixels = resized(pixels, *(factor * side for side in pixels.shape), METHODS[rng.integers(3)])
        found.append((int(digits.target[i]), either_way(pixels, rng)))
    return found


def _scene(kinds: tuple[str, ...], n: int, rng: Rng) -> list[Made]:
    images, labels = validation()
    found = []
    for kind in kinds:
        own = np.random.default_rng([3, *kind.encode()])
        which = np.flatnonzero(labels == 7) if kind == "7 with a bar" else np.arange(len(labels))
        for i in own.choice(which, max(1, n // 8), replace=False):
            content = encode(kind, int(labels[i]), images[i], images[own.integers(len(images))], own)
            found.append((int(labels[i]), decode(content)))
    return found


def _blank(n: int, rng: Rng) -> list[Made]:
    """Pages with nothing on them: gradients, grain, folds, of any size; and the drawn blank kinds."""
    found: list[Made] = []
    for _ in range(2 * n):
        height, width = np.exp(rng.uniform(np.log(8), np.log(500), 2)).astype(int)
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        angle = rng.uniform(0, 2 * np.pi)
        page = rng.uniform(30, 240) * (1 + rng.uniform(0, 0.3) * (np.cos(angle) * x + np.sin(angle) * y))
        page = page * (1 - rng.uniform(0, 0.4) * (x * x + y * y) / 2) + rng.uniform(0, 6) * rng.normal(0, 1, page.shape)
        if rng.random() < 0.3:
            page = page + 4 * smooth(page.shape, 8, rng)
        found.append((None, np.clip(page, 0, 255).astype(np.uint8)))
    images, _ = validation()
    for kind in (kind for kind in NO_DIGIT if kind.startswith("blank")):
        for _ in range(max(1, n // 4)):
            found.append((None, decode(NO_DIGIT[kind](list(images[rng.choice(len(images), 5)]), rng))))
    return found


def _texture(n: int, rng: Rng) -> list[Made]:
    found: list[Made] = []
    for _ in range(n):
        scale = int(rng.integers(2, 12))
        found.append((None, np.clip(128 + 60 * smooth((200, 240), scale, rng), 0, 255).astype(np.uint8)))
    return found


SETS: dict[str, Callable[[int, Rng], list[Made]]] = {
    "real pictures": _real,
    "scikit-learn 8x8": partial(_scikit, "plain"),
    "scikit-learn 8x8, cut": partial(_scikit, "cut"),
    "scikit-learn, large": partial(_scikit, "large"),
    "scikit-learn, large, cut": partial(_scikit, "large cut"),
    **{
        f"margin {100 * margin:.0f} %, {low} to {high} px": partial(_of, partial(tight, margin, low, high))
        for margin in (0, 0.02, 0.05)
        for low, high in ((8, 16), (16, 40), (40, 300), (300, 2000))
    },
    "bitmap 16x16": partial(_of, partial(binary, 16, False)),
    "bitmap 16x16, stretched": partial(_of, partial(binary, 16, True)),
    "bitmap 32x32": partial(_of, partial(binary, 32, False)),
    "bitmap 32x32, stretched": partial(_of, partial(binary, 32, True)),
    "grey 16x16": partial(_of, partial(grey_scan, 16)),
    "grey 40x40": partial(_of, partial(grey_scan, 40)),
    "drawing, cut to the ink": partial(_of, cut_drawing),
    "photo, cut to the ink": partial(_of, partial(cut_photo, 0)),
    "photo, cut with 4 %": partial(_of, partial(cut_photo, 0.04)),
    **{f"touches {n} edges": partial(_of, partial(at_edges, n, 20, 700)) for n in (1, 2, 3)},
    "pasted on a square": partial(_of, pasted),
    "small and blurred": partial(_of, blurred_small),
    "ruled cell": partial(_of, partial(ruled, False, False)),
    "ruled cell, filled": partial(_of, partial(ruled, True, False)),
    "squared cell": partial(_of, partial(ruled, False, True)),
    "bar spans the picture": partial(_of, spanning_bar, only=(2, 4, 5, 7)),
    "line below": partial(_of, underlined),
    "open 4": partial(_of, open_four, only=(4,)),
    "any pen": partial(_of, pen_stroke),
    "drawn scenes": partial(_scene, KINDS),
    "blank": _blank,
    "texture": _texture,
}
"""Each gives about so many labelled pictures; the same generator gives the same."""


def made(name: str, n: int, seed: int = 0) -> Iterator[Made]:
    yield from SETS[name](n, np.random.default_rng([seed, *name.encode()]))
