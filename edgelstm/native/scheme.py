"""The arithmetic of the C engine, in NumPy: bit for bit what the generated C computes, and readable as its definition.

Every machine gives the same bits, because there is nothing left to choose: integer sums are exact in any order; every
float32 operation is one +, -, * or / of IEEE 754, rounded to nearest, in the order written here, none fused with
another; e to the power of x is the polynomial below and no library's.

**A step** of a layer with H units, from its input x (K,) and its state h, c (H,), gates in ONNX's order i, o, f, g::

    t = FACTOR * (W x + R h + b)         FACTOR is -log2(e) for i, o, f and -2 log2(e) for g
    e = 2 ** t                           so that sigmoid(i) = 1 / (1 + e_i) and tanh(g) = (1 - e_g) / (1 + e_g)
    a = (1 + e_i) * (1 + e_g)
    c = (c * a + (1 - e_g) * (1 + e_f)) / (a * (1 + e_f))    = sigmoid(f) c + sigmoid(i) tanh(g), by one division
    e_c = 2 ** (-2 log2(e) * c)
    h = (1 - e_c) / ((1 + e_o) * (1 + e_c))                  = sigmoid(o) tanh(c)

**int8**: every row of W, of R and of the classes' weights is integers of -127 to 127 times a scale of its own.

- pixels are integers as they are;
- values become z = (value - mean) * scale, the column's mean and 1 / standard deviation of the training split, and
  then the integer nearest to 256 z: steps of 1/256 of a standard deviation, as far as 127 of them; what lies further
  out saturates there. That is a high byte, signed, and a low one;
- \\|h\\| < 1, so its integer is the one nearest to 127 h;
- t = (sum_x * w_scale + sum_h * r_scale) + bias, the scales and the bias with FACTOR and the units of x and h in them;
- logits = sum * scale + bias, from the integers of h.

"Nearest" is to even in a tie. A sum of products is exact, and rounded to float32 once, before it is multiplied; of
values sum_x is 256 times the high bytes' sum, rounded, plus the low bytes', rounded. A row's scale is its largest
absolute weight / 127 (an int8 file's: the one it has), 1 for a row of zeros, and its weights the integers nearest to
weight / scale; scale and bias are multiplied by FACTOR and the unit in float64 and rounded to float32 then.

Nothing is measured as it runs: all scales are fixed, so no answer depends on its batch, on its neighbours, or on how
its rows were cut into calls.

**fp32**: x is the pixels, or z; sums run over the columns in order, those with an even and an odd number apart, first
of x and then on of h: t = ((even + odd) + bias) * FACTOR. Logits are the bias, and on it one unit after the other.

**2 ** t**: t is held between -40 and 40, n is the integer nearest to it, r = t - n; the exponent of
p = (1 + c1 r) + r2 * ((c2 + c3 r) + r2 * (c4 + c5 r)), with r2 = r * r, is raised by n. Of all polynomials of degree 5
that are 1 at 0 it has the smallest largest relative error on -1/2 to 1/2 (Remez): 2.1e-7 after rounding.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig
from edgelstm.contract import MEAN_NAME, SCALE_NAME, Array, Lengths, Logits, Sequences, check_sequences
from edgelstm.errors import ModelError
from edgelstm.onnx_file import ModelFile

Precision = Literal["int8", "fp32"]
Floats = npt.NDArray[np.float32]

LOG2_E = math.log2(math.e)
FACTORS = (-LOG2_E, -LOG2_E, -LOG2_E, -2 * LOG2_E)
"""Of the gates i, o, f, g."""
EXP2 = tuple(
    np.float32(c)
    for c in (1.0, 0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671513922512531,
              0.0013264728477224708)
)  # fmt: skip
"""2 ** r for r of -1/2 to 1/2: coefficients of 1, r, r ** 2 ..."""
LARGEST_T = np.float32(40)
"""2 ** -40 is 0 beside 1, and a product of three 2 ** 40 and a state is still far from float32's end."""
WEIGHT_LEVELS, H_LEVELS = 127, 127
VALUE_LEVELS = 256
"""Integers for a standard deviation of a column of values."""
MAX_VALUE = 32767
MAX_INT8_COLUMNS = 65_536
"""Of one step: as many products of a byte and a weight cannot overflow 32 bits."""


MAX_PIXEL_COLUMNS = 2**18
"""The engine counts groups of four of them in 16 bits."""


@dataclass(frozen=True)
class Layer:
    """An LSTM layer; its float arrays hold FACTOR if they are int8's."""

    w: Array
    """(4, H, K) int8 or float32, gates i, o, f, g."""
    r: Array
    """(4, H, H)."""
    bias: Floats
    """(4, H)."""
    w_scale: Any = None
    """(4, H) float32, of int8."""
    r_scale: Any = None


@dataclass(frozen=True)
class Scheme:
    """A model as the C engine has it."""

    config: ModelConfig
    precision: Precision
    layers: tuple[Layer, ...]
    head: Array
    """(classes, H) int8 or float32."""
    head_bias: Floats
    """(classes,)."""
    head_scale: Floats | None = None
    """(classes,), of int8."""
    mean: Floats | None = None
    """(cols,), of values."""
    scale: Floats | None = None
    name: str = "NumPy, as the C engine computes"

    def logits(self, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32.

        Raises ValueError for another shape or dtype, or a value that is not finite.
        """
        config = self.config
        sequences, lengths = check_sequences(sequences, config, lengths)
        state = self.start(len(sequences))
        ended = {"h": state[-1][0].copy()} if lengths is not None else None
        for step in range(sequences.shape[1] // config.rows_per_step):
            rows = sequences[:, step * config.rows_per_step : (step + 1) * config.rows_per_step]
            state = self.step(rows, state)
            if ended is not None and lengths is not None:
                ended["h"][lengths == step + 1] = state[-1][0][lengths == step + 1]
        return self.head_logits(state[-1][0] if ended is None else ended["h"])

    def start(self, n: int) -> list[tuple[Array, Floats]]:
        """The state before the first row: of each layer h (n, H), int8 or float32, and c (n, H) float32."""
        shape, dtype = (n, self.config.hidden_size), np.int8 if self.precision == "int8" else np.float32
        return [(np.zeros(shape, dtype), np.zeros(shape, np.float32)) for _ in self.layers]

    def step(self, rows: Sequences, state: list[tuple[Array, Floats]]) -> list[tuple[Array, Floats]]:
        """The state after one more step: rows (B, rows_per_step, cols)."""
        after: list[tuple[Array, Floats]] = []
        x = self._input(rows)
        for layer, (h, c) in zip(self.layers, state, strict=True):
            t = _int8_gates(layer, x, h) if self.precision == "int8" else _fp32_gates(layer, x[0], h)
            after.append(self._cell(t, c))
            x = (after[-1][0],)
        return after

    def head_logits(self, h: Array) -> Logits:
        """(B, H) -> (B, classes)."""
        if self.head_scale is not None:
            return _exact(h, self.head) * self.head_scale + self.head_bias
        found = np.tile(self.head_bias, (len(h), 1))
        for unit in range(h.shape[1]):
            found = found + h[:, unit, None] * self.head[:, unit]
        return found

    def saturated(self, sequences: Sequences, lengths: Lengths | None = None) -> tuple[int, int]:
        """How many values of the sequences are cut to the range of the integers, and how many there are in all."""
        if self.mean is None or self.scale is None or self.precision == "fp32":
            return 0, sequences.size
        with np.errstate(over="ignore"):
            z = (sequences - self.mean) * self.scale * np.float32(VALUE_LEVELS)
        there = np.ones(sequences.shape[:2], bool)
        if lengths is not None:
            there = np.arange(sequences.shape[1]) < lengths[:, None]
        return int((np.abs(z) > MAX_VALUE)[there].sum()), int(there.sum()) * sequences.shape[2]

    def _input(self, rows: Sequences) -> tuple[Array, ...]:
        """(B, K) of one step: pixels, z, or the high and the low byte of z's integers."""
        if self.mean is None or self.scale is None:
            x = rows.reshape(len(rows), -1)
            return (x,) if self.precision == "int8" else (x.astype(np.float32),)
        with np.errstate(over="ignore", invalid="ignore"):
            z = ((rows - self.mean) * self.scale).reshape(len(rows), -1)
            if self.precision == "fp32":
                return (z,)
            z, limit = z * np.float32(VALUE_LEVELS), np.float32(MAX_VALUE)
            z = np.where(z > -limit, z, -limit)
            z = np.where(z < limit, z, limit)
        integers = np.rint(z).astype(np.int32)
        return integers >> 8, integers & 255

    def _cell(self, t: Floats, c: Floats) -> tuple[Array, Floats]:
        """(B, 4, H) of the gates and c (B, H) -> h and c."""
        one = np.float32(1)
        e_i, e_o, e_f, e_g = (_exp2(t[:, gate]) for gate in range(4))
        a = (one + e_i) * (one + e_g)
        c = (c * a + (one - e_g) * (one + e_f)) / (a * (one + e_f))
        e_c = _exp2(c * np.float32(-2 * LOG2_E))
        h = (one - e_c) / ((one + e_o) * (one + e_c))
        if self.precision == "int8":
            return np.rint(h * np.float32(H_LEVELS)).astype(np.int8), c
        return h, c


def _exact(x: Array, weights: Array) -> Floats:
    """Integers (B, K) and (..., K) -> their products' sums (B, ...): exact, and only then rounded to float32."""
    columns = weights.shape[-1]
    exact = np.float32 if columns * 256 * 128 < 2**24 else np.float64  # no sum of so few needs a bit more
    sums: Array = np.dot(x.astype(exact), weights.reshape(-1, columns).astype(exact).T)
    return sums.reshape(len(x), *weights.shape[:-1]).astype(np.float32)


def _int8_gates(layer: Layer, x: tuple[Array, ...], h: Array) -> Floats:
    sums = _exact(x[0], layer.w)
    if len(x) == 2:
        sums = sums * np.float32(256) + _exact(x[1], layer.w)
    t: Floats = (sums * layer.w_scale + _exact(h, layer.r) * layer.r_scale) + layer.bias
    return t


def _fp32_gates(layer: Layer, x: Floats, h: Floats) -> Floats:
    halves = [np.zeros((len(x), *layer.bias.shape), np.float32) for _ in range(2)]
    with np.errstate(over="ignore", invalid="ignore"):  # values at the end of float32
        for values, weights in ((x, layer.w), (h, layer.r)):
            for column in range(values.shape[1]):
                halves[column % 2] += values[:, column, None, None] * weights[:, :, column]
        factors = np.array(FACTORS, np.float32)[:, None]
        t: Floats = ((halves[0] + halves[1]) + layer.bias) * factors
    return t


def _exp2(t: Floats) -> Floats:
    """2 ** t; beyond 40 either way that of 40."""
    t = np.where(t > -LARGEST_T, t, -LARGEST_T)  # a sum of infinities, which is no number, too
    t = np.where(t < LARGEST_T, t, LARGEST_T)
    n = np.rint(t)
    r = t - n
    r2 = r * r
    low, middle, high = (EXP2[i] + r * EXP2[i + 1] for i in (0, 2, 4))
    p = low + r2 * (middle + r2 * high)
    bits: npt.NDArray[np.int32] = p.view(np.int32) + (n.astype(np.int32) << 23)
    return bits.view(np.float32)


# --- from a model file ------------------------------------------------------------------------------


def scheme_of(file: ModelFile, precision: Precision = "int8") -> Scheme:
    """The model of an ONNX file of any precision and form, for the C engine.

    int8 weights of an int8 file are taken as they are, one scale for a layer's W and one for its R; those of other
    files are rounded here, with one a row. Raises ModelError for fp32 from an int8 file, or for steps that are too
    wide for int8's sums.
    """
    config, weights = file.contract.config, file.graph.initializers
    is_int8 = file.contract.precision == "int8"
    if is_int8 and precision == "fp32":
        raise ModelError(
            f"{file.source} has int8 weights", expected="an fp32 or fp16 model for fp32", fix="give that, or take int8"
        )
    if precision == "int8" and config.step_size > MAX_INT8_COLUMNS:
        found, most = f"{config.step_size:,} pixels or values a step", f"at most {MAX_INT8_COLUMNS:,}"
        raise ModelError(f"{file.source} is too wide for int8", found=found, expected=most, fix="take fp32")
    if not config.is_values and config.step_size > MAX_PIXEL_COLUMNS:
        found, most = f"{config.step_size:,} pixels a step", f"at most {MAX_PIXEL_COLUMNS:,}"
        raise ModelError(f"{file.source} is too wide for C", found=found, expected=most, fix="run it in onnxruntime")
    mean, scale = (weights[name] if config.is_values else None for name in (MEAN_NAME, SCALE_NAME))
    layers, size, units = [], config.step_size, config.hidden_size
    for number in range(config.n_layers):
        name = f"lstm_{number}"
        bias = weights[f"{name}.B"].astype(np.float64).reshape(2, 4, units).sum(axis=0)
        if precision == "int8":
            x_unit = 1 / H_LEVELS if number else 1 / VALUE_LEVELS if config.is_values else 1.0
            layers.append(_int8_layer(weights, name, bias, (4, units, size), x_unit))
        else:
            w, r = (weights[f"{name}.{key}"][0].astype(np.float32) for key in "WR")
            layers.append(Layer(w.reshape(4, units, size), r.reshape(4, units, units), bias.astype(np.float32)))
        size = units
    head, head_bias = (weights[f"head.{key}"].astype(np.float32) for key in ("weight", "bias"))
    if precision == "fp32":
        return Scheme(config, precision, tuple(layers), head, head_bias, mean=mean, scale=scale)
    integers, head_scale = _rounded(head.astype(np.float64), WEIGHT_LEVELS)
    head_scale = (head_scale / H_LEVELS).astype(np.float32)
    return Scheme(config, precision, tuple(layers), integers, head_bias, head_scale, mean, scale)


def _int8_layer(weights: dict[str, Array], name: str, bias: Array, shape: tuple[int, int, int], x_unit: float) -> Layer:
    factors = np.array(FACTORS)[:, None]
    integers, floats = [], [bias * factors]
    for key, columns, unit in (("W", shape[2], x_unit), ("R", shape[1], 1 / H_LEVELS)):
        array = weights[f"{name}.{key}"][0]
        if array.dtype == np.int8:  # (K, 4H), one scale for all
            rows, scale = array.T.reshape(*shape[:2], columns), weights[f"{name}.{key}_scale"].astype(np.float64)
            if np.abs(rows.astype(np.int16)).max() > WEIGHT_LEVELS or weights[f"{name}.{key}_zero_point"].any():
                raise ModelError(
                    f"the int8 weights {name}.{key} do not fit the C engine",
                    expected="integers of -127 to 127 around zero",
                    fix="export the checkpoint again, or compile its fp32 file",
                )  # fmt: skip
        else:
            rows, scale = _rounded(array.astype(np.float64).reshape(*shape[:2], columns), WEIGHT_LEVELS)
        integers.append(rows)
        floats.append(np.broadcast_to(scale, shape[:2]) * factors * unit)
    return Layer(*integers, *(values.astype(np.float32) for values in floats))


def _rounded(weights: Array, levels: int) -> tuple[npt.NDArray[np.int8], Any]:
    """(..., K) -> integers of at most ``levels``, and the scale (...) of each row; zeros stay zeros."""
    scale = np.abs(weights).max(axis=-1) / levels
    scale[scale == 0] = 1
    return np.rint(weights / scale[..., None]).astype(np.int8), scale
