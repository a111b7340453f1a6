"""Tests of edgelstm.onnx_file: onnx writes the same bytes, every foreign thing is refused, files are found."""

import dataclasses
import hashlib
import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sequences import SEQUENCES

from edgelstm import onnx_file
from edgelstm.config import ModelConfig, shipped_dir
from edgelstm.contract import EarlyRule, ModelContract, Score, graph_layout
from edgelstm.errors import ModelError
from edgelstm.exporting.graph import build_graph
from edgelstm.onnx_file import (
    MAX_MODEL_BYTES,
    checkpoint_beside,
    decode,
    default_model,
    encode,
    field_bytes,
    field_number,
    find_model,
    graph_from,
    is_shipped,
    open_model,
)
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream

CONFIGS = {
    f"{layers} layers, {rows} rows a step": ModelConfig(
        rows=4, cols=3, hidden_size=2, n_layers=layers, rows_per_step=rows, class_names=("a", "b\n", "c\x1b[31m")
    )
    for layers in (1, 2, 3)
    for rows in (1, 2)
} | SEQUENCES
TWO_LAYERS = CONFIGS["2 layers, 2 rows a step"]
PRECISIONS = ("fp32", "fp16", "int8")


def changed(content, change):
    """The model in ``content``, changed in place by onnx's own objects."""
    model = onnx.load_model_from_string(content)
    change(model)
    return model.SerializeToString(deterministic=True)


def with_metadata(content, **values):
    """The same model with some of its contract's JSON texts replaced; None removes one."""

    def replace(model):
        props = {entry.key: entry.value for entry in model.metadata_props}
        props |= {f"edgelstm.{key}": text for key, text in values.items()}
        helper.set_model_props(model, {key: text for key, text in props.items() if text is not None})

    return changed(content, replace)


# What is written is what onnx would write


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_onnx_reads_each_form_and_writes_the_same_bytes(config, precision, checkpoint_of, model_bytes_of):
    checkpoint = checkpoint_of(config)
    forms = {
        kind: model_bytes_of(checkpoint, precision, kind, early=EarlyRule(0.9, 2)) for kind in ("picture", "stream")
    }
    for kind, content in forms.items():
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        assert content == model.SerializeToString(deterministic=True)
        file, graph = open_model(content), decode(content)
        assert content == encode(graph)
        for tensor in model.graph.initializer:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), graph.initializers[tensor.name])
        assert graph_layout(config, precision, kind).nodes == graph.nodes
        for other in forms:
            assert forms[other] == file.form(other), f"{kind} as {other}"


GOLDEN = {
    ("fp32", "picture"): "3b9ac70b2578b545c5f0171158911888adc98d17ee1e615226045b420d63e808",
    ("fp16", "picture"): "183e704c8c1041db066229d06d3361b095cc0ce2d3f917a58c3de52ee2cef618",
    ("int8", "picture"): "76a70f2a2b806b0574d6436c756fb7dbaf46b1ec0978dcdc8e967a9e28027bf8",
    ("fp32", "stream"): "cd47ed7bb57f6974ba389e2050f183bdbe6e0c9ab1079923809f42861185def2",
    ("int8", "stream"): "6622aca213e4420a3d7cd1eefd77ffee4ead7a5221b6550dc15466c071cc9061",
}
"""sha256 of files that edgelstm 0.1.0 wrote through onnx, before it wrote them itself."""


@pytest.mark.parametrize(("precision", "kind"), GOLDEN)
def test_files_of_the_first_version_are_the_same_bytes_and_are_still_read(precision, kind, checkpoint_of, monkeypatch):
    monkeypatch.setattr(onnx_file, "__version__", "0.1.0")
    config = ModelConfig(rows=6, cols=5, hidden_size=4, rows_per_step=3, n_layers=2, class_names=("a", "b", "c"))
    early = EarlyRule(0.9, 2, 3.5, Score(3, 4)) if kind == "stream" else None
    contract = ModelContract(config, precision=precision, kind=kind, temperature=1.5, early=early, version=1)
    graph = dataclasses.replace(build_graph(checkpoint_of(config), contract), values=())  # it wrote none
    if early:  # the rule did not keep its temperature then
        old = graph.metadata["edgelstm.early"].replace(', "temperature": 1.0', "")
        graph = dataclasses.replace(graph, metadata=graph.metadata | {"edgelstm.early": old})
    content = encode(graph)
    assert GOLDEN[precision, kind] == hashlib.sha256(content).hexdigest()
    assert contract == open_model(content).contract


def known_shapes(content):
    """Name -> shape of every result of a node that onnx knows, and the names of those that it does not know."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content), check_type=True, strict_mode=True)
    known = {
        value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in [*model.graph.value_info, *model.graph.output]
    }
    return known, {name for node in model.graph.node for name in node.output} - {"", *known}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_onnx_knows_the_shape_of_every_value(config, precision, checkpoint_of, model_bytes_of):
    for kind in ("picture", "stream"):
        content = model_bytes_of(checkpoint_of(config), precision, kind)
        known, unknown = known_shapes(content)
        assert unknown == set()
        assert all(all(shape) for shape in known.values()), "each axis has a size or a name"
        values = graph_layout(config, precision, kind).values
        assert {value.name: value.shape for value in values}.items() <= known.items()
        if precision != "int8":
            assert values == ()


def test_shapes_are_written_where_onnx_does_not_know_them(checkpoint_of, model_bytes_of):
    for kind, results in (("picture", {"lstm_0.Y", "lstm_1.Y_h"}), ("stream", {"lstm_0.Y", "lstm_0.h_out"})):
        content = model_bytes_of(checkpoint_of(TWO_LAYERS), "int8", kind)
        graph = decode(content)
        _, unknown = known_shapes(encode(dataclasses.replace(graph, values=())))
        assert results <= {value.name for value in graph.values} <= unknown


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_an_int8_file_from_before_shapes_were_written_is_read(kind, checkpoint_of, model_bytes_of, sample):
    content = model_bytes_of(checkpoint_of(ModelConfig(hidden_size=4, n_layers=2)), "int8", kind)
    old = open_model(encode(dataclasses.replace(decode(content), values=())))
    assert (old.graph.values, old.form(kind)) == ((), old.content)
    assert old.graph.initializers.keys() == open_model(content).graph.initializers.keys()
    found, expected = (OrtRunner(file, provider="cpu").logits(sample.sequences[:3]) for file in (old, content))
    np.testing.assert_array_equal(found, expected)


def test_weights_of_another_shape_or_type_make_no_graph():
    layout = graph_layout(ModelConfig(hidden_size=2))
    weights = {name: np.zeros(shape, np.float32) for name, (_, shape) in layout.weights.items()}
    for wrong in (np.zeros((1, 8, 27), np.float32), np.zeros((1, 8, 28))):
        with pytest.raises(ValueError, match=r"lstm_0.W: found .*, expected \(1, 8, 28\)"):
            graph_from(layout, weights | {"lstm_0.W": wrong}, {})


# Everything else is refused


@pytest.fixture(scope="module")
def content(checkpoint_of, model_bytes_of):
    return model_bytes_of(checkpoint_of(TWO_LAYERS))


def tensor_of(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_tensor(name, array):
    return lambda model: tensor_of(model, name).CopyFrom(numpy_helper.from_array(array, name))


def set_node(index, **values):
    """Attributes of a node set by onnx's helper, in place of those of the same name."""

    def change(model):
        attributes = model.graph.node[index].attribute
        kept = [one for one in attributes if one.name not in values]
        del attributes[:]
        attributes.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])

    return change


def without_raw(name, field, values, dtype=None):
    """The values of an initializer in another field of the tensor."""

    def change(model):
        tensor = tensor_of(model, name)
        tensor.ClearField("raw_data")
        tensor.data_type = dtype or tensor.data_type
        getattr(tensor, field).extend(values)

    return change


def outside(name):
    def change(model):
        tensor = tensor_of(model, name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/passwd")

    return change


def with_loop(model):
    """A Loop that runs as often as an int64 can count, before the model proper."""
    done, more = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("done", "more"))
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["more"], ["done"])], "body", [turn, more], [done])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "often"))
    model.graph.node.insert(0, helper.make_node("Loop", ["often", ""], [], body=body))


def with_concat_bomb(model):
    for i in range(12):
        model.graph.node.insert(1 + i, helper.make_node("Concat", ["floats"] * 20, [f"c{i}"], axis=2))


def with_function(model):
    copy = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("mine", "Cast", ["a"], ["b"], [copy], [helper.make_opsetid("", 18)]))


def with_sparse(model):
    values = numpy_helper.from_array(np.array([np.nan], np.float32), "lstm_0.B")
    where = numpy_helper.from_array(np.array([0]), "where")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [1, 16]))


def with_other_batch(model):
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def with_renamed_input(model):
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"


def with_joined_names(model):
    """One input whose name reads as the four of the node would in a list."""
    node = model.graph.node[3]
    node.input[:] = [", ".join(node.input)]


def with_weight(name, value):
    def change(model):
        array = numpy_helper.to_array(tensor_of(model, name)).copy()
        array.flat[0] = value
        set_tensor(name, array)(model)

    return change


def set_opset(model):
    model.opset_import[0].version = 19


FLOATS = TWO_LAYERS.n_classes
OUTPUT = helper.make_tensor_value_info("floats", TensorProto.FLOAT, ["batch", 4, 3])
FOREIGN = {
    "a loop without end": (with_loop, "parts: found .*attribute field 6"),
    "nested concatenations": (with_concat_bomb, "operators: found .*'Concat'"),
    "an unknown operator": (lambda m: setattr(m.graph.node[0], "op_type", "Sorcery\x1b[31m"), "operators: .*Sorcery"),
    "nodes in another order": (lambda m: m.graph.node.insert(1, m.graph.node.pop(2)), "operators"),
    "a missing node": (lambda m: m.graph.node.pop(), "operators"),
    "a node twice": (lambda m: m.graph.node.append(m.graph.node[0]), "operators"),
    "an operator of another domain": (lambda m: setattr(m.graph.node[0], "domain", "mine"), "nodes: .*'mine'"),
    "an overload": (lambda m: setattr(m.graph.node[0], "overload", "x"), "parts: .*node field 8"),
    "another node name": (lambda m: setattr(m.graph.node[0], "name", "x"), "nodes: found Cast 'x'"),
    "another input of a node": (lambda m: m.graph.node[7].input.__setitem__(0, "lstm_1.Y_h"), "nodes: found Gemm"),
    "several inputs in one name": (with_joined_names, "nodes: found LSTM"),
    "alpha": (set_node(7, alpha=0.5), "nodes: found .*'alpha': 0.5"),
    "beta": (set_node(7, beta=0.0), "nodes: found .*'beta': 0.0"),
    "transB as a float": (set_node(7, transB=1.0), "nodes: found .*'transB': 1.0"),
    "clip": (set_node(3, clip=1.0), "nodes: found .*'clip': 1.0"),
    "direction": (set_node(3, direction="reverse"), "parts: found .*attribute field 4"),
    "activations": (set_node(3, activations=["Relu"] * 3), "parts: found .*attribute field 9"),
    "input_forget": (set_node(3, input_forget=1), "nodes: found .*'input_forget': 1"),
    "layout": (set_node(3, layout=1), "nodes: found .*'layout': 1"),
    "a second value in an attribute": (
        lambda m: m.graph.node[0].attribute[0].ints.append(1), "parts: found .*attribute with a value of another type"
    ),
    "a negative attribute": (set_node(3, layout=-1), "nodes: found .*'layout': -1"),
    "another hidden size": (set_node(3, hidden_size=4), "nodes: found .*'hidden_size': 4"),
    "another order of axes": (set_node(2, perm=[0, 1, 2]), "nodes: found .*'perm': \\(0, 1, 2\\)"),
    "a dropped bias of the head": (lambda m: m.graph.node[7].input.pop(), "nodes: found Gemm"),
    "a dropped bias of the LSTM": (lambda m: m.graph.node[3].input.__setitem__(3, ""), "nodes: found LSTM"),
    "another opset": (set_opset, "opsets: found .*19"),
    "one more opset": (lambda m: m.opset_import.add(domain="mine", version=1), "opsets: .*'mine'"),
    "an initializer too many": (
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1), "x")), "parts: .*type 11"
    ),
    "another initializer too many": (
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "x")), "initializers: .*'x'"
    ),
    "a missing weight": (lambda m: m.graph.initializer.pop(), "initializers: found \\{\\}, expected .*head.bias"),
    "a weight twice": (lambda m: m.graph.initializer.append(m.graph.initializer[3]), "the initializer '.*' twice"),
    "a sparse initializer": (with_sparse, "parts: found .*graph field 15"),
    "weights in another file": (outside("lstm_0.W"), "parts: found .*initializer field 1[34]"),
    "a constant in another file": (outside("direction_axis"), "parts: found .*initializer field 1[34]"),
    "float_data": (without_raw("head.bias", "float_data", [0.0] * FLOATS), "parts: .*initializer field 4"),
    "int32_data": (without_raw("head.bias", "int32_data", [0] * FLOATS), "parts: .*initializer field 5"),
    "int64_data": (without_raw("direction_axis", "int64_data", [0]), "parts: .*initializer field 7"),
    "NaN in double_data": (
        without_raw("head.bias", "double_data", [np.nan] * FLOATS, TensorProto.DOUBLE), "parts: .*initializer field 10"
    ),
    "NaN in float16's int32_data": (
        without_raw("head.bias", "int32_data", [0x7E00] * FLOATS, TensorProto.FLOAT16), "parts: .*initializer field 5"
    ),
    "bfloat16": (lambda m: setattr(tensor_of(m, "lstm_0.W"), "data_type", TensorProto.BFLOAT16), "parts: .*type 16"),
    "text of a weight": (lambda m: setattr(tensor_of(m, "lstm_0.W"), "doc_string", "x"), "parts: .*field 12"),
    "double weights": (set_tensor("head.bias", np.zeros(FLOATS)), "parts: .*type 11"),
    "half weights": (set_tensor("head.bias", np.zeros(FLOATS, np.float16)), "initializers: .*'head.bias': \\('<f2'"),
    **{
        f"{name} of another shape": (set_tensor(name, np.zeros(shape, np.float32)), f"initializers: .*'{name}'")
        for name, shape in {"lstm_0.W": (1, 8, 5), "lstm_1.R": (1, 2, 2), "lstm_0.B": (1, 8), "head.bias": (9,)}.items()
    },
    "a weight that claims to be huge": (
        lambda m: m.graph.initializer[3].dims.__setitem__(slice(None), [2**31, 2**31]), "a damaged file"
    ),
    "a weight of a negative size": (
        lambda m: m.graph.initializer[3].dims.__setitem__(slice(None), [-1]), "a damaged file"
    ),
    "another constant": (set_tensor("direction_axis", np.array([1])), "constants: found .*'direction_axis'"),
    "another number of steps": (set_tensor("steps_shape", np.array([0, 1, 6])), "constants: found .*'steps_shape'"),
    **{
        f"{value} as a weight": (with_weight("lstm_0.R", value), r"not finite numbers .*: found \['lstm_0.R'\]")
        for value in (np.nan, np.inf, -np.inf, -2e9)
    },
    "another input name": (with_renamed_input, "inputs: found .*'image'"),
    "an input of another type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT), "inputs: found .*dtype=1"
    ),
    "an input that is a sequence": (
        lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent(), "parts: .*type field 4"
    ),
    "a batch of fixed size": (with_other_batch, "inputs: found .*\\(1, 4, 3\\)"),
    "a second output": (lambda m: m.graph.output.append(OUTPUT), "outputs: found .*'floats'"),
    "another format": (lambda m: setattr(m, "ir_version", 11), "parts: found .*ir_version 11"),
    "value_info": (lambda m: m.graph.value_info.append(OUTPUT), "values: found .*'floats'.*expected \\(\\)"),
    "a function": (with_function, "parts: found .*model field 25"),
    "a doc_string": (lambda m: setattr(m, "doc_string", "x"), "parts: found .*model field 6"),
    "a graph's doc_string": (lambda m: setattr(m.graph, "doc_string", "x"), "parts: found .*graph field 10"),
    "training_info": (lambda m: m.training_info.add(), "parts: found .*model field 20"),
    "a quantization note": (lambda m: m.graph.quantization_annotation.add(), "parts: found .*graph field 14"),
    "metadata of a node": (lambda m: m.graph.node[0].metadata_props.add(), "parts: found .*node field 9"),
    "no metadata": (lambda m: m.ClearField("metadata_props"), "is not an edgelstm model"),
    "no graph": (lambda m: m.ClearField("graph"), "operators: found \\[\\]"),
    "12,000 nodes": (
        lambda m: m.graph.node.extend([helper.make_node("Cast", [], [])] * 12_000), "more than 10,000 fields"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_export_does_not_write_is_refused_in_one_short_line(name, content):
    change, expected = FOREIGN[name]
    with pytest.raises(ModelError) as caught:
        open_model(changed(content, change), "m.onnx")
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert str(caught.value).startswith("m.onnx ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.graph.node[2].input.__setitem__(3, ""), "nodes: found DynamicQuantizeLSTM"),
        (set_node(2, clip=1.0), "nodes: found .*'clip': 1.0"),
        (lambda m: setattr(m.graph.node[2], "domain", ""), "nodes: found DynamicQuantizeLSTM 'lstm_0': "),
        (lambda m: m.opset_import.pop(), "opsets: found"),
        (set_tensor("lstm_0.W_scale", np.array([np.nan], np.float32)), "weights that are not finite"),
        (set_tensor("lstm_0.W_scale", np.ones(8, np.float32)), "initializers: .*W_scale"),
        (set_tensor("lstm_0.W_zero_point", np.zeros(1, np.uint8)), r"initializers: .*'\|u1'"),
    ],
)
def test_an_int8_graph_is_held_as_strictly(change, expected, checkpoint_of, model_bytes_of):
    content = model_bytes_of(checkpoint_of(ModelConfig(rows=2, cols=3, hidden_size=2)), "int8")
    with pytest.raises(ModelError, match=expected):
        open_model(changed(content, change))


def with_value(change, index=0):
    return lambda m: change(m.graph.value_info[index])


def with_axis(index, **values):
    axis = onnx.TensorShapeProto.Dimension(**values)
    return with_value(lambda value: value.type.tensor_type.shape.dim[index].CopyFrom(axis))


@pytest.mark.parametrize(
    "change",
    [
        with_value(lambda value: setattr(value, "name", "lstm_1.Y")),
        with_value(lambda value: setattr(value.type.tensor_type, "elem_type", TensorProto.FLOAT16)),
        with_value(lambda value: setattr(value.type.tensor_type, "elem_type", 2**31 - 1)),
        with_value(lambda value: value.ClearField("type")),
        with_value(lambda value: value.type.tensor_type.shape.dim.pop()),
        with_axis(0, dim_value=2**62),
        with_axis(0, dim_value=-1),
        with_axis(0, dim_param="rows"),
        with_axis(2, dim_param="\x1b[31m"),
        lambda m: m.graph.value_info.pop(),
        lambda m: m.graph.value_info.append(m.graph.value_info[0]),
        lambda m: m.graph.value_info.append(OUTPUT),
        lambda m: m.graph.value_info.append(m.graph.output[0]),
        lambda m: m.graph.value_info.insert(1, m.graph.value_info.pop(0)),
    ],
)
@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_no_other_shape_is_taken_between_the_nodes(kind, change, checkpoint_of, model_bytes_of):
    content = model_bytes_of(checkpoint_of(TWO_LAYERS), "int8", kind)
    with pytest.raises(ModelError, match="in its values: found") as caught:
        open_model(changed(content, change))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_value(lambda value: setattr(value, "doc_string", "x")), "value field 3"),
        (with_value(lambda value: value.metadata_props.add()), "value field 4"),
        (with_value(lambda value: value.type.sequence_type.elem_type.tensor_type.SetInParent()), "type field 4"),
        (with_value(lambda value: setattr(value.type, "denotation", "x")), "type field 6"),
        (with_value(lambda value: setattr(value.type.tensor_type.shape.dim[0], "denotation", "x")), "axis field 3"),
    ],
)
def test_nothing_else_is_said_of_a_value(change, expected, checkpoint_of, model_bytes_of):
    content = model_bytes_of(checkpoint_of(TWO_LAYERS), "int8")
    with pytest.raises(ModelError, match=f"parts: found .*{expected}"):
        open_model(changed(content, change))


@pytest.mark.parametrize("graph", [b"", field_bytes(2, "other")])
def test_a_second_graph_is_refused(graph, content):
    """Protobuf would merge the two."""
    with pytest.raises(ModelError, match=r"parts: found \['model field 7'\]"):
        open_model(content + field_bytes(7, graph))


@pytest.mark.parametrize(("side", "index"), [("input", 0), ("input", 1), ("output", 0), ("output", 2)])
def test_a_stateful_graph_is_held_as_strictly(side, index, checkpoint_of, model_bytes_of):
    def rename(model):
        getattr(model.graph, side)[index].name = "other"

    with pytest.raises(ModelError, match=f"in its {side}s: found .*'other'"):
        open_model(changed(model_bytes_of(checkpoint_of(TWO_LAYERS), "fp32", "stream"), rename))


def test_an_axis_with_a_size_and_a_name_is_refused(content):
    """Of the two, which exclude each other, onnxruntime takes the last."""

    def with_size(message):
        return field_bytes(2, "batch") + field_number(1, 1) if message == field_bytes(2, "batch") else message

    shape = b"".join(field_bytes(1, with_size(axis)) for axis in (field_bytes(2, "batch"), field_number(1, 3)))
    tensor = field_number(1, TensorProto.FLOAT) + field_bytes(2, shape)
    output = field_bytes(12, field_bytes(1, "logits") + field_bytes(2, field_bytes(1, tensor)))
    model = onnx.load_model_from_string(content)
    model.graph.ClearField("output")
    graph = field_bytes(7, model.graph.SerializeToString() + output)
    model.ClearField("graph")
    with pytest.raises(ModelError, match=r"parts: found .*axis with a size and a name"):
        open_model(model.SerializeToString() + graph)


LIES = {
    "rows": 6, "cols": 4, "rows_per_step": 1, "hidden_size": 4, "n_layers": 1, "class_names": ["a", "b"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("config", json.dumps({**vars(TWO_LAYERS), name: value})) for name, value in LIES.items()),
        ("precision", '"int8"'), ("precision", '"fp16"'), ("kind", '"stream"'),
    ],
)  # fmt: skip
def test_a_contract_that_is_not_the_graphs_is_refused(key, text, content):
    with pytest.raises(ModelError, match="breaks the model contract in its"):
        open_model(with_metadata(content, **{key: text}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"version": None}, "is not an edgelstm model"),
        ({"version": "3"}, "another version of the model contract: found 3, expected 1 or 2"),
        ({"config": None}, "damaged model contract: found KeyError"),
        ({"temperature": "0.0"}, "damaged model contract"),
        ({"seed": "9" * 5_000}, "damaged model contract"),
    ],
)
def test_metadata_are_read_strictly(values, expected, content):
    with pytest.raises(ModelError, match=expected):
        open_model(with_metadata(content, **values))


def test_the_largest_weights_leave_every_logit_a_finite_number(checkpoint_of):
    """So no NaN comes out of a file whose numbers are all finite."""
    config = ModelConfig(rows=4, cols=3, hidden_size=4)
    for precision, largest in (("fp32", 1e9), ("fp16", 65_504)):
        graph = build_graph(checkpoint_of(config), ModelContract(config, precision=precision))
        draw = np.random.default_rng(0)
        weights = {
            name: (draw.choice([-largest, largest], array.shape)).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in graph.initializers.items()
        }
        runner = OrtRunner(encode(dataclasses.replace(graph, initializers=weights)), provider="cpu")
        assert np.isfinite(runner.logits(np.full((2, 4, 3), 255, np.uint8))).all()


def test_an_fp16_stream_whose_weights_do_not_fit_back_is_refused(checkpoint_of, model_bytes_of):
    content = model_bytes_of(checkpoint_of(TWO_LAYERS), "fp16", "stream")
    with pytest.raises(ModelError, match="not finite numbers of at most 65504"):
        open_model(changed(content, with_weight("lstm_0.R", 1e6)))


# Whatever the bytes are


def read_or_refused(content):
    tracemalloc.start()
    try:
        file, line = open_model(content), ""
    except ModelError as error:
        file, line = None, str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * len(content) + 2**20
    assert not line or (line.isprintable() and len(line) < 1_000)
    if file:  # a weight or a name has changed
        assert np.isfinite(OrtRunner(file, provider="cpu").logits(np.full((2, 4, 3), 99, np.uint8))).all()
        assert Stream(file).push(np.full((4, 3), 99, np.uint8)).shape == (1, 3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(raw):
    read_or_refused(raw)


@pytest.mark.parametrize("kind", ["picture", "stream"])
def test_a_changed_or_cut_file_passes_or_is_refused(kind, checkpoint_of, model_bytes_of):
    content = model_bytes_of(checkpoint_of(TWO_LAYERS), "int8", kind, early=EarlyRule(0.9, 2))

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.data())
    def check(data):
        changed_content = bytearray(content[: data.draw(st.integers(0, len(content)))])
        for _ in range(data.draw(st.integers(0, 4)) if changed_content else 0):
            changed_content[data.draw(st.integers(0, len(changed_content) - 1))] ^= data.draw(st.integers(1, 255))
        read_or_refused(bytes(changed_content))

    check()


VERSION = field_bytes(14, field_bytes(1, "edgelstm.version") + field_bytes(2, "1"))
N = 2**21
BOMBS = {
    "unknown fields": field_number(100, 1) * N,
    "empty values": field_bytes(7, field_bytes(13, b"") * N),
    "empty nodes": field_bytes(7, field_bytes(1, b"") * N),
    "nodes of many attributes": field_bytes(7, field_bytes(1, field_bytes(5, b"") * 20_000) * 100),
    "packed dims": field_bytes(7, field_bytes(5, field_bytes(1, b"\1" * N))),
    "fields that come twice": field_number(1, 10) * N,
    "zeros": bytes(N),
    "metadata": field_bytes(14, b"") * N,
    "one endless number": b"\xff" * N,
    "JSON": VERSION + field_bytes(14, field_bytes(1, "edgelstm.x") + field_bytes(2, "[" + "{}," * N + "1]")),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_few_megabytes_never_become_many(name):
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            open_model(BOMBS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(BOMBS[name]) + 4 * 2**20, f"{peak:,} bytes"


# Which file is meant


def test_a_file_is_itself_and_a_run_folder_the_model_in_it(tiny_model_path, tmp_path):
    assert tiny_model_path == find_model(tiny_model_path)
    tiny_model_path.rename(tmp_path / "model.onnx")
    assert tmp_path / "model.onnx" == find_model(str(tmp_path))


def test_an_open_file_is_handed_back_and_knows_its_path(tiny_model_path):
    file = open_model(tiny_model_path)
    assert file is open_model(file)
    assert (tiny_model_path, str(tiny_model_path)) == (file.path, file.source)
    assert (tiny_model_path.stat().st_size, None) == (file.n_bytes, open_model(file.content).path)
    assert open_model(file.content, "mine").source == "mine"


@pytest.mark.parametrize("there", ["a file", "a folder", "a run folder", "nothing"])
@pytest.mark.parametrize("name", ["base", "base.int8"])
def test_a_shipped_name_always_means_the_shipped_model(name, there, monkeypatch, tmp_path, tiny_model_bytes):
    monkeypatch.chdir(tmp_path)
    if there == "a file":
        Path(name).write_bytes(tiny_model_bytes)
        assert Path(name) == find_model(f"./{name}"), "so this one can be reached too"
    elif there != "nothing":
        Path(name).mkdir()
    if there == "a run folder":
        Path(name, "model.onnx").write_bytes(tiny_model_bytes)
        assert Path(name, "model.onnx") == find_model(f"./{name}")
    assert shipped_dir() / f"{name}.onnx" == find_model(name)
    assert open_model(name).contract.name == "base"


@pytest.mark.parametrize(
    "name", ["nope", "nope.onnx", "../models/base", "nope/", "nope.safetensors", "a\0b", "x" * 300]
)
def test_what_is_no_model_is_refused_with_the_names_that_are(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"found no such file, expected .* a shipped model \(.*base") as caught:
        find_model(name)
    assert str(caught.value).isprintable()


def test_a_checkpoint_is_called_that_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("base.safetensors").write_bytes(b"x")
    with pytest.raises(
        ModelError, match=r"is a checkpoint: expected an ONNX file; write one with `edgelstm export base"
    ):
        find_model("base.safetensors")


def test_a_folder_without_a_model_is_called_that(tmp_path):
    with pytest.raises(ModelError, match=r"found a folder without model\.onnx"):
        find_model(tmp_path)


def test_the_default_model_is_the_run_of_this_folder_or_else_the_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert default_model() == "base"
    Path("runs/base").mkdir(parents=True)
    assert default_model() == "base", "a run that is not exported is no model"
    Path("runs/base/model.onnx").touch()
    assert Path("runs/base/model.onnx") == Path(default_model())


def test_a_shipped_model_is_known_as_one_however_it_was_named(tiny_model_path, monkeypatch):
    monkeypatch.chdir(shipped_dir())
    assert all(is_shipped(open_model(name).path) for name in ("base", "./base.onnx", shipped_dir() / "base.onnx"))
    assert not is_shipped(tiny_model_path)
    assert not is_shipped(open_model(tiny_model_path.read_bytes()).path)


@pytest.mark.parametrize("name", ["base.onnx", "base.int8.onnx", "base.fp16.onnx", "base.stream.int8.onnx"])
def test_a_models_checkpoint_is_expected_beside_it(name):
    assert Path("a/base.safetensors") == checkpoint_beside(Path("a") / name)


# How it is read


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match=r"empty\.onnx is not an ONNX model: found an empty file"):
        open_model(tmp_path / "empty.onnx")


def test_a_file_over_the_limit_is_refused_unread_and_so_are_its_bytes(tmp_path, monkeypatch):
    with open(tmp_path / "large.onnx", "wb") as stream:
        stream.truncate(MAX_MODEL_BYTES + 1)  # sparse
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda *arguments: pytest.fail("it was read"))
        with pytest.raises(ModelError, match=r"large.onnx is not an ONNX model: .*expected 1 to 33,554,432 bytes"):
            open_model(tmp_path / "large.onnx")
    monkeypatch.setattr(onnx_file, "decode", lambda content: pytest.fail("it was read"))
    with pytest.raises(ModelError, match="too large for an ONNX model: found 33,554,433 bytes"):
        open_model(bytes(MAX_MODEL_BYTES + 1))


def test_a_file_of_exactly_the_limit_is_taken(monkeypatch, tiny_model_path):
    monkeypatch.setattr(onnx_file, "MAX_MODEL_BYTES", tiny_model_path.stat().st_size)
    assert open_model(tiny_model_path).contract.name == "tiny"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_or_device_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", "/dev/zero"):
        with pytest.raises(ModelError, match=r"is not an ONNX model: found not a regular file"):
            open_model(path)


def test_a_file_that_cannot_be_read_is_an_error_with_the_reason(monkeypatch, tiny_model_path):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ModelError, match=r"cannot read .*tiny\.onnx: found Permission denied"):
        open_model(tiny_model_path)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "text": lambda content: b"this is no model\n" * 10,
    "a picture": lambda content: b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
    "one byte": lambda content: b"\x00",
    "metadata that are no text": lambda content: content.replace(b"edgelstm.recipe", b"edgelstm.\xffecipe"),
    "an operator that is no text": lambda content: content.replace(b"Transpose", b"Trans\xffose"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(tiny_model_path, damage):
    tiny_model_path.write_bytes(DAMAGES[damage](tiny_model_path.read_bytes()))
    with pytest.raises(
        ModelError, match=r"tiny\.onnx cannot be loaded as an ONNX model: found a damaged file"
    ) as caught:
        open_model(tiny_model_path)
    assert str(caught.value).isprintable()


def test_another_kind_of_model_is_refused_for_its_missing_contract():
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for raw in (model.SerializeToString(), b""):
        with pytest.raises(ModelError, match="is not an edgelstm model: found no edgelstm contract"):
            open_model(raw)
