"""Tests of edgelstm.training.distill: teacher logits, kept on disk, and a student that learns from them."""

import dataclasses

import numpy as np
import pytest
import torch

from edgelstm.config import AugmentConfig, ModelConfig, TrainConfig
from edgelstm.errors import CheckpointError
from edgelstm.training import distill
from edgelstm.training import fit as fit_module
from edgelstm.training.checkpoint import save_checkpoint
from edgelstm.training.distill import TeacherLogits, check_teachers, distillation_loss, load_teacher
from edgelstm.training.fit import EpochResult, Split, fit
from edgelstm.training.model import RowLstm, TorchRunner, new_model
from edgelstm.training.state import new_state

pytestmark = pytest.mark.usefixtures("one_thread")

TAUGHT = TrainConfig(recipe="taught", epochs=3, batch_size=25, augment=AugmentConfig(), teacher_copies=2, threads=1)


@pytest.fixture
def teacher_files(tiny_checkpoint, tiny_model_path, tmp_path):
    """The same weights as a checkpoint and as an ONNX file."""
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint)
    return tmp_path / "tiny.safetensors", tiny_model_path


@pytest.fixture
def images(sample):
    return torch.from_numpy(sample.sequences[:50].copy())


def teacher_logits_of(files, images, folder, **changes):
    teachers = [load_teacher(file) for file in files]
    train = dataclasses.replace(TAUGHT, teachers=tuple(teacher.sha256 for teacher in teachers), **changes)
    labels = torch.arange(len(images)) % 10
    return TeacherLogits(images, labels, None, RowLstm(ModelConfig()), train, teachers, folder)


def test_a_copy_has_the_mean_of_the_teachers_logits_on_the_augmented_images(
    teacher_files, tiny_checkpoint, images, tmp_path
):
    shown, taught = teacher_logits_of(teacher_files, images, tmp_path / "kept").copy_for(0)
    expected = TorchRunner(tiny_checkpoint.model()).logits(shown.numpy())
    assert not torch.equal(shown, images), "the images were not augmented"
    difference = np.abs(taught.numpy() - expected).max()
    assert difference < 2e-3 * max(1, np.abs(expected).max()), f"off by {difference}: more than float16 rounds"


def test_the_mean_is_over_different_teachers(tiny_checkpoint, teacher_files, images, tmp_path):
    turned = {name: -weight for name, weight in tiny_checkpoint.weights.items() if name.startswith("head")}
    save_checkpoint(
        tmp_path / "other.safetensors",
        dataclasses.replace(tiny_checkpoint, weights=tiny_checkpoint.weights | turned),
    )
    both = (teacher_files[0], tmp_path / "other.safetensors")
    _, taught = teacher_logits_of(both, images, tmp_path / "kept").copy_for(0)
    assert float(taught.abs().max()) < 1e-3, "a model and its negative have a mean of 0"


def test_the_teachers_run_once_and_the_next_run_reads_their_logits(teacher_files, images, tmp_path, monkeypatch):
    first = teacher_logits_of(teacher_files, images, tmp_path / "kept").copy_for(1)
    again = teacher_logits_of(teacher_files, images, tmp_path / "kept")
    monkeypatch.setattr(TeacherLogits, "_taught", lambda *_: pytest.fail("run again"))
    taught = again.copy_for(1)
    assert [True, True] == list(map(torch.equal, first, taught))


def test_half_a_file_of_logits_is_computed_again(teacher_files, images, tmp_path):
    logits = teacher_logits_of(teacher_files, images, tmp_path / "kept")
    first = logits.copy_for(0)
    [file] = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-2])
    assert torch.equal(first[1], logits.copy_for(0)[1])


def test_the_epochs_take_the_copies_in_turn(teacher_files, images, tmp_path):
    logits = teacher_logits_of(teacher_files, images, tmp_path / "kept")
    zero, one, two = (logits.copy_for(epoch)[0] for epoch in range(3))
    assert torch.equal(zero, two)
    assert not torch.equal(zero, one)


@pytest.mark.parametrize(
    "change",
    [
        {"augment": AugmentConfig(scale=0.1)}, {"augment": AugmentConfig(hands=1)},
        {"augment": AugmentConfig(worn=0.3, faint=0.5)}, {"augment": None}, {"threads": 2},
    ],
)  # fmt: skip
def test_other_circumstances_are_other_logits(teacher_files, images, tmp_path, change):
    teacher_logits_of(teacher_files, images, tmp_path / "kept").copy_for(0)
    teacher_logits_of(teacher_files, images, tmp_path / "kept", **change).copy_for(0)
    assert 2 == len(list((tmp_path / "kept").iterdir()))


def test_images_augmented_by_other_code_do_not_meet_the_logits_of_the_old_ones(
    teacher_files, tiny_checkpoint, images, tmp_path, monkeypatch
):
    teacher_logits_of(teacher_files, images, tmp_path / "kept").copy_for(0)
    monkeypatch.setattr(distill, "augmented", lambda part, *_: part.flip(2))
    _, taught = teacher_logits_of(teacher_files, images, tmp_path / "kept").copy_for(0)
    expected = TorchRunner(tiny_checkpoint.model()).logits(images.flip(2).numpy())
    difference = np.abs(taught.numpy() - expected).max()
    assert difference < 2e-3 * max(1, np.abs(expected).max()), f"off by {difference}: more than float16 rounds"


def test_without_augmentation_there_is_one_copy_the_images_themselves(teacher_files, images, tmp_path):
    logits = teacher_logits_of(teacher_files, images, tmp_path / "kept", augment=None)
    assert torch.equal(images, logits.copy_for(0)[0])
    logits.copy_for(1)
    assert 1 == len(list((tmp_path / "kept").iterdir()))


def test_a_teacher_is_known_by_its_weights_not_by_its_name(tiny_checkpoint, teacher_files, tmp_path):
    save_checkpoint(tmp_path / "renamed.safetensors", dataclasses.replace(tiny_checkpoint, name="renamed"))
    assert load_teacher(teacher_files[0]).sha256 == load_teacher(tmp_path / "renamed.safetensors").sha256


def test_other_teachers_than_the_run_began_with_are_refused(teacher_files):
    teacher = load_teacher(teacher_files[0])
    check_teachers([teacher], ModelConfig(), [teacher.sha256])
    with pytest.raises(CheckpointError, match=r"begun with other teachers: found none, expected .*--teacher"):
        check_teachers([], ModelConfig(), [teacher.sha256])


def test_a_teacher_that_reads_other_sequences_is_refused(teacher_files):
    teacher = load_teacher(teacher_files[0])
    with pytest.raises(CheckpointError, match="reads other sequences than the student: found 28 rows"):
        check_teachers([teacher], ModelConfig(rows=14, cols=14), [teacher.sha256])


def test_the_loss_is_the_kl_divergence_of_the_softened_answers():
    draw = np.random.default_rng(0)
    student, teacher = draw.normal(0, 3, (2, 7, 10))

    def softened(logits):
        powers = np.exp(logits / 4)
        return powers / powers.sum(axis=1, keepdims=True)

    p, q = softened(teacher), softened(student)
    expected = 16 * (p * np.log(p / q)).sum(axis=1).mean()
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), 4.0)
    assert expected == pytest.approx(found.item(), rel=1e-9)
    assert 0 == pytest.approx(
        distillation_loss(torch.from_numpy(teacher), torch.from_numpy(teacher), 4.0).item(), abs=1e-12
    )


def test_the_loss_over_all_rows_is_the_mean_of_the_taught_losses_after_each():
    draw = torch.Generator().manual_seed(0)
    steps, taught = torch.randn(5, 7, 10, generator=draw), torch.randn(7, 10, generator=draw)
    expected = sum(distillation_loss(logits, taught, TAUGHT.temperature).item() for logits in steps) / 5
    found = fit_module._mean_step_loss(steps, None, torch.zeros(7, dtype=torch.int64), taught, TAUGHT)
    assert expected == pytest.approx(found.item(), rel=1e-5)


def test_a_student_learns_what_its_teacher_says_and_not_the_labels(teacher_files, sample, images, tmp_path):
    """The tiny teacher has random weights: what it says has nothing to do with the labels."""
    train = dataclasses.replace(TAUGHT, epochs=60, learning_rate=0.02, augment=None)
    teacher = teacher_logits_of(teacher_files[:1], images, tmp_path / "kept", augment=None)
    split = Split(images, torch.from_numpy(sample.labels[:50].astype(np.int64)))
    state = new_state(new_model(ModelConfig(hidden_size=16), torch.Generator().manual_seed(0)), train)
    losses = [r.loss for r in fit(state, train, split, split, teacher) if isinstance(r, EpochResult)]
    assert losses[-1] < 0.1 * losses[0], f"loss {losses[0]} -> {losses[-1]}"
    with torch.inference_mode():
        same = (state.model(images).argmax(1) == teacher.copy_for(0)[1].argmax(1)).float().mean().item()
    assert same > 0.9, f"{same:.0%} of the teacher's decisions"
