"""The whole path on real digits, with a summary at the end: make demo"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "runs" / "demo"
PICTURE = ROOT / "tests" / "pictures" / "5" / "ql-1234+Handwritten-Digit-Recognition__5.jpg"


def edgelstm(*arguments: str) -> Any:
    """One command of the tool, its progress shown, its JSON returned."""
    print(f"\n$ edgelstm {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "edgelstm", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {done.stdout}")
    return json.loads(done.stdout)


def main() -> None:
    began = time.monotonic()
    run, picture = str(RUN.relative_to(ROOT)), str(PICTURE.relative_to(ROOT))
    trained = edgelstm("train", "-o", run, "--overwrite")
    exported = edgelstm("export", run)
    verified = edgelstm("verify", run)
    read = edgelstm("infer", picture, "--model", run)
    print(f"\n$ edgelstm bench {run} --seconds 6", flush=True)
    subprocess.run([sys.executable, "-m", "edgelstm", "bench", run, "--seconds", "6"], cwd=ROOT, check=True)

    def score(value: dict[str, int]) -> str:
        return f"{value['n_right']:,}/{value['n']:,} ({100 * value['n_right'] / value['n']:.2f} %)"

    parities = [check["parity"] for check in verified["checks"] if check["parity"]]
    n_digits = trained["test"]["n"]  # the digits come first, the random pictures after them
    other = [sum(one["index"] < n_digits for one in parity["disagreements"]) for parity in parities]
    largest = max(parity["max_difference"] for parity in parities)
    print(
        f"""
summary
  training accuracy  {score(trained["train"])} in the last epoch
  test accuracy      {score(trained["test"])}
  exported           {exported["path"]}, {exported["n_bytes"]:,} bytes, {" ".join(exported["operators"])}
  verify             {n_digits - max(other):,}/{n_digits:,} same decisions in each of {len(parities)} comparisons
                     on {verified["evaluation"]}
                     and 256 random pictures, largest difference of two logits {largest:.1e}
  {picture} was read as {read["label"]} ({100 * read["confidence"]:.1f} %)
  bench              the table above
  all of it took     {time.monotonic() - began:.0f} s, without the installation"""
    )


if __name__ == "__main__":
    main()
