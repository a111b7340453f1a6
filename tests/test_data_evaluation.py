"""Tests of edgelstm.data.evaluation: what a model is scored on, and never on what it was trained on."""

import dataclasses

import numpy as np
import pytest
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.data import evaluation as evaluation_module
from edgelstm.data.dataset import Dataset, Part
from edgelstm.data.evaluation import evaluation_of, opened
from edgelstm.data.mnist import FILES
from edgelstm.errors import DataError

CONFIG = SEQUENCES["unequal lengths"]


@pytest.fixture(autouse=True)
def _no_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))


@pytest.fixture
def gestures():
    """A data set of values of unequal length, a part after the other."""
    values = np.random.default_rng(0).standard_normal((9, 11, 3)).astype(np.float32)
    lengths, labels = np.arange(3, 12, dtype=np.int32), np.arange(9) % 3
    parts = [Part(values[at], labels[at], "made up", lengths[at]) for at in np.split(np.arange(9), 3)]
    return Dataset("gestures", "values", CONFIG.class_names, *parts, sha256="1" * 64, split="given")


@pytest.mark.parametrize("data", [None, "mnist"])
def test_digits_are_scored_on_the_shipped_sample_where_mnist_is_not(data):
    found = evaluation_of(data, ModelConfig(hidden_size=4))
    assert (1000, None, FILES["train", "images"].sha256) == (len(found.test), found.validation, found.sha256)
    assert str(found) == "1,000 sequences (the shipped sample, the first 1,000 MNIST test images)"


def test_digits_are_scored_on_all_of_mnist_where_it_is(monkeypatch, sample):
    held_out = sample.take(slice(0, 5))
    monkeypatch.setattr(evaluation_module, "find_mnist", lambda folder: folder)
    monkeypatch.setattr(evaluation_module, "evaluation_digits", lambda folder: sample)
    monkeypatch.setattr(evaluation_module, "validation_digits", lambda folder: held_out)
    found = evaluation_of(None, ModelConfig(hidden_size=4))
    assert (found.test is sample, found.validation is held_out) == (True, True)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(class_names=tuple("abcdefghij")),
        ModelConfig(rows=27),
        ModelConfig(preparation="plain"),
        ModelConfig(preparation="values"),
        CONFIG,
    ],
    ids=["letters", "27 rows", "plain", "values", "gestures"],
)
def test_mnist_is_for_models_of_its_digits_only(config):
    assert (None, None, None) == dataclasses.astuple(evaluation_of(None, config))
    with pytest.raises(DataError, match="MNIST does not fit the model: found 28 x 28 pixels, digits, expected"):
        evaluation_of("mnist", config)


def test_own_data_gives_its_test_and_validation_parts(gestures):
    found = evaluation_of(gestures, CONFIG)
    assert (found.test is gestures.test, found.validation is gestures.validation) == (True, True)
    assert found.sha256 == gestures.sha256


@pytest.mark.parametrize(
    "changed",
    [
        {"cols": 4},
        {"class_names": ("walk", "rest", "run")},
        {"class_names": ("rest", "walk")},
        {"variable_length": False},
        {"preparation": "plain", "variable_length": False},
    ],
)
def test_data_that_does_not_fit_is_refused_with_both_shapes(gestures, changed):
    config = dataclasses.replace(CONFIG, **changed)
    with pytest.raises(DataError, match="gestures does not fit the model: found 9 sequences of 3 to 11 rows x 3 col"):
        opened(gestures, config)
