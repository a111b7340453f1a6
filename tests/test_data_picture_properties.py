"""Tests that what does not change a digit for a person never changes what is read: margins, sizes, files, colours."""

import io

import numpy as np
import pytest
from PIL import Image

from edgelstm import Classifier
from edgelstm.data.mnist import sample_digits
from edgelstm.data.picture import read_picture

MIN_SURE = 0.9
"""Where the plain picture is read with more than this probability, every variant is read as the same digit."""


def drawing(digit: np.ndarray, side: int = 200) -> Image.Image:
    """Dark on white, without any margin."""
    ys, xs = np.nonzero(digit > 60)
    cut = Image.fromarray(255 - digit[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])
    return cut.resize((cut.width * side // cut.height, side), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def margin(image: Image.Image, share: float) -> Image.Image:
    by = round(share * image.height)
    out = Image.new("L", (image.width + 2 * by, image.height + 3 * by), 255)
    out.paste(image, (by, by))
    return out


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


VARIANTS = {
    "margin of 2 %": lambda image: saved(margin(image, 0.02)),
    "margin of 30 %": lambda image: saved(margin(image, 0.3)),
    "margin of 150 %": lambda image: saved(margin(image, 1.5)),
    "twice as large": lambda image: saved(resized(image, 2)),
    "three times as large": lambda image: saved(resized(image, 3)),
    "a tenth": lambda image: saved(image.resize((max(6, image.width // 10), image.height // 10), Image.Resampling.BOX)),
    "inverted": lambda image: saved(image.point([255 - n for n in range(256)])),
    "turned by EXIF": turned,
    "JPEG": lambda image: saved(image, "JPEG", quality=90),
    "WebP": lambda image: saved(image, "WEBP", quality=90),
    "BMP": lambda image: saved(image, "BMP"),
    "RGB": lambda image: saved(image.convert("RGB")),
    "palette": lambda image: saved(image.quantize(16)),
    "two levels": lambda image: saved(image.point([255 * (n > 127) for n in range(256)])),
}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier("base", provider="cpu")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_read_as_the_same_digit(name: str, classifier: Classifier) -> None:
    images = [drawing(digit) for digit in sample_digits().sequences[:40]]
    plain = [classifier.classify(saved(image)) for image in images]
    changed = [classifier.classify(VARIANTS[name](image)) for image in images]
    pairs = [(a.label, b.label) for a, b in zip(plain, changed, strict=True) if (a.confidence or 0) > MIN_SURE]
    assert len(pairs) > 30
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert all(read_picture(VARIANTS[name](image)).note is None for image in images[:3])
