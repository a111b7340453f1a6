"""How fast could this machine be at best? Its measured sgemm rate and memory bandwidth set the floor."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelstm.config import ModelConfig
from edgelstm.runtime.runner import SessionSettings, open_session

SIDE = 512
"""Rows and columns of the measured product: large enough for the full rate, small enough for the caches."""
COPY_BYTES = 64 * 2**20
"""Bytes of the measured copy: more than the caches of the cores that may run it."""
N_TRIALS = 15


@dataclass(frozen=True)
class Machine:
    """What one measurement found the machine able to do."""

    threads: int
    flops_per_s: float
    """Rate of a float32 matrix product in onnxruntime, with these threads."""
    bytes_per_s: float
    """Bytes read and written by a large copy, one thread."""


@dataclass(frozen=True)
class Floor:
    """The least time a model could take on a machine (S. Williams et al., Roofline, CACM 2009)."""

    flops: int
    """Of the matrix products of the whole batch."""
    n_bytes: int
    """Weights once, pixels and logits once: what must come from memory at least."""
    seconds: float
    """The longer of flops over rate and bytes over bandwidth."""


def measure_machine(threads: int = 1) -> Machine:
    """Measure the sgemm rate and the copy bandwidth; takes about a second. The best trial counts."""
    settings = SessionSettings(threads=threads)
    session = open_session(matmul_model(), settings)
    square = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    flops = 2 * SIDE**3
    product_s = min(_seconds(lambda: session.run(None, {"a": square, "b": square})) for _ in range(N_TRIALS))
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    copy_s = min(_seconds(lambda: np.copyto(target, source)) for _ in range(N_TRIALS))
    return Machine(threads, flops / product_s, 2 * COPY_BYTES / copy_s)


def floor(config: ModelConfig, batch_size: int, machine: Machine, bytes_per_weight: int = 4) -> Floor:
    """The least time for one batch of this model on this machine."""
    flops = batch_size * config.flops
    per_image = config.rows * config.cols + 4 * config.n_classes
    n_bytes = bytes_per_weight * config.n_parameters + batch_size * per_image
    return Floor(flops, n_bytes, max(flops / machine.flops_per_s, n_bytes / machine.bytes_per_s))


def matmul_model() -> bytes:
    """An ONNX model of one MatMul, float32 (N, N) a and b -> c, written in protobuf's wire format by hand.

    So the rate is that of the same kernels, threads and settings that run the LSTM, and needs no onnx.
    """

    def value(name: str) -> bytes:
        axes = b"".join(_field(1, _field(2, b"N")) for _ in range(2))
        tensor = _number(1, 1) + _field(2, axes)  # elem_type FLOAT, shape
        return _field(1, name.encode()) + _field(2, _field(1, tensor))

    node = _field(1, b"a") + _field(1, b"b") + _field(2, b"c") + _field(4, b"MatMul")
    graph = _field(1, node) + _field(2, b"g") + _field(11, value("a")) + _field(11, value("b")) + _field(12, value("c"))
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 18))  # IR version 8, graph, opset 18


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 2**14, "two bytes of length are enough here"
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + content


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3, value])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
