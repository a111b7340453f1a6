"""Tests of edgelstm.show.curves and of `edgelstm train --plot`: what is read from a log and what is drawn of it."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgelstm.cli import main
from edgelstm.config import RECIPES
from edgelstm.errors import DataError
from edgelstm.show.curves import TRAINING, VALIDATION, read_log, smoothed, training_plot
from edgelstm.training import run
from edgelstm.training.run import LOG_FILE, PLOT_FILE

pytestmark = pytest.mark.usefixtures("one_thread")


def line(kind, step, right, loss=0.1):
    scores = {"train": {"n_right": right, "n": 100}} | (
        {"validation": {"n_right": right, "n": 100}} if kind == "epoch" else {}
    )
    return {"kind": kind, "step": step, "epoch": 1, "loss": loss, **scores}


LOG = [line("step", 10, 50, 2.0), line("step", 20, 80, 1.0), line("epoch", 20, 90, 1.5), line("epoch", 40, 99, 0.5)]


def inked(drawn, colour):
    """Where the picture has this colour: (rows, columns) as shares of its size."""
    with Image.open(io.BytesIO(drawn)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    rows, cols = np.nonzero((abs(pixels - [int(colour[at : at + 2], 16) for at in (1, 3, 5)]) <= 2).all(axis=2))
    return rows / pixels.shape[0], cols / pixels.shape[1]


def test_a_rising_accuracy_is_drawn_rising_and_a_falling_loss_falling():
    lines = [line("step", step, step, 100 / step) for step in range(10, 100)]
    lines += [line("epoch", step, step) for step in (30, 60, 99)]
    drawn = training_plot(lines, "a run")
    for colour, half, sign in ((TRAINING, "left", 1), (TRAINING, "right", -1), (VALIDATION, "right", -1)):
        rows, cols = inked(drawn, colour)
        kept = (cols < 0.5) == (half == "left")
        kept &= rows > 0.15  # below the titles
        kept &= (rows < 0.75) | (half == "left")  # above the legend
        slope = np.corrcoef(rows[kept], cols[kept])[0, 1]
        assert slope * sign > 0.5, (colour, half, slope)


@pytest.mark.parametrize("lines", [LOG, LOG[2:]], ids=["steps", "epochs only"])
@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_the_same_log_is_drawn_as_the_same_bytes(file_format, lines):
    assert training_plot(lines, "a run", file_format) == training_plot(lines, "a run", file_format)


def test_a_log_without_an_error_and_one_without_a_right_answer_can_be_drawn():
    for right in (0, 100):
        assert training_plot([line("step", 1, right), line("epoch", 2, right)], "a run")


def test_a_log_without_an_epoch_is_one_clear_line():
    with pytest.raises(DataError, match="nothing to draw: the log has no whole epoch"):
        training_plot(LOG[:2], "a run")


def test_smoothing_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(0).random(400)
    found = smoothed(values)
    assert found[200] == pytest.approx(values[195:206].mean())
    assert found[[0, -1]] == pytest.approx([values[:6].mean(), values[-6:].mean()])
    assert smoothed(values[:5]) == pytest.approx(values[:5])


def test_a_log_is_read_up_to_its_last_whole_line(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in LOG) + '{"kind": "st')
    assert LOG == read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("content", [None, "text\n", "[1]\n", '{"kind": "step"}\n', "\xff\n"])
def test_what_is_no_log_is_one_clear_line(tmp_path, content):
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"log\.jsonl cannot be read as a training log: found"):
        read_log(tmp_path / "log.jsonl")


# On the command line


@pytest.fixture
def train(monkeypatch, tmp_path, sample):
    """(options) -> `edgelstm train nano` for two epochs on the sample, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "load_mnist", lambda split, folder: sample)
    monkeypatch.setattr(run, "N_VALIDATION", 200)
    monkeypatch.setattr("edgelstm.data.mnist.ensure_mnist", lambda folder, report: folder)
    monkeypatch.setitem(RECIPES, "fast", dataclasses.replace(RECIPES["fast"], epochs=2, threads=1))

    def invoke(*options, expected=0):
        result = CliRunner().invoke(main, ["train", "nano", "--device", "cpu", "--threads", "1", *options])
        assert result.exit_code == expected, result.output
        return result

    return invoke


def test_train_draws_at_its_end_and_again_when_resumed(train):
    folder = Path("runs/nano")
    assert f"wrote {folder / PLOT_FILE}" in train("--plot").stderr
    drawn = (folder / PLOT_FILE).read_bytes()
    assert training_plot(read_log(folder / LOG_FILE), "nano, recipe fast, seed 0") == drawn
    result = train("--resume", "--plot", "out/curves.svg", "--json")
    assert json.loads(result.stdout)["train"] is None, "nothing was left to train"
    assert Path("out/curves.svg").read_bytes().startswith(b"<?xml")
    train("--overwrite")
    assert not (folder / PLOT_FILE).exists(), "the picture of the old run"


def test_a_plot_that_could_not_be_drawn_is_found_out_before_training(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "drawing a plot needs the package matplotlib" in train("--plot", expected=1).stderr
    assert not Path("runs").exists()


def test_a_word_behind_plot_that_is_no_picture_is_a_usage_error():
    result = CliRunner().invoke(main, ["train", "--plot", "base"])
    assert (result.exit_code, "found base, expected a file that ends in .png or .svg" in result.stderr) == (2, True)
