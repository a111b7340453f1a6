"""Tests of edgelstm.training.fit: steps, rates, averages, and bit-identical repetition on a few real digits."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgelstm.config import RECIPES, AugmentConfig, ModelConfig, TrainConfig
from edgelstm.contract import Score
from edgelstm.errors import TrainingError
from edgelstm.training import fit as fit_module
from edgelstm.training.fit import (
    EpochResult,
    Split,
    StepResult,
    fit,
    learning_rate_at,
    logits_of,
    n_steps,
    score_of,
)
from edgelstm.training.model import new_model
from edgelstm.training.state import averaged_model, new_state

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYTHING = TrainConfig(
    recipe="everything", epochs=3, batch_size=32, learning_rate=4e-3, schedule="onecycle", weight_decay=0.01,
    label_smoothing=0.05, clip_norm=1.0, ema_decay=0.9, augment=AugmentConfig(), log_every=2, seed=7,
)  # fmt: skip
PLAIN = TrainConfig(recipe="plain", epochs=1, batch_size=32, log_every=1)


@pytest.fixture(scope="module")
def splits(sample):
    """200 digits to fit (6 batches of 32 and 8 left over) and 50 to validate."""
    images, labels = torch.from_numpy(sample.sequences.copy()), torch.from_numpy(sample.labels.astype(np.int64))
    return Split(images[:200], labels[:200]), Split(images[200:250], labels[200:250])


def fresh(train, config=None):
    generator = torch.Generator().manual_seed(train.seed)
    return new_state(new_model(config or ModelConfig(hidden_size=8), generator), train)


def trained(train, splits, state=None):
    state = state or fresh(train)
    results = list(fit(state, train, *splits))
    return state, results


def bits(weights):
    return {name: weight.numpy().tobytes() for name, weight in weights.items()}


def without_clock(results):
    return [dataclasses.replace(r, images_per_s=0) if isinstance(r, EpochResult) else r for r in results]


# Steps and rates


def test_the_tutorial_takes_781_steps_of_128_the_classic_100000_samples():
    train = RECIPES["tutorial"]
    assert (train.batch_size, n_steps(train, 55_000)) == (128, 781)


def test_the_last_incomplete_batch_of_an_epoch_is_left_out():
    assert n_steps(EVERYTHING, 200) == 3 * 6


def test_fewer_sequences_than_a_batch_cannot_be_trained_on():
    with pytest.raises(TrainingError, match="too few training sequences: found 31, expected at least one batch of 32"):
        n_steps(EVERYTHING, 31)


def test_a_constant_rate_is_constant():
    assert {1e-3} == {learning_rate_at(step, RECIPES["tutorial"], 781) for step in range(781)}


@pytest.mark.parametrize("total", [1, 2, 5, 100, 3003])
def test_onecycle_rises_over_a_fifth_to_the_full_rate_and_falls_to_nearly_nothing(total):
    train = RECIPES["fast"]
    rates = [learning_rate_at(step, train, total) for step in range(total)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= train.learning_rate for rate in rates)
    assert sorted(rates[: peak + 1]) == rates[: peak + 1]
    assert sorted(rates[peak:], reverse=True) == rates[peak:]
    if total >= 100:
        assert (total // 5, train.learning_rate) == (peak, rates[peak])
        assert rates[0] == pytest.approx(0.04 * train.learning_rate)
        assert rates[-1] < 1e-3 * train.learning_rate, f"the last rate is {rates[-1]}"


def test_the_cosine_is_at_half_the_rate_halfway_down():
    assert RECIPES["fast"].learning_rate / 2 == pytest.approx(learning_rate_at(60, RECIPES["fast"], 100))


def test_the_rates_used_are_those_of_the_schedule(splits):
    results = [r for r in trained(EVERYTHING, splits)[1] if isinstance(r, StepResult)]
    assert [learning_rate_at(r.step - 1, EVERYTHING, 18) for r in results] == [r.learning_rate for r in results]


# What is reported


def test_steps_are_reported_every_so_often_and_epochs_at_their_end(splits):
    results = trained(EVERYTHING, splits)[1]
    assert [r.step for r in results if isinstance(r, StepResult)] == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert [(r.step, r.epoch) for r in results if isinstance(r, EpochResult)] == [(6, 1), (12, 2), (18, 3)]


def test_a_step_belongs_to_its_epoch(splits):
    results = [r for r in trained(EVERYTHING, splits)[1] if isinstance(r, StepResult)]
    assert [r.epoch for r in results] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_an_epoch_reports_the_mean_loss_and_the_right_answers_of_its_steps(splits):
    *steps, epoch = trained(PLAIN, splits)[1]
    assert math.fsum(r.loss for r in steps) / 6 == pytest.approx(epoch.loss)
    assert Score(sum(r.train.n_right for r in steps), 6 * 32) == epoch.train


def test_an_epoch_is_validated_with_the_averaged_weights(splits):
    state = fresh(EVERYTHING)
    *_, epoch = fit(state, dataclasses.replace(EVERYTHING, epochs=1), *splits)
    logits = logits_of(averaged_model(state), splits[1])
    assert bits(state.average) != bits(state.model.state_dict())
    assert logits.tobytes() == epoch.validation_logits.tobytes()
    assert Score(int((logits.argmax(1) == splits[1].labels.numpy()).sum()), 50) == epoch.validation


def test_the_first_loss_is_that_of_the_fresh_model_on_the_first_batch(splits):
    state = fresh(PLAIN)
    model = copy.deepcopy(state.model)
    first = next(fit(state, PLAIN, *splits))
    batch = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:32]  # seed 0, epoch 1
    logits, labels = model(splits[0].sequences[batch]), splits[0].labels[batch]
    assert functional.cross_entropy(logits, labels).item() == pytest.approx(first.loss)
    assert int((logits.argmax(1) == labels).sum()) == first.train.n_right


def test_a_limit_of_samples_ends_the_run_within_an_epoch(splits):
    train = dataclasses.replace(PLAIN, epochs=2, n_samples=8 * 32 + 5)
    results = trained(train, splits)[1]
    epochs = [(r.step, r.epoch, r.train.n) for r in results if isinstance(r, EpochResult)]
    assert epochs == [(6, 1, 6 * 32), (8, 2, 2 * 32)]


def test_training_learns(splits):
    train = dataclasses.replace(PLAIN, epochs=30, learning_rate=0.01)
    state, results = trained(train, splits, fresh(train, ModelConfig(hidden_size=16)))
    score = score_of(logits_of(state.model.eval(), splits[0]), splits[0])
    assert score.accuracy > 0.8, f"{score} of the digits it was trained on, loss {results[-1].loss:.3f}"


# One step by hand


def test_a_plain_step_is_torchs_adam(splits):
    state = fresh(PLAIN)
    model = copy.deepcopy(state.model)
    next(fit(state, PLAIN, *splits))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batch = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:32]
    functional.cross_entropy(model(splits[0].sequences[batch]), splits[0].labels[batch]).backward()
    optimizer.step()
    for name, weight in model.state_dict().items():
        np.testing.assert_allclose(state.model.state_dict()[name], weight, rtol=0, atol=1e-6, err_msg=name)


def test_the_gradient_is_clipped_to_its_largest_norm(splits):
    train = dataclasses.replace(PLAIN, clip_norm=1e-3)
    state = fresh(train)
    next(fit(state, train, *splits))
    norm = torch.cat([weight.grad.flatten() for weight in state.model.parameters()]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_the_gradients_of_a_batchs_shards_add_up_to_that_of_the_batch(splits):
    found = {}
    for shards in (1, 3):  # of 32 sequences: 11, 11 and 10
        train = dataclasses.replace(PLAIN, shards=shards, clip_norm=None, label_smoothing=0.05)
        state = fresh(train)
        first = next(fit(state, train, *splits))
        found[shards] = first, torch.cat([weight.grad.flatten() for weight in state.model.parameters()])
    (one, whole), (three, summed) = found[1], found[3]
    assert (pytest.approx(one.loss, rel=1e-5), one.train) == (three.loss, three.train)
    np.testing.assert_allclose(summed, whole, rtol=0, atol=1e-6)
    assert summed.numpy().tobytes() != whole.numpy().tobytes(), "rounded alike: it was not computed in shards"


def test_the_shards_of_a_batch_are_augmented_each_by_its_own_generator(splits, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        fit_module, "augmented", lambda shown, model, change, generator, labels: drawn.append(generator) or shown
    )
    trained(dataclasses.replace(PLAIN, epochs=1, shards=4, augment=AugmentConfig()), splits)
    assert [drawn[0], drawn[1], drawn[2], drawn[3]] * 6 == drawn
    assert 4 == len({float(torch.rand(1, generator=generator)) for generator in drawn[:4]})


def test_without_decay_the_average_is_the_weights_themselves(splits):
    state = trained(PLAIN, splits)[0]
    assert bits(state.model.state_dict()) == bits(state.average)


def test_the_average_is_an_exponential_one_with_a_short_memory_at_first(splits):
    train = dataclasses.replace(PLAIN, ema_decay=0.3)
    state = fresh(train)
    expected = {name: weight.double().clone() for name, weight in state.average.items()}
    for result in fit(state, train, *splits):
        if isinstance(result, StepResult):
            decay = min(0.3, result.step / (result.step + 10))
            live = state.model.state_dict()
            expected = {name: decay * old + (1 - decay) * live[name] for name, old in expected.items()}
    for name, weight in expected.items():
        np.testing.assert_allclose(state.average[name], weight, rtol=0, atol=1e-6, err_msg=name)


# Repetition


def test_the_same_seed_gives_the_same_bits(splits):
    (first, one), (second, two) = (trained(EVERYTHING, splits) for _ in range(2))
    assert bits(first.model.state_dict()) == bits(second.model.state_dict())
    assert bits(first.average) == bits(second.average)
    assert without_clock(one) == without_clock(two)


def test_torchs_global_seed_changes_nothing(splits):
    torch.manual_seed(1)
    first = trained(EVERYTHING, splits)[0]
    torch.manual_seed(2)
    assert bits(first.average) == bits(trained(EVERYTHING, splits)[0].average)


def test_another_seed_gives_another_order(splits):
    first = fresh(PLAIN)
    second = copy.deepcopy(first)
    one, two = (next(fit(s, dataclasses.replace(PLAIN, seed=n), *splits)) for s, n in ((first, 0), (second, 1)))
    assert one.loss != two.loss


def test_each_epoch_has_an_order_of_its_own(splits):
    train = dataclasses.replace(PLAIN, epochs=2, learning_rate=1e-30)  # the weights stay: only the order differs
    results = [r for r in trained(train, splits)[1] if isinstance(r, StepResult)]
    assert results[0].loss != results[6].loss


def test_each_image_is_seen_at_most_once_an_epoch(splits, monkeypatch):
    seen = []
    monkeypatch.setattr(fit_module, "augmented", lambda shown, *_: seen.append(shown) or shown)
    train = dataclasses.replace(PLAIN, augment=AugmentConfig())
    trained(train, splits)
    names = [image.numpy().tobytes() for image in torch.cat(seen)]
    assert (len(names), len(set(names))) == (192, 192)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_epoch_and_step(splits, value):
    state = fresh(PLAIN)
    results = fit(state, dataclasses.replace(PLAIN, epochs=2), *splits)
    while not isinstance(next(results), EpochResult):
        pass
    next(results)  # step 7, the first of epoch 2
    with torch.no_grad():
        state.model.head.bias[0] = value
    with pytest.raises(TrainingError, match=r"stopped in epoch 2, step 8: found a loss of (nan|inf), .*; lower the"):
        next(results)


def test_scoring_counts_right_answers_whatever_the_batch_size(tiny_checkpoint, splits):
    model = tiny_checkpoint.model()
    with torch.no_grad():
        n_right = int((model(splits[0].sequences).argmax(1) == splits[0].labels).sum())
    scores = {score_of(logits_of(model, splits[0], size), splits[0]) for size in (1, 7, 200, 1000)}
    assert {Score(n_right, 200)} == scores


def test_the_averaged_model_is_a_copy(splits):
    state = fresh(PLAIN)
    before = bits(state.average)
    with torch.no_grad():
        averaged_model(state).head.bias += 1
    assert before == bits(state.average)


def test_bf16_multiplies_otherwise_but_learns_the_same(sample):
    states = []
    for bf16 in (False, True):
        train = dataclasses.replace(RECIPES["fast"], epochs=1, batch_size=50, bf16=bf16)
        state = new_state(new_model(ModelConfig(hidden_size=8), torch.Generator().manual_seed(0)), train)
        split = Split(
            torch.from_numpy(sample.sequences[:200].copy()), torch.from_numpy(sample.labels[:200].astype("int64"))
        )
        list(fit(state, train, split, split))
        states.append(state.model.head.weight)
    difference = (states[0] - states[1]).abs().max().item()
    assert 0 < difference < 0.05, difference
    assert states[1].dtype == torch.float32


# The loss at every step


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_step_loss_is_the_mean_over_all_steps_of_the_same_batch(splits, share):
    train = dataclasses.replace(PLAIN, step_loss=share, label_smoothing=0.05, n_samples=32)
    model = copy.deepcopy(fresh(train).model)
    _, (first, *_) = trained(train, splits)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(train.seed * 1_000_003 + 1))[:32]
    with torch.no_grad():
        by_step = model.logits_by_step(splits[0].sequences[order])
    losses = [functional.cross_entropy(logits, splits[0].labels[order], label_smoothing=0.05) for logits in by_step]
    expected = (1 - share) * losses[-1] + share * sum(losses) / 28
    assert float(expected) == pytest.approx(first.loss, rel=1e-5)
    assert abs(float(losses[-1]) - first.loss) > 1e-4, "the last step's loss alone would pass too"


def test_training_every_step_makes_the_early_answers_better(splits):
    plain = dataclasses.replace(PLAIN, epochs=25, learning_rate=1e-2)
    right = {}
    for share in (0.0, 0.5):
        state, _ = trained(dataclasses.replace(plain, step_loss=share), splits)
        with torch.no_grad():
            by_step = averaged_model(state).logits_by_step(splits[0].sequences)
        right[share] = int((by_step[15].argmax(1) == splits[0].labels).sum())
    assert right[0.5] > right[0.0] + 20, right


# Few sequences, and unequal ones

UNEQUAL = ModelConfig(
    rows=12, cols=3, hidden_size=8, class_names=("a", "b"), preparation="values", variable_length=True
)
FEW = TrainConfig(recipe="few", epochs=2, passes=5, batch_size=16, log_every=1, augment=None)


def unequal(n=40, padding=0.0):
    """Sequences of 1 to 12 rows; what lies behind their ends is ``padding``."""
    draw = np.random.default_rng(0)
    lengths = torch.from_numpy(draw.integers(1, 13, n).astype(np.int32))
    values = torch.from_numpy(draw.normal(0, 1, (n, 12, 3)).astype(np.float32))
    values[torch.arange(12)[None] >= lengths[:, None]] = padding
    return Split(values, torch.from_numpy(draw.integers(0, 2, n)), lengths)


def test_few_sequences_are_passed_over_several_times_an_epoch_each_once_a_pass(monkeypatch):
    seen = []
    monkeypatch.setattr(fit_module, "augmented", lambda shown, *_: seen.append(shown) or shown)
    sequences = torch.arange(40.0).reshape(40, 1, 1).expand(40, 12, 3)
    split = Split(sequences, torch.zeros(40, dtype=torch.int64))
    train = dataclasses.replace(FEW, epochs=1, augment=AugmentConfig())
    config = ModelConfig(rows=12, cols=3, hidden_size=4, class_names=("a", "b"), preparation="values")
    *steps, epoch = trained(train, (split, split), fresh(train, config))[1]
    passes = [torch.cat(seen[at : at + 2])[:, 0, 0].tolist() for at in range(0, 10, 2)]
    assert (10, 10, 160) == (len(steps), n_steps(train, 40), epoch.train.n)
    assert [32] * 5 == [len(set(one)) for one in passes], "a pass shows a sequence twice"
    assert len(set(map(tuple, passes))) == 5, "each pass has an order of its own"


@pytest.mark.parametrize("step_loss", [0.0, 0.5])
def test_what_lies_behind_the_end_of_a_sequence_changes_no_bit(step_loss):
    train = dataclasses.replace(FEW, step_loss=step_loss)
    found = [trained(train, (unequal(padding=padding),) * 2, fresh(train, UNEQUAL)) for padding in (0.0, 1e3)]
    assert bits(found[0][0].model.state_dict()) == bits(found[1][0].model.state_dict())
    assert without_clock(found[0][1]) == without_clock(found[1][1])


def test_the_step_loss_of_unequal_sequences_is_the_mean_over_the_rows_that_they_have():
    train, split = dataclasses.replace(FEW, batch_size=40, passes=1, epochs=1, step_loss=0.25), unequal()
    model = copy.deepcopy(fresh(train, UNEQUAL).model)
    first = trained(train, (split, split), fresh(train, UNEQUAL))[1][0]
    ends, every = [], []
    for values, label, length in zip(split.sequences, split.labels, split.lengths, strict=True):
        with torch.no_grad():
            steps = model.logits_by_step(values[None, : int(length)])[:, 0]
        losses = [functional.cross_entropy(logits, label).item() for logits in steps]
        ends.append(losses[-1])
        every += losses
    assert 0.75 * np.mean(ends) + 0.25 * np.mean(every) == pytest.approx(first.loss, rel=1e-5)
