"""Tests of edgelstm.show.explain: its last row is infer's answer, where an answer settles, and what is drawn of it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgelstm.config import ModelConfig
from edgelstm.errors import PictureError
from edgelstm.onnx_file import open_model
from edgelstm.runtime.classifier import Classifier, Prediction
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream
from edgelstm.show.explain import COLOURS, MAX_WHOLE, Explanation, explain, explanation_plot, logits_of_beginnings

PICTURES = sorted(Path(__file__).with_name("pictures").glob("*/ql*"))
"""One of each digit but 6 to 9, as people draw them."""


def explained(leaders, *, classes=3, rows_per_step=1, pixels=None):
    """An explanation in which these classes are ahead after each step, with 0.6."""
    shares = np.full((len(leaders), classes), 0.4 / (classes - 1))
    shares[range(len(leaders)), leaders] = 0.6
    names = tuple("abcdefghijklmnop"[:classes])
    prediction = Prediction(
        "x.png", leaders[-1], names[leaders[-1]], 0.6, ((names[leaders[-1]], 0.6),), sequence=pixels
    )
    return Explanation(prediction, names, rows_per_step, shares)


@pytest.mark.parametrize("model", ["base", "base.int8"])
def test_the_probability_after_the_last_row_is_what_infer_says(model):
    assert len(PICTURES) >= 5
    classifier = Classifier(model, provider="cpu", top=10)
    for picture in PICTURES:
        expected = dict(classifier.classify(picture).top)
        found = explain(picture, model).probabilities[-1]
        assert found == pytest.approx([expected[str(digit)] for digit in range(10)], abs=6e-5), picture  # 4 decimals


@pytest.mark.parametrize("kind", ["picture", "stream"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hidden_size=8),
        ModelConfig(rows=12, cols=20, rows_per_step=3, hidden_size=8, n_layers=2, class_names=("a", "b", "c")),
    ],
    ids=["28 x 28", "12 x 20, two layers"],
)
def test_any_exported_file_can_be_explained(checkpoint_of, model_bytes_of, config, precision, kind):
    content = model_bytes_of(checkpoint_of(config), precision, kind)
    explanation = explain(PICTURES[0], content)
    assert explanation.probabilities.shape == (config.n_steps, config.n_classes)
    assert explanation.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert Classifier(content, provider="cpu").classify(PICTURES[0]).confidence == pytest.approx(
        explanation.probabilities[-1].max(), abs=6e-5
    )
    assert explanation.n_rows == config.rows


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_last_beginning_is_the_whole_picture_bit_for_bit(tiny_checkpoint, model_bytes_of, sample, precision):
    """int8 scales its input over a call, so rows given in other calls would be rounded otherwise."""
    content = model_bytes_of(tiny_checkpoint, precision)
    for pixels in sample.sequences[:5]:
        found = logits_of_beginnings(Stream(content), pixels)
        assert np.array_equal(found[-1], OrtRunner(content, provider="cpu").logits(pixels[None])[0])
        first = Stream(content).push(pixels[None, :9])[0]
        assert np.array_equal(found[8], first)


@pytest.mark.parametrize(
    ("leaders", "rows_per_step", "expected"),
    [([0, 1, 2, 2], 1, 3), ([2, 1, 2, 2], 1, 3), ([2, 2, 2, 2], 1, 1), ([0, 0, 0, 1], 1, 4), ([0, 1, 1], 2, 4)],
)
def test_it_settled_at_the_row_from_which_the_answer_stays(leaders, rows_per_step, expected):
    assert expected == explained(leaders, rows_per_step=rows_per_step).settled_at_row


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(PictureError):
        explain(tmp_path / "x.png")


def test_a_picture_without_ink_is_refused_with_its_name(tmp_path):
    Image.new("L", (60, 60), 255).save(tmp_path / "blank.png")
    with pytest.raises(PictureError, match=r"blank.png holds nothing to explain \(no ink found\): expected a picture"):
        explain(tmp_path / "blank.png")


def test_without_a_model_it_is_that_of_this_folder_or_base(tmp_path, monkeypatch, tiny_model_bytes):
    monkeypatch.chdir(tmp_path)
    before = explain(PICTURES[0]).probabilities
    assert np.array_equal(before, explain(PICTURES[0], "base").probabilities)
    Path("runs/base").mkdir(parents=True)
    Path("runs/base/model.onnx").write_bytes(tiny_model_bytes)
    found = explain(PICTURES[0]).probabilities
    assert np.array_equal(found, explain(PICTURES[0], open_model(tiny_model_bytes)).probabilities)
    assert not np.array_equal(found, before)


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


# Values

GESTURE = ModelConfig(rows=12, cols=3, hidden_size=6, class_names=("a", "b"), preparation="values")


@pytest.mark.parametrize("config", [GESTURE, replace(GESTURE, rows_per_step=3), replace(GESTURE, variable_length=True)])
def test_a_sequence_of_values_has_an_answer_after_each_step(checkpoint_of, model_bytes_of, config):
    content = model_bytes_of(checkpoint_of(config))
    values = np.random.default_rng(0).normal(0, 1, (12, 3))
    explanation = explain(values, content)
    assert (explanation.n_rows, len(explanation.probabilities)) == (12, 12 // config.rows_per_step)
    assert explanation.is_values
    expected = Classifier(content, provider="cpu").classify(values)
    assert (expected.confidence, expected.index) == (explanation.probabilities[-1].max(), explanation.leaders[-1])
    turned = explain(values.T, content, channels_first=True)
    np.testing.assert_array_equal(turned.probabilities, explanation.probabilities)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_long_sequence_is_read_once_and_ends_with_the_very_answer(checkpoint_of, model_bytes_of, precision):
    content = model_bytes_of(checkpoint_of(replace(GESTURE, variable_length=True)), precision)
    values = np.random.default_rng(0).normal(0, 1, (MAX_WHOLE + 40, 3)).astype(np.float32)
    stream, calls = Stream(content), []
    push, reset = stream.push, stream.reset
    stream.push = lambda rows: calls.append(rows.shape[1]) or push(rows)
    stream.reset = lambda: calls.append("reset") or reset()
    found = logits_of_beginnings(stream, values)
    assert ["reset", *[1] * (len(values) - 1), "reset", len(values), "reset"] == calls
    assert np.array_equal(found[-1], OrtRunner(content, provider="cpu").logits(values[None])[0])
    if precision == "fp32":
        np.testing.assert_allclose(found[:50], logits_of_beginnings(Stream(content), values[:50]), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (60, 3), (40, 30)])
@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_values_are_drawn_as_a_line_a_column(shape, file_format):
    values = np.linspace(-1, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    explanation = replace(explained([0] * (shape[0] // 2) + [1] * (shape[0] - shape[0] // 2)))
    explanation = replace(explanation, prediction=replace(explanation.prediction, sequence=values))
    drawn = explanation_plot(explanation, file_format)
    assert drawn == explanation_plot(explanation, file_format)
    if file_format == "svg":
        text = drawn.decode()
        named = [number for number in range(1, 41) if f"<!-- column {number} -->" in text]
        assert list(range(1, min(shape[1], 20) + 1)) == named
        assert ("and 10 more columns" in text) == (shape[1] == 30)
        assert "settled at row" in text


def test_the_legend_of_values_names_every_class_that_ever_led():
    explanation = replace(explained([0, 0, 1, 2]), class_names=("_rest", "walk", "run", *"defghij"))
    values = np.zeros((4, 3), np.float32)
    explanation = replace(explanation, prediction=replace(explanation.prediction, sequence=values))
    drawn = explanation_plot(explanation, "svg").decode()
    legend = drawn[drawn.index('id="legend_1"') :].split('</g>\n  <g id="text_', 1)[0]
    assert ["_rest", "walk", "run"] == [name for name in explanation.class_names if f"<!-- {name} -->" in legend]


@pytest.mark.parametrize(
    "sequence", [np.ones((4, 4), np.uint8), np.ones((4, 2), np.float32)], ids=["picture", "values"]
)
def test_a_class_name_is_no_formula(sequence):
    explanation = explained([0, 1, 2, 2], pixels=sequence)
    drawn = explanation_plot(replace(explanation, class_names=("$a", "b$", r"$\bad$")), "svg").decode()
    assert r"$\bad$" in drawn
