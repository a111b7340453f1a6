"""The only home of torch and onnx: train, keep, export and verify a row LSTM (extra: train)."""

from edgelstm.errors import MissingDependencyError

try:
    import onnx
    import safetensors
    import torch
except ImportError as error:
    raise MissingDependencyError(error.name or "torch", "train", purpose="training, export and verify") from error

__all__ = ["onnx", "safetensors", "torch"]
