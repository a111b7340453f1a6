"""Tests of tools/train_on_gpu.py: its steps are those of edgelstm.training.fit, its runs those of build_models.py."""

import dataclasses

import pytest
import torch
import train_on_gpu
from build_models import TEACHERS

from edgelstm.config import OTHER_HANDS, ModelConfig, TrainConfig
from edgelstm.training.fit import EpochResult, Split, fit
from edgelstm.training.model import new_model
from edgelstm.training.state import new_state

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = TrainConfig(
    recipe="test", epochs=3, batch_size=32, learning_rate=0.01, schedule="onecycle", weight_decay=0.01, clip_norm=1.0,
    ema_decay=0.9, seed=7, threads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def split(sample):
    return Split(torch.from_numpy(sample.sequences[:200].copy()), torch.from_numpy(sample.labels[:200].astype("int64")))


class Taught:
    """A teacher of made-up logits, another for each epoch."""

    def copy_for(self, epoch):
        draw = torch.Generator().manual_seed(epoch)
        return torch.randint(0, 256, (200, 28, 28), generator=draw, dtype=torch.uint8), torch.randn(
            200, 10, generator=draw
        )


def trained(fit_function, train, split, teacher, device="cpu"):
    split = Split(split.sequences.to(device), split.labels.to(device))
    model = new_model(ModelConfig(hidden_size=8), torch.Generator().manual_seed(train.seed)).to(device)
    state = new_state(model, train)
    results = [r for r in fit_function(state, train, split, split, teacher) if isinstance(r, EpochResult)]
    return state, results


@pytest.mark.parametrize("teacher", [None, Taught()], ids=["labels", "taught"])
@pytest.mark.parametrize("changes", [{}, {"step_loss": 0.5}, {"label_smoothing": 0.1, "clip_norm": None}])
def test_its_steps_are_those_of_the_package(split, teacher, changes):
    train = dataclasses.replace(PLAIN, **changes)
    (expected, results), (found, same) = (
        trained(function, train, split, teacher) for function in (fit, train_on_gpu.graph_fit)
    )
    for one, other in zip(results, same, strict=True):
        assert (one.step, one.epoch, one.train) == (other.step, other.epoch, other.train)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, rtol=1e-4, atol=1e-6)


def test_pictures_are_changed_anew_in_each_epoch(split):
    train = dataclasses.replace(PLAIN, augment=OTHER_HANDS, learning_rate=1e-30, ema_decay=0.0)
    losses = [result.loss for result in trained(train_on_gpu.graph_fit, train, split, None)[1]]
    assert len(set(losses)) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_a_captured_step_is_the_step(split):
    train = dataclasses.replace(PLAIN, epochs=2)
    (_, expected), (_, found) = (
        trained(train_on_gpu.graph_fit, train, split, None, device) for device in ("cpu", "cuda")
    )
    for one, other in zip(expected, found, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_has_the_shape_and_epochs_that_build_models_asks_for(name):
    config, train = train_on_gpu.teacher_settings(name)
    asked = TEACHERS[name]
    assert str(config.hidden_size) == asked[asked.index("--hidden-size") + 1]
    assert str(config.n_layers) == (asked[asked.index("--layers") + 1] if "--layers" in asked else "1")
    assert (80, OTHER_HANDS) == (train.epochs, train.augment)
