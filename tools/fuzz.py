"""Change valid picture and model files at random and read them, in processes of their own.

    python tools/fuzz.py pictures --minutes 10
    python tools/fuzz.py models -n 2000 --seed 7

What crashes, hangs or swells? Each file must be read, or be refused with an EdgeLstmError in one line. A
process reads CHUNK files and is ended after TIMEOUT_S; what it was reading when it ended is kept in the
folder fuzz-found/, to be run again.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from edgelstm.config import DEFAULT_MODEL, shipped_dir
from edgelstm.data.picture import read_picture
from edgelstm.errors import EdgeLstmError
from edgelstm.runtime.runner import OrtRunner

CHUNK = 200
TIMEOUT_S = 120
MEMORY_BYTES = 2**31
"""Address space of a process, so that a bomb cannot hurt this machine; most of it is never touched."""
MAX_KB = 500_000
FOUND = Path("fuzz-found")
WORDS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\xff\xff", b"\0\x01", b"\xff\xda")
Rng = np.random.Generator


def valid_pictures(rng: Rng) -> list[bytes]:
    """Small pictures in every format and mode that is read."""
    pixels = np.full((40, 36), 230, np.uint8)
    pixels[8:32, 16:20] = 20
    base = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [base, base.transpose(Image.Transpose.ROTATE_180)]}
    wanted: list[tuple[str, str, dict[str, object]]] = [
        *(("PNG", mode, {}) for mode in ("1", "L", "P", "RGB", "LA", "RGBA", "I;16")),
        ("PNG", "P", {"transparency": 3}), ("PNG", "L", {"exif": exif}), ("PNG", "L", frames),
        ("JPEG", "L", {}), ("JPEG", "RGB", {"progressive": True, "exif": exif}), ("JPEG", "CMYK", {}),
        ("GIF", "P", {}), ("GIF", "P", frames), ("BMP", "1", {}), ("BMP", "L", {}), ("BMP", "RGB", {}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("WEBP", "RGB", frames),
        *(("TIFF", mode, {}) for mode in ("1", "L", "RGB", "CMYK", "I;16", "F")),
        *(("TIFF", "L", {"compression": how}) for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        ("TIFF", "1", {"compression": "group4"}), ("PPM", "1", {}), ("PPM", "L", {}), ("PPM", "RGB", {}),
    ]  # fmt: skip
    made = [b"P2 4 4 255 " + b"9 " * 16, b"P1 4 4 " + b"01" * 8]
    for kind, mode, options in wanted:
        stream = io.BytesIO()
        image = Image.fromarray(pixels.astype(np.uint16) * 200) if mode == "I;16" else base.convert(mode)
        image.save(stream, kind, **options)
        made.append(stream.getvalue())
    return made


def changed(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """A few bytes, words, cuts, repeats and pieces of other files, mostly near the beginning."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        at = int(min(len(data) - 1, rng.integers(len(data)) if rng.random() < 0.5 else rng.exponential(40)))
        size = int(rng.integers(1, 65))
        match rng.integers(7):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                word = WORDS[rng.integers(len(WORDS))]
                data[at : at + len(word)] = word
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size] * int(rng.integers(1, 50))
            case 5:
                other = others[rng.integers(len(others))]
                start = int(rng.integers(len(other)))
                data[at : at + size] = other[start : start + size]
            case _:
                del data[int(rng.integers(at, len(data))) :]
    return bytes(data)


def cases(what: str, seed: int, first: int, n: int) -> list[bytes]:
    """Changed files number ``first`` to ``first + n - 1`` of this seed."""
    if what == "models":
        sources = [(shipped_dir() / f"{name}.onnx").read_bytes() for name in (DEFAULT_MODEL, f"{DEFAULT_MODEL}.int8")]
        tails = [source[-6_000:] for source in sources]
    else:
        sources = tails = valid_pictures(np.random.default_rng(0))
    made = []
    for number in range(first, first + n):
        rng = np.random.default_rng([seed, number])
        i = int(rng.integers(len(sources)))
        if what == "models" and rng.random() < 0.7:  # the graph and the metadata, and not only the weights
            half = 2_000 if rng.random() < 0.5 else len(sources[i]) - 6_000
            made.append(sources[i][:half] + changed(sources[i][half:], tails, rng))
        else:
            made.append(changed(sources[i], tails, rng))
    return made


def serve(what: str, seed: int, first: int, n: int) -> None:
    """Read the cases, in a process of its own; each line names the case that is begun, or tells how it ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for number, content in enumerate(cases(what, seed, first, n), first):
            print(json.dumps({"begin": number}), flush=True)
            started, said = time.process_time(), ""
            try:
                if what == "models":
                    path.write_bytes(content)
                    OrtRunner(path, provider="cpu").logits(np.zeros((2, 28, 28), np.uint8))
                else:
                    pixels = read_picture(content).pixels
                    assert (pixels.shape, pixels.dtype) == ((28, 28), np.uint8)
                ended = "read"
            except EdgeLstmError as error:
                ended, said = "refused", str(error)
                if not said.isprintable():
                    ended = "more than one line"
                elif isinstance(error.__cause__, Exception) and "report it as a bug" in said:
                    ended = type(error.__cause__).__name__
            except BaseException as error:
                ended, said = type(error).__name__, str(error)
            seconds = time.process_time() - started
            kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps({"end": number, "as": ended, "said": said[:300], "s": seconds, "kb": kb}), flush=True)


def run_chunk(what: str, seed: int, first: int, n: int, total: Counter[str]) -> int:
    """Have one process read the cases; returns the number of the next case to read."""
    arguments = [sys.executable, __file__, what, "--seed", str(seed), "--serve", str(first), str(n)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=TIMEOUT_S, env=environment)
        output, status = done.stdout, f"exit status {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        output, status = error.stdout or b"", f"no end within {TIMEOUT_S} s"
    lines = [json.loads(line) for line in output.decode().splitlines() if line.endswith("}")]
    for line in lines:
        if "end" not in line:
            continue
        total[line["as"]] += 1
        slow, swollen = line["s"] > 5, line["kb"] > MAX_KB
        if line["as"] not in ("read", "refused") or slow or swollen:
            keep(what, seed, line["end"], f"{line['as']}: {line['said']} ({line['s']:.1f} s, {line['kb']:,} kB)")
    if not status:
        return first + n
    last = max((line["begin"] for line in lines if "begin" in line), default=first)
    total["broke off"] += 1
    keep(what, seed, last, status)
    return int(last) + 1


def keep(what: str, seed: int, number: int, why: str) -> None:
    FOUND.mkdir(exist_ok=True)
    file = FOUND / f"{what}-{seed}-{number}"
    file.write_bytes(cases(what, seed, number, 1)[0])
    print(f"{file}: {why}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "models"))
    parser.add_argument("-n", type=int, default=10_000, help="files to change and read")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", type=int, nargs=2, metavar=("FIRST", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.what, args.seed, *args.serve)
        return
    total: Counter[str] = Counter()
    until, number = time.monotonic() + 60 * args.minutes, 0
    while number < args.n and time.monotonic() < until:
        number = run_chunk(args.what, args.seed, number, min(CHUNK, args.n - number), total)
    print(f"{number:,} {args.what}, seed {args.seed}: " + ", ".join(f"{n:,} {how}" for how, n in total.most_common()))


if __name__ == "__main__":
    main()
