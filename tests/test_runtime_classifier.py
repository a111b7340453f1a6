"""Tests of edgelstm.runtime.classifier: pictures in, digits out, in order, whatever lies between them."""

import dataclasses
import io
import itertools
import json
import pickle
import subprocess
import sys
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
from edgelstm.config import ModelConfig
from edgelstm.contract import MAX_ROWS, NoDigitRule
from edgelstm.data.picture import read_picture
from edgelstm.errors import DataError, ModelError, PictureError
from edgelstm.runtime import classifier
from edgelstm.runtime.calibration import logits_of_views, no_digit_score, probabilities
from edgelstm.runtime.classifier import CHUNK, Classifier, Prediction
from edgelstm.runtime.session import SessionSettings

KEYS = ["source", "index", "label", "confidence", "top", "note", "error"]


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def pictures(sample):
    """Real digits as PNG files' bytes: two full chunks and a part of one."""
    return [png(image) for image in sample.sequences[: 2 * CHUNK + 7]]


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
    assert (expected, str(expected), None) == (prediction.index, prediction.label, prediction.error)


def test_the_confidence_is_the_softmax_of_the_largest_logit(tiny, pictures):
    logits = tiny.runner.logits(read_picture(pictures[0]).pixels[None])[0].astype(np.float64)
    expected = np.exp(logits.max()) / np.exp(logits).sum()
    assert tiny.classify(pictures[0]).confidence == pytest.approx(expected, abs=1e-4)


def test_the_prediction_holds_what_the_model_was_shown(tiny, pictures):
    np.testing.assert_array_equal(tiny.classify(pictures[0]).sequence, read_picture(pictures[0]).pixels)


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
    assert (prediction.index, prediction.label, prediction.error, prediction.abstained) == (None, None, None, True)
    assert (prediction.confidence, prediction.top) == (plain.confidence, plain.top)
    assert "low confidence" in prediction.note
    lax = Classifier(tiny_model_bytes, provider="cpu", min_confidence=plain.confidence)
    assert (plain.index, False) == (lax.classify(pictures[0]).index, lax.classify(pictures[0]).abstained)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_confidence_that_is_no_share_is_refused(tiny_model_bytes, value):
    with pytest.raises(ValueError, match="min_confidence"):
        Classifier(tiny_model_bytes, provider="cpu", min_confidence=value)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read_as_its_bytes_are_and_keeps_its_name(tiny, pictures, tmp_path, kind):
    path = tmp_path / "digit.png"
    path.write_bytes(pictures[0])
    from_path, from_bytes = tiny.classify(kind(path)), tiny.classify(pictures[0])
    assert (str(path), "-") == (from_path.source, from_bytes.source)
    assert (from_bytes.index, from_bytes.top) == (from_path.index, from_path.top)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_one_picture_that_cannot_be_read_raises(tiny, content):
    with pytest.raises(PictureError):
        tiny.classify(content)


def test_a_picture_without_ink_has_a_note_and_no_error(tiny):
    prediction = tiny.classify(png(np.zeros((28, 28), np.uint8)))
    assert (prediction.note, prediction.error) == ("no ink found", None)
    assert (prediction.index, prediction.confidence, prediction.top, prediction.abstained) == (None, None, (), True)


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


def test_the_confidence_is_held_unrounded_against_what_was_asked_for(tiny, tiny_model_bytes, pictures):
    pixels = np.stack([read_picture(picture).pixels for picture in pictures])
    shares = probabilities(tiny.runner.logits(pixels), tiny.runner.contract.temperature).max(axis=1)
    for n_digits in (4, 6):
        which = int(np.argmax(np.round(shares, n_digits) > shares))  # the first that rounding lifts
        asked = round(float(shares[which]), n_digits)
        assert asked > shares[which]
        strict = Classifier(tiny_model_bytes, provider="cpu", min_confidence=asked).classify(pictures[which])
        assert (strict.index, strict.confidence) == (None, shares[which])


@pytest.mark.parametrize("value", [0, -1])
def test_no_classes_to_name_are_refused(tiny_model_bytes, value):
    with pytest.raises(ValueError, match=f"top: found {value}, expected at least 1"):
        Classifier(tiny_model_bytes, provider="cpu", top=value)


def test_a_provider_that_does_not_exist_is_refused(tiny_model_bytes):
    with pytest.raises(ValueError, match="found 'gpu', expected one of auto, cpu, cuda"):
        Classifier(tiny_model_bytes, provider="gpu")


def test_a_tie_goes_to_the_first_class(tiny_model_bytes, pictures):
    content = with_weight(with_weight(tiny_model_bytes, "head.weight", 0), "head.bias", 0)
    prediction = Classifier(content, provider="cpu").classify(pictures[0])
    assert (prediction.index, prediction.top) == (0, (("0", 0.1), ("1", 0.1), ("2", 0.1)))


# Any source


def colours(shape):
    """A stroke, dark on light, in as many channels; the fourth is opaque."""
    pixels = np.full(shape, 250, np.uint8)
    pixels[10:50, 25:31, :3] = 20
    if shape[2] == 4:
        pixels[:, :, 3] = 255
    return pixels


def sources_of(pixels, tmp_path):
    """The same picture in every way that it can be given."""
    content = png(pixels)
    path = tmp_path / "same.png"
    path.write_bytes(content)
    image = Image.fromarray(pixels)
    return {
        "path": path, "text": str(path), "bytes": content, "file object": io.BytesIO(content),
        "open file": path.open("rb"),
        "array": pixels, "array that is not contiguous": np.asfortranarray(pixels), "image": image,
        "image of a file": Image.open(path),
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(60, 60), (60, 60, 3), (60, 60, 4)], ids=str)
def test_every_kind_of_source_is_read_as_the_file_is(tiny, tmp_path, shape):
    pixels = colours((*shape, 1)[:3])
    sources = sources_of(pixels[:, :, 0] if len(shape) == 2 else pixels, tmp_path)
    expected = read_picture(sources["path"]).pixels
    assert expected.any()
    found = list(tiny.classify_many(sources.values()))
    sources["open file"].seek(0)
    sources["file object"].seek(0)
    for (kind, source), prediction in zip(sources.items(), found, strict=True):
        np.testing.assert_array_equal(expected, prediction.sequence, err_msg=kind)
        np.testing.assert_array_equal(expected, tiny.classify(source).sequence, err_msg=kind)
    named = {"path", "text", "open file", "image of a file"}
    names = [str(tmp_path / "same.png") if kind in named else "-" for kind in sources]
    assert names == [prediction.source for prediction in found]
    sources["open file"].close()


def test_an_array_may_have_one_channel(tiny):
    pixels = colours((60, 60, 1))
    np.testing.assert_array_equal(tiny.classify(pixels[:, :, 0]).sequence, tiny.classify(pixels).sequence)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "F", "I;16"])
def test_an_image_of_any_mode_is_read_as_its_file_is(tiny, mode):
    image = Image.fromarray(colours((60, 60, 1))[:, :, 0])
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF")
    assert image.mode == mode
    np.testing.assert_array_equal(tiny.classify(stream.getvalue()).sequence, tiny.classify(image).sequence)


def test_an_image_lies_as_its_exif_data_say(tiny, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours((60, 60, 3))).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        np.testing.assert_array_equal(tiny.classify(tmp_path / "turned.jpg").sequence, tiny.classify(image).sequence)


WRONG = {
    "found a int": 5,
    "found a NoneType": None,
    "found a list": [[0, 255]],
    r"found an array of float64 \(28, 28\)": np.zeros((28, 28)),
    r"found an array of uint8 \(28,\)": np.zeros(28, np.uint8),
    r"found an array of uint8 \(28, 28, 2\)": np.zeros((28, 28, 2), np.uint8),
    r"found an array of uint8 \(0, 28\)": np.zeros((0, 28), np.uint8),
    "found a file that gives str": io.StringIO("text"),
}


@pytest.mark.parametrize("found", WRONG)
def test_what_is_no_picture_is_named_with_what_would_be(tiny, found):
    with pytest.raises(TypeError, match=f"{found}, expected a path, bytes, a file open for reading in binary, a uint8"):
        tiny.classify(WRONG[found])
    [prediction] = tiny.classify_many([WRONG[found]])
    assert "expected a path" in prediction.error


@pytest.mark.parametrize(
    "one", ["digit.png", Path("digit.png"), b"", io.BytesIO(), np.zeros((28, 28), np.uint8), Image.new("L", (2, 2))],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_one_picture_is_not_many(tiny, one):
    with pytest.raises(TypeError, match=f"found one {type(one).__name__}, expected an iterable"):
        tiny.classify_many(one)


def test_a_file_object_that_cannot_be_read_is_one_line(tiny):
    class Torn(io.BytesIO):
        name = "torn\n.png"

        def read(self, size=-1):
            raise OSError("input/output error")

    with pytest.raises(PictureError, match=r"cannot read 'torn\\n.png': found input/output error"):
        tiny.classify(Torn())


# Many pictures


def test_no_pictures_give_no_answers(tiny, batches):
    assert (list(tiny.classify_many([])), batches) == ([], [])


def test_many_pictures_are_answered_in_the_order_given(tiny, pictures):
    found = [prediction.index for prediction in tiny.classify_many(pictures)]
    expected = expected_digits(tiny, pictures)
    assert len(set(expected)) > 1, "the tiny model must tell pictures apart, or any order would pass"
    assert expected == found


def test_many_pictures_are_read_as_each_of_them_alone(tiny, pictures):
    alone = [tiny.classify(picture).to_json() for picture in pictures[:10]]
    assert alone == [prediction.to_json() for prediction in tiny.classify_many(pictures[:10])]


def test_the_model_runs_once_a_chunk(tiny, pictures, batches):
    list(tiny.classify_many(pictures))
    assert batches == [CHUNK, CHUNK, 7]


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
    stream = [missing, *pictures[:3], text, pictures[3], b"", *pictures[4:], missing]
    found = list(tiny.classify_many(stream))
    bad = [0, 4, 6, len(stream) - 1]
    assert bad == [i for i, prediction in enumerate(found) if prediction.error is not None]
    assert [missing, text, "-", missing] == [found[i].source for i in bad]
    digits = [prediction.index for prediction in found if prediction.error is None]
    assert expected_digits(tiny, pictures) == digits


def test_a_failure_that_nobody_foresaw_costs_only_its_picture(tiny, pictures, monkeypatch):
    real, calls = classifier.digit_from_array, itertools.count()

    def fails_once(pixels, rows, cols):
        if next(calls) == 1:
            raise IndexError("index 3 is out of bounds\nfor axis 0")
        return real(pixels, rows, cols)

    expected = expected_digits(tiny, [pictures[0], pictures[2]])
    monkeypatch.setattr(classifier, "digit_from_array", fails_once)
    first, second, third = tiny.classify_many(pictures[:3])
    assert expected == [first.index, third.index]
    assert second.error.startswith("- cannot be prepared: found IndexError('index 3 is out of bounds")
    assert (second.error.isprintable(), "report it as a bug" in second.error) == (True, True)


def test_an_error_is_one_line_and_leaves_the_answer_empty(tiny):
    [prediction] = tiny.classify_many(["missing.png"])
    assert prediction.error.startswith("no file missing.png")
    assert len(prediction.error.splitlines()) == 1
    assert (
        prediction.index, prediction.label, prediction.confidence, prediction.top, prediction.sequence
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
    with pytest.raises(ModelError, match=f"weights that are not finite numbers.*found .*{name}"):
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


def test_the_json_holds_names_in_top_and_six_digits():
    prediction = Prediction("digit.png", 7, "7", 0.99812345678, (("7", 0.99812345678), ("1", 0.002)))
    expected = {
        "source": "digit.png", "index": 7, "label": "7", "confidence": 0.998123, "top": [["7", 0.998123], ["1", 0.002]],
        "note": None, "error": None,
    }  # fmt: skip
    assert expected == json.loads(json.dumps(prediction.to_json()))


def test_a_class_may_have_any_name(tiny_model_bytes, pictures):
    names = ["zero", *"abcdefgh", "9" * 5_000]
    assert 5_000 > sys.get_int_max_str_digits() or sys.get_int_max_str_digits() == 0
    classifier = Classifier(tiny_model_bytes, provider="cpu", top=10)
    classifier._config = dataclasses.replace(classifier._config)
    object.__setattr__(classifier._config, "class_names", tuple(names))  # longer than a model file may hold
    values = classifier.classify(pictures[0]).to_json()
    assert names[values["index"]] == values["label"]
    assert set(names) == {name for name, _ in values["top"]}


# From Python


def test_the_public_names_are_there_on_first_use():
    assert (classifier.Classifier, classifier.Prediction) == (edgelstm.Classifier, edgelstm.Prediction)
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = edgelstm.Trainer


def test_a_classifier_can_be_pickled_and_needs_no_file_where_it_arrives(tiny_model_path, pictures):
    classifier = Classifier(
        tiny_model_path, provider="cpu", settings=SessionSettings(chunk=4), top=5, min_confidence=0.25
    )
    content = pickle.dumps(classifier)
    tiny_model_path.unlink()
    other = pickle.loads(content)
    assert repr(classifier) == repr(other)
    assert other.runner.settings == SessionSettings(chunk=4)
    assert list(classifier.classify_many(pictures[:20])) == list(other.classify_many(pictures[:20]))


def test_a_classifier_and_a_prediction_show_what_matters_in_a_line(tiny_model_path):
    classifier = Classifier(tiny_model_path, provider="cpu", top=2, min_confidence=0.5)
    assert repr(classifier) == f"Classifier('{tiny_model_path}', provider='cpu', top=2, min_confidence=0.5)"
    prediction = Prediction("a.png", 7, "7", 0.9, (("7", 0.9),), sequence=np.zeros((28, 28), np.uint8))
    assert repr(prediction) == ("Prediction(source='a.png', index=7, label='7', confidence=0.9, note=None, error=None)")
    assert prediction == dataclasses.replace(prediction, sequence=np.ones((28, 28), np.uint8))


def test_the_shipped_model_is_the_default_and_reads_a_digit(pictures, sample):
    assert int(sample.labels[0]) == Classifier(provider="cpu").classify(pictures[0]).index


# Values, and pictures as they are

FIXED = ModelConfig(rows=6, cols=3, hidden_size=4, class_names=("a", "b"), preparation="values")
FREE = dataclasses.replace(FIXED, variable_length=True)
PLAIN = ModelConfig(rows=8, cols=10, hidden_size=4, class_names=("a", "b"), preparation="plain")
VALUES = np.random.default_rng(4).normal(0, 1, (6, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def of(checkpoint_of, model_bytes_of):
    """A Classifier of this shape, trained on values from -1 to 1, but for a last column that was always 5."""

    def make(config, precision="fp32", **options):
        checkpoint = checkpoint_of(config)
        if config.is_values:
            checkpoint = dataclasses.replace(checkpoint, ranges=((-1.0, 1.0),) * (config.cols - 1) + ((5.0, 5.0),))
        return Classifier(model_bytes_of(checkpoint, precision), provider="cpu", top=2, **options)

    return make


def values_in(folder, values=VALUES):
    """The same values in every way that they can be given."""
    np.save(folder / "v.npy", values)
    np.save(folder / "big.npy", np.asfortranarray(values.astype(">f8")))
    np.savetxt(folder / "v.CSV", values, fmt="%.9g", delimiter=";", header="x;y;z", comments="\ufeff", encoding="utf-8")

    class Foreign:  # a tensor, a table
        def __array__(self, dtype=None, copy=None):
            return values.astype(np.float64)

    return {
        "array": values, "float64": values.astype(np.float64), "fortran": np.asfortranarray(values),
        "big-endian": values.astype(">f4"), "foreign": Foreign(), "npy": folder / "v.npy",
        "npy as text": str(folder / "big.npy"), "csv": folder / "v.CSV",
        "npy as bytes": (folder / "big.npy").read_bytes(), "csv as bytes": (folder / "v.CSV").read_bytes(),
    }  # fmt: skip


@pytest.mark.parametrize("config", [FIXED, FREE], ids=["fixed", "free"])
def test_values_are_read_from_arrays_and_files_alike(of, config, tmp_path):
    classifier = of(config)
    expected = probabilities(classifier.runner.logits(VALUES[None]))[0]
    for kind, source in values_in(tmp_path).items():
        found = classifier.classify(source)
        np.testing.assert_array_equal(VALUES, found.sequence, err_msg=kind)
        assert found.sequence.dtype == np.float32
        assert (expected.argmax(), expected.max()) == (found.index, found.confidence), kind
        assert found.source == (str(source) if isinstance(source, str | Path) else "-")


def test_channels_first_is_said_once_and_goes_with_the_pickle(of, tmp_path):
    np.save(tmp_path / "t.npy", VALUES.T)
    classifier = pickle.loads(pickle.dumps(of(FIXED, channels_first=True)))
    for source in (VALUES.T, tmp_path / "t.npy"):
        np.testing.assert_array_equal(VALUES, classifier.classify(source).sequence)
    with pytest.raises(DataError, match=r"shape \(3, 6\), expected \(6, 3\); columns first are for channels_first"):
        of(FIXED).classify(VALUES.T)
    with pytest.raises(DataError, match=r"shape \(3, 6\), expected \(6, 3\); leave out channels_first"):
        classifier.classify(VALUES)


@pytest.mark.parametrize("dtype", [bool, np.int16, np.uint8, np.float16])
def test_whole_numbers_and_a_bare_column_are_values_too(of, dtype):
    one = dataclasses.replace(FIXED, cols=1)
    column = np.array([0, 1, 1, 0, 1, 0], dtype)
    np.testing.assert_array_equal(of(one).classify(column).sequence, column[:, None].astype(np.float32))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_mixed_lengths_are_answered_as_each_alone(of, precision):
    classifier = of(FREE, precision)
    random = np.random.default_rng(1)
    mixed = [random.normal(0, 1, (rows, 3)) for rows in random.integers(1, 30, 2 * CHUNK + 3)]
    together = list(classifier.classify_many(mixed))
    assert [each.shape for each in mixed] == [found.sequence.shape for found in together]
    for each, found in zip(mixed, together, strict=True):
        alone = classifier.classify(each)
        assert (alone.index, pytest.approx(alone.confidence, abs=1e-6)) == (found.index, found.confidence)


def test_an_array_of_many_sequences_is_many_and_of_one_is_one(of):
    assert len(list(of(FIXED).classify_many(np.stack([VALUES] * 20)))) == 20
    with pytest.raises(TypeError, match="found one ndarray, expected an iterable of sequences"):
        of(FIXED).classify_many(VALUES)
    with pytest.raises(DataError, match=r"found shape \(3, 6, 3\), expected \(6, 3\); of several .* classify_many"):
        of(FIXED).classify(np.stack([VALUES] * 3))


UNFIT = {
    "too few columns": (VALUES[:, :2], r"the input does not fit the model: found shape \(6, 2\), expected \(6, 3\)"),
    "too short": (VALUES[:5], r"found shape \(5, 3\), expected \(6, 3\)$"),
    "too long": (np.zeros((7, 3)), r"found shape \(7, 3\), expected \(6, 3\); Stream reads the windows"),
    "one dimension": (np.zeros(18), r"found shape \(18,\)"),
    "none": (np.array(1.0), r"found shape \(\), expected \(6, 3\)"),
    "empty": (np.zeros((0, 3)), r"found shape \(0, 3\)"),
    "NaN": (np.where(np.arange(18).reshape(6, 3) == 7, np.nan, 0), "the input: row 3, column 2: found nan"),
    "beyond float32": (np.full((6, 3), 1e300), "row 1, column 1: found inf"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_values_that_do_not_fit_are_named_with_what_would(of, kind):
    values, message = UNFIT[kind]
    with pytest.raises(DataError, match=message):
        of(FIXED).classify(values)
    good, bad, again = of(FIXED).classify_many([VALUES, values, VALUES])
    assert (good, again) == (again, good)
    assert (bad.sequence, bad.index, "found" in bad.error) == (None, None, True)


def test_sequences_beyond_any_limit_and_empty_ones_are_refused_by_models_of_any_length_too(of):
    for rows in (0, MAX_ROWS + 1):
        with pytest.raises(DataError, match=f"found shape \\({rows}, 3\\), expected 1 to 4,096 rows"):
            of(FREE).classify(np.zeros((rows, 3)))


@pytest.mark.parametrize("source", [open, [[1, 2, 3]], None, np.zeros((6, 3), complex), np.full((6, 3), "x")])
def test_what_are_no_values_is_a_type_error(of, source):
    with pytest.raises(TypeError, match=r"a sequence of values: found .*, expected the path of a .csv or .npy file"):
        of(FIXED).classify(source)


def test_a_picture_for_a_model_of_values_and_values_for_one_of_pictures_say_so(of, tiny, tmp_path):
    with pytest.raises(
        DataError, match=r"x\.png is no sequence of values: found a name ending in .png, expected a .cs"
    ):
        of(FIXED).classify(tmp_path / "x.png")
    for source in values_in(tmp_path).values():
        if isinstance(source, str | Path):
            with pytest.raises(PictureError, match="is no picture: found values, by its name, expected one"):
                tiny.classify(source)
            with pytest.raises(PictureError, match="choose a model of values"):
                of(PLAIN).classify(source)


def test_a_plain_picture_is_shown_as_it_is_and_a_black_one_is_an_answer(of):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10), dtype=np.uint8)
    found = of(PLAIN).classify(png(pixels))
    np.testing.assert_array_equal(pixels, found.sequence)
    wide = of(PLAIN).classify(np.full((40, 200, 3), 200, np.uint8))
    assert (wide.sequence.shape, int(wide.sequence.max())) == ((8, 10), 200)
    assert of(PLAIN).classify(np.zeros((5, 5), np.uint8)).index is not None


@pytest.mark.parametrize(
    ("at", "value", "noted"),
    [((2, 1), 3.0, False), ((2, 1), 3.01, True), ((0, 0), -3.01, True), ((5, 2), 5.000001, False), ((5, 2), 5.1, True)],
)
def test_values_further_outside_than_the_training_range_is_wide_get_a_note(of, at, value, noted):
    values = np.zeros((6, 3))
    values[:, 2] = 5
    values[at] = value
    note = of(FIXED).classify(values).note or ""
    assert (f"far outside what it was trained on: column {at[1] + 1} reaches" in note) == noted, note


def test_of_several_columns_far_outside_the_first_is_named(of):
    note = of(FIXED).classify(np.full((6, 3), 100)).note
    assert "column 1 reaches 100 to 100, in training -1 to 1; and 2 more columns" in note
    note = of(FIXED).classify(np.tile([0, 100, 100], (6, 1))).note
    assert "in training -1 to 1; and 1 more column" in note
    assert "columns" not in note


def test_a_sequence_longer_than_any_in_training_gets_a_note(of):
    values = np.tile([0, 0, 5], (7, 1))
    assert "longer than any it was trained on: 7 rows, at most 6" in of(FREE).classify(values).note
    assert "longer" not in (of(FREE).classify(values[:6]).note or "")


def test_values_do_not_slow_the_start_of_a_picture():
    """The readers of files of values are imported where a model reads such."""
    code = "import sys, edgelstm; edgelstm.Classifier('nano', provider='cpu'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"edgelstm.data.arrays", "edgelstm.data.folders", "edgelstm.data.dataset", "csv"}.isdisjoint(modules)


# No digit


def judged(checkpoint, model_bytes_of, provider="cpu", bias=0.0, **options):
    """A model with a rule of two units."""
    rule = NoDigitRule(((0.1, -0.2, 0.3, 0.1) + (0.0,) * 67, (0.01,) * 71), (4.0, 1.0, bias))
    content = model_bytes_of(dataclasses.replace(checkpoint, no_digit=rule))
    return Classifier(content, provider=provider, **options), rule


@pytest.mark.parametrize("provider", ["cpu", "c", "c-int8"])
def test_what_looks_like_no_digit_has_a_note_and_less_confidence(
    tiny_checkpoint, tiny, model_bytes_of, pictures, provider
):
    pixels = np.stack([read_picture(picture).pixels for picture in pictures])
    found, rule = judged(tiny_checkpoint, model_bytes_of)
    middle = float(np.median(no_digit_score(logits_of_views(tiny.runner, pixels), rule)))
    found, rule = judged(tiny_checkpoint, model_bytes_of, provider, bias=-middle)
    score = no_digit_score(logits_of_views(found.runner, pixels), rule)
    sure = probabilities(found.runner.logits(pixels)).max(1) / np.where(score > 0, 1 + np.exp(score), 1)
    answers = list(found.classify_many(pictures))
    said = ["no digit" in (answer.note or "") for answer in answers]
    assert said == (score > 0).tolist()
    assert {True, False} == set(said)
    assert [answer.confidence for answer in answers] == pytest.approx(sure.tolist(), abs=1e-4)
    if provider == "cpu":
        assert [answer.label for answer in answers] == [answer.label for answer in tiny.classify_many(pictures)]


def test_what_is_empty_or_of_several_pieces_keeps_its_own_note(tiny_checkpoint, model_bytes_of, pictures):
    found, _ = judged(tiny_checkpoint, model_bytes_of, bias=100.0)
    empty, digit = found.classify_many([png(np.full((50, 50), 255, np.uint8)), pictures[0]])
    assert (empty.note, empty.label) == ("no ink found", None)
    assert digit.note == "no digit"
    assert digit.label is not None
    assert digit.confidence == pytest.approx(0, abs=1e-6)


def test_what_is_no_digit_is_no_answer_where_confidence_is_asked_for(tiny_checkpoint, model_bytes_of, pictures):
    found, _ = judged(tiny_checkpoint, model_bytes_of, bias=100.0, min_confidence=0.5)
    answer = found.classify(pictures[0])
    assert (answer.label, answer.note) == (None, "no digit")
