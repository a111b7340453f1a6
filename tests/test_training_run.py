"""Tests of edgelstm.training.run: the files of a run, and resuming to the very same bits. On the shipped sample."""

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from edgelstm.config import DIGITS, OTHER_HANDS, ModelConfig, TrainConfig
from edgelstm.contract import Score
from edgelstm.data.dataset import Dataset, Part
from edgelstm.data.mnist import sample_digits
from edgelstm.errors import CheckpointError, DataError, OutputError, TrainingError
from edgelstm.runtime.calibration import fit_temperature
from edgelstm.training import run
from edgelstm.training.busy import BusyCheck, BusyMachine, Times
from edgelstm.training.checkpoint import CHECKPOINT_FILE, FORMAT, STATE_FILE, load_checkpoint, save_tensors
from edgelstm.training.distributed import Group
from edgelstm.training.fit import EpochResult, StepResult
from edgelstm.training.model import RowLstm
from edgelstm.training.run import BOARD_DIR, LOG_FILE, RunEnd, RunStart, begin_run, resume_run
from edgelstm.training.state import RunPlan

TRAIN = TrainConfig(
    recipe="small", epochs=3, batch_size=64, learning_rate=4e-3, schedule="onecycle", weight_decay=0.01,
    label_smoothing=0.05, clip_norm=1.0, ema_decay=0.9, augment=OTHER_HANDS, log_every=2, seed=3, threads=1,
)  # fmt: skip
PLAN = RunPlan("tiny", ModelConfig(hidden_size=8), TRAIN)
N_FITTING, STEPS_PER_EPOCH, N_STEPS = 800, 12, 36

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]


def dataset_of(digits, sha256="a sha256"):
    """800 to fit, 200 to validate, all 1,000 to test."""
    parts = (Part(digits.sequences[at], digits.labels[at], "digits") for at in (slice(0, 800), slice(800, 1000)))
    return Dataset("digits", "digit", DIGITS, *parts, digits, sha256=sha256, split="given")


def open_digits(config):
    return dataset_of(sample_digits())


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """torch's global settings put back."""
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, one_thread):
    """The folder of an uninterrupted run, and all it yielded. Read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    events = list(begin_run(PLAN, folder, open_digits, "cpu"))
    return folder, events


@pytest.fixture
def begun(whole_run, tmp_path):
    """A copy of the uninterrupted run's folder, to be damaged."""
    shutil.copytree(whole_run[0], tmp_path / "copy")
    return tmp_path / "copy"


def interrupted(folder, epochs):
    """Begin the run and kill it after some epochs, in the middle of the next."""
    n_done = 0
    for event in begin_run(PLAN, folder, open_digits, "cpu"):
        n_done += isinstance(event, EpochResult)
        if n_done == epochs and isinstance(event, StepResult):
            return
    raise AssertionError("the run ended before it was interrupted")


def tensors_of(path):
    with safetensors.safe_open(path, framework="np") as stream:
        return {name: stream.get_tensor(name).tobytes() for name in stream.keys()}  # noqa: SIM118 - not a dict


def raw(path):
    """The tensors and the JSON values of a state file."""
    with safetensors.safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads(stream.metadata()[FORMAT])


def log_of(folder):
    lines = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]


def scalars_of(folder):
    """Tag -> [(step, value)], by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / BOARD_DIR)).Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found, events.Tags()["graph"]


# A whole run


def test_a_run_begins_by_saying_what_it_will_do(whole_run):
    assert RunStart(N_FITTING, N_STEPS, 0, 0, "cpu", torch.get_num_threads()) == whole_run[1][0]


def test_a_run_ends_with_training_validation_and_test_scores(whole_run):
    _, events = whole_run
    end = events[-1]
    assert isinstance(end, RunEnd)
    assert (end.train.n, end.validation.n, end.test.n, end.first_test.n) == (768, 200, 1000, 128)
    assert (events[-2].train, events[-2].validation) == (end.train, end.validation)


def test_the_folder_holds_weights_state_and_both_logs_and_nothing_else(whole_run):
    names = sorted(path.name for path in whole_run[0].iterdir())
    assert sorted([CHECKPOINT_FILE, STATE_FILE, LOG_FILE, BOARD_DIR]) == names


def test_the_model_file_is_a_checkpoint_that_knows_how_it_was_trained(whole_run):
    folder, events = whole_run
    checkpoint = load_checkpoint(folder)
    assert (PLAN.name, PLAN.config, PLAN.train, 3) == (
        checkpoint.name, checkpoint.config, checkpoint.train, checkpoint.epoch
    )  # fmt: skip
    assert (events[-1].validation, events[-1].test) == (checkpoint.validation, checkpoint.test)
    assert {"edgelstm", "python", "torch", "numpy"} == set(checkpoint.versions)
    assert "a sha256" == checkpoint.data_sha256


def test_the_checkpoint_scores_what_the_run_said(whole_run, sample):
    folder, events = whole_run
    with torch.inference_mode():
        found = load_checkpoint(folder).model()(torch.from_numpy(sample.sequences.copy())).argmax(1).numpy()
    n_right = int((found == sample.labels).sum())
    first = int((found[:128] == sample.labels[:128]).sum())
    assert (Score(n_right, 1000), Score(first, 128)) == (events[-1].test, events[-1].first_test)


def test_the_validation_digits_are_the_last_ones(whole_run, sample):
    folder, events = whole_run
    with torch.inference_mode():
        found = load_checkpoint(folder).model()(torch.from_numpy(sample.sequences[800:].copy())).argmax(1).numpy()
    assert Score(int((found == sample.labels[800:]).sum()), 200) == events[-1].validation


def test_the_temperature_is_fitted_to_the_validation_digits(whole_run, sample):
    checkpoint = load_checkpoint(whole_run[0])
    with torch.inference_mode():
        logits = checkpoint.model()(torch.from_numpy(sample.sequences[800:].copy())).numpy()
    assert pytest.approx(fit_temperature(logits, sample.labels[800:]), rel=1e-3) == checkpoint.temperature
    assert checkpoint.temperature != 1


def test_the_exported_weights_are_the_averaged_ones(whole_run):
    folder, _ = whole_run
    state = tensors_of(folder / STATE_FILE)
    assert {f"average.{name}": value for name, value in tensors_of(folder / CHECKPOINT_FILE).items()} == {
        name: value for name, value in state.items() if name.startswith("average.")
    }


def test_the_log_has_a_line_for_each_result(whole_run):
    folder, events = whole_run
    results = [event for event in events if isinstance(event, StepResult | EpochResult)]
    lines = log_of(folder)
    assert ["step" if isinstance(r, StepResult) else "epoch" for r in results] == [line["kind"] for line in lines]
    assert [(r.step, r.epoch, r.loss, r.train.n_right) for r in results] == [
        (line["step"], line["epoch"], line["loss"], line["train"]["n_right"]) for line in lines
    ]


def test_tensorboard_reads_the_scalars(whole_run):
    folder, events = whole_run
    scalars, _ = scalars_of(folder)
    assert {
        "step/loss", "step/accuracy/train", "step/learning_rate", "epoch/loss", "epoch/accuracy/train",
        "epoch/accuracy/validation", "epoch/images_per_s",
    } == set(scalars)  # fmt: skip
    expected = [(e.step, pytest.approx(e.loss)) for e in events if isinstance(e, StepResult)]
    assert expected == scalars["step/loss"]
    expected = [(e.step, pytest.approx(e.validation.accuracy)) for e in events if isinstance(e, EpochResult)]
    assert expected == scalars["epoch/accuracy/validation"]


def test_tensorboard_reads_the_graph(whole_run):
    assert scalars_of(whole_run[0])[1]


def test_the_same_seed_gives_the_same_bits(whole_run, tmp_path):
    list(begin_run(PLAN, tmp_path / "again", open_digits, "cpu"))
    assert tensors_of(whole_run[0] / CHECKPOINT_FILE) == tensors_of(tmp_path / "again" / CHECKPOINT_FILE)
    assert tensors_of(whole_run[0] / STATE_FILE) == tensors_of(tmp_path / "again" / STATE_FILE)


# Resuming


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_resumed_run_ends_with_the_very_bits_of_an_uninterrupted_one(whole_run, tmp_path, epochs):
    folder = tmp_path / "run"
    interrupted(folder, epochs)
    plan, events = resume_run(folder, open_digits, "cpu")
    events = list(events)
    assert dataclasses.replace(PLAN, data_sha256="a sha256") == plan
    assert RunStart(N_FITTING, N_STEPS, epochs, epochs * STEPS_PER_EPOCH, "cpu", torch.get_num_threads()) == events[0]
    assert dataclasses.replace(whole_run[1][-1], model_file=folder / CHECKPOINT_FILE) == events[-1]
    for name in (CHECKPOINT_FILE, STATE_FILE):
        assert tensors_of(whole_run[0] / name) == tensors_of(folder / name)
    assert log_of(whole_run[0]) == log_of(folder)


def test_a_resumed_runs_tensorboard_log_shows_each_step_once(whole_run, tmp_path):
    interrupted(tmp_path, 1)
    for path in (tmp_path / BOARD_DIR).iterdir():  # TensorBoard reads its files in the order of the second in
        path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))  # their names, which may be one here
    list(resume_run(tmp_path, open_digits, "cpu")[1])
    expected, found = scalars_of(whole_run[0])[0], scalars_of(tmp_path)[0]
    del expected["epoch/images_per_s"], found["epoch/images_per_s"]
    assert expected == found


@pytest.mark.parametrize("name", ["save_state", "save_checkpoint"])
def test_a_run_killed_while_it_saves_an_epoch_loses_no_line_of_the_log(whole_run, tmp_path, monkeypatch, name):
    def killed(*arguments):
        if arguments[0].exists():  # at the second epoch
            raise KeyboardInterrupt
        real(*arguments)

    real = getattr(run, name)
    with monkeypatch.context() as patch:
        patch.setattr(run, name, killed)
        with pytest.raises(KeyboardInterrupt):
            list(begin_run(PLAN, tmp_path, open_digits, "cpu"))
    list(resume_run(tmp_path, open_digits, "cpu")[1])
    assert log_of(whole_run[0]) == log_of(tmp_path)
    assert tensors_of(whole_run[0] / CHECKPOINT_FILE) == tensors_of(tmp_path / CHECKPOINT_FILE)


@pytest.mark.parametrize(
    "rest",
    [
        b'{"kind": "st',
        b"\0" * 512,
        b"\0" * 512 + b"\n",
        b'{"kind": "\xc3',
        b'{"kind": "\xc3\n',
        b"[1]\n",
        b'{"step": "x"}\n',
    ],
    ids=["half a line", "zeros", "zeros and an end", "half a letter", "half a letter and an end", "no object", "text"],
)
def test_a_damaged_end_of_the_log_is_no_hindrance_and_not_kept(whole_run, tmp_path, rest):
    interrupted(tmp_path, 1)
    with (tmp_path / LOG_FILE).open("ab") as stream:
        stream.write(rest)
    list(resume_run(tmp_path, open_digits, "cpu")[1])
    assert log_of(whole_run[0]) == log_of(tmp_path)


def test_resuming_a_run_that_has_ended_trains_nothing_and_changes_nothing(whole_run, begun):
    _, events = resume_run(begun, open_digits, "cpu")
    start, end = events
    assert (start.epochs_done, end.train) == (3, None)
    assert (whole_run[1][-1].validation, whole_run[1][-1].test) == (end.validation, end.test)
    for name in (CHECKPOINT_FILE, STATE_FILE):
        assert tensors_of(whole_run[0] / name) == tensors_of(begun / name)


def test_the_number_of_threads_is_kept_and_taken_up_again(tmp_path):
    plan = dataclasses.replace(PLAN, train=dataclasses.replace(TRAIN, epochs=1, batch_size=400, threads=None))
    torch.set_num_threads(2)
    list(begin_run(plan, tmp_path, open_digits, "cpu"))
    torch.set_num_threads(1)
    resumed, events = resume_run(tmp_path, open_digits, "cpu")
    assert (resumed.train.threads, next(events).threads, torch.get_num_threads()) == (2, 2, 2)


def test_a_recipe_with_a_number_of_threads_trains_on_so_many(tmp_path):
    plan = dataclasses.replace(PLAN, train=dataclasses.replace(TRAIN, threads=2))
    assert next(begin_run(plan, tmp_path, open_digits, "cpu")).threads == 2


def test_resuming_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*state\.safetensors; train one with"):
        resume_run(tmp_path, open_digits, "cpu")


def test_a_state_with_a_missing_weight_is_refused_by_name(begun):
    tensors, values = raw(begun / STATE_FILE)
    del tensors["adamw.exp_avg.head.bias"]
    save_tensors(begun / STATE_FILE, tensors, values)
    with pytest.raises(CheckpointError, match=r"found no weight adamw\.exp_avg\.head\.bias"):
        resume_run(begun, open_digits, "cpu")


def test_a_state_with_a_misshaped_weight_is_refused_by_name(begun):
    tensors, values = raw(begun / STATE_FILE)
    save_tensors(begun / STATE_FILE, tensors | {"average.head.bias": torch.zeros(9)}, values)
    with pytest.raises(CheckpointError, match=r"weight average\.head\.bias is F32 \(9,\) instead of"):
        resume_run(begun, open_digits, "cpu")


def test_the_state_of_another_models_run_is_refused(begun, tmp_path):
    """The config of one run with the tensors of another."""
    _, values = raw(begun / STATE_FILE)
    other = dataclasses.replace(PLAN, config=ModelConfig(hidden_size=4), train=dataclasses.replace(TRAIN, epochs=1))
    list(begin_run(other, tmp_path / "other", open_digits, "cpu"))
    tensors, _ = raw(tmp_path / "other" / STATE_FILE)
    save_tensors(begun / STATE_FILE, tensors, values)
    with pytest.raises(CheckpointError, match=r"lstm\.weight_ih_l0 is F32 \(16, 28\) instead of .*\(32, 28\)"):
        resume_run(begun, open_digits, "cpu")


def test_a_model_file_is_no_state_to_go_on_from(begun):
    shutil.copy(begun / CHECKPOINT_FILE, begun / STATE_FILE)
    with pytest.raises(CheckpointError, match=r"state\.safetensors .* no weight adamw\."):
        resume_run(begun, open_digits, "cpu")


@pytest.mark.parametrize("key", ["name", "config", "train", "epoch"])
def test_a_state_without_one_of_its_values_is_damaged(begun, key):
    tensors, values = raw(begun / STATE_FILE)
    save_tensors(begun / STATE_FILE, tensors, {name: value for name, value in values.items() if name != key})
    with pytest.raises(CheckpointError, match=f"damaged metadata: found KeyError: '{key}', .*; train again"):
        resume_run(begun, open_digits, "cpu")


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_damaged_state_is_refused(begun, content):
    (begun / STATE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        resume_run(begun, open_digits, "cpu")


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        (None, {"epoch": math.inf}, "epoch: found inf, expected a whole number from 0 to 3"),
        (None, {"epoch": -5}, "epoch: found -5, expected"),
        (None, {"epoch": 4}, "epoch: found 4, expected"),
        (None, {"name": None}, "name: found something else"),
        ("config", {"hidden_size": 10**6}, "hidden_size: found 1000000, expected"),
        ("train", {"threads": "2"}, "threads: found '2', expected"),
        ("train", {"threads": 10**9}, "threads: found 1000000000, expected"),
    ],
    ids=str,
)
def test_values_that_no_run_writes_are_one_clear_line(begun, part, changed, message):
    tensors, values = raw(begun / STATE_FILE)
    save_tensors(begun / STATE_FILE, tensors, values | ({part: values[part] | changed} if part else changed))
    with pytest.raises(CheckpointError, match=f"has damaged metadata: found .*{message}"):
        resume_run(begun, open_digits, "cpu")


def test_a_failed_resume_leaves_the_run_as_it_was(begun):
    tensors, values = raw(begun / STATE_FILE)
    del tensors["model.head.bias"]
    save_tensors(begun / STATE_FILE, tensors, values)
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError):
        resume_run(begun, open_digits, "cpu")
    assert before == {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}


# Beginning


@pytest.mark.parametrize("name", [CHECKPOINT_FILE, STATE_FILE, LOG_FILE])
def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(OutputError, match=r"already holds a run; go on with --resume, .* or give --overwrite"):
        begin_run(PLAN, tmp_path, open_digits, "cpu")
    assert [(name, b"old")] == [(path.name, path.read_bytes()) for path in tmp_path.iterdir()]


def test_overwriting_trains_anew_and_keeps_nothing_of_the_old_run(whole_run, begun):
    (begun / CHECKPOINT_FILE).write_bytes(b"old")
    (begun / BOARD_DIR / "old").write_bytes(b"old")
    list(begin_run(PLAN, begun, open_digits, "cpu", overwrite=True))
    assert tensors_of(whole_run[0] / CHECKPOINT_FILE) == tensors_of(begun / CHECKPOINT_FILE)
    assert log_of(whole_run[0]) == log_of(begun)
    assert not (begun / BOARD_DIR / "old").exists()


def test_overwriting_removes_the_old_model_before_it_trains(begun):
    """An interrupted new run must not pass off the old weights as its own."""
    next(begin_run(PLAN, begun, open_digits, "cpu", overwrite=True))
    assert [(begun / name).exists() for name in (CHECKPOINT_FILE, STATE_FILE)] == [False, False]


def test_other_files_of_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    begin_run(PLAN, tmp_path, open_digits, "cpu", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*run: found a file in place of one of its folders"):
        begin_run(PLAN, tmp_path / "file" / "run", open_digits, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(TrainingError, match="cannot train on cuda: torch finds no GPU; use --device cpu"):
        begin_run(PLAN, tmp_path / "run", open_digits, "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_that_cannot_begin_leaves_the_old_one(begun):
    before = tensors_of(begun / CHECKPOINT_FILE)
    with pytest.raises(TrainingError):
        begin_run(PLAN, begun, open_digits, "cuda", overwrite=True)
    assert before == tensors_of(begun / CHECKPOINT_FILE)


def test_a_second_training_into_the_folder_is_refused_while_the_first_runs(tmp_path):
    first = begin_run(PLAN, tmp_path, open_digits, "cpu")
    next(first)
    expected = (
        rf"another training writes into {tmp_path}; wait for it to end, stop it, or choose another folder with -o"
    )
    with pytest.raises(OutputError, match=expected):
        begin_run(PLAN, tmp_path, open_digits, "cpu", overwrite=True)
    with pytest.raises(OutputError, match=expected):
        resume_run(tmp_path, open_digits, "cpu")
    first.close()
    next(begin_run(PLAN, tmp_path, open_digits, "cpu", overwrite=True))


def test_a_run_that_is_refused_lets_others_in(begun):
    with pytest.raises(OutputError, match="already holds a run") as refused:
        begin_run(PLAN, begun, open_digits, "cpu")
    assert len(list(resume_run(begun, open_digits, "cpu")[1])) == 2, refused  # whose traceback still knows the lock


@pytest.mark.parametrize("resumed", [False, True])
def test_what_killed_writes_left_in_the_folder_is_removed(begun, resumed):
    left = [begun / f".{name}.abcd_123.part" for name in (CHECKPOINT_FILE, STATE_FILE, LOG_FILE)]
    for path in (*left, begun / ".notes.abcd_123.part"):
        path.touch()
    if resumed:
        resume_run(begun, open_digits, "cpu")
    else:
        begin_run(PLAN, begun, open_digits, "cpu", overwrite=True)
    assert [begun / ".notes.abcd_123.part"] == list(begun.glob("*.part"))


def test_the_validation_images_are_scored_once_an_epoch_and_not_again_at_the_end(tmp_path, monkeypatch, sample):
    shown, real = [], RowLstm.forward
    monkeypatch.setattr(RowLstm, "forward", lambda model, *arrays: shown.append(arrays[0]) or real(model, *arrays))
    list(begin_run(PLAN, tmp_path, open_digits, "cpu"))
    validation = torch.from_numpy(sample.sequences[800:].copy())
    assert TRAIN.epochs == sum(pixels.shape == validation.shape and torch.equal(pixels, validation) for pixels in shown)


def test_denormals_are_rounded_to_zero_while_it_trains_and_not_afterwards(tmp_path):
    smallest = torch.tensor([1e-39])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    torch.set_flush_denormal(False)
    run = begin_run(PLAN, tmp_path, open_digits, "cpu")
    next(run)
    while_training = (smallest * 1).item()
    run.close()
    assert (0, True) == (while_training, (smallest * 1).item() > 0)


def test_a_busy_machine_is_said_once_and_changes_no_bit(whole_run, tmp_path, monkeypatch):
    clock = itertools.count()
    times = lambda: Times(wall=(now := next(clock)), main_thread=0.4 * now, process=1.5 * now)  # noqa: E731
    monkeypatch.setattr(run, "BusyCheck", lambda threads: BusyCheck(4, times))
    events = list(begin_run(PLAN, tmp_path, open_digits, "cpu"))
    [busy] = [event for event in events if isinstance(event, BusyMachine)]
    assert (pytest.approx(0.4), 4, 1) == (busy.share, busy.threads, busy.suggested)
    assert tensors_of(whole_run[0] / STATE_FILE) == tensors_of(tmp_path / STATE_FILE)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(rows=14, cols=56), r"found uint8 \(28, 28\), .*, expected \(14, 56\) of digit, 10 classes"),
        (ModelConfig(class_names=("a", "b")), r"found .*, classes up to 9, expected .*, 2 classes"),
        (ModelConfig(preparation="values"), r"found uint8 .*, expected \(28, 28\) of values"),
    ],
    ids=["shape", "classes", "kind"],
)
def test_images_that_the_model_does_not_read_are_refused(tmp_path, config, message):
    with pytest.raises(DataError, match=f"digits do not fit the model: {message}"):
        next(begin_run(dataclasses.replace(PLAN, config=config), tmp_path, open_digits, "cpu"))


def test_pictures_of_any_shape_and_any_number_of_classes_can_be_trained_on(tmp_path, sample):
    wide = Part(sample.sequences[:, ::2, :], sample.labels % 3, "wide")
    config = ModelConfig(rows=14, rows_per_step=2, hidden_size=4, class_names=("a", "b", "c"))
    list(begin_run(dataclasses.replace(PLAN, config=config), tmp_path, lambda config: dataset_of(wide), "cpu"))
    assert config == load_checkpoint(tmp_path).config


def test_missing_data_leaves_the_old_run(begun):
    def missing(config):
        raise DataError("MNIST is not there")

    before = tensors_of(begun / CHECKPOINT_FILE)
    with pytest.raises(DataError):
        list(begin_run(PLAN, begun, missing, "cpu", overwrite=True))
    assert before == tensors_of(begun / CHECKPOINT_FILE)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    plan = dataclasses.replace(PLAN, train=dataclasses.replace(TRAIN, learning_rate=1e38, clip_norm=None))
    with pytest.raises(TrainingError, match=r"training stopped in epoch 1, step \d+: found a loss of"):
        list(begin_run(plan, tmp_path, open_digits, "cpu"))
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_an_epoch_is_saved_before_it_is_reported(tmp_path):
    for event in begin_run(PLAN, tmp_path, open_digits, "cpu"):
        if isinstance(event, EpochResult):
            assert event.epoch == load_checkpoint(tmp_path).epoch
            assert event.epoch == raw(tmp_path / STATE_FILE)[1]["epoch"]
            return


@pytest.mark.parametrize(
    "refused", [{"device": "cuda"}, {"teachers": [Path("no-such-teacher")]}], ids=["cuda", "teacher"]
)
def test_what_is_refused_leaves_no_folder(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((TrainingError, CheckpointError)):
        begin_run(PLAN, tmp_path / "run", open_digits, **refused)
    assert list(tmp_path.iterdir()) == []


# Sequences of one's own


def gestures(lengths=False, groups=False):
    """60 sequences of 12 rows and 3 columns in two classes, the second column far from zero, the third constant."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 2
    values = draw.normal(0, 1, (60, 12, 3)) + labels[:, None, None]
    values = (values * (1, 10, 0) + (0, 1e4, 7)).astype(np.float32)
    rows = draw.integers(3, 13, 60).astype(np.int32)
    rows[::20] = 12
    if lengths:
        values[np.arange(12)[None] >= rows[:, None]] = 0
    people = np.repeat([*"abcdef"], 10)
    part = Part(values, labels, "gestures", rows if lengths else None, people if groups else None)
    train, validation, test = (part.take(slice(at, at + 20)) for at in (0, 20, 40))
    return Dataset("gestures", "values", ("a", "b"), train, validation, test, "its sha256", "given")


def gesture_plan(dataset, epochs=2):
    config = ModelConfig(
        rows=12, cols=3, hidden_size=8, class_names=("a", "b"), preparation="values",
        variable_length=dataset.variable_length,
    )  # fmt: skip
    return RunPlan("gestures", config, dataclasses.replace(TRAIN, epochs=epochs, batch_size=5, augment=None))


@pytest.mark.parametrize("lengths", [False, True])
def test_values_are_normalised_by_the_training_part_without_padding(tmp_path, lengths):
    dataset = gestures(lengths=lengths)
    list(begin_run(gesture_plan(dataset), tmp_path, lambda config: dataset, "cpu"))
    checkpoint, part = load_checkpoint(tmp_path), dataset.train
    rows = [12] * 20 if part.lengths is None else part.lengths
    values = np.concatenate([one[:n] for one, n in zip(part.sequences, rows, strict=True)]).astype(np.float64)
    np.testing.assert_allclose(checkpoint.weights["mean"], values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(checkpoint.weights["scale"], [*1 / values.std(0)[:2], 1], rtol=1e-6)
    assert tuple(zip(values.min(0), values.max(0), strict=True)) == checkpoint.ranges


def test_pixels_of_few_levels_are_normalised_by_the_largest(tmp_path, sample):
    small = Part(sample.sequences // 16, sample.labels, "small")
    dataset = Dataset("small", "plain", DIGITS, small, small, small, "its sha256", "given")
    plan = dataclasses.replace(PLAN, config=ModelConfig(hidden_size=4, preparation="plain"))
    plan = dataclasses.replace(plan, train=dataclasses.replace(TRAIN, epochs=1))
    list(begin_run(plan, tmp_path, lambda config: dataset, "cpu"))
    checkpoint = load_checkpoint(tmp_path)
    assert [pytest.approx(1 / 15)] == checkpoint.weights["scale"].tolist()
    assert () == checkpoint.ranges


def test_values_of_unequal_lengths_go_on_to_the_very_bits(tmp_path):
    dataset = gestures(lengths=True)
    plan = gesture_plan(dataset)
    list(begin_run(plan, tmp_path / "whole", lambda config: dataset, "cpu"))
    for event in begin_run(plan, tmp_path / "killed", lambda config: dataset, "cpu"):
        if isinstance(event, EpochResult):
            break
    list(resume_run(tmp_path / "killed", lambda config: dataset, "cpu")[1])
    for name in (CHECKPOINT_FILE, STATE_FILE):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_run_does_not_go_on_with_other_data(begun, sample):
    before = tensors_of(begun / STATE_FILE)
    _, events = resume_run(begun, lambda config: dataset_of(sample, "another"), "cpu")
    with pytest.raises(CheckpointError, match="holds a run on other data: found sha256 another, expected a sha256"):
        next(events)
    assert before == tensors_of(begun / STATE_FILE)


def test_a_state_that_does_not_know_its_data_goes_on(begun):
    tensors, values = raw(begun / STATE_FILE)
    del values["data_sha256"]
    save_tensors(begun / STATE_FILE, tensors, values)
    assert isinstance([*resume_run(begun, open_digits, "cpu")[1]][-1], RunEnd)


def test_the_end_tells_what_the_largest_class_would_have_scored_and_how_sure_the_score_is(whole_run, sample):
    end = whole_run[1][-1]
    largest = np.bincount(sample.labels[:800]).argmax()
    assert Score(int((sample.labels == largest).sum()), 1000) == end.baseline
    assert end.test == end.classes.score
    assert end.classes.interval[0] < end.test.accuracy < end.classes.interval[1]
    assert end.random_split is None, "there are no groups"


def test_data_with_groups_is_trained_once_more_without_regard_to_them_after_the_run_is_saved(tmp_path):
    dataset = gestures(groups=True)
    *_, said, end = begin_run(gesture_plan(dataset, 10), tmp_path / "grouped", lambda config: dataset, "cpu")
    assert "disregards groups" in str(said)
    assert end.random_split.n == 20
    plain = gestures()
    *_, other = begin_run(gesture_plan(plain, 10), tmp_path / "plain", lambda config: plain, "cpu")
    assert other.test == end.test, "the second training must not touch the first"
    for name in (CHECKPOINT_FILE, STATE_FILE):
        assert tensors_of(tmp_path / "grouped" / name) == tensors_of(tmp_path / "plain" / name)


def test_the_scores_are_saved_before_the_random_split_is_trained_on(tmp_path):
    dataset = gestures(groups=True)
    for event in begin_run(gesture_plan(dataset), tmp_path, lambda config: dataset, "cpu"):
        if isinstance(event, str):
            break
    assert load_checkpoint(tmp_path).test is not None


def test_groups_too_few_to_be_split_at_random_end_no_run(tmp_path, monkeypatch):
    def too_small(dataset):
        raise DataError("too small")

    monkeypatch.setattr(run, "random_split", too_small)
    dataset = gestures(groups=True)
    *_, end = begin_run(gesture_plan(dataset), tmp_path, lambda config: dataset, "cpu")
    assert (None, 20) == (end.random_split, end.test.n)


# Begun by torchrun, which gives the same arguments to processes that it starts again

LAUNCHED = Group(is_launched=True)


def test_torchrun_goes_on_with_the_run_that_a_killed_process_left(whole_run, tmp_path):
    interrupted(tmp_path, 1)
    first, *_ = begin_run(PLAN, tmp_path, open_digits, "cpu", group=LAUNCHED)
    assert 1 == first.epochs_done
    assert (whole_run[0] / STATE_FILE).read_bytes() == (tmp_path / STATE_FILE).read_bytes()


def test_torchrun_does_not_go_on_with_another_run(begun):
    before = (begun / STATE_FILE).read_bytes()
    other = dataclasses.replace(PLAN, train=dataclasses.replace(TRAIN, seed=4))
    for plan, shards in ((other, None), (PLAN, 2)):
        with pytest.raises(OutputError, match="already holds a run"):
            begin_run(plan, begun, open_digits, "cpu", shards=shards, group=LAUNCHED)
    assert before == (begun / STATE_FILE).read_bytes()


@pytest.mark.parametrize(("n_restarts", "epochs_done"), [(0, 0), (1, 3)])
def test_overwrite_holds_for_the_first_attempt_alone(begun, n_restarts, epochs_done):
    group = dataclasses.replace(LAUNCHED, n_restarts=n_restarts)
    events = begin_run(PLAN, begun, open_digits, "cpu", overwrite=True, group=group)
    assert epochs_done == next(events).epochs_done
    events.close()


def test_a_run_killed_in_its_first_epoch_begins_again_under_torchrun_only(tmp_path):
    (tmp_path / LOG_FILE).write_text("{}\n")
    with pytest.raises(OutputError, match="already holds a run"):
        begin_run(PLAN, tmp_path, open_digits, "cpu")
    events = begin_run(PLAN, tmp_path, open_digits, "cpu", group=LAUNCHED)
    assert 0 == next(events).epochs_done
    events.close()
