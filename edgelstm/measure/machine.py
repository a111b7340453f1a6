"""What figures depend on besides the model: the machine's rates, its names and versions, a process's peak memory."""

import os
import pickle
import platform
import re
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from edgelstm.config import ModelConfig, n_cores
from edgelstm.contract import FLOAT, OPSET, Node, Runner, Sequences, Value
from edgelstm.onnx_file import OnnxGraph, encode
from edgelstm.runtime.session import SessionSettings, open_session

SIDE = 512
"""Rows and columns of the measured product: large enough for the full rate, small enough for the caches."""
COPY_BYTES = 64 * 2**20
"""Bytes of the measured copy: more than the caches of the cores that may run it."""
N_TRIALS = 15
MEMORY_TIMEOUT_S = 120
"""How long a process may take to load a model and run it once."""
PACKAGES = ("edgelstm", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True)
class Rates:
    """What the machine can do."""

    threads: int
    flops_per_s: float
    """Of a float32 matrix product in onnxruntime, with these threads."""
    bytes_per_s: float
    """Bytes read and written by a large copy, one thread."""


@dataclass(frozen=True)
class Environment:
    """What figures depend on besides the model."""

    cpu: str
    cores: int
    """Cores this process may use."""
    load_average: float | None
    """Processes waiting for a core over the last minute, before measuring; None where unknown."""
    system: str
    versions: dict[str, str]
    gpu: str | None
    rates: Rates | None = None
    """None if not measured."""


def read_environment() -> Environment:
    """The machine and the libraries, as far as they can be read without importing them."""
    versions = {name: version for name in PACKAGES if (version := version_of(name))}
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return Environment(
        cpu=_line(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        cores=n_cores(), load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.machine()}", versions={"python": platform.python_version(), **versions},
        gpu=next(filter(None, (_line(gpu, "Model") for gpu in gpus)), None),
    )  # fmt: skip


def version_of(package: str) -> str | None:
    """The installed version; None if the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _line(path: Path, name: str) -> str | None:
    """The value of the first ``name: value`` line of one of Linux's own text files; None without one."""
    try:
        found = re.search(rf"^{name}\s*:(.*)", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def measure_rates(threads: int = 1) -> Rates:
    """Measure the sgemm rate and the copy bandwidth; takes about a second. The best trial counts."""
    session = open_session(matmul_model(), SessionSettings(threads=threads))
    square = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    product_s = _shortest_s(lambda: session.run(None, {"a": square, "b": square}))
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    copy_s = _shortest_s(lambda: np.copyto(target, source))
    return Rates(threads, 2 * SIDE**3 / product_s, 2 * COPY_BYTES / copy_s)


def matmul_model() -> bytes:
    """An ONNX model of one MatMul, float32 (n, n) a and b -> c: measured by the kernels and threads of the LSTM."""
    a, b, c = (Value(name, FLOAT, ("n", "n")) for name in "abc")
    node = Node("MatMul", ("a", "b"), ("c",), "product")
    return encode(OnnxGraph((node,), {}, (a, b), (c,), opsets={"": OPSET}, metadata={}))


def roofline_s(config: ModelConfig, batch_size: int, rates: Rates) -> float:
    """The least seconds that a float32 model needs for one batch (S. Williams et al., Roofline, CACM 2009).

    The longer of two times: all matrix products at the measured rate; weights once, sequences and logits once through
    the memory at the measured bandwidth.
    """
    n_bytes = 4 * config.n_parameters + batch_size * (
        config.rows * config.cols * (4 if config.is_values else 1) + 4 * config.n_classes
    )
    return max(batch_size * config.flops / rates.flops_per_s, n_bytes / rates.bytes_per_s)


def _shortest_s(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, timer=time.perf_counter, number=1, repeat=N_TRIALS))


_LOAD_AND_RUN = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
load, arrays = pickle.load(sys.stdin.buffer)
load().logits(*arrays)
print(open("/proc/self/status").read())
"""


def peak_memory_bytes(load: Callable[[], Runner], *arrays: Sequences) -> int | None:
    """Peak resident memory of a fresh Python process that loads a runner and runs it once on ``arrays``.

    It holds everything: Python, NumPy, the runtime, the model. ``load`` must be picklable by another process, so not
    defined in the main script: that is not imported there (as multiprocessing would do, which starts a script without
    a main guard again). None where the system does not say (it is read from Linux's /proc) or the process fails.
    """
    try:
        job = pickle.dumps(sys.path) + pickle.dumps((load, arrays))
        done = subprocess.run(
            [sys.executable, "-P", "-c", _LOAD_AND_RUN], input=job, capture_output=True, timeout=MEMORY_TIMEOUT_S
        )
    except (pickle.PicklingError, AttributeError, TypeError, OSError, subprocess.TimeoutExpired):
        return None
    # VmHWM is the highest of this process alone; getrusage's peak would be inherited from the parent
    found = re.search(rb"^VmHWM:\s+(\d+) kB", done.stdout, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
