"""Tests of edgelstm.runtime.classifier: pictures in, digits out, in order, whatever lies between them."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper
from PIL import Image

import edgelstm
from edgelstm.data.picture import read_picture
from edgelstm.errors import ModelError, PictureError
from edgelstm.runtime import classifier
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.classifier import CHUNK, Classifier, Prediction

KEYS = ["image", "digit", "label", "confidence", "top", "note", "error"]


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def pictures(sample):
    """150 real digits as PNG files' bytes: two full chunks and a part of one."""
    return [png(image) for image in sample.images[: 2 * CHUNK + 22]]


@pytest.fixture(scope="module")
def tiny(tiny_model_bytes):
    return Classifier(tiny_model_bytes, provider="cpu")


@pytest.fixture
def batches(monkeypatch, tiny):
    """The size of every batch that the model is run on."""
    seen, real = [], tiny.runner.logits

    def logits(pixels):
        seen.append(len(pixels))
        return real(pixels)

    monkeypatch.setattr(tiny.runner, "logits", logits)
    return seen


def expected_digits(tiny, pictures):
    pixels = np.stack([read_picture(picture).pixels for picture in pictures])
    return [int(digit) for digit in tiny.runner.logits(pixels).argmax(1)]


def renamed(content, *names):
    """The same model with other class names."""
    model = onnx.load_model_from_string(content)
    for entry in model.metadata_props:
        if entry.key == "edgelstm.config":
            entry.value = json.dumps({**json.loads(entry.value), "class_names": names})
    return model.SerializeToString()


def with_weight(content, name, value):
    """The same model with one tensor filled with a value."""
    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = np.full_like(numpy_helper.to_array(tensor), value)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model.SerializeToString()


# One picture


def test_a_picture_is_read_as_the_class_of_its_largest_logit(tiny, pictures):
    [expected] = expected_digits(tiny, pictures[:1])
    prediction = tiny.classify(pictures[0])
    assert (expected, str(expected), None) == (prediction.digit, prediction.label, prediction.error)


def test_the_confidence_is_the_softmax_of_the_largest_logit(tiny, pictures):
    logits = tiny.runner.logits(read_picture(pictures[0]).pixels[None])[0].astype(np.float64)
    expected = np.exp(logits.max()) / np.exp(logits).sum()
    assert tiny.classify(pictures[0]).confidence == pytest.approx(expected, abs=1e-4)


def test_the_prediction_holds_what_the_model_was_shown(tiny, pictures):
    np.testing.assert_array_equal(tiny.classify(pictures[0]).pixels, read_picture(pictures[0]).pixels)


def with_temperature(content, value):
    """The same model, whose logits are divided before they are shares."""
    model = onnx.load_model_from_string(content)
    model.metadata_props.add(key="edgelstm.temperature", value=json.dumps(value))
    return model.SerializeToString()


def test_the_confidence_goes_through_the_models_temperature_and_the_logits_do_not(tiny, tiny_model_bytes, pictures):
    cold = Classifier(with_temperature(tiny_model_bytes, 0.25), provider="cpu", top=10)
    pixels = read_picture(pictures[0]).pixels[None]
    logits = tiny.runner.logits(pixels)
    np.testing.assert_array_equal(logits, cold.runner.logits(pixels))
    expected = np.exp(4.0 * logits[0].astype(float))
    prediction = cold.classify(pictures[0])
    assert prediction.confidence == pytest.approx((expected / expected.sum()).max(), abs=1e-4)
    assert prediction.confidence > tiny.classify(pictures[0]).confidence


def test_less_confidence_than_asked_for_is_no_digit_but_still_what_was_seen(tiny, tiny_model_bytes, pictures):
    plain = tiny.classify(pictures[0])
    strict = Classifier(tiny_model_bytes, provider="cpu", min_confidence=plain.confidence + 0.01)
    prediction = strict.classify(pictures[0])
    assert (prediction.digit, prediction.label, prediction.error, prediction.abstained) == (None, None, None, True)
    assert (prediction.confidence, prediction.top) == (plain.confidence, plain.top)
    assert "low confidence" in prediction.note
    lax = Classifier(tiny_model_bytes, provider="cpu", min_confidence=plain.confidence)
    assert (plain.digit, False) == (lax.classify(pictures[0]).digit, lax.classify(pictures[0]).abstained)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_confidence_that_is_no_share_is_refused(tiny_model_bytes, value):
    with pytest.raises(ValueError, match="min_confidence"):
        Classifier(tiny_model_bytes, provider="cpu", min_confidence=value)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read_as_its_bytes_are_and_keeps_its_name(tiny, pictures, tmp_path, kind):
    path = tmp_path / "digit.png"
    path.write_bytes(pictures[0])
    from_path, from_bytes = tiny.classify(kind(path)), tiny.classify(pictures[0])
    assert (str(path), "-") == (from_path.image, from_bytes.image)
    assert (from_bytes.digit, from_bytes.top) == (from_path.digit, from_path.top)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_one_picture_that_cannot_be_read_raises(tiny, content):
    with pytest.raises(PictureError):
        tiny.classify(content)


def test_a_picture_without_ink_has_a_note_and_no_error(tiny):
    prediction = tiny.classify(png(np.zeros((28, 28), np.uint8)))
    assert (prediction.note, prediction.error) == ("no ink found", None)
    assert (prediction.digit, prediction.confidence, prediction.top, prediction.abstained) == (None, None, (), True)


@pytest.mark.parametrize(("top", "expected"), [(1, 1), (3, 3), (10, 10), (99, 10)])
def test_top_holds_as_many_classes_as_asked_for_and_there_are(tiny_model_bytes, pictures, top, expected):
    prediction = Classifier(tiny_model_bytes, provider="cpu", top=top).classify(pictures[0])
    assert expected == len(prediction.top)


def test_top_begins_with_the_answer_and_falls(tiny_model_bytes, pictures):
    prediction = Classifier(tiny_model_bytes, provider="cpu", top=10).classify(pictures[0])
    shares = [share for _, share in prediction.top]
    assert (prediction.label, prediction.confidence) == prediction.top[0]
    assert sorted(shares, reverse=True) == shares
    assert {str(digit) for digit in range(10)} == {name for name, _ in prediction.top}
    assert sum(shares) == pytest.approx(1, abs=10 * 5e-5)


def test_a_tie_goes_to_the_first_class(tiny_model_bytes, pictures):
    content = with_weight(with_weight(tiny_model_bytes, "head.weight", 0), "head.bias", 0)
    prediction = Classifier(content, provider="cpu").classify(pictures[0])
    assert (prediction.digit, prediction.top) == (0, (("0", 0.1), ("1", 0.1), ("2", 0.1)))


# Many pictures


def test_no_pictures_give_no_answers(tiny, batches):
    assert (list(tiny.classify_many([])), batches) == ([], [])


def test_many_pictures_are_answered_in_the_order_given(tiny, pictures):
    found = [prediction.digit for prediction in tiny.classify_many(pictures)]
    expected = expected_digits(tiny, pictures)
    assert len(set(expected)) > 1, "the tiny model must tell pictures apart, or any order would pass"
    assert expected == found


def test_many_pictures_are_read_as_each_of_them_alone(tiny, pictures):
    alone = [tiny.classify(picture).to_json() for picture in pictures[:10]]
    assert alone == [prediction.to_json() for prediction in tiny.classify_many(pictures[:10])]


def test_the_model_runs_once_a_chunk(tiny, pictures, batches):
    list(tiny.classify_many(pictures))
    assert batches == [CHUNK, CHUNK, 22]


def test_a_chunk_is_answered_before_the_next_picture_is_taken(tiny, pictures):
    taken = itertools.count()

    def endless():
        while True:
            next(taken)
            yield pictures[0]

    next(tiny.classify_many(endless()))
    assert next(taken) == CHUNK


def test_bad_pictures_get_their_error_in_their_place(tiny, pictures, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    missing, text = str(tmp_path / "missing.png"), str(tmp_path / "text.png")
    stream = [missing, *pictures[:3], text, pictures[3], b"", *pictures[4:100], missing]
    found = list(tiny.classify_many(stream))
    bad = [0, 4, 6, len(stream) - 1]
    assert bad == [i for i, prediction in enumerate(found) if prediction.error is not None]
    assert [missing, text, "-", missing] == [found[i].image for i in bad]
    digits = [prediction.digit for prediction in found if prediction.error is None]
    assert expected_digits(tiny, pictures[:100]) == digits


def test_an_error_is_one_line_and_leaves_the_answer_empty(tiny):
    [prediction] = tiny.classify_many(["missing.png"])
    assert prediction.error.startswith("cannot read missing.png")
    assert len(prediction.error.splitlines()) == 1
    assert (
        prediction.digit, prediction.label, prediction.confidence, prediction.top, prediction.pixels
    ) == (None, None, None, (), None)  # fmt: skip


def test_bad_pictures_alone_never_reach_the_model(tiny, batches):
    assert sum(prediction.error is not None for prediction in tiny.classify_many([b""] * 70)) == 70
    assert batches == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_numbers_are_the_models_fault(tiny, pictures, monkeypatch, value):
    monkeypatch.setattr(tiny.runner, "logits", lambda pixels: np.full((len(pixels), 10), value, np.float32))
    with pytest.raises(ModelError, match="gives logits that are not numbers"):
        tiny.classify(pictures[0])
    with pytest.raises(ModelError, match="its weights are damaged"):
        list(tiny.classify_many(pictures[:2]))


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R", "lstm_0.B", "head.weight", "head.bias"])
def test_a_weight_that_is_not_a_number_is_the_models_fault(tiny_model_bytes, name):
    with pytest.raises(ModelError, match=f"weights that are not numbers: found {name}"):
        Classifier(with_weight(tiny_model_bytes, name, np.nan), provider="cpu")


# Softmax


LOGITS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 12)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)  # fmt: skip


@given(LOGITS)
def test_probabilities_sum_to_one_and_keep_the_order_however_large_the_logits(logits):
    shares = probabilities(logits)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert shares.min() >= 0
    np.testing.assert_array_equal(np.take_along_axis(shares, logits.argmax(1)[:, None], 1)[:, 0], shares.max(1))


def test_probabilities_are_the_softmax():
    expected = [[1 / 7, 2 / 7, 4 / 7], [1 / 3, 1 / 3, 1 / 3]]
    logits = np.log(np.array([[1, 2, 4], [5, 5, 5]])).astype(np.float32)
    np.testing.assert_allclose(probabilities(logits), expected, rtol=1e-6)


# For programs


def test_the_json_has_the_documented_keys_in_order(tiny, pictures):
    assert list(tiny.classify(pictures[0]).to_json()) == KEYS


def test_the_json_of_a_digit_holds_numbers_in_top():
    prediction = Prediction("digit.png", 7, "7", 0.998, (("7", 0.998), ("1", 0.002)))
    expected = {
        "image": "digit.png", "digit": 7, "label": "7", "confidence": 0.998, "top": [[7, 0.998], [1, 0.002]],
        "note": None, "error": None,
    }  # fmt: skip
    assert expected == json.loads(json.dumps(prediction.to_json()))


def test_the_json_of_named_classes_holds_names_in_top(tiny_model_bytes, pictures):
    names = ["zero", *"abcdefgh", "9"]
    prediction = Classifier(renamed(tiny_model_bytes, *names), provider="cpu", top=10).classify(pictures[0])
    values = prediction.to_json()
    assert names[values["digit"]] == values["label"]
    assert {"zero", *"abcdefgh", 9} == {name for name, _ in values["top"]}


# From Python


def test_the_public_names_are_there_on_first_use():
    assert (classifier.Classifier, classifier.Prediction) == (edgelstm.Classifier, edgelstm.Prediction)
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = edgelstm.Trainer


def test_the_shipped_model_is_the_default_and_reads_a_digit(pictures, sample):
    assert int(sample.labels[0]) == Classifier(provider="cpu").classify(pictures[0]).digit
