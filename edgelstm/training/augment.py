"""Change each training sequence a little, anew each time it is seen.

Pictures are moved in one affine and elastic resampling, values column by column. Digits may also be drawn as other
hands write them before they are moved, and worn afterwards: noise, blur, faint ink, thick or thin strokes, a lost edge.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional

from edgelstm.config import DIGITS, AugmentConfig
from edgelstm.training.model import RowLstm
from edgelstm.training.strokes import Digits, redrawn

_KNOTS = 5
"""Random displacements per axis of the elastic grid; fewer is smoother."""


def augment(
    pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator, digits: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, R, C) uint8 -> (B, R, C) uint8, each picture turned, scaled, sheared, shifted and bent anew.

    One bilinear resampling, background 0. ``digits`` (B,) says what each picture shows, for the strokes of other
    hands; None: no strokes are drawn. Random numbers come from ``generator`` (on the CPU), so the same seed changes
    the digits alike on every device.
    """
    ink, moved_by = pixels.float(), None
    if config.hands and digits is not None:
        ink = redrawn(ink, digits.cpu(), config.hands, generator)
        # a prepared digit's centre of mass is in the middle, with the new strokes too
        moved_by = _centres(ink) - _centres(pixels.float())
    moved = _moved(ink, config, generator, moved_by)
    if config.worn:
        moved = _worn(moved, config, generator)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


def _moved(
    pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator, moved_by: torch.Tensor | None = None
) -> torch.Tensor:
    batch, rows, cols = pixels.shape
    sources = _source_points(batch, rows, cols, config, generator, pixels.device)
    if moved_by is not None:  # (B, 2) pixels, x and y
        sources = sources + (moved_by * moved_by.new_tensor([2 / cols, 2 / rows])).view(-1, 1, 1, 2)
    moved = functional.grid_sample(
        pixels.unsqueeze(1).float(), sources, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    found: torch.Tensor = moved.squeeze(1)
    return found


def _centres(ink: torch.Tensor) -> torch.Tensor:
    """(B, R, C) -> (B, 2): x and y of the centre of mass, in pixels; 0 where there is no ink."""
    total = ink.sum((1, 2)).clamp(min=1)
    y, x = (torch.arange(size, device=ink.device, dtype=ink.dtype) for size in ink.shape[1:])
    return torch.stack([ink.sum(1) @ x / total, ink.sum(2) @ y / total], 1)


def _worn(ink: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, R, C) float levels, changed in place: strokes and edges of some, then at most one of noise, blur, faintness.

    Only what is chosen is computed, and chosen on the CPU: no waiting for another device.
    """
    # (B, 3) which pictures; (B, 3) how much, 0 to 1; (B,) which edge
    lot, much, edge = torch.rand(len(ink), 7, generator=generator).split([3, 3, 1], 1)
    strokes, edges = (lot[:, :2] < config.worn).T
    noise, blur, faint = ((config.worn * i <= lot[:, 2]) & (lot[:, 2] < config.worn * (i + 1)) for i in range(3))

    def change(chosen: torch.Tensor, how: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], draw: int) -> None:
        if len(places := chosen.nonzero().squeeze(1)):
            on_device = places.to(ink.device)
            ink[on_device] = how(ink[on_device], much[places, draw].to(ink.device))

    change(strokes, lambda some, much: thickened(some, (1.5 * much - 0.5) * config.thick_px), 0)
    sides = (edge[edges, 0] * 4).long()
    change(edges, lambda some, much: _cut(some, much * config.cut_px, sides.to(ink.device)), 1)
    shape = (int(noise.sum()), *ink.shape[1:])
    grain = torch.randn(shape, generator=generator).to(ink.device)
    change(noise, lambda some, much: some + grain * (much * config.noise_levels).view(-1, 1, 1), 2)
    change(blur, lambda some, much: blurred(some, much * config.blur_px), 2)
    change(faint, lambda some, much: some * (1 - much * config.faint).view(-1, 1, 1), 2)
    return ink


def thickened(ink: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """(B, R, C), strokes wider by (B,) -1 to 1 pixels on each side: grey dilation, or erosion where it is negative."""
    amount = pixels.view(-1, 1, 1)
    grown = functional.max_pool2d(ink, 3, 1, 1)
    shrunk = -functional.max_pool2d(-ink, 3, 1, 1)
    return torch.where(amount > 0, torch.lerp(ink, grown, amount), torch.lerp(ink, shrunk, -amount))


def blurred(ink: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """(B, R, C), blurred by a Gaussian of (B,) standard deviations in pixels; nothing beyond the edges."""
    down, across = (_gaussians(size, pixels) for size in ink.shape[1:])
    return down @ ink @ across


def _gaussians(size: int, deviations: torch.Tensor) -> torch.Tensor:
    """(B, size, size): the weight of each pixel in each pixel of its row."""
    far = torch.arange(1 - size, size, device=deviations.device)
    weights = torch.exp(-0.5 * (far / deviations.clamp(min=0.05).unsqueeze(1)) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    at = torch.arange(size, device=deviations.device)
    return weights[:, at.unsqueeze(1) - at + size - 1]


def _cut(ink: torch.Tensor, pixels: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """(B, R, C) without the last (B,) rows or columns of ink at one side: top, bottom, left, right are 0 to 3."""
    own, side = Digits(ink), functional.one_hot(sides, 4).T.bool()
    lost = torch.where(side, pixels.round(), -max(ink.shape))  # of each side (4, B); far outside: nothing
    row, col = (torch.arange(size, device=ink.device) for size in ink.shape[1:])
    rows = (row >= (own.top + lost[0])[:, None]) & (row <= (own.bottom - lost[1])[:, None])
    cols = (col >= (own.left + lost[2])[:, None]) & (col <= (own.right - lost[3])[:, None])
    return ink * (rows[:, :, None] & cols[:, None])


def augmented(
    sequences: torch.Tensor, model: RowLstm, config: AugmentConfig, generator: torch.Generator,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """(B, R, C) sequences of the model's kind, each changed anew; ``labels`` (B,) are classes of the model."""
    if model.config.is_values:
        return augment_values(sequences, model, config, generator)
    if model.config.preparation == "digit":
        # strokes are drawn by what a class is called: one's own classes may be other signs
        digits = labels if model.config.class_names == DIGITS else None
        return augment(sequences, config, generator, digits)
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


def _source_points(
    batch: int, rows: int, cols: int, config: AugmentConfig, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
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
    points = functional.affine_grid(matrix.to(device), [batch, 1, rows, cols], align_corners=False)
    if config.elastic_px:
        knots = torch.randn(batch, 2, _KNOTS, _KNOTS, generator=generator).to(device)
        # (B, 2, R, C): a smooth field of the knots, unit variance at every pixel
        field = _spread(rows).to(device) @ knots @ _spread(cols).T.to(device)
        field *= torch.tensor([2 / cols, 2 / rows], device=device).view(2, 1, 1) * config.elastic_px
        points += field.permute(0, 2, 3, 1)
    return points


@cache
def _spread(size: int) -> torch.Tensor:
    """(size, knots): Gaussian weights of the knots at each pixel, rows of unit length."""
    pixels = torch.linspace(0, _KNOTS - 1, size).unsqueeze(1)
    weights = torch.exp(-0.5 * ((pixels - torch.arange(_KNOTS)) / 0.8) ** 2)
    return functional.normalize(weights, dim=1)
