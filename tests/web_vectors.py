"""Decoded pictures for the page's picture preparation, and what Python makes of them."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from edgelstm.picture import decode, digit_from_array

PICTURES = Path(__file__).with_name("pictures")


def real_pictures() -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(PICTURES.rglob("*")):
        if path.suffix in (".png", ".jpg", ".jpeg"):
            yield path.relative_to(PICTURES).as_posix(), decode(path.read_bytes())


def drawing(draw: np.random.Generator) -> np.ndarray:
    """A random scrawl of a few strokes: any size, pen, place, polarity; flat, shaded or grainy, grey or colour."""
    width, height = (int(n) for n in draw.integers(20, 700, 2))
    image = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(image)
    side = min(width, height) * draw.uniform(0.2, 0.9)
    corner = draw.uniform(0, 1, 2) * (np.array([width, height]) - side)
    for _ in range(draw.integers(1, 4)):
        points = [tuple(corner + side * point) for point in draw.uniform(0, 1, (draw.integers(2, 7), 2))]
        pen.line(points, fill=int(draw.integers(90, 256)), width=int(draw.integers(1, 4 + side / 8)), joint="curve")
    ink = np.asarray(image, np.float64)
    if draw.random() < 0.4:  # paper in uneven light, with grain
        y, x = np.mgrid[0:height, 0:width]
        light = 150 + 60 * np.sin(x / width * 2 + draw.uniform(0, 3)) + 40 * y / height
        ink = light * (1 - 0.7 * ink / 255) + draw.normal(0, draw.uniform(0, 6), ink.shape)
    elif draw.random() < 0.5:
        ink = 255 - ink
    ink = np.clip(ink, 0, 255)
    if draw.random() < 0.3:
        paper, pigment = draw.uniform(150, 255, 3), draw.uniform(0, 140, 3)
        ink = pigment + (paper - pigment) * (ink[:, :, None] / 255)
    return np.rint(ink).astype(np.uint8)


def edge_cases() -> Iterator[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(5)
    for name, shape in {"one pixel": (1, 1), "a row": (1, 40), "2 x 2": (2, 2), "3 x 90": (3, 90), "tall": (400, 12)}.items():
        yield f"noise, {name}", draw.integers(0, 256, shape, dtype=np.uint8)
    for value in (0, 128, 255):
        yield f"nothing but {value}", np.full((64, 48), value, np.uint8)
    yield "nothing, 28 x 28", np.zeros((28, 28), np.uint8)
    dots = np.zeros((120, 120), np.uint8)
    dots[::2, ::2] = 255
    yield "dots", dots
    desk = np.full((300, 360, 3), (120, 80, 50), np.uint8)
    desk[40:260, 60:300] = 235
    desk[90:210, 170:186] = 30
    yield "a sheet on a desk", desk
    frame = np.full((200, 200), 255, np.uint8)
    frame[20:180, 20:180] = 90
    frame[28:172, 28:172] = 250
    frame[60:140, 95:107] = 20
    yield "a frame", frame
    ruled = np.full((240, 240), 240, np.uint8)
    ruled[30::30] = 150
    ruled[70:180, 110:124] = 20
    yield "ruled paper", ruled


def vectors(sample: np.ndarray, n_drawings: int = 60) -> list[tuple[str, np.ndarray]]:
    """(name, decoded picture): real, edge cases, MNIST's own (28, 28), scrawls."""
    draw = np.random.default_rng(11)
    found = [*real_pictures(), *edge_cases()]
    found += [(f"MNIST {i}{', dark' if i % 2 else ''}", 255 - image if i % 2 else image) for i, image in enumerate(sample)]
    found += [(f"scrawl {i}", drawing(draw)) for i in range(n_drawings)]
    return found


def as_json(arrays: list[np.ndarray]) -> str:
    """What the page's digitFromArray takes, its bytes in base64."""
    return json.dumps([
        {
            "height": array.shape[0], "width": array.shape[1], "channels": array.shape[2] if array.ndim == 3 else 1,
            "data": base64.b64encode(array.tobytes()).decode(),
        }
        for array in arrays
    ])  # fmt: skip


def expected(array: np.ndarray) -> tuple[np.ndarray, str | None, bool]:
    found = digit_from_array(array)
    return found.pixels, found.note, found.empty
