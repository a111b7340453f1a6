"""Check an ONNX file before it runs, without onnx: just enough of protobuf for its weights and operators."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelstm.errors import ModelError

# Field numbers of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTIONS = 7, 14, 25
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_DTYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_LOCATION = 2, 4, 8, 9, 14
_FLOAT_DTYPES: dict[int, "np.dtype[Any]"] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

OPERATORS = frozenset(
    {"Cast", "Reshape", "Transpose", "LSTM", "DynamicQuantizeLSTM", "Squeeze", "Gemm", "Split", "Concat"}
)
"""What an exported graph is made of. None of them loops, or makes more out of less."""
DOMAINS = ("", "ai.onnx", "com.microsoft")
MAX_NODES = 100


@dataclass(frozen=True)
class Weight:
    """One initializer of the graph."""

    name: str
    external: bool
    """Its values lie in another file."""
    finite: bool
    """None of its values is NaN or infinite."""


def check_operators(content: bytes, source: str) -> None:
    """Raise ModelError unless the graph is made of few nodes, all of OPERATORS.

    Others are not slower or wrong but may be hostile: a loop that never ends, or a shape that takes all
    memory while the session is made, which no limit of onnxruntime prevents.
    """
    n_nodes, foreign = 0, set()
    with _reading(source):
        for field, value in fields(memoryview(content)):
            if field == _MODEL_FUNCTIONS:
                foreign.add("a function")
            elif field == _MODEL_GRAPH and isinstance(value, memoryview):
                for part, item in fields(value):
                    if part == _GRAPH_SPARSE_INITIALIZER:
                        foreign.add("a sparse weight")
                    elif part == _GRAPH_NODE and isinstance(item, memoryview):
                        n_nodes += 1
                        operator, domain = _operator(item)
                        if operator not in OPERATORS or domain not in DOMAINS:
                            foreign.add(ascii(f"{domain}.{operator}"[-60:] if domain else operator[:60]))
    if foreign or n_nodes > MAX_NODES:
        raise ModelError(
            f"{source} is not an edgelstm model",
            found=", ".join(sorted(foreign)[:5]) or f"{n_nodes:,} nodes",
            expected=f"at most {MAX_NODES} nodes of {', '.join(sorted(OPERATORS))}",
            fix="export the checkpoint with `edgelstm export`",
        )


def _operator(node: memoryview) -> tuple[str, str]:
    """Name and domain of a node's operator."""
    found = {field: value for field, value in fields(node) if field in (_NODE_OPERATOR, _NODE_DOMAIN)}
    texts = (found.get(field, b"") for field in (_NODE_OPERATOR, _NODE_DOMAIN))
    operator, domain = ("?" if isinstance(text, int) else bytes(text).decode("utf-8", "replace") for text in texts)
    return operator, domain


@contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except (IndexError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{source} cannot be loaded as an ONNX model", found="a damaged file",
            expected="a file written by `edgelstm export`", fix="export it again",
        ) from error  # fmt: skip


def check_weights(content: bytes, source: str) -> None:
    """Raise ModelError if a weight lies outside the file or is not a finite number.

    onnxruntime would look for an outside file in the current folder, and its CPU LSTM turns NaN weights
    into finite states, so neither would be noticed later.
    """
    with _reading(source):
        weights = list(read_weights(content))
    for what, names, expected in (
        ("keeps weights in another file", [weight.name for weight in weights if weight.external], "one file"),
        (
            "has weights that are not numbers",
            [weight.name for weight in weights if not weight.finite],
            "finite weights",
        ),
    ):
        if names:
            raise ModelError(
                f"{source} {what}", found=", ".join(names), expected=expected, fix="export the checkpoint again"
            )


def read_weights(content: bytes) -> Iterator[Weight]:
    """Every initializer of the main graph. Raises IndexError or ValueError if the file is damaged."""
    for field, graph in fields(memoryview(content)):
        if field == _MODEL_GRAPH and isinstance(graph, memoryview):
            for part, tensor in fields(graph):
                if part == _GRAPH_INITIALIZER and isinstance(tensor, memoryview):
                    yield _weight(tensor)


def read_metadata(content: bytes) -> dict[str, str]:
    """The model's metadata, as far as the file can be read: what kind of model it claims to be, before it runs."""
    metadata = {}
    with contextlib.suppress(IndexError, ValueError):
        for field, entry in fields(memoryview(content)):
            if field == _MODEL_METADATA and isinstance(entry, memoryview):
                parts = dict(fields(entry))
                key, value = (bytes(parts[part]).decode() for part in (_ENTRY_KEY, _ENTRY_VALUE) if part in parts)
                metadata[key] = value
    return metadata


def _weight(tensor: memoryview) -> Weight:
    name, dtype, external = "", 0, False
    values: list[memoryview] = []
    for field, value in fields(tensor):
        if isinstance(value, int):
            dtype = value if field == _TENSOR_DTYPE else dtype
            external = external or (field == _TENSOR_LOCATION and value != 0)
        elif field == _TENSOR_NAME:
            name = bytes(value).decode("utf-8", "replace")
        elif field in (_TENSOR_RAW, _TENSOR_FLOATS):
            values.append(value)
    kind = _FLOAT_DTYPES.get(dtype)
    finite = kind is None or all(_is_finite(value, kind) for value in values)
    return Weight(name, external, finite)


def _is_finite(values: memoryview, kind: "np.dtype[Any]") -> bool:
    return bool(np.isfinite(np.frombuffer(values, kind)).all())


def fields(message: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """(field number, value) of a message: https://protobuf.dev/programming-guides/encoding"""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise IndexError("a field longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
