"""Look at this machine: which wheels are installed, which providers really run an LSTM, what to do."""

import ctypes.util
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from edgelstm import __version__
from edgelstm.config import DEFAULT_MODEL, data_dir, shipped_dir
from edgelstm.data.mnist import find_mnist
from edgelstm.errors import EdgeLstmError, printable
from edgelstm.measure.machine import version_of
from edgelstm.runtime.runner import AnyProvider, open_runner

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
MINIMUMS = {"onnx": (1, 21), "torch": (2, 10), "onnxruntime": (1, 29), "onnxruntime-gpu": (1, 29), "pillow": (12, 3)}
"""Older versions have known holes: path traversal, unsafe loading, unchecked LSTM shapes, decoders."""
PACKAGES = (*MINIMUMS, "numpy", "onnxscript", "safetensors", "tensorboard", "matplotlib")
LIBRARIES = {"NVIDIA driver": "cuda", "CUDA runtime": "cudart", "cuBLAS": "cublas", "cuDNN": "cudnn"}
NVIDIA_WHEELS = ("nvidia-cudnn", "nvidia-cublas", "nvidia-cuda-runtime")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``passed`` is None where there is nothing to pass, only to know."""

    what: str
    passed: bool | None
    found: str
    advice: str | None = None


def examine() -> list[Finding]:
    """Everything, in the order a person would check it. Raises nothing: what fails is a finding."""
    telemetry = list(_telemetry())  # before onnxruntime is imported here, which sets the variable
    models = sorted(path.name for path in shipped_dir().glob("*.onnx"))
    mnist, missing = find_mnist(data_dir()), f"not in {printable(data_dir())}; `edgelstm train` fetches it"
    return [
        Finding("edgelstm", None, f"{__version__} on Python {platform.python_version()}, {platform.platform()}"),
        *_packages(),
        _wheels(),
        *telemetry,
        *_providers(),
        *_cuda(),
        Finding(
            "shipped models", bool(models), ", ".join(models) or f"none in {shipped_dir()}",
            None if models else "reinstall edgelstm; its wheel holds the models",
        ),
        Finding("MNIST", None, printable(mnist) if mnist else missing),
    ]  # fmt: skip


def installed_runtimes() -> list[str]:
    """Which of the two onnxruntime wheels pip has installed."""
    return [name for name in RUNTIMES if version_of(name)]


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version, minimum = version_of(name), MINIMUMS.get(name)
        if version is None:
            continue
        if minimum and tuple(map(int, re.findall(r"\d+", version)[:2])) < minimum:
            wanted = ".".join(map(str, minimum))
            yield Finding(name, False, f"{version}, which has known security holes", f'pip install "{name}>={wanted}"')
        else:
            yield Finding(name, None, version)


def _wheels() -> Finding:
    what, installed = "onnxruntime wheels", installed_runtimes()
    if len(installed) == 2:
        return Finding(
            what, False, "onnxruntime and onnxruntime-gpu, which overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them",
        )  # fmt: skip
    if not installed:
        return Finding(what, False, "none", 'pip install "edgelstm[cpu]" or "edgelstm[gpu]"')
    return Finding(what, True, installed[0])


def _telemetry() -> Iterator[Finding]:
    """onnxruntime reads the variable once, when it is imported; edgelstm sets it before its own import."""
    if installed_runtimes() and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        found = "off in edgelstm; on in a program that imports onnxruntime first"
        yield Finding("onnxruntime telemetry", None, found, "export ORT_DISABLE_TELEMETRY=1")


def _providers() -> Iterator[Finding]:
    """A real LSTM on real pixels: the only proof that a provider works."""
    model = shipped_dir() / f"{DEFAULT_MODEL}.onnx"  # the path, so that no file here can stand in for it
    providers: tuple[AnyProvider, ...] = ("cpu", "cuda", "c")
    for provider in providers:
        try:
            logits = open_runner(model, provider=provider).logits(np.zeros((2, 28, 28), np.uint8))
        except EdgeLstmError as error:
            # no GPU and no compiler are facts, not faults: only the CPU must work everywhere
            yield Finding(f"LSTM on {provider}", False if provider == "cpu" else None, str(error))
        else:
            yield Finding(f"LSTM on {provider}", bool(np.isfinite(logits).all()), f"runs, {logits.shape} logits")


def _cuda() -> Iterator[Finding]:
    for what, library in LIBRARIES.items():
        yield Finding(what, None, ctypes.util.find_library(library) or "not in the system's library path")
    wheels = [f"{one.name} {one.version}" for one in metadata.distributions() if one.name.startswith(NVIDIA_WHEELS)]
    yield Finding("NVIDIA wheels", None, ", ".join(sorted(wheels)) or "none")
