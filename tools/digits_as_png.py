"""Write scikit-learn's 1,797 digits of 8x8 as a folder with a folder for each class: data of one's own to try.

    python tools/digits_as_png.py digits

needs scikit-learn.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write(target: Path) -> None:
    """A PNG a digit into ``target``/LABEL/NUMBER.png."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = target / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        # 0 to 16 -> 0 to 240
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number:04}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
