"""Shared by all tests: a tiny model with fixed random weights, as a checkpoint and as an exported file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelstm.config import RECIPES, ModelConfig
from edgelstm.contract import EarlyRule, Kind, Precision, Score
from edgelstm.data.dataset import Part
from edgelstm.data.mnist import FILES, sample_digits
from edgelstm.exporting.graph import build_graph, contract_of
from edgelstm.onnx_file import encode
from edgelstm.training.checkpoint import Checkpoint, save_checkpoint
from edgelstm.training.model import RowLstm


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return ModelConfig(hidden_size=8)


def random_checkpoint(config: ModelConfig, spread: float = 0.4, seed: int = 0, name: str = "random") -> Checkpoint:
    """A checkpoint of any shape: weights drawn by NumPy from a fixed seed, the same with every torch version."""
    draw = np.random.default_rng(seed)
    weights = {
        name: torch.from_numpy(draw.normal(0, spread, tuple(weight.shape)).astype(np.float32)).abs_()
        if name == "scale"
        else torch.from_numpy(draw.normal(0, spread, tuple(weight.shape)).astype(np.float32))
        for name, weight in RowLstm(config).state_dict().items()
    }
    return Checkpoint(weights, config, RECIPES["fast"], name, 1, FILES["train", "images"].sha256)


def exported(
    checkpoint: Checkpoint,
    precision: Precision = "fp32",
    kind: Kind = "picture",
    *,
    early: EarlyRule | None = None,
    test: Score | None = None,
) -> bytes:
    """The file that export writes, without its checks."""
    return encode(build_graph(checkpoint, contract_of(checkpoint, precision, kind=kind, early=early, test=test)))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_config: ModelConfig) -> Checkpoint:
    return random_checkpoint(tiny_config, 0.5, seed=2, name="tiny")


@pytest.fixture(scope="session")
def checkpoint_of() -> Callable[[ModelConfig], Checkpoint]:
    """Makes a checkpoint of any shape, with random weights that are the same each time."""
    return random_checkpoint


@pytest.fixture(scope="session")
def model_bytes_of() -> Callable[..., bytes]:
    """Makes a model file of a checkpoint: `exported`."""
    return exported


@pytest.fixture(scope="session")
def tiny_model_bytes(tiny_checkpoint: Checkpoint) -> bytes:
    return exported(tiny_checkpoint)


@pytest.fixture
def tiny_model_path(tiny_model_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model_bytes)
    return path


@pytest.fixture(scope="session")
def sample() -> Part:
    """The 1,000 real digits that ship with the package."""
    return sample_digits()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A tiny model is fastest on one thread, whatever else the machine does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tiny_model_bytes: bytes) -> str:
    """The tiny model's file in the current folder."""
    Path("tiny.onnx").write_bytes(tiny_model_bytes)
    return "tiny.onnx"


@pytest.fixture
def checkpoint(tiny_checkpoint: Checkpoint) -> str:
    """The tiny model's checkpoint in the current folder."""
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    return "tiny.safetensors"
