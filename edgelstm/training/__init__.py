"""The home of torch: the model, its data, the loop, the run and its files (extra: train)."""

from edgelstm.errors import MissingDependencyError

try:
    import safetensors
    import torch
except ImportError as error:
    raise MissingDependencyError(error.name or "torch", "train", purpose="edgelstm.training") from error

__all__ = ["safetensors", "torch"]
