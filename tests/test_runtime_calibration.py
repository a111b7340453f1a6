"""Tests of edgelstm.runtime.calibration: probabilities, temperature, and the score of being no digit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelstm.contract import N_VIEWS, NoDigitRule
from edgelstm.runtime.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    logits_of_views,
    negative_log_likelihood,
    no_digit_score,
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


class CornerRunner:
    """Logits that are the four corners of a picture."""

    name = "corners"

    def logits(self, sequences: np.ndarray, lengths: None = None) -> np.ndarray:
        return sequences[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(np.float32)


def test_the_views_are_the_picture_its_halves_its_mirror_image_and_its_transpose() -> None:
    picture = np.zeros((2, 4, 4), np.uint8)
    picture[1, [0, 0, 3, 3], [0, 3, 0, 3]] = 1, 2, 3, 4
    expected = [[1, 2, 3, 4], [1, 2, 0, 0], [0, 0, 3, 4], [1, 0, 3, 0], [0, 2, 0, 4], [2, 1, 4, 3], [1, 3, 2, 4]]
    found = logits_of_views(CornerRunner(), picture)
    assert found.shape == (2, N_VIEWS * 4)
    assert found[1].reshape(N_VIEWS, 4).tolist() == expected
    assert not found[0].any()


def test_the_score_is_a_sum_of_tanh_units() -> None:
    rule = NoDigitRule(((1.0, -2.0, 0.5), (0.0, 1.0, 0.0)), (3.0, -1.0, 0.25))
    found = no_digit_score(np.float32([[1, 2], [0, 0]]), rule)
    expected = [3 * np.tanh(-2.5) - np.tanh(2) + 0.25, 3 * np.tanh(0.5) + 0.25]
    assert found == pytest.approx(expected)
