"""The training loop: forward, loss, backward, step. It yields what happened and prints nothing."""

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from edgelstm.config import TrainConfig
from edgelstm.contract import Logits, Score
from edgelstm.errors import TrainingError
from edgelstm.training.augment import augmented
from edgelstm.training.distill import TeacherLogits, distillation_loss
from edgelstm.training.distributed import ALONE, Group
from edgelstm.training.model import RowLstm
from edgelstm.training.state import TrainState, averaged_model

SEED_STRIDE = 1_000_003
"""A prime above the largest number of epochs: no two pairs of seed and epoch share a random generator's seed."""


@dataclass(frozen=True)
class Split:
    """Sequences and labels on the training device."""

    sequences: torch.Tensor
    """(N, R, C) uint8 or float32."""
    labels: torch.Tensor
    """(N,) int64."""
    lengths: torch.Tensor | None = None
    """(N,) int32 rows of each, where they differ."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, reported every ``log_every`` steps."""

    step: int
    """Steps done since the run began."""
    epoch: int
    """The epoch it belongs to, from 1."""
    loss: float
    train: Score
    """Right answers in this step's batch, before the step."""
    learning_rate: float


@dataclass(frozen=True)
class EpochResult:
    """One epoch: a pass over the training sequences, or several if they are few."""

    step: int
    epoch: int
    loss: float
    """Mean over the epoch's steps."""
    train: Score
    """Right answers while training, as each batch came."""
    validation: Score
    """By the weights that would be exported now."""
    images_per_s: float
    validation_logits: Logits = dataclasses.field(repr=False, compare=False)
    """(N, classes) of the validation sequences, by the same weights; not logged."""


def steps_per_epoch(train: TrainConfig, n: int) -> int:
    """Optimizer steps of an epoch of ``n`` sequences; the last incomplete batch of each pass is left out."""
    if n < train.batch_size:
        expected = f"at least one batch of {train.batch_size}"
        raise TrainingError("too few training sequences", found=n, expected=expected)
    return train.passes * (n // train.batch_size)


def n_steps(train: TrainConfig, n: int) -> int:
    """Optimizer steps of the whole run."""
    steps = train.epochs * steps_per_epoch(train, n)
    return min(steps, train.n_samples // train.batch_size) if train.n_samples else steps


def learning_rate_at(step: int, train: TrainConfig, total: int) -> float:
    """The rate of step 0, 1, ... of ``total``: constant, or up over a fifth and down a cosine to 0."""
    if train.schedule == "constant":
        return train.learning_rate
    warmup = max(1, total // 5)
    if step < warmup:
        return train.learning_rate * (0.04 + 0.96 * step / warmup)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def fit(
    state: TrainState, train: TrainConfig, fitting: Split, validation: Split, teacher: TeacherLogits | None = None,
    group: Group = ALONE,
) -> Iterator[StepResult | EpochResult]:  # fmt: skip
    """Train ``state`` in place from the epoch it stands at, on the labels or on the logits of ``teacher``.

    Yields a StepResult every ``log_every`` steps and an EpochResult after each epoch, when ``state``
    may be saved. Each epoch draws its order and augmentation from its own generators, seeded by
    (seed, epoch, shard), so a run that goes on from a saved epoch ends with the very same bits, and so does
    one whose shards other processes of a ``group`` compute. Raises TrainingError if the loss stops being finite.
    """
    total = n_steps(train, len(fitting))
    each = steps_per_epoch(train, len(fitting))
    live = state.model.state_dict()
    step = state.epoch * each
    while step < total:
        generator = torch.Generator().manual_seed(train.seed * SEED_STRIDE + state.epoch + 1)
        batches: list[torch.Tensor] = []
        for _ in range(train.passes):
            order = torch.randperm(len(fitting), generator=generator).split(train.batch_size)
            batches += order[: each // train.passes]
        batches = batches[: total - step]
        sequences, taught = teacher.copy_for(state.epoch) if teacher else (fitting.sequences, None)
        shown = _Shown(dataclasses.replace(fitting, sequences=sequences), taught, _of_shards(generator, train.shards))
        began, loss_sum, n_right, n_seen = time.perf_counter(), 0.0, 0, 0
        state.model.train()
        for batch in batches:
            rate = learning_rate_at(step, train, total)
            loss, right = _take_step(state, train, shown, batch, rate, group)
            step += 1
            _update_average(state.average, live, train.ema_decay, step)
            if not math.isfinite(loss):
                what, found = f"training stopped in epoch {state.epoch + 1}, step {step}", f"a loss of {loss}"
                raise TrainingError(what, found=found, expected="a finite loss", fix="lower the learning rate")
            loss_sum, n_right, n_seen = loss_sum + loss, n_right + right, n_seen + len(batch)
            if step % train.log_every == 0:
                yield StepResult(step, state.epoch + 1, loss, Score(right, len(batch)), rate)
        seconds = time.perf_counter() - began
        state.epoch += 1
        logits = logits_of(averaged_model(state), validation, group=group)
        yield EpochResult(
            step, state.epoch, loss_sum / len(batches), Score(n_right, n_seen), score_of(logits, validation),
            n_seen / seconds, logits,
        )  # fmt: skip


@dataclass(frozen=True)
class _Shown:
    """What an epoch shows."""

    fitting: Split
    taught: torch.Tensor | None
    """(N, classes) logits of the teachers; the sequences then are as the teachers saw them."""
    generators: list[torch.Generator]
    """Of the augmentation of each shard of a batch."""


def _of_shards(generator: torch.Generator, shards: int) -> list[torch.Generator]:
    """The epoch's own generator for the first shard, and for each other one a generator seeded by it."""
    # drawn, not counted: torch keeps 32 bits of a seed, so seed, epoch and shard have no room side by side
    seeds = torch.randint(2**32, (shards - 1,), generator=generator).tolist()
    return [generator, *(torch.Generator().manual_seed(seed) for seed in seeds)]


def _take_step(
    state: TrainState, train: TrainConfig, shown: _Shown, batch: torch.Tensor, rate: float, group: Group
) -> tuple[float, int]:
    """The gradient, summed over the batch's shards, and a step; the loss and the right answers before the step."""
    state.optimizer.param_groups[0]["lr"] = rate
    weights = list(state.model.parameters())
    shards = batch.tensor_split(train.shards)
    if len(shards) == group.size == 1:  # nothing to sum: without copies of the gradient
        found = _backward(state, train, shown, batch, shown.generators[0], 1.0)
    else:

        def flat_gradient(i: int) -> torch.Tensor:
            share = len(shards[i]) / len(batch)
            counts = _backward(state, train, shown, shards[i], shown.generators[i], share)
            return torch.cat([*(weight.grad.flatten() for weight in weights if weight.grad is not None), counts])

        sizes = [weight.numel() for weight in weights]
        like = weights[0].detach().new_empty(sum(sizes) + 2)
        *gradients, found = group.sum_in_order(len(shards), like, flat_gradient).split([*sizes, 2])
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.view_as(weight)
    if train.clip_norm:
        torch.nn.utils.clip_grad_norm_(weights, train.clip_norm)
    state.optimizer.step()
    loss, right = found.tolist()
    return loss, int(right)


def _backward(
    state: TrainState, train: TrainConfig, shown: _Shown, at: torch.Tensor, generator: torch.Generator, share: float
) -> torch.Tensor:
    """Forward, loss, backward for the sequences ``at`` these places, which are this share of the batch.

    Returns (2,): the loss as it counts in the batch's, and the right answers.
    """
    sequences, labels, lengths = shown.fitting.sequences[at], shown.fitting.labels[at], shown.fitting.lengths
    taught = None if shown.taught is None else shown.taught[at]
    if lengths is not None:  # beyond the longest there is only padding
        lengths = lengths[at]
        sequences = sequences[:, : int(lengths.max())]
    if train.augment and taught is None:  # a copy with logits was augmented before the teachers saw it
        sequences = augmented(sequences, state.model, train.augment, generator, labels)
    with torch.autocast(sequences.device.type, torch.bfloat16, enabled=train.bf16):
        # (T, B, C): the logits after each step, or after the last alone
        steps = state.model.logits_by_step(sequences) if train.step_loss else state.model(sequences, lengths)[None]
    steps = steps.float()
    last = steps[-1]
    if train.step_loss and lengths is not None:
        last = steps[lengths.long() - 1, torch.arange(len(labels), device=lengths.device)]
    loss = _loss(last, labels, taught, train)
    if train.step_loss:
        loss = torch.lerp(loss, _mean_step_loss(steps, lengths, labels, taught, train), train.step_loss)
    loss = loss * share
    state.optimizer.zero_grad()
    loss.backward()
    return torch.stack([loss.detach(), (last.argmax(1) == labels).sum().float()])


def _loss(logits: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None, train: TrainConfig) -> torch.Tensor:
    """Of (B, classes) logits against the (B,) labels, or against the (B, classes) logits of the teachers."""
    if taught is None:
        return functional.cross_entropy(logits, labels, label_smoothing=train.label_smoothing)
    return distillation_loss(logits, taught, train.temperature)


def _mean_step_loss(
    steps: torch.Tensor, lengths: torch.Tensor | None, labels: torch.Tensor, taught: torch.Tensor | None,
    train: TrainConfig,
) -> torch.Tensor:  # fmt: skip
    """The mean loss over all steps of (T, B, C) logits: the answer after every row is trained, not only the last."""
    n = len(steps)
    every, all_labels, all_taught = (
        steps.flatten(0, 1),
        labels.repeat(n),
        None if taught is None else taught.repeat(n, 1),
    )
    if lengths is not None:  # a sequence has so many steps; of (T, B) the others are padding
        there = (torch.arange(n, device=lengths.device)[:, None] < lengths).flatten()
        every, all_labels, all_taught = (
            every[there],
            all_labels[there],
            None if all_taught is None else all_taught[there],
        )
    return _loss(every, all_labels, all_taught, train)


@torch.inference_mode()
def logits_of(model: RowLstm, split: Split, batch_size: int = 1000, group: Group = ALONE) -> Logits:
    """(N, classes) float32 logits of a split's sequences, on the CPU, the batches shared out among a group."""
    parts = split.sequences.split(batch_size)
    ends = [None] * len(parts) if split.lengths is None else split.lengths.split(batch_size)
    return np.concatenate(group.share_out(len(parts), lambda i: model(parts[i], ends[i]).cpu().numpy()))


def score_of(logits: Logits, split: Split) -> Score:
    """Right answers among (N, classes) logits of a split's images."""
    return Score.of(logits, split.labels.cpu().numpy())


@torch.no_grad()
def _update_average(average: dict[str, torch.Tensor], live: dict[str, torch.Tensor], decay: float, step: int) -> None:
    """average <- decay * average + (1 - decay) * live, with a shorter memory while the run is young."""
    decay = min(decay, step / (step + 10))
    torch._foreach_lerp_(list(average.values()), list(live.values()), 1 - decay)
