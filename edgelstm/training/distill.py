"""What the teachers say of augmented training digits: asked once, kept on disk, taken in turn by the epochs."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgelstm.config import ModelConfig, TrainConfig
from edgelstm.contract import Runner, in_batches
from edgelstm.errors import CheckpointError
from edgelstm.files import sha256_of, write_bytes
from edgelstm.runtime.runner import OrtRunner, SessionSettings
from edgelstm.training.augment import augment
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.model import TorchRunner

CHUNK = 500
"""Digits that are augmented and answered at a time."""


@dataclass(frozen=True)
class Teacher:
    """A trained model that answers for the labels."""

    sha256: str
    """Of a checkpoint's weights, or of an ONNX file."""
    config: ModelConfig
    runner: Runner


@dataclass(frozen=True)
class Lesson:
    """One augmented copy of the training digits and the mean of the teachers' logits."""

    images: torch.Tensor
    """(N, R, C) uint8."""
    logits: torch.Tensor
    """(N, classes) float32, rounded to float16."""


def load_teacher(path: Path, device: str = "cpu") -> Teacher:
    """A teacher from a checkpoint or a run folder, to run on ``device``, or from an ONNX file.

    Raises CheckpointError or ModelError if it cannot be read as one.
    """
    if path.suffix == ".onnx":
        settings = SessionSettings(threads=torch.get_num_threads())
        runner = OrtRunner(path, provider="cuda" if device == "cuda" else "cpu", settings=settings)
        return Teacher(sha256_of(path.read_bytes()), runner.contract.config, runner)
    checkpoint = load_checkpoint(path)
    return Teacher(checkpoint.weights_sha256, checkpoint.config, TorchRunner(checkpoint.model(), device=device))


def check_teachers(teachers: Sequence[Teacher], config: ModelConfig, expected: Sequence[str]) -> None:
    """Raise CheckpointError unless they read the student's pictures and are the ``expected`` ones by sha256."""
    for teacher in teachers:
        found, wanted = ((c.rows, c.cols, c.class_names) for c in (teacher.config, config))
        if found != wanted:
            raise CheckpointError(
                "a teacher reads other pictures than the student",
                found=f"{found[0]} rows, {found[1]} columns, classes {', '.join(found[2])}",
                expected=f"{wanted[0]} rows, {wanted[1]} columns, classes {', '.join(wanted[2])}",
            )
    given = tuple(teacher.sha256 for teacher in teachers)
    if given != tuple(expected):
        raise CheckpointError(
            "the run was begun with other teachers",
            found=", ".join(sha256[:12] for sha256 in given) or "none",
            expected=", ".join(sha256[:12] for sha256 in expected) or "none",
            fix="give the same files in the same order with --teacher",
        )


class Lessons:
    """The training digits, augmented anew for each of ``train.n_lessons`` lessons, with the teachers' logits.

    A lesson depends on the digits, the augmentation, the teachers and the threads, not on the run's seed: runs
    that are taught by the same teachers share ``folder``, and only the first of them asks the teachers.
    """

    def __init__(self, images: torch.Tensor, train: TrainConfig, teachers: Sequence[Teacher], folder: Path) -> None:
        self._images, self._train, self._teachers = images, train, teachers
        values = {
            "images": sha256_of(images.cpu().numpy().tobytes()),
            "augment": dataclasses.asdict(train.augment) if train.augment else None,
            "teachers": train.teachers,
            "threads": train.threads,
        }
        key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        self._folder = folder / key[:16]

    def lesson(self, epoch: int) -> Lesson:
        """The lesson of an epoch, counted from 0. Raises OutputError if the folder cannot be written."""
        number = epoch % self._train.n_lessons if self._train.augment else 0
        images = self._augmented(number)
        path = self._folder / f"{number:03}.f16"
        logits = self._kept(path)
        if logits is None:
            logits = self._answers(images.cpu().numpy())
            write_bytes(path, logits.tobytes())
        return Lesson(images, torch.from_numpy(logits.astype(np.float32)).to(images.device))

    def _augmented(self, number: int) -> torch.Tensor:
        if not self._train.augment:
            return self._images
        generator = torch.Generator().manual_seed(number)
        return torch.cat([augment(part, self._train.augment, generator) for part in self._images.split(CHUNK)])

    def _answers(self, images: np.ndarray) -> np.ndarray:
        mean = sum(in_batches(teacher.runner, images, CHUNK) for teacher in self._teachers) / len(self._teachers)
        return np.asarray(mean, np.float16)

    def _kept(self, path: Path) -> np.ndarray | None:
        shape = (len(self._images), self._teachers[0].config.n_classes)
        if not path.is_file() or path.stat().st_size != 2 * shape[0] * shape[1]:
            return None
        return np.frombuffer(path.read_bytes(), np.float16).reshape(shape)
