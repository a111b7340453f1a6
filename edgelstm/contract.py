"""The model contract: the exact graph of every exported file, its metadata, and the protocol of whatever runs it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgelstm.config import FLOAT32_MAX, MODEL_RANGES, ModelConfig, model_config_from
from edgelstm.errors import ModelError, printable

CONTRACT_VERSION = 2
READ_VERSIONS = (1, 2)
"""Version 1 knew only pictures of digits, all of one size."""
OPSET = 18
"""onnxruntime's CUDA LSTM is registered for the LSTM of opset 14 to 21; 18 is inside with room."""
MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators; an int8 LSTM is one of them."""
PIXELS_NAME, VALUES_NAME = "pixels", "values"
INPUT_NAMES = {False: PIXELS_NAME, True: VALUES_NAME}
"""By `ModelConfig.is_values`."""
LENGTHS_NAME = "lengths"
"""int32 (batch,): the rows of each sequence, where they may differ; what lies behind them is not read."""
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"
MEAN_NAME, SCALE_NAME = "mean", "scale"
"""Initializers of values: the mean of each column in the training split, and 1 over its standard deviation."""

# The stateful form: row uint8 or float32 (batch, rows, cols), h and c float32 (layers, batch, hidden)
#   -> logits float32 (batch, classes) after the last of these rows, h_out and c_out for the next call.
# rows is any multiple of rows_per_step: one step a call, or several. h and c are zeros before the first row.
ROW_NAME = "row"
STATE_NAMES = ("h", "c")
NEXT_STATE_NAMES = ("h_out", "c_out")
ROWS_AXIS = "rows"
STEPS_AXIS = "steps"
"""Of a stream that reads several rows at each step: rows / rows_per_step."""

Kind = Literal["picture", "stream"]
"""Which form of the graph a file holds: whole sequences in, or rows and state in. Each can be made of the other.
``picture`` is any whole sequence: the word stands in files of contract 1."""
Precision = Literal["fp32", "fp16", "int8"]
Pixels = npt.NDArray[np.uint8]
"""(batch, rows, cols), 0 = background, 255 = ink."""
Sequences = npt.NDArray[Any]
"""(batch, rows, cols), uint8 pixels or float32 values; where lengths differ, what lies behind a sequence's end is
not read."""
Lengths = npt.NDArray[np.int32]
"""(batch,) rows of each sequence."""
Labels = npt.NDArray[np.integer]
"""(batch,) the index of each sequence's class."""
Logits = npt.NDArray[np.float32]
"""(batch, classes)."""
Array = npt.NDArray[Any]

MAX_TEXT = 200
"""Characters of a name, a version or a digest in the metadata."""
MAX_METADATA = 2 * 2**20
"""Characters of all metadata: 1,000 class names at their longest fit. Parsed JSON takes up to 30 times its text."""
MAX_COUNT = 2**63
"""Above any number of sequences, any seed: so that no number of thousands of digits reaches a terminal."""
MAX_ROWS = int(MODEL_RANGES["rows"][1])
"""Of one call where lengths differ."""
N_VIEWS = 7
"""A picture and six changes of it: what the rule for no digit looks at."""
MAX_UNITS, MAX_WEIGHT = 64, 1e4
"""Of such a rule; an exported one has fewer and smaller ones."""
_PREFIX = "edgelstm."
_UINT8 = np.dtype(np.uint8)


class Runner(Protocol):
    """Anything that turns sequences into logits: torch, onnxruntime, NumPy."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def logits(self, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32."""
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
    def of(cls, logits: Logits, labels: Labels) -> "Score":
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
class NoDigitRule:
    """When a picture is said to show no digit: a layer of tanh units on the logits of it and of changes of it.

    The changes are those of `edgelstm.runtime.calibration.logits_of_views`.
    """

    hidden: tuple[tuple[float, ...], ...]
    """Of each unit the weights of N_VIEWS * classes logits, and its bias."""
    output: tuple[float, ...]
    """The weights of the units, and a bias: a sum above 0 says that it is no digit."""

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, tuple) or not 1 <= len(self.hidden) <= MAX_UNITS:
            raise ValueError(f"no_digit: found {type(self.hidden).__name__}, expected 1 to {MAX_UNITS} units")
        for weights in (*self.hidden, self.output):
            if not isinstance(weights, tuple) or not all(type(w) is float and abs(w) <= MAX_WEIGHT for w in weights):
                raise ValueError(f"no_digit: found {weights!r:.100}, expected numbers of at most {MAX_WEIGHT:,}")
        if len(self.output) != len(self.hidden) + 1:
            raise ValueError(f"no_digit: found {len(self.output)} weights, expected {len(self.hidden) + 1}")


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
    ranges: tuple[tuple[float, float], ...] = ()
    """Smallest and largest value of each column in the training split; empty for pixels. Far outside, a model was
    never trained, and integer engines saturate."""
    no_digit: NoDigitRule | None = None
    """For models of digits: when a picture shows none; None is not written down."""

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
        if self.version not in READ_VERSIONS:
            raise ValueError(f"version: found {self.version!r}, expected one of {READ_VERSIONS}")
        if self.version == 1 and (self.config.preparation != "digit" or self.config.variable_length):
            raise ValueError("version: found 1, which knew only digits of one length")
        check_ranges(self.ranges, self.config)
        if self.seed is not None and (type(self.seed) is not int or abs(self.seed) >= MAX_COUNT):
            raise ValueError(f"seed: found {self.seed!r}, expected a whole number")
        check_temperature(self.temperature)
        check_no_digit(self.no_digit, self.config)

    def to_metadata(self) -> dict[str, str]:
        """String keys and values for ONNX ``metadata_props``, sorted: equal contracts, equal bytes."""
        values = asdict(self)
        if self.temperature == 1:  # as in files from before there was one
            del values["temperature"]
        if self.no_digit is None:
            del values["no_digit"]
        if self.kind == "picture":  # not written down, as in files from before there were others
            del values["kind"]
            if self.early is None:
                del values["early"]
        if self.version == 1:  # as it was written; pictures of digits need no more
            del values["ranges"], values["config"]["preparation"], values["config"]["variable_length"]
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
            if type(read["version"]) is not int or read["version"] not in READ_VERSIONS:
                raise ModelError(
                    f"{source} keeps another version of the model contract", found=repr(read["version"])[:40],
                    expected=" or ".join(map(str, READ_VERSIONS)),
                    fix="install a matching edgelstm, or export the checkpoint again",
                )  # fmt: skip
            for key in ("validation", "test"):
                read[key] = Score(**read[key]) if read[key] else None
            read["config"] = model_config_from(read["config"])
            if (early := read.get("early")) is not None:
                validation = Score(**early["validation"]) if early["validation"] else None
                read["early"] = EarlyRule(**{**early, "validation": validation})
            if "ranges" in read:
                read["ranges"] = tuple(tuple(limits) for limits in read["ranges"])
            read["no_digit"] = no_digit_from(read.get("no_digit"))
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


def check_ranges(ranges: object, config: ModelConfig) -> None:
    """Raise ValueError unless they are the finite limits of each column of values, or none for pixels."""
    n = config.cols if config.is_values else 0
    if not isinstance(ranges, tuple) or len(ranges) not in (0, n):
        raise ValueError(f"ranges: found {ranges!r:.100}, expected {n} pairs of numbers, or none")
    for limits in ranges:
        if not isinstance(limits, tuple) or len(limits) != 2 or not all(type(limit) is float for limit in limits):
            raise ValueError(f"ranges: found {limits!r:.100}, expected two numbers")
        if not -FLOAT32_MAX <= limits[0] <= limits[1] <= FLOAT32_MAX:
            raise ValueError(f"ranges: found {limits!r:.100}, expected the smaller number first")


def no_digit_from(values: Any) -> NoDigitRule | None:
    """The rule of its values in JSON. Raises ValueError, TypeError, KeyError or AttributeError for nonsense."""
    if values is None:
        return None
    hidden, output = (values.pop(key) for key in ("hidden", "output"))
    return NoDigitRule(tuple(tuple(unit) for unit in hidden), tuple(output), **values)


def check_no_digit(rule: NoDigitRule | None, config: ModelConfig) -> None:
    """Raise ValueError unless it fits the pictures and classes of the model."""
    if rule is None:
        return
    if config.preparation != "digit" or config.rows != config.cols:
        raise ValueError("no_digit: found a rule, expected none but for digits in square pictures")
    n = N_VIEWS * config.n_classes + 1
    if wrong := [len(weights) for weights in rule.hidden if len(weights) != n]:
        raise ValueError(f"no_digit: found {wrong[0]:,} weights of a unit, expected {n:,}")


def in_batches(runner: Runner, sequences: Sequences, batch_size: int, lengths: Lengths | None = None) -> Logits:
    """(N, rows, cols) -> (N, classes), the runner called with ``batch_size`` sequences at a time."""
    arrays = (sequences,) if lengths is None else (sequences, lengths)
    parts = [slice(at, at + batch_size) for at in range(0, len(sequences), batch_size)]
    return np.concatenate([runner.logits(*(array[part] for array in arrays)) for part in parts])


def check_sequences(sequences: object, config: ModelConfig, lengths: object = None) -> tuple[Sequences, Lengths | None]:
    """The arrays themselves if a model of this shape reads them; ValueError with found and expected if not.

    Where lengths differ, sequences without ``lengths`` all have all the rows of the array.
    """
    if (
        type(sequences) is np.ndarray
        and sequences.dtype is _UINT8
        and sequences.shape[1:] == (config.rows, config.cols)
        and lengths is None
        and not config.is_values
    ):  # the usual case first: a small model's run takes as long as the rest of this
        return sequences, None
    name, dtype = INPUT_NAMES[config.is_values], "float32" if config.is_values else "uint8"
    rows = "1 or more" if config.variable_length else config.rows
    expected = f"{dtype} (batch, {rows}, {config.cols})"
    if not isinstance(sequences, np.ndarray):
        raise ValueError(f"{name}: found {type(sequences).__name__}, expected a NumPy array {expected}")
    n_rows = sequences.shape[1] if sequences.ndim == 3 else 0
    fits = 1 <= n_rows <= MAX_ROWS if config.variable_length else n_rows == config.rows
    if sequences.dtype != dtype or not fits or sequences.shape[2] != config.cols:
        raise ValueError(f"{name}: found {sequences.dtype} {sequences.shape}, expected {expected}")
    if not config.variable_length:
        if lengths is not None:
            raise ValueError(f"lengths: found some, expected none: the model reads sequences of {config.rows} rows")
        _check_finite(sequences, None)
        return sequences, None
    if lengths is None:
        lengths = np.full(len(sequences), n_rows, np.int32)
    elif (
        not isinstance(lengths, np.ndarray) or lengths.dtype != np.int32 or lengths.shape != (len(sequences),)
        or not ((lengths >= 1) & (lengths <= n_rows)).all()
    ):  # fmt: skip
        found = f"{lengths.dtype} {lengths.shape}" if isinstance(lengths, np.ndarray) else type(lengths).__name__
        raise ValueError(f"lengths: found {found}, expected int32 ({len(sequences)},) of 1 to {n_rows}")
    _check_finite(sequences, lengths)
    return sequences, lengths


def _check_finite(sequences: Sequences, lengths: Lengths | None) -> None:
    """Raise ValueError for a value that is not finite before a sequence's end.

    onnxruntime's LSTM would make a finite answer of it, so nothing would show it.
    """
    if sequences.dtype == np.uint8 or np.isfinite(sequences).all():
        return
    broken = ~np.isfinite(sequences).all(axis=2)
    if lengths is not None:
        broken &= np.arange(sequences.shape[1]) < lengths[:, None]
    if broken.any():
        at, row = np.argwhere(broken)[0]
        raise ValueError(f"values: found one that is not finite in sequence {at}, row {row}, expected numbers")


# The graph. Cast of pixels, or Sub and Mul of values, then (Reshape), Transpose, one LSTM per layer with a Squeeze
# behind each, Gemm, and in fp16 a Cast of the logits. The pixels' scale is folded into the first layer's input weights.
# The columns' means and scales are not: a column of 1e6 +- 1 times a weight keeps three digits in float32, where the
# difference to its mean is exact; and an int8 LSTM, which has one scale for all of its input, would spend it on the
# column with the largest numbers. Initial states are left out, which means zeros. This is the one definition of the
# graph: export writes it, and a file that is opened must equal it.

UINT8, INT8, INT32, INT64, FLOAT16, FLOAT = 2, 3, 6, 7, 10, 1
"""ONNX's numbers of the element types (TensorProto.DataType)."""
NUMPY_DTYPES: dict[int, "np.dtype[Any]"] = {
    UINT8: np.dtype("u1"), INT8: np.dtype("i1"), INT32: np.dtype("<i4"), INT64: np.dtype("<i8"),
    FLOAT16: np.dtype("<f2"), FLOAT: np.dtype("<f4"),
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
    """An input or output of an ONNX graph, or a value between two nodes."""

    name: str
    dtype: int
    """ONNX's number of the element type."""
    shape: tuple[int | str, ...]
    """Sizes, or names of axes that are free."""

    def __str__(self) -> str:
        return f"{self.name} {NUMPY_DTYPES[self.dtype].name} ({', '.join(map(str, self.shape))})"


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
    values: tuple[Value, ...] = ()
    """Values between the nodes that ONNX's shape inference cannot know (``value_info``): the results of int8 LSTMs,
    an operator of onnxruntime's own."""


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
    if config.is_values:
        weights |= dict.fromkeys((MEAN_NAME, SCALE_NAME), (FLOAT, (config.cols,)))
    value = ROW_NAME if streaming else INPUT_NAMES[config.is_values]
    nodes, constants = _sequence_nodes(config, element, value, streaming)
    lengths = LENGTHS_NAME if config.variable_length and not streaming else ""
    before, after = (_layer_states(layers, names) for names in (STATE_NAMES, NEXT_STATE_NAMES))
    if split_states:
        split = {"axis": 0, "num_outputs": layers}
        for name, names in zip(STATE_NAMES, before, strict=True):
            nodes.append(Node("Split", (name,), names, f"split_{name}", split))
    inputs, outputs = _signature(config, kind)
    values: list[Value] = []
    value, size = "sequence", config.step_size
    for layer in range(layers):
        name, last = f"lstm_{layer}", layer == layers - 1
        weights |= _lstm_weights(name, size, config.hidden_size, precision)
        states = (before[0][layer], before[1][layer]) if streaming else ("", "")
        final = after[0][layer] if streaming else f"{name}.Y_h"
        ends = (final, after[1][layer]) if streaming else (final,) if last else ()
        found = final if last else f"{name}.Y"
        results = ("" if last else found, *ends)
        nodes.append(_lstm_node(name, value, lengths, states, results, config.hidden_size, precision))
        if precision == "int8":
            known = {"", *(output.name for output in outputs)}
            shapes = zip(results, _lstm_shapes(config, streaming), strict=False)
            values += [Value(result, FLOAT, shape) for result, shape in shapes if result not in known]
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
    opsets = {"": OPSET} | ({MICROSOFT: 1} if precision == "int8" else {})
    return GraphLayout(tuple(nodes), weights, constants, inputs, outputs, opsets, tuple(values))


def _sequence_nodes(
    config: ModelConfig, element: int, name: str, streaming: bool
) -> tuple[list[Node], dict[str, Array]]:
    """From uint8 or float32 rows (B, R, C) to float ``sequence`` (T, B, S), and the constants of the graph."""
    constants: dict[str, Array] = {}
    if config.is_values:
        nodes = [
            Node("Sub", (name, MEAN_NAME), ("centred",), "centre"),
            Node("Mul", ("centred", SCALE_NAME), ("normal",), "normalise"),
        ]
        value = "normal"
        if element == FLOAT16:
            nodes.append(Node("Cast", (value,), ("floats",), "cast", {"to": element}))
            value = "floats"
    else:
        nodes, value = [Node("Cast", (name,), ("floats",), "cast", {"to": element})], "floats"
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
    name: str, value: str, lengths: str, states: tuple[str, str], outputs: tuple[str, ...], hidden: int,
    precision: Precision,
) -> Node:  # fmt: skip
    """One layer; ``outputs`` are Y, Y_h, Y_c. An int8 activation is quantized as it runs, one scale for each call."""
    inputs: tuple[str, ...] = (value, f"{name}.W", f"{name}.R", f"{name}.B")
    attributes = {"hidden_size": hidden}
    if precision == "int8":
        scaling = (f"{name}.{key}_{part}" for key in "WR" for part in ("scale", "zero_point"))
        # peepholes are left out
        inputs = (*inputs, lengths, *states, "", *scaling)
        return Node("DynamicQuantizeLSTM", inputs, outputs, name, attributes, MICROSOFT)
    if any(states):
        inputs = (*inputs, lengths, *states)
    elif lengths:
        inputs = (*inputs, lengths)
    return Node("LSTM", inputs, outputs, name, attributes)


def _lstm_shapes(config: ModelConfig, streaming: bool) -> tuple[tuple[int | str, ...], ...]:
    """Of a layer's Y (T, 1, B, H), Y_h and Y_c (1, B, H)."""
    n_steps: int | str = config.n_steps
    if streaming or config.variable_length:
        n_steps = ROWS_AXIS if config.rows_per_step == 1 else STEPS_AXIS
    state = (1, BATCH_AXIS, config.hidden_size)
    return (n_steps, *state), state, state


def _layer_states(layers: int, names: tuple[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of each layer's part (1, B, H) of the two states (L, B, H)."""
    if layers == 1:
        return (names[0],), (names[1],)
    h, c = (tuple(f"lstm_{layer}.{name}" for layer in range(layers)) for name in names)
    return h, c


def _signature(config: ModelConfig, kind: Kind) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    logits = Value(OUTPUT_NAME, FLOAT, (BATCH_AXIS, config.n_classes))
    dtype = FLOAT if config.is_values else UINT8
    if kind == "picture":
        n_rows = ROWS_AXIS if config.variable_length else config.rows
        whole = Value(INPUT_NAMES[config.is_values], dtype, (BATCH_AXIS, n_rows, config.cols))
        lengths = (Value(LENGTHS_NAME, INT32, (BATCH_AXIS,)),) if config.variable_length else ()
        return (whole, *lengths), (logits,)
    state = (config.n_layers, BATCH_AXIS, config.hidden_size)
    rows = Value(ROW_NAME, dtype, (BATCH_AXIS, ROWS_AXIS, config.cols))
    inputs, outputs = ([Value(name, FLOAT, state) for name in names] for names in (STATE_NAMES, NEXT_STATE_NAMES))
    return (rows, *inputs), (logits, *outputs)
