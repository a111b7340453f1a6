"""edgelstm: train, export, prove, run and measure a small row-sequence LSTM classifier for edge devices."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgelstm.classifier import Classifier, Prediction
    from edgelstm.runtime import OrtRunner
    from edgelstm.stream import Stream

_HOME = {
    "Classifier": "edgelstm.classifier",
    "Prediction": "edgelstm.classifier",
    "OrtRunner": "edgelstm.runtime",
    "Stream": "edgelstm.stream",
}

__all__ = ["Classifier", "OrtRunner", "Prediction", "Stream", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import edgelstm`` and ``--help`` stay instant."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
