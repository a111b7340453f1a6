"""A NumPy LSTM that reads the ONNX file's own nodes and weights: the reference that shares no code with a runtime."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig
from edgelstm.contract import INPUT_NAME, NEXT_STATE_NAMES, OUTPUT_NAME, ROW_NAME, STATE_NAMES, Logits, Pixels
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
        self._nodes, self._weights = graph.nodes, graph.initializers
        for node in graph.nodes:
            operator = _OPERATORS.get(node.operator)
            if operator is None or set(node.attributes) - set(inspect.getfullargspec(operator).kwonlyargs):
                raise ModelError(
                    "the NumPy reference cannot run this model",
                    found=f"{node.operator} with {', '.join(sorted(node.attributes)) or 'no attributes'}",
                    expected=f"one of {', '.join(_OPERATORS)}",
                )  # fmt: skip

    def logits(self, pixels: Pixels, batch_size: int = 1000) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32."""
        batches = (pixels[at : at + batch_size] for at in range(0, len(pixels), batch_size))
        return np.concatenate([self.run({INPUT_NAME: batch})[OUTPUT_NAME] for batch in batches]).astype(np.float32)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Every value of the graph by its name, from the inputs'."""
        values: dict[str, Array] = {**self._weights, **inputs}
        for node in self._nodes:
            arguments = [values[name] if name else None for name in node.inputs]
            results = _OPERATORS[node.operator](*arguments, **node.attributes)
            values.update(zip(node.outputs, results, strict=False))  # later outputs may be left unnamed
        return values


def numpy_logits_by_rows(graph: OnnxGraph, pixels: Pixels, config: ModelConfig) -> Logits:
    """The stateful form's logits after the last row, one step a call: (B, rows, cols) uint8 -> (B, classes)."""
    runner = NumpyRunner(graph)
    state = [np.zeros((config.n_layers, len(pixels), config.hidden_size)) for _ in STATE_NAMES]
    values: dict[str, Array] = {}
    for step in np.split(pixels, config.n_steps, axis=1):
        values = runner.run({ROW_NAME: step, **dict(zip(STATE_NAMES, state, strict=True))})
        state = [values[name] for name in NEXT_STATE_NAMES]
    return values[OUTPUT_NAME].astype(np.float32)


def rounding_tolerance(graph: OnnxGraph, pixels: Pixels) -> float:
    """How far two float32 runs of this fp32 model may differ by rounding alone, in logits.

    A float32 product or sum is the exact one of operands that are off by half a unit in the last place (backward
    error: N. Higham, Accuracy and Stability of Numerical Algorithms, ch. 3). So every weight is changed by one such
    unit, up or down at random, and the model run in float64: what that moves the logits by is what rounding does
    to them, however long the sequence. Over a dozen models, of 2 to 1,000 steps, onnxruntime and torch were off by
    0.2 to 3 times that; MARGIN times it is allowed, and at most MAX_TOLERANCE.
    """
    exact = NumpyRunner(graph).run({INPUT_NAME: pixels})[OUTPUT_NAME]
    largest = 0.0
    for seed in range(N_PERTURBED):
        draw, eps = np.random.default_rng(seed), np.finfo(np.float32).eps
        weights = {
            name: array * (1 + eps * draw.choice([-1.0, 1.0], array.shape)) if array.dtype == np.float32 else array
            for name, array in graph.initializers.items()
        }
        moved = NumpyRunner(replace(graph, initializers=weights)).run({INPUT_NAME: pixels})[OUTPUT_NAME]
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
    if lengths is not None or peepholes is not None:
        raise ModelError("the NumPy reference cannot run this LSTM", found="lengths or peepholes")
    w, r = w[0].astype(np.float64), r[0].astype(np.float64)
    b = np.zeros(8 * hidden_size) if b is None else b[0].astype(np.float64)
    return _recurrence(x.astype(np.float64) @ w.T, r.T, b, lambda state: state, h, c)


def _quantized_lstm(
    x: Array, w: Array, r: Array, b: Array, _lengths: None, h: Array | None, c: Array | None, _peepholes: None,
    w_scale: Array, w_zero: Array, r_scale: Array, r_zero: Array, *, hidden_size: int,
) -> tuple[Array, ...]:  # fmt: skip
    """com.microsoft DynamicQuantizeLSTM: weights (1, K, 4H) int8 with a scale, activations uint8.

    The input is quantized once over all steps and images, the state at each step over all images, so an
    image's logits depend on the others of its batch. (onnxruntime, docs/ContribOperators.md)
    """
    w = (w[0].astype(np.float64) - w_zero[0]) * w_scale[0]
    r = (r[0].astype(np.float64) - r_zero[0]) * r_scale[0]
    return _recurrence(_through_uint8(x) @ w, r, b[0].astype(np.float64), _through_uint8, h, c)


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
    from_input: Array, r: Array, b: Array, seen: Callable[[Array], Array], h: Array | None, c: Array | None
) -> tuple[Array, ...]:
    """(T, B, 4H) input gates, r (H, 4H), b (8H) -> Y, Y_h, Y_c; ``seen`` is what the weights see of the state."""
    hidden = r.shape[0]
    bias = b[: 4 * hidden] + b[4 * hidden :]
    zeros = np.zeros((from_input.shape[1], hidden))
    state_h, state_c = (zeros if state is None else state[0].astype(np.float64) for state in (h, c))
    outputs = []
    for step in from_input:  # (B, 4H)
        i, o, f, c = np.split(step + seen(state_h) @ r + bias, 4, axis=1)
        state_c = _sigmoid(f) * state_c + _sigmoid(i) * np.tanh(c)
        state_h = _sigmoid(o) * np.tanh(state_c)
        outputs.append(state_h)
    return np.stack(outputs)[:, None], state_h[None], state_c[None]


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow, whatever x


def _gemm(a: Array, b: Array, c: Array, *, transB: int = 0) -> tuple[Array]:  # noqa: N803 - the operator's own name
    a, b, c = (argument.astype(np.float64) for argument in (a, b, c))
    return (a @ (b.T if transB else b) + c,)


def _reshape(x: Array, shape: Array) -> tuple[Array]:
    return (x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]),)


_OPERATORS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "Cast": lambda x, *, to: (x.astype(np.float64),),  # to a float type
    "Reshape": _reshape,
    "Transpose": lambda x, *, perm: (x.transpose(perm),),
    "LSTM": _lstm,
    "DynamicQuantizeLSTM": _quantized_lstm,
    "Squeeze": lambda x, axes: (np.squeeze(x, tuple(axes)),),
    "Gemm": _gemm,
    "Split": lambda x, *, num_outputs, axis: tuple(np.split(x, num_outputs, axis)),
    "Concat": lambda *parts, axis: (np.concatenate(parts, axis),),
}
