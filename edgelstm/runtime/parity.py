"""Compare two sets of logits: same shapes, same values, same decisions. Knows no backend."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Logits

ATOL = 1e-5
"""Largest absolute difference of two fp32 logits of the same model on a CPU."""
RTOL = 1e-5
"""Largest difference relative to the reference, on top of ATOL."""

MAX_LOSS = 0.0005
"""Share of the sequences that a smaller precision may get wrong more than fp32."""
MEASURABLE = 0.05
"""McNemar's p below which a loss is no chance."""


@dataclass(frozen=True)
class Disagreement:
    """One image that two models decide differently."""

    index: int
    """Which image."""
    reference: int
    """The reference's class."""
    found: int
    """The other's class."""
    margin: float
    """The reference's lead of its first class over its second, in logits; small is a near tie."""


@dataclass(frozen=True)
class ParityReport:
    """How far one set of logits is from its reference."""

    n: int
    """Images compared."""
    max_difference: float
    """Largest absolute difference of two logits; NaN if any logit is not finite."""
    tolerance_needed: float
    """The smallest ``atol`` that would have passed with this ``rtol``; NaN if none would."""
    atol: float
    rtol: float
    disagreements: tuple[Disagreement, ...]
    """Every image decided differently."""

    @property
    def n_same(self) -> int:
        """Images decided alike."""
        return self.n - len(self.disagreements)

    @property
    def values_passed(self) -> bool:
        """All values within ``atol + rtol * |reference|``; False if anything is NaN."""
        return self.tolerance_needed <= self.atol

    @property
    def passed(self) -> bool:
        """Same values and same decisions."""
        return self.values_passed and not self.disagreements


@dataclass(frozen=True)
class McNemar:
    """Two models on the same images: is one right more often, or is it chance?"""

    n_lost: int
    """Images that only the reference gets right."""
    n_won: int
    """Images that only the other gets right."""
    p_value: float
    """Two-sided exact binomial probability of a split at least so uneven, were both equally good."""


def mcnemar(reference_right: npt.NDArray[np.bool_], found_right: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test on (N,) right answers of a reference and another model.

    Q. McNemar, Psychometrika 12 (1947): only the images on which they differ say anything.
    """
    n_lost = int((reference_right & ~found_right).sum())
    n_won = int((~reference_right & found_right).sum())
    n = n_lost + n_won
    tail = sum(math.comb(n, k) for k in range(min(n_lost, n_won) + 1))
    return McNemar(n_lost, n_won, min(1.0, 2 * tail / 2**n))


def costs_accuracy(test: McNemar, n: int) -> bool:
    """Whether more than MAX_LOSS of ``n`` sequences are lost.

    So few that one is more than that cannot show it: then only a loss that is no chance counts, McNemar's p < 0.05.
    """
    lost = (test.n_lost - test.n_won) / n
    return lost > MAX_LOSS and (n * MAX_LOSS >= 1 or test.p_value < MEASURABLE)


def compare(reference: Logits, found: Logits, *, atol: float = ATOL, rtol: float = RTOL) -> ParityReport:
    """Compare logits (N, classes) with a reference of the same shape.

    A value passes if ``|found - reference| <= atol + rtol * |reference|`` (numpy.isclose's rule, the
    reference on the right), so NaN never passes. Raises ValueError if the shapes differ.
    """
    if reference.shape != found.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"logits: found {found.shape}, expected the reference's {reference.shape}, 2-D and not empty")
    if not (np.isfinite(reference).all() and np.isfinite(found).all()):
        nan = float("nan")
        return ParityReport(len(reference), nan, nan, atol, rtol, _disagreements(reference, found))
    exact, other = reference.astype(np.float64), found.astype(np.float64)
    difference = np.abs(other - exact)
    needed = max(0.0, float((difference - rtol * np.abs(exact)).max()))
    return ParityReport(len(reference), float(difference.max()), needed, atol, rtol, _disagreements(reference, found))


def _disagreements(reference: Logits, found: Logits) -> tuple[Disagreement, ...]:
    mine, other = reference.argmax(1), found.argmax(1)
    unsure = ~(np.isfinite(reference).all(1) & np.isfinite(found).all(1))  # NaN decides nothing
    return tuple(
        Disagreement(int(i), int(mine[i]), int(other[i]), _margin(reference[i]))
        for i in np.flatnonzero((mine != other) | unsure)
    )


def _margin(logits: npt.NDArray[np.float32]) -> float:
    if len(logits) < 2:
        return float("inf")
    second, first = np.sort(logits)[-2:]
    return float(first - second)
