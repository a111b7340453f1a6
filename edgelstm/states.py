"""Have an ONNX file answer after every step instead of after the last: its own LSTM and head, without onnx."""

from collections.abc import Iterator

from edgelstm.contract import OUTPUT_NAME
from edgelstm.errors import ModelError
from edgelstm.weights import fields

STEP_OUTPUT_NAME = "step_logits"
"""(steps, classes): what the logits would be if the picture ended there."""
LSTM_OPERATORS = (b"LSTM", b"DynamicQuantizeLSTM")

# Field numbers of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR = 1, 2, 3, 4
_TENSOR_DIMS, _TENSOR_DTYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_VALUE_NAME = 1
_INT64 = 7

Node = list[tuple[int, bytes]]
"""(field number, content) of a node, in the file's order; all fields of a node are bytes."""


def with_step_logits(content: bytes, source: str = "the model") -> bytes:
    """The model with one more output, STEP_OUTPUT_NAME, for one picture at a time; all else is as it was.

    The last LSTM node comes a second time, giving its states after all steps (T, 1, 1, H) instead of the
    last, and the head a second time behind it. As protobuf joins messages by joining their bytes, the
    new nodes are a fragment behind the old file: https://protobuf.dev/programming-guides/encoding (last
    one wins). Raises ModelError if there is no LSTM with a Gemm behind it.
    """
    nodes = list(_nodes(content))
    lstm = next((node for node in reversed(nodes) if _value(node, _NODE_OPERATOR) in LSTM_OPERATORS), None)
    head = next((node for node in nodes if _outputs_are(node, OUTPUT_NAME)), None)
    if lstm is None or head is None or _value(head, _NODE_OPERATOR) != b"Gemm":
        raise ModelError(
            f"{source} cannot be asked after every step", found="another graph",
            expected="an LSTM and a Gemm behind its last state", fix="export the checkpoint again",
        )  # fmt: skip
    squeeze = [
        (_NODE_INPUT, b"step_states"), (_NODE_INPUT, b"step_axes"), (_NODE_OUTPUT, b"step_rows"),
        (_NODE_NAME, b"step_squeeze"), (_NODE_OPERATOR, b"Squeeze"),
    ]  # fmt: skip
    inputs = [value for field, value in head if field == _NODE_INPUT]
    added = [
        _renamed(lstm, [value for field, value in lstm if field == _NODE_INPUT], b"step_states", b"step_lstm"),
        squeeze,  # (T, 1, 1, H) -> (T, H): the head takes the steps for a batch
        _renamed(head, [b"step_rows", *inputs[1:]], STEP_OUTPUT_NAME.encode(), b"step_head"),
    ]
    fragment = b"".join(_field(_GRAPH_NODE, _joined(node)) for node in added)
    fragment += _field(_GRAPH_INITIALIZER, _int64_tensor(b"step_axes", (1, 2)))
    fragment += _field(_GRAPH_OUTPUT, _field(_VALUE_NAME, STEP_OUTPUT_NAME.encode()))
    return content + _field(_MODEL_GRAPH, fragment)


def _nodes(content: bytes) -> Iterator[Node]:
    for field, graph in fields(memoryview(content)):
        if field == _MODEL_GRAPH and isinstance(graph, memoryview):
            for part, node in fields(graph):
                if part == _GRAPH_NODE and isinstance(node, memoryview):
                    yield [(key, bytes(value)) for key, value in fields(node) if isinstance(value, memoryview)]


def _value(node: Node, field: int) -> bytes:
    return next((value for key, value in node if key == field), b"")


def _outputs_are(node: Node, name: str) -> bool:
    return [value for key, value in node if key == _NODE_OUTPUT] == [name.encode()]


def _renamed(node: Node, inputs: list[bytes], output: bytes, name: bytes) -> Node:
    """The same node, its attributes and all, between other values."""
    kept = [(key, value) for key, value in node if key not in (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME)]
    return [*((_NODE_INPUT, value) for value in inputs), (_NODE_OUTPUT, output), (_NODE_NAME, name), *kept]


def _joined(node: Node) -> bytes:
    return b"".join(_field(key, value) for key, value in node)


def _int64_tensor(name: bytes, values: tuple[int, ...]) -> bytes:
    dims = _varint(_TENSOR_DIMS << 3) + _varint(len(values))
    dtype = _varint(_TENSOR_DTYPE << 3) + _varint(_INT64)
    raw = b"".join(value.to_bytes(8, "little") for value in values)
    return dims + dtype + _field(_TENSOR_NAME, name) + _field(_TENSOR_RAW, raw)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes: its key, its length, itself."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
