"""Tests of tools/robustness.py: the changes do what their names say, the same each time, and are counted right."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from edgelstm.config import N_VALIDATION
from edgelstm.contract import Score, in_batches
from edgelstm.data.dataset import Part
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import save_checkpoint
from edgelstm.training.model import TorchRunner

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)  # where a script finds its neighbour, evaluation.py
    return importlib.import_module("robustness")


@pytest.fixture
def images(sample):
    return sample.sequences[:60]


def middles(images):
    """(N, 2): centre of the ink, x and y."""
    ink = images.astype(float)
    axis = np.arange(28) + 0.5
    return np.stack([(ink.sum(1) * axis).sum(1), (ink.sum(2) * axis).sum(1)], 1) / ink.sum((1, 2))[:, None]


def ink(images):
    return images.astype(float).sum((1, 2))


def test_every_change_gives_digits_of_the_same_kind(tool, images):
    for name in tool.CHANGES:
        found = tool.changed(images[:4], name)
        assert (found.dtype, found.shape) == (np.uint8, (4, 28, 28)), name
        assert np.array_equal(found, images[:4]) == (name in ("as they are", "contrast inverted, read by `infer`")), (
            name
        )


def test_a_change_is_the_same_each_time_whatever_the_other_digits_are(tool, images):
    for name in tool.CHANGES:
        np.testing.assert_array_equal(tool.changed(images[:5], name)[:2], tool.changed(images[:2], name), name)


def test_two_digits_are_shifted_different_ways_by_the_same_distance(tool, images):
    moved = middles(tool.changed(images, "shifted 2 px")) - middles(images)
    far = np.hypot(*moved.T)  # less where the edge cut ink off
    assert (np.median(far), far.min() > 1.7) == (pytest.approx(2, abs=0.01), True), far
    assert len({tuple(np.sign(np.round(one))) for one in moved}) >= 4


def test_turned_digits_are_turned_by_the_angle_one_way_or_the_other(tool):
    bar = np.zeros((40, 28, 28), np.uint8)
    bar[:, 13:15, 2:26] = 255
    angles = []
    for image in tool.changed(bar, "rotated 20 degrees"):
        y, x = np.nonzero(image > 127)
        angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
    assert np.abs(angles) == pytest.approx(20, abs=2)
    assert {-1, 1} == set(np.sign(angles))


@pytest.mark.parametrize(("name", "factor"), [("scaled to 70 %", 0.7), ("scaled to 115 %", 1.15)])
def test_scaled_digits_have_ink_of_the_square_of_the_factor(tool, images, name, factor):
    assert np.median(ink(tool.changed(images, name)) / ink(images)) == pytest.approx(factor**2, rel=0.05)


def test_strokes_get_thinner_and_thicker_by_so_much_a_side(tool):
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, :, 10:16] = 255
    for name, width in [
        ("thinned by 0.25 px a side", 5.5), ("thinned by 0.5 px a side", 5), ("thickened by 0.5 px a side", 7),
        ("thickened by 1.0 px a side", 8),
    ]:  # fmt: skip
        assert tool.changed(bar, name)[0, 14].sum() / 255 == pytest.approx(width, abs=0.3), name


def test_noise_has_the_deviation_of_its_name_where_nothing_is_cut_off(tool):
    grey = np.full((20, 28, 28), 128, np.uint8)
    assert tool.changed(grey, "noise, 25 of 255 levels").std() == pytest.approx(25, rel=0.05)
    hit = tool.changed(grey, "5 % of the pixels black or white") != 128
    assert hit.mean() == pytest.approx(0.05, abs=0.01)


def test_blur_and_faint_ink_keep_what_they_should(tool, images):
    blurred = tool.changed(images, "blurred, 1.0 px")
    assert ink(blurred) == pytest.approx(ink(images), rel=0.03)
    assert blurred.max() < images.max()
    np.testing.assert_allclose(tool.changed(images, "ink at 50 %"), images / 2, atol=0.51)
    np.testing.assert_array_equal(tool.changed(images, "contrast inverted"), 255 - images)


def test_the_table_and_the_json_hold_each_models_counts(tool, tmp_path, monkeypatch, capsys, sample, tiny_checkpoint):
    digits = Part(sample.sequences[:40], sample.labels[:40], "forty digits")
    monkeypatch.setattr(tool, "split_digits", lambda split: digits)
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint)
    arguments = ["base", "base.int8", str(tmp_path / "tiny.safetensors"), "--change", "as they are"]
    monkeypatch.setattr("sys.argv", ["robustness.py", *arguments, "--json", str(tmp_path / "r.json")])
    tool.main()
    runners = [OrtRunner(name, provider="cpu") for name in ("base", "base.int8")]
    runners.append(TorchRunner(tiny_checkpoint.model()))
    right = [Score.of(in_batches(runner, digits.sequences, 1), digits.labels) for runner in runners]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "| digits | base | base.int8 | tiny |"
    assert out[2] == f"| as they are | {right[0]} | {right[1]} | {right[2]} |"
    assert right[2].n_right < right[0].n_right
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["right"]["as they are"]["tiny"] == {"n_right": right[2].n_right, "n": 40}


def test_a_missing_model_is_one_line(tool, monkeypatch, sample):
    monkeypatch.setattr(tool, "split_digits", lambda split: sample)
    monkeypatch.setattr("sys.argv", ["robustness.py", "missing.onnx"])
    with pytest.raises(SystemExit, match=r"Error: no model missing\.onnx: found no such file"):
        tool.main()


def test_validation_digits_are_the_last_training_digits(tool, monkeypatch):
    evaluation = importlib.import_module("evaluation")
    digits = Part(np.arange(6000).reshape(-1, 1, 1), np.arange(6000), "x")
    for module in ("evaluation", "edgelstm.data.mnist"):
        monkeypatch.setattr(f"{module}.load_mnist", lambda split, folder=None: digits if split == "train" else split)
    assert np.arange(6000 - N_VALIDATION, 6000).tolist() == evaluation.split_digits("validation").labels.tolist()
    assert evaluation.split_digits("test") == "test"
