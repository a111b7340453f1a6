"""The streaming graph of a checkpoint: some rows and the state in, logits and the next state out; and its gates."""

import dataclasses

import onnx
from onnx import TensorProto, helper

from edgelstm.config import ModelConfig
from edgelstm.contract import (
    BATCH_AXIS,
    NEXT_STATE_NAMES,
    OUTPUT_NAME,
    ROW_NAME,
    ROWS_AXIS,
    STATE_NAMES,
    STREAM_CONTRACT_VERSION,
    EarlyRule,
    ModelContract,
    Precision,
    Score,
)
from edgelstm.export.graph import (
    Signature,
    check_config,
    check_parts,
    contract_of,
    finished,
    head_nodes,
    lstm_node,
    lstm_operator,
    sequence_nodes,
    squeeze_node,
)
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import numpy_weights


def build_stream_model(
    checkpoint: Checkpoint,
    precision: Precision = "fp32",
    test: Score | None = None,
    early: EarlyRule | None = None,
) -> onnx.ModelProto:
    """The streaming ONNX model of a checkpoint, the same bytes every time; ``test`` is int8's own score.

    Cast, (Reshape), Transpose, one LSTM per layer with a Squeeze behind each, Gemm: the nodes and weights of
    the whole-picture model, with ``h`` and ``c`` as the LSTM's initial states and its last ones as outputs.
    Only several layers need more: a Split of each state before them and a Concat behind.

    The number of rows is free, so that whatever arrived together is one call. Logits are those after the
    last row: one step's call stays as small as it can be, and who wants them after each row calls for each.
    """
    config = checkpoint.config
    weights = numpy_weights(checkpoint.weights)
    nodes, tensors = sequence_nodes(ROW_NAME, config, -1, precision)
    # a layer's own states before and after; with one layer they are the graph's inputs and outputs themselves
    before, after = _layer_states(config, STATE_NAMES), _layer_states(config, NEXT_STATE_NAMES)
    if config.n_layers > 1:
        nodes += [
            helper.make_node("Split", [name], names, name=f"split_{name}", axis=0, num_outputs=config.n_layers)
            for name, names in zip(STATE_NAMES, before, strict=True)
        ]
    value = "sequence"
    for layer in range(config.n_layers):
        name, last = f"lstm_{layer}", layer == config.n_layers - 1
        (h, c), (next_h, next_c) = ((states[0][layer], states[1][layer]) for states in (before, after))
        outputs = ["" if last else f"{name}.Y", next_h, next_c]
        node, added = lstm_node(weights, layer, precision, value, outputs, (h, c))
        value = f"{name}.last" if last else f"{name}.sequence"
        # Y_h (1, B, H) -> (B, H); Y (T, 1, B, H) -> (T, B, H)
        squeeze = (next_h, value, "direction_axis") if last else (f"{name}.Y", value, "step_direction_axis")
        nodes += [node, squeeze_node(name, *squeeze)]
        tensors |= added
    nodes += head_nodes(value, precision)
    if config.n_layers > 1:
        nodes += [
            helper.make_node("Concat", names, [name], name=f"join_{name}", axis=0)
            for name, names in zip(NEXT_STATE_NAMES, after, strict=True)
        ]
    tensors |= {"head.weight": weights["head.weight"], "head.bias": weights["head.bias"]}
    inputs, outputs_ = ([helper.make_tensor_value_info(*one) for one in side] for side in _signatures(config))
    return finished(nodes, tensors, inputs, outputs_, stream_contract_of(checkpoint, precision, test, early))


def stream_contract_of(
    checkpoint: Checkpoint,
    precision: Precision = "fp32",
    test: Score | None = None,
    early: EarlyRule | None = None,
) -> ModelContract:
    """What a streaming file says of itself."""
    contract = contract_of(checkpoint, precision, test)
    return dataclasses.replace(contract, kind="stream", version=STREAM_CONTRACT_VERSION, early=early)


def check_stream_graph(model: onnx.ModelProto, config: ModelConfig, precision: Precision = "fp32") -> None:
    """The gates: raise ModelError unless the graph is exactly what the streaming contract promises."""
    several = config.n_layers > 1
    reshape = ["Reshape"] if config.rows_per_step > 1 else []
    layers = [lstm_operator(precision), "Squeeze"] * config.n_layers
    split, join = (["Split"] * 2, ["Concat"] * 2) if several else ([], [])
    inputs, outputs = _signatures(config)
    states = frozenset(name for names in _layer_states(config, STATE_NAMES) for name in names)
    check_parts(
        model, precision,
        operators=["Cast", *reshape, "Transpose", *split, *layers, "Gemm", *join],
        inputs=inputs, outputs=outputs, state_inputs=states,
    )  # fmt: skip
    check_config(model, config, "stream")


def _layer_states(config: ModelConfig, names: tuple[str, str]) -> tuple[list[str], list[str]]:
    """The names of each layer's part (1, B, H) of the two states (L, B, H)."""
    if config.n_layers == 1:
        return [names[0]], [names[1]]
    h, c = ([f"lstm_{layer}.{name}" for layer in range(config.n_layers)] for name in names)
    return h, c


def _signatures(config: ModelConfig) -> tuple[list[Signature], list[Signature]]:
    state: list[int | str] = [config.n_layers, BATCH_AXIS, config.hidden_size]
    inputs: list[Signature] = [(ROW_NAME, TensorProto.UINT8, [BATCH_AXIS, ROWS_AXIS, config.cols])]
    outputs: list[Signature] = [(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_AXIS, config.n_classes])]
    inputs += [(name, TensorProto.FLOAT, state) for name in STATE_NAMES]
    outputs += [(name, TensorProto.FLOAT, state) for name in NEXT_STATE_NAMES]
    return inputs, outputs
