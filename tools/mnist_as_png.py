"""Read the 10,000 MNIST test images as PNG files with `edgelstm infer`: as many right as from the arrays?

    python tools/mnist_as_png.py [--model base.int8]

Exit status 1 if a single decision differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from evaluation import load, split_digits
from PIL import Image

from edgelstm.config import DEFAULT_MODEL
from edgelstm.contract import Score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    digits = split_digits("test")
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(digits.sequences):
            Image.fromarray(image).save(Path(folder) / f"{i:05}.png")
        command = [sys.executable, "-m", "edgelstm", "infer", folder, "--provider", "cpu", "--json"]
        done = subprocess.run([*command, "--model", args.model], capture_output=True, text=True, check=True)
    read = np.array([json.loads(line)["index"] for line in done.stdout.splitlines()])
    logits = load(args.model).logits(digits.sequences)
    files = Score(int((read == digits.labels).sum()), len(digits))
    n_same = int((read == logits.argmax(1)).sum())
    print(f"arrays {Score.of(logits, digits.labels)}, PNG files {files}, {n_same:,}/{len(digits):,} decided alike")
    sys.exit(n_same != len(digits))


if __name__ == "__main__":
    main()
