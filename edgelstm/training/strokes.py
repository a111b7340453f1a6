"""Draw digits as other hands write them: MNIST's writers made no flags, bars and hooks, or hardly any.

A 1 gets a flag at its top and a foot below it, a 7 a bar through its stem, a 2 a loop, a 9 a hook; a 4 is drawn anew,
closed or open, for the way from one to the other is none of strokes. All is placed by the digit's own ink, as thick as
it, with anti-aliased edges, and so that the class stays what it was: a flag is never level, as a 7's top is.
"""

import math
from collections.abc import Callable

import torch

INK = 100.0
"""Levels from which a pixel belongs to a digit."""
_N_DRAWS = 10

Draws = torch.Tensor
"""(B, _N_DRAWS), uniform in 0 to 1."""
Strokes = torch.Tensor
"""(B, S, 2, 2): the two ends of each straight stroke, x and y of pixels. One without length is no stroke."""


class Digits:
    """Where the ink of (B, R, C) float levels is: each a (B,) of pixels."""

    def __init__(self, ink: torch.Tensor) -> None:
        self.ink = ink
        inked = (ink >= INK).to(ink.dtype)
        rows, cols = inked.amax(2), inked.amax(1)
        self.top, self.left = rows.argmax(1).to(ink.dtype), cols.argmax(1).to(ink.dtype)
        self.bottom = ink.shape[1] - 1 - rows.flip(1).argmax(1)
        self.right = ink.shape[2] - 1 - cols.flip(1).argmax(1)
        self.height, self.width = self.bottom - self.top, self.right - self.left
        # what has the area and the outline of a long stroke is as thick as twice their ratio
        outline = ink.diff(dim=1).abs().sum((1, 2)) + ink.diff(dim=2).abs().sum((1, 2))
        self.thickness = (2 * ink.sum((1, 2)) / (math.pi / 4 * outline).clamp(min=1)).clamp(1.5, 4.5)

    def x_at(self, y: torch.Tensor) -> torch.Tensor:
        """The middle of the ink at a height."""
        row = torch.arange(self.ink.shape[1], device=y.device)
        mass = (self.ink * torch.exp(-((row - y.unsqueeze(1)) ** 2)).unsqueeze(2)).sum(1)
        found: torch.Tensor = mass @ torch.arange(float(self.ink.shape[2]), device=y.device) / mass.sum(1).clamp(min=1)
        return found

    def points(self, *places: tuple[torch.Tensor | float, torch.Tensor | float]) -> torch.Tensor:
        """(B, K, 2): pixels of places in the digit's box, 0 to 1 from the left and from the top."""
        return _points(*((self.left + x * self.width, self.top + y * self.height) for x, y in places))


def redrawn(ink: torch.Tensor, digits: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """(B, R, C) float levels, this share of the 1s, 2s, 4s, 7s and 9s with other strokes.

    ``digits`` (B,) on the CPU says what each picture shows. Random numbers come from ``generator`` (on the CPU).
    """
    chosen, result = torch.rand(len(ink), generator=generator) < share, ink.clone()
    for digit, other_hand in _HANDS.items():
        places = (chosen & (digits == digit)).nonzero().squeeze(1)
        draws = torch.rand(len(places), _N_DRAWS, generator=generator).to(ink.device)
        if len(places):
            on_device = places.to(ink.device)
            own = Digits(ink[on_device])
            drawn = draw(other_hand(own, draws), own.thickness * (0.8 + 0.3 * draws[:, -1]), ink.shape[1:])
            result[on_device] = drawn if digit == 4 else torch.maximum(own.ink, drawn)
    return result


def draw(strokes: Strokes, thickness: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(B, R, C) levels of strokes so thick, (B,) pixels; edges fall off over one pixel."""
    y, x = (torch.arange(float(size), device=strokes.device) for size in shape)
    (from_x, from_y), (to_x, to_y) = (strokes[:, :, end, :, None, None].unbind(2) for end in (0, 1))  # (B, S, 1, 1)
    along_x, along_y = to_x - from_x, to_y - from_y
    away_x, away_y = x - from_x, y.unsqueeze(1) - from_y
    length = along_x**2 + along_y**2
    # (B, S, R, C): which part of the stroke is nearest to the pixel, 0 to 1
    part = ((away_x * along_x + away_y * along_y) / length.clamp(min=1e-6)).clamp_(0, 1)
    distance = (away_x - part * along_x) ** 2 + (away_y - part * along_y) ** 2
    nearest = torch.where(length > 0, distance, torch.inf).amin(1).sqrt()
    return 255 * (thickness.view(-1, 1, 1) / 2 + 0.5 - nearest).clamp_(0, 1)


def _one(own: Digits, draws: Draws) -> Strokes:
    """A flag, a foot or both."""
    high, low = own.top + 1, own.bottom - 1
    top, bottom = own.x_at(high), own.x_at(low)
    height = (low - high).clamp(min=4)
    # the flag falls to the left: 22 to 50 degrees from the stem, and at most 60 from the vertical
    slant = torch.atan2(top - bottom, height)
    fall = (slant + _between(draws[:, 0], 0.38, 0.87)).clamp(0.35, 1.05)
    reach = height * _between(draws[:, 1], 0.2, 0.7) * (draws[:, 2] < 0.9)
    flag = _points((top, high), (top - reach * fall.sin(), high + reach * fall.cos()))
    with_foot = (draws[:, 3] < 0.45) | (draws[:, 2] >= 0.9)
    left, right = (height * _between(draws[:, at], 0.12, 0.35) * with_foot for at in (4, 5))
    tilt = _between(draws[:, 6], -0.15, 0.15)
    foot = _points((bottom - left, low + left * tilt), (bottom + right, low - right * tilt))
    return torch.stack([flag, foot], 1)


def _two(own: Digits, draws: Draws) -> Strokes:
    """A loop in the lower left corner."""
    wide, high = own.height * _between(draws[:, 0], 0.1, 0.2), own.height * _between(draws[:, 1], 0.07, 0.14)
    middle_x = own.left + wide * _between(draws[:, 2], 0.7, 1.3)
    middle_y = own.bottom - 1 - high * _between(draws[:, 3], 0.5, 1.2)
    angles = [i * math.pi / 4 for i in range(9)]
    return _polyline(
        _points(*((middle_x + wide * math.cos(angle), middle_y + high * math.sin(angle)) for angle in angles))
    )


def _four(own: Digits, draws: Draws) -> Strokes:
    """All of it: closed, with one point at the top, or open, with the arm and the stem apart."""
    closed = (draws[:, 0] < 0.5).to(draws.dtype)
    stem_top_x, stem_x = _between(draws[:, 1], 0.6, 0.8), _between(draws[:, 2], 0.5, 0.75)
    stem_top_y = (1 - closed) * _between(draws[:, 3], 0, 0.35)
    # the arm begins at the stem's top, or well to the left of it
    arm_x = torch.lerp(_between(draws[:, 4], 0.05, 0.3), stem_top_x, closed)
    arm_y = (1 - closed) * _between(draws[:, 5], 0, 0.15)
    bar_y = _between(draws[:, 6], 0.52, 0.7)
    corner = (_between(draws[:, 7], 0, 0.1), bar_y)
    stem_x = torch.lerp(stem_x, stem_top_x - 0.1 * draws[:, 2], closed)
    arm = _polyline(own.points((arm_x, arm_y), corner, (1.0, bar_y + _between(draws[:, 8], -0.08, 0.05))))
    return torch.cat([arm, own.points((stem_top_x, stem_top_y), (stem_x, 1.0)).unsqueeze(1)], 1)


def _seven(own: Digits, draws: Draws) -> Strokes:
    """A bar through the stem."""
    y = own.top + own.height * _between(draws[:, 0], 0.42, 0.62)
    x = own.x_at(y)
    left, right = (own.height * _between(draws[:, at], 0.15, 0.33) for at in (1, 2))
    rise = _between(draws[:, 3], -0.15, 0.45)
    return _points((x - left, y + left * rise), (x + right, y - right * rise)).unsqueeze(1)


def _nine(own: Digits, draws: Draws) -> Strokes:
    """A hook to the left at the lower end."""
    y = own.bottom - 1
    x, reach = own.x_at(y), own.height * _between(draws[:, 0], 0.2, 0.5)
    rise = reach * _between(draws[:, 1], 0.1, 0.6)
    return _polyline(
        _points((x, y), (x - 0.35 * reach, y + 0.5), (x - 0.7 * reach, y - 0.25 * rise), (x - reach, y - rise))
    )


_HANDS: dict[int, Callable[[Digits, Draws], Strokes]] = {1: _one, 2: _two, 4: _four, 7: _seven, 9: _nine}


def _points(*places: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(B, K, 2) of (B,) x and (B,) y each."""
    return torch.stack([torch.stack([x, y], 1) for x, y in places], 1)


def _polyline(points: torch.Tensor) -> Strokes:
    """(B, K, 2) -> (B, K - 1, 2, 2): from each point to the next."""
    return torch.stack([points[:, :-1], points[:, 1:]], 2)


def _between(draw: torch.Tensor, least: float, most: float) -> torch.Tensor:
    return least + (most - least) * draw
