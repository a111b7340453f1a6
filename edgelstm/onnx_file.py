"""An ONNX file without onnx: find it, read it in one pass, hold it against the contract, write it."""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgelstm import __version__
from edgelstm.config import DEFAULT_MODEL, FLOAT32_MAX, RUNS_DIR, shipped_dir
from edgelstm.contract import (
    MEAN_NAME,
    NUMPY_DTYPES,
    SCALE_NAME,
    Array,
    GraphLayout,
    Kind,
    ModelContract,
    Node,
    Value,
    graph_layout,
)
from edgelstm.errors import ModelError, printable
from edgelstm.files import read_bounded

ONNX_FILE = "model.onnx"
"""The exported model of a run folder."""
MAX_MODEL_BYTES = 32 * 2**20
"""Larger files are refused unread: onnxruntime takes up to five times the file. The shipped models are below 1 MB."""
MAX_FIELDS = 10_000
"""Fields of all messages of a file; the largest model, int8 of 16 layers, has 2,000. So no file takes long to read."""
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
    values: tuple[Value, ...] = ()
    """As in `GraphLayout`; none in int8 files from before it wrote them."""
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
    if source is None and path is not None:
        source = f"./{path}" if str(path) in shipped_models() else printable(path, 4096)
    source = source or "the model"
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
    limits = {MEAN_NAME: np.float32(FLOAT32_MAX), SCALE_NAME: np.float32(FLOAT32_MAX)}  # of columns in any unit
    too_large = [
        name for name, array in graph.initializers.items() if not (np.abs(array) <= limits.get(name, largest)).all()
    ]
    checks: list[tuple[str, object, object]] = [
        ("parts", list(graph.foreign), []),
        ("operators", operators, [node.operator for node in layout.nodes]),
        ("inputs", graph.inputs, layout.inputs),
        ("outputs", graph.outputs, layout.outputs),
        *(("nodes", _shown(found), _shown(node)) for found, node in zip(graph.nodes, layout.nodes, strict=False)),
        ("values", graph.values, layout.values if graph.values else ()),
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
    file = path / ONNX_FILE if is_folder else path
    if os.path.isfile(file) or (not is_folder and os.path.exists(file)):
        if file.suffix != ".safetensors":
            return file
        fix = f"write one with `edgelstm export {shown}`"
        raise ModelError(f"{shown} is a checkpoint", expected="an ONNX file", fix=fix)
    found = f"a folder without {ONNX_FILE}" if is_folder else "no such file"
    expected = f"an .onnx file, a run folder, or a shipped model ({', '.join(sorted(shipped)) or 'none here'})"
    raise ModelError(f"no model {shown}", found=found, expected=expected, fix="export one with `edgelstm export`")


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


@dataclass(frozen=True, eq=False)
class _Message:
    """A kind of message: number -> (name, kind) of the fields that export writes, in the order it writes them."""

    name: str
    """How ``foreign`` calls it."""
    fields: Mapping[int, tuple[str, Any]]
    """A kind is int, float, str, bytes or a message; [kind] may come several times."""

    def field(self, number: int) -> tuple[str, Any, bool]:
        """Name, kind, and whether it may come several times; a number that export does not write has no wire type."""
        name, kind = self.fields.get(number, ("", None))
        return (name, kind[0], True) if isinstance(kind, list) else (name, kind, False)


_AXIS = _Message("axis", {1: ("size", int), 2: ("name", str)})
_SHAPE = _Message("shape", {1: ("axes", [_AXIS])})
_TENSOR_TYPE = _Message("type", {1: ("dtype", int), 2: ("shape", _SHAPE)})
_TYPE = _Message("type", {1: ("tensor", _TENSOR_TYPE)})
_VALUE = _Message("value", {1: ("name", str), 2: ("type", _TYPE)})
_TENSOR = _Message("initializer", {1: ("dims", [int]), 2: ("dtype", int), 8: ("name", str), 9: ("raw", bytes)})
_ATTRIBUTE = _Message(
    "attribute", {1: ("name", str), 2: ("f", float), 3: ("i", int), 8: ("ints", [int]), 20: ("type", int)}
)
_NODE = _Message("node", {
    1: ("inputs", [str]), 2: ("outputs", [str]), 3: ("name", str), 4: ("operator", str),
    5: ("attributes", [_ATTRIBUTE]), 7: ("domain", str),
})  # fmt: skip
_GRAPH = _Message("graph", {
    1: ("nodes", [_NODE]), 2: ("name", bytes), 5: ("initializers", [_TENSOR]), 11: ("inputs", [_VALUE]),
    12: ("outputs", [_VALUE]), 13: ("values", [_VALUE]),
})  # fmt: skip
_OPSET = _Message("opset", {1: ("domain", str), 2: ("version", int)})
_ENTRY = _Message("metadata", {1: ("key", str), 2: ("value", str)})
_MODEL = _Message("model", {
    1: ("ir_version", int), 2: ("producer", bytes), 3: ("producer_version", bytes), 7: ("graph", _GRAPH),
    8: ("opsets", [_OPSET]), 14: ("metadata", [_ENTRY]),
})  # fmt: skip

_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_FIXED_SIZES = {1: 8, _FIXED32: 4}
_WIRE_TYPES = {int: _VARINT, float: _FIXED32, None: -1}
"""Of all other kinds: _BYTES."""
_FLOAT, _INT, _INTS = 1, 2, 7
"""Of AttributeProto.AttributeType."""


def decode(content: bytes) -> OnnxGraph:
    """Read an ONNX file. Raises IndexError or ValueError if it is damaged.

    Only what `edgelstm export` writes is read; anything else (functions, sparse or external initializers, values in
    other fields than raw_data, types it does not use) is named in ``foreign``.
    """
    reader = _Reader()
    model = reader.message(memoryview(content), _MODEL)
    foreign, graph = reader.foreign, model.get("graph", {})
    if model.get("ir_version") != IR_VERSION:
        foreign.append(f"ir_version {model.get('ir_version')}")
    return OnnxGraph(
        nodes=tuple(_node(part, foreign) for part in graph.get("nodes", [])),
        initializers=_once([_tensor(part, foreign) for part in graph.get("initializers", [])], "initializer"),
        inputs=tuple(_value(part, foreign) for part in graph.get("inputs", [])),
        outputs=tuple(_value(part, foreign) for part in graph.get("outputs", [])),
        opsets=_once([(part.get("domain", ""), part.get("version", 0)) for part in model.get("opsets", [])], "opset"),
        metadata=_once(
            [(part.get("key", ""), part.get("value", "")) for part in model.get("metadata", [])], "metadata"
        ),
        values=tuple(_value(part, foreign) for part in graph.get("values", [])),
        foreign=tuple(dict.fromkeys(foreign)),
    )


class _Reader:
    """Messages as dicts; a field that is not in the file is not in the dict."""

    def __init__(self) -> None:
        self.foreign: list[str] = []
        self._n_fields = 0

    def message(self, content: memoryview, message: _Message) -> dict[str, Any]:
        """Read one message and all within."""
        found: dict[str, Any] = {}
        for number, wire, value in _wire(content):
            self._n_fields += 1
            if self._n_fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            name, kind, several = message.field(number)
            if wire != _WIRE_TYPES.get(kind, _BYTES) or (name in found and not several):
                self.foreign.append(f"{message.name} field {number}")
                continue
            if isinstance(kind, _Message):
                value = self.message(value, kind)
            elif kind is str:
                value = str(value, "utf-8")
            if several:
                found.setdefault(name, []).append(value)
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
        if wire not in (_BYTES, *_FIXED_SIZES):
            raise ValueError(f"wire type {wire}")
        size, at = _varint(message, at) if wire == _BYTES else (_FIXED_SIZES[wire], at)
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


def _once(pairs: Iterable[tuple[str, Any]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the {what} {name[:40]!r} twice")
        found[name] = value
    return found


def _node(part: dict[str, Any], foreign: list[str]) -> Node:
    attributes = _once([_attribute(each, foreign) for each in part.get("attributes", [])], "attribute")
    inputs, outputs = tuple(part.get("inputs", ())), tuple(part.get("outputs", ()))
    return Node(part.get("operator", ""), inputs, outputs, part.get("name", ""), attributes, part.get("domain", ""))


def _attribute(part: dict[str, Any], foreign: list[str]) -> tuple[str, Any]:
    own = {_FLOAT: "f", _INT: "i", _INTS: "ints"}.get(part.get("type", 0), "")
    if part.keys() - {"name", "type", own}:
        foreign.append("attribute with a value of another type")
    values = {
        "f": struct.unpack("<f", part.get("f", b"0000"))[0],  # none that export writes: only to be shown
        "i": _signed(part.get("i", 0)),
        "ints": tuple(map(_signed, part.get("ints", ()))),
    }
    return part.get("name", ""), values.get(own, "?")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _tensor(part: dict[str, Any], foreign: list[str]) -> tuple[str, Array]:
    name, dtype = part.get("name", ""), NUMPY_DTYPES.get(part.get("dtype", 0))
    if dtype is not None and "raw" in part:
        return name, np.frombuffer(part["raw"], dtype).reshape(part.get("dims", []))
    lack = f"of element type {part.get('dtype')}" if dtype is None else "without raw_data"
    foreign.append(f"initializer {lack}")
    return name, np.empty(0, np.float32)


def _value(part: dict[str, Any], foreign: list[str]) -> Value:
    tensor = part.get("type", {}).get("tensor", {})
    axes = tensor.get("shape", {}).get("axes", [])
    foreign += ["axis with a size and a name" for axis in axes if len(axis) > 1]
    sizes = tuple(axis.get("name", axis.get("size", 0)) for axis in axes)
    return Value(part.get("name", ""), tensor.get("dtype", 0), sizes)


# --- writing ----------------------------------------------------------------------------------------


def graph_from(layout: GraphLayout, weights: Mapping[str, Array], metadata: Mapping[str, str]) -> OnnxGraph:
    """A graph of this layout with these weights, by the layout's names; ValueError for another shape or dtype."""
    for name, (dtype, shape) in layout.weights.items():
        if weights[name].shape != shape or weights[name].dtype != NUMPY_DTYPES[dtype]:
            raise ValueError(f"{name}: found {weights[name].dtype} {weights[name].shape}, expected {shape}")
    initializers = layout.constants | {name: weights[name] for name in layout.weights}
    return OnnxGraph(
        layout.nodes, initializers, layout.inputs, layout.outputs, layout.opsets, dict(metadata), layout.values
    )


def encode(graph: OnnxGraph) -> bytes:
    """The ONNX file of a graph: the bytes that protobuf itself would write, fields in the order of their numbers."""
    numbers = {dtype: number for number, dtype in NUMPY_DTYPES.items()}
    initializers = [
        {"dims": array.shape, "dtype": numbers[array.dtype], "name": name, "raw": array.tobytes()}
        for name, array in graph.initializers.items()
    ]
    sides = {"inputs": graph.inputs, "outputs": graph.outputs, "values": graph.values}
    shapes = {side: [_value_fields(value) for value in values] for side, values in sides.items()}
    nodes = [_node_fields(node) for node in graph.nodes]
    parts = {"nodes": nodes, "name": PRODUCER, "initializers": initializers, **shapes}
    opsets = [{"domain": domain, "version": version} for domain, version in graph.opsets.items()]
    metadata = [{"key": key, "value": value} for key, value in graph.metadata.items()]
    versions = {"ir_version": IR_VERSION, "producer": PRODUCER, "producer_version": __version__}
    return _written(_MODEL, {**versions, "graph": parts, "opsets": opsets, "metadata": metadata})


def _node_fields(node: Node) -> dict[str, Any]:
    fields = vars(node) | {"attributes": [
        {"name": name, "ints": value, "type": _INTS} if isinstance(value, tuple)
        else {"name": name, "i": value, "type": _INT}
        for name, value in sorted(node.attributes.items())
    ]}  # fmt: skip
    if not node.domain:
        del fields["domain"]
    return fields


def _value_fields(value: Value) -> dict[str, Any]:
    axes = [{"name" if isinstance(size, str) else "size": size} for size in value.shape]
    return {"name": value.name, "type": {"tensor": {"dtype": value.dtype, "shape": {"axes": axes}}}}


def _written(message: _Message, values: Mapping[str, Any]) -> bytes:
    """The bytes of a message with these fields."""
    parts = []
    for number in message.fields:
        name, kind, several = message.field(number)
        for value in (values[name] if several else [values[name]]) if name in values else []:
            if kind is int:
                parts.append(field_number(number, value))
            else:
                parts.append(field_bytes(number, _written(kind, value) if isinstance(kind, _Message) else value))
    return b"".join(parts)


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
