"""Keep and read back a training run: safetensors weights with JSON beside them in the same file."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from edgelstm.config import ModelConfig, TrainConfig, model_config_from, train_config_from
from edgelstm.contract import ModelContract, Score
from edgelstm.errors import CheckpointError
from edgelstm.files import write_bytes
from edgelstm.training.model import RowLstm, numpy_weights

FORMAT = "edgelstm-checkpoint-1"
MODEL_FILE = "model.safetensors"
"""The trained weights of a run: what is exported."""
STATE_FILE = "state.safetensors"
"""Everything needed to go on training: weights, average, optimizer, history."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights with all that is known of them."""

    weights: Tensors
    config: ModelConfig
    train: TrainConfig
    name: str
    epoch: int
    """Epochs behind these weights."""
    data_sha256: str
    validation: Score | None = None
    test: Score | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0
    """Fitted to the validation logits; see `edgelstm.runtime.calibration`."""

    def model(self) -> RowLstm:
        """A RowLstm with these weights, in evaluation mode."""
        model = RowLstm(self.config)
        model.load_state_dict(self.weights)
        return model.eval()

    @property
    def weights_sha256(self) -> str:
        """sha256 over names, shapes and bytes of the tensors: equal weights, equal digest."""
        digest = hashlib.sha256()
        for name, weight in sorted(numpy_weights(self.weights).items()):
            digest.update(f"{name} {weight.shape} {weight.dtype}\n".encode())
            digest.update(np.ascontiguousarray(weight).tobytes())
        return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write weights and JSON as one safetensors file, whole or not at all.

    Raises OutputError if the file cannot be written.
    """
    values = dataclasses.asdict(dataclasses.replace(checkpoint, weights={}))
    del values["weights"]
    save_tensors(path, checkpoint.weights, values)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file, or the ``model.safetensors`` of a run folder.

    Raises CheckpointError if it is missing, damaged, or a weight is missing, unexpected or misshaped.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL_FILE
    tensors, values = load_tensors(path)
    if path.name == STATE_FILE:
        raise CheckpointError(
            f"{path} is the state to resume a run from", expected=f"the weights, {path.with_name(MODEL_FILE)}"
        )
    try:
        for key in ("validation", "test"):
            values[key] = Score(**values[key]) if values[key] else None
        values["config"] = model_config_from(values["config"])
        values["train"] = train_config_from(values["train"])
        checkpoint = Checkpoint(weights=tensors, **values)
        ModelContract(
            checkpoint.config, checkpoint.name, versions=checkpoint.versions, temperature=checkpoint.temperature
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} has damaged metadata",
            found=f"{type(error).__name__}: {error}",
            expected="what `edgelstm train` writes",
            fix="train again or take another checkpoint",
        ) from error
    with torch.device("meta"):  # shapes only: a config may claim any size
        expected = RowLstm(checkpoint.config).state_dict()
    check_weights(path, tensors, expected)
    return checkpoint


def check_weights(path: Path, found: Tensors, expected: Tensors) -> None:
    """Raise CheckpointError unless names and shapes are equal; the message names each difference."""
    problems = [f"no weight {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected weight {name}" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        has, wants = found[name], expected[name]
        if has.shape != wants.shape or has.dtype != wants.dtype:
            problems.append(
                f"weight {name} is {has.dtype} {tuple(has.shape)} instead of {wants.dtype} {tuple(wants.shape)}"
            )
    if problems:
        raise CheckpointError(
            f"{path} does not hold the weights of its own config",
            found=", ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else ""),
            fix="take an undamaged checkpoint or train again",
        )


def save_tensors(path: Path, tensors: Tensors, values: dict[str, Any]) -> None:
    """One safetensors file: tensors, and ``values`` as JSON in its header."""
    # one key: safetensors writes several in random order, and equal runs shall give equal bytes
    header = {FORMAT: json.dumps(values, sort_keys=True)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata=header))


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the JSON values of a file that ``save_tensors`` wrote."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}", fix="train one with `edgelstm train`")
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
        if FORMAT not in header:
            raise CheckpointError(
                f"{path} is not a checkpoint of this version", found=", ".join(header) or "no metadata",
                expected=FORMAT, fix="take a file written by `edgelstm train`",
            )  # fmt: skip
        values = json.loads(header[FORMAT])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint",
            found=str(error),
            expected="a safetensors file written by `edgelstm train`",
            fix="train again or take another checkpoint",
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} has damaged metadata", found=type(values).__name__, expected="an object")
    return tensors, values
