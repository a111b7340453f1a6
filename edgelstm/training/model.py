"""RowLstm: rows read as a sequence by an LSTM, its last state through one linear layer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgelstm.config import ModelConfig
from edgelstm.contract import Lengths, Logits, Sequences, check_sequences

PIXEL_SCALE = 1.0 / 255.0
"""Pixels enter the recurrence as 0 to 1; export folds this into the input weights."""


class RowLstm(nn.Module):
    """(B, rows, cols) uint8 pixels or float32 values -> (B, classes) float32 logits.

    Values are normalised by the buffers ``mean`` and ``scale`` (cols,), pixels of a plain picture multiplied by
    ``scale`` (1,), those of a digit by PIXEL_SCALE. They are set once, from the training split.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.step_size, config.hidden_size, config.n_layers)
        self.head = nn.Linear(config.hidden_size, config.n_classes)
        if config.is_values:
            self.register_buffer("mean", torch.zeros(config.cols))
            self.register_buffer("scale", torch.ones(config.cols))
        elif config.preparation == "plain":
            self.register_buffer("scale", torch.full((1,), PIXEL_SCALE))

    def forward(self, sequences: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        states, (last, _) = self.lstm(self._normal(sequences))
        # (L, B, H): the last layer's state after the last row, or after each sequence's own last row of (T, B, H)
        state = last[-1] if lengths is None else states[lengths.long() - 1, torch.arange(states.shape[1])]
        logits: torch.Tensor = self.head(state)
        return logits

    def logits_by_step(self, sequences: torch.Tensor) -> torch.Tensor:
        """(B, rows, cols) -> (T, B, classes): what the model would say after each step."""
        states, _ = self.lstm(self._normal(sequences))
        logits: torch.Tensor = self.head(states)
        return logits

    def _normal(self, sequences: torch.Tensor) -> torch.Tensor:
        config, dtype = self.config, self.head.weight.dtype
        if config.is_values:
            normal = (sequences.to(dtype) - self.mean) * self.scale
        else:
            normal = sequences.to(dtype) * (self.scale if config.preparation == "plain" else PIXEL_SCALE)
        if config.rows_per_step > 1:  # (B, R, C) -> (B, T, S)
            normal = normal.reshape(-1, config.n_steps, config.step_size)
        # (B, T, S) -> (T, B, S): rows are time steps, and torch's LSTM is time-major
        return normal.transpose(0, 1)


def new_model(
    config: ModelConfig, generator: torch.Generator, *, forget_bias: float = 1.0, normal_head: bool = False
) -> RowLstm:
    """A RowLstm with fresh weights, all drawn from ``generator``.

    Input weights are Glorot-uniform, recurrence weights orthogonal for each gate (Saxe et al. 2013),
    biases zero but for the forget gate's (Jozefowicz et al. 2015: 1 by default). The linear layer is
    torch's uniform, or N(0, 1) with ``normal_head`` as in the classic exercise.
    """
    model = RowLstm(config)
    hidden = config.hidden_size
    with torch.no_grad():
        for name, weight in model.lstm.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(weight, generator=generator)
            elif name.startswith("weight_hh"):
                for gate in weight.split(hidden):
                    nn.init.orthogonal_(gate, generator=generator)
            else:
                weight.zero_()
            if name.startswith("bias_ih"):
                weight[hidden : 2 * hidden] = forget_bias  # torch's gates stand as i, f, g, o
        bound = hidden**-0.5
        for weight in model.head.parameters():
            if normal_head:
                weight.normal_(0.0, 1.0, generator=generator)
            else:
                weight.uniform_(-bound, bound, generator=generator)
    return model


class TorchRunner:
    """A RowLstm behind the Runner protocol: eager torch in inference mode."""

    def __init__(self, model: RowLstm, *, name: str = "torch", device: str = "cpu") -> None:
        self.name = name
        self.config = model.config
        self._device = torch.device(device)
        self._model = model.to(self._device).eval()

    def logits(self, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32."""
        arrays = (array for array in check_sequences(sequences, self.config, lengths) if array is not None)
        with torch.inference_mode():
            # torch has no read-only tensors
            writable = (array if array.flags.writeable else array.copy() for array in arrays)
            tensors = [torch.from_numpy(array).to(self._device) for array in writable]
            found: Logits = self._model(*tensors).cpu().numpy()
        return found


def numpy_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Named weights as float32 NumPy arrays on the CPU."""
    return {name: weight.detach().cpu().numpy() for name, weight in weights.items()}
