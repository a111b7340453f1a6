"""The model contract: the exact graph of every exported file, its metadata, and the protocol of whatever runs it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig, model_config_from
from edgelstm.errors import ModelError, printable

CONTRACT_VERSION = 1
OPSET = 18
"""onnxruntime's CUDA LSTM is registered for the LSTM of opset 14 to 21; 18 is inside with room."""
MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators; an int8 LSTM is one of them."""
INPUT_NAME = "pixels"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"

# The stateful form: row uint8 (batch, rows, cols), h and c float32 (layers, batch, hidden)
#   -> logits float32 (batch, classes) after the last of these rows, h_out and c_out for the next call.
# rows is any multiple of rows_per_step: one step a call, or several. h and c are zeros before the first row.
ROW_NAME = "row"
STATE_NAMES = ("h", "c")
NEXT_STATE_NAMES = ("h_out", "c_out")
ROWS_AXIS = "rows"

Kind = Literal["picture", "stream"]
"""Which form of the graph a file holds: whole sequences in, or rows and state in. Each can be made of the other."""
Precision = Literal["fp32", "fp16", "int8"]
Pixels = npt.NDArray[np.uint8]
"""(batch, rows, cols), 0 = background, 255 = ink."""
Logits = npt.NDArray[np.float32]
"""(batch, classes)."""
Array = npt.NDArray[Any]

MAX_TEXT = 200
"""Characters of a name, a version or a digest in the metadata."""
MAX_METADATA = 2 * 2**20
"""Characters of all metadata: 1,000 class names at their longest fit. Parsed JSON takes up to 30 times its text."""
MAX_COUNT = 2**63
"""Above any number of sequences, any seed: so that no number of thousands of digits reaches a terminal."""
_PREFIX = "edgelstm."


class Runner(Protocol):
    """Anything that turns pixels into logits: torch, onnxruntime, NumPy."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32."""
        ...


@dataclass(frozen=True)
class Score:
    """Right answers out of all."""

    n_right: int
    n: int

    def __post_init__(self) -> None:
        n_right, n = self.n_right, self.n
        if type(n_right) is not int or type(n) is not int or not (0 <= n_right <= n and 0 < n < MAX_COUNT):
            raise ValueError(f"a score of {n_right!r} out of {n!r}")

    @classmethod
    def of(cls, logits: Logits, labels: npt.NDArray[np.uint8]) -> "Score":
        """Count (N, classes) logits whose largest is the label of (N,)."""
        return cls(int((logits.argmax(1) == labels).sum()), len(labels))

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.n_right / self.n

    def __str__(self) -> str:
        return f"{self.n_right:,}/{self.n:,} ({100 * self.accuracy:.2f} %)"


@dataclass(frozen=True)
class EarlyRule:
    """When an answer is settled, so that the rows still to come need not be read (early exit)."""

    confidence: float
    """Smallest probability of the first class, 0 to 1."""
    n_stable: int
    """Steps in a row with the same first class and at least that probability."""
    mean_rows: float | None = None
    """Rows read until then, on average over the validation images that chose the rule."""
    validation: Score | None = None
    """Right answers by the rule on those images."""
    temperature: float = 1.0
    """What the logits are divided by before softmax: the model's, or 1 in files from before it was kept here."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not isinstance(self.confidence, float) or not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence: found {self.confidence!r}, expected a probability")
        if type(self.n_stable) is not int or not 1 <= self.n_stable <= 10**6:
            raise ValueError(f"n_stable: found {self.n_stable!r}, expected a whole number of at least 1")
        if self.mean_rows is not None and not (isinstance(self.mean_rows, float) and 0 <= self.mean_rows <= 10**6):
            raise ValueError(f"mean_rows: found {self.mean_rows!r}, expected a number of rows")

    def __str__(self) -> str:
        steps = "1 step" if self.n_stable == 1 else f"{self.n_stable} steps"
        return f"probability of at least {self.confidence:g} for {steps}"


@dataclass(frozen=True)
class ModelContract:
    """What an exported model says of itself in its ONNX metadata."""

    config: ModelConfig
    name: str = "model"
    """Family member or run name."""
    precision: Precision = "fp32"
    recipe: str | None = None
    seed: int | None = None
    weights_sha256: str | None = None
    """sha256 of the checkpoint's tensors, whatever else its file holds."""
    data_sha256: str | None = None
    """sha256 of the training images file."""
    validation: Score | None = None
    test: Score | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Library versions that trained and exported it."""
    temperature: float = 1.0
    """What logits are divided by before softmax, so that confidence means what it says; 1 is not written down."""
    version: int = CONTRACT_VERSION
    kind: Kind = "picture"
    """Reads whole pictures, or rows and the LSTM's state."""
    early: EarlyRule | None = None
    """When an answer is settled before the last row; None if no validation data chose a rule."""

    def __post_init__(self) -> None:
        texts = (self.name, *self.versions.keys(), *self.versions.values())
        optional = (self.recipe, self.weights_sha256, self.data_sha256)
        for text in (*texts, *(text for text in optional if text is not None)):
            if not isinstance(text, str) or len(text) > MAX_TEXT:
                raise ValueError(f"found {type(text).__name__}, expected text of at most {MAX_TEXT} characters")
            text.encode()  # a lone surrogate is a ValueError too
        if self.kind not in ("picture", "stream"):
            raise ValueError(f"kind: found {self.kind!r}, expected picture or stream")
        if self.precision not in ("fp32", "fp16", "int8"):
            raise ValueError(f"precision: found {self.precision!r}, expected fp32, fp16 or int8")
        if self.seed is not None and (type(self.seed) is not int or abs(self.seed) >= MAX_COUNT):
            raise ValueError(f"seed: found {self.seed!r}, expected a whole number")
        check_temperature(self.temperature)

    def to_metadata(self) -> dict[str, str]:
        """String keys and values for ONNX ``metadata_props``, sorted: equal contracts, equal bytes."""
        values = asdict(self)
        if self.temperature == 1:  # as in files from before there was one
            del values["temperature"]
        if self.kind == "picture":  # not written down, as in files from before there were others
            del values["kind"]
            if self.early is None:
                del values["early"]
        return {_PREFIX + key: json.dumps(values[key], sort_keys=True) for key in sorted(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str = "the model") -> "ModelContract":
        """Read it back. Raises ModelError if it is missing, newer, or says nonsense."""
        values = {key.removeprefix(_PREFIX): text for key, text in metadata.items() if key.startswith(_PREFIX)}
        if "version" not in values:
            raise ModelError(
                f"{source} is not an edgelstm model", found="no edgelstm contract in its metadata",
                expected="a file written by `edgelstm export`", fix="export it again with `edgelstm export CHECKPOINT`",
            )  # fmt: skip
        try:
            n_characters = sum(map(len, values.values()))
            if n_characters > MAX_METADATA:
                raise ValueError(f"{n_characters:,} characters")
            read: dict[str, Any] = {key: json.loads(text) for key, text in values.items()}
            if type(read["version"]) is not int or read["version"] != CONTRACT_VERSION:
                raise ModelError(
                    f"{source} keeps another version of the model contract", found=repr(read["version"])[:40],
                    expected=CONTRACT_VERSION, fix="install a matching edgelstm, or export the checkpoint again",
                )  # fmt: skip
            for key in ("validation", "test"):
                read[key] = Score(**read[key]) if read[key] else None
            read["config"] = model_config_from(read["config"])
            if (early := read.get("early")) is not None:
                validation = Score(**early["validation"]) if early["validation"] else None
                read["early"] = EarlyRule(**{**early, "validation": validation})
            return cls(**read)
        except ModelError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            found, wanted = f"{type(error).__name__}: {error}", f"the metadata of contract version {CONTRACT_VERSION}"
            raise ModelError(
                f"{source} has a damaged model contract", found=printable(found, 300), expected=wanted,
                fix="export the checkpoint again",
            ) from error  # fmt: skip


def check_temperature(temperature: object) -> None:
    """Raise ValueError unless it is a float that logits can be divided by."""
    if type(temperature) is not float or not 0.01 <= temperature <= 100:
        raise ValueError(f"temperature: found {temperature!r}, expected a number from 0.01 to 100")


def in_batches(runner: Runner, pixels: Pixels, batch_size: int) -> Logits:
    """(N, rows, cols) -> (N, classes), the runner called with ``batch_size`` images at a time."""
    return np.concatenate([runner.logits(pixels[at : at + batch_size]) for at in range(0, len(pixels), batch_size)])


def check_pixels(pixels: object, config: ModelConfig) -> Pixels:
    """The array itself if it is (batch, rows, cols) uint8; ValueError with found and expected if not."""
    expected = f"uint8 (batch, {config.rows}, {config.cols})"
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"pixels: found {type(pixels).__name__}, expected a NumPy array {expected}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (config.rows, config.cols):
        raise ValueError(f"pixels: found {pixels.dtype} {pixels.shape}, expected {expected}")
    return pixels


# The graph. Cast, (Reshape), Transpose, one LSTM per layer with a Squeeze behind each, Gemm, and in fp16 a Cast of
# the logits. The pixels' scale is folded into the first layer's input weights; initial states are left out, which
# means zeros. This is the one definition of it: export writes it, and a file that is opened must equal it.

UINT8, INT8, INT64, FLOAT16, FLOAT = 2, 3, 7, 10, 1
"""ONNX's numbers of the element types (TensorProto.DataType)."""
NUMPY_DTYPES: dict[int, "np.dtype[Any]"] = {
    UINT8: np.dtype("u1"), INT8: np.dtype("i1"), INT64: np.dtype("<i8"), FLOAT16: np.dtype("<f2"),
    FLOAT: np.dtype("<f4"),
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node of an ONNX graph."""

    operator: str
    inputs: tuple[str, ...]
    """Names of values; empty: left out."""
    outputs: tuple[str, ...]
    name: str
    attributes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True)
class Value:
    """An input or output of an ONNX graph."""

    name: str
    dtype: int
    """ONNX's number of the element type."""
    shape: tuple[int | str, ...]
    """Sizes, or names of axes that are free."""


@dataclass(frozen=True)
class GraphLayout:
    """Everything of a graph but the numbers of its weights."""

    nodes: tuple[Node, ...]
    weights: dict[str, tuple[int, tuple[int, ...]]]
    """Element type and shape of each initializer that is trained."""
    constants: dict[str, Array]
    """Initializers that follow from the config: axes and shapes."""
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opsets: dict[str, int]


def graph_layout(config: ModelConfig, precision: Precision = "fp32", kind: Kind = "picture") -> GraphLayout:
    """The graph of a model of this shape, as whole pictures or as rows and state.

    The stateful form takes the LSTM's initial states as inputs and gives its last ones as outputs; several
    layers need a Split of each state before them and a Concat behind. That of fp16 has its weights widened to
    float32: a stream runs on the CPU, whose LSTM has no float16.
    """
    streaming, layers = kind == "stream", config.n_layers
    split_states = streaming and layers > 1
    if streaming and precision == "fp16":
        precision = "fp32"
    element = FLOAT16 if precision == "fp16" else FLOAT
    weights: dict[str, tuple[int, tuple[int, ...]]] = {}
    nodes, constants = _sequence_nodes(config, element, ROW_NAME if streaming else INPUT_NAME, streaming)
    before, after = (_layer_states(layers, names) for names in (STATE_NAMES, NEXT_STATE_NAMES))
    if split_states:
        split = {"axis": 0, "num_outputs": layers}
        for name, names in zip(STATE_NAMES, before, strict=True):
            nodes.append(Node("Split", (name,), names, f"split_{name}", split))
    value, size = "sequence", config.step_size
    for layer in range(layers):
        name, last = f"lstm_{layer}", layer == layers - 1
        weights |= _lstm_weights(name, size, config.hidden_size, precision)
        states = (before[0][layer], before[1][layer]) if streaming else ("", "")
        final = after[0][layer] if streaming else f"{name}.Y_h"
        ends = (final, after[1][layer]) if streaming else (final,) if last else ()
        found = final if last else f"{name}.Y"
        nodes.append(_lstm_node(name, value, states, ("" if last else found, *ends), config.hidden_size, precision))
        # Y_h (1, B, H) -> (B, H); Y (T, 1, B, H) -> (T, B, H)
        value = f"{name}.last" if last else f"{name}.sequence"
        axis = "direction_axis" if last else "step_direction_axis"
        nodes.append(Node("Squeeze", (found, axis), (value,), f"{name}_squeeze"))
        size = config.hidden_size
    result = "half_logits" if precision == "fp16" else OUTPUT_NAME
    nodes.append(Node("Gemm", (value, "head.weight", "head.bias"), (result,), "head", {"transB": 1}))
    if precision == "fp16":
        nodes.append(Node("Cast", (result,), (OUTPUT_NAME,), "widen", {"to": FLOAT}))
    if split_states:
        for name, names in zip(NEXT_STATE_NAMES, after, strict=True):
            nodes.append(Node("Concat", names, (name,), f"join_{name}", {"axis": 0}))
    weights |= {
        "head.weight": (element, (config.n_classes, config.hidden_size)), "head.bias": (element, (config.n_classes,))
    }  # fmt: skip
    inputs, outputs = _signature(config, kind)
    opsets = {"": OPSET} | ({MICROSOFT: 1} if precision == "int8" else {})
    return GraphLayout(tuple(nodes), weights, constants, inputs, outputs, opsets)


def _sequence_nodes(
    config: ModelConfig, element: int, name: str, streaming: bool
) -> tuple[list[Node], dict[str, Array]]:
    """From uint8 rows (B, R, C) to float ``sequence`` (T, B, S), and the constants of the graph."""
    nodes = [Node("Cast", (name,), ("floats",), "cast", {"to": element})]
    constants: dict[str, Array] = {}
    value = "floats"
    if config.rows_per_step > 1:
        # (B, R, C) -> (B, T, S): several rows side by side are one step; 0 keeps the batch, -1 as many as there are
        n_steps = -1 if streaming else config.n_steps
        constants["steps_shape"] = np.array([0, n_steps, config.step_size], np.int64)
        nodes.append(Node("Reshape", (value, "steps_shape"), ("steps",), "group_rows"))
        value = "steps"
    # (B, T, S) -> (T, B, S): rows are time steps, not batch elements
    nodes.append(Node("Transpose", (value,), ("sequence",), "rows_first", {"perm": (1, 0, 2)}))
    constants["direction_axis"] = np.array([0], np.int64)
    if config.n_layers > 1:
        constants["step_direction_axis"] = np.array([1], np.int64)
    return nodes, constants


def _lstm_weights(name: str, inputs: int, hidden: int, precision: Precision) -> dict[str, tuple[int, tuple[int, ...]]]:
    """W (1, 4H, I), R (1, 4H, H), B (1, 8H); int8 has W and R transposed, each with a scale and a zero point."""
    if precision != "int8":
        element = FLOAT16 if precision == "fp16" else FLOAT
        shapes = {"W": (1, 4 * hidden, inputs), "R": (1, 4 * hidden, hidden), "B": (1, 8 * hidden)}
        return {f"{name}.{key}": (element, shape) for key, shape in shapes.items()}
    weights: dict[str, tuple[int, tuple[int, ...]]] = {}
    for key, size in (("W", inputs), ("R", hidden)):
        weights[f"{name}.{key}"] = (INT8, (1, size, 4 * hidden))
        weights[f"{name}.{key}_scale"] = (FLOAT, (1,))
        weights[f"{name}.{key}_zero_point"] = (INT8, (1,))
    return weights | {f"{name}.B": (FLOAT, (1, 8 * hidden))}


def _lstm_node(
    name: str, value: str, states: tuple[str, str], outputs: tuple[str, ...], hidden: int, precision: Precision
) -> Node:
    """One layer; ``outputs`` are Y, Y_h, Y_c. An int8 activation is quantized as it runs, one scale for each call."""
    inputs: tuple[str, ...] = (value, f"{name}.W", f"{name}.R", f"{name}.B")
    attributes = {"hidden_size": hidden}
    if precision == "int8":
        scaling = (f"{name}.{key}_{part}" for key in "WR" for part in ("scale", "zero_point"))
        # lengths and peepholes are left out
        inputs = (*inputs, "", *states, "", *scaling)
        return Node("DynamicQuantizeLSTM", inputs, outputs, name, attributes, MICROSOFT)
    return Node("LSTM", (*inputs, "", *states) if any(states) else inputs, outputs, name, attributes)


def _layer_states(layers: int, names: tuple[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of each layer's part (1, B, H) of the two states (L, B, H)."""
    if layers == 1:
        return (names[0],), (names[1],)
    h, c = (tuple(f"lstm_{layer}.{name}" for layer in range(layers)) for name in names)
    return h, c


def _signature(config: ModelConfig, kind: Kind) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    logits = Value(OUTPUT_NAME, FLOAT, (BATCH_AXIS, config.n_classes))
    if kind == "picture":
        return (Value(INPUT_NAME, UINT8, (BATCH_AXIS, config.rows, config.cols)),), (logits,)
    state = (config.n_layers, BATCH_AXIS, config.hidden_size)
    rows = Value(ROW_NAME, UINT8, (BATCH_AXIS, ROWS_AXIS, config.cols))
    inputs, outputs = ([Value(name, FLOAT, state) for name in names] for names in (STATE_NAMES, NEXT_STATE_NAMES))
    return (rows, *inputs), (logits, *outputs)
