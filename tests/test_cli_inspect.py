"""Tests of `edgelstm inspect`: what a model file says of itself, in words and as JSON."""

import json
from pathlib import Path

import pytest
from commands import fails, run, strict_json

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule, Score


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
    assert lines["contract"] == "version 1, fp32"
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
        assert (lines["contract"], lines["input"]) == (f"version 1, {precision}", "pixels uint8 (batch, 100, 3)")
    else:
        assert lines["contract"] == f"version 1, rows and state, {precision}"
        assert lines["input"] == "row uint8 (batch, rows, 3), h float32 (2, batch, 6), c float32 (2, batch, 6)"
        assert lines["output"].endswith("h_out float32 (2, batch, 6), c_out float32 (2, batch, 6)")


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
