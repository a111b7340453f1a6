"""That confidence means what it says: probabilities of logits, and the temperature that makes them fit."""

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Logits

Shares = npt.NDArray[np.float64]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Outside, one sharpens or flattens until no confidence is left to speak of."""


def probabilities(logits: Logits, temperature: float = 1.0) -> Shares:
    """Softmax: (B, classes) logits over the temperature -> (B, classes) probabilities that sum to 1."""
    scaled = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    powers = np.exp(scaled)
    shares: Shares = powers / powers.sum(axis=1, keepdims=True)
    return shares


def negative_log_likelihood(
    logits: Logits, labels: npt.NDArray[np.integer], temperature: float = 1.0, doubt: float = 0.0
) -> float:
    """Mean of -log p(true class), nats, for (N, classes) logits and (N,) labels.

    With ``doubt`` a label is taken to be right with probability 1 - doubt, and else any of the classes.
    """
    scaled = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    true = scaled[np.arange(len(labels)), labels.astype(np.int64)]
    said = (1 - doubt) * true + doubt * scaled.mean(axis=1)
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - said))


def fit_temperature(logits: Logits, labels: npt.NDArray[np.integer]) -> float:
    """The temperature with the smallest mean negative log likelihood (Guo and others 2017).

    (N, classes) logits and (N,) labels of examples that nothing was fitted to. N right answers of N are no proof of
    a probability of 1, so each label is doubted by 1 / (N + 2) (Platt 1999): of 10 sequences none is 100 % sure. By
    golden section on the logarithm, rounded to four digits: deterministic. Raises ValueError if there is nothing to
    fit to.
    """
    if not len(labels) or len(logits) != len(labels) or not np.isfinite(logits).all():
        raise ValueError(f"a temperature for {len(logits)} rows of logits and {len(labels)} labels")
    low, high, doubt = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE), 1 / (len(labels) + 2)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):  # the loss has one minimum: it is convex in 1 / temperature
        first, second = high - golden * (high - low), low + golden * (high - low)
        losses = [negative_log_likelihood(logits, labels, np.exp(middle), doubt) for middle in (first, second)]
        if losses[0] < losses[1]:
            high = second
        else:
            low = first
    return float(f"{np.exp((low + high) / 2):.4g}")
