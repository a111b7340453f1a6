"""What a model says of MNIST digits, for the tools that report on models."""

from dataclasses import dataclass
from pathlib import Path

from edgelstm.config import N_VALIDATION
from edgelstm.contract import Logits, Pixels, Runner, in_batches
from edgelstm.data.mnist import Digits, load_mnist
from edgelstm.runtime.runner import OrtRunner, find_model
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.model import TorchRunner

BATCH_SIZE = 250


@dataclass(frozen=True)
class Answering:
    """A model by its name, ready to answer."""

    name: str
    runner: Runner
    batch_size: int

    def logits(self, pixels: Pixels) -> Logits:
        """(N, 28, 28) -> (N, 10); int8 is asked image by image, because its logits depend on the batch."""
        return in_batches(self.runner, pixels, self.batch_size)


def load(name: str) -> Answering:
    """A checkpoint (.safetensors, in torch), or what `edgelstm infer --model` takes (in onnxruntime, on the CPU)."""
    path = Path(name)
    if path.suffix == ".safetensors":
        return Answering(path.stem, TorchRunner(load_checkpoint(path).model()), BATCH_SIZE)
    runner = OrtRunner(name, provider="cpu")
    path = find_model(name)
    short = path.parent.name if path.name == "model.onnx" else path.name.removesuffix(".onnx")
    return Answering(short, runner, 1 if runner.contract.precision == "int8" else BATCH_SIZE)


def split_digits(split: str) -> Digits:
    """The 10,000 test digits, or the 5,000 ``validation`` digits, which recipes may be chosen by."""
    if split == "test":
        return load_mnist("test")
    train = load_mnist("train")
    part = slice(-N_VALIDATION, None)
    return Digits(train.images[part], train.labels[part], "the last 5,000 MNIST training images")
