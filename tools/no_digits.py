"""The kinds of picture files without a digit, or with several, for hard_pictures.py: a model must doubt its answer."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from hard_kinds import PHOTO, PLAIN, SCREEN, encoded, photo
from PIL import Image, ImageDraw, ImageFont
from scenes import Bytes, Rng, Scene, coverage, photograph, smooth, strokes


def _blank(scene: Scene, digits: list[Bytes], rng: Rng) -> bytes:
    return encoded(photograph(np.zeros((scene.height, scene.width), np.float32), scene, rng), "JPEG", quality=70)


def _several(n: int, digits: list[Bytes], rng: Rng) -> bytes:
    scene = photo(extent=130, pen=7)
    cover = np.zeros((scene.height, scene.width), np.float32)
    for i, digit in enumerate(digits[:n]):
        at = replace(scene, place=(0.5 + rng.uniform(-0.05, 0.05), (i + 0.75) / (n + 0.5)))
        cover = np.maximum(cover, strokes(digit, at, rng))
    return encoded(photograph(cover, scene, rng))


def _letter(digits: list[Bytes], rng: Rng) -> bytes:
    """A capital or small letter that looks like no digit."""
    letter = str(rng.choice(list("ABCEFHKMNPRTWXadefhkmnprtwxy")))
    font = ImageFont.load_default(size=220.0)
    image = Image.new("L", (PHOTO.width, PHOTO.height))
    ImageDraw.Draw(image).text((260, 220), letter, 255, font, anchor="mm")
    return encoded(photograph(np.asarray(image, np.float32) / 255, PHOTO, rng))


def _scribble(digits: list[Bytes], rng: Rng) -> bytes:
    t = np.linspace(0, 1, 1500)
    waves = [sum(rng.normal() * np.sin(2 * np.pi * (k * t + rng.random())) for k in range(1, 9)) for _ in range(2)]
    points = np.stack(waves, axis=1)
    points = points / np.abs(points).max() * 110 + np.array([220, 260])
    return encoded(photograph(coverage(points.astype(np.float32), 8, 520, 440), PHOTO, rng))


def _sideways(digits: list[Bytes], rng: Rng) -> bytes:
    """Two digits written over each other at right angles."""
    cover = np.maximum(strokes(digits[0], PHOTO, rng), strokes(np.rot90(digits[1]), PHOTO, rng))
    return encoded(photograph(cover, PHOTO, rng))


def _text(digits: list[Bytes], rng: Rng) -> bytes:
    image = Image.new("L", (PHOTO.width, PHOTO.height))
    words = "the quick brown fox\njumps over the lazy dog\npack my box with five\ndozen liquor jugs"
    ImageDraw.Draw(image).text((40, 80), words, 255, ImageFont.load_default(size=float(rng.integers(24, 44))))
    return encoded(photograph(np.asarray(image, np.float32) / 255, PHOTO, rng))


def _animal(digits: list[Bytes], rng: Rng) -> bytes:
    """A cat, in the eyes of a program: fur, two ears, two eyes, a blurred room."""
    shape = (440, 520)
    picture = np.stack([130 + 60 * smooth(shape, 120, rng) for _ in range(3)], axis=2)
    cover = Image.new("L", shape[::-1])
    pen = ImageDraw.Draw(cover)
    x, y, r = rng.uniform(200, 320), rng.uniform(190, 260), rng.uniform(90, 140)
    pen.ellipse((x - r, y - 0.8 * r, x + r, y + 0.9 * r), fill=255)
    for side in (-1, 1):
        pen.polygon([(x + side * 0.9 * r, y - 1.3 * r), (x + side * r, y), (x + side * 0.2 * r, y - 0.6 * r)], fill=255)
    fur = rng.uniform(40, 200, 3) * (1 + 0.3 * (smooth(shape, 4, rng) + smooth(shape, 30, rng)))[:, :, None]
    picture = np.where(np.asarray(cover)[:, :, None] > 0, fur, picture)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for side in (-0.4, 0.4):
        pen.ellipse((x + side * r - 14, y - 30, x + side * r + 14, y - 6), fill=(190, 200, 60))
        pen.ellipse((x + side * r - 4, y - 29, x + side * r + 4, y - 7), fill=(10, 10, 10))
    return encoded(image, "JPEG", quality=80)


def _landscape(digits: list[Bytes], rng: Rng) -> bytes:
    """Clouds of every size, in colour."""
    layers = [[smooth((440, 520), cell, rng) * cell for cell in (4, 12, 40, 130)] for _ in range(3)]
    picture = np.stack([sum(layer) for layer in layers], axis=2)  # type: ignore[misc]
    picture = 128 + 100 * picture / np.abs(picture).max()
    return encoded(Image.fromarray(picture.astype(np.uint8)), "JPEG", quality=80)


NO_DIGIT: dict[str, Callable[[list[Bytes], Rng], bytes]] = {
    "blank screen": partial(_blank, SCREEN),
    "blank paper": partial(_blank, PLAIN),
    "blank photo": partial(_blank, photo(shading=0.5, noise=6)),
    "blank textured": partial(_blank, photo(texture=0.15, noise=8)),
    "blank, shadowed": partial(_blank, photo(shadow=0.4)),
    "blank, ruled": partial(_blank, photo(printed="ruled", pitch=40)),
    "blank, squared": partial(_blank, photo(printed="squared", pitch=30)),
    "two digits": partial(_several, 2),
    "three digits": partial(_several, 3),
    "five digits": partial(_several, 5),
    "letter": _letter,
    "scribble": _scribble,
    "two digits over each other": _sideways,
    "page of text": _text,
    "animal": _animal,
    "landscape": _landscape,
}
"""Picture files without a digit, or with several."""
