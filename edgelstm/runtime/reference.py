"""A NumPy LSTM that reads the ONNX file's own nodes and weights: the reference that shares no code with a runtime."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig
from edgelstm.contract import (
    LENGTHS_NAME,
    MEAN_NAME,
    NEXT_STATE_NAMES,
    NUMPY_DTYPES,
    OUTPUT_NAME,
    ROW_NAME,
    STATE_NAMES,
    Lengths,
    Logits,
    Sequences,
)
from edgelstm.errors import ModelError
from edgelstm.onnx_file import ModelSource, OnnxGraph, decode, open_model

Array = npt.NDArray[Any]
N_PERTURBED = 2
MARGIN = 8.0
"""Between the rounding of some sequences and that of the worst of many."""
MAX_TOLERANCE = 0.01
"""A model whose logits rounding moves by more is chaotic: no two machines agree on it, and it proves nothing."""


class NumpyRunner:
    """Runs an exported graph node by node, in float64, as the ONNX operator specification says.

    It shares no code with torch or onnxruntime. ``model`` is what OrtRunner takes, or a graph. Raises ModelError for a
    file that does not keep the contract, or a graph with other operators or attributes than it knows.
    """

    def __init__(self, model: ModelSource | OnnxGraph, *, name: str = "NumPy") -> None:
        self.name = name
        graph = model if isinstance(model, OnnxGraph) else decode(open_model(model).form("picture"))
        self._nodes, self._weights, self._input_names = graph.nodes, graph.initializers, [v.name for v in graph.inputs]
        for node in graph.nodes:
            operator = _OPERATORS.get(node.operator)
            if operator is None or set(node.attributes) - set(inspect.getfullargspec(operator).kwonlyargs):
                raise ModelError(
                    "the NumPy reference cannot run this model",
                    found=f"{node.operator} with {', '.join(sorted(node.attributes)) or 'no attributes'}",
                    expected=f"one of {', '.join(_OPERATORS)}",
                )  # fmt: skip

    def logits(self, sequences: Sequences, lengths: Lengths | None = None, batch_size: int = 1000) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32."""
        found = []
        for at in range(0, len(sequences), batch_size):
            part = slice(at, at + batch_size)
            found.append(self.exact_logits(sequences[part], None if lengths is None else lengths[part]))
        return np.concatenate(found).astype(np.float32)

    def exact_logits(self, sequences: Sequences, lengths: Lengths | None = None) -> npt.NDArray[np.float64]:
        """The same in one batch, in float64."""
        inputs = {self._input_names[0]: sequences}
        if lengths is not None:  # int8 scales its input over all rows it is given: padding too
            inputs = {self._input_names[0]: sequences[:, : int(lengths.max())], LENGTHS_NAME: lengths}
        logits: npt.NDArray[np.float64] = self.run(inputs)[OUTPUT_NAME]
        return logits

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Every value of the graph by its name, from the inputs'."""
        values: dict[str, Array] = {**self._weights, **inputs}
        for node in self._nodes:
            arguments = [values[name] if name else None for name in node.inputs]
            results = _OPERATORS[node.operator](*arguments, **node.attributes)
            values.update(zip(node.outputs, results, strict=False))  # later outputs may be left unnamed
        return values


def numpy_logits_by_rows(
    graph: OnnxGraph, sequences: Sequences, config: ModelConfig, lengths: Lengths | None = None
) -> Logits:
    """The stateful form's logits after each sequence's last row, one step a call: (B, rows, cols) -> (B, classes)."""
    runner, n_steps = NumpyRunner(graph), sequences.shape[1] // config.rows_per_step
    state = [np.zeros((config.n_layers, len(sequences), config.hidden_size)) for _ in STATE_NAMES]
    found = np.empty((len(sequences), config.n_classes), np.float32)
    ends = np.full(len(sequences), n_steps) if lengths is None else lengths
    for number, step in enumerate(np.split(sequences, n_steps, axis=1), start=1):
        values = runner.run({ROW_NAME: step, **dict(zip(STATE_NAMES, state, strict=True))})
        state = [values[name] for name in NEXT_STATE_NAMES]
        found[ends == number] = values[OUTPUT_NAME][ends == number]
    return found


def rounding_tolerance(graph: OnnxGraph, sequences: Sequences, lengths: Lengths | None = None) -> float:
    """How far two float32 runs of this fp32 model may differ by rounding alone, in logits.

    A float32 product or sum is the exact one of operands that are off by half a unit in the last place (backward
    error: N. Higham, Accuracy and Stability of Numerical Algorithms, ch. 3). So every weight is changed by one such
    unit, up or down at random, and the model run in float64: what that moves the logits by is what rounding does
    to them, however long the sequence. Over a dozen models, of 2 to 1,000 steps, onnxruntime and torch were off by
    0.2 to 3 times that; MARGIN times it is allowed, and at most MAX_TOLERANCE.
    """
    exact = NumpyRunner(graph).exact_logits(sequences, lengths)
    largest = 0.0
    for seed in range(N_PERTURBED):
        draw, eps = np.random.default_rng(seed), np.finfo(np.float32).eps
        weights = {
            # the difference to a column's mean is exact or rounded alike by all; so the mean is no weight of this kind
            name: array * (1 + eps * draw.choice([-1.0, 1.0], array.shape))
            if array.dtype == np.float32 and name != MEAN_NAME
            else array
            for name, array in graph.initializers.items()
        }
        moved = NumpyRunner(replace(graph, initializers=weights)).exact_logits(sequences, lengths)
        largest = max(largest, float(np.abs(moved - exact).max()))
    return min(MAX_TOLERANCE, MARGIN * max(largest, float(np.finfo(np.float32).eps)))


# Each operator takes a node's inputs in their order, None where one is left out, and its attributes by their names.


def _lstm(
    x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None, c: Array | None = None, peepholes: Array | None = None, *, hidden_size: int,
) -> tuple[Array, ...]:  # fmt: skip
    """ONNX LSTM, forward, default activations: gates stand as i, o, f, c; B is [Wb, Rb].

    x (T, B, I), w (1, 4H, I), r (1, 4H, H), b (1, 8H), initial h and c (1, B, H), zeros if left out
    -> Y (T, 1, B, H), Y_h (1, B, H), Y_c (1, B, H). https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    if peepholes is not None:
        raise ModelError("the NumPy reference cannot run this LSTM", found="peepholes")
    w, r = w[0].astype(np.float64), r[0].astype(np.float64)
    b = np.zeros(8 * hidden_size) if b is None else b[0].astype(np.float64)
    return _recurrence(x.astype(np.float64) @ w.T, r.T, b, lambda state: state, lengths, h, c)


def _quantized_lstm(
    x: Array, w: Array, r: Array, b: Array, lengths: Array | None, h: Array | None, c: Array | None, _peepholes: None,
    w_scale: Array, w_zero: Array, r_scale: Array, r_zero: Array, *, hidden_size: int,
) -> tuple[Array, ...]:  # fmt: skip
    """com.microsoft DynamicQuantizeLSTM: weights (1, K, 4H) int8 with a scale, activations uint8.

    The input is quantized once over all steps and images, the state at each step over all images, so an
    image's logits depend on the others of its batch. (onnxruntime, docs/ContribOperators.md)
    """
    w = (w[0].astype(np.float64) - w_zero[0]) * w_scale[0]
    r = (r[0].astype(np.float64) - r_zero[0]) * r_scale[0]
    return _recurrence(_through_uint8(x) @ w, r, b[0].astype(np.float64), _through_uint8, lengths, h, c)


def _through_uint8(values: Array) -> Array:
    """Round to the 256 levels between the smallest and the largest value, 0 being one of them."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if low == high:
        return np.zeros_like(values)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    rounded: Array = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return rounded


def _recurrence(
    from_input: Array, r: Array, b: Array, seen: Callable[[Array], Array], lengths: Array | None,
    h: Array | None, c: Array | None,
) -> tuple[Array, ...]:  # fmt: skip
    """(T, B, 4H) input gates, r (H, 4H), b (8H) -> Y, Y_h, Y_c; ``seen`` is what the weights see of the state.

    A sequence that has ended keeps its state, and its Y is zero from there on.
    """
    hidden = r.shape[0]
    bias = b[: 4 * hidden] + b[4 * hidden :]
    zeros = np.zeros((from_input.shape[1], hidden))
    state_h, state_c = (zeros if state is None else state[0].astype(np.float64) for state in (h, c))
    outputs = []
    for number, step in enumerate(from_input):  # (B, 4H)
        goes_on = np.ones((len(step), 1), bool) if lengths is None else (lengths > number)[:, None]
        i, o, f, c = np.split(step + seen(state_h) @ r + bias, 4, axis=1)
        state_c = np.where(goes_on, _sigmoid(f) * state_c + _sigmoid(i) * np.tanh(c), state_c)
        state_h = np.where(goes_on, _sigmoid(o) * np.tanh(state_c), state_h)
        outputs.append(state_h * goes_on)
    return np.stack(outputs)[:, None], state_h[None], state_c[None]


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow, whatever x


def _cast(x: Array, *, to: int) -> tuple[Array]:
    with np.errstate(over="ignore"):  # float16's infinity, behind a sequence's end
        return (x.astype(NUMPY_DTYPES[to]).astype(np.float64),)


def _gemm(a: Array, b: Array, c: Array, *, transB: int = 0) -> tuple[Array]:  # noqa: N803 - the operator's own name
    a, b, c = (argument.astype(np.float64) for argument in (a, b, c))
    return (a @ (b.T if transB else b) + c,)


def _reshape(x: Array, shape: Array) -> tuple[Array]:
    return (x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]),)


_OPERATORS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "Sub": lambda a, b: (a.astype(np.float64) - b,),
    "Mul": lambda a, b: (a * b,),
    "Cast": _cast,
    "Reshape": _reshape,
    "Transpose": lambda x, *, perm: (x.transpose(perm),),
    "LSTM": _lstm,
    "DynamicQuantizeLSTM": _quantized_lstm,
    "Squeeze": lambda x, axes: (np.squeeze(x, tuple(axes)),),
    "Gemm": _gemm,
    "Split": lambda x, *, num_outputs, axis: tuple(np.split(x, num_outputs, axis)),
    "Concat": lambda *parts, axis: (np.concatenate(parts, axis),),
}
