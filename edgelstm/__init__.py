"""edgelstm: train, export, prove, run and measure a small row-sequence LSTM classifier for edge devices."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgelstm import errors
    from edgelstm.data.arrays import dataset_from_arrays
    from edgelstm.data.dataset import Dataset, open_dataset
    from edgelstm.exporting.export import export
    from edgelstm.exporting.verify import verify
    from edgelstm.measure.bench import bench
    from edgelstm.measure.compile import compile  # noqa: A004 - the command's name
    from edgelstm.runtime.classifier import Classifier, Prediction
    from edgelstm.runtime.runner import OrtRunner
    from edgelstm.runtime.stream import Stream
    from edgelstm.training.train import train

_HOME = {
    "Classifier": "edgelstm.runtime.classifier",
    "Dataset": "edgelstm.data.dataset",
    "Prediction": "edgelstm.runtime.classifier",
    "OrtRunner": "edgelstm.runtime.runner",
    "Stream": "edgelstm.runtime.stream",
    "bench": "edgelstm.measure.bench",
    "compile": "edgelstm.measure.compile",
    "dataset_from_arrays": "edgelstm.data.arrays",
    "export": "edgelstm.exporting.export",
    "open_dataset": "edgelstm.data.dataset",
    "train": "edgelstm.training.train",
    "verify": "edgelstm.exporting.verify",
}

__all__ = [
    "Classifier", "Dataset", "OrtRunner", "Prediction", "Stream", "__version__", "bench", "compile",
    "dataset_from_arrays",
    "errors", "export", "open_dataset", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import edgelstm`` and ``--help`` stay instant."""
    import importlib

    if name == "errors":
        return importlib.import_module("edgelstm.errors")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, which completion would not find before their first use."""
    return __all__
