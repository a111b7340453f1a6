"""Tests of edgelstm.contract: metadata comes back equal, nonsense in it is refused, pixels are checked, one graph."""

import dataclasses
import json

import numpy as np
import pytest
from sequences import SEQUENCES

from edgelstm.config import FAMILY, ModelConfig
from edgelstm.contract import (
    MAX_METADATA,
    PIXELS_NAME,
    EarlyRule,
    ModelContract,
    NoDigitRule,
    Score,
    check_sequences,
    graph_layout,
    in_batches,
)
from edgelstm.errors import ModelError

NO_DIGIT = NoDigitRule(((0.5,) * 71, (-1.0,) * 71), (1.0, 2.0, -3.0))
FULL = ModelContract(
    FAMILY["small"], name="small", recipe="best", seed=3, weights_sha256="a" * 64, data_sha256="b" * 64,
    validation=Score(4_950, 5_000), test=Score(9_901, 10_000), versions={"torch": "2.10", "edgelstm": "0.1.0"},
    temperature=1.37, early=EarlyRule(0.95, 2, 20.5, Score(4_990, 5_000), 1.37), no_digit=NO_DIGIT,
)  # fmt: skip


@pytest.mark.parametrize(
    "contract",
    [
        FULL,
        ModelContract(ModelConfig()),
        dataclasses.replace(FULL, kind="stream"),
        dataclasses.replace(FULL, kind="stream", early=None),
        dataclasses.replace(FULL, early=EarlyRule(0.9, 1)),
    ],
)
def test_a_contract_comes_back_equal_from_its_metadata(contract):
    assert contract == ModelContract.from_metadata(contract.to_metadata())


def test_equal_contracts_make_the_same_metadata_in_the_same_order():
    other = dataclasses.replace(FULL, versions=dict(reversed(FULL.versions.items())))
    assert list(FULL.to_metadata().items()) == list(other.to_metadata().items())


def test_a_model_without_temperature_rule_or_stream_says_nothing_of_them():
    """So a file of the first version of this contract is still the same bytes."""
    plain = ModelContract(ModelConfig()).to_metadata()
    assert {"edgelstm.temperature", "edgelstm.kind", "edgelstm.early", "edgelstm.no_digit"} & plain.keys() == set()
    assert ModelContract.from_metadata(plain).temperature == 1.0


def test_a_rule_from_before_it_kept_a_temperature_has_1():
    metadata = dataclasses.replace(FULL, kind="stream").to_metadata()
    old = {name: value for name, value in json.loads(metadata["edgelstm.early"]).items() if name != "temperature"}
    found = ModelContract.from_metadata(metadata | {"edgelstm.early": json.dumps(old)})
    assert dataclasses.replace(FULL.early, temperature=1.0) == found.early
    assert found.temperature == 1.37


def test_metadata_of_others_is_left_alone():
    assert ModelContract.from_metadata({**FULL.to_metadata(), "author": "someone"}) == FULL


def test_a_model_without_a_contract_is_told_from_a_damaged_one():
    with pytest.raises(ModelError, match=r"digits.onnx is not an edgelstm model: found no edgelstm contract"):
        ModelContract.from_metadata({"author": "someone"}, "digits.onnx")


@pytest.mark.parametrize("version", ["3", "0", "null", "[]", '"1"', "true", "1.0"])
def test_a_contract_of_another_version_says_both_versions(version):
    found = repr(json.loads(version))
    with pytest.raises(ModelError, match="another version of the model contract") as caught:
        ModelContract.from_metadata(FULL.to_metadata() | {"edgelstm.version": version})
    assert f"found {found}, expected 1 or 2; install" in str(caught.value)


CONFIG = FULL.to_metadata()["edgelstm.config"]
RULE = '{"confidence": 0.9, "n_stable": 1, "mean_rows": null, "validation": null, "temperature": 1.0}'
DAMAGED = [
    *((key, "[" * 100_000) for key in ("config", "versions", "early", "name")),
    *((key, "9" * 5_000) for key in ("seed", "name", "test", "temperature")),
    *((key, text) for key in ("name", "recipe", "weights_sha256") for text in ("5", '"\\ud800"', f'"{"x" * 201}"')),
    *(("config", text) for text in ("{", "[]", "null", "{}", '{"hidden_size": 3}', CONFIG.replace("64", "0"))),
    *(("config", CONFIG.replace("64", huge)) for huge in ("1000000000", "1e9", "9" * 4_000, "true")),
    *(("config", json.dumps({**json.loads(CONFIG), "rows": n, "cols": n})) for n in (3_000, 2**40)),
    *(("config", json.dumps({**json.loads(CONFIG), "class_names": names})) for names in ([], ["\ud800"], [5], "abc")),
    *(("test", json.dumps(text)) for text in ([1, 2], {"n_right": 1}, {"n_right": 0, "n": 0}, "x")),
    *(("test", json.dumps({"n_right": right, "n": n})) for right, n in (("1", "2"), (3, 2), (True, 2), (1, 10**4000))),
    *(("temperature", text) for text in ("0.0", "1e9", "NaN", "Infinity", '"1"', "1", "null")),
    *(("seed", text) for text in ("1.5", '"1"', "true", "9" * 4_000)),
    *(("versions", text) for text in ("[]", '"x"', '{"torch": 2}', "null")),
    *(("early", text) for text in ("[1]", '"x"', '{"confidence": 0.9}', "{}", "[]", "0", '""', "false")),
    *(("early", RULE.replace("0.9", text)) for text in ("2.0", "NaN", "1", "null", '"0.9"')),
    *(("early", RULE.replace('"n_stable": 1', f'"n_stable": {text}')) for text in ("0", "1.0", "9" * 4_000)),
    *(("early", RULE.replace('"mean_rows": null', f'"mean_rows": {text}')) for text in ("NaN", "1e300", "-1.0", "{}")),
    ("early", RULE.replace("1.0", "0.0")),
    *(("no_digit", text) for text in ("{}", "[]", "5", '{"hidden": 3, "output": [1.0]}')),
    *(
        ("no_digit", json.dumps({"hidden": hidden, "output": output}))
        for hidden, output in (
            ([], [1.0]), ("ab", "abc"),
            ([[0.5] * 70], [1.0, 1.0]), ([[0.5] * 71], [1.0]), ([[0.5] * 71] * 65, [1.0] * 66),
            ([[1] * 71], [1.0, 1.0]), ([[1e5] * 71], [1.0, 1.0]), ([[0.5] * 71], [float("nan"), 1.0]),
        )
    ),
    ("no_digit", json.dumps({"hidden": [[0.5] * 71], "output": [1.0, 1.0], "more": 1})),
    ("kind", '"row"'), ("kind", f'"{"x" * 100_000}"'), ("kind", "[]"), ("precision", '"fp8"'), ("precision", "{}"),
    ("unknown", "1"), ("x" * 100_000, "1"), ("version", "one"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), DAMAGED, ids=[f"{key[:20]}-{text[:20]}" for key, text in DAMAGED])
def test_a_damaged_contract_is_refused_in_one_short_line(key, text):
    with pytest.raises(ModelError, match="damaged model contract") as caught:
        ModelContract.from_metadata(FULL.to_metadata() | {f"edgelstm.{key}": text})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", ["config", "test", "validation"])
def test_a_contract_without_one_of_its_parts_is_refused(key):
    metadata = FULL.to_metadata()
    del metadata[f"edgelstm.{key}"]
    with pytest.raises(ModelError, match=f"KeyError: '{key}'"):
        ModelContract.from_metadata(metadata)


def test_metadata_that_would_take_all_memory_when_parsed_are_refused_unparsed(monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
    metadata = FULL.to_metadata() | {"edgelstm.versions": "[" + "{}," * (MAX_METADATA // 3) + "1]"}
    with pytest.raises(ModelError, match=r"damaged model contract: found ValueError: 2,.* characters"):
        ModelContract.from_metadata(metadata)


def test_the_longest_class_names_fit():
    names = tuple(chr(0x1F600 + i % 50) * 100 for i in range(1000))
    contract = ModelContract(ModelConfig(class_names=names))
    assert contract == ModelContract.from_metadata(contract.to_metadata())


def test_names_with_control_characters_are_kept_as_they_are():
    """Whoever prints them makes them safe; a model is not refused for the language of its classes."""
    names = ("\x1b[31mred", "two\nlines", "Ω", "")
    contract = ModelContract(ModelConfig(class_names=names), name="\x1b]0;title\x07")
    assert names == ModelContract.from_metadata(contract.to_metadata()).config.class_names


def test_a_score_is_written_as_right_of_all_with_its_share():
    assert str(Score(9_871, 10_000)) == "9,871/10,000 (98.71 %)"


@pytest.mark.parametrize(("n", "words"), [(1, "1 step"), (3, "3 steps")])
def test_a_rule_says_what_it_asks_for(n, words):
    assert f"probability of at least 0.95 for {words}" == str(EarlyRule(0.95, n))


@pytest.mark.parametrize("values", [(1.5, 1), (0.9, 0), ("0.9", 1), (0.9, 1.0), (0.9, 1, "x"), (0.9, 1, -1.0)])
def test_an_impossible_rule_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        EarlyRule(*values)


def test_good_pixels_are_handed_back_as_they_are():
    pixels = np.zeros((2, 28, 28), np.uint8)
    found, lengths = check_sequences(pixels, ModelConfig())
    assert (found is pixels, lengths) == (True, None)


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
        check_sequences(pixels, ModelConfig())


def test_in_batches_calls_the_runner_with_so_many_at_a_time():
    class Means:
        name, sizes = "means", []

        def logits(self, pixels):
            self.sizes.append(len(pixels))
            return pixels.mean((1, 2))[:, None]

    pixels = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2)
    assert np.array_equal(pixels.mean((1, 2))[:, None], in_batches(Means(), pixels, 3))
    assert Means.sizes == [3, 3, 1]


# The graph itself is held against torch and onnx in test_onnx_file.py and the tests of export


def test_a_pictures_graph_is_the_five_nodes_of_the_readme():
    layout = graph_layout(ModelConfig())
    assert ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm"] == [node.operator for node in layout.nodes]
    assert ({"": 18}, PIXELS_NAME) == (layout.opsets, layout.inputs[0].name)
    assert len(layout.nodes[2].inputs) == 4, "initial states are left out, which means zeros"


def test_an_fp16_stream_has_the_graph_of_fp32():
    config = ModelConfig(n_layers=2)
    assert graph_layout(config, "fp16", "stream") == graph_layout(config, "fp32", "stream")


def test_values_are_normalised_by_nodes_and_lengths_reach_every_layer():
    layout = graph_layout(SEQUENCES["unequal lengths, two layers"])
    assert ["Sub", "Mul", "Transpose", "LSTM", "Squeeze", "LSTM", "Squeeze", "Gemm"] == [
        node.operator for node in layout.nodes
    ]
    assert ["values float32 (batch, rows, 1)", "lengths int32 (batch)"] == [str(value) for value in layout.inputs]
    assert [node.inputs[4] for node in layout.nodes if node.operator == "LSTM"] == ["lengths", "lengths"]
    int8 = graph_layout(SEQUENCES["unequal lengths, two layers"], "int8")
    assert [node.inputs[4] for node in int8.nodes if "LSTM" in node.operator] == ["lengths", "lengths"]
    assert {"mean": (1, (1,)), "scale": (1, (1,))}.items() <= layout.weights.items()
    stream = graph_layout(SEQUENCES["unequal lengths, two layers"], kind="stream")
    assert "lengths" not in [value.name for value in stream.inputs]


VALUES, LENGTHS = np.zeros((2, 11, 3), np.float32), np.array([3, 11], np.int32)


def test_good_values_and_lengths_are_handed_back_as_they_are():
    config = SEQUENCES["unequal lengths"]
    found, lengths = check_sequences(VALUES, config, LENGTHS)
    assert (found is VALUES, lengths is LENGTHS) == (True, True)
    assert check_sequences(VALUES[:, :4], config)[1].tolist() == [4, 4], "without lengths all have all rows"
    assert check_sequences(VALUES[:, :9], SEQUENCES["values"])[1] is None


@pytest.mark.parametrize(
    ("values", "lengths", "found"),
    [
        (VALUES.astype(np.float64), LENGTHS, r"values: found float64 \(2, 11, 3\), expected float32 \(batch, 1 or"),
        (VALUES[:, :0], LENGTHS, r"values: found float32 \(2, 0, 3\)"),
        (VALUES[:, :, :2], LENGTHS, r"values: found float32 \(2, 11, 2\)"),
        (np.zeros((1, 4097, 3), np.float32), None, r"values: found float32 \(1, 4097, 3\)"),
        (VALUES, [3, 11], r"lengths: found list, expected int32 \(2,\) of 1 to 11"),
        (VALUES, LENGTHS.astype(np.int64), r"lengths: found int64 \(2,\)"),
        (VALUES, LENGTHS[:1], r"lengths: found int32 \(1,\)"),
        (VALUES, LENGTHS - 3, r"lengths: found int32 \(2,\), expected int32 \(2,\) of 1 to 11"),
        (VALUES, LENGTHS + 1, r"lengths: found int32 \(2,\), expected int32 \(2,\) of 1 to 11"),
    ],
)
def test_other_values_and_lengths_are_refused_with_found_and_expected(values, lengths, found):
    with pytest.raises(ValueError, match=found):
        check_sequences(values, SEQUENCES["unequal lengths"], lengths)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_before_the_end_of_a_sequence_and_not_behind(value):
    """onnxruntime's LSTM would make a finite answer of it."""
    values = VALUES.copy()
    values[0, 3:] = value
    assert check_sequences(values, SEQUENCES["unequal lengths"], LENGTHS)[0] is values
    for lengths in (np.array([4, 11], np.int32), None):
        with pytest.raises(ValueError, match="values: found one that is not finite in sequence 0, row 3, expected"):
            check_sequences(values, SEQUENCES["unequal lengths"], lengths)
    with pytest.raises(ValueError, match="not finite in sequence 0, row 3"):
        check_sequences(values[:, :9], SEQUENCES["values"])


def test_lengths_for_a_model_of_one_length_are_refused():
    with pytest.raises(ValueError, match="lengths: found some, expected none: the model reads sequences of 9 rows"):
        check_sequences(VALUES[:, :9], SEQUENCES["values"], LENGTHS)


def test_a_contract_of_values_keeps_the_ranges_of_the_columns():
    contract = ModelContract(SEQUENCES["values"], ranges=((-1.5, 2.0), (0.0, 0.0), (-3e38, 3e38)))
    assert contract == ModelContract.from_metadata(contract.to_metadata())


@pytest.mark.parametrize(
    "ranges", [((1.0, 2.0),), ((2.0, 1.0),) * 3, ((1.0, 2.0, 3.0),) * 3, ((1, 2),) * 3, ((0.0, float("nan")),) * 3]
)
def test_impossible_ranges_are_refused(ranges):
    with pytest.raises(ValueError, match="ranges: found"):
        ModelContract(SEQUENCES["values"], ranges=ranges)
    damaged = ModelContract(SEQUENCES["values"]).to_metadata() | {"edgelstm.ranges": json.dumps(ranges)}
    with pytest.raises(ModelError, match="damaged model contract"):
        ModelContract.from_metadata(damaged)


def test_ranges_are_of_values_only():
    with pytest.raises(ValueError, match="ranges"):
        ModelContract(ModelConfig(), ranges=((0.0, 255.0),) * 28)


@pytest.mark.parametrize("other", [{"preparation": "plain"}, {"cols": 20}])
def test_a_rule_for_no_digit_is_one_of_digits_in_square_pictures(other):
    with pytest.raises(ValueError, match="no_digit: found a rule, expected none but for digits in square pictures"):
        ModelContract(ModelConfig(**other), no_digit=NO_DIGIT)


def test_a_contract_of_version_1_is_one_of_digits_of_one_length():
    old = dataclasses.replace(FULL, version=1).to_metadata()
    assert not {"edgelstm.ranges"} & old.keys()
    assert "preparation" not in old["edgelstm.config"]
    found = ModelContract.from_metadata(old)
    assert (1, "digit", False, ()) == (
        found.version, found.config.preparation, found.config.variable_length, found.ranges
    )  # fmt: skip


@pytest.mark.parametrize("config", SEQUENCES.values(), ids=[*SEQUENCES])
def test_version_1_knew_no_other_sequences(config):
    with pytest.raises(ValueError, match="version: found 1, which knew only digits of one length"):
        ModelContract(config, version=1)
    damaged = ModelContract(config).to_metadata() | {"edgelstm.version": "1"}
    with pytest.raises(ModelError, match="damaged model contract"):
        ModelContract.from_metadata(damaged)
