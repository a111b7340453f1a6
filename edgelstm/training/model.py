"""RowLstm: a picture's rows read as a sequence by an LSTM, its last state through one linear layer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgelstm.config import ModelConfig
from edgelstm.contract import Logits, Pixels, check_pixels

PIXEL_SCALE = 1.0 / 255.0
"""Pixels enter the recurrence as 0 to 1; export folds this into the input weights."""


class RowLstm(nn.Module):
    """(B, rows, cols) uint8 pixels -> (B, classes) float32 logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.step_size, config.hidden_size, config.n_layers)
        self.head = nn.Linear(config.hidden_size, config.n_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        _, (last, _) = self.lstm(self._sequence(pixels))
        # (L, B, H): the last layer's state after the last row
        logits: torch.Tensor = self.head(last[-1])
        return logits

    def logits_by_step(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, rows, cols) -> (T, B, classes): what the model would say after each step."""
        states, _ = self.lstm(self._sequence(pixels))
        logits: torch.Tensor = self.head(states)
        return logits

    def _sequence(self, pixels: torch.Tensor) -> torch.Tensor:
        config = self.config
        # (B, R, C) -> (B, T, S) -> (T, B, S): rows are time steps, and torch's LSTM is time-major
        steps = pixels.reshape(-1, config.n_steps, config.step_size).transpose(0, 1)
        return steps.to(self.head.weight.dtype) * PIXEL_SCALE


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

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32."""
        check_pixels(pixels, self.config)
        writable = pixels if pixels.flags.writeable else pixels.copy()  # torch has no read-only tensors
        with torch.inference_mode():
            found: Logits = self._model(torch.from_numpy(writable).to(self._device)).cpu().numpy()
        return found


def numpy_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Named weights as float32 NumPy arrays on the CPU."""
    return {name: weight.detach().cpu().numpy() for name, weight in weights.items()}
