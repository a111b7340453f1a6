"""Checkpoint -> ONNX file, and the proof that they decide alike (extra: train)."""

from edgelstm.errors import MissingDependencyError

try:
    import onnx
    import torch
except ImportError as error:
    raise MissingDependencyError(error.name or "onnx", "train", purpose="exporting and verifying") from error

__all__ = ["onnx", "torch"]
