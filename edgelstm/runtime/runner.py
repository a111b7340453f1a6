"""An exported model in onnxruntime: sequences to logits, on a provider that is proven to run its LSTM."""

import sys
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from edgelstm.contract import (
    INPUT_NAMES,
    LENGTHS_NAME,
    OUTPUT_NAME,
    Lengths,
    Logits,
    Sequences,
    check_sequences,
)
from edgelstm.onnx_file import ModelSource, open_model
from edgelstm.runtime.session import BoundSession, Provider, SessionSettings

if TYPE_CHECKING:
    from edgelstm.native.runner import CRunner

AnyProvider = Literal["auto", "cpu", "cuda", "c", "c-int8"]
"""An execution provider of onnxruntime, or the C engine: in the precision of the file, or in int8."""

AnyRunner: TypeAlias = "OrtRunner | CRunner"


def open_runner(
    model: ModelSource, *, provider: AnyProvider = "auto", settings: SessionSettings = SessionSettings()
) -> AnyRunner:
    """A model on any provider: OrtRunner, or for c and c-int8 CRunner, without onnxruntime. Raises what they raise."""
    if provider == "c" or provider == "c-int8":
        from edgelstm.native.runner import CRunner

        return CRunner(model, provider=provider)
    if provider not in get_args(AnyProvider):
        raise ValueError(f"provider: found {provider!r}, expected one of {', '.join(get_args(AnyProvider))}")
    return OrtRunner(model, provider=provider, settings=settings)


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
        config = self.contract.config
        self._n_classes, self._input_name = config.n_classes, INPUT_NAMES[config.is_values]
        self._session = BoundSession(file.form("picture"), provider, settings, self.source)
        self.provider_requested = provider
        self.provider_used = self._session.provider_used
        self.provider_note = self._session.provider_note
        # int8 measures its input and its state over all of a call: padding, and sequences that have ended, count there
        alone = config.variable_length and self.contract.precision == "int8"
        self._chunk = 1 if alone else sys.maxsize if self.provider_used == "cuda" else settings.chunk
        self.name = name or f"onnxruntime {self.provider_used.upper()}"

    def __repr__(self) -> str:
        return f"OrtRunner({self.source!r}, provider={self.provider_used!r})"

    def logits(self, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32.

        What lies behind a sequence's end never changes its logits. Raises ValueError for another shape or dtype
        or a value before it that is not finite, ModelError if onnxruntime cannot run it.
        """
        sequences, lengths = check_sequences(sequences, self.contract.config, lengths)
        size, chunk = len(sequences), self._chunk
        if not size:  # onnxruntime's LSTM ends the whole process on an empty batch
            return np.empty((0, self._n_classes), np.float32)
        if size <= chunk and lengths is None:
            return self._run(sequences, size)
        # of one chunk only the rows of its longest sequence are read
        return np.concatenate(
            [
                self._run(sequences[at : at + chunk], min(chunk, size - at))
                if lengths is None
                else self._run_lengths(sequences[at : at + chunk], lengths[at : at + chunk])
                for at in range(0, size, chunk)
            ]
        )

    def _run(self, sequences: Sequences, size: int) -> Logits:
        shape = (size, self._n_classes)
        found: Logits = self._session.run({self._input_name: sequences}, {OUTPUT_NAME: shape}, size)[OUTPUT_NAME]
        return found

    def _run_lengths(self, sequences: Sequences, lengths: Lengths) -> Logits:
        feeds = {self._input_name: sequences[:, : int(lengths.max())], LENGTHS_NAME: lengths}
        found: Logits = self._session.run(feeds, {OUTPUT_NAME: (len(lengths), self._n_classes)})[OUTPUT_NAME]
        return found

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node, in running order, after onnxruntime's own fusions."""
        return self._session.nodes()
