"""Pictures beside what the network saw of them, as one PNG."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgelstm.errors import OutputError, printable
from edgelstm.files import replacing
from edgelstm.runtime.classifier import Prediction, Source, pixels_from

SIDE_PX = 224
"""Side of a picture and of what was seen of it: eight times MNIST's 28."""
CAPTION_PX, GAP_PX = 24, 12
COLUMNS = 4
MAX_PICTURES = 400
"""More make a sheet that few programs open."""

Pairs = Sequence[tuple[Source, Prediction]]


def save_pairs(pairs: Pairs, target: Path) -> None:
    """Write the readable ones of the pictures, each left of what the network saw, with the answer above.

    Into one PNG if ``target`` ends in .png, else one PNG a picture into that folder, numbered in order. The pictures
    are read again, so none may be a file object that has been read to its end.
    Raises OutputError if it cannot be written, or would take the place of one of the pictures.
    """
    shown = [(source, prediction) for source, prediction in pairs if prediction.sequence is not None]
    if target.suffix.lower() != ".png":
        for number, (source, prediction) in enumerate(shown, 1):
            stem = Path(os.fsdecode(prediction.source)).stem
            safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in stem)[:60]
            _save(_pair(source, prediction), target / f"{number:04}-{safe}.png")
        return
    if len(shown) > MAX_PICTURES:
        raise OutputError(
            f"{target} would show too many pictures", found=f"{len(shown):,}", expected=f"at most {MAX_PICTURES}",
            fix="name a folder instead",
        )  # fmt: skip
    if shown:
        _save(_page([_pair(*each) for each in shown]), target)


def check_target(target: Path, pictures: list[str]) -> None:
    """Raise OutputError if ``target`` is one of the pictures."""
    if target.exists() and any(os.path.exists(name) and os.path.samefile(name, target) for name in pictures):
        raise OutputError(f"{target} is one of the pictures", fix="choose another file for what the network saw")


def _pair(source: Source, prediction: Prediction) -> Image.Image:
    assert prediction.sequence is not None
    page = Image.new("RGB", (2 * SIDE_PX + 2, SIDE_PX + CAPTION_PX), "white")
    original = Image.fromarray(pixels_from(source)).convert("RGB")
    original.thumbnail((SIDE_PX, SIDE_PX))
    page.paste(original, ((SIDE_PX - original.width) // 2, CAPTION_PX + (SIDE_PX - original.height) // 2))
    seen = Image.fromarray(np.ascontiguousarray(prediction.sequence)).convert("RGB")
    page.paste(seen.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST), (SIDE_PX + 2, CAPTION_PX))
    ImageDraw.Draw(page).text((4, 4), _caption(prediction), fill="black", font=ImageFont.load_default(size=14))
    return page


def _caption(prediction: Prediction) -> str:
    answer = "no digit" if prediction.confidence is None else prediction.label or "unsure"
    sure = "" if prediction.confidence is None else f"  {100 * prediction.confidence:.1f} %"
    note = f"  ({printable(prediction.note, 60)})" if prediction.note else ""
    return f"{printable(answer, 30)}{sure}{note}"


def _page(pairs: list[Image.Image]) -> Image.Image:
    columns = min(COLUMNS, len(pairs))
    width, height = pairs[0].width + GAP_PX, pairs[0].height + GAP_PX
    page = Image.new("RGB", (columns * width - GAP_PX, -(-len(pairs) // columns) * height - GAP_PX), "white")
    for i, pair in enumerate(pairs):
        page.paste(pair, (i % columns * width, i // columns * height))
    return page


def _save(image: Image.Image, target: Path) -> None:
    with replacing(target) as temporary:
        image.save(temporary, "PNG")
