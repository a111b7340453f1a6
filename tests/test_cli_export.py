"""Tests of `edgelstm export`: what is written where and printed, and one clear line for whatever cannot be exported."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fails, run, strict_json

from edgelstm.config import ModelConfig
from edgelstm.data.dataset import Part
from edgelstm.exporting import export as export_module
from edgelstm.measure.timing import Ratio
from edgelstm.onnx_file import open_model
from edgelstm.runtime.stream import stateful_form
from edgelstm.training.checkpoint import save_checkpoint, save_tensors

pytestmark = pytest.mark.usefixtures("one_thread")
GESTURE = ModelConfig(rows=100, cols=3, hidden_size=12, class_names=("rest", "walk", "run"))


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    """Every command runs in a folder of its own, on a machine without MNIST."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def few(monkeypatch, sample):
    """A smaller precision is judged by 40 digits, and no clock is asked."""
    digits = Part(sample.sequences[:40], sample.labels[:40], "the shipped sample, shortened")
    monkeypatch.setattr("edgelstm.data.evaluation.evaluation_digits", lambda folder: digits)
    monkeypatch.setattr(export_module, "ratio_of", lambda *arguments: Ratio(1.2, 1.1, 1.3, 0.95, 16))


def test_export_writes_beside_the_checkpoint_and_says_what(checkpoint, tiny_model_bytes):
    result = run("export", checkpoint)
    assert tiny_model_bytes == Path("tiny.onnx").read_bytes()
    assert [
        f"wrote       tiny.onnx ({len(tiny_model_bytes):,} bytes)",
        "operators   Cast Transpose LSTM Squeeze Gemm",
    ] == (result.stdout.splitlines()[:2])
    assert "256/256 same decisions" in result.stdout
    assert "early exit" not in result.stdout
    assert result.stderr == "next: edgelstm verify tiny.onnx\n"


def test_export_takes_a_run_folder_and_writes_into_it(tiny_checkpoint, tiny_model_bytes):
    save_checkpoint(Path("runs/base/model.safetensors"), tiny_checkpoint)
    run("export")
    assert tiny_model_bytes == Path("runs/base/model.onnx").read_bytes()


def test_export_json_is_one_document(checkpoint):
    document = strict_json(run("export", checkpoint, "-o", "out/x.onnx", "--json").stdout)
    assert ("out/x.onnx", Path("out/x.onnx").stat().st_size) == (document["path"], document["n_bytes"])
    assert document["operators"] == ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm"]


def test_streaming_writes_the_form_that_stream_runs(checkpoint):
    run("export", checkpoint)
    result = run("export", checkpoint, "--streaming")
    assert result.stdout.startswith("wrote       tiny.stream.onnx (")
    assert stateful_form(open_model("./tiny.onnx")) == Path("tiny.stream.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "name"), [([], "tiny.int8.onnx"), (["--streaming"], "tiny.stream.int8.onnx")], ids=str
)
def test_a_smaller_precision_says_what_it_costs_and_takes_more_time_without_being_refused(
    checkpoint, few, options, name
):
    result = run("export", checkpoint, "--precision", "int8", "--force", *options)
    shown = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert shown["wrote"].startswith(f"{name} (")
    assert shown["fp32"].endswith(" %)")
    assert "/40 same decisions" in shown["int8"]
    assert shown["speed"] == "1.20 times the time of fp32 for one sequence [1.10 1.30], one thread, this machine"
    assert shown["provider"].startswith("CPU only")
    assert "comparing int8 with fp32 on 40 sequences (the shipped sample, shortened)\n" in result.stderr
    assert open_model(name).contract.test.n == 40


def test_a_loss_is_refused_in_one_line_and_kept_by_force(checkpoint, few, monkeypatch):
    monkeypatch.setattr(export_module, "costs_accuracy", lambda test, n: True)
    error = fails("export", checkpoint, "--precision", "int8")
    assert error.startswith("tiny.int8.onnx was not written: int8 costs accuracy: found ")
    assert error.endswith("give --force to keep it, or ship fp32")
    assert not Path("tiny.int8.onnx").exists()
    run("export", checkpoint, "--precision", "int8", "--force")
    assert Path("tiny.int8.onnx").exists()


def test_validation_images_on_this_machine_choose_the_rule(checkpoint, monkeypatch, sample):
    held_out = Part(sample.sequences[:10], sample.labels[:10], "held out")
    monkeypatch.setattr(export_module, "MIN_FOR_RULE", 10)
    monkeypatch.setattr("edgelstm.data.evaluation.find_mnist", lambda folder: folder)
    monkeypatch.setattr("edgelstm.data.evaluation.evaluation_digits", lambda folder: sample)
    monkeypatch.setattr("edgelstm.data.evaluation.validation_digits", lambda folder: held_out)
    result = run("export", checkpoint)
    rule = open_model("./tiny.onnx").contract.early
    shown = dict(line.split(None, 1) for line in result.stdout.replace("early exit", "early").splitlines())
    assert shown["early"] == (f"a {rule}: {rule.mean_rows:.1f} rows on the validation sequences, {rule.validation}")
    assert "choosing the rule for early exit on the validation sequences\n" in result.stderr


# What cannot be exported


def test_a_shipped_models_name_is_no_checkpoint_and_the_error_says_which_is():
    error = fails("export", "base")
    assert error.startswith("base is the name of a shipped model, which has been exported; name it: edgelstm export ")
    assert error.endswith("base.safetensors -o base.onnx")


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_model_of_another_shape_is_exported(checkpoint_of, streaming):
    save_checkpoint(Path("gesture.safetensors"), checkpoint_of(GESTURE))
    assert "256/256 same decisions" in run("export", "gesture.safetensors", *streaming).stdout


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("config", "found"),
    [
        (GESTURE, "100 rows x 3 columns and 3 classes"),
        (ModelConfig(hidden_size=4, class_names=("x", "y")), "28 rows x 28 columns and 2 classes"),
    ],
)
def test_a_smaller_precision_of_a_model_that_no_data_fits_is_one_clear_line(checkpoint_of, precision, config, found):
    save_checkpoint(Path("other.safetensors"), checkpoint_of(config))
    for force in ([], ["--force"]):
        assert fails("export", "other.safetensors", "--precision", precision, *force) == (
            f"{precision} is judged by its accuracy, and no data here has this model's shape: "
            f"found a model of {found}, "
            "expected the data that it was trained on; name it with --data, or export fp32"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--force"], "--force is for int8 and fp16"),
        (["--streaming", "--precision", "fp16"], "--streaming goes with fp32 or int8"),
    ],
)
def test_options_that_do_not_go_together_are_usage(checkpoint, options, message):
    assert message in run("export", checkpoint, *options, expected=2).stderr


def spoiled(tiny_checkpoint, **weights):
    """The tiny checkpoint's file with weights replaced, or, for None, left out."""
    tensors = {**tiny_checkpoint.weights, **{name.replace("__", "."): weight for name, weight in weights.items()}}
    values = dataclasses.asdict(dataclasses.replace(tiny_checkpoint, weights={}))
    del values["weights"]
    save_tensors(
        Path("spoiled.safetensors"), {name: weight for name, weight in tensors.items() if weight is not None}, values
    )
    return "spoiled.safetensors"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"head__bias": None}, "head.bias"),
        ({"head__bias": torch.zeros(9)}, "head.bias"),
        ({"extra": torch.zeros(1)}, "extra"),
    ],
)
def test_a_checkpoint_whose_weights_are_not_its_configs_is_one_clear_line(tiny_checkpoint, weights, expected):
    path = spoiled(tiny_checkpoint, **weights)
    for command in (["export", path], ["verify", path, "base"]):
        error = fails(*command)
        assert error.startswith("spoiled.safetensors does not hold the weights of its own config")
        assert expected in error
    assert not Path("spoiled.onnx").exists()


def test_a_checkpoint_of_nan_is_not_exported_and_the_old_file_stays(tiny_checkpoint):
    path = spoiled(tiny_checkpoint, head__bias=torch.full((10,), math.nan))
    Path("spoiled.onnx").write_bytes(b"the old file")
    assert "head.bias" in fails("export", path)
    assert Path("spoiled.onnx").read_bytes() == b"the old file"


@pytest.mark.parametrize("content", [None, b"", b"text", b"\xff" * 100])
def test_a_damaged_or_missing_checkpoint_is_one_clear_line(content):
    if content is not None:
        Path("bad.safetensors").write_bytes(content)
    assert "bad.safetensors" in fails("export", "bad.safetensors")


@pytest.mark.parametrize("target", ["file/model.onnx", "file/below/model.onnx", "folder"])
def test_an_output_that_cannot_be_written_is_one_clear_line(checkpoint, target):
    Path("file").touch()
    Path("folder").mkdir()
    before = sorted(Path.cwd().rglob("*"))
    assert f"cannot write {target}: found" in fails("export", checkpoint, "-o", target)
    assert before == sorted(Path.cwd().rglob("*"))


def test_a_wrong_exporter_writes_nothing(checkpoint, monkeypatch):
    class Off(export_module.TorchRunner):
        def logits(self, sequences, lengths):
            return super().logits(sequences, lengths) + np.float32(0.1)

    monkeypatch.setattr(export_module, "TorchRunner", Off)
    assert fails("export", checkpoint).startswith("tiny.onnx was not written: the exported model differs")
    assert not Path("tiny.onnx").exists()
