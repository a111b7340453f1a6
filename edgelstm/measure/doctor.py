"""Look at this machine: which wheels are installed, which providers really run an LSTM, what to do."""

import ctypes.util
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from edgelstm import __version__
from edgelstm.config import data_dir, shipped_dir
from edgelstm.data.mnist import find_mnist
from edgelstm.errors import EdgeLstmError
from edgelstm.runtime.runner import OrtRunner, Provider

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
MINIMUMS = {
    "onnx": (1, 21),
    "torch": (2, 10),
    "onnxruntime": (1, 29),
    "onnxruntime-gpu": (1, 29),
    "pillow": (12, 3),
}
"""Older versions have known holes: path traversal, unsafe loading, unchecked LSTM shapes, decoders."""
PACKAGES = (*MINIMUMS, "numpy", "onnxscript", "safetensors", "tensorboard", "matplotlib")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``passed`` is None where there is nothing to pass, only to know."""

    what: str
    passed: bool | None
    found: str
    advice: str | None = None


def examine() -> list[Finding]:
    """Everything, in the order a person would check it. Raises nothing: what fails is a finding."""
    return [
        Finding("edgelstm", None, f"{__version__} on Python {platform.python_version()}, {platform.platform()}"),
        *_packages(),
        _wheels(installed_runtimes()),
        *_providers(),
        *_cuda(),
        _models(),
        _data(),
    ]  # fmt: skip


def installed_runtimes() -> list[str]:
    """Which of the two onnxruntime wheels pip has installed."""
    return [name for name in RUNTIMES if _version(name)]


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            continue
        minimum = MINIMUMS.get(name)
        if minimum and tuple(map(int, re.findall(r"\d+", version)[:2])) < minimum:
            wanted = ".".join(map(str, minimum))
            yield Finding(name, False, f"{version}, which has known security holes", f'pip install "{name}>={wanted}"')
        else:
            yield Finding(name, None, version)


def _wheels(installed: list[str]) -> Finding:
    if len(installed) == 2:
        return Finding(
            "onnxruntime wheels", False, "onnxruntime and onnxruntime-gpu, which overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them",
        )  # fmt: skip
    if not installed:
        return Finding("onnxruntime wheels", False, "none", 'pip install "edgelstm[cpu]" or "edgelstm[gpu]"')
    return Finding("onnxruntime wheels", True, installed[0])


def _providers() -> Iterator[Finding]:
    """A real LSTM on real pixels: the only proof that a provider works."""
    providers: tuple[Provider, ...] = ("cpu", "cuda")
    for provider in providers:
        try:
            runner = OrtRunner("base", provider=provider)
            logits = runner.logits(np.zeros((2, 28, 28), np.uint8))
        except EdgeLstmError as error:
            # no GPU is a fact, not a fault: only the CPU must work everywhere
            yield Finding(f"LSTM on {provider}", False if provider == "cpu" else None, str(error))
        else:
            yield Finding(f"LSTM on {provider}", bool(np.isfinite(logits).all()), f"runs, {logits.shape} logits")


def _cuda() -> Iterator[Finding]:
    libraries = {"NVIDIA driver": "cuda", "CUDA runtime": "cudart", "cuBLAS": "cublas", "cuDNN": "cudnn"}
    for what, library in libraries.items():
        yield Finding(what, None, ctypes.util.find_library(library) or "not in the system's library path")
    wheels = [
        f"{distribution.name} {distribution.version}"
        for distribution in metadata.distributions()
        if distribution.name.startswith(("nvidia-cudnn", "nvidia-cublas", "nvidia-cuda-runtime"))
    ]
    yield Finding("NVIDIA wheels", None, ", ".join(sorted(wheels)) or "none")


def _models() -> Finding:
    names = sorted(path.name for path in shipped_dir().glob("*.onnx"))
    advice = None if names else "reinstall edgelstm; its wheel holds the models"
    return Finding("shipped models", bool(names), ", ".join(names) or f"none in {shipped_dir()}", advice)


def _data() -> Finding:
    place = find_mnist(data_dir())
    return Finding("MNIST", None, str(place) if place else f"not in {data_dir()}; `edgelstm train` fetches it")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
