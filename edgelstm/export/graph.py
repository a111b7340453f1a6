"""The ONNX graph of a checkpoint, minimal and the same bytes every time, and its gates."""

import importlib.metadata

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgelstm import __version__
from edgelstm.config import ModelConfig
from edgelstm.contract import BATCH_AXIS, INPUT_NAME, OPSET, OUTPUT_NAME, Kind, ModelContract, Precision, Score
from edgelstm.errors import ModelError
from edgelstm.export import quantize
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import PIXEL_SCALE, numpy_weights

IR_VERSION = 10
"""The ONNX file format that came with opset 21; every onnxruntime since 1.18 reads it."""
GATE_ORDER = (0, 3, 1, 2)
"""torch's gates i, f, g, o taken as ONNX's i, o, f, c."""

Array = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[np.generic]]
Signature = tuple[str, int, list[int | str]]
"""Name, ONNX's number of the element type, axes: sizes or names."""


def build_model(checkpoint: Checkpoint, precision: Precision = "fp32", test: Score | None = None) -> onnx.ModelProto:
    """The ONNX model of a checkpoint, the same bytes every time; ``test`` is the own score of int8 or fp16.

    Cast, (Reshape), Transpose, one LSTM per layer with a Squeeze behind each, Gemm, and in fp16 a Cast of
    the logits. The pixels' scale is folded into the first layer's input weights; initial states are left
    out, which means zeros.
    """
    config = checkpoint.config
    weights = numpy_weights(checkpoint.weights)
    nodes, tensors = sequence_nodes(INPUT_NAME, config, config.n_steps, precision)
    value = "sequence"
    for layer in range(config.n_layers):
        name, last = f"lstm_{layer}", layer == config.n_layers - 1
        outputs = ["", f"{name}.Y_h"] if last else [f"{name}.Y"]
        node, added = lstm_node(weights, layer, precision, value, outputs)
        value = f"{name}.last" if last else f"{name}.sequence"
        # Y_h (1, B, H) -> (B, H); Y (T, 1, B, H) -> (T, B, H)
        nodes += [node, squeeze_node(name, outputs[-1], value, "direction_axis" if last else "step_direction_axis")]
        tensors |= added
    nodes += head_nodes(value, precision)
    pixels = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [BATCH_AXIS, config.rows, config.cols])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_AXIS, config.n_classes])
    tensors |= {"head.weight": weights["head.weight"], "head.bias": weights["head.bias"]}
    return finished(nodes, tensors, [pixels], [logits], contract_of(checkpoint, precision, test))


def sequence_nodes(
    name: str, config: ModelConfig, n_steps: int, precision: Precision
) -> tuple[list[onnx.NodeProto], Tensors]:
    """From uint8 rows (B, R, C) to float ``sequence`` (T, B, S); ``n_steps`` -1 takes as many as there are rows.

    The axes that the Squeeze nodes take off are among the tensors.
    """
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    nodes = [helper.make_node("Cast", [name], ["floats"], name="cast", to=kind)]
    tensors: Tensors = {}
    value = "floats"
    if config.rows_per_step > 1:
        # (B, R, C) -> (B, T, S): several rows side by side are one step; 0 keeps the batch
        tensors["steps_shape"] = np.array([0, n_steps, config.step_size], np.int64)
        nodes.append(helper.make_node("Reshape", [value, "steps_shape"], ["steps"], name="group_rows"))
        value = "steps"
    # (B, T, S) -> (T, B, S): rows are time steps, not batch elements
    nodes.append(helper.make_node("Transpose", [value], ["sequence"], name="rows_first", perm=[1, 0, 2]))
    tensors["direction_axis"] = np.array([0], np.int64)
    if config.n_layers > 1:
        tensors["step_direction_axis"] = np.array([1], np.int64)
    return nodes, tensors


def lstm_node(
    weights: dict[str, Array],
    layer: int,
    precision: Precision,
    value: str,
    outputs: list[str],
    states: tuple[str, str] = ("", ""),
) -> tuple[onnx.NodeProto, Tensors]:
    """One layer's LSTM and its initializers. ``outputs`` name Y, Y_h, Y_c; ``states`` h and c, empty means zeros.

    int8's activations are quantized as it runs, one scale for each call.
    """
    name = f"lstm_{layer}"
    w, r, b = onnx_lstm_weights(weights, layer, scale=PIXEL_SCALE if layer == 0 else 1.0)
    hidden = r.shape[2]
    tensors: Tensors = {}
    if precision != "int8":
        tensors |= {f"{name}.W": w, f"{name}.R": r, f"{name}.B": b}
        inputs = [value, *tensors, *(["", *states] if any(states) else [])]
        return helper.make_node("LSTM", inputs, outputs, name=name, hidden_size=hidden), tensors
    for key, array in (("W", w), ("R", r)):
        integers, scales = quantize.quantized(array)
        tensors[f"{name}.{key}"] = integers
        tensors[f"{name}.{key}_scale"] = scales
        tensors[f"{name}.{key}_zero_point"] = np.zeros(scales.shape, np.int8)
    tensors[f"{name}.B"] = b
    scaling = [f"{name}.{key}_{part}" for key in "WR" for part in ("scale", "zero_point")]
    # lengths and peepholes are left out
    inputs = [value, f"{name}.W", f"{name}.R", f"{name}.B", "", *states, "", *scaling]
    node = helper.make_node(quantize.OPERATOR, inputs, outputs, name=name, domain=quantize.DOMAIN, hidden_size=hidden)
    return node, tensors


def squeeze_node(name: str, value: str, result: str, axis: str) -> onnx.NodeProto:
    """Take off a layer's axis of directions."""
    return helper.make_node("Squeeze", [value, axis], [result], name=f"{name}_squeeze")


def head_nodes(value: str, precision: Precision) -> list[onnx.NodeProto]:
    """(B, H) -> logits (B, classes) float32."""
    result = "half_logits" if precision == "fp16" else OUTPUT_NAME
    head = helper.make_node("Gemm", [value, "head.weight", "head.bias"], [result], name="head", transB=1)
    widen = helper.make_node("Cast", [result], [OUTPUT_NAME], name="widen", to=TensorProto.FLOAT)
    return [head, widen] if precision == "fp16" else [head]


def finished(
    nodes: list[onnx.NodeProto],
    tensors: Tensors,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    contract: ModelContract,
) -> onnx.ModelProto:
    """The model of these nodes and initializers, in fp16 rounded to it; the contract in its metadata."""
    if contract.precision == "fp16":
        tensors = {name: a.astype(np.float16) if a.dtype == np.float32 else a for name, a in tensors.items()}
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "edgelstm", inputs, outputs, initializers),
        producer_name="edgelstm", producer_version=__version__, ir_version=IR_VERSION,
        opset_imports=_opsets(contract.precision),
    )  # fmt: skip
    helper.set_model_props(model, contract.to_metadata())
    return model


def _opsets(precision: Precision) -> list[onnx.OperatorSetIdProto]:
    opsets = [helper.make_opsetid("", OPSET)]
    return opsets + ([helper.make_opsetid(quantize.DOMAIN, quantize.DOMAIN_VERSION)] if precision == "int8" else [])


def onnx_lstm_weights(weights: dict[str, Array], layer: int, scale: float) -> tuple[Array, Array, Array]:
    """torch's weights of a layer as ONNX W (1, 4H, I), R (1, 4H, H), B (1, 8H), gates reordered.

    ``scale`` is folded into W, in float64.
    """

    def reordered(name: str) -> npt.NDArray[np.float64]:
        gates = np.split(weights[f"lstm.{name}_l{layer}"].astype(np.float64), 4)
        return np.concatenate([gates[gate] for gate in GATE_ORDER])

    w, r = reordered("weight_ih") * scale, reordered("weight_hh")
    b = np.concatenate([reordered("bias_ih"), reordered("bias_hh")])
    return w[None].astype(np.float32), r[None].astype(np.float32), b[None].astype(np.float32)


def contract_of(checkpoint: Checkpoint, precision: Precision = "fp32", test: Score | None = None) -> ModelContract:
    """What the exported file says of itself: everything here is a function of the checkpoint."""
    versions = {"edgelstm": __version__, "onnx": importlib.metadata.version("onnx")}
    return ModelContract(
        config=checkpoint.config,
        name=checkpoint.name,
        precision=precision,
        recipe=checkpoint.train.recipe,
        seed=checkpoint.train.seed,
        weights_sha256=checkpoint.weights_sha256,
        data_sha256=checkpoint.data_sha256,
        validation=checkpoint.validation if precision == "fp32" else None,
        test=checkpoint.test if precision == "fp32" else test,
        versions=checkpoint.versions | versions,
        temperature=checkpoint.temperature,
    )


def check_graph(model: onnx.ModelProto, config: ModelConfig, precision: Precision = "fp32") -> None:
    """The gates: raise ModelError unless the graph is exactly what the contract promises."""
    reshape = ["Reshape"] if config.rows_per_step > 1 else []
    layers = [lstm_operator(precision), "Squeeze"] * config.n_layers
    widen = ["Cast"] if precision == "fp16" else []
    check_parts(
        model, precision,
        operators=["Cast", *reshape, "Transpose", *layers, "Gemm", *widen],
        inputs=[(INPUT_NAME, TensorProto.UINT8, [BATCH_AXIS, config.rows, config.cols])],
        outputs=[(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_AXIS, config.n_classes])],
    )  # fmt: skip
    check_config(model, config)


def lstm_operator(precision: Precision) -> str:
    """The operator that is an LSTM in this precision."""
    return quantize.OPERATOR if precision == "int8" else "LSTM"


def check_parts(
    model: onnx.ModelProto,
    precision: Precision,
    *,
    operators: list[str],
    inputs: list[Signature],
    outputs: list[Signature],
    state_inputs: frozenset[str] = frozenset(),
) -> None:
    """Raise ModelError unless the graph has exactly these operators, inputs and outputs.

    What an LSTM reads besides its sequence must be initializers, or else be named in ``state_inputs``.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError("the ONNX checker refuses the graph", found=str(error)) from error
    graph, operator = model.graph, lstm_operator(precision)
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    known = {tensor.name for tensor in graph.initializer} | state_inputs
    lstm_inputs = {name for node in graph.node if node.op_type == operator for name in node.input[1:] if name}
    checks: list[tuple[str, object, object]] = [
        ("operators", [node.op_type for node in graph.node], operators),
        ("weight types", sorted({t.data_type for t in graph.initializer}), _weight_types(precision)),
        ("opsets", opsets, [(opset.domain, opset.version) for opset in _opsets(precision)]),
        ("LSTM weights that are not initializers", sorted(lstm_inputs - known), []),
        ("input", _signature(graph.input), inputs),
        ("output", _signature(graph.output), outputs),
        ("tensors outside the file", [t.name for t in graph.initializer if t.data_location], []),
    ]
    for what, found, expected in checks:
        _must_be(what, found, expected)


def _weight_types(precision: Precision) -> list[int]:
    """ONNX's numbers of the types that the initializers have: weights, and the axes and shapes of the graph."""
    weights = {
        "fp32": [TensorProto.FLOAT],
        "fp16": [TensorProto.FLOAT16],
        "int8": [TensorProto.INT8, TensorProto.FLOAT],  # biases, scales and the linear layer stay float32
    }
    return sorted([*weights[precision], TensorProto.INT64])


def check_config(model: onnx.ModelProto, config: ModelConfig, kind: Kind = "picture") -> None:
    """Raise ModelError unless the metadata hold a contract of this kind with this config."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _must_be("metadata config", ModelContract.from_metadata(metadata, kind=kind).config, config)


def _must_be(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ModelError(f"the exported graph breaks the contract in its {what}", found=found, expected=expected)


def probe_pixels(config: ModelConfig, n: int = 256) -> npt.NDArray[np.uint8]:
    """(n, rows, cols) random pixels of every density, the same each time: what parity is checked on."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (n, config.rows, config.cols), dtype=np.uint8)
    return noise * (random.random(noise.shape) < np.linspace(0, 1, n)[:, None, None])


def _signature(values: "list[onnx.ValueInfoProto]") -> list[Signature]:
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]
