"""An ONNX file without onnx: find it, read it in one pass, hold it against the contract, write it."""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgelstm import __version__
from edgelstm.config import DEFAULT_MODEL, RUNS_DIR, shipped_dir
from edgelstm.contract import NUMPY_DTYPES, Array, GraphLayout, Kind, ModelContract, Node, Value, graph_layout
from edgelstm.errors import ModelError, printable
from edgelstm.files import read_bounded

ONNX_FILE = "model.onnx"
"""The exported model of a run folder."""
MAX_MODEL_BYTES = 32 * 2**20
"""Larger files are refused unread: onnxruntime takes up to five times the file. The shipped models are below 1 MB."""
MAX_FIELDS = 10_000
"""Fields of all messages of a file; the largest model, int8 of 16 layers, has 1,391. So no file takes long to read."""
MAX_WEIGHT = 1e9
"""No sum of so large weights overflows float32: the logits of every file that is opened are finite numbers too."""
MAX_FLOAT16 = 65_504.0
IR_VERSION = 10
"""The ONNX file format that came with opset 21; every onnxruntime since 1.18 reads it."""
PRODUCER = "edgelstm"


@dataclass(frozen=True)
class OnnxGraph:
    """What an ONNX file holds. Whatever has no place here is named in ``foreign``."""

    nodes: tuple[Node, ...]
    initializers: dict[str, Array]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opsets: dict[str, int]
    metadata: dict[str, str]
    foreign: tuple[str, ...] = ()

    def with_form(self, layout: GraphLayout, metadata: Mapping[str, str]) -> "OnnxGraph":
        """The same weights in another graph. float16 weights are widened where the layout has float32."""
        weights = {
            name: self.initializers[name].astype(NUMPY_DTYPES[dtype], copy=False)
            for name, (dtype, _) in layout.weights.items()
        }
        return graph_from(layout, weights, metadata)


@dataclass(frozen=True)
class ModelFile:
    """A model file that keeps the contract: nothing of it is left to check."""

    content: bytes = field(repr=False)
    graph: OnnxGraph = field(repr=False)
    contract: ModelContract
    source: str
    """How errors and reports call it."""
    path: Path | None = None
    """None if it was given as bytes."""

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return len(self.content)

    def form(self, kind: Kind) -> bytes:
        """The file as it is, or the same weights in the other form, with the same metadata.

        A stream of an fp16 model runs in float32, its weights widened once: as onnxruntime's CPU provider, which has
        no float16 LSTM, runs the whole pictures.
        """
        if kind == self.contract.kind:
            return self.content
        contract = replace(self.contract, kind=kind)
        layout = graph_layout(contract.config, contract.precision, kind)
        return encode(self.graph.with_form(layout, contract.to_metadata()))


ModelSource = str | os.PathLike[str] | bytes | ModelFile
"""A path, a run folder, a shipped model's name, a file's bytes, or a file that is open already."""


def open_model(model: ModelSource, source: str | None = None) -> ModelFile:
    """Find, read and check a model file: it must be exactly the graph that `edgelstm export` writes for its contract.

    No other file reaches onnxruntime, because foreign operators are not only slower or wrong: a loop may never end, or
    a shape take all memory while the session is made. Weights must lie in the file (bytes mean that no other file is
    followed) and be finite: onnxruntime's CPU LSTM turns NaN weights into finite states, so nothing would show it.
    ``source`` is how errors call the model. Raises ModelError.
    """
    if isinstance(model, ModelFile):
        return model
    path = None if isinstance(model, bytes) else find_model(model)
    source = source or ("the model" if path is None else printable(path))
    content = model if path is None else read_bounded(path, MAX_MODEL_BYTES, "an ONNX model", ModelError)
    assert isinstance(content, bytes)
    if len(content) > MAX_MODEL_BYTES:
        found, limit = f"{len(content):,} bytes", f"at most {MAX_MODEL_BYTES:,}"
        raise ModelError(f"{source} is too large for an ONNX model", found=found, expected=limit)
    try:
        graph = decode(content)
    except (IndexError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{source} cannot be loaded as an ONNX model", found=f"a damaged file ({error})",
            expected="a file written by `edgelstm export`", fix="export it again",
        ) from error  # fmt: skip
    contract = ModelContract.from_metadata(graph.metadata, source)
    _check_graph(graph, contract, source)
    return ModelFile(content, graph, contract, source, path)


def _check_graph(graph: OnnxGraph, contract: ModelContract, source: str) -> None:
    """Raise ModelError at the first thing in which the graph is not the one that the contract describes."""
    layout = graph_layout(contract.config, contract.precision, contract.kind)
    operators = [node.operator for node in graph.nodes]
    shapes = {name: (array.dtype.str, array.shape) for name, array in graph.initializers.items()}
    expected = {name: (NUMPY_DTYPES[dtype].str, shape) for name, (dtype, shape) in layout.weights.items()}
    expected |= {name: (array.dtype.str, array.shape) for name, array in layout.constants.items()}
    wrong_constants = [
        name for name, array in layout.constants.items() if not np.array_equal(graph.initializers.get(name, ()), array)
    ]
    # the weights of an fp16 model may stand here widened, and must fit back; NaN is not below any limit
    largest = np.float32(MAX_FLOAT16 if contract.precision == "fp16" else MAX_WEIGHT)
    too_large = [name for name, array in graph.initializers.items() if not (np.abs(array) <= largest).all()]
    checks: list[tuple[str, object, object]] = [
        ("parts", list(graph.foreign), []),
        ("operators", operators, [node.operator for node in layout.nodes]),
        ("inputs", graph.inputs, layout.inputs),
        ("outputs", graph.outputs, layout.outputs),
        *(("nodes", _shown(found), _shown(node)) for found, node in zip(graph.nodes, layout.nodes, strict=False)),
        ("opsets", graph.opsets, layout.opsets),
        ("initializers", _difference(shapes, expected), _difference(expected, shapes)),
        ("constants", wrong_constants, []),
        (f"weights that are not finite numbers of at most {largest:g}", too_large, []),
    ]
    for what, found, wanted in checks:
        if found != wanted:
            raise ModelError(
                f"{source} breaks the model contract in its {what}",
                found=printable(str(found), 300), expected=printable(str(wanted), 300),
                fix="export the checkpoint again with `edgelstm export`",
            )  # fmt: skip


def _shown(node: Node) -> str:
    """A node in one line. Two nodes that differ differ here too: each name stands in quotes, 1.0 is not 1."""
    attributes = dict(sorted(node.attributes.items()))
    names = f"{node.name!r} ({node.domain!r})" if node.domain else repr(node.name)
    return f"{node.operator} {names}: {node.inputs}, {attributes} -> {node.outputs}"


def _difference(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in one.items() if other.get(name) != value}


# --- which file is meant ----------------------------------------------------------------------------


def find_model(name: str | os.PathLike[str]) -> Path:
    """The ONNX file that a user means: a shipped model's name, a file, or a run folder (its model.onnx).

    A bare name that is a shipped model's always means that one; a file of the same name is ./NAME. Raises
    ModelError if there is no such file or model, or if it is a checkpoint.
    """
    path, text = Path(name), os.fspath(name)
    shipped = shipped_models()
    if text in shipped:
        return shipped[text]
    shown, is_folder = printable(path), os.path.isdir(path)
    if is_folder and os.path.isfile(path / ONNX_FILE):
        return path / ONNX_FILE
    if not is_folder and os.path.exists(path):
        if path.suffix == ".safetensors":
            fix = f"write one with `edgelstm export {shown}`"
            raise ModelError(f"{shown} is a checkpoint", expected="an ONNX file", fix=fix)
        return path
    raise ModelError(
        f"no model {shown}",
        found=f"a folder without {ONNX_FILE}" if is_folder else "no such file",
        expected=f"an .onnx file, a run folder, or a shipped model ({', '.join(sorted(shipped)) or 'none here'})",
        fix="export one with `edgelstm export`",
    )


def shipped_models() -> dict[str, Path]:
    """Name -> file of each model that comes with the package."""
    return {file.name.removesuffix(".onnx"): file for file in shipped_dir().glob("*.onnx")}


def is_shipped(path: Path | None) -> bool:
    """Whether a file is one of the models that come with the package."""
    return path is not None and path.resolve().parent == shipped_dir().resolve()


def default_model() -> str:
    """What every command takes where no model is named: the run of this folder, if exported, else the shipped base."""
    here = Path(RUNS_DIR) / DEFAULT_MODEL / ONNX_FILE
    return str(here) if here.is_file() else DEFAULT_MODEL


def checkpoint_beside(model: Path) -> Path:
    """Where the checkpoint of a model file is expected: base.safetensors for base.onnx and base.int8.onnx."""
    name = model.name
    for suffix in (".onnx", ".int8", ".fp16", ".stream"):
        name = name.removesuffix(suffix)
    return model.with_name(name + ".safetensors")


# --- the wire format: https://protobuf.dev/programming-guides/encoding, field numbers of onnx.proto -----

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _INT, _INTS = 1, 2, 7  # AttributeProto.AttributeType

# field number -> (name, wire type, may come several times); fields of other numbers are foreign
_MODEL = {
    1: ("ir_version", _VARINT, False), 2: ("producer", _BYTES, False), 3: ("producer_version", _BYTES, False),
    7: ("graph", _BYTES, False), 8: ("opsets", _BYTES, True), 14: ("metadata", _BYTES, True),
}  # fmt: skip
_GRAPH = {
    1: ("nodes", _BYTES, True), 2: ("name", _BYTES, False), 5: ("initializers", _BYTES, True),
    11: ("inputs", _BYTES, True), 12: ("outputs", _BYTES, True),
}  # fmt: skip
_NODE = {
    1: ("inputs", _BYTES, True), 2: ("outputs", _BYTES, True), 3: ("name", _BYTES, False),
    4: ("operator", _BYTES, False), 5: ("attributes", _BYTES, True), 7: ("domain", _BYTES, False),
}  # fmt: skip
_ATTRIBUTE = {
    1: ("name", _BYTES, False),
    2: ("f", _FIXED32, False), 3: ("i", _VARINT, False), 8: ("ints", _VARINT, True), 20: ("type", _VARINT, False)
}  # fmt: skip
_TENSOR = {
    1: ("dims", _VARINT, True), 2: ("dtype", _VARINT, False), 8: ("name", _BYTES, False), 9: ("raw", _BYTES, False)
}  # fmt: skip
_OPSET = {1: ("domain", _BYTES, False), 2: ("version", _VARINT, False)}
_ENTRY = {1: ("key", _BYTES, False), 2: ("value", _BYTES, False)}
_VALUE = {1: ("name", _BYTES, False), 2: ("type", _BYTES, False)}
_TYPE = {1: ("tensor", _BYTES, False)}
_TENSOR_TYPE = {1: ("dtype", _VARINT, False), 2: ("shape", _BYTES, False)}
_SHAPE = {1: ("axes", _BYTES, True)}
_AXIS = {1: ("size", _VARINT, False), 2: ("name", _BYTES, False)}
_Fields = dict[int, tuple[str, int, bool]]


class _Reading:
    """What a file has shown of itself so far."""

    def __init__(self) -> None:
        self.n_fields = 0
        self.foreign: list[str] = []

    def count_field(self) -> None:
        self.n_fields += 1
        if self.n_fields > MAX_FIELDS:
            raise ValueError(f"more than {MAX_FIELDS:,} fields")


def decode(content: bytes) -> OnnxGraph:
    """Read an ONNX file. Raises IndexError or ValueError if it is damaged.

    Only what `edgelstm export` writes is read; anything else (functions, sparse or external initializers, values in
    other fields than raw_data, types it does not use) is named in ``foreign``.
    """
    reading = _Reading()
    model = _message(memoryview(content), _MODEL, "model", reading)
    if model.get("ir_version") != IR_VERSION:
        reading.foreign.append(f"ir_version {model.get('ir_version')}")
    graph = _message(model.get("graph", memoryview(b"")), _GRAPH, "graph", reading)
    opsets = [_message(part, _OPSET, "opset", reading) for part in model["opsets"]]
    entries = [_message(part, _ENTRY, "metadata", reading) for part in model["metadata"]]
    return OnnxGraph(
        nodes=tuple(_node(part, reading) for part in graph["nodes"]),
        initializers=_once((_tensor(part, reading) for part in graph["initializers"]), "initializer"),
        inputs=tuple(_value(part, reading) for part in graph["inputs"]),
        outputs=tuple(_value(part, reading) for part in graph["outputs"]),
        opsets=_once(((_text(part, "domain"), part.get("version", 0)) for part in opsets), "opset"),
        metadata=_once(((_text(part, "key"), _text(part, "value")) for part in entries), "metadata"),
        foreign=tuple(dict.fromkeys(reading.foreign)),
    )


def _message(content: memoryview, fields: _Fields, what: str, reading: _Reading) -> dict[str, Any]:
    """The known fields of a message by name; a list for each that may come several times."""
    found: dict[str, Any] = {name: [] for name, _, several in fields.values() if several}
    for number, wire, value in _wire(content):
        reading.count_field()
        name, expected, several = fields.get(number, ("", -1, False))
        if several and expected == _VARINT and wire == _BYTES:  # packed
            at = 0
            while at < len(value):
                reading.count_field()
                item, at = _varint(value, at)
                found[name].append(item)
        elif wire != expected or (name in found and not several):
            reading.foreign.append(f"{what} field {number}")
        elif several:
            found[name].append(value)
        else:
            found[name] = value
    return found


def _wire(message: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) of each field."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise IndexError("a field longer than its message")
        yield key >> 3, wire, message[at : at + size]
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


def _text(message: dict[str, Any], name: str) -> str:
    return bytes(message.get(name, b"")).decode()


def _once(pairs: Iterator[tuple[str, Any]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the {what} {name[:40]!r} twice")
        found[name] = value
    return found


def _node(content: memoryview, reading: _Reading) -> Node:
    part = _message(content, _NODE, "node", reading)
    attributes = _once((_attribute(each, reading) for each in part["attributes"]), "attribute")
    inputs, outputs = (tuple(bytes(name).decode() for name in part[side]) for side in ("inputs", "outputs"))
    return Node(_text(part, "operator"), inputs, outputs, _text(part, "name"), attributes, _text(part, "domain"))


def _attribute(content: memoryview, reading: _Reading) -> tuple[str, Any]:
    part = _message(content, _ATTRIBUTE, "attribute", reading)
    values = {
        _FLOAT: struct.unpack("<f", part.get("f", b"0000"))[0],  # none that export writes: only to be shown
        _INT: _signed(part.get("i", 0)),
        _INTS: tuple(map(_signed, part["ints"])),
    }
    return _text(part, "name"), values.get(part.get("type", 0), "?")


def _tensor(content: memoryview, reading: _Reading) -> tuple[str, Array]:
    part = _message(content, _TENSOR, "initializer", reading)
    name, dtype = _text(part, "name"), NUMPY_DTYPES.get(part.get("dtype", 0))
    if dtype is None:
        reading.foreign.append(f"initializer of element type {part.get('dtype')}")
        return name, np.empty(0, np.float32)
    if "raw" not in part:
        reading.foreign.append("initializer without raw_data")
        return name, np.empty(0, dtype)
    return name, np.frombuffer(part["raw"], dtype).reshape(part["dims"])


def _value(content: memoryview, reading: _Reading) -> Value:
    part = _message(content, _VALUE, "value", reading)
    kind = _message(part.get("type", memoryview(b"")), _TYPE, "type", reading)
    tensor = _message(kind.get("tensor", memoryview(b"")), _TENSOR_TYPE, "type", reading)
    shape = _message(tensor.get("shape", memoryview(b"")), _SHAPE, "shape", reading)
    axes = [_message(axis, _AXIS, "axis", reading) for axis in shape["axes"]]
    reading.foreign += ["axis with a size and a name" for axis in axes if len(axis) > 1]
    sizes = tuple(_text(axis, "name") if "name" in axis else axis.get("size", 0) for axis in axes)
    return Value(_text(part, "name"), tensor.get("dtype", 0), sizes)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# --- writing ----------------------------------------------------------------------------------------


def graph_from(layout: GraphLayout, weights: Mapping[str, Array], metadata: Mapping[str, str]) -> OnnxGraph:
    """A graph of this layout with these weights, by the layout's names; ValueError for another shape or dtype."""
    for name, (dtype, shape) in layout.weights.items():
        if weights[name].shape != shape or weights[name].dtype != NUMPY_DTYPES[dtype]:
            raise ValueError(f"{name}: found {weights[name].dtype} {weights[name].shape}, expected {shape}")
    initializers = layout.constants | {name: weights[name] for name in layout.weights}
    return OnnxGraph(layout.nodes, initializers, layout.inputs, layout.outputs, layout.opsets, dict(metadata))


def encode(graph: OnnxGraph) -> bytes:
    """The ONNX file of a graph: the bytes that protobuf itself would write, fields in the order of their numbers."""
    parts = [field_bytes(1, _encoded_node(node)) for node in graph.nodes]
    parts.append(field_bytes(2, PRODUCER))
    parts += [field_bytes(5, _encoded_tensor(name, array)) for name, array in graph.initializers.items()]
    parts += [field_bytes(11, _encoded_value(value)) for value in graph.inputs]
    parts += [field_bytes(12, _encoded_value(value)) for value in graph.outputs]
    opsets = [field_bytes(1, domain) + field_number(2, version) for domain, version in graph.opsets.items()]
    entries = [field_bytes(1, key) + field_bytes(2, value) for key, value in graph.metadata.items()]
    return b"".join(
        [
            field_number(1, IR_VERSION), field_bytes(2, PRODUCER), field_bytes(3, __version__),
            field_bytes(7, b"".join(parts)),
            *(field_bytes(8, opset) for opset in opsets),
            *(field_bytes(14, entry) for entry in entries),
        ]
    )  # fmt: skip


def field_bytes(number: int, content: bytes | str) -> bytes:
    """A field of bytes or text: its key, its length, itself."""
    content = content.encode() if isinstance(content, str) else content
    return _encoded_varint(number << 3 | _BYTES) + _encoded_varint(len(content)) + content


def field_number(number: int, value: int) -> bytes:
    """A field of a whole number."""
    return _encoded_varint(number << 3 | _VARINT) + _encoded_varint(value % 2**64)


def _encoded_varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _encoded_varint(rest) if rest else bytes([low])


def _encoded_node(node: Node) -> bytes:
    content = b"".join(field_bytes(1, name) for name in node.inputs)
    content += b"".join(field_bytes(2, name) for name in node.outputs)
    content += field_bytes(3, node.name) + field_bytes(4, node.operator)
    for name in sorted(node.attributes):
        value = node.attributes[name]
        if isinstance(value, tuple):
            kind, encoded = _INTS, b"".join(field_number(8, one) for one in value)
        else:
            kind, encoded = _INT, field_number(3, value)
        content += field_bytes(5, field_bytes(1, name) + encoded + field_number(20, kind))
    return content + (field_bytes(7, node.domain) if node.domain else b"")


def _encoded_tensor(name: str, array: Array) -> bytes:
    dtype = next(number for number, known in NUMPY_DTYPES.items() if known == array.dtype)
    dims = b"".join(field_number(1, size) for size in array.shape)
    return dims + field_number(2, dtype) + field_bytes(8, name) + field_bytes(9, array.tobytes())


def _encoded_value(value: Value) -> bytes:
    axes = (field_bytes(2, size) if isinstance(size, str) else field_number(1, size) for size in value.shape)
    shape = b"".join(field_bytes(1, axis) for axis in axes)
    tensor = field_number(1, value.dtype) + field_bytes(2, shape)
    return field_bytes(1, value.name) + field_bytes(2, field_bytes(1, tensor))
