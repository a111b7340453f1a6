"""Move each training sequence a little: pictures in one affine and elastic resampling, values column by column."""

import math
from functools import cache

import torch
from torch.nn import functional

from edgelstm.config import AugmentConfig
from edgelstm.training.model import RowLstm

_KNOTS = 5
"""Random displacements per axis of the elastic grid; fewer is smoother."""


def augment(pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, R, C) uint8 -> (B, R, C) uint8, each picture turned, scaled, sheared, shifted and bent anew.

    One bilinear resampling, background 0. Random numbers come from ``generator`` (on the CPU), so the
    same seed moves the digits alike on every device.
    """
    return _moved(pixels, config, generator).round_().to(torch.uint8)


def _moved(pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    batch, rows, cols = pixels.shape
    sources = _source_points(batch, rows, cols, config, generator).to(pixels.device)
    moved = functional.grid_sample(
        pixels.unsqueeze(1).float(), sources, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    found: torch.Tensor = moved.squeeze(1)
    return found


def augmented(
    sequences: torch.Tensor, model: RowLstm, config: AugmentConfig, generator: torch.Generator
) -> torch.Tensor:
    """(B, R, C) sequences of the model's kind, each moved anew."""
    if model.config.is_values:
        return augment_values(sequences, model, config, generator)
    if model.config.preparation == "digit":
        return augment(sequences, config, generator)
    # pixels of few levels, 0 to 16 say, are not rounded
    noise = torch.randn(sequences.shape, generator=generator).to(sequences.device) * config.noise / model.scale
    return _moved(sequences, config, generator) + noise


def augment_values(
    values: torch.Tensor, model: RowLstm, config: AugmentConfig, generator: torch.Generator
) -> torch.Tensor:
    """(B, R, C) float32 -> (B, R, C) float32: noise, and each column of a sequence scaled and shifted.

    ``model`` knows each column's mean and 1 over its standard deviation. Random numbers come from ``generator`` (on
    the CPU), so the same seed moves the values alike on every device.
    """
    batch, _, cols = values.shape
    scale, offset = torch.randn(2, batch, 1, cols, generator=generator)
    noise = torch.randn(values.shape, generator=generator) * config.noise + offset * config.column_offset
    stretched = (values - model.mean) * (1 + scale * config.column_scale).to(values.device)
    moved: torch.Tensor = model.mean + stretched + noise.to(values.device) / model.scale
    return moved


def _source_points(batch: int, rows: int, cols: int, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, R, C, 2): where in the original, -1 to 1 in x and y, each new pixel is read."""
    # (B, 6) in -1 to 1: rotation, two scales, shear, two shifts
    draw = torch.rand(batch, 6, generator=generator) * 2 - 1
    angle = draw[:, 0] * math.radians(config.rotate_deg)
    wide, high = 1 + draw[:, 1] * config.scale, 1 + draw[:, 2] * config.scale
    shear = draw[:, 3] * config.shear
    shift = draw[:, 4:] * config.shift_px * 2 / torch.tensor([cols, rows])
    cos, sin = angle.cos(), angle.sin()
    # (B, 2, 3): rotation x scale x shear, in the normalised coordinates of grid_sample
    matrix = torch.stack(
        [
            torch.stack([cos * wide, cos * wide * shear - sin * high, shift[:, 0]], 1),
            torch.stack([sin * wide, sin * wide * shear + cos * high, shift[:, 1]], 1),
        ],
        1,
    )
    points = functional.affine_grid(matrix, [batch, 1, rows, cols], align_corners=False)
    if config.elastic_px:
        knots = torch.randn(batch, 2, _KNOTS, _KNOTS, generator=generator)
        # (B, 2, R, C): a smooth field of the knots, unit variance at every pixel
        field = _spread(rows) @ knots @ _spread(cols).T
        field *= torch.tensor([2 / cols, 2 / rows]).view(2, 1, 1) * config.elastic_px
        points += field.permute(0, 2, 3, 1)
    return points


@cache
def _spread(size: int) -> torch.Tensor:
    """(size, knots): Gaussian weights of the knots at each pixel, rows of unit length."""
    pixels = torch.linspace(0, _KNOTS - 1, size).unsqueeze(1)
    weights = torch.exp(-0.5 * ((pixels - torch.arange(_KNOTS)) / 0.8) ** 2)
    return functional.normalize(weights, dim=1)
