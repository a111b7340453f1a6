"""Tests of `edgelstm inspect`: what a model file says of itself, in words and as JSON."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from commands import fails, run, strict_json

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule, Score
from edgelstm.data.checks import report
from edgelstm.data.dataset import open_dataset


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def shown(*arguments):
    """What is said, by its name."""
    result = run("inspect", *arguments)
    return {line[:11].strip(): line[12:] for line in result.stdout.splitlines()}


def test_inspect_shows_contract_graph_size_and_parameters(tiny, tiny_config, tiny_model_bytes):
    lines = shown(tiny)
    assert f"tiny.onnx ({len(tiny_model_bytes):,} bytes)" == lines["file"]
    assert lines["contract"] == "version 2, fp32"
    assert lines["input"] == "pixels uint8 (batch, 28, 28)"
    assert lines["output"] == "logits float32 (batch, 10)"
    assert lines["classes"] == "0 1 2 3 4 5 6 7 8 9"
    assert f"{tiny_config.n_parameters:,}" == lines["parameters"]
    assert "LSTM" in lines["graph"].split()
    assert (lines["early exit"], lines["test"]) == ("no rule", "not recorded")


@pytest.mark.parametrize("kind", ["picture", "stream"])
@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_every_precision_and_form_of_every_shape_can_be_inspected(checkpoint_of, model_bytes_of, precision, kind):
    config = ModelConfig(rows=100, cols=3, hidden_size=6, n_layers=2, class_names=("rest", "walk"))
    rule = EarlyRule(0.9, 2, 71.25, Score(9, 10))
    Path("m.onnx").write_bytes(model_bytes_of(checkpoint_of(config), precision, kind, early=rule))
    lines = shown("m.onnx")
    assert lines["early exit"] == (
        "a probability of at least 0.9 for 2 steps: 71.2 of 100 rows on the validation images and their shifts by a "
        "pixel, 9/10 (90.00 %)"
    )
    if kind == "picture":
        assert (lines["contract"], lines["input"]) == (f"version 2, {precision}", "pixels uint8 (batch, 100, 3)")
    else:
        assert lines["contract"] == f"version 2, rows and state, {precision}"
        assert lines["input"] == "row uint8 (batch, rows, 3), h float32 (2, batch, 6), c float32 (2, batch, 6)"
        assert lines["output"].endswith("h_out float32 (2, batch, 6), c_out float32 (2, batch, 6)")


def test_the_rule_of_a_model_of_values_was_chosen_by_no_shifted_images(checkpoint_of, model_bytes_of):
    config = ModelConfig(rows=9, cols=3, hidden_size=6, class_names=("rest", "walk"), preparation="values")
    rule = EarlyRule(0.9, 2, 7.25, Score(9, 10))
    Path("m.onnx").write_bytes(model_bytes_of(checkpoint_of(config), early=rule))
    assert shown("m.onnx")["early exit"].endswith(": 7.2 of 9 rows on the validation sequences, 9/10 (90.00 %)")


def test_inspect_json_is_one_document(tiny, tiny_config):
    document = strict_json(run("inspect", tiny, "--json").stdout)
    assert (tiny_config.n_parameters, tiny_config.flops) == (document["n_parameters"], document["flops_per_image"])
    assert document["contract"]["config"]["hidden_size"] == 8
    assert {"operator": "LSTM", "provider": "CPUExecutionProvider"} in document["nodes"]


def test_inspect_shows_the_shipped_model_by_default_and_names_any_other(tiny):
    result = run("inspect")
    assert ("82,186" in result.stdout, result.stderr) == (True, "")
    assert run("inspect", tiny).stderr == "model tiny.onnx\n"


def test_a_checkpoint_says_what_to_do(tiny):
    Path("base.safetensors").write_bytes(b"x")
    assert "is a checkpoint: expected an ONNX file; write one with" in fails("inspect", "base.safetensors")


def test_class_names_cannot_forge_a_line(checkpoint_of, model_bytes_of):
    names = ("a\ntest        10,000/10,000 (100.00 %)", "\x1b[2Jb")
    config = ModelConfig(hidden_size=4, class_names=names)
    Path("m.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    text = run("inspect", "m.onnx").stdout
    assert ("\x1b" in text, text.count("\ntest  ")) == (False, 1)
    assert json.loads(run("inspect", "m.onnx", "--json").stdout)["contract"]["config"]["class_names"] == list(names)


def test_a_file_that_has_a_shipped_models_name_is_called_by_its_path(tmp_path, monkeypatch, tiny_model_bytes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").write_bytes(tiny_model_bytes)
    assert run("inspect", "./base").stderr == "model ./base\n"
    assert run("inspect", "base").stderr == ""


# Models of values, and data


def test_a_model_of_values_shows_what_it_reads_and_what_its_columns_were(checkpoint_of, model_bytes_of):
    config = ModelConfig(
        rows=29, cols=12, hidden_size=6, class_names=("a", "b"), preparation="values", variable_length=True
    )
    checkpoint = dataclasses.replace(checkpoint_of(config), ranges=((-1.5, 1234567.0),) * 12)
    Path("m.onnx").write_bytes(model_bytes_of(checkpoint))
    lines = shown("m.onnx")
    assert lines["input"] == "values float32 (batch, rows, 12), lengths int32 (batch)"
    assert lines["prepared"] == "values as they are"
    assert lines["model"].startswith("random: any number of steps (in training at most 29) of 12 values, 6 units")
    assert lines["ranges"].startswith("of the columns in training, 1: -1.5 to 1.235e+06, 2: ")
    assert lines["ranges"].endswith(" and 6 more")
    document = strict_json(run("inspect", "m.onnx", "--json").stdout)
    assert document["contract"]["ranges"] == [[-1.5, 1234567.0]] * 12
    assert shown("base")["prepared"] == "the digit is found in a picture of any size"


@pytest.fixture
def data():
    """Thirty classes' worth of values with thirty columns, the last of which never changes, and one evil name."""
    names = ["evil\x1b[2J\nwarning: forged", *(f"class {at}" for at in range(29))]
    values = np.random.default_rng(0).normal(5, 2, (300, 7, 30))
    values[:, :, 29] = 1
    np.savez("own.npz", X=values, y=np.array(names)[np.arange(300) % 30])
    return "own.npz"


def test_data_are_shown_on_a_screen(data):
    result = run("inspect", data)
    text, lines = result.stdout, result.stdout.splitlines()
    dataset = open_dataset(data)
    assert lines[0] == f"own.npz: {dataset.describe()}"
    assert f"sha256    {dataset.sha256}" in lines
    assert "rows      7 to 7, median 7" in lines
    assert any(line.startswith("baseline  2/60 (3.33 %) of the test part") for line in lines)
    found = report(dataset)
    [row] = [line.split() for line in lines if line.startswith("class 0 ")]
    assert ["class", "0", *(str(part[found.class_names.index("class 0")]) for part in found.counts.values())] == row
    [column] = [line.split() for line in lines if line.startswith("1 ")]
    assert [f"{float(part[0]):.6g}" for part in vars(found.statistics).values()] == column[1:]
    assert text.count("and 10 more") == 2
    assert "warning: columns that are constant: 30" in lines
    assert ("\x1b" in text, "warning: forged" in lines, len(lines) < 60) == (False, False, True)


def test_data_as_json_are_one_document(data):
    document = strict_json(run("inspect", data, "--json").stdout)
    assert (300, 30) == (sum(map(sum, document["counts"].values())), len(document["class_names"]))
    assert (30, 1.0) == (len(document["statistics"]["mean"]), document["statistics"]["minimum"][29])
    assert document["baseline"] == {"n_right": 2, "n": 60}


def test_a_folder_is_data_unless_a_run_left_a_model_in_it(tiny, tiny_model_bytes):
    for label in "ab":
        Path(f"data/{label}").mkdir(parents=True)
        for number in range(10):
            np.save(f"data/{label}/{number}.npy", np.full((3, 5), number + 10 * (label == "a"), np.float32))
    assert "20 sequences of 5 rows x 3 columns" in run("inspect", "data", "--channels-first").stdout
    assert "20 sequences of 3 rows x 5 columns" in run("inspect", "data").stdout
    Path("data/checkpoint.safetensors").touch()
    assert "found a folder without model.onnx" in fails("inspect", "data")
    Path("data/model.onnx").write_bytes(tiny_model_bytes)
    assert shown("data")["file"].startswith("data/model.onnx")
    assert "is for data" in run("inspect", "data", "--channels-first", expected=2).stderr


@pytest.mark.parametrize("name", ["missing.npz", "missing_TRAIN.ts"])
def test_data_that_are_not_there_are_one_clear_line(name):
    assert f"no file or folder {name}" in fails("inspect", name)


def test_pictures_have_no_table_of_columns():
    np.savez("pictures.npz", X=np.arange(20 * 6, dtype=np.uint8).reshape(20, 3, 2), y=np.arange(20) % 2)
    lines = run("inspect", "pictures.npz").stdout.splitlines()
    assert [True, False] == [any(line.startswith(title) for line in lines) for title in ("class ", "column ")]
    assert len(strict_json(run("inspect", "pictures.npz", "--json").stdout)["statistics"]["mean"]) == 2


@pytest.mark.parametrize("name", ["x.csv", "x.npy"])
def test_one_sequence_is_for_infer(name):
    Path(name).touch()
    assert f"{name} is one sequence, for `edgelstm infer`, and no data set" in fails("inspect", name)
