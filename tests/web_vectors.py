"""Decoded pictures for the page's picture preparation, and what Python makes of them."""

import base64
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edgelstm.data.picture import decode, digit_from_array

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
    for shape in ((1, 1), (2, 2), (20, 90), (400, 60), (90, 90, 3)):
        yield f"noise {shape}", draw.integers(0, 256, shape, dtype=np.uint8)
    for value in (0, 128, 255):
        yield f"nothing but {value}", np.full((64, 48), value, np.uint8)
    yield "nothing, 28 x 28", np.zeros((28, 28), np.uint8)
    dots = np.zeros((120, 120), np.uint8)
    dots[::2, ::2] = 255
    yield "dots", dots
    desk = np.full((300, 360, 3), (120, 80, 50), np.uint8)
    desk[40:260, 60:300] = 235
    desk[90:210, 170:186] = 30
    yield "a sheet on an even desk", desk
    grain = draw.normal(0, 5, (300, 360))
    yield "a sheet on a desk", np.clip(np.rint(desk[:, :, 1] + grain), 0, 255).astype(np.uint8)
    frame = np.full((200, 200), 255, np.uint8)
    frame[20:180, 20:180] = 90
    frame[28:172, 28:172] = 250
    frame[60:140, 95:107] = 20
    yield "a frame", frame
    ruled = np.full((240, 240), 240, np.uint8)
    ruled[30::30] = 150
    ruled[70:180, 110:124] = 20
    yield "ruled paper", ruled
    partly = np.full((240, 240), 240, np.uint8)
    partly[30::30, 30:200] = 20
    partly[70:180, 110:124] = 20
    yield "paper ruled in its middle", partly


def vectors(sample: np.ndarray, n_scrawls: int) -> list[tuple[str, np.ndarray]]:
    """(name, decoded picture): real ones, edge cases, MNIST's own (28, 28), scrawls."""
    draw = np.random.default_rng(11)
    digits = [(f"MNIST {i}", 255 - image if i % 2 else image) for i, image in enumerate(sample)]
    return [*real_pictures(), *edge_cases(), *digits, *((f"scrawl {i}", drawing(draw)) for i in range(n_scrawls))]


def as_json(array: np.ndarray) -> str:
    """What the page's digitFromArray takes, its bytes in base64."""
    return json.dumps(
        {
            "height": array.shape[0], "width": array.shape[1], "channels": array.shape[2] if array.ndim == 3 else 1,
            "data": base64.b64encode(array.tobytes()).decode(),
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How the page's 28 x 28 pixels compare with Python's, over many pictures."""

    n: int
    different: tuple[str, ...]
    """Pictures whose pixels, note or emptiness are not the same; each with what differs."""
    n_pixels: int
    n_different_pixels: int
    largest: int
    """Largest difference, in grey levels."""

    def __str__(self) -> str:
        return (
            f"{self.n - len(self.different)}/{self.n} pictures and {self.n_pixels - self.n_different_pixels:,}/"
            f"{self.n_pixels:,} pixels are the same, the largest difference is {self.largest}"
        )


def agreement(named: Iterable[tuple[str, np.ndarray]], answers: Iterable[dict[str, Any]]) -> Agreement:
    """Hold the page's answers (pixels in base64, note, empty) against digit_from_array's."""
    different, n, wrong, largest = [], 0, 0, 0
    for (name, array), answer in zip(named, answers, strict=True):
        expected = digit_from_array(array)
        pixels = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(expected.pixels.shape)
        away = np.abs(pixels.astype(int) - expected.pixels)
        n += 1
        wrong += int((away > 0).sum())
        largest = max(largest, int(away.max()))
        if away.any() or (expected.note, expected.empty) != (answer["note"], answer["empty"]):
            notes = f"{expected.note!r} and {answer['note']!r}"
            different.append(f"{name} {array.shape}: {(away > 0).sum()} pixels by up to {away.max()}; notes {notes}")
    return Agreement(n, tuple(different), 784 * n, wrong, largest)


def png(array: np.ndarray) -> bytes:
    """The array as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()
