"""Tests of edgelstm.contract: metadata comes back equal, nonsense in it is refused, pixels are checked."""

import dataclasses
import json

import numpy as np
import pytest

from edgelstm.config import FAMILY, ModelConfig
from edgelstm.contract import EarlyRule, ModelContract, Score, check_pixels
from edgelstm.errors import ModelError

FULL = ModelContract(
    FAMILY["small"], name="small", recipe="best", seed=3, weights_sha256="a" * 64, data_sha256="b" * 64,
    validation=Score(4_950, 5_000), test=Score(9_901, 10_000), versions={"torch": "2.10", "edgelstm": "0.1.0"},
)  # fmt: skip


@pytest.mark.parametrize("contract", [FULL, ModelContract(ModelConfig())], ids=["full", "default"])
def test_a_contract_comes_back_equal_from_its_metadata(contract):
    assert contract == ModelContract.from_metadata(contract.to_metadata())


def test_equal_contracts_make_the_same_metadata_in_the_same_order():
    other = dataclasses.replace(FULL, versions=dict(reversed(FULL.versions.items())))
    assert list(FULL.to_metadata().items()) == list(other.to_metadata().items())


def test_a_temperature_is_kept_and_files_from_before_have_1():
    warm = dataclasses.replace(FULL, temperature=1.37)
    assert warm == ModelContract.from_metadata(warm.to_metadata())
    assert "edgelstm.temperature" not in FULL.to_metadata()
    assert ModelContract.from_metadata(FULL.to_metadata()).temperature == 1.0


def test_metadata_of_others_is_left_alone():
    assert ModelContract.from_metadata({**FULL.to_metadata(), "author": "someone"}) == FULL


def test_a_model_without_a_contract_is_told_from_a_damaged_one():
    with pytest.raises(ModelError, match=r"digits.onnx is not an edgelstm model: found no edgelstm contract"):
        ModelContract.from_metadata({"author": "someone"}, "digits.onnx")


def test_a_contract_of_another_version_says_both_versions():
    metadata = FULL.to_metadata() | {"edgelstm.version": "2"}
    with pytest.raises(ModelError, match="another version of the model contract: found 2, expected 1; install"):
        ModelContract.from_metadata(metadata)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("config", "{"),
        ("config", "[]"),
        ("config", json.dumps({"hidden_size": 3})),
        ("config", FULL.to_metadata()["edgelstm.config"].replace("64", "0")),
        ("test", "[1, 2]"),
        ("test", json.dumps({"n_right": 1})),
        ("test", json.dumps({"n_right": 0, "n": 0})),
        ("test", json.dumps({"n_right": "1", "n": "2"})),
        ("unknown", "1"),
        ("temperature", "0.0"),
        ("temperature", "1e9"),
        ("temperature", "NaN"),
        ("temperature", '"1"'),
        ("version", "one"),
        ("config", "[" * 100_000),
    ],
)
def test_a_damaged_contract_is_refused_in_one_line(key, text):
    with pytest.raises(ModelError, match="damaged model contract") as caught:
        ModelContract.from_metadata(FULL.to_metadata() | {f"edgelstm.{key}": text})
    assert len(str(caught.value).splitlines()) == 1


def test_a_contract_without_a_config_is_refused():
    metadata = FULL.to_metadata()
    del metadata["edgelstm.config"]
    with pytest.raises(ModelError, match="KeyError: 'config'"):
        ModelContract.from_metadata(metadata)


def test_a_score_is_written_as_right_of_all_with_its_share():
    assert str(Score(9_871, 10_000)) == "9,871/10,000 (98.71 %)"


def test_good_pixels_are_handed_back_as_they_are():
    pixels = np.zeros((2, 28, 28), np.uint8)
    assert pixels is check_pixels(pixels, ModelConfig())


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        ([[0]], "found list"),
        (np.zeros((1, 28, 28), np.float32), r"found float32 \(1, 28, 28\)"),
        (np.zeros((28, 28), np.uint8), r"found uint8 \(28, 28\)"),
        (np.zeros((1, 28, 27), np.uint8), r"found uint8 \(1, 28, 27\)"),
        (np.zeros((1, 27, 28), np.uint8), r"found uint8 \(1, 27, 28\)"),
        (np.zeros((1, 1, 28, 28), np.uint8), r"found uint8 \(1, 1, 28, 28\)"),
    ],
)
def test_other_pixels_are_refused_with_found_and_expected(pixels, found):
    with pytest.raises(ValueError, match=rf"{found}, expected .*uint8 \(batch, 28, 28\)"):
        check_pixels(pixels, ModelConfig())


# Streaming models

STREAM = dataclasses.replace(FULL, kind="stream", early=EarlyRule(0.95, 2, 20.5, Score(4_990, 5_000)))


@pytest.mark.parametrize("early", [STREAM.early, EarlyRule(0.9, 1), None])
def test_a_streams_contract_comes_back_equal(early):
    contract = dataclasses.replace(STREAM, early=early)
    assert contract == ModelContract.from_metadata(contract.to_metadata(), kind="stream")


def test_a_whole_pictures_metadata_say_nothing_of_streams():
    """So files of before there were streams are still the same bytes."""
    assert {"edgelstm.kind", "edgelstm.runtime.early_exit"} & FULL.to_metadata().keys() == set()


def test_one_kind_is_not_taken_for_the_other():
    with pytest.raises(ModelError, match=r"m.onnx reads a picture row by row: expected a model of whole pictures; run"):
        ModelContract.from_metadata(STREAM.to_metadata(), "m.onnx")
    with pytest.raises(ModelError, match=r"m.onnx reads whole pictures: expected a streaming model; write one with"):
        ModelContract.from_metadata(FULL.to_metadata(), "m.onnx", "stream")


@pytest.mark.parametrize(
    "early",
    ["[1]", '{"confidence": 0.9}', '{"confidence": 2.0, "n_stable": 1, "mean_rows": null, "validation": null}', '"x"'],
)
def test_a_damaged_rule_is_refused_in_one_line(early):
    with pytest.raises(ModelError, match="damaged model contract") as caught:
        ModelContract.from_metadata(STREAM.to_metadata() | {"edgelstm.runtime.early_exit": early}, kind="stream")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("n", "words"), [(1, "1 step"), (3, "3 steps")])
def test_a_rule_says_what_it_asks_for(n, words):
    assert f"probability of at least 0.95 for {words}" == str(EarlyRule(0.95, n))
