"""Tests of tools/card_figures.py: the confusions are counted, and the sheet shows each wrong digit once."""

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgelstm.data.dataset import Part

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("card_figures")


def answering(answers):
    """Logits whose largest is the answer."""
    return np.eye(10, dtype=np.float32)[answers] * 3


def test_confusions_are_counted_labels_down_and_answers_across(tool):
    counts = tool.confusion(answering([7, 7, 1, 2]), np.array([1, 1, 1, 2], np.uint8))
    assert (counts[1, 7], counts[1, 1], counts[2, 2], counts.sum()) == (2, 1, 1, 4)
    rows = tool.confusion_table(counts).splitlines()
    assert rows[3] == "| 1 |  | **1** |  |  |  |  |  | 2 |  |  | 1/3 (33.33 %) |"
    assert rows[2].endswith("| 0/0 |")
    assert {13} == {row.count("|") for row in rows}


def sheet_of(tool, answers, digits):
    content = tool.wrong_sheet(answering(answers), digits)
    with Image.open(io.BytesIO(content)) as image:
        return content, np.asarray(image.convert("L"))


def test_the_sheet_holds_each_wrong_digit_once_and_no_right_one(tool):
    """Digits that are squares of ink, each a pixel wider than the one before."""
    images = np.zeros((30, 28, 28), np.uint8)
    for i in range(30):
        images[i, :, : i % 28 + 1] = 255
    labels = np.zeros(30, np.uint8)
    wrong = [3, 11, 20]
    answers = [4 if i in wrong else 0 for i in range(30)]
    _, sheet = sheet_of(tool, answers, Part(images, labels, "squares"))
    line = sheet[tool.GAP + 14 * tool.ZOOM]  # through the middle of the first row
    dark = np.flatnonzero(np.diff(np.concatenate([[0], line < 64, [0]]).astype(int)))
    widths = [(end - start) / tool.ZOOM for start, end in dark.reshape(-1, 2)]
    assert widths == pytest.approx([4, 12, 21], abs=0.7)


def test_wrong_digits_stand_in_the_order_of_their_labels(tool, sample):
    wrong = [int(np.flatnonzero(sample.labels == label)[0]) for label in (9, 0)]
    answers = sample.labels.copy()
    answers[wrong] = 5
    _, both = sheet_of(tool, answers, sample)
    answers[wrong[0]] = sample.labels[wrong[0]]
    _, only_zero = sheet_of(tool, answers, sample)
    edge = tool.GAP + 28 * tool.ZOOM
    np.testing.assert_array_equal(both[:edge, :edge], only_zero[:edge, :edge])


def test_the_sheet_is_the_same_bytes_twice_and_small_even_with_a_hundred_wrong(tool, sample):
    answers = sample.labels.copy()
    answers[:100] = (answers[:100] + 1) % 10
    first, _ = sheet_of(tool, answers, sample)
    assert first == sheet_of(tool, answers, sample)[0]
    assert len(first) < 150_000


def test_nothing_wrong_is_an_empty_sheet(tool, sample):
    assert sheet_of(tool, sample.labels, sample)[1].min() > 250


def test_the_tool_writes_a_sheet_and_a_table_for_each_model(tool, monkeypatch, tmp_path, capsys, sample):
    monkeypatch.setattr(tool, "split_digits", lambda split: sample)
    monkeypatch.setattr("sys.argv", ["card_figures.py", "base", "base.int8", "-o", str(tmp_path)])
    tool.main()
    assert ["base.int8.wrong.png", "base.wrong.png"] == sorted(path.name for path in tmp_path.iterdir())
    out = capsys.readouterr().out
    assert out.startswith("### base: ")
    assert "### base.int8: " in out
    assert f"of {sample.source}" in out
