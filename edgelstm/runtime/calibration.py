"""Whether confidence means what it says: temperature, expected calibration error, reliability bins."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Logits

Shares = npt.NDArray[np.float64]

N_BINS = 10
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Outside, one sharpens or flattens until no confidence is left to speak of."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean confidence of its answers, 0 to 1; nan if there are none."""
    accuracy: float
    """Share of them that are right; nan if there are none."""


@dataclass(frozen=True)
class Reliability:
    """How far confidence and accuracy are apart."""

    bins: tuple[ReliabilityBin, ...]
    ece: float
    """Expected calibration error (Naeini and others 2015): mean |confidence - accuracy| over the answers, by bin."""
    nll: float
    """Mean negative log probability of the true class, nats."""
    n: int


def probabilities(logits: Logits, temperature: float = 1.0) -> Shares:
    """Softmax: (B, classes) logits over the temperature -> (B, classes) probabilities that sum to 1."""
    scaled = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    powers = np.exp(scaled)
    shares: Shares = powers / powers.sum(axis=1, keepdims=True)
    return shares


def negative_log_likelihood(logits: Logits, labels: npt.NDArray[np.integer], temperature: float = 1.0) -> float:
    """Mean of -log p(true class), nats, for (N, classes) logits and (N,) labels."""
    scaled = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    true = scaled[np.arange(len(labels)), labels.astype(np.int64)]
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - true))


def fit_temperature(logits: Logits, labels: npt.NDArray[np.integer]) -> float:
    """The temperature with the smallest mean negative log likelihood (Guo and others 2017).

    (N, classes) logits and (N,) labels of digits that nothing was fitted to. By golden section on the
    logarithm, rounded to four digits: deterministic. Raises ValueError if there is nothing to fit to.
    """
    if not len(labels) or len(logits) != len(labels) or not np.isfinite(logits).all():
        raise ValueError(f"a temperature for {len(logits)} rows of logits and {len(labels)} labels")
    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):  # the loss has one minimum: it is convex in 1 / temperature
        first, second = high - golden * (high - low), low + golden * (high - low)
        if negative_log_likelihood(logits, labels, np.exp(first)) < negative_log_likelihood(
            logits, labels, np.exp(second)
        ):
            high = second
        else:
            low = first
    return float(f"{np.exp((low + high) / 2):.4g}")


def reliability(shares: Shares, labels: npt.NDArray[np.integer], n_bins: int = N_BINS) -> Reliability:
    """Bins of equal width over (N, classes) probabilities and (N,) labels; ValueError if N is 0."""
    if not len(labels):
        raise ValueError("the reliability of no answers")
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    true = shares[np.arange(len(labels)), labels.astype(np.int64)]
    which = np.minimum(np.ceil(confidence * n_bins).astype(int) - 1, n_bins - 1)
    bins = []
    for i in range(n_bins):
        own = which == i
        means = (float(confidence[own].mean()), float(right[own].mean())) if own.any() else (np.nan, np.nan)
        bins.append(ReliabilityBin(i / n_bins, (i + 1) / n_bins, int(own.sum()), *means))
    ece = sum(part.n * abs(part.confidence - part.accuracy) for part in bins if part.n) / len(labels)
    nll = float(-np.log(np.maximum(true, np.finfo(float).tiny)).mean())
    return Reliability(tuple(bins), float(ece), nll, len(labels))
