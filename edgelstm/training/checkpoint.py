"""Keep and read back trained weights: a safetensors file with JSON beside them in its header."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch

from edgelstm.config import (
    MAX_EPOCHS,
    MAX_NAME,
    ModelConfig,
    TrainConfig,
    is_text,
    model_config_from,
    train_config_from,
)
from edgelstm.contract import NoDigitRule, Score, check_no_digit, check_ranges, check_temperature, no_digit_from
from edgelstm.errors import CheckpointError
from edgelstm.files import write_bytes
from edgelstm.training.model import RowLstm, numpy_weights

FORMAT = "edgelstm-checkpoint-1"
CHECKPOINT_FILE = "model.safetensors"
"""The trained weights of a run: what is exported."""
STATE_FILE = "state.safetensors"
"""Everything needed to go on training: weights, average, optimizer, history."""
MAX_HEADER = 2**20
"""Bytes; a header of ours has a few thousand, and what it claims costs memory before it can be checked."""

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Values = TypeVar("Values")


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights with all that is known of them."""

    weights: Tensors
    """float32, by their names in a RowLstm."""
    config: ModelConfig
    train: TrainConfig
    name: str
    epoch: int
    """Epochs behind these weights."""
    data_sha256: str
    """Of the data that it was trained on: of MNIST, of the file of the training images."""
    validation: Score | None = None
    test: Score | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0
    """Fitted to the validation logits; see `edgelstm.runtime.calibration`."""
    ranges: tuple[tuple[float, float], ...] = ()
    """Smallest and largest value of each column in the training split; empty for pixels."""
    no_digit: NoDigitRule | None = None
    """Fitted by `tools/outliers.py`; None if nothing was."""

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

    Raises CheckpointError if it is missing, damaged, or a weight is missing, unexpected, misshaped or not finite.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT_FILE
    if path.name == STATE_FILE and path.is_file():
        expected = f"the weights, {path.with_name(CHECKPOINT_FILE)}"
        raise CheckpointError(f"{path} is the state to resume a run from", expected=expected)
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path} is an exported model", expected="a checkpoint (.safetensors) or a run folder")
    checkpoint, weights = load_tensors(path, _checkpoint_from)
    return dataclasses.replace(checkpoint, weights=weights)


def _checkpoint_from(values: dict[str, Any]) -> tuple[Checkpoint, Shapes]:
    """A checkpoint without its weights, and their shapes."""
    for key in ("validation", "test"):
        values[key] = Score(**values[key]) if values[key] else None
    values["config"] = model_config_from(values["config"])
    values["train"] = train_config_from(values["train"])
    values["ranges"] = tuple(tuple(limits) for limits in values.get("ranges", ()))
    values["no_digit"] = no_digit_from(values.get("no_digit"))
    checkpoint = Checkpoint(weights={}, **values)
    check_run(checkpoint.name, checkpoint.epoch, MAX_EPOCHS)
    versions = checkpoint.versions
    texts = (checkpoint.data_sha256, *versions.keys(), *versions.values())
    if len(texts) > 100 or not all(is_text(text) for text in texts):
        raise ValueError(f"data_sha256 or versions: found something else than texts of at most {MAX_NAME} characters")
    check_temperature(checkpoint.temperature)
    check_ranges(checkpoint.ranges, checkpoint.config)
    check_no_digit(checkpoint.no_digit, checkpoint.config)
    return checkpoint, weight_shapes(checkpoint.config)


def check_run(name: object, epoch: object, most: int) -> None:
    """Raise ValueError unless the name fits one line of a terminal and the epoch is one from 0 to ``most``."""
    if not is_text(name):
        raise ValueError(f"name: found something else than a text of at most {MAX_NAME} characters")
    if type(epoch) is not int or not 0 <= epoch <= most:
        raise ValueError(f"epoch: found {epoch!r:.100}, expected a whole number from 0 to {most:,}")


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a RowLstm, by name; allocates nothing."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in RowLstm(config).state_dict().items()}


def save_tensors(path: Path, tensors: Tensors, values: dict[str, Any]) -> None:
    """One safetensors file: tensors, and ``values`` as JSON in its header. Raises OutputError."""
    # one key: safetensors writes several in random order, and equal runs shall give equal bytes
    header = {FORMAT: json.dumps(values, sort_keys=True)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata=header))


def load_tensors(path: Path, values_from: Callable[[dict[str, Any]], tuple[Values, Shapes]]) -> tuple[Values, Tensors]:
    """What ``save_tensors`` wrote: the values, as ``values_from`` makes them of JSON, and the float32 tensors.

    ``values_from`` raises ValueError, TypeError, KeyError or AttributeError for values that no run writes, and gives
    the shapes that tensors must have to be read, so that a file costs neither time nor memory for what it only
    claims. Raises CheckpointError for whatever is wrong with the file.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}", fix="train one with `edgelstm train`")
    fix = "train again, with --overwrite into the same folder, or take another checkpoint"
    try:
        with path.open("rb") as head:
            n_bytes = int.from_bytes(head.read(8), "little")
        if n_bytes > MAX_HEADER:
            raise OSError(f"a header of {n_bytes:,} bytes")
        with safetensors.safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            if FORMAT not in header:
                raise CheckpointError(
                    f"{path} is not a checkpoint of this version", found=", ".join(header) or "no metadata",
                    expected=FORMAT, fix="take a file written by `edgelstm train`",
                )  # fmt: skip
            read = json.loads(header[FORMAT])
            if not isinstance(read, dict):
                raise TypeError(f"{type(read).__name__} instead of an object")
            values, shapes = values_from(read)
            _check_shapes(path, stream, shapes)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError) as error:
        what, expected = f"{path} cannot be read as a checkpoint", "a safetensors file written by `edgelstm train`"
        raise CheckpointError(what, found=error, expected=expected, fix=fix) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what, found = f"{path} has damaged metadata", f"{type(error).__name__}: {error}"
        raise CheckpointError(what, found=found, expected="what `edgelstm train` writes", fix=fix) from error
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{path} holds numbers that are not finite", found=", ".join(broken[:5]), fix=fix)
    return values, tensors


def _check_shapes(path: Path, stream: Any, expected: Shapes) -> None:
    """Raise CheckpointError unless names and shapes are equal; the message names each difference."""
    found = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    problems = [f"no weight {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected weight {name}" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        dtype, shape = found[name].get_dtype(), tuple(found[name].get_shape())
        if (dtype, shape) != ("F32", expected[name]):
            problems.append(f"weight {name} is {dtype} {shape} instead of F32 {expected[name]}")
    if problems:
        named = ", ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
        what, fix = f"{path} does not hold the weights of its own config", "take an undamaged checkpoint or train again"
        raise CheckpointError(what, found=named, fix=fix)
