"""Tests of edgelstm.exporting.checks: where each question changes from yes to no."""

import numpy as np
import pytest

from edgelstm.contract import Score
from edgelstm.exporting.checks import (
    INT8_ATOL,
    INT8_SAME_SHARE,
    MAX_CONFIDENCE_SHIFT,
    NEAR_TIE,
    accuracy_check,
    confidence_check,
    kernel_check,
    near_parity,
    parity_check,
    score_check,
)
from edgelstm.exporting.export import MAX_LOSS
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.parity import compare, mcnemar


def logits_of(margin, n=1):
    """n rows of three classes, the first ahead of the second by ``margin``."""
    return np.tile(np.array([margin, 0, -5], np.float32), (n, 1))


@pytest.mark.parametrize(("margin", "passed"), [(1.9, True), (2.1, False), (5.0, False), (150.0, False)])
def test_two_classes_change_places_only_where_they_nearly_tie(margin, passed):
    """Values within the tolerance of a runner that is trusted: a lead of more than two of them cannot be lost so."""
    assert NEAR_TIE == 2.0
    tolerance = 1e-3
    reference, found = logits_of(margin * tolerance), logits_of(margin * tolerance)
    found[0, :2] = found[0, 1::-1]  # changed places: the difference itself is the margin
    parity = compare(reference, found, atol=margin * tolerance * 1.01, rtol=0.0)
    parity = type(parity)(**{**vars(parity), "atol": tolerance, "tolerance_needed": 0.0})
    assert (len(parity.disagreements), near_parity(parity)) == (1, passed)


@pytest.mark.parametrize(("difference", "passed"), [(0.9e-4, True), (1.1e-4, False)])
@pytest.mark.parametrize("on", ["digits", "noise"])
def test_values_may_differ_by_the_tolerance_on_digits_and_on_random_pixels(difference, passed, on):
    reference, off = logits_of(10.0, 4), logits_of(10.0 + difference, 4)
    found = (off, reference) if on == "digits" else (reference, off)
    check = parity_check("some runner", found, (reference, reference), 1e-4)
    assert (check.passed, check.question) == (passed, "same values and decisions: some runner")
    assert ("MORE THAN" in check.answer) is not passed
    assert "4/4 sequences and 4/4 random ones decided alike" in check.answer


def test_an_image_that_is_decided_otherwise_is_named_with_its_margin():
    reference, found = logits_of(3.0, 7), logits_of(3.0, 7)
    found[5] = [0, 3, -5]
    check = parity_check("r", (found, reference), (reference, reference), 1e-4)
    assert not check.passed
    assert "sequence 5: 0 became 1 (margin 3)" in check.answer


@pytest.mark.parametrize(("n_same", "passed"), [(80, True), (79, False), (0, False)])
def test_four_of_five_int8_logits_must_be_numpys_but_for_a_float32(n_same, passed):
    assert INT8_SAME_SHARE == 0.8
    reference, found = logits_of(9.0, 100), logits_of(9.0, 100)
    found[n_same:, 0] += 0.01
    check = kernel_check("how", reference, found, INT8_ATOL, int8=True)
    assert check.passed is passed
    assert f"{n_same:.1f}% of them have the same logits to 1e-4" in check.answer


@pytest.mark.parametrize(("difference", "passed"), [(0.09, True), (0.11, False)])
def test_a_tie_of_int8_may_move_a_logit_by_a_tenth_and_no_more(difference, passed):
    reference, found = logits_of(9.0, 100), logits_of(9.0, 100)
    found[3, 0] += difference
    assert kernel_check("how", reference, found, INT8_ATOL, int8=True).passed is passed


@pytest.mark.parametrize(("shift", "passed"), [(0.008, True), (0.012, False)])
@pytest.mark.parametrize("direction", [-1, 1])
def test_confidences_may_move_by_a_hundredth_in_the_mean(shift, passed, direction):
    assert MAX_CONFIDENCE_SHIFT == 0.01
    temperature = 1.5
    reference = logits_of(0.5, 10)
    before = probabilities(reference, temperature).max(1).mean()
    margins = np.linspace(0, 2, 20_001, dtype=np.float32)
    shares = probabilities(np.stack([margins, 0 * margins, 0 * margins - 5], 1), temperature).max(1)
    found = logits_of(margins[np.abs(shares - before - direction * shift).argmin()], 10)
    check = confidence_check("how", reference, found, temperature)
    assert check.passed is passed
    assert f"{shift:.4f} from torch's in the mean" in check.answer


@pytest.mark.parametrize(("n_lost", "n_won", "passed"), [(1, 0, True), (2, 0, False), (2, 1, True), (0, 9, True)])
def test_one_of_two_thousand_may_be_lost(n_lost, n_won, passed):
    assert MAX_LOSS == 0.0005
    labels = np.zeros(2_000, np.uint8)
    reference, found = logits_of(5.0, 2_000), logits_of(5.0, 2_000)
    found[:n_lost] = reference[100 : 100 + n_won] = [0, 5, -5]
    check = accuracy_check("how", reference, found, labels)
    assert check.passed is passed
    assert f"{n_lost} lost, {n_won} won" in check.answer


@pytest.mark.parametrize(("n_lost", "passed"), [(1, True), (5, True), (6, False)])
def test_so_few_that_one_is_too_much_must_show_that_it_is_no_chance(n_lost, passed):
    """6 lost and none won: McNemar's p is 2 / 2**6 = 0.03; 5: 0.06."""
    labels, reference, found = np.zeros(1_000, np.uint8), logits_of(5.0, 1_000), logits_of(5.0, 1_000)
    found[:n_lost] = [0, 5, -5]
    assert accuracy_check("how", reference, found, labels).passed is passed


def test_logits_that_are_not_finite_are_not_accurate():
    logits = logits_of(5.0, 10)
    found = logits.copy()
    found[0, 2] = np.nan
    assert accuracy_check("how", logits, found, np.zeros(10, np.uint8)).passed is False


@pytest.mark.parametrize(
    ("claimed", "passed"),
    [
        (None, None), (Score(8, 10), True), (Score(9, 10), False), (Score(5, 5), True), (Score(4, 5), False),
        (Score(98, 100), None), (Score(99, 100), False),
    ],
)  # fmt: skip
def test_a_claim_is_counted_open_or_refuted(claimed, passed):
    """Ten sequences, of which the last two are wrong."""
    logits = logits_of(5.0, 10)
    labels = np.array([0] * 8 + [1] * 2, np.uint8)
    assert score_check("claimed accuracy", claimed, logits, labels).passed is passed


def test_mcnemar_counts_only_where_they_differ():
    reference = np.array([True] * 8 + [False] * 2)
    found = np.array([True] * 6 + [False] * 2 + [True, False])
    test = mcnemar(reference, found)
    assert (test.n_lost, test.n_won) == (2, 1)
    assert test.p_value == 1.0
    assert mcnemar(np.ones(10, bool), np.zeros(10, bool)).p_value == pytest.approx(2 / 2**10)
    assert mcnemar(reference, reference).p_value == 1.0
