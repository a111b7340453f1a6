"""Rebuild the shipped models from nothing: python tools/build_models.py [--seeds 0 1 2] (make models)

Trains the teachers, then base, small and nano with each seed, taught by them, and base once more by the recipe
early; of each model the seed ships that is nearest the median on the validation images, with the rule for no digit
and the temperature that outliers.py fits. A run that is already there
is gone on with, or taken as it is if it is complete. Every run takes one thread, so that the bits do not hang on the
number of cores; as many run at a time as there are cores. tools/train_on_gpu.py trains the same runs on one GPU.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from outliers import fitted
from seeds import median_seed

from edgelstm.config import FAMILY, n_cores
from edgelstm.contract import Score
from edgelstm.data.mnist import load_mnist, sample_digits
from edgelstm.errors import CheckpointError
from edgelstm.files import sha256_of, write_bytes
from edgelstm.measure.compile import logits_sha256
from edgelstm.native.runner import CRunner
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import STATE_FILE, load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
RUNS = Path("runs") / "models"
EXPORTS: dict[str, dict[str, tuple[str, ...]]] = {
    **{name: {".onnx": (), ".int8.onnx": ("--precision", "int8")} for name in FAMILY},
    "early": {".onnx": ()},
}
"""The files of each shipped model: ending, and how `edgelstm export` writes it."""
TEACHERS = {
    "wide": ("--hidden-size", "256", "--rows-per-step", "2", "--epochs", "80"),
    "deep": ("--hidden-size", "192", "--rows-per-step", "2", "--layers", "2", "--epochs", "80"),
    "tall": ("--hidden-size", "256", "--rows-per-step", "4", "--layers", "2", "--epochs", "80"),
}


def edgelstm(*arguments: str) -> Any:
    """One command of the tool, its progress shown, its JSON returned."""
    print(f"$ edgelstm {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "edgelstm", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def train(folder: Path, *command: str) -> str:
    """Train into a run folder, go on with what is there, or take it if it is complete; returns the command."""
    arguments = ["train", *command, "--bf16", "--threads", "1", "-o", str(folder)]
    with contextlib.suppress(CheckpointError):
        if load_checkpoint(ROOT / folder).test:
            return " ".join(["edgelstm", *arguments])
    edgelstm(*arguments, *(["--resume"] if (ROOT / folder / STATE_FILE).exists() else []))
    return " ".join(["edgelstm", *arguments])


def train_all(seeds: list[int]) -> dict[tuple[str, int], str]:
    """Train the teachers, then each model with each seed; returns the command of each."""
    with ThreadPoolExecutor(n_cores()) as pool:
        lead = [
            pool.submit(train, RUNS / f"teacher-{name}", "base", "--recipe", "best", *shape)
            for name, shape in TEACHERS.items()
        ]
        for run in lead:
            run.result()
        taught = [option for name in TEACHERS for option in ("--teacher", str(RUNS / f"teacher-{name}"))]
        runs = {
            (name, seed): pool.submit(
                train, RUNS / f"{name}-{seed}", name, "--recipe", "best", *taught, "--seed", str(seed)
            )
            for seed in seeds
            for name in FAMILY
        }
        runs["early", seeds[0]] = pool.submit(
            train, RUNS / f"early-{seeds[0]}", "base", "--recipe", "early", *taught, "--seed", str(seeds[0])
        )
        return {key: run.result() for key, run in runs.items()}


def ship(name: str, commands: dict[int, str]) -> dict[str, Any]:
    """Export and verify the seed to ship; returns the model's entry in the manifest."""
    runs = {seed: load_checkpoint(ROOT / RUNS / f"{name}-{seed}") for seed in commands}
    seed = median_seed({seed: _known(run.validation) for seed, run in runs.items()})
    checkpoint = MODELS / f"{name}.safetensors"
    save_checkpoint(checkpoint, fitted(runs[seed]))
    exported = [MODELS / f"{name}{suffix}" for suffix in EXPORTS[name]]
    for suffix, options in EXPORTS[name].items():
        edgelstm("export", f"models/{checkpoint.name}", *options, "-o", f"models/{name}{suffix}")
    verified = [edgelstm("verify", f"models/{model.name}")["passed"] for model in exported]
    int8 = MODELS / f"{name}.int8.onnx"
    return {
        "command": commands[seed],
        "n_parameters": runs[seed].config.n_parameters,
        "validation": _counts(runs[seed].validation),
        "test": _counts(runs[seed].test),
        **({"test_int8": _counts(OrtRunner(int8, provider="cpu").contract.test)} if int8 in exported else {}),
        "seeds": {
            str(other): {"validation": _counts(run.validation), "test": _counts(run.test)}
            for other, run in runs.items()
        },
        "verified": all(verified),
        "c_logits_sha256": c_logits(exported),
        "files": {
            path.name: {"n_bytes": path.stat().st_size, "sha256": sha256_of(path.read_bytes())}
            for path in (checkpoint, *exported)
        },
    }


def c_logits(models: list[Path]) -> dict[str, dict[str, dict[str, str]]]:
    """What the C engine's logits are on every machine: by file, precision and number of test digits, of them the first.

    sha256 of (N, 10) float32, little-endian.
    """
    digits, found = load_mnist("test").sequences, {}
    for model in models:
        for provider in ("c", "c-int8"):
            runner = CRunner(model, provider=provider)
            logits = runner.logits(digits)
            of_first = {str(n): logits_sha256(logits[:n]) for n in (len(digits), len(sample_digits()))}
            found.setdefault(model.name, {})[runner.precision] = of_first
    return found


def _known(score: Score | None) -> Score:
    assert score is not None, "a finished run has its scores"
    return score


def _counts(score: Score | None) -> dict[str, int]:
    return {"n_right": _known(score).n_right, "n": _known(score).n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--trained-by", metavar="COMMAND", help="what trained the runs that are there, for the manifest"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # what is fitted here does not hang on the number of cores either
    commands = {key: args.trained_by or command for key, command in train_all(args.seeds).items()}
    manifest = {
        name: ship(name, {seed: command for (model, seed), command in commands.items() if model == name})
        for name in EXPORTS
    }
    write_bytes(MODELS / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    print(f"wrote {MODELS / 'manifest.json'}")


if __name__ == "__main__":
    main()
