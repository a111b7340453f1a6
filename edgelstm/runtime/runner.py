"""An exported model in onnxruntime: pixels to logits, on a provider that is proven to run its LSTM."""

import numpy as np

from edgelstm.contract import INPUT_NAME, OUTPUT_NAME, Logits, Pixels, check_pixels
from edgelstm.onnx_file import ModelSource, open_model
from edgelstm.runtime.session import BoundSession, Provider, SessionSettings


class OrtRunner:
    """One model in one onnxruntime session.

    ``model`` is a path, a run folder, a shipped model's name, the file's bytes, or what `open_model` gave.
    ``provider`` is ``cpu``; ``cuda``, which raises ProviderError unless every LSTM node is placed on CUDA; or
    ``auto``, CUDA if it can be had and else the CPU, with the reason in ``provider_note`` where that is news.
    ``name`` is how reports call the runner. Threads may share a runner.

    Raises ModelError if the file is damaged or does not keep the contract, ValueError for another provider.
    """

    def __init__(
        self,
        model: ModelSource,
        *,
        provider: Provider = "auto",
        settings: SessionSettings = SessionSettings(),
        name: str | None = None,
        source: str | None = None,
    ) -> None:
        file = open_model(model, source)
        self.contract, self.source, self.n_bytes = file.contract, file.source, file.n_bytes
        self.settings = settings
        self._n_classes = self.contract.config.n_classes
        self._session = BoundSession(file.form("picture"), provider, settings, self.source)
        self.provider_requested = provider
        self.provider_used = self._session.provider_used
        self.provider_note = self._session.provider_note
        self.name = name or f"onnxruntime {self.provider_used.upper()}"

    def __repr__(self) -> str:
        return f"OrtRunner({self.source!r}, provider={self.provider_used!r})"

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32.

        Raises ValueError for another shape or dtype, ModelError if onnxruntime cannot run it.
        """
        config, size = self.contract.config, len(check_pixels(pixels, self.contract.config))
        if not size:  # onnxruntime's LSTM ends the whole process on an empty batch
            return np.empty((0, config.n_classes), np.float32)
        chunk = self.settings.chunk
        if size <= chunk or self.provider_used == "cuda":
            return self._run(pixels)
        return np.concatenate([self._run(pixels[at : at + chunk]) for at in range(0, size, chunk)])

    def _run(self, pixels: Pixels) -> Logits:
        size = len(pixels)
        shape = (size, self._n_classes)
        found: Logits = self._session.run({INPUT_NAME: pixels}, {OUTPUT_NAME: shape}, size)[OUTPUT_NAME]
        return found

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node, in running order, after onnxruntime's own fusions."""
        return self._session.nodes()
