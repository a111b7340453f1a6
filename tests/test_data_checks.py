"""Tests of edgelstm.data.checks: statistics, the baseline, and the warnings that protect."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgelstm.data.checks as checks
from edgelstm.contract import Score
from edgelstm.data.arrays import dataset_from_arrays
from edgelstm.data.checks import column_statistics, largest_class_baseline, report
from edgelstm.data.dataset import Part

X = np.random.default_rng(0).normal(size=(60, 8, 3)).astype(np.float32)
Y = np.arange(60) % 3


def warnings_with(text, dataset):
    return [line for line in dataset.warnings if text in line]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 4), st.sampled_from([0, 1e3, -1e6]), st.integers(1, 50))
@settings(max_examples=80, deadline=None)
def test_statistics_equal_those_of_all_rows_at_once(n, rows, cols, offset, chunk):
    draw = np.random.default_rng(n)
    lengths = draw.integers(1, rows + 1, n).astype(np.int32)
    sequences = (draw.normal(size=(n, rows, cols)) + offset).astype(np.float32)
    inside = np.arange(rows) < lengths[:, None]
    sequences[~inside] = 0
    plain = sequences[inside].astype(np.float64)
    before, checks.CHUNK_VALUES = checks.CHUNK_VALUES, chunk
    try:
        found = column_statistics(Part(sequences, np.zeros(n, np.int64), "", lengths))
    finally:
        checks.CHUNK_VALUES = before
    spread = plain.std(0)
    np.testing.assert_allclose(found.mean, plain.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, np.where(np.ptp(plain, axis=0) == 0, 1, spread), rtol=1e-9)
    assert (plain.min(0).tolist(), plain.max(0).tolist()) == (found.minimum.tolist(), found.maximum.tolist())


def test_the_report_counts_and_the_baseline_is_the_largest_class_of_train():
    y = np.where(np.arange(60) < 40, "big", "small")
    dataset = dataset_from_arrays(X, y)
    found = report(dataset)
    assert {"train": (26, 13), "validation": (6, 3), "test": (8, 4)} == found.counts
    assert Score(found.counts["test"][0], len(dataset.test)) == found.baseline == largest_class_baseline(dataset)
    assert ((8, 8.0, 8), dataset.sha256, dataset.warnings) == (found.lengths, found.sha256, found.warnings)


def test_good_data_warns_only_that_no_groups_are_known():
    [warning] = dataset_from_arrays(X, Y).warnings
    assert warning.startswith("no groups are known: ")
    assert () == dataset_from_arrays(X, Y, group=np.arange(60) // 3).warnings
    assert () == dataset_from_arrays(X[:40], Y[:40], X_test=X[40:], y_test=Y[40:]).warnings


def test_the_same_sequence_in_two_parts_is_counted_and_named():
    again = np.concatenate([X[:2], X[50:]])
    dataset = dataset_from_arrays(X[:50], Y[:50], X_test=again, y_test=[0, 1, *Y[50:]], X_validation=X[:1] + 1,
                                  y_validation=[0])  # fmt: skip
    assert ["2 of 12 test sequences are in another part too, such as test[0] = train[0]"] == warnings_with(
        "another part", dataset)  # fmt: skip
    twice = dataset_from_arrays(np.concatenate([X[:20], X[:20]]), np.tile(Y[:20], 2))
    assert warnings_with("another part", twice)
    assert [] == warnings_with("windows overlap", twice)


def signal(n, cols, seed=0):
    return np.random.default_rng(seed).normal(size=(n, cols)).astype(np.float32).cumsum(0)


@pytest.mark.parametrize(("cols", "rows", "hop"), [(3, 32, 16), (3, 32, 24), (1, 80, 40), (6, 20, 5)])
def test_windows_that_overlap_across_the_split_are_found(cols, rows, hop):
    recording = signal(4000, cols)
    x = np.stack([recording[at : at + rows] for at in range(0, 1600, hop)])
    y = np.arange(len(x)) // 2 % 2
    assert 1 == len(warnings_with("windows overlap", dataset_from_arrays(x, y)))
    apart = np.stack([recording[at : at + rows] for at in range(0, 3900, rows)])
    assert [] == warnings_with("windows overlap", dataset_from_arrays(apart, np.arange(len(apart)) % 2))


def test_windows_of_one_recording_as_a_group_do_not_overlap_across_the_split():
    x = [signal(400, 3, seed)[at : at + 32] for seed in range(10) for at in range(0, 300, 16)]
    group = np.arange(len(x)) // 19
    dataset = dataset_from_arrays(np.stack(x), np.arange(len(x)) % 2, group=group)
    assert () == dataset.warnings


def test_windows_of_unequal_length_overlap_too():
    recording = signal(400, 3)
    starts = np.arange(0, 300, 12)
    lengths = np.where(starts % 24, 32, 28)
    x = np.stack(
        [np.where((np.arange(32) < n)[:, None], recording[s : s + 32], 0) for s, n in zip(starts, lengths, strict=True)]
    )
    assert warnings_with("windows overlap", dataset_from_arrays(x, np.arange(25) % 2, lengths=lengths))


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_resting_or_coarse_signals_are_no_overlap(levels):
    coarse = np.random.default_rng(0).integers(0, levels, (300, 40, 1))
    assert [] == warnings_with("windows overlap", dataset_from_arrays(coarse, np.arange(300) % 2))


def test_constant_columns_and_offsets_beyond_float32_are_named():
    x = X.copy()
    x[:, :, 1] = 4
    x[:, :, 2] += 1e7
    dataset = dataset_from_arrays(x, Y)
    assert warnings_with("columns that are constant: 2", dataset)
    assert warnings_with("columns that are too far from 0 for float32: subtract their offset: 3", dataset)
    assert 1 == column_statistics(dataset.train).std[1]


def test_missing_and_unequal_classes_are_named():
    y = np.where(np.arange(60) < 56, "many", "few")
    dataset = dataset_from_arrays(X, y, X_test=X[:5] + 1, y_test=["many"] * 5)
    assert warnings_with("test has no sequence of few", dataset)
    assert warnings_with("sequences of many, 3 of few; look at macro-F1", dataset)


def test_a_group_on_both_given_sides_is_named():
    dataset = dataset_from_arrays(
        X[:40], Y[:40], X_test=X[40:], y_test=Y[40:], group=np.arange(40) // 4, group_test=np.arange(20) // 4 + 9
    )
    [warning] = dataset.warnings
    assert warning == "1 group(s) in train and in test, such as 9: the score flatters"


def test_a_column_that_only_rises_is_named():
    x, lengths = X.copy(), np.arange(60) % 8 + 1
    x[:, :, 1] = np.arange(8) // 2 + 1e3  # a time stamp that repeats, padded with zeros
    padded = np.where((np.arange(8) < lengths[:, None])[:, :, None], x, 0)
    text = "columns that are never falling, as a time stamp or counter: leave those out: 2"
    assert warnings_with(text, dataset_from_arrays(x, Y))
    assert [] == warnings_with("never falling", dataset_from_arrays(padded[:, :1], Y))
    assert [] == warnings_with("never falling", dataset_from_arrays(X, Y))
    assert [] == warnings_with("never falling", dataset_from_arrays(padded, Y, lengths=lengths))  # two rows: not risen
    padded[lengths > 1, 0, 1] -= 1
    assert warnings_with(text, dataset_from_arrays(padded, Y, lengths=lengths))


def test_equal_sequences_of_different_classes_are_both_named():
    dataset = dataset_from_arrays(np.concatenate([X, X[:1]]), [*"abc" * 20, "b"], X_test=X[:1] + 1, y_test=["a"],
                                  X_validation=X[:1] + 2, y_validation=["a"])  # fmt: skip
    text = "1 sequences equal one of another class, such as train[60] (b) = train[0] (a)"
    assert [text] == warnings_with("of another class", dataset)
    assert [] == warnings_with("another part", dataset)
