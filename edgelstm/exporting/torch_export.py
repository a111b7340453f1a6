"""What torch's own exporter makes of a checkpoint: a second opinion on every exported file."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from edgelstm.config import ModelConfig
from edgelstm.contract import (
    INPUT_NAMES,
    LENGTHS_NAME,
    OPSET,
    OUTPUT_NAME,
    Lengths,
    Logits,
    Sequences,
    check_sequences,
)
from edgelstm.runtime.session import SessionSettings, open_session
from edgelstm.training.checkpoint import Checkpoint


class TorchExportedRunner:
    """The same weights through ``torch.onnx.export`` (dynamo), in onnxruntime on the CPU.

    ``rows`` are those of the arrays it will be given, where lengths differ: torch's LSTM is exported for so many.
    """

    name = "torch.onnx.export"

    def __init__(self, checkpoint: Checkpoint, rows: int | None = None) -> None:
        self._config = checkpoint.config
        self._session = open_session(torch_exported_model(checkpoint, rows).SerializeToString(), SessionSettings())

    def logits(self, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32."""
        arrays = check_sequences(sequences, self._config, lengths)
        feeds = {name: array for name, array in zip(_names(self._config), arrays, strict=False) if array is not None}
        found: Logits = self._session.run([OUTPUT_NAME], feeds)[0]
        return found


def torch_exported_model(checkpoint: Checkpoint, rows: int | None = None) -> onnx.ModelProto:
    """What ``torch.onnx.export`` makes of a checkpoint: our names, no contract."""
    config = checkpoint.config
    dtype = torch.float32 if config.is_values else torch.uint8
    arguments = [torch.zeros(2, rows or config.rows, config.cols, dtype=dtype)]
    if config.variable_length:
        arguments.append(torch.ones(2, dtype=torch.int32))
    batch = torch.export.Dim("batch")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            checkpoint.model(), tuple(arguments), path, input_names=_names(config), output_names=[OUTPUT_NAME],
            opset_version=OPSET, dynamic_shapes=tuple({0: batch} for _ in arguments), external_data=False,
        )  # fmt: skip
        return onnx.load_model(path)


def _names(config: ModelConfig) -> list[str]:
    return [INPUT_NAMES[config.is_values], *([LENGTHS_NAME] if config.variable_length else [])]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter talks on stdout, warns about its own insides and logs; the user asked for none of it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
