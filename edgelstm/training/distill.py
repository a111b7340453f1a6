"""Distillation: teachers' logits for augmented copies of the training images, computed once and kept on disk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgelstm.config import ModelConfig, TrainConfig
from edgelstm.contract import Lengths, Runner, Sequences
from edgelstm.errors import CheckpointError
from edgelstm.files import sha256_of, write_bytes
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.session import SessionSettings
from edgelstm.training.augment import augmented
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.distributed import ALONE, Group
from edgelstm.training.model import RowLstm, TorchRunner

CHUNK = 500
"""Images that are augmented and shown to the teachers at a time."""


@dataclass(frozen=True)
class Teacher:
    """A trained model whose logits are the targets instead of the labels."""

    sha256: str
    """Of a checkpoint's weights, or of an ONNX file."""
    config: ModelConfig
    runner: Runner


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
    """Raise CheckpointError unless they read the student's sequences and are the ``expected`` ones by sha256."""
    for teacher in teachers:
        found, wanted = (
            f"{'any' if c.variable_length else c.rows} rows, {c.cols} columns, {c.preparation}, "
            f"classes {', '.join(c.class_names)}"
            for c in (teacher.config, config)
        )
        if found != wanted:
            raise CheckpointError("a teacher reads other sequences than the student", found=found, expected=wanted)
    given = [teacher.sha256 for teacher in teachers]
    if given != list(expected):
        found, wanted = (", ".join(sha256[:12] for sha256 in digests) or "none" for digests in (given, expected))
        fix = "give the same files in the same order with --teacher"
        raise CheckpointError("the run was begun with other teachers", found=found, expected=wanted, fix=fix)


class TeacherLogits:
    """The training images, augmented anew for each of ``train.teacher_copies`` copies, with the teachers' logits.

    The logits of a copy are kept in ``folder`` under a name made of the very images that the teachers were shown,
    the teachers, and the threads and device, which round sums differently. The run's seed is no part of it: runs
    with the same teachers share the files, and only the first of them runs the teachers.
    """

    def __init__(
        self, sequences: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor | None, model: RowLstm,
        train: TrainConfig, teachers: Sequence[Teacher], folder: Path, group: Group = ALONE,
    ) -> None:  # fmt: skip
        """``sequences`` are (N, R, C) of ``model``'s kind, ``lengths`` (N,) int32 where they differ.

        ``labels`` (N,) teach nothing here; they say which digits may get which strokes.
        """
        self._labels = labels
        self._sequences, self._model, self._train, self._teachers = sequences, model, train, teachers
        self._lengths: Lengths | None = None if lengths is None else lengths.cpu().numpy()
        self._folder, self._group = folder, group

    def copy_for(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The (N, R, C) sequences of an epoch, counted from 0, and the (N, classes) mean of the teachers' logits.

        The logits are float32, rounded to float16. Raises OutputError if the folder cannot be written.
        """
        sequences, change = self._sequences, self._train.augment
        if change:
            generator = torch.Generator().manual_seed(epoch % self._train.teacher_copies)
            parts = zip(sequences.split(CHUNK), self._labels.split(CHUNK), strict=True)
            sequences = torch.cat([augmented(part, self._model, change, generator, shown) for part, shown in parts])
            if sequences.dtype != self._sequences.dtype:  # the teachers read pixels
                sequences = sequences.round().clamp(0, 255).to(torch.uint8)
        shown, group = sequences.cpu().numpy(), self._group
        path = self._folder / f"{self._key(shown)}.f16"
        shape = (len(shown), self._teachers[0].config.n_classes)
        kept = None
        if group.is_writer and path.is_file() and path.stat().st_size == 2 * shape[0] * shape[1]:
            kept = path.read_bytes()
        kept = group.gather(kept)[0]
        if kept is None:
            chunks = group.share_out(-(-len(shown) // CHUNK), lambda i: self._taught(shown, i))
            kept = np.concatenate(chunks).tobytes()
            if group.is_writer:
                write_bytes(path, kept)
        logits = np.frombuffer(kept, np.float16).reshape(shape).astype(np.float32)
        return sequences, torch.from_numpy(logits).to(sequences.device)

    def _taught(self, shown: Sequences, i: int) -> NDArray[np.float16]:
        """The mean of the teachers' logits for the sequences of chunk ``i``."""
        at = slice(i * CHUNK, (i + 1) * CHUNK)
        asked = (shown[at],) if self._lengths is None else (shown[at], self._lengths[at])
        total = reduce(np.add, [teacher.runner.logits(*asked) for teacher in self._teachers])
        return np.asarray(total / np.float32(len(self._teachers)), np.float16)

    def _key(self, shown: Sequences) -> str:
        """By content, not by how it was made: a changed augmentation must not meet the logits of the old ones."""
        digest = hashlib.sha256(f"{shown.shape} {self._train.threads} {self._sequences.device.type}\n".encode())
        for teacher in self._teachers:
            digest.update(f"{teacher.sha256}\n".encode())
        if self._lengths is not None:  # sequences may differ in nothing but where they end
            digest.update(self._lengths.tobytes())
        digest.update(np.ascontiguousarray(shown).data)
        return digest.hexdigest()


def distillation_loss(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of KL(teacher || student) over (B, classes) logits, both softened, times the squared temperature.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531): the square keeps the gradient's size. The labels are
    left out, and teacher and student see the same augmented image: Beyer et al. 2022 (arXiv:2106.05237).
    """
    student, teacher = (functional.log_softmax(values / temperature, dim=1) for values in (logits, taught))
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
