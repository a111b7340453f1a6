"""Tests of edgelstm.runtime.calibration: probabilities and temperature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelstm.runtime.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
)


def drawn(temperature: float, n: int = 4_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with the probabilities that these logits have at this temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (n, 10)).astype(np.float32)
    shares = probabilities(logits, temperature)
    return logits, (shares.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_drew_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.06)


def test_no_neighbouring_temperature_is_better() -> None:
    logits, labels = drawn(1.7)
    best = fit_temperature(logits, labels)
    found = [negative_log_likelihood(logits, labels, best * factor) for factor in (0.98, 1, 1.02)]
    assert min(found) == found[1], found


def test_the_likelihood_is_that_of_the_probabilities() -> None:
    logits, labels = drawn(1.0, n=50)
    true = probabilities(logits, 1.3)[np.arange(50), labels]
    assert negative_log_likelihood(logits, labels, 1.3) == pytest.approx(-np.log(true).mean())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=9), st.data())
def test_a_temperature_is_a_number_within_bounds_whatever_the_logits(
    rows: list[list[float]], data: st.DataObject
) -> None:
    labels = np.array([data.draw(st.integers(0, 2)) for _ in rows])
    found = fit_temperature(np.array(rows, np.float32), labels)
    assert 0.99 * MIN_TEMPERATURE <= found <= 1.01 * MAX_TEMPERATURE


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.zeros((2, 3)), np.zeros(1, int)),
        (np.full((1, 3), np.nan), np.zeros(1, int)),
    ],
)
def test_a_temperature_of_nothing_or_of_nan_is_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a temperature for"):
        fit_temperature(logits.astype(np.float32), labels)


@pytest.mark.parametrize(("n", "least", "most"), [(8, 0.85, 0.95), (40, 0.96, 0.985), (1000, 0.998, 0.9995)])
def test_few_right_answers_are_no_proof_of_certainty(n: int, least: float, most: float) -> None:
    logits = np.tile(np.float32([9.0, 0.0, 0.0, 0.0]), (n, 1))
    labels = np.zeros(n, np.int64)
    confidence = probabilities(logits[:1], fit_temperature(logits, labels)).max()
    assert least < confidence < most
