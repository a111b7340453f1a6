"""Tests of edgelstm.export.stream_graph: the minimal streaming graph, and its gates."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule, ModelContract, Score
from edgelstm.errors import ModelError
from edgelstm.export.graph import build_model
from edgelstm.export.stream_graph import build_stream_model, check_stream_graph

CONFIGS = {
    "one layer": ModelConfig(hidden_size=8),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "two rows a step, two layers": ModelConfig(hidden_size=6, rows_per_step=2, n_layers=2),
    "not square": ModelConfig(rows=6, cols=5, rows_per_step=3, hidden_size=4, class_names=("a", "b", "c")),
}


@pytest.fixture
def model(tiny_checkpoint):
    """A fresh graph, to be broken."""
    return build_stream_model(tiny_checkpoint)


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_one_layer_needs_no_node_more_than_the_whole_picture(tiny_checkpoint, model):
    assert (
        ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm"] == operators(model) == operators(build_model(tiny_checkpoint))
    )


def test_several_layers_split_and_join_their_states(checkpoint_of):
    model = build_stream_model(checkpoint_of(ModelConfig(hidden_size=4, n_layers=2, rows_per_step=2)))
    assert operators(model) == [
        "Cast", "Reshape", "Transpose", "Split", "Split", "LSTM", "Squeeze", "LSTM", "Squeeze", "Gemm", "Concat",
        "Concat",
    ]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_weights_are_the_whole_picture_models_bit_for_bit(config, precision, checkpoint_of):
    checkpoint = checkpoint_of(config)
    whole, stream = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (build_model(checkpoint, precision), build_stream_model(checkpoint, precision))
    )
    assert whole.keys() == stream.keys()
    differ = [name for name in whole if whole[name].tobytes() != stream[name].tobytes()]
    assert differ == (["steps_shape"] if config.rows_per_step > 1 else [])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_honest_graph_passes_and_is_the_same_bytes_every_time(config, precision, checkpoint_of):
    models = [build_stream_model(checkpoint_of(config), precision, early=EarlyRule(0.9, 2)) for _ in range(2)]
    check_stream_graph(models[0], config, precision)
    one, two = (model.SerializeToString(deterministic=True) for model in models)
    assert one == two


def test_the_metadata_is_of_a_stream_and_holds_the_rule(tiny_checkpoint):
    rule = EarlyRule(0.95, 3, 21.5, Score(9, 10))
    model = build_stream_model(tiny_checkpoint, "int8", Score(4, 5), rule)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    found = ModelContract.from_metadata(metadata, kind="stream")
    assert ("stream", 1, "int8", Score(4, 5), rule) == (
        found.kind, found.version, found.precision, found.test, found.early
    )  # fmt: skip


def refused(model, config, what):
    with pytest.raises(ModelError, match=what):
        check_stream_graph(model, config)


def test_a_whole_picture_graph_is_refused(tiny_checkpoint, tiny_config):
    refused(build_model(tiny_checkpoint), tiny_config, "breaks the contract in its input")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_fixed_number_of_streams_or_rows_is_refused(model, tiny_config, axis):
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 1
    refused(model, tiny_config, "its input: found .*'row'")


def test_a_state_that_is_not_given_on_is_refused(model, tiny_config):
    del model.graph.output[2]
    refused(model, tiny_config, "its output: found")


def test_a_state_that_is_not_read_is_refused(model, tiny_config):
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    del lstm.input[4:]
    del model.graph.input[1:]
    refused(model, tiny_config, "its input: found")


def test_weights_from_another_input_are_refused(model, tiny_config):
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "lstm_0.W")
    model.graph.initializer.remove(weight)
    model.graph.input.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, weight.dims))
    refused(model, tiny_config, r"LSTM weights that are not initializers: found \['lstm_0.W'\]")


def test_an_extra_node_is_refused(model, tiny_config):
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Identity", ["raw"], ["logits"]))
    refused(model, tiny_config, "operators: found .*'Identity'")


def test_metadata_of_a_whole_picture_are_refused(tiny_checkpoint, model, tiny_config):
    whole = build_model(tiny_checkpoint)
    helper.set_model_props(model, {entry.key: entry.value for entry in whole.metadata_props})
    refused(model, tiny_config, "reads whole pictures")


def test_rows_are_read_in_their_order(tiny_checkpoint):
    """What stands in the graph is no proof of the order: two different rows, swapped, must not be the same."""
    from edgelstm.runtime.stream import Stream

    stream = Stream(build_stream_model(tiny_checkpoint).SerializeToString())
    rows = np.random.default_rng(0).integers(0, 256, (1, 2, 28), dtype=np.uint8)
    forward = stream.push(rows)
    stream.reset()
    assert not np.allclose(forward, stream.push(rows[:, ::-1]))
