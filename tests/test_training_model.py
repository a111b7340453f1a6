"""Tests of edgelstm.training.model: rows are steps, fresh weights are as promised, the runner is safe."""

import numpy as np
import pytest
import torch

from edgelstm.config import ModelConfig
from edgelstm.training.model import RowLstm, TorchRunner, new_model, numpy_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(model, pixels):
    """torch's documented LSTM equations (torch.nn.LSTM), step by step on one picture, in float64."""
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    h = c = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    for row in torch.from_numpy(pixels / 255.0):
        gates = (
            weights["lstm.weight_ih_l0"] @ row
            + weights["lstm.bias_ih_l0"]
            + weights["lstm.weight_hh_l0"] @ h
            + weights["lstm.bias_hh_l0"]
        )
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return (weights["head.weight"] @ h + weights["head.bias"]).numpy()


def test_logits_are_the_published_lstm_equations_over_the_rows_from_top_to_bottom(tiny_checkpoint, sample):
    found = TorchRunner(tiny_checkpoint.model()).logits(sample.sequences[:3])
    expected = np.stack([by_hand(tiny_checkpoint.model(), picture) for picture in sample.sequences[:3]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_several_rows_a_step_stand_side_by_side_in_reading_order(sample):
    """Two rows of 28 are one step of 56: the same model on the picture reshaped to 14 x 56."""
    config = ModelConfig(rows_per_step=2, hidden_size=8)
    wide = ModelConfig(rows=14, cols=56, hidden_size=8)
    model, other = new_model(config, seeded()), RowLstm(wide)
    other.load_state_dict(model.state_dict())
    images = sample.sequences[:5]
    expected = TorchRunner(other).logits(images.reshape(5, 14, 56))
    assert np.array_equal(expected, TorchRunner(model).logits(images))


def test_a_picture_is_decided_alone_whatever_its_batch(tiny_checkpoint, sample):
    runner = TorchRunner(tiny_checkpoint.model())
    alone = np.concatenate([runner.logits(sample.sequences[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(runner.logits(sample.sequences[:20]), alone, rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_fresh_weights():
    first, second = (new_model(ModelConfig(hidden_size=8), seeded(5)).state_dict() for _ in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_another_seed_gives_other_fresh_weights():
    first, second = (new_model(ModelConfig(hidden_size=8), seeded(seed)).state_dict() for seed in (5, 6))
    same = [name for name in first if torch.equal(first[name], second[name])]
    assert same == ["lstm.bias_ih_l0", "lstm.bias_hh_l0"]


def test_fresh_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    first = new_model(ModelConfig(hidden_size=8), seeded(5)).state_dict()
    torch.manual_seed(2)
    second = new_model(ModelConfig(hidden_size=8), seeded(5)).state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, 2.5])
def test_only_the_forget_gate_has_a_bias(forget_bias):
    weights = new_model(ModelConfig(hidden_size=4, n_layers=2), seeded(), forget_bias=forget_bias).state_dict()
    expected = [0.0] * 4 + [forget_bias] * 4 + [0.0] * 8  # torch's gates: input, forget, cell, output
    for layer in (0, 1):
        assert expected == (weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]).tolist()


def test_recurrence_weights_are_orthogonal_for_each_gate():
    weight = new_model(ModelConfig(hidden_size=16), seeded()).lstm.weight_hh_l0.detach()
    for gate in weight.split(16):
        np.testing.assert_allclose(gate @ gate.T, np.eye(16), atol=1e-5)


def test_input_weights_are_glorot_uniform():
    weight = new_model(ModelConfig(hidden_size=64), seeded()).lstm.weight_ih_l0.detach()
    bound = (6 / (28 + 256)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    np.testing.assert_allclose(weight.std(), bound / 3**0.5, rtol=0.03)


def test_the_classic_exercises_linear_layer_is_normal_with_deviation_one():
    model = new_model(ModelConfig(hidden_size=512), seeded(), normal_head=True)
    np.testing.assert_allclose(model.head.weight.std().item(), 1, rtol=0.05)
    assert model.head.bias.abs().max() > 0.5, f"largest bias {model.head.bias.abs().max()}"


def test_the_usual_linear_layer_is_torchs_uniform():
    model = new_model(ModelConfig(hidden_size=100), seeded())
    assert 0.09 < model.head.weight.abs().max() <= 0.1


def test_the_runner_takes_read_only_pixels_without_a_warning(tiny_checkpoint, sample):
    pixels = sample.sequences[:2].copy()
    expected = TorchRunner(tiny_checkpoint.model()).logits(pixels)
    pixels.flags.writeable = False
    assert np.array_equal(expected, TorchRunner(tiny_checkpoint.model()).logits(pixels))


def test_the_runner_refuses_pixels_of_another_shape(tiny_checkpoint):
    with pytest.raises(ValueError, match=r"found uint8 \(1, 27, 28\), expected uint8 \(batch, 28, 28\)"):
        TorchRunner(tiny_checkpoint.model()).logits(np.zeros((1, 27, 28), np.uint8))


def test_weights_become_numpy_arrays_without_a_change(tiny_checkpoint):
    found = numpy_weights(tiny_checkpoint.weights)
    assert {name: weight.tolist() for name, weight in tiny_checkpoint.weights.items()} == {
        name: weight.tolist() for name, weight in found.items()
    }


@pytest.mark.parametrize(("rows_per_step", "n_layers"), [(1, 1), (4, 2)])
def test_the_logits_of_a_step_are_those_of_a_picture_that_ends_there(rows_per_step, n_layers):
    config = ModelConfig(hidden_size=6, rows_per_step=rows_per_step, n_layers=n_layers)
    model = new_model(config, torch.Generator().manual_seed(0))
    pixels = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    by_step = model.logits_by_step(pixels)
    assert (config.n_steps, 5, 10) == by_step.shape
    torch.testing.assert_close(model(pixels), by_step[-1])
    shorter = RowLstm(ModelConfig(rows=8, hidden_size=6, rows_per_step=rows_per_step, n_layers=n_layers))
    shorter.load_state_dict(model.state_dict())
    torch.testing.assert_close(shorter(pixels[:, :8]), by_step[8 // rows_per_step - 1])
