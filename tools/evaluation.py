"""What the tools that report accuracy share: a model by its name, the digits of a split, a Markdown table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelstm.contract import Logits, Pixels, Runner, in_batches
from edgelstm.data.dataset import Part
from edgelstm.data.mnist import load_dataset, load_mnist
from edgelstm.onnx_file import ONNX_FILE, find_model
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.model import TorchRunner

BATCH_SIZE = 250
SPLITS = ("validation", "test")
"""Choices of --split: recipes may be chosen by validation, test is for reporting."""
MODELS_HELP = "checkpoints (.safetensors), ONNX files, run folders, shipped models' names"


@dataclass(frozen=True)
class NamedModel:
    """A model and what tables call it."""

    name: str
    runner: Runner
    batch_size: int

    def logits(self, pixels: Pixels) -> Logits:
        """(N, rows, cols) -> (N, classes)."""
        return in_batches(self.runner, pixels, self.batch_size)


def load(name: str) -> NamedModel:
    """A checkpoint in torch, or what `edgelstm infer --model` takes in onnxruntime, on the CPU."""
    path = Path(name)
    if path.suffix == ".safetensors":
        return NamedModel(path.stem, TorchRunner(load_checkpoint(path).model()), BATCH_SIZE)
    runner, path = OrtRunner(name, provider="cpu"), find_model(name)
    short = path.parent.name if path.name == ONNX_FILE else path.name.removesuffix(".onnx")
    # int8 picture by picture: onnxruntime scales the activations by the whole batch
    return NamedModel(short, runner, 1 if runner.contract.precision == "int8" else BATCH_SIZE)


def split_digits(split: str) -> Part:
    """The 10,000 test digits, or the 5,000 ``validation`` digits, the last of the training images."""
    return load_mnist("test") if split == "test" else load_dataset().validation


def markdown(head: Sequence[object], rows: Iterable[Sequence[object]], *, right: bool = False) -> str:
    """A Markdown table; ``right`` aligns all columns but the first to the right."""
    rule = ["---", *["---:" if right else "---"] * (len(head) - 1)]
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])
