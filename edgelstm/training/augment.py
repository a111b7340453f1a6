"""Move each training digit a little: affine and elastic, the whole batch in one resampling."""

import math
from functools import cache

import torch
from torch.nn import functional

from edgelstm.config import AugmentConfig

_KNOTS = 5
"""Random displacements per axis of the elastic grid; fewer is smoother."""


def augment(pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, R, C) uint8 -> (B, R, C) uint8, each digit turned, scaled, sheared, shifted and bent anew.

    One bilinear resampling, background 0. Random numbers come from ``generator`` (on the CPU), so the
    same seed moves the digits alike on every device.
    """
    batch, rows, cols = pixels.shape
    sources = _source_points(batch, rows, cols, config, generator).to(pixels.device)
    moved = functional.grid_sample(
        pixels.unsqueeze(1).float(), sources, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.squeeze(1).round_().to(torch.uint8)


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
