"""Tests of edgelstm.show.explain: its last row is infer's answer, where an answer settles, and what is drawn of it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgelstm.cli import main
from edgelstm.cli.output import drawing
from edgelstm.errors import ModelError, PictureError
from edgelstm.export.graph import build_model
from edgelstm.runtime.classifier import Classifier, Prediction
from edgelstm.show import explain as explain_module
from edgelstm.show.explain import COLOURS, Explanation, explain, explanation_plot

PICTURES = sorted(Path(__file__).with_name("pictures").glob("*/ql*"))
"""One of each digit but 6 to 9, as people draw them."""


def explained(leaders, *, classes=3, rows_per_step=1, pixels=None):
    """An explanation in which these classes are ahead after each step, with 0.6."""
    shares = np.full((len(leaders), classes), 0.4 / (classes - 1))
    shares[range(len(leaders)), leaders] = 0.6
    names = tuple("abcdefghijklmnop"[:classes])
    prediction = Prediction("x.png", leaders[-1], names[leaders[-1]], 0.6, ((names[leaders[-1]], 0.6),), pixels=pixels)
    return Explanation(prediction, names, rows_per_step, shares)


@pytest.mark.parametrize("model", ["base", "base.int8"])
def test_the_probability_after_the_last_row_is_what_infer_says(model):
    assert len(PICTURES) >= 5
    classifier = Classifier(model, provider="cpu", top=10)
    for picture in PICTURES:
        expected = dict(classifier.classify(picture).top)
        found = explain(picture, model).probabilities[-1]
        assert found == pytest.approx([expected[str(digit)] for digit in range(10)], abs=6e-5), picture  # 4 decimals


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_any_exported_file_can_be_explained(tiny_checkpoint, precision):
    content = build_model(tiny_checkpoint, precision).SerializeToString()
    explanation = explain(PICTURES[0], content)
    assert explanation.probabilities.shape == (28, 10)
    assert explanation.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert Classifier(content, provider="cpu").classify(PICTURES[0]).confidence == pytest.approx(
        explanation.probabilities[-1].max(), abs=6e-5
    )


@pytest.mark.parametrize(
    ("leaders", "rows_per_step", "expected"),
    [([0, 1, 2, 2], 1, 3), ([2, 1, 2, 2], 1, 3), ([2, 2, 2, 2], 1, 1), ([0, 0, 0, 1], 1, 4), ([0, 1, 1], 2, 4)],
)
def test_it_settled_at_the_row_from_which_the_answer_stays(leaders, rows_per_step, expected):
    assert expected == explained(leaders, rows_per_step=rows_per_step).settled_at_row


def test_a_last_row_that_is_not_the_answer_is_refused(tiny_model_bytes, monkeypatch):
    real = explain_module.with_step_logits
    other = bytearray(tiny_model_bytes)
    head = other.index(b"head.bias\x4a") + len(b"head.bias\x4a") + 1
    other[head + 3] ^= 0x7F  # the exponent of a bias
    monkeypatch.setattr(explain_module, "with_step_logits", lambda content, source: real(bytes(other), source))
    with pytest.raises(ModelError, match="its answer after the last row is not its answer to the picture"):
        explain(PICTURES[0], tiny_model_bytes)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(PictureError):
        explain(tmp_path / "x.png")


# Drawn


def rows_of(drawn):
    with Image.open(io.BytesIO(drawn)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_each_row_of_the_picture_has_the_colour_of_the_class_that_was_ahead():
    """A white square as the picture, whose upper half the one class led and whose lower half the other."""
    pixels = np.full((28, 28), 255, np.uint8)
    drawn = rows_of(explanation_plot(explained([0] * 14 + [1] * 14, pixels=pixels)))
    height, width, _ = drawn.shape
    column = drawn[:, width // 4]  # through the middle of the picture
    for index in (0, 1):
        colour = [int(COLOURS[index][at : at + 2], 16) for at in (1, 3, 5)]
        rows = np.flatnonzero((abs(column - colour) <= 2).all(axis=1))
        assert len(rows) > 0.3 * height, COLOURS[index]
        assert (rows.mean() < height * 0.55) == (index == 0)


def test_the_stream_of_the_answer_is_the_widest_at_the_bottom():
    drawn = rows_of(explanation_plot(explained([0, 1, 2, 2], pixels=np.zeros((4, 4), np.uint8))))
    line = drawn[int(0.85 * len(drawn)), drawn.shape[1] // 2 :]
    widths = [
        int((abs(line - [int(colour[at : at + 2], 16) for at in (1, 3, 5)]) <= 2).all(axis=1).sum())
        for colour in COLOURS[:3]
    ]
    assert widths[2] == pytest.approx(3 * widths[0], rel=0.1), widths  # 0.6 against 0.2
    assert widths[0] == pytest.approx(widths[1], abs=2)


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_the_same_explanation_is_drawn_as_the_same_bytes(file_format):
    explanation = explained([0, 11, 2, 1], classes=12, pixels=np.zeros((4, 4), np.uint8))
    assert explanation_plot(explanation, file_format) == explanation_plot(explanation, file_format)


# On the command line


@pytest.fixture
def said(tmp_path, tiny_checkpoint, monkeypatch):
    """(arguments) -> the result of `edgelstm explain` for a picture and a model of two rows a step."""
    monkeypatch.chdir(tmp_path)
    Path("digit.jpg").write_bytes(PICTURES[0].read_bytes())
    Path("tiny.onnx").write_bytes(build_model(tiny_checkpoint).SerializeToString())

    def say(*arguments, **options):
        result = CliRunner().invoke(main, ["explain", *arguments, "--model", "tiny.onnx"], **options)
        assert result.exit_code == 0, result.output
        return result

    return say


def test_explain_prints_the_answer_and_a_line_a_row_with_its_ink(said):
    head, title, *rows = said("digit.jpg").stdout.splitlines()
    explanation = explain("digit.jpg", "tiny.onnx")
    best = 100 * explanation.probabilities[-1].max()
    assert f"digit.jpg  {explanation.prediction.label}  {best:.1f} %, settled at row" in head
    assert ["row", "input", "best"] == title.split()
    assert [str(row) for row in range(1, 29)] == [line.split()[0] for line in rows]
    assert [explanation.settled_at_row] == [row for row, line in enumerate(rows, 1) if line.endswith("settled")]
    for line, ink in zip(rows, drawing(explanation.prediction).split("\n"), strict=True):
        assert line[5:].startswith(ink), line


def test_explain_json_has_the_answer_and_every_row(said):
    document = json.loads(said("digit.jpg", "--json").stdout)
    assert (28, 28) == (len(document["rows"]), document["rows"][-1]["row"])
    assert (document["label"], pytest.approx(document["confidence"], abs=6e-5)) == (
        document["rows"][-1]["best"], document["rows"][-1]["probability"]
    )  # fmt: skip
    for row in document["rows"]:
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["best"]]
        assert sum(row["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(("name", "begins"), [("why.png", b"\x89PNG"), ("why.svg", b"<?xml")])
def test_explain_draws_into_the_file_and_takes_standard_input(said, name, begins):
    result = said("-", "-o", name, input=PICTURES[0].read_bytes())
    assert Path(name).read_bytes().startswith(begins)
    assert f"wrote {name}\n" == result.stderr
    assert result.stdout.startswith("-  ")
