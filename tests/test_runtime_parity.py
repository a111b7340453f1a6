"""Tests of edgelstm.runtime.parity: values and decisions are compared, and NaN never passes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgelstm.runtime.parity import ATOL, RTOL, Disagreement, compare

FINITE = st.floats(-1e3, 1e3, width=32)
LOGITS = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=FINITE)


def logits(*rows):
    return np.array(rows, np.float32)


@settings(deadline=None)
@given(LOGITS)
def test_anything_finite_equals_itself(values):
    report = compare(values, values.copy())
    assert (True, 0.0, 0.0, len(values)) == (
        report.passed,
        report.max_difference,
        report.tolerance_needed,
        report.n_same,
    )


@settings(deadline=None, max_examples=50)
@given(LOGITS, st.data())
def test_values_pass_exactly_where_numpy_calls_them_close(values, data):
    change = data.draw(arrays.arrays(np.float32, values.shape, elements=st.floats(-(2.0**-16), 2.0**-16, width=32)))
    changed = values + change
    expected = np.isclose(changed.astype(np.float64), values.astype(np.float64), atol=ATOL, rtol=RTOL).all()
    report = compare(values, changed)
    # at the very edge the two formulas round differently
    assert expected == report.values_passed or math.isclose(report.tolerance_needed, ATOL, rel_tol=1e-9)


def test_the_largest_difference_is_reported():
    assert compare(logits([1, 2, 3], [4, 5, 6]), logits([1, 2, 3], [4, 4.75, 6])).max_difference == 0.25


def test_the_tolerance_needed_is_the_smallest_that_passes():
    reference, found = logits([100, 0]), logits([100.5, 0])
    needed = compare(reference, found, rtol=1e-3).tolerance_needed
    assert pytest.approx(0.5 - 1e-3 * 100) == needed
    assert compare(reference, found, atol=needed, rtol=1e-3).values_passed
    assert not compare(reference, found, atol=0.999 * needed, rtol=1e-3).values_passed


def test_the_relative_tolerance_is_of_the_reference_not_of_the_other():
    small, large = logits([1, 0]), logits([2, 0])
    assert [
        compare(large, small, atol=0, rtol=0.5).passed,
        compare(small, large, atol=0, rtol=0.5).passed,
    ] == [True, False]


def test_another_decision_fails_even_where_the_values_pass():
    report = compare(logits([0, 0, 1e-6], [9, 0, 0]), logits([1e-6, 0, 0], [9, 0, 0]))
    assert (report.values_passed, report.passed, report.n_same) == (True, False, 1)


def test_other_values_fail_even_where_the_decisions_are_the_same():
    report = compare(logits([0, 1]), logits([0, 1.001]))
    assert (report.values_passed, report.passed, report.disagreements) == (False, False, ())


def test_a_disagreement_names_image_classes_and_the_references_margin():
    report = compare(logits([5, 1, 2], [1, 2.5, 4]), logits([5, 1, 2], [1, 4.5, 4]))
    assert (Disagreement(index=1, reference=2, found=1, margin=1.5),) == report.disagreements


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["reference", "found", "both"])
def test_a_value_that_is_not_finite_never_passes(value, where):
    good, bad = logits([1, 2], [3, 4]), logits([1, 2], [3, value])
    report = compare(good if where == "found" else bad, good if where == "reference" else bad)
    assert not report.passed
    assert not report.values_passed
    assert math.isnan(report.tolerance_needed)
    assert [one.index for one in report.disagreements] == [1]


@pytest.mark.parametrize(("one", "other"), [((2, 3), (2, 4)), ((2, 3), (1, 3)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_shapes_that_cannot_be_compared_are_refused(one, other):
    with pytest.raises(ValueError, match=r"logits: found .*, expected the reference's"):
        compare(np.zeros(one, np.float32), np.zeros(other, np.float32))


def test_one_class_alone_has_no_second_and_so_an_endless_margin():
    report = compare(logits([math.nan]), logits([0]))
    assert math.inf == report.disagreements[0].margin


def test_the_limits_are_those_the_reports_speak_of():
    report = compare(logits([0]), logits([0]))
    assert (report.atol, report.rtol) == (1e-5, 1e-5)
