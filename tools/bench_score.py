"""Times `edgelstm score` on both engines beside the plain loop, in turn, with the peak memory of each process.

    python tools/bench_score.py FOLDER [--inputs 10000] [--rounds 3] [--model base] [--engines loop local ray]

FOLDER gets the inputs: small digits as PNG in one Parquet file, the sample that ships varied in the depth of its ink.
The loop is one process that calls `Classifier.classify_many`. Each runs once a round; the time is that of the whole
process, its start included, so take many inputs. Peaks are the kernel's (VmHWM), of the driver and the largest of the
others. Prints a Markdown table.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from edgelstm.data.mnist import sample_digits

ENGINES = ("loop", "local", "ray")
LOOP = """
import sys
import pyarrow.parquet as pq
from edgelstm import Classifier
batches = pq.ParquetFile(sys.argv[1]).iter_batches(1000, columns=["bytes"])
contents = (content for batch in batches for content in batch["bytes"].to_pylist())
sum(1 for _ in Classifier(sys.argv[2], provider="cpu").classify_many(contents))
"""


def write_inputs(path: Path, n: int) -> None:
    """``n`` digits as PNG, all different up to 100,000."""
    digits = sample_digits().sequences
    with pq.ParquetWriter(path, pa.schema({"path": pa.string(), "bytes": pa.binary()})) as writer:
        for start in range(0, n, 4096):
            rows = []
            for i in range(start, min(start + 4096, n)):
                image, stream = digits[i % len(digits)].astype(int), io.BytesIO()
                image = np.where(image > 0, np.maximum(image - i // len(digits) % 100, 1), 0)
                Image.fromarray(image.astype(np.uint8)).save(stream, "PNG")
                rows.append({"path": f"{i:09}.png", "bytes": stream.getvalue()})
            writer.write_table(pa.Table.from_pylist(rows, writer.schema))


def run(engine: str, inputs: Path, model: str) -> tuple[float, float, float]:
    """Seconds, and peak MB of the driver and of the largest of the processes that it starts."""
    output = inputs.parent / "scored"
    shutil.rmtree(output, ignore_errors=True)
    command = ["-m", "edgelstm", "score", str(inputs), "-o", str(output), "--model", model, "--engine", engine]
    arguments = ["-c", LOOP, str(inputs), model] if engine == "loop" else command
    start, peaks = time.perf_counter(), {}
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            for pid in (process.pid, *children(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_mb(pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{engine} ended with exit status {process.returncode}")
    seconds = time.perf_counter() - start
    return seconds, peaks.pop(process.pid), max(peaks.values(), default=0.0)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started, and those that they did."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
        except OSError:
            continue
    return found


def peak_mb(pid: int) -> float:
    """Largest memory so far of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), 0.0)


def main() -> None:
    """Time the engines in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="base")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    inputs = options.folder / f"{options.inputs}.parquet"
    if not inputs.exists():
        write_inputs(inputs, options.inputs)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    found = [{engine: run(engine, inputs, options.model) for engine in options.engines} for _ in range(options.rounds)]
    first = options.engines[0]
    print(f"{options.inputs:,} inputs, {options.rounds} rounds, {len(os.sched_getaffinity(0))} cores\n")
    print(
        f"| | seconds | inputs a second | times {first} | peak MB, driver | largest other |\n|---|---|---|---|---|---|"
    )
    for engine in options.engines:
        seconds = [one[engine][0] for one in found]
        ratio = median(one[first][0] / one[engine][0] for one in found)
        driver, other = (max(one[engine][i] for one in found) for i in (1, 2))
        rate = options.inputs / median(seconds)
        print(f"| {engine} | {median(seconds):.1f} | {rate:,.0f} | {ratio:.2f} | {driver:.0f} | {other:.0f} |")


if __name__ == "__main__":
    main()
