"""Have an ONNX file answer after every step instead of after the last: its own LSTM and head, without onnx."""

from collections.abc import Iterator

from edgelstm.contract import OUTPUT_NAME
from edgelstm.errors import ModelError
from edgelstm.onnx_file import fields

STEP_OUTPUT_NAME = f"step_{OUTPUT_NAME}"
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
    operators = [_values(node, _NODE_OPERATOR)[0] for node in nodes]
    last = max((at for at, operator in enumerate(operators) if operator in LSTM_OPERATORS), default=-1)
    if last < 0 or operators[last + 1 : last + 3] != [b"Squeeze", b"Gemm"]:
        raise ModelError(
            f"{source} cannot be asked after every step", found=[str(operator, "utf-8") for operator in operators],
            expected="an LSTM with Squeeze and Gemm behind it", fix="export the checkpoint again",
        )  # fmt: skip
    lstm, squeeze, *head = nodes[last:]
    added = [
        _between(_values(lstm, _NODE_INPUT), lstm, [b"step_states"]),
        # (T, 1, 1, H) -> (T, H): the head takes the steps for a batch
        _between([b"step_states", b"step_axes"], squeeze, [_again(name) for name in _values(squeeze, _NODE_OUTPUT)]),
    ]
    computed = set(_values(squeeze, _NODE_OUTPUT))
    for node in head:
        inputs = [_again(name) if name in computed else name for name in _values(node, _NODE_INPUT)]
        added.append(_between(inputs, node, [_again(name) for name in _values(node, _NODE_OUTPUT)]))
        computed.update(_values(node, _NODE_OUTPUT))
    fragment = b"".join(_field(_GRAPH_NODE, b"".join(_field(key, value) for key, value in node)) for node in added)
    fragment += _field(_GRAPH_INITIALIZER, _int64_tensor(b"step_axes", (1, 2)))
    fragment += _field(_GRAPH_OUTPUT, _field(_VALUE_NAME, STEP_OUTPUT_NAME.encode()))
    return content + _field(_MODEL_GRAPH, fragment)


def _again(name: bytes) -> bytes:
    return b"step_" + name


def _nodes(content: bytes) -> Iterator[Node]:
    for field, graph in fields(memoryview(content)):
        if field == _MODEL_GRAPH and isinstance(graph, memoryview):
            for part, node in fields(graph):
                if part == _GRAPH_NODE and isinstance(node, memoryview):
                    yield [(key, bytes(value)) for key, value in fields(node) if isinstance(value, memoryview)]


def _values(node: Node, field: int) -> list[bytes]:
    return [value for key, value in node if key == field]


def _between(inputs: list[bytes], node: Node, outputs: list[bytes]) -> Node:
    """The same node, its attributes and all, between other values."""
    kept = [(key, value) for key, value in node if key not in (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME)]
    name = (_NODE_NAME, b"".join(_again(name) for name in _values(node, _NODE_NAME)))
    return [*((_NODE_INPUT, value) for value in inputs), *((_NODE_OUTPUT, value) for value in outputs), name, *kept]


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
