"""Tests of edgelstm.export.verify: an honest file passes, and every lie is caught. 200 real digits."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgelstm.config import ModelConfig
from edgelstm.contract import ModelContract, Score, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.errors import ModelError, ProviderError
from edgelstm.export import verify as verify_module
from edgelstm.export.graph import build_model
from edgelstm.export.verify import (
    BATCH_SIZES,
    torch_exported_model,
    torch_exported_runner,
    verify,
)
from edgelstm.runtime.parity import compare
from edgelstm.runtime.runner import OrtRunner, checkpoint_beside
from edgelstm.training.model import RowLstm, TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(sample):
    return Digits(sample.images[:200], sample.labels[:200], "the first 200 of the sample")


@pytest.fixture(scope="module")
def torch_exported(tiny_checkpoint):
    """torch.onnx.export takes seconds: once for all tests."""
    return torch_exported_model(tiny_checkpoint)


@pytest.fixture
def exported_once(monkeypatch, tiny_checkpoint, torch_exported):
    """The third voice from the one export, for the tiny checkpoint; plain torch for any other."""

    def runner(checkpoint):
        if checkpoint.weights_sha256 != tiny_checkpoint.weights_sha256:
            return TorchRunner(checkpoint.model(), name="torch.onnx.export")
        return OrtRunner(torch_exported.SerializeToString(), provider="cpu", name="torch.onnx.export")

    monkeypatch.setattr(verify_module, "torch_exported_runner", runner)


@pytest.fixture
def model(tiny_checkpoint):
    """A fresh graph, to be broken."""
    return build_model(tiny_checkpoint)


@pytest.fixture
def verdict(exported_once, tiny_checkpoint, digits, tmp_path):
    """Verify a graph against the tiny checkpoint on the CPU; the questions that failed."""

    def ask(model, checkpoint=tiny_checkpoint):
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        report = verify(checkpoint, path, digits, providers=("cpu",))
        assert report.passed == (not failed(report))
        return report

    return ask


def failed(report):
    return [check.question.split(":")[0] for check in report.checks if not check.passed]


def weight(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change(model, name, how):
    """Replace an initializer by ``how`` of its array."""
    tensor = weight(model, name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(how(numpy_helper.to_array(tensor).copy())), name))


def node(model, operator):
    return next(node for node in model.graph.node if node.op_type == operator)


SAME_WEIGHTS, SAME_VALUES = "same weights", "same values and decisions"


# The honest file


def test_the_honest_file_passes_every_check(verdict, model):
    report = verdict(model)
    assert (report.passed, failed(report)) == (True, []), [check.answer for check in report.checks]


def test_all_four_questions_are_asked_of_every_voice_and_batch(verdict, model):
    questions = [check.question for check in verdict(model).checks]
    batches = [f"same values and decisions: onnxruntime CPU, batch {size}" for size in (1, 2, 7, 64, 1000)]
    assert [
        "same names and shapes",
        "same weights",
        "same values and decisions: NumPy, batch 1000",
        "same values and decisions: torch.onnx.export, batch 1000",
        *batches,
        "same claims",
        "claimed accuracy",
    ] == questions


def test_the_report_says_which_digits_were_compared(verdict, model, tmp_path):
    report = verdict(model)
    assert ("200 digits (the first 200 of the sample)", str(tmp_path / "model.onnx"), "the checkpoint") == (
        report.digits, report.model, report.checkpoint
    )  # fmt: skip


def test_the_answers_carry_the_numbers(verdict, model):
    checks = verdict(model).checks
    assert checks[0].answer == "pixels uint8 (batch, 28, 28) -> logits float32 (batch, 10)"
    assert checks[1].answer == "6 initializers bit for bit"
    assert checks[2].answer.startswith("200/200 digits and 256/256 random decided alike, largest difference ")
    assert checks[2].parity.n == 456


def test_several_layers_and_rows_a_step_pass_too(exported_once, digits, tmp_path, tiny_checkpoint):
    config = ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2)
    draw = np.random.default_rng(0)
    weights = {
        name: torch.from_numpy(draw.normal(0, 0.4, tuple(value.shape)).astype(np.float32))
        for name, value in RowLstm(config).state_dict().items()
    }
    checkpoint = dataclasses.replace(tiny_checkpoint, config=config, weights=weights)
    (tmp_path / "model.onnx").write_bytes(build_model(checkpoint).SerializeToString())
    report = verify(checkpoint, tmp_path / "model.onnx", digits, providers=("cpu",))
    assert failed(report) == [], [check.answer for check in report.checks]


def test_torchs_own_export_is_an_independent_third_voice(torch_exported, tiny_checkpoint, digits):
    """The real exporter with a real LSTM, not our graph again."""
    operators = [node.op_type for node in torch_exported.graph.node]
    assert operators.count("LSTM") == 1
    assert operators != [node.op_type for node in build_model(tiny_checkpoint).graph.node]
    found = OrtRunner(torch_exported.SerializeToString(), provider="cpu").logits(digits.images)
    assert compare(TorchRunner(tiny_checkpoint.model()).logits(digits.images), found).passed


def test_torchs_exporter_is_quiet(tiny_checkpoint, capfd):
    assert torch_exported_runner(tiny_checkpoint).name == "torch.onnx.export"
    assert capfd.readouterr() == ("", "")


# Every lie is caught


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R", "lstm_0.B"])
def test_swapped_gates_are_caught(verdict, model, name):
    """torch's order i, f, g, o left as it was, in one of the three weights."""

    def swap(array):
        axis = array.shape.index(32) if 32 in array.shape else None
        parts = np.split(array, 4, axis) if axis is not None else np.split(array, 8, 1)
        order = (0, 2, 3, 1) if axis is not None else (0, 2, 3, 1, 4, 6, 7, 5)
        return np.concatenate([parts[i] for i in order], axis if axis is not None else 1)

    change(model, name, swap)
    assert {SAME_WEIGHTS, SAME_VALUES} <= set(failed(verdict(model)))


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R", "lstm_0.B", "head.weight", "head.bias"])
def test_one_weight_changed_by_its_last_bit_is_caught_and_named(verdict, model, name):
    def nudge(array):
        array.flat[3] = np.nextafter(array.flat[3], np.float32(np.inf))
        return array

    change(model, name, nudge)
    report = verdict(model)
    assert failed(report) == [SAME_WEIGHTS]
    assert f"differ: {name}" == report.checks[1].answer


def test_a_weight_of_zero_that_changed_its_sign_is_caught(verdict, tiny_checkpoint, model):
    weights = {name: value.clone() for name, value in tiny_checkpoint.weights.items()}
    weights["head.bias"][0] = 0.0
    checkpoint = dataclasses.replace(tiny_checkpoint, weights=weights)
    broken = build_model(checkpoint)
    change(broken, "head.bias", lambda array: np.where(array == 0, np.float32(-0.0), array))
    assert failed(verdict(broken, checkpoint)) == [SAME_WEIGHTS]


def test_a_weight_left_out_or_added_is_caught(verdict, model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "extra"))
    assert verdict(model).checks[1].answer == "differ: extra"


def test_columns_read_as_rows_are_caught(verdict, model):
    """(B, R, C) -> (C, B, R): the same shapes, the picture on its side."""
    node(model, "Transpose").attribute[0].ints[:] = [2, 0, 1]
    report = verdict(model)
    assert {SAME_VALUES} == set(failed(report))
    assert "became" in report.checks[2].answer


def test_rows_read_from_the_bottom_up_are_caught(verdict, model):
    """A Slice with step -1 over the rows, before the LSTM."""
    node(model, "LSTM").input[0] = "reversed"
    at = [n.op_type for n in model.graph.node].index("LSTM")
    model.graph.node.insert(
        at, helper.make_node("Slice", ["sequence", "start", "end", "axis", "step"], ["reversed"], name="reverse")
    )
    for name, value in {"start": -1, "end": -(2**31), "axis": 0, "step": -1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    report = verdict(model)
    assert {SAME_WEIGHTS, SAME_VALUES} <= set(failed(report))
    assert "onnxruntime CPU" in " ".join(check.question for check in report.checks if not check.passed)


def test_an_lstm_that_runs_backwards_is_caught(verdict, model):
    node(model, "LSTM").attribute.append(helper.make_attribute("direction", "reverse"))
    assert {SAME_VALUES} == set(failed(verdict(model)))


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R", "lstm_0.B", "head.weight", "head.bias"])
def test_a_nan_is_caught(verdict, model, name):
    def spoil(array):
        array.flat[0] = np.nan
        return array

    change(model, name, spoil)
    report = verdict(model)
    assert not report.passed
    assert f"weights that are not numbers: found {name}" in report.checks[0].answer


def test_a_checkpoint_with_a_nan_does_not_pass_for_being_equally_broken(verdict, tiny_checkpoint):
    weights = {name: value.clone() for name, value in tiny_checkpoint.weights.items()}
    weights["head.bias"][0] = float("nan")
    checkpoint = dataclasses.replace(tiny_checkpoint, weights=weights)
    assert not verdict(build_model(checkpoint), checkpoint).passed


def test_a_dropped_lstm_bias_is_caught_even_with_its_weights_still_in_the_file(verdict, model):
    del node(model, "LSTM").input[3]
    assert {SAME_VALUES} == set(failed(verdict(model)))


def test_a_dropped_head_bias_is_caught_even_with_its_weights_still_in_the_file(verdict, model):
    del node(model, "Gemm").input[2]
    assert {SAME_VALUES} == set(failed(verdict(model)))


def test_the_state_after_the_first_row_instead_of_the_last_is_caught(verdict, model):
    """Y's first step instead of Y_h: a Gather on the sequence of outputs."""
    lstm = node(model, "LSTM")
    lstm.output[:] = ["all", ""]
    at = list(model.graph.node).index(lstm) + 1
    model.graph.node.insert(at, helper.make_node("Gather", ["all", "direction_axis"], ["first"], axis=0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int64), "two_axes"))
    squeeze = node(model, "Squeeze")
    squeeze.input[:] = ["first", "two_axes"]
    assert SAME_VALUES in failed(verdict(model))


def test_a_change_that_no_digit_shows_is_caught_by_the_random_pixels(verdict, model, digits):
    """The outermost column is background in every digit, so its weights change no real decision."""
    assert digits.images[:, :, 0].max() == 0

    def spoil(array):
        array[..., 0] += 1
        return array

    change(model, "lstm_0.W", spoil)
    report = verdict(model)
    assert {SAME_WEIGHTS, SAME_VALUES} == set(failed(report))
    assert report.checks[2].answer.startswith("200/200 digits")


def test_a_forgotten_pixel_scale_is_caught(verdict, model):
    change(model, "lstm_0.W", lambda array: array * np.float32(255))
    assert {SAME_WEIGHTS, SAME_VALUES} <= set(failed(verdict(model)))


def test_another_models_checkpoint_of_the_same_shape_is_caught(verdict, model, tiny_checkpoint):
    weights = {name: value + 0.1 for name, value in tiny_checkpoint.weights.items()}
    other = dataclasses.replace(tiny_checkpoint, weights=weights)
    assert {SAME_WEIGHTS, SAME_VALUES} <= set(failed(verdict(model, other)))


def test_another_models_checkpoint_of_another_shape_is_caught_at_once(verdict, model, tiny_checkpoint):
    config = ModelConfig(hidden_size=4)
    other = dataclasses.replace(tiny_checkpoint, config=config, weights=RowLstm(config).state_dict())
    report = verdict(model, other)
    assert failed(report) == ["same names and shapes"]
    assert "hidden_size=8" in report.checks[0].answer.split("expected")[0]
    assert "hidden_size=4" in report.checks[0].answer.split("expected")[1]


def test_other_class_names_are_caught(verdict, tiny_checkpoint, model):
    named = ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    config = dataclasses.replace(named.config, class_names=tuple("9876543210"))
    helper.set_model_props(model, dataclasses.replace(named, config=config).to_metadata())
    assert failed(verdict(model)) == ["same names and shapes"]


def test_a_file_that_breaks_the_contract_is_caught(verdict, model):
    del model.metadata_props[:]
    report = verdict(model)
    assert failed(report) == ["same names and shapes"]
    assert "not an edgelstm model" in report.checks[0].answer


def counted(checkpoint, digits):
    right = TorchRunner(checkpoint.model()).logits(digits.images).argmax(1) == digits.labels
    return int(right.sum())


@pytest.mark.parametrize("lie", [-1, 1])
def test_an_accuracy_claim_that_is_off_by_one_is_caught(verdict, tiny_checkpoint, digits, lie):
    n_right = counted(tiny_checkpoint, digits)
    claiming = dataclasses.replace(tiny_checkpoint, test=Score(n_right + lie, 200))
    report = verdict(build_model(claiming))
    assert failed(report) == ["same claims", "claimed accuracy"]
    answer = report.checks[-1].answer
    assert f"counted {Score(n_right, 200)}, the file says {Score(n_right + lie, 200)}" == answer


def test_an_honest_accuracy_claim_passes(verdict, tiny_checkpoint, digits):
    claiming = dataclasses.replace(tiny_checkpoint, test=Score(counted(tiny_checkpoint, digits), 200))
    report = verdict(build_model(claiming), claiming)
    assert failed(report) == []
    assert report.checks[-1].answer.startswith("counted ")


def test_a_claim_about_other_digits_is_not_judged_and_says_so(verdict, tiny_checkpoint):
    claiming = dataclasses.replace(tiny_checkpoint, test=Score(1, 10_000))
    report = verdict(build_model(claiming), claiming)
    assert failed(report) == []
    assert "the file's claim is not about them: 1/10,000 (0.01 %)" in report.checks[-1].answer


# Files that are no model, providers that are not there


def test_a_truncated_file_is_caught(verdict, tiny_model_bytes):
    report = verdict(tiny_model_bytes[:-100])
    assert failed(report) == ["same names and shapes"]


def test_a_missing_file_is_one_clear_line(tiny_checkpoint, digits, tmp_path):
    with pytest.raises(ModelError, match=r"no model .*nowhere\.onnx"):
        verify(tiny_checkpoint, tmp_path / "nowhere.onnx", digits)


def test_a_provider_asked_for_by_name_must_be_there(tiny_checkpoint, digits, tiny_model_path, monkeypatch):
    monkeypatch.setattr("edgelstm.runtime.runner.cuda_problem", lambda ort: "no GPU here")
    with pytest.raises(ProviderError, match="provider cuda cannot run this model: no GPU here"):
        verify(tiny_checkpoint, tiny_model_path, digits, providers=("cpu", "cuda"))


def test_a_provider_asked_for_twice_is_checked_once(
    exported_once, tiny_checkpoint, digits, tiny_model_path, monkeypatch
):
    monkeypatch.setattr("edgelstm.runtime.runner.cuda_problem", lambda ort: "no GPU here")
    report = verify(tiny_checkpoint, tiny_model_path, digits, providers=("auto", "cpu"))
    assert len(BATCH_SIZES) == sum("onnxruntime CPU" in check.question for check in report.checks)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_keep_every_image_in_its_order(batch_size):
    class Ramp:
        name = "ramp"

        def logits(self, pixels):
            assert len(pixels) <= batch_size
            return pixels.reshape(len(pixels), -1).astype(np.float32)

    pixels = np.arange(7, dtype=np.uint8).reshape(7, 1, 1)
    assert in_batches(Ramp(), pixels, batch_size)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_the_checkpoint_is_expected_beside_the_model(tmp_path):
    assert tmp_path / "model.safetensors" == checkpoint_beside(tmp_path / "model.onnx")


def test_the_onnx_file_is_read_without_its_neighbours(verdict, model, tmp_path):
    """Weights outside the file are refused, wherever they point."""
    (tmp_path / "weights.bin").write_bytes(weight(model, "head.weight").raw_data)
    tensor = weight(model, "head.weight")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    assert failed(verdict(model)) == ["same names and shapes"]
