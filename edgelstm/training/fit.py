"""The training loop: forward, loss, backward, step. It yields what happened and prints nothing."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from edgelstm.config import TrainConfig
from edgelstm.contract import Score
from edgelstm.errors import TrainingError
from edgelstm.training.augment import augment
from edgelstm.training.distill import Lessons
from edgelstm.training.model import RowLstm

ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Split:
    """Images and labels on the training device."""

    images: torch.Tensor
    """(N, R, C) uint8."""
    labels: torch.Tensor
    """(N,) int64."""

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
    """One pass over the training images."""

    step: int
    epoch: int
    loss: float
    """Mean over the epoch's steps."""
    train: Score
    """Right answers while training, as each batch came."""
    validation: Score
    """By the weights that would be exported now."""
    images_per_s: float


@dataclass
class TrainState:
    """All that changes while training; what a checkpoint must hold to go on bit for bit."""

    model: RowLstm
    average: dict[str, torch.Tensor]
    """The moving average of the weights: what is validated and exported."""
    optimizer: torch.optim.AdamW
    epoch: int = 0
    """Epochs done."""


def new_state(model: RowLstm, train: TrainConfig) -> TrainState:
    """A run that has not begun, from freshly initialised weights."""
    optimizer = torch.optim.AdamW(
        model.parameters(), train.learning_rate, betas=ADAM_BETAS, weight_decay=train.weight_decay, fused=True
    )
    average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    return TrainState(model, average, optimizer)


def n_steps(train: TrainConfig, n_images: int) -> int:
    """Optimizer steps of the whole run; the last incomplete batch of an epoch is left out."""
    if n_images < train.batch_size:
        raise TrainingError(
            "too few training images", found=n_images, expected=f"at least one batch of {train.batch_size}"
        )
    steps = train.epochs * (n_images // train.batch_size)
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
    state: TrainState, train: TrainConfig, fitting: Split, validation: Split, lessons: Lessons | None = None
) -> Iterator[StepResult | EpochResult]:
    """Train ``state`` in place from the epoch it stands at, on the labels or on the teachers' ``lessons``.

    Yields a StepResult every ``log_every`` steps and an EpochResult after each epoch, when ``state``
    may be saved. Each epoch draws its order and augmentation from its own generator, seeded by
    (seed, epoch), so a run that goes on from a saved epoch ends with the very same bits. Raises
    TrainingError if the loss stops being finite.
    """
    model, total = state.model, n_steps(train, len(fitting))
    steps_per_epoch = len(fitting) // train.batch_size
    live = model.state_dict()
    step = state.epoch * steps_per_epoch
    while step < total:
        generator = torch.Generator().manual_seed(train.seed * 1_000_003 + state.epoch + 1)
        order = torch.randperm(len(fitting), generator=generator)
        batches = order.split(train.batch_size)[: min(steps_per_epoch, total - step)]
        lesson = lessons.lesson(state.epoch) if lessons else None
        began, loss_sum, n_right, n_seen = time.perf_counter(), 0.0, 0, 0
        model.train()
        for batch in batches:
            images, labels = (lesson or fitting).images[batch], fitting.labels[batch]
            if train.augment and lesson is None:  # a lesson's digits were augmented before the teachers saw them
                images = augment(images, train.augment, generator)
            rate = learning_rate_at(step, train, total)
            state.optimizer.param_groups[0]["lr"] = rate
            with torch.autocast(images.device.type, torch.bfloat16, enabled=train.bf16):
                # (T, B, C): the logits after each step, or after the last alone
                steps = model.logits_by_step(images) if train.step_loss else model(images)[None]
            steps = steps.float()
            logits = steps[-1]
            taught = None if lesson is None else lesson.logits[batch]
            loss = _loss(logits, labels, taught, train)
            if train.step_loss:
                loss = torch.lerp(loss, _mean_step_loss(steps, labels, taught, train), train.step_loss)
            state.optimizer.zero_grad()
            loss.backward()
            if train.clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            state.optimizer.step()
            step += 1
            _update_average(state.average, live, train.ema_decay, step)
            loss_value = loss.item()
            if not math.isfinite(loss_value):
                raise TrainingError(
                    f"training stopped in epoch {state.epoch + 1}, step {step}", found=f"a loss of {loss_value}",
                    expected="a finite loss", fix="lower the learning rate",
                )  # fmt: skip
            right = int((logits.argmax(1) == labels).sum().item())
            loss_sum, n_right, n_seen = loss_sum + loss_value, n_right + right, n_seen + len(batch)
            if step % train.log_every == 0:
                yield StepResult(step, state.epoch + 1, loss_value, Score(right, len(batch)), rate)
        seconds = time.perf_counter() - began
        state.epoch += 1
        yield EpochResult(
            step, state.epoch, loss_sum / len(batches), Score(n_right, n_seen),
            evaluate(averaged_model(state), validation), n_seen / seconds,
        )  # fmt: skip


def _loss(logits: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None, train: TrainConfig) -> torch.Tensor:
    """Of (B, classes) logits against the (B,) labels, or against what the teachers say."""
    if taught is None:
        return functional.cross_entropy(logits, labels, label_smoothing=train.label_smoothing)
    return taught_loss(logits, taught, train.temperature)


def _mean_step_loss(
    steps: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None, train: TrainConfig
) -> torch.Tensor:
    """The mean loss over all steps of (T, B, C) logits: what is seen so far shall be said as well as it can be."""
    n = len(steps)
    return _loss(steps.flatten(0, 1), labels.repeat(n), None if taught is None else taught.repeat(n, 1), train)


def taught_loss(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of KL(teacher || student) over (B, classes) logits, both softened, times the squared temperature.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531): the square keeps the gradient's size. The labels are
    left out, and teacher and student see the same augmented digit: Beyer et al. 2022 (arXiv:2106.05237).
    """
    student, teacher = (functional.log_softmax(values / temperature, dim=1) for values in (logits, taught))
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def averaged_model(state: TrainState) -> RowLstm:
    """A copy of the model with the averaged weights, in evaluation mode."""
    model = RowLstm(state.model.config).to(state.model.head.weight.device)
    model.load_state_dict(state.average)
    return model.eval()


@torch.inference_mode()
def evaluate(model: RowLstm, split: Split, batch_size: int = 1000) -> Score:
    """Right answers of the model on a split."""
    model.eval()
    n_right = sum(
        int((model(images).argmax(1) == labels).sum().item())
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
    )
    return Score(n_right, len(split))


@torch.no_grad()
def _update_average(average: dict[str, torch.Tensor], live: dict[str, torch.Tensor], decay: float, step: int) -> None:
    """average <- decay * average + (1 - decay) * live, with a shorter memory while the run is young."""
    decay = min(decay, step / (step + 10))
    torch._foreach_lerp_(list(average.values()), list(live.values()), 1 - decay)
