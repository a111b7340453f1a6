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

from edgelstm.contract import INPUT_NAME, OPSET, OUTPUT_NAME, Logits, Pixels, check_pixels
from edgelstm.runtime.session import SessionSettings, open_session
from edgelstm.training.checkpoint import Checkpoint


class TorchExportedRunner:
    """The same weights through ``torch.onnx.export`` (dynamo), in onnxruntime on the CPU."""

    name = "torch.onnx.export"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config
        self._session = open_session(torch_exported_model(checkpoint).SerializeToString(), SessionSettings())

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32."""
        found: Logits = self._session.run([OUTPUT_NAME], {INPUT_NAME: check_pixels(pixels, self._config)})[0]
        return found


def torch_exported_model(checkpoint: Checkpoint) -> onnx.ModelProto:
    """What ``torch.onnx.export`` makes of a checkpoint: our names, no contract."""
    config = checkpoint.config
    pixels = torch.zeros(2, config.rows, config.cols, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            checkpoint.model(), (pixels,), path, input_names=[INPUT_NAME], output_names=[OUTPUT_NAME],
            opset_version=OPSET, dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
        )  # fmt: skip
        return onnx.load_model(path)


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
