"""Whole pictures through a streaming model: to be compared with, measured against and judged beside others."""

import os
from collections.abc import Callable

import numpy as np

from edgelstm.contract import Logits, Pixels, check_pixels
from edgelstm.onnx_file import read_metadata
from edgelstm.runtime.early_exit import StepLogits
from edgelstm.runtime.runner import SessionSettings, read_model
from edgelstm.runtime.stream import MAX_BOUND_SIZES, STREAM_FILE, Stream


class StreamRunner:
    """A streaming model behind the Runner protocol: whole pictures, fed one step a call."""

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        settings: SessionSettings = SessionSettings(),
        name: str = "onnxruntime CPU, row by row",
    ) -> None:
        self.name = name
        self.provider_used = "cpu"
        self._content = model if isinstance(model, bytes) else read_model(model, STREAM_FILE)
        self._settings = settings
        self._streams = {1: Stream(self._content, settings=settings)}
        self.contract = self._streams[1].contract
        self.n_bytes = len(self._content)

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32 after the last row."""
        check_pixels(pixels, self.contract.config)
        if not len(pixels):
            return np.empty((0, self.contract.config.n_classes), np.float32)
        step, stream = self.contract.config.rows_per_step, self._stream(len(pixels))
        stream.reset()
        found = [stream.push(pixels[:, at : at + step]) for at in range(0, pixels.shape[1], step)]
        return found[-1]

    def row_call(self, pixels: Pixels) -> Callable[[], Logits]:
        """A call to be timed: it reads one more step of the pictures, from the first again after the last."""
        check_pixels(pixels, self.contract.config)
        stream = self._stream(len(pixels))
        steps = [np.ascontiguousarray(step) for step in np.split(pixels, self.contract.config.n_steps, axis=1)]
        at = 0

        def call() -> Logits:
            nonlocal at
            if at == len(steps):
                stream.reset()
                at = 0
            at += 1
            return stream.push(steps[at - 1])

        stream.reset()
        return call

    def _stream(self, n: int) -> Stream:
        if n not in self._streams:
            if len(self._streams) >= MAX_BOUND_SIZES:
                self._streams.clear()
            self._streams[n] = Stream(self._content, n_streams=n, settings=self._settings)
        return self._streams[n]


def is_streaming(content: bytes) -> bool:
    """Whether a model file says that it reads rows; everything else of it is still to be checked."""
    return read_metadata(content).get("edgelstm.kind") == '"stream"'


def logits_by_step(stream: Stream, pixels: Pixels) -> StepLogits:
    """Pictures (N, rows, cols) through a Stream, one step a call -> (N, steps, classes).

    As many at a time as it has streams; whatever it was reading is given up.
    """
    config, n = stream.contract.config, stream.n_streams
    found = np.empty((len(pixels), config.n_steps, config.n_classes), np.float32)
    for at in range(0, len(pixels), n):
        part = pixels[at : at + n]
        # the last pictures may be fewer than the streams
        some = None if len(part) == n else range(len(part))
        stream.reset()
        for step in range(config.n_steps):
            rows = part[:, step * config.rows_per_step : (step + 1) * config.rows_per_step]
            found[at : at + n, step] = stream.push(rows, some)
    stream.reset()
    return found
