"""Rebuild the shipped models from nothing: python tools/build_models.py [--seed N] (make models)

Trains each with the recipe `best` into runs/models/, exports, verifies, and writes models/ with its manifest.
A run that is already there is gone on with, or taken as it is if it is complete.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgelstm.files import sha256_of, write_bytes
from edgelstm.runtime import OrtRunner
from edgelstm.training.checkpoint import STATE_FILE

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
SHIPPED = ("base",)


def edgelstm(*arguments: str) -> Any:
    """One command of the tool, its progress shown, its JSON returned."""
    print(f"$ edgelstm {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "edgelstm", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def build(name: str, seed: int) -> dict[str, Any]:
    """Train, export and verify one model; returns its entry in the manifest."""
    run = Path("runs") / "models" / f"{name}-{seed}"
    command = ["train", name, "--recipe", "best", "--seed", str(seed), "--threads", "1", "-o", str(run)]
    edgelstm(*command, *(["--resume"] if (ROOT / run / STATE_FILE).exists() else []))
    checkpoint, model, int8 = (MODELS / f"{name}{suffix}" for suffix in (".safetensors", ".onnx", ".int8.onnx"))
    write_bytes(checkpoint, (ROOT / run / "model.safetensors").read_bytes())
    edgelstm("export", f"models/{name}.safetensors")
    edgelstm("export", f"models/{name}.safetensors", "--precision", "int8")
    verified = [edgelstm("verify", f"models/{file}")["passed"] for file in (model.name, int8.name)]
    contract = OrtRunner(model, provider="cpu").contract
    assert contract.validation is not None, "a finished run has its validation score"
    assert contract.test is not None, "a finished run has its test score"
    of_int8 = OrtRunner(int8, provider="cpu").contract.test
    assert of_int8 is not None, "export counts it"
    return {
        "command": " ".join(["edgelstm", *command[:-2]]),
        "n_parameters": contract.config.n_parameters,
        "validation": {"n_right": contract.validation.n_right, "n": contract.validation.n},
        "test": {"n_right": contract.test.n_right, "n": contract.test.n},
        "test_int8": {"n_right": of_int8.n_right, "n": of_int8.n},
        "verified": all(verified),
        "files": {
            path.name: {"n_bytes": path.stat().st_size, "sha256": sha256_of(path.read_bytes())}
            for path in (checkpoint, model, int8)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    manifest = {name: build(name, seed) for name in SHIPPED}
    write_bytes(MODELS / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    print(f"wrote {MODELS / 'manifest.json'}")


if __name__ == "__main__":
    main()
