"""That confidence means what it says: probabilities of logits, the temperature that makes them fit, and no digits."""

import numpy as np
import numpy.typing as npt

from edgelstm.contract import N_VIEWS, Logits, NoDigitRule, Pixels, Runner

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


def logits_of_views(runner: Runner, pixels: Pixels, logits: Logits | None = None) -> Logits:
    """Square (B, rows, rows) pictures -> (B, N_VIEWS * classes) logits of each as it is and of six changes of it.

    Its upper, lower, left and right half, the rest blank; mirrored; and transposed. What a digit becomes by these is
    read as certain classes; a letter that is taken for that digit, or two digits, become something else. ``logits``
    are those of the pictures as they are, if they are known.
    """
    half = pixels.shape[1] // 2
    views = np.stack([pixels] * 4 + [pixels[:, :, ::-1], pixels.transpose(0, 2, 1)])
    views[0, :, half:], views[1, :, :half], views[2, :, :, half:], views[3, :, :, :half] = 0, 0, 0, 0
    found = runner.logits(views.reshape(-1, *pixels.shape[1:]))
    whole = runner.logits(pixels) if logits is None else logits
    return np.concatenate([whole, *np.split(found, N_VIEWS - 1)], axis=1)


def no_digit_score(views: Logits, rule: NoDigitRule) -> npt.NDArray[np.float64]:
    """(B,) scores of what `logits_of_views` gives: above 0 for no digit; sigmoid(-score) is the probability of one."""
    hidden = np.array(rule.hidden)
    units = np.tanh(views @ hidden[:, :-1].T + hidden[:, -1])
    score: npt.NDArray[np.float64] = units @ np.array(rule.output[:-1]) + rule.output[-1]
    return score
