"""For the model card: which digits a model takes for which, and a picture of all that it gets wrong.

    python tools/card_figures.py base small nano --split test -o models

Prints a confusion table (Markdown) for each model and writes NAME.wrong.png into the folder: each digit with its
label, the answer and the answer's probability. The same models give the same bytes.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from evaluation import MODELS_HELP, SPLITS, load, markdown, split_digits
from PIL import Image, ImageDraw, ImageFont

from edgelstm.contract import Logits, Score
from edgelstm.data.dataset import Part
from edgelstm.errors import EdgeLstmError
from edgelstm.files import write_bytes
from edgelstm.runtime.calibration import probabilities

ZOOM = 3
"""Pixels of the sheet for a pixel of a digit."""
GAP, CAPTION = 14, 34
"""Pixels between two digits, and below each for its caption."""
MAX_COLUMNS = 12
LEVELS = 16
"""Grey levels of the file: fewer than 256 make it a third of the size."""
INK, PAPER, QUIET, FRAME = 0, 255, 119, 204


def confusion(logits: Logits, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(classes, classes): how many digits of the row's label were read as the column's."""
    n_classes = logits.shape[1]
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (labels, logits.argmax(1)), 1)
    return counts


def confusion_table(counts: npt.NDArray[np.int64]) -> str:
    """Markdown: labels down, answers across, right answers in bold, nothing where there is none."""
    rows = []
    for label, row in enumerate(counts):
        cells = [f"**{n}**" if answer == label else n or "" for answer, n in enumerate(row)]
        right, total = row[label], row.sum()
        rows.append((label, *cells, f"{right}/{total}" + (f" ({100 * right / total:.2f} %)" if total else "")))
    return markdown(("label, read as", *range(len(counts)), "right"), rows, right=True)


def wrong_sheet(logits: Logits, digits: Part) -> bytes:
    """A PNG of all digits read wrong, by label, then answer; white if there are none."""
    answers, shares = logits.argmax(1), probabilities(logits).max(1)
    wrong = np.flatnonzero(answers != digits.labels)
    wrong = wrong[np.lexsort((wrong, answers[wrong], digits.labels[wrong]))]
    rows, cols = digits.sequences.shape[1:]
    wide, high = cols * ZOOM + GAP, rows * ZOOM + CAPTION + GAP
    columns = min(MAX_COLUMNS, max(1, int(np.ceil(np.sqrt(1.6 * len(wrong))))))
    n_lines = max(1, -(-len(wrong) // columns))
    sheet = Image.new("L", (columns * wide + GAP, n_lines * high + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=15), ImageFont.load_default(size=11)
    for at, index in enumerate(wrong):
        left, top = GAP + at % columns * wide, GAP + at // columns * high
        middle, below = left + cols * ZOOM / 2, top + rows * ZOOM + 4
        ink = Image.fromarray(255 - digits.sequences[index]).resize(
            (cols * ZOOM, rows * ZOOM), Image.Resampling.BICUBIC
        )
        sheet.paste(ink, (left, top))
        draw.rectangle((left - 1, top - 1, left + cols * ZOOM, top + rows * ZOOM), outline=FRAME)
        caption = f"{digits.labels[index]} read as {answers[index]}"
        draw.text((middle, below), caption, INK, font=large, anchor="ma")
        draw.text((middle, below + 18), f"{100 * shares[index]:.0f} %  no. {index}", QUIET, font=small, anchor="ma")
    step = 255 / (LEVELS - 1)
    rounded = Image.fromarray((np.rint(np.asarray(sheet) / step) * step).astype(np.uint8))
    stream = io.BytesIO()
    rounded.quantize(LEVELS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help=MODELS_HELP)
    parser.add_argument("--split", choices=SPLITS, default="validation", help="test only to report")
    parser.add_argument("-o", type=Path, default=Path(), help="folder of the pictures")
    args = parser.parse_args()
    try:
        digits = split_digits(args.split)
        for name in args.models:
            model = load(name)
            logits = model.logits(digits.sequences)
            target = args.o / f"{model.name}.wrong.png"
            content = wrong_sheet(logits, digits)
            write_bytes(target, content)
            print(f"### {model.name}: {Score.of(logits, digits.labels)} of {digits.source}\n")
            print(confusion_table(confusion(logits, digits.labels)), end="\n\n")
            print(f"wrote {target} ({len(content):,} bytes)", file=sys.stderr)
    except EdgeLstmError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
