"""The ONNX graph of a checkpoint, minimal and the same bytes every time, and its gates."""

import importlib.metadata

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgelstm import __version__
from edgelstm.config import ModelConfig
from edgelstm.contract import BATCH_AXIS, INPUT_NAME, OPSET, OUTPUT_NAME, ModelContract, Precision, Score
from edgelstm.errors import ModelError
from edgelstm.training import quantize
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import PIXEL_SCALE, numpy_weights

IR_VERSION = 10
"""The ONNX file format that came with opset 21; every onnxruntime since 1.18 reads it."""
GATE_ORDER = (0, 3, 1, 2)
"""torch's gates i, f, g, o taken as ONNX's i, o, f, c."""

Array = npt.NDArray[np.float32]


def build_model(checkpoint: Checkpoint, precision: Precision = "fp32", test: Score | None = None) -> onnx.ModelProto:
    """The ONNX model of a checkpoint, the same bytes every time; ``test`` is the own score of int8 or fp16.

    Cast, (Reshape), Transpose, one LSTM per layer with a Squeeze behind each, Gemm, and in fp16 a Cast of
    the logits. The pixels' scale is folded into the first layer's input weights; initial states are left
    out, which means zeros.
    """
    config = checkpoint.config
    half = precision == "fp16"
    weights = numpy_weights(checkpoint.weights)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [helper.make_node("Cast", [INPUT_NAME], ["floats"], name="cast", to=kind)]
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    value = "floats"
    if config.rows_per_step > 1:
        # (B, R, C) -> (B, T, S): several rows side by side are one step; 0 keeps the batch
        tensors["steps_shape"] = np.array([0, config.n_steps, config.step_size], np.int64)
        nodes.append(helper.make_node("Reshape", [value, "steps_shape"], ["steps"], name="group_rows"))
        value = "steps"
    # (B, T, S) -> (T, B, S): rows are time steps, not batch elements
    nodes.append(helper.make_node("Transpose", [value], ["sequence"], name="rows_first", perm=[1, 0, 2]))
    value = "sequence"
    tensors["direction_axis"] = np.array([0], np.int64)
    if config.n_layers > 1:
        tensors["step_direction_axis"] = np.array([1], np.int64)
    for layer in range(config.n_layers):
        name, last = f"lstm_{layer}", layer == config.n_layers - 1
        w, r, b = onnx_lstm_weights(weights, layer, scale=PIXEL_SCALE if layer == 0 else 1.0)
        outputs = ["", f"{name}.Y_h"] if last else [f"{name}.Y"]
        if precision == "int8":
            node, added = _quantized_lstm(name, value, outputs, w, r, b)
        else:
            added = {f"{name}.W": w, f"{name}.R": r, f"{name}.B": b}
            node = helper.make_node("LSTM", [value, *added], outputs, name=name, hidden_size=config.hidden_size)
        nodes.append(node)
        tensors |= added
        # Y_h (1, B, H) -> (B, H); Y (T, 1, B, H) -> (T, B, H)
        axis = "direction_axis" if last else "step_direction_axis"
        value = f"{name}.last" if last else f"{name}.sequence"
        nodes.append(helper.make_node("Squeeze", [outputs[-1], axis], [value], name=f"{name}_squeeze"))
    tensors |= {"head.weight": weights["head.weight"], "head.bias": weights["head.bias"]}
    result = "half_logits" if half else OUTPUT_NAME
    nodes.append(helper.make_node("Gemm", [value, "head.weight", "head.bias"], [result], name="head", transB=1))
    if half:
        nodes.append(helper.make_node("Cast", [result], [OUTPUT_NAME], name="widen", to=TensorProto.FLOAT))
        tensors = {name: _in_half(array) for name, array in tensors.items()}
    graph = helper.make_graph(
        nodes, "edgelstm",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [BATCH_AXIS, config.rows, config.cols])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_AXIS, config.n_classes])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, producer_name="edgelstm", producer_version=__version__, ir_version=IR_VERSION,
        opset_imports=_opsets(precision),
    )  # fmt: skip
    helper.set_model_props(model, contract_of(checkpoint, precision, test).to_metadata())
    return model


def _in_half(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """float32 weights rounded to float16; integers as they are."""
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _quantized_lstm(
    name: str, value: str, outputs: list[str], w: Array, r: Array, b: Array
) -> tuple[onnx.NodeProto, dict[str, npt.NDArray[np.generic]]]:
    """The LSTM with int8 weights; its activations are quantized as it runs, one scale for each call."""
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for key, weights in (("W", w), ("R", r)):
        integers, scales = quantize.quantized(weights)
        tensors[f"{name}.{key}"] = integers
        tensors[f"{name}.{key}_scale"] = scales
        tensors[f"{name}.{key}_zero_point"] = np.zeros(scales.shape, np.int8)
    tensors[f"{name}.B"] = b
    scaling = [f"{name}.{key}_{part}" for key in "WR" for part in ("scale", "zero_point")]
    # lengths, initial states and peepholes are left out
    inputs = [value, f"{name}.W", f"{name}.R", f"{name}.B", "", "", "", "", *scaling]
    node = helper.make_node(
        quantize.OPERATOR, inputs, outputs, name=name, domain=quantize.DOMAIN, hidden_size=r.shape[2]
    )
    return node, tensors


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
    )


def check_graph(model: onnx.ModelProto, config: ModelConfig, precision: Precision = "fp32") -> None:
    """The gates: raise ModelError unless the graph is exactly what the contract promises."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError("the ONNX checker refuses the graph", found=str(error)) from error
    reshape = ["Reshape"] if config.rows_per_step > 1 else []
    operator = quantize.OPERATOR if precision == "int8" else "LSTM"
    layers = [operator, "Squeeze"] * config.n_layers
    widen = ["Cast"] if precision == "fp16" else []
    graph = model.graph
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    initializers = {tensor.name for tensor in graph.initializer}
    lstm_inputs = {name for node in graph.node if node.op_type == operator for name in node.input[1:] if name}
    checks: list[tuple[str, object, object]] = [
        ("operators", [node.op_type for node in graph.node], ["Cast", *reshape, "Transpose", *layers, "Gemm", *widen]),
        ("weight types", sorted({t.data_type for t in graph.initializer}), _weight_types(precision)),
        ("opsets", opsets, [(opset.domain, opset.version) for opset in _opsets(precision)]),
        ("LSTM weights that are not initializers", sorted(lstm_inputs - initializers), []),
        ("input", _signature(graph.input), [(INPUT_NAME, TensorProto.UINT8, [BATCH_AXIS, config.rows, config.cols])]),
        ("output", _signature(graph.output), [(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_AXIS, config.n_classes])]),
        ("tensors outside the file", [t.name for t in graph.initializer if t.data_location], []),
        ("metadata config", _contract_in(model).config, config),
    ]  # fmt: skip
    for what, found, expected in checks:
        if found != expected:
            raise ModelError(f"the exported graph breaks the contract in its {what}", found=found, expected=expected)


def _weight_types(precision: Precision) -> list[int]:
    """ONNX's numbers of the types that the initializers have: weights, and the axes and shapes of the graph."""
    weights = {
        "fp32": [TensorProto.FLOAT],
        "fp16": [TensorProto.FLOAT16],
        "int8": [TensorProto.INT8, TensorProto.FLOAT],  # biases, scales and the linear layer stay float32
    }
    return sorted([*weights[precision], TensorProto.INT64])


def probe_pixels(config: ModelConfig, n: int = 256) -> npt.NDArray[np.uint8]:
    """(n, rows, cols) random pixels of every density, the same each time: what parity is checked on."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (n, config.rows, config.cols), dtype=np.uint8)
    return noise * (random.random(noise.shape) < np.linspace(0, 1, n)[:, None, None])


def _signature(values: "list[onnx.ValueInfoProto]") -> list[tuple[str, int, list[object]]]:
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


def _contract_in(model: onnx.ModelProto) -> ModelContract:
    return ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
