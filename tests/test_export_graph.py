"""Tests of edgelstm.export.export: the minimal graph, its gates, and no file unless it equals the checkpoint."""

import dataclasses
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgelstm.config import RECIPES, ModelConfig
from edgelstm.contract import ModelContract, Score
from edgelstm.errors import ModelError, OutputError, ParityError
from edgelstm.export import export as export_module
from edgelstm.export import graph as graph_module
from edgelstm.export.export import export
from edgelstm.export.graph import GATE_ORDER, build_model, check_graph, contract_of, onnx_lstm_weights, probe_pixels
from edgelstm.runtime.parity import compare
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import Checkpoint, save_checkpoint
from edgelstm.training.model import RowLstm, TorchRunner, numpy_weights

CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step": ModelConfig(hidden_size=6, rows_per_step=2),
    "four rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}


def random_checkpoint(config):
    draw = np.random.default_rng(0)
    weights = {
        name: torch.from_numpy(draw.normal(0, 0.4, tuple(weight.shape)).astype(np.float32))
        for name, weight in RowLstm(config).state_dict().items()
    }
    return Checkpoint(weights, config, RECIPES["fast"], "random", 1, "0" * 64)


@pytest.fixture
def model(tiny_checkpoint):
    """A fresh graph, to be broken."""
    return build_model(tiny_checkpoint)


def initializer(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


# The file


def test_the_same_checkpoint_gives_the_same_bytes(tiny_checkpoint, tmp_path):
    for name in ("one", "two"):
        export(tiny_checkpoint, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_another_process_gives_the_same_bytes(tiny_checkpoint, tiny_model_bytes, tmp_path):
    """Nothing depends on the order of a set or a hash."""
    save_checkpoint(tmp_path / "model.safetensors", tiny_checkpoint)
    code = (
        "import sys, pathlib; from edgelstm.training.checkpoint import load_checkpoint; "
        "from edgelstm.export.graph import build_model; "
        "content = build_model(load_checkpoint(sys.argv[1])).SerializeToString(deterministic=True); "
        "pathlib.Path(sys.argv[2]).write_bytes(content)"
    )
    command = [sys.executable, "-c", code, tmp_path / "model.safetensors", tmp_path / "other"]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(filter(None, sys.path))})
    assert tiny_model_bytes == (tmp_path / "other").read_bytes()


def test_export_says_what_it_wrote(tiny_checkpoint, tmp_path):
    result = export(tiny_checkpoint, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx", (tmp_path / "model.onnx").stat().st_size) == (result.path, result.n_bytes)
    assert result.operators == ("Cast", "Transpose", "LSTM", "Squeeze", "Gemm")
    assert (result.parity.passed, result.parity.n) == (True, 256)


def test_only_the_named_file_is_written(tiny_checkpoint, tmp_path):
    export(tiny_checkpoint, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_exported_model_equals_torch(config, sample):
    checkpoint = random_checkpoint(config)
    pixels = probe_pixels(config)
    if (config.rows, config.cols) == (28, 28):
        pixels = np.concatenate([pixels, sample.images[:200]])
    runner = OrtRunner(build_model(checkpoint).SerializeToString(), provider="cpu")
    report = compare(TorchRunner(checkpoint.model()).logits(pixels), runner.logits(pixels))
    assert report.passed, f"largest difference {report.max_difference:.2e}, {report.disagreements[:3]}"


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_the_batch_size_is_free(tiny_model_bytes, tiny_checkpoint, sample, batch):
    logits = OrtRunner(tiny_model_bytes, provider="cpu").logits(sample.images[:batch])
    assert compare(TorchRunner(tiny_checkpoint.model()).logits(sample.images[:batch]), logits).passed


# The graph


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_graph_holds_exactly_the_promised_operators(config):
    model = build_model(random_checkpoint(config))
    check_graph(model, config)
    operators = [node.op_type for node in model.graph.node]
    assert config.n_layers == operators.count("LSTM")
    assert (config.rows_per_step > 1) == ("Reshape" in operators)
    assert {"Cast", "Transpose", "LSTM", "Squeeze", "Gemm"} == set(operators) - {"Reshape"}


def test_gates_are_taken_from_torchs_order_to_onnxs():
    assert [["i", "f", "c", "o"][gate] for gate in GATE_ORDER] == ["i", "o", "f", "c"]


def test_lstm_weights_are_reordered_gate_by_gate():
    hidden = 2
    gates = np.repeat(np.array([0, 1, 2, 3], np.float32), hidden)  # torch: i, f, g, o
    weights = {
        "lstm.weight_ih_l0": np.repeat(gates[:, None], 3, 1),
        "lstm.weight_hh_l0": np.repeat(gates[:, None], 2, 1) + 10,
        "lstm.bias_ih_l0": gates + 20,
        "lstm.bias_hh_l0": gates + 30,
    }
    w, r, b = onnx_lstm_weights(weights, 0, scale=1.0)
    order = np.repeat([0, 3, 1, 2], hidden)  # ONNX: i, o, f, c
    assert (w.shape, r.shape, b.shape) == ((1, 8, 3), (1, 8, 2), (1, 16))
    assert order.tolist() == w[0, :, 0].tolist()
    assert (order + 10).tolist() == r[0, :, 0].tolist()
    assert [*(order + 20), *(order + 30)] == b[0].tolist()


def test_the_pixels_scale_is_in_the_first_layers_input_weights_alone():
    weights = numpy_weights(random_checkpoint(CONFIGS["three layers"]).weights)
    scaled = onnx_lstm_weights(weights, 0, scale=1 / 255)
    plain = onnx_lstm_weights(weights, 0, scale=1.0)
    np.testing.assert_allclose(scaled[0] * 255, plain[0], rtol=1e-6)
    assert [np.array_equal(scaled[i], plain[i]) for i in (1, 2)] == [True, True]
    model = build_model(random_checkpoint(CONFIGS["three layers"]))
    for layer in (1, 2):
        found = numpy_helper.to_array(initializer(model, f"lstm_{layer}.W"))
        assert np.array_equal(onnx_lstm_weights(weights, layer, scale=1.0)[0], found)


def test_weights_are_named_and_stored_once(model):
    names = ["direction_axis", "head.bias", "head.weight", "lstm_0.B", "lstm_0.R", "lstm_0.W"]
    assert names == sorted(tensor.name for tensor in model.graph.initializer)


def test_the_metadata_is_the_contract_of_the_checkpoint(tiny_checkpoint):
    checkpoint = dataclasses.replace(tiny_checkpoint, test=Score(9, 10), versions={"torch": "2"})
    model = build_model(checkpoint)
    found = ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    assert contract_of(checkpoint) == found
    assert ("tiny", "fast", 0, Score(9, 10), checkpoint.weights_sha256, "0" * 64) == (
        found.name, found.recipe, found.seed, found.test, found.weights_sha256, found.data_sha256
    )  # fmt: skip
    assert {"torch", "edgelstm", "onnx"} == set(found.versions)


def test_probe_pixels_are_the_same_each_time_and_of_every_density():
    pixels = probe_pixels(ModelConfig())
    assert np.array_equal(pixels, probe_pixels(ModelConfig()))
    assert ((256, 28, 28), np.uint8) == (pixels.shape, pixels.dtype)
    shares = (pixels > 0).mean((1, 2))
    assert (shares[0], shares[-1] > 0.9) == (0.0, True)
    assert pixels.max() == 255


# The gates: each broken graph is refused


def refused(model, config, what):
    with pytest.raises(ModelError, match=what):
        check_graph(model, config)


def test_an_honest_graph_passes(model, tiny_config):
    check_graph(model, tiny_config)


def test_an_extra_operator_is_refused(model, tiny_config):
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Identity", ["raw"], ["logits"]))
    refused(model, tiny_config, "breaks the contract in its operators: found .*'Identity'.*, expected")


def test_a_graph_without_a_real_lstm_is_refused(model, tiny_config):
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    lstm.op_type = "GRU"
    refused(model, tiny_config, "operators|checker")


@pytest.mark.parametrize("name", ["lstm_0.W", "lstm_0.R", "lstm_0.B"])
def test_lstm_weights_that_are_no_initializers_are_refused(model, tiny_config, name):
    """A Constant node's output instead: CUDA's LSTM and quantization need initializers."""
    weight = initializer(model, name)
    model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=weight))
    model.graph.initializer.remove(weight)
    refused(model, tiny_config, "operators")


def test_lstm_weights_from_another_node_are_refused_even_with_the_promised_operators(model, tiny_config, monkeypatch):
    """The operator gate would stop this first: the initializer gate must stand alone too."""
    weight = initializer(model, "lstm_0.W")
    model.graph.initializer.remove(weight)
    model.graph.input.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, weight.dims))
    refused(model, tiny_config, r"LSTM weights that are not initializers: found \['lstm_0.W'\], expected \[\]")


def test_an_lstm_without_a_bias_is_refused_or_differs(model, tiny_checkpoint, tiny_config, tmp_path, monkeypatch):
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    del lstm.input[3]
    monkeypatch.setattr(export_module, "build_model", lambda *arguments: model)
    with pytest.raises((ModelError, ParityError)):
        export(tiny_checkpoint, tmp_path / "model.onnx")


@pytest.mark.parametrize("version", [17, 19, 22])
def test_another_opset_is_refused(model, tiny_config, version):
    model.opset_import[0].version = version
    refused(model, tiny_config, rf"opsets: found \[\('', {version}\)\], expected \[\('', 18\)\]")


def test_a_further_opset_is_refused(model, tiny_config):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(model, tiny_config, "opsets: found .*com.microsoft")


def test_another_input_name_is_refused(model, tiny_config):
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    refused(model, tiny_config, "its input: found .*'image'.*expected .*'pixels'")


def test_another_output_name_is_refused(model, tiny_config):
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    refused(model, tiny_config, "its output: found .*'scores'.*expected .*'logits'")


def test_another_input_type_is_refused(model, tiny_config):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    refused(model, tiny_config, "its input")


def test_a_fixed_batch_is_refused(model, tiny_config):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    refused(model, tiny_config, "its input: found .*1, 28, 28")


def test_another_shape_is_refused(model, tiny_config):
    refused(model, dataclasses.replace(tiny_config, cols=27), r"its input: found .*28, 28.*expected .*28, 27")


def test_a_second_output_is_refused(model, tiny_config):
    model.graph.output.append(helper.make_tensor_value_info("lstm_0.last", TensorProto.FLOAT, ["batch", 8]))
    refused(model, tiny_config, "its output")


def test_weights_outside_the_file_are_refused(model, tiny_config):
    tensor = initializer(model, "head.weight")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    refused(model, tiny_config, "checker refuses the graph")


def test_weights_outside_the_file_are_refused_even_where_the_checker_finds_them(model, tiny_config, monkeypatch):
    """The checker follows the path from the current folder; the gate must stand alone too."""
    monkeypatch.setattr(onnx.checker, "check_model", lambda model, full_check: None)
    tensor = initializer(model, "head.weight")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.data_location = TensorProto.EXTERNAL
    refused(model, tiny_config, r"tensors outside the file: found \['head.weight'\], expected \[\]")


def test_missing_metadata_is_refused(model, tiny_config):
    del model.metadata_props[:]
    refused(model, tiny_config, "not an edgelstm model")


def test_metadata_of_another_config_is_refused(model, tiny_config):
    other = ModelContract(dataclasses.replace(tiny_config, class_names=tuple("abcdefghij")))
    helper.set_model_props(model, other.to_metadata())
    refused(model, tiny_config, "metadata config")


def test_a_graph_that_the_checker_refuses_is_one_clear_line(model, tiny_config):
    model.graph.node[2].input[1] = "nowhere"
    with pytest.raises(ModelError, match="the ONNX checker refuses the graph: found") as caught:
        check_graph(model, tiny_config)
    assert len(str(caught.value).splitlines()) == 1


# Nothing is written unless it is right


@pytest.fixture
def broken(monkeypatch, tiny_checkpoint):
    """An exporter that swaps two gates: right shapes, wrong numbers."""
    monkeypatch.setattr(graph_module, "GATE_ORDER", (0, 1, 2, 3))
    return tiny_checkpoint


def test_a_model_that_differs_from_the_checkpoint_is_not_written(broken, tmp_path):
    with pytest.raises(ParityError, match=r"was not written: .*found a difference of .* other decisions, expected at"):
        export(broken, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_survives_a_failed_parity(broken, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"old")
    with pytest.raises(ParityError):
        export(broken, tmp_path / "model.onnx")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_an_existing_file_survives_a_refused_graph(tiny_checkpoint, model, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"old")
    del model.metadata_props[:]
    monkeypatch.setattr(export_module, "build_model", lambda *arguments: model)
    with pytest.raises(ModelError):
        export(tiny_checkpoint, tmp_path / "model.onnx")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]


@pytest.mark.parametrize("name", ["head.bias", "head.weight", "lstm.weight_hh_l0"])
def test_a_checkpoint_with_a_nan_is_not_exported(tiny_checkpoint, tmp_path, name):
    weights = {key: weight.clone() for key, weight in tiny_checkpoint.weights.items()}
    weights[name].view(-1)[0] = float("nan")
    with pytest.raises(ModelError, match="weights that are not numbers"):
        export(dataclasses.replace(tiny_checkpoint, weights=weights), tmp_path / "model.onnx")


def test_a_folder_that_cannot_be_written_is_one_clear_line(tiny_checkpoint, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx"):
        export(tiny_checkpoint, tmp_path / "file" / "model.onnx")
