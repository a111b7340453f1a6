"""Share of pictures read right, set by set, with each step of the picture preparation switched off.

python tools/ablation.py -n 40
python tools/ablation.py --set "drawn scenes" --step "printed lines"
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
from crops import SETS, Made, made
from PIL import Image
from scenes import Bytes

from edgelstm import Classifier
from edgelstm.data.picture import blobs, digit_from_array, draw, find, ink


def luma(picture: Bytes) -> Bytes:
    return picture if picture.ndim == 2 else np.asarray(Image.fromarray(picture).convert("L"))


STEPS: dict[str, list[tuple[object, str, object]]] = {
    "nothing off": [],
    "two levels": [(ink, "CLEAR", 9), (ink, "CLEAR_FAR_APART", 9)],
    "photos": [(ink, "CLEAR", 0), (ink, "CLEAR_FAR_APART", 0), (find, "photo_ink", lambda grey, scale: None)],
    "margin": [(find, "MARGIN_PX", 1)],
    "enlarging": [(find, "ENLARGED_PX", 0)],
    "sheet, frame": [(find, "inside", lambda pieces, i: None)],
    "printed lines": [(find, "without_lines", lambda mask: mask)],
    "looking closer": [(find, "SMALL_SHARE", 0)],
    "ink and ground apart": [(find, "MIN_PARTED", 0)],
    "dust": [(find, "MIN_SHARE", 0), (find, "MIN_OWN_PX", 0)],
    "blots": [(find, "MAX_THICK", 99)],
    "better of two": [(find, "WELL_PARTED", 0)],
    "pieces grown": [(find, "grown", lambda mask: mask)],
    "colour": [(find, "grey_from", luma)],
    "ink hangs together": [(ink, "TOGETHER", 0)],
    "hairlines blurred": [(ink, "HAIRLINE_PX", 0)],
    "narrow ground": [(ink, "NARROW", 0.35)],
    "centre weight": [(ink, "_centre_weight", lambda shape: np.ones(shape, np.float32))],
    "curved ground": [(ink, "_surface", lambda grey: np.full_like(grey, ink.median(grey)))],
    "shadows in drawings": [(blobs, "WHOLE", 9), (blobs, "HALF", 9)],
    "contact": [(blobs, "MAX_CONTACT", 99)],
    "contact of strokes": [(blobs, "MAX_LOOSE_CONTACT", 99)],
    "drawn box": [(blobs, "_surrounds", lambda *pieces: False)],
    "pen thickened": [(draw, "THINNEST", 0.0)],
    "pen thinned": [(draw, "THICKEST", 1.0)],
}
"""Module, name and what stands there instead."""


def share_right(classifier: Classifier, pictures: list[Made]) -> float:
    """Per cent; of a picture without a digit right is that no ink is found."""
    found = [digit_from_array(picture) for _, picture in pictures]
    read = classifier.runner.logits(np.stack([each.pixels for each in found])).argmax(1)
    labels = [None if each.empty else int(digit) for each, digit in zip(found, read, strict=True)]
    return 100 * float(np.mean([label == right for label, (right, _) in zip(labels, pictures, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=40, help="pictures of a set, about")
    parser.add_argument("--set", action="append", choices=SETS, help="only this one; may be repeated")
    parser.add_argument("--step", action="append", choices=STEPS, help="only this one; may be repeated")
    parser.add_argument("--model", default="base", help="a model that Classifier takes")
    args = parser.parse_args()
    classifier = Classifier(args.model, provider="cpu")
    steps = args.step or list(STEPS)
    print("| set | ms | " + " | ".join(steps) + " |\n" + "|---" * (len(steps) + 2) + "|")
    for name in args.set or SETS:
        pictures = list(made(name, args.n))
        start = time.perf_counter()
        share_right(classifier, pictures)
        took_ms = 1000 * (time.perf_counter() - start) / len(pictures)
        row = []
        for step in steps:
            patches = [patch.object(*change) for change in STEPS[step]]
            for each in patches:
                each.start()
            row.append(f"{share_right(classifier, pictures):.1f}")
            for each in patches:
                each.stop()
        print(f"| {name} | {took_ms:.1f} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
