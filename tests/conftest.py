"""Shared by all tests: a tiny model with fixed random weights, as a checkpoint and as an exported file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelstm.config import RECIPES, ModelConfig
from edgelstm.data.mnist import Digits, sample_digits
from edgelstm.export.graph import build_model
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import RowLstm


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return ModelConfig(hidden_size=8)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_config: ModelConfig) -> Checkpoint:
    """Random weights from a fixed seed, drawn by NumPy: the same with every torch version."""
    draw = np.random.default_rng(2)
    weights = {
        name: torch.from_numpy(draw.normal(0, 0.5, tuple(weight.shape)).astype(np.float32))
        for name, weight in RowLstm(tiny_config).state_dict().items()
    }
    return Checkpoint(
        weights=weights, config=tiny_config, train=RECIPES["fast"], name="tiny", epoch=1, data_sha256="0" * 64
    )


@pytest.fixture(scope="session")
def checkpoint_of() -> Callable[[ModelConfig], Checkpoint]:
    """Makes a checkpoint of any shape, with random weights that are the same each time."""

    def make(config: ModelConfig) -> Checkpoint:
        draw = np.random.default_rng(0)
        weights = {
            name: torch.from_numpy(draw.normal(0, 0.4, tuple(weight.shape)).astype(np.float32))
            for name, weight in RowLstm(config).state_dict().items()
        }
        return Checkpoint(weights, config, RECIPES["fast"], "random", 1, "0" * 64)

    return make


@pytest.fixture(scope="session")
def tiny_model_bytes(tiny_checkpoint: Checkpoint) -> bytes:
    return build_model(tiny_checkpoint).SerializeToString(deterministic=True)


@pytest.fixture
def tiny_model_path(tiny_model_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model_bytes)
    return path


@pytest.fixture(scope="session")
def sample() -> Digits:
    """The 1,000 real digits that ship with the package."""
    return sample_digits()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A tiny model is fastest on one thread, whatever else the machine does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
