"""Tests of `edgelstm train`: results on stdout, progress on stderr, and one clear line for whatever is wrong."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgelstm.cli import main, train
from edgelstm.config import DIGITS, FAMILY, RECIPES
from edgelstm.contract import Score
from edgelstm.measure.classes import ClassReport
from edgelstm.training import train as train_module
from edgelstm.training.busy import BusyMachine
from edgelstm.training.checkpoint import STATE_FILE, load_checkpoint, save_tensors
from edgelstm.training.fit import EpochResult, StepResult
from edgelstm.training.model import RowLstm
from edgelstm.training.run import RunEnd, RunStart
from edgelstm.training.state import RunPlan, new_state, save_state

START = RunStart(n_fitting=55_000, n_steps=429, epochs_done=0, steps_done=0, device="cpu", threads=2)
STEP = StepResult(step=10, epoch=1, loss=0.5, train=Score(100, 128), learning_rate=0.001)
EPOCH = EpochResult(
    step=429, epoch=1, loss=0.25, train=Score(50_000, 55_000), validation=Score(4_900, 5_000), images_per_s=6_000.0,
    validation_logits=np.zeros((1, 10), np.float32),
)  # fmt: skip
CLASSES = ClassReport(Score(9_800, 10_000), (0.9771, 0.9827), 0.98, ((0,) * 10,) * 10, DIGITS)
END = RunEnd(
    Path("runs/nano/model.safetensors"), Score(50_000, 55_000), Score(4_900, 5_000), CLASSES.score, Score(125, 128),
    CLASSES, Score(1_135, 10_000),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _an_empty_folder_and_mnist_is_there(monkeypatch, tmp_path):
    """Every command runs in a folder of its own, with torch's threads put back."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "mnist"))
    monkeypatch.setattr(train_module, "ensure_mnist", lambda **options: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def run(*arguments, expected=0):
    """`edgelstm train` with these arguments, its exit status checked; an exception that came out is shown."""
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert expected == result.exit_code, result.output
    return result


def fails(*arguments):
    """The one error line of a command that must exit 1 and give no result."""
    result = run(*arguments, expected=1)
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert (result.stdout, error) == ("", result.stderr.splitlines()[-1])
    return error.removeprefix("Error: ")


def write_gestures(path="gestures.npz", seed=0, **more):
    """30 sequences of 12 rows and 3 columns whose means tell the three classes apart, and as many to test."""
    draw = np.random.default_rng(seed)
    labels = np.arange(30) % 3
    arrays = {"X": labels, "X_test": labels}
    arrays = {key: draw.normal(0, 0.3, (30, 12, 3)) + y[:, None, None] for key, y in arrays.items()}
    arrays |= {"y": labels, "y_test": labels, "class_names": ["down", "still", "up"], **more}
    np.savez(path, **arrays)
    return path


def kept_run(folder, name):
    """A run folder with the state of a member of the family that has not been trained."""
    plan = RunPlan(name, FAMILY[name], RECIPES["fast"])
    save_state(folder / STATE_FILE, plan, new_state(RowLstm(plan.config), plan.train))
    return plan


# Refusals


@pytest.mark.parametrize(
    "arguments",
    ["huge", "--recipe slow", "--epochs 0", "--seed -1", f"--seed {2**64}", "--resume --overwrite", "--plot x.png"],
)
def test_arguments_that_mean_nothing_are_a_usage_error(arguments):
    assert "Usage: " in run(*arguments.split(), expected=2).stderr


@pytest.mark.parametrize("arguments", ["--rows-per-step 3", "--hidden-size 9999", "--layers 17"])
def test_a_shape_that_no_model_has_is_a_usage_error(arguments):
    assert "Error: " in run(*arguments.split(), expected=2).stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["base"], "found model small, expected base"),
        (["small", "--recipe", "best"], "found recipe fast, expected best"),
        (["small", "--seed", "5"], "found seed 0, expected 5"),
    ],
)
def test_a_resume_from_another_run_is_one_clear_line(asked, expected):
    kept_run(Path("kept"), "small")
    error = fails(*asked, "--resume", "-o", "kept")
    assert error.startswith("cannot resume: kept holds another run")
    assert expected in error


def test_a_resume_from_another_models_weights_is_one_clear_line():
    plan = kept_run(Path("kept"), "small")
    tensors = new_state(RowLstm(FAMILY["nano"]), plan.train).tensors()
    save_tensors(Path("kept") / STATE_FILE, tensors, {**dataclasses.asdict(plan), "epoch": 1})
    assert "does not hold the weights of its own config" in fails("small", "--resume", "-o", "kept")


def test_a_resume_from_nothing_is_one_clear_line_and_makes_no_folder():
    assert "no checkpoint at runs/base/state.safetensors" in fails("--resume")
    assert not Path("runs").exists()


def test_a_run_folder_that_cannot_be_written_is_one_clear_line():
    Path("file").touch()
    assert fails("nano", "-o", "file/run").startswith("cannot write file/run")


def test_a_folder_that_holds_a_run_is_not_trained_over():
    kept_run(Path("kept"), "small")
    before = (Path("kept") / STATE_FILE).read_bytes()
    assert "kept already holds a run; go on with --resume" in fails("small", "-o", "kept")
    assert before == (Path("kept") / STATE_FILE).read_bytes()


def test_data_that_is_none_is_one_clear_line_before_anything_is_made():
    Path("letters/a").mkdir(parents=True)
    assert "letters" in fails("nano", "--data", "letters")
    assert fails("nano", "--data", "lettres").startswith("no file or folder lettres: expected a folder")
    assert [Path("letters")] == list(Path().iterdir())


# What is shown


@pytest.fixture
def told(monkeypatch):
    """Have train show these events instead of training; an exception among them is raised."""

    def tell(*events):
        def begin_run(plan, folder, open_data, device, *, teachers, overwrite, shards, group):
            for event in events:
                if isinstance(event, type):
                    raise event
                yield event

        monkeypatch.setattr(train_module, "begin_run", begin_run)

    return tell


def test_train_prints_its_results_and_its_progress_apart(told):
    told(START, STEP, EPOCH, END)
    result = run("nano")
    assert result.stdout.splitlines() == [
        "training    50,000/55,000 (90.91 %), in the last epoch",
        "validation  4,900/5,000 (98.00 %)",
        "test        9,800/10,000 (98.00 %), first 128: 125/128 (97.66 %)",
        "wrote       runs/nano/model.safetensors",
    ]
    assert result.stderr.splitlines() == [
        "nano: 11,850 parameters, recipe fast, seed 0 -> runs/nano",
        "training: 55,000 sequences, 429 steps in all, cpu, 2 threads",
        "epoch   1  loss 0.2500  train 90.91 %  validation 4,900/5,000 (98.00 %)  6,000 sequences/s",
        "next: edgelstm export runs/nano",
    ]


@pytest.mark.parametrize("option", [["--steps"], ["--recipe", "tutorial"]])
def test_train_shows_loss_and_accuracy_of_steps_when_asked_and_in_the_tutorial(told, option):
    told(START, STEP, EPOCH, END)
    assert "step    10  loss 0.5000  accuracy 0.781\n" in run("nano", *option).stderr


def test_a_terminal_shows_a_bar_below_the_lines_and_none_at_the_end(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = train._Progress(None, False, None)
    for event in (START, STEP, EPOCH):
        progress.show(event)
    text = terminal.getvalue()
    assert "10/429" in text
    assert "epoch 1  loss 0.5000  accuracy 0.781" in text
    *_, last = text.split("\r\x1b[K\x1b[?25h")
    assert last.startswith("epoch   1  loss 0.2500"), "the bar is taken away and the cursor shown before a line"
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K\x1b[?25h")


def test_train_json_is_one_document(told):
    told(START, EPOCH, END)
    document = json.loads(run("nano", "--seed", 3, "--epochs", 2, "--json").stdout)
    assert document["test"] == {"n_right": 9_800, "n": 10_000}
    plan = document["plan"]
    assert ("nano", 3, 2) == (plan["name"], plan["train"]["seed"], plan["train"]["epochs"])


def test_a_busy_machine_is_said_in_one_line_with_the_threads_to_try(told):
    told(START, BusyMachine(share=0.234, seconds=3.1, threads=4, suggested=2), EPOCH, END)
    [line] = [line for line in run("nano").stderr.splitlines() if "busy" in line]
    assert line == (
        "the machine is busy: in 3 s of training its 4 threads had cores 23 % of the time, "
        "and each step waits for the last of them; --threads 2 is probably faster"
    )


def test_ctrl_c_names_the_last_checkpoint_and_how_to_go_on(told):
    told(START, EPOCH, KeyboardInterrupt)
    line = run("nano", expected=130).stderr.splitlines()[-1]
    assert line == (
        "interrupted; runs/nano holds the checkpoint of epoch 1. Go on with: edgelstm train --resume -o runs/nano"
    )


def test_ctrl_c_repeats_the_data_the_teachers_and_a_folder_with_a_blank(told):
    told(START, EPOCH, KeyboardInterrupt)
    write_gestures("my data.npz")
    arguments = ("--data", "my data.npz", "--channels-first", "--teacher", "a", "--teacher", "b.onnx", "-o", "my run")
    line = run("nano", *arguments, expected=130).stderr.splitlines()[-1]
    assert line.endswith(
        "Go on with: edgelstm train --resume -o 'my run' --data 'my data.npz' --channels-first --teacher a "
        "--teacher b.onnx"
    )


def test_ctrl_c_before_the_first_checkpoint_promises_none(told):
    told(START, STEP, KeyboardInterrupt)
    assert "interrupted before the first checkpoint" in run("nano", expected=130).stderr


# One's own data


def test_own_data_gives_a_run_of_its_name_and_a_report_class_by_class():
    result = run("--data", write_gestures(), "--epochs", 4, "--threads", 1)
    described, planned, training, *_, following = result.stderr.splitlines()
    assert described.startswith("60 sequences of 12 rows x 3 columns, float32, 3 classes, ")
    assert planned.endswith("recipe fast, seed 0 -> runs/gestures")
    assert training.startswith("training: ")
    assert following == "next: edgelstm export runs/gestures --data gestures.npz"
    names = [line.partition(" ")[0] for line in result.stdout.split("\n\n")[0].splitlines()]
    assert names == ["training", "validation", "test", "baseline", "wrote"]
    assert "baseline    10/30 (33.33 %)" in result.stdout
    assert "macro-F1 1.000" in result.stdout
    table = [line.split() for line in result.stdout.split("answers to the test part\n")[1].splitlines()]
    assert table == [
        ["true", "down", "still", "up"], ["down", "10", ".", "."], ["still", ".", "10", "."], ["up", ".", ".", "10"],
    ]  # fmt: skip


def test_of_many_classes_only_what_was_confused_is_named():
    labels = np.arange(26) % 13
    sequences = np.random.default_rng(0).normal(0, 1, (26, 4, 1))
    write_gestures(X=sequences, y=labels, X_test=sequences, y_test=labels, class_names=[*"abcdefghijklm"])
    result = run("--data", "gestures.npz", "--epochs", 1, "--threads", 1)
    [confused] = [line for line in result.stdout.splitlines() if line.startswith("confused")]
    assert " for " in confused
    assert "answers to the test part" not in result.stdout


def test_where_groups_are_known_the_score_without_regard_to_them_stands_beside():
    sequences, groups = np.zeros((60, 12, 3)), np.arange(60) // 10
    sequences[:, :, 0] = groups[:, None]
    sequences[:, 0, 1] = np.arange(60)
    labels = groups % 2
    np.savez("people.npz", X=sequences, y=labels, group=groups)
    result = run("--data", "people.npz", "--epochs", 2, "--threads", 1)
    assert "random " in result.stdout
    assert "split that disregards groups" in result.stderr


def test_own_data_goes_on_where_it_was_and_other_data_is_refused():
    run("--data", write_gestures(), "--epochs", 2, "--threads", 1)
    before = (Path("runs/gestures") / STATE_FILE).read_bytes()
    result = run("--data", "gestures.npz", "--resume")
    assert "going on after epoch 2" in result.stderr
    write_gestures(seed=1)
    assert "runs/gestures holds a run on other data: found sha256 " in fails("--data", "gestures.npz", "--resume")
    assert before == (Path("runs/gestures") / STATE_FILE).read_bytes()


def test_what_misleads_is_said_before_training_begins(told):
    told(START, END)
    labels = np.arange(30) % 3
    sequences = np.random.default_rng(0).normal(0, 1, (30, 12, 3))
    write_gestures(X=sequences, X_test=sequences, y=labels, y_test=labels)  # the same on both sides
    lines = run("--data", "gestures.npz").stderr.splitlines()
    warned = [number for number, line in enumerate(lines) if line.startswith("warning: ")]
    assert warned
    assert max(warned) < lines.index(next(line for line in lines if line.startswith("training: ")))


@pytest.mark.parametrize("size", ["8", "8x", "axb", "8x8x8", "0x8"])
def test_a_size_that_is_none_is_refused(size):
    Path("pictures").mkdir()
    result = CliRunner().invoke(main, ["train", "--data", "pictures", "--size", size])
    assert result.exit_code in (1, 2)
    assert "Error: " in result.stderr
    assert not Path("runs").exists()


def test_a_run_on_own_data_is_resumed_in_its_own_folder_and_by_its_models_name():
    run("small", "--data", write_gestures(), "--epochs", 1, "--threads", 1)
    for arguments in ((), ("small",), ("small", "-o", "runs/gestures")):
        result = run(*arguments, "--data", "gestures.npz", "--resume")
        assert "going on after epoch 1" in result.stderr
        assert "wrote       runs/gestures/model.safetensors" in result.stdout
    assert "found model small, expected nano" in fails("nano", "--data", "gestures.npz", "--resume")


def test_sizes_are_those_of_the_data_unless_they_are_given():
    run("nano", "--data", write_gestures(), "--epochs", 1, "--threads", 1, "--rows-per-step", 3, "--layers", 2)
    config = load_checkpoint("runs/gestures").config
    assert (12, 3, 3, 2, 32, "values", ("down", "still", "up")) == (
        config.rows, config.cols, config.rows_per_step, config.n_layers, config.hidden_size, config.preparation,
        config.class_names,
    )  # fmt: skip
    assert "does not divide the 12 rows" in run("--data", "gestures.npz", "--rows-per-step", 5, expected=2).stderr


def test_names_in_data_cannot_forge_a_line():
    x = np.random.default_rng(0).normal(0, 1, (40, 8, 1))
    np.savez("x.npz", X=x, y=np.array(["a\x1b[31m", "b\ntest 100 %"])[np.arange(40) % 2])
    result = run("--data", "x.npz", "--epochs", 1, "--threads", 1)
    assert "\x1b" not in result.stdout + result.stderr
    assert not any(line.startswith("test 100") for line in result.stdout.splitlines())


def test_own_data_is_read_once(monkeypatch):
    monkeypatch.setattr("edgelstm.data.evaluation.open_dataset", lambda *_, **__: pytest.fail("read again"))
    run("--data", write_gestures(), "--epochs", 1, "--threads", 1)
