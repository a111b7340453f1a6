"""Tests of edgelstm.exporting.graph: the minimal graph of a checkpoint in every precision and form, and its weights."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule, ModelContract, Score
from edgelstm.data.mnist import FILES
from edgelstm.errors import ModelError
from edgelstm.exporting import graph as graph_module
from edgelstm.exporting.graph import (
    GATE_ORDER,
    build_graph,
    checked_file,
    contract_of,
    onnx_lstm_weights,
    probe_pixels,
    probe_sequences,
)
from edgelstm.onnx_file import encode, open_model
from edgelstm.runtime.parity import compare
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream, last_logits
from edgelstm.training.checkpoint import save_checkpoint
from edgelstm.training.model import TorchRunner, numpy_weights

CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step": ModelConfig(hidden_size=6, rows_per_step=2),
    "four rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=4, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
    "100 steps of three columns": ModelConfig(rows=100, cols=3, hidden_size=6, class_names=("a", "b")),
} | SEQUENCES
ALL = [(precision, kind) for precision in ("fp32", "fp16", "int8") for kind in ("picture", "stream")]


def onnx_of(content):
    return onnx.load_model_from_string(content)


def operators(content):
    return [node.op_type for node in onnx_of(content).graph.node]


def initializers(content):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx_of(content).graph.initializer}


# The file


@pytest.mark.parametrize(("precision", "kind"), ALL)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_onnx_takes_every_graph_and_would_write_the_same_bytes(config, precision, kind, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    contract = contract_of(checkpoint, precision, kind=kind, early=EarlyRule(0.9, 2))
    content = checked_file(build_graph(checkpoint, contract)).content
    assert content == model_bytes_of(checkpoint, precision, kind, early=EarlyRule(0.9, 2))
    assert content == onnx_of(content).SerializeToString(deterministic=True)
    assert contract == open_model(content).contract


def test_another_process_gives_the_same_bytes(tiny_checkpoint, tiny_model_bytes, tmp_path):
    """Nothing depends on the order of a set or a hash."""
    save_checkpoint(tmp_path / "model.safetensors", tiny_checkpoint)
    code = (
        "import sys, pathlib; from edgelstm.training.checkpoint import load_checkpoint; "
        "from edgelstm.exporting.graph import build_graph, contract_of, encode; "
        "checkpoint = load_checkpoint(sys.argv[1]); "
        "pathlib.Path(sys.argv[2]).write_bytes(encode(build_graph(checkpoint, contract_of(checkpoint))))"
    )
    command = [sys.executable, "-c", code, tmp_path / "model.safetensors", tmp_path / "other"]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(filter(None, sys.path))})
    assert tiny_model_bytes == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_exported_model_equals_torch_whole_and_row_by_row(config, sample, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    sequences, lengths = probe_sequences(checkpoint)
    if (config.rows, config.cols) == (28, 28):
        sequences = np.concatenate([sequences, sample.sequences[:200]])
    content = model_bytes_of(checkpoint)
    expected = TorchRunner(checkpoint.model()).logits(sequences, lengths)
    stream = Stream(content, n_streams=len(sequences))
    half = config.n_steps // 2 * config.rows_per_step
    stream.push(sequences[:, :half])
    rows = stream.push(sequences[:, half:]) if lengths is None else last_logits(stream, sequences, lengths)
    for found in (OrtRunner(content, provider="cpu").logits(sequences, lengths), rows):
        report = compare(expected, found)
        assert report.passed, f"largest difference {report.max_difference:.2e}, {report.disagreements[:3]}"


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_the_batch_size_is_free(tiny_model_bytes, tiny_checkpoint, sample, batch):
    logits = OrtRunner(tiny_model_bytes, provider="cpu").logits(sample.sequences[:batch])
    assert compare(TorchRunner(tiny_checkpoint.model()).logits(sample.sequences[:batch]), logits).passed


# The graph


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_one_layer_is_five_nodes_in_both_forms(tiny_model_bytes, tiny_checkpoint, model_bytes_of, kind):
    assert operators(model_bytes_of(tiny_checkpoint, kind=kind)) == ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm"]


def test_several_layers_split_and_join_their_states(checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(ModelConfig(hidden_size=4, n_layers=2, rows_per_step=2))
    assert operators(model_bytes_of(checkpoint, kind="stream")) == [
        "Cast", "Reshape", "Transpose", "Split", "Split", "LSTM", "Squeeze", "LSTM", "Squeeze", "Gemm", "Concat",
        "Concat",
    ]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_graph_holds_exactly_the_promised_operators(config, checkpoint_of, model_bytes_of):
    found = operators(model_bytes_of(checkpoint_of(config)))
    assert config.n_layers == found.count("LSTM")
    assert (config.rows_per_step > 1) == ("Reshape" in found)
    first = {"Sub", "Mul"} if config.is_values else {"Cast"}
    assert first | {"Transpose", "LSTM", "Squeeze", "Gemm"} == set(found) - {"Reshape"}


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_streams_weights_are_the_whole_sequence_models_bit_for_bit(config, precision, checkpoint_of, model_bytes_of):
    """Those of fp16 widened, which loses nothing."""
    checkpoint = checkpoint_of(config)
    whole, stream = (initializers(model_bytes_of(checkpoint, precision, kind)) for kind in ("picture", "stream"))
    if precision == "fp16":
        whole = {name: array.astype(stream[name].dtype) for name, array in whole.items()}
    assert whole.keys() == stream.keys()
    differ = [name for name in whole if whole[name].tobytes() != stream[name].tobytes()]
    assert differ == (["steps_shape"] if config.rows_per_step > 1 else [])


def test_rows_are_read_in_their_order(tiny_model_bytes):
    """What stands in the graph is no proof of the order: two different rows, swapped, must not be the same."""
    stream = Stream(tiny_model_bytes)
    rows = np.random.default_rng(0).integers(0, 256, (1, 2, 28), dtype=np.uint8)
    forward = stream.push(rows)
    stream.reset()
    assert not np.allclose(forward, stream.push(rows[:, ::-1]))


# The weights


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


def test_the_pixels_scale_is_in_the_first_layers_input_weights_alone(checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(CONFIGS["three layers"])
    weights = numpy_weights(checkpoint.weights)
    scaled = onnx_lstm_weights(weights, 0, scale=1 / 255)
    plain = onnx_lstm_weights(weights, 0, scale=1.0)
    np.testing.assert_allclose(scaled[0] * 255, plain[0], rtol=1e-6)
    assert [np.array_equal(scaled[i], plain[i]) for i in (1, 2)] == [True, True]
    found = initializers(model_bytes_of(checkpoint))
    for layer in (1, 2):
        assert np.array_equal(onnx_lstm_weights(weights, layer, scale=1.0)[0], found[f"lstm_{layer}.W"])


def test_weights_are_named_and_stored_once(tiny_model_bytes):
    names = ["direction_axis", "head.bias", "head.weight", "lstm_0.B", "lstm_0.R", "lstm_0.W"]
    assert names == sorted(tensor.name for tensor in onnx_of(tiny_model_bytes).graph.initializer)


# The metadata


def test_the_metadata_is_the_contract_of_the_checkpoint(tiny_checkpoint):
    checkpoint = dataclasses.replace(tiny_checkpoint, test=Score(9, 10), versions={"torch": "2"})
    model = onnx_of(encode(build_graph(checkpoint, contract_of(checkpoint))))
    found = ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    assert contract_of(checkpoint) == found
    assert ("tiny", "fast", 0, Score(9, 10), checkpoint.weights_sha256, FILES["train", "images"].sha256) == (
        found.name, found.recipe, found.seed, found.test, found.weights_sha256, found.data_sha256
    )  # fmt: skip
    assert {"torch", "edgelstm", "onnx"} == set(found.versions)


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_a_smaller_precision_has_its_own_score_and_every_form_its_rule(tiny_checkpoint, model_bytes_of, kind):
    rule = EarlyRule(0.95, 3, 21.5, Score(9, 10))
    checkpoint = dataclasses.replace(tiny_checkpoint, test=Score(1, 2), validation=Score(1, 3))
    found = open_model(model_bytes_of(checkpoint, "int8", kind, early=rule, test=Score(4, 5))).contract
    assert (kind, 2, "int8", Score(4, 5), None, rule) == (
        found.kind, found.version, found.precision, found.test, found.validation, found.early
    )  # fmt: skip
    found = open_model(model_bytes_of(checkpoint, "fp32", kind)).contract
    assert (Score(1, 2), Score(1, 3), None) == (found.test, found.validation, found.early)


# checked_file: nothing goes out that somebody would not take


@pytest.fixture
def graph(tiny_checkpoint):
    return build_graph(tiny_checkpoint, contract_of(tiny_checkpoint))


def test_a_graph_that_is_not_the_contracts_is_refused(graph):
    nodes = (*graph.nodes[:-1], dataclasses.replace(graph.nodes[-1], attributes={}))
    with pytest.raises(ModelError, match="the exported graph breaks the model contract in its nodes"):
        checked_file(dataclasses.replace(graph, nodes=nodes))


def test_a_graph_that_onnx_refuses_is_one_clear_line(graph, monkeypatch):
    monkeypatch.setattr(graph_module, "open_model", lambda content, source: SimpleNamespace(content=content))
    nodes = (*graph.nodes[:-1], dataclasses.replace(graph.nodes[-1], inputs=("nowhere", "head.weight", "head.bias")))
    with pytest.raises(ModelError, match="the ONNX checker refuses the graph: found") as caught:
        checked_file(dataclasses.replace(graph, nodes=nodes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_onnx_would_write_otherwise_is_refused(graph, monkeypatch):
    """Two writers of one format: ours must be protobuf's."""
    monkeypatch.setattr(graph_module, "open_model", lambda content, source: SimpleNamespace(content=content))
    longer = encode(graph).replace(b"\x08\x0a\x12\x08edgelstm", b"\x08\x8a\x00\x12\x08edgelstm", 1)  # 10 in two bytes
    monkeypatch.setattr(graph_module, "encode", lambda graph: longer)
    with pytest.raises(ModelError, match="onnx reads the exported file otherwise"):
        checked_file(graph)


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9, 1e30])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e3])
def test_a_columns_offset_and_unit_cost_no_digit(checkpoint_of, model_bytes_of, offset, spread):
    """What float32 can tell apart in a column, the model tells apart as if the column had no offset."""
    config = ModelConfig(rows=20, cols=2, hidden_size=8, class_names=("a", "b"), preparation="values")
    plain = checkpoint_of(config)
    plain.weights["mean"][:], plain.weights["scale"][:] = 0.0, 1.0
    moved = dataclasses.replace(plain, weights={name: weight.clone() for name, weight in plain.weights.items()})
    moved.weights["mean"][0], moved.weights["scale"][0] = offset, 1 / spread
    values = np.random.default_rng(0).standard_normal((30, 20, 2)).astype(np.float32)
    shifted = values.copy()
    shifted[..., 0] = values[..., 0].astype(np.float64) * spread + offset
    mean, scale = (moved.weights[name].numpy().astype(np.float64)[0] for name in ("mean", "scale"))
    values[..., 0] = (shifted[..., 0].astype(np.float64) - mean) * scale
    expected = OrtRunner(model_bytes_of(plain), provider="cpu").logits(values)
    np.testing.assert_allclose(
        OrtRunner(model_bytes_of(moved), provider="cpu").logits(shifted), expected, rtol=0, atol=1e-5
    )
    content = model_bytes_of(moved)
    np.testing.assert_allclose(NumpyRunner(content).logits(shifted), expected, rtol=0, atol=1e-5)


def test_probes_of_values_are_about_as_far_from_the_mean_as_the_data(checkpoint_of):
    checkpoint = checkpoint_of(SEQUENCES["unequal lengths"])
    values, lengths = probe_sequences(checkpoint)
    mean, scale = (checkpoint.weights[name].numpy() for name in ("mean", "scale"))
    normal = (values - mean) * scale
    assert (np.float32, (256, 11, 3)) == (values.dtype, values.shape)
    assert (1, 11) == (lengths.min(), lengths.max())
    assert normal[0].std() < 1e-3 < 1 < normal[128].std() < 2 < normal[-1].std()


@pytest.mark.parametrize(("rows", "n"), [(28, 256), (256, 256), (512, 128), (4096, 32)])
def test_probes_of_long_sequences_are_fewer_so_that_export_and_verify_need_little_memory(rows, n, checkpoint_of):
    config = ModelConfig(rows=rows, cols=2, hidden_size=64, class_names=("a", "b"), preparation="values")
    assert (n, rows, 2) == probe_sequences(checkpoint_of(config))[0].shape


def test_probe_pixels_are_the_same_each_time_and_of_every_density():
    pixels = probe_pixels(ModelConfig())
    assert np.array_equal(pixels, probe_pixels(ModelConfig()))
    assert ((256, 28, 28), np.uint8) == (pixels.shape, pixels.dtype)
    shares = (pixels > 0).mean((1, 2))
    assert (shares[0], shares[-1] > 0.9) == (0.0, True)
    assert pixels.max() == 255
