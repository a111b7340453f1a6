"""Tests of edgelstm.measure.classes: counts by hand, and the exact interval against published and other values."""

import numpy as np
import pytest

from edgelstm.contract import Score
from edgelstm.measure.classes import ClassReport, exact_interval


def report():
    """True a a a b b c, answered a a b b c c; class d never occurs."""
    labels, answers = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    return ClassReport.of(np.eye(4, dtype=np.float32)[answers], labels, ("a", "b", "c", "d"))


def test_rows_of_the_confusion_table_are_true_classes_and_columns_answers():
    assert ((2, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 0), (0, 0, 0, 0)) == report().confusion
    assert Score(4, 6) == report().score


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    # precision and recall by hand: a 1, 2/3; b 1/2, 1/2; c 1/2, 1
    expected = np.mean([2 * p * r / (p + r) for p, r in ((1, 2 / 3), (1 / 2, 1 / 2), (1 / 2, 1))])
    assert expected == pytest.approx(report().macro_f1)


def test_a_class_that_is_answered_but_never_occurs_counts_as_0_in_macro_f1():
    """As in scikit-learn: true a a, answered a b."""
    found = ClassReport.of(np.eye(3, dtype=np.float32)[[0, 1]], np.array([0, 0]), ("a", "b", "c"))
    assert (2 / 3 + 0) / 2 == pytest.approx(found.macro_f1)


def test_what_was_confused_comes_with_the_most_frequent_first():
    labels, answers = np.array([0, 0, 1, 1, 1]), np.array([1, 0, 0, 0, 2])
    found = ClassReport.of(np.eye(3, dtype=np.float32)[answers], labels, ("a", "b", "c")).confused()
    assert [("b", "a", 2), ("a", "b", 1), ("b", "c", 1)] == found


@pytest.mark.parametrize(("n_right", "n"), [(1, 1), (5, 5), (0, 5), (0, 1000)])
def test_all_or_none_right_have_the_interval_that_can_be_written_down(n_right, n):
    bound = 0.025 ** (1 / n)
    expected = (bound, 1.0) if n_right else (0.0, 1 - bound)
    assert expected == pytest.approx(exact_interval(Score(n_right, n)), abs=1e-9)


@pytest.mark.parametrize(
    ("n_right", "n", "expected"),
    [(81, 263, (0.2527, 0.3676)), (15, 148, (0.0578, 0.1617)), (1, 29, (0.0009, 0.1776))],
)
def test_the_interval_is_that_of_a_published_table(n_right, n, expected):
    """R. Newcombe, Statistics in Medicine 17 (1998), table I, method 5."""
    assert expected == pytest.approx(exact_interval(Score(n_right, n)), abs=5e-5)


def test_a_test_of_thousands_takes_no_time_and_its_interval_is_about_two_deviations():
    low, high = exact_interval(Score(9_900, 10_000))
    deviation = (0.99 * 0.01 / 10_000) ** 0.5
    assert (0.99 - 1.96 * deviation, 0.99 + 1.96 * deviation) == pytest.approx((low, high), abs=2e-4)
