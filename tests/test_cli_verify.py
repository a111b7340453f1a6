"""Tests of `edgelstm verify`: every question with its answer, what could not be asked, exit 1 on any difference."""

import dataclasses
from pathlib import Path

import onnx
import pytest
from commands import fails, run, strict_json
from onnx import helper, numpy_helper

from edgelstm.config import ModelConfig, shipped_dir
from edgelstm.contract import EarlyRule, Score
from edgelstm.data.dataset import Part
from edgelstm.exporting import verify as verify_module
from edgelstm.exporting.graph import probe_sequences
from edgelstm.training.checkpoint import save_checkpoint
from edgelstm.training.model import TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path, sample):
    """A folder of its own; MNIST is not here, 40 digits are; torch stands in for its exporter, which takes seconds."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    digits = Part(sample.sequences[:40], sample.labels[:40], "the shipped sample, shortened")
    monkeypatch.setattr("edgelstm.data.evaluation.evaluation_digits", lambda folder: digits)
    monkeypatch.setattr(verify_module, "probe_sequences", lambda checkpoint: probe_sequences(checkpoint, 32))
    monkeypatch.setattr(
        verify_module, "TorchExportedRunner", lambda checkpoint, rows: TorchRunner(checkpoint.model(), name="stand-in")
    )


@pytest.fixture
def tiny(tiny_model_bytes, tiny_checkpoint):
    """The tiny model's file and checkpoint in the current folder."""
    Path("tiny.onnx").write_bytes(tiny_model_bytes)
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    return "tiny.onnx"


def test_a_true_export_exits_0_with_every_answer(tiny):
    result = run("verify", tiny, "--provider", "cpu")
    lines = result.stdout.splitlines()
    assert lines[-1] == "verified, but for 1 that could not be asked here (--): tiny.onnx"
    assert {"ok"} == {line.split()[0] for line in lines[:-2]}
    assert lines[-2].startswith("--    claimed accuracy: ")
    assert lines[-2].endswith(" of these sequences; the file claims none")
    assert result.stderr == (
        "verifying tiny.onnx against tiny.safetensors on 40 sequences (the shipped sample, shortened)\n"
    )


def test_a_file_whose_claims_are_all_counted_is_verified_without_a_but(tiny_checkpoint, model_bytes_of, sample):
    true = Score.of(TorchRunner(tiny_checkpoint.model()).logits(sample.sequences[:40]), sample.labels[:40])
    checkpoint = dataclasses.replace(tiny_checkpoint, test=true)
    save_checkpoint(Path("tiny.safetensors"), checkpoint)
    Path("tiny.onnx").write_bytes(model_bytes_of(checkpoint))
    assert run("verify", "tiny.onnx").stdout.splitlines()[-1] == "verified: tiny.onnx"


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_a_file_is_held_against_the_checkpoint_named_first(tiny_checkpoint, model_bytes_of, kind):
    save_checkpoint(Path("one.safetensors"), tiny_checkpoint)
    Path("other.onnx").write_bytes(model_bytes_of(tiny_checkpoint, kind=kind))
    assert run("verify", "one.safetensors", "other.onnx").stdout.splitlines()[-1].startswith("verified")


def test_a_model_of_another_shape_is_verified_on_random_pixels(checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(ModelConfig(rows=100, cols=3, hidden_size=12, class_names=("rest", "walk", "run")))
    checkpoint = dataclasses.replace(checkpoint, test=Score(9, 10))
    save_checkpoint(Path("gesture.safetensors"), checkpoint)
    Path("gesture.onnx").write_bytes(model_bytes_of(checkpoint, early=EarlyRule(0.9, 3)))
    result = run("verify", "gesture.onnx")
    lines = result.stdout.splitlines()
    assert lines[-1] == "verified, but for 2 that could not be asked here (--): gesture.onnx"
    assert "--    claimed accuracy: the file claims 9/10 (90.00 %), and the sequences are not on this machine" in lines
    assert "on random sequences, as no data here has its shape" in result.stderr


def test_validation_images_on_this_machine_are_asked_too(tiny_checkpoint, model_bytes_of, sample, monkeypatch):
    monkeypatch.setattr("edgelstm.data.evaluation.find_mnist", lambda folder: folder)
    held_out = Part(sample.sequences[:10], sample.labels[:10], "held out")
    monkeypatch.setattr("edgelstm.data.evaluation.validation_digits", lambda folder: held_out)
    checkpoint = dataclasses.replace(tiny_checkpoint, validation=Score(10, 10))
    save_checkpoint(Path("tiny.safetensors"), checkpoint)
    Path("tiny.onnx").write_bytes(model_bytes_of(checkpoint))
    result = run("verify", "tiny.onnx", expected=1)
    assert "FAIL  claimed validation accuracy: counted " in result.stdout


def test_a_tampered_file_exits_1_and_names_the_weight(tiny):
    model = onnx.load(tiny)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    array = numpy_helper.to_array(tensor).copy()
    array[3] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tiny)
    result = run("verify", tiny, "--provider", "cpu", "--json", expected=1)
    document = strict_json(result.stdout)
    assert document["passed"] is False
    failed = [check["answer"] for check in document["checks"] if check["passed"] is False]
    assert "differ: head.bias" in failed


def dropped_bias(model):
    node = next(node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM")
    node.input[3] = ""


def scaled_head(model):
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.attribute.append(helper.make_attribute("alpha", 0.5))


@pytest.mark.parametrize(("change", "what"), [(dropped_bias, "'lstm_0.R', ''"), (scaled_head, "'alpha': 0.5")])
@pytest.mark.parametrize("model", ["nano.int8", "base.int8"])
def test_a_shipped_int8_file_with_another_node_is_a_clear_line(model, change, what):
    changed = onnx.load(shipped_dir() / f"{model}.onnx")
    change(changed)
    onnx.save(changed, "changed.onnx")
    result = run("verify", shipped_dir() / f"{model.removesuffix('.int8')}.safetensors", "changed.onnx", expected=1)
    first, last = result.stdout.splitlines()
    assert first.startswith("FAIL  same contract: changed.onnx breaks the model contract in its nodes: found ")
    assert what in first
    assert last == "NOT VERIFIED: changed.onnx"


def stranger():
    """A sound ONNX model of another kind."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (stranger(), "model.onnx is not an edgelstm model"),
        (b"\x08\x0a" + bytes(range(256)) * 4, "model.onnx cannot be loaded as an ONNX model"),
        (b"this is no model\n", "model.onnx cannot be loaded as an ONNX model"),
        (b"", "model.onnx is not an ONNX model: found an empty file"),
    ],
)
def test_what_is_no_model_of_ours_is_not_verified(tiny, content, expected):
    Path("model.onnx").write_bytes(content)
    first, last = run("verify", "tiny.safetensors", "model.onnx", expected=1).stdout.splitlines()
    assert first.startswith(f"FAIL  same contract: {expected}")
    assert last == "NOT VERIFIED: model.onnx"


def test_a_missing_model_is_one_clear_line(tiny):
    assert fails("verify", "tiny.safetensors", "missing.onnx").startswith("no model missing.onnx: found no such file")


def test_a_checkpoint_in_a_models_place_says_what_to_do(tiny):
    assert fails("verify", "tiny.safetensors") == (
        "tiny.safetensors is a checkpoint: expected an ONNX file; write one with `edgelstm export tiny.safetensors`"
    )


def test_a_model_without_its_checkpoint_says_which_is_missing_and_how_to_name_it(tiny_model_bytes):
    Path("tiny.onnx").write_bytes(tiny_model_bytes)
    assert fails("verify", "tiny.onnx") == (
        "no checkpoint at tiny.safetensors: expected the one that tiny.onnx was exported from; "
        "name it: edgelstm verify CHECKPOINT MODEL"
    )


def test_three_paths_are_usage(tiny):
    assert "give at most a CHECKPOINT and a MODEL" in run("verify", tiny, tiny, tiny, expected=2).stderr


def test_names_in_a_file_cannot_forge_a_line(tiny_checkpoint, model_bytes_of):
    evil = dataclasses.replace(tiny_checkpoint, name="x\nverified: tiny.onnx\x1b[2J")
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    Path("tiny.onnx").write_bytes(model_bytes_of(evil))
    result = run("verify", "tiny.onnx", expected=1)
    assert not [line for line in result.stdout.splitlines() if line.startswith("verified")]
    assert "\x1b" not in result.stdout
