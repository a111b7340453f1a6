"""Digits drawn as strokes, for tests of the demo page: the same each time, and as a picture for Python."""

import itertools
import math

import numpy as np
from PIL import Image, ImageDraw

Strokes = list[list[tuple[float, float]]]
"""Each stroke is a list of (x, y) in shares of the pad."""
PEN = 0.075
"""The page's pen, in shares of the pad."""

# An arc is (centre x, y, radius x, y, from, to), degrees clockwise from the top; other numbers are x, y, x, y, ...
_DIGITS: list[list[list[float | tuple[float, ...]]]] = [
    [[(0.5, 0.5, 0.17, 0.27, 0, 360)]],
    [[0.5, 0.22, 0.5, 0.78]],
    [[(0.5, 0.36, 0.16, 0.14, -80, 110), 0.36, 0.74, 0.66, 0.74]],
    [[(0.48, 0.35, 0.15, 0.13, -60, 170), (0.48, 0.63, 0.18, 0.16, 0, 230)]],
    [[0.4, 0.22, 0.34, 0.55, 0.68, 0.55], [0.6, 0.3, 0.58, 0.8]],
    [[0.66, 0.24, 0.4, 0.24, 0.38, 0.46, (0.49, 0.6, 0.17, 0.16, -20, 230)]],
    [[0.58, 0.2, 0.42, 0.42, (0.5, 0.62, 0.14, 0.16, -80, 280)]],
    [[0.34, 0.26, 0.66, 0.26, 0.46, 0.78]],
    [[(0.5, 0.36, 0.13, 0.13, 180, 540), (0.5, 0.64, 0.16, 0.15, 0, 360)]],
    [[(0.5, 0.37, 0.14, 0.14, 90, 450), 0.62, 0.5, 0.56, 0.8]],
]


def digit_strokes(digit: int) -> Strokes:
    """A digit as a careful hand draws it, in the middle of the pad."""
    return [_points(stroke) for stroke in _DIGITS[digit]]


def drawn_digits(n: int) -> list[Strokes]:
    """``n`` drawings, 0 to 9 in turn: any place and size, slanted, stretched, with a hand that is not quite steady."""
    draw = np.random.default_rng(7)
    return [_distorted(digit_strokes(i % 10), draw) for i in range(n)]


def rendered(strokes: Strokes, size: int = 280) -> np.ndarray:
    """The drawing as (size, size) uint8, white on black with soft edges."""
    fine = 4 * size
    image = Image.new("L", (fine, fine))
    canvas = ImageDraw.Draw(image)
    radius = PEN * fine / 2
    for stroke in strokes:
        points = [(x * fine, y * fine) for x, y in stroke]
        for first, second in itertools.pairwise(points):
            canvas.line((first, second), 255, round(2 * radius))
        for x, y in points:  # round ends and joints
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _points(stroke: list[float | tuple[float, ...]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    numbers: list[float] = []
    for part in stroke:
        if isinstance(part, tuple):
            x, y, rx, ry, start, stop = part
            angles = np.radians(np.linspace(start, stop, 24))
            found += [(float(x + rx * math.sin(a)), float(y - ry * math.cos(a))) for a in angles]
        else:
            numbers.append(part)
            if len(numbers) == 2:
                found.append((numbers[0], numbers[1]))
                numbers = []
    return found


def _distorted(strokes: Strokes, draw: np.random.Generator) -> Strokes:
    turn = np.radians(draw.uniform(-12, 12))
    slant, size = draw.uniform(-0.2, 0.2), draw.uniform(0.5, 1.35)
    matrix = size * np.array([[math.cos(turn), slant - math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix[0] *= draw.uniform(0.8, 1.2)
    moved = [(np.array(stroke) - 0.5) @ matrix.T for stroke in strokes]
    for stroke in moved:  # the hand wanders along the stroke
        along = np.linspace(0, 3, len(stroke))[:, None]
        stroke += 0.012 * size * np.sin(along * draw.uniform(0.5, 2, 2) + draw.uniform(0, 6, 2))
    low, high = np.concatenate(moved).min(0), np.concatenate(moved).max(0)
    corner = draw.uniform(PEN / 2, 1 - PEN / 2 - (high - low))
    return [[(float(x), float(y)) for x, y in stroke - low + corner] for stroke in moved]
