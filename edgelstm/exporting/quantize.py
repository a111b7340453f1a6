"""int8 weights for onnxruntime's DynamicQuantizeLSTM, small enough to be exact on every CPU."""

import numpy as np
import numpy.typing as npt

LARGEST = 63
"""Weights use 7 of the 8 bits. On a CPU without VNNI the kernel adds two products of an activation (0 to 255)
and a weight in 16 bits: 2 * 255 * 127 saturates there, 2 * 255 * 63 does not. So the file decides alike on
every CPU."""


def quantized(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """(1, 4H, K) float32 -> (1, K, 4H) int8 and its scale (1,) float32.

    Symmetric: weight = integer * scale, the largest weight becomes 63. One scale for all: a scale for each
    row of each gate made no difference on the validation images and cost an eighth of the speed. The
    operator wants its weights transposed: https://github.com/microsoft/onnxruntime, docs/ContribOperators.md.
    """
    scale = float(np.abs(weights).max()) / LARGEST or 1.0  # zeros stay zeros
    integers = np.rint(weights / scale).astype(np.int8)
    return np.ascontiguousarray(integers.transpose(0, 2, 1)), np.array([scale], np.float32)
