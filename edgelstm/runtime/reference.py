"""A NumPy LSTM that reads the ONNX file's own nodes and weights: the third voice in every dispute."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelstm.contract import INPUT_NAME, OUTPUT_NAME, Logits, Pixels
from edgelstm.errors import MissingDependencyError, ModelError

Array = npt.NDArray[Any]


class NumpyRunner:
    """Runs an exported graph node by node, in float64, as the ONNX operator specification says.

    It shares no code with torch or onnxruntime. It knows the operators that an edgelstm model may
    hold and refuses any other with ModelError.
    """

    def __init__(self, model: bytes, *, name: str = "NumPy") -> None:
        try:
            import onnx  # noqa: TID251 - read the file without the runtime that is in dispute
            from onnx import numpy_helper  # noqa: TID251 - as above
        except ImportError as error:
            raise MissingDependencyError("onnx", "train", purpose="the NumPy reference") from error
        try:
            graph = onnx.load_model_from_string(model).graph
        except Exception as error:  # protobuf's DecodeError; its class differs between implementations
            raise ModelError("the file is not an ONNX model", found=str(error)) from error
        self.name = name
        self._weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._nodes = [
            (
                node.op_type,
                list(node.input),
                list(node.output),
                {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute},
            )
            for node in graph.node
        ]
        for operator, *_ in self._nodes:
            if operator not in _OPERATORS:
                raise ModelError(
                    "the NumPy reference cannot run this model",
                    found=f"the operator {operator}", expected=", ".join(_OPERATORS),
                )  # fmt: skip

    def logits(self, pixels: Pixels, batch_size: int = 1000) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32."""
        batches = (pixels[at : at + batch_size] for at in range(0, len(pixels), batch_size))
        return np.concatenate([self.run({INPUT_NAME: batch})[OUTPUT_NAME] for batch in batches]).astype(np.float32)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Every value of the graph by its name, from the inputs'."""
        values: dict[str, Array] = {**self._weights, **inputs}
        for operator, names, outputs, attributes in self._nodes:
            arguments = [values[name] if name else None for name in names]
            results = _OPERATORS[operator](arguments, attributes)
            values.update(zip(outputs, results, strict=False))  # later outputs may be left unnamed
        return values


def _lstm(arguments: list[Any], attributes: dict[str, Any]) -> tuple[Array, ...]:
    """ONNX LSTM, forward, default activations: gates stand as i, o, f, c; B is [Wb, Rb].

    x (T, B, I), w (1, 4H, I), r (1, 4H, H), b (1, 8H), initial h and c (1, B, H), zeros if left out
    -> Y (T, 1, B, H), Y_h (1, B, H), Y_c (1, B, H). https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    given: list[Any] = arguments + [None] * (8 - len(arguments))
    x, w, r, b, lengths, h, c, peepholes = given
    hidden = attributes["hidden_size"]
    unknown = set(attributes) - {"hidden_size", "direction"}
    if unknown or attributes.get("direction", b"forward") != b"forward" or lengths is not None or peepholes is not None:
        raise ModelError("the NumPy reference cannot run this LSTM", found=f"attributes {sorted(attributes)}")
    w, r = w[0].astype(np.float64), r[0].astype(np.float64)
    b = np.zeros(8 * hidden) if b is None else b[0].astype(np.float64)
    return _recurrence(x.astype(np.float64) @ w.T, r.T, b, lambda state: state, h, c)


def _quantized_lstm(arguments: list[Any], attributes: dict[str, Any]) -> tuple[Array, ...]:
    """com.microsoft DynamicQuantizeLSTM: weights (1, K, 4H) int8 with a scale, activations uint8.

    The input is quantized once over all steps and images, the state at each step over all images, so an
    image's logits depend on the others of its batch. (onnxruntime, docs/ContribOperators.md)
    """
    x, w, r, b, _, h, c, _, w_scale, w_zero, r_scale, r_zero = arguments
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


def _gemm(arguments: list[Any], attributes: dict[str, Any]) -> tuple[Array]:
    a, b, *c = (argument.astype(np.float64) for argument in arguments)
    product = (a.T if attributes.get("transA") else a) @ (b.T if attributes.get("transB") else b)
    return (attributes.get("alpha", 1.0) * product + attributes.get("beta", 1.0) * sum(c),)


def _reshape(arguments: list[Any], attributes: dict[str, Any]) -> tuple[Array]:
    x, shape = arguments
    return (x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]),)


def _split(arguments: list[Any], attributes: dict[str, Any]) -> tuple[Array, ...]:
    return tuple(np.split(arguments[0], attributes["num_outputs"], attributes["axis"]))


_OPERATORS: dict[str, Callable[[list[Any], dict[str, Any]], tuple[Array, ...]]] = {
    "Cast": lambda arguments, attributes: (arguments[0].astype(np.float64),),  # to a float type
    "Reshape": _reshape,
    "Transpose": lambda arguments, attributes: (arguments[0].transpose(attributes["perm"]),),
    "LSTM": _lstm,
    "DynamicQuantizeLSTM": _quantized_lstm,
    "Squeeze": lambda arguments, attributes: (np.squeeze(arguments[0], tuple(arguments[1])),),
    "Gemm": _gemm,
    "Split": _split,
    "Concat": lambda arguments, attributes: (np.concatenate(arguments, attributes["axis"]),),
}
