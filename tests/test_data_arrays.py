"""Tests of edgelstm.data.arrays: arrays, .npz, .ts, .csv and .npy files, broken and hostile ones too."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelstm.data.arrays import dataset_from_arrays, npz_arrays, read_sequence, sequence_from
from edgelstm.data.dataset import open_dataset
from edgelstm.errors import DataError

X = np.random.default_rng(0).normal(size=(20, 5, 3)).astype(np.float32)
Y = np.arange(20) % 2


def bytes_of(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def npz(folder, **arrays):
    (folder / "data.npz").write_bytes(bytes_of(**arrays))
    return folder / "data.npz"


def whole(dataset):
    return np.concatenate([part.sequences for part in dataset.parts.values()])


# Arrays and .npz


def test_an_npz_and_its_arrays_are_the_same_data(tmp_path):
    arrays = {"X": X, "y": Y, "X_test": X[:4] + 1, "y_test": Y[:4], "group": np.arange(20) // 2}
    read, given = open_dataset(npz(tmp_path, **arrays)), dataset_from_arrays(**arrays)
    assert ("data", "values", ("0", "1")) == (read.name, read.preparation, read.class_names)
    assert np.array_equal(whole(read), whole(given))
    assert read.train.groups.tolist() == given.train.groups.tolist()
    assert {sequence.tobytes() for sequence in X} >= {sequence.tobytes() for sequence in read.train.sequences}


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float16, bool, np.uint16])
def test_every_real_dtype_becomes_float32_values(dtype):
    dataset = dataset_from_arrays((X * 3).astype(dtype), Y)
    assert ("values", np.float32) == (dataset.preparation, dataset.train.sequences.dtype)


def test_uint8_are_pixels_unless_values_are_asked_for():
    pixels = np.random.default_rng(1).integers(0, 256, (20, 6, 4), np.uint8)
    dataset = dataset_from_arrays(pixels, Y)
    assert ("plain", np.uint8, 6, 4) == (
        dataset.preparation, dataset.train.sequences.dtype, dataset.rows, dataset.cols)  # fmt: skip
    assert "values" == dataset_from_arrays(pixels, Y, preparation="values").preparation
    assert (3, 2) == dataset_from_arrays(pixels, Y, size=(3, 2)).train.sequences.shape[1:]
    with pytest.raises(DataError, match="holds no pictures"):
        dataset_from_arrays(X, Y, size=(3, 2))


def test_two_dimensions_are_one_column_and_channels_first_are_turned():
    assert (5, 1) == dataset_from_arrays(X[:, :, 0], Y).train.sequences.shape[1:]
    turned = dataset_from_arrays(X.swapaxes(1, 2), Y, channels_first=True)
    assert np.array_equal(whole(turned), whole(dataset_from_arrays(X, Y)))


def test_padding_is_zeroed_whatever_it_was_and_the_callers_array_stays():
    padded = X.copy()
    padded[:, 3:] = np.nan
    dataset = dataset_from_arrays(padded, Y, lengths=[3] * 19 + [2])
    assert np.isfinite(whole(dataset)).all()
    assert np.isnan(padded[:, 3:]).all()


def test_class_names_stand_for_indices_or_are_the_labels():
    for y in (Y, np.array(["no", "yes"])[Y]):
        dataset = dataset_from_arrays(X, y, class_names=["no", "yes"])
        assert ("no", "yes") == dataset.class_names
    assert ("yes", "no") == dataset_from_arrays(X, y, class_names=["yes", "no"]).class_names
    with pytest.raises(DataError, match=r"found int64 from 0 to 1, expected indices 0 to 0"):
        dataset_from_arrays(X, Y, class_names=["no"])


def test_whole_floats_bytes_and_objects_are_labels():
    assert ("0", "1") == dataset_from_arrays(X, Y.astype(float)).class_names
    assert ("0", "1") == dataset_from_arrays(X, Y.astype("S1")).class_names
    assert ("a", "b") == dataset_from_arrays(X, np.array(["a", "b"], object)[Y]).class_names


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"y": Y + 0.5}, "labels as floats, such as 0.5, expected whole numbers or texts"),
        ({"y": np.where(Y, np.nan, 1)}, "labels as floats, such as nan"),
        ({"y": Y[:19]}, r"y of data.npz does not fit X: found int64 of shape \(19,\), expected \(20,\)"),
        ({"y": np.eye(2)[Y]}, r"y of data.npz does not fit X: found float64 of shape \(20, 2\)"),
        ({"y": Y.astype(complex)}, "are no classes: found complex128"),
        ({"X": X[:0], "y": Y[:0]}, "has no sequences"),
        ({"X": X[:, :, :0]}, "found 5 rows x 0 columns"),
        ({"X": np.float32(1)}, "does not fit"),
        ({"X": X[:, :, :, None, None]}, "at most 3 dimensions"),
        ({"X": X.astype("U8")}, "holds no numbers: found <U8"),
        ({"X": X + 1j}, "holds no numbers: found complex64"),
        ({"X": np.zeros((20, 4097, 1), np.uint8)}, "found 4,097 rows x 1 columns, expected 1 to 4,096"),
        ({"X": np.where(X == X[7, 2, 1], np.nan, X)}, r"X\[7\] of data.npz: row 3, column 2: found nan, expected a fi"),
        ({"X": np.where(X == X[0, 0, 0], 1e39, X.astype(float))}, r"X\[0\] of data.npz: row 1, column 1: found inf"),
        ({"lengths": np.full(20, 6)}, "lengths of data.npz do not fit X: found int64 from 6 to 6, expected whole"),
        ({"lengths": np.zeros(20, int)}, "expected whole numbers from 1 to 5"),
        ({"lengths": np.full(20, 2.5)}, "found float64 from 2.5"),
        ({"lengths": np.full(20, "5")}, "found <U1, expected whole numbers from 1 to 5"),
        ({"group": np.zeros(20, [("a", "f4")])}, "group of data.npz does not fit X: found .*, expected"),
        ({"group": Y[:3]}, "group of data.npz does not fit X"),
        ({"group": np.where(Y, np.nan, 1)}, "found labels as floats, such as nan"),
        ({"class_names": ["a", "a"]}, "a class is named twice: found a"),
        ({"X_test": X}, "y_test of data.npz does not fit X_test: found none"),
        ({"y_test": Y}, "expected X and y, or X_test and y_test beside them"),
        ({"X_test": X[:, :, :2], "y_test": Y}, "found 2 columns of float32, expected 3 columns of float32"),
        ({"X_test": X.astype(np.uint8), "y_test": Y}, "found 3 columns of uint8, expected 3 columns of float32"),
        ({"X": np.array([X[0], 1], object)}, "holds Python objects, which are never loaded; store sequences of uneq"),
    ],
)
def test_a_broken_npz_says_what_is_wrong(tmp_path, change, text):
    with pytest.raises(DataError, match=text):
        open_dataset(npz(tmp_path, **{"X": X, "y": Y, **change}))


def test_groups_are_the_same_as_texts_bytes_or_whole_floats():
    texts = dataset_from_arrays(X, Y, group=(np.arange(20) // 2).astype(str))
    for kind in ("S2", float, int):
        other = dataset_from_arrays(X, Y, group=(np.arange(20) // 2).astype(kind))
        assert texts.test.groups.tolist() == other.test.groups.tolist()
    assert dataset_from_arrays(X, Y, group=[b"\xff", b"b"] * 5 + [b"c", b"d"] * 5).test.groups is not None


@pytest.mark.parametrize(("name", "text"), [("huge.npz", "is no .npz file"), ("huge.ts", "found binary or UTF-16")])
def test_a_huge_file_of_another_kind_is_refused_unread(tmp_path, name, text):
    with open(tmp_path / name, "wb") as stream:
        stream.truncate(2**31)
    tracemalloc.start()
    with pytest.raises(DataError, match=text):
        open_dataset(tmp_path / name)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**23


def test_a_text_of_empty_lines_without_end_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\n" * 1_000_001)
    with pytest.raises(DataError, match="line 1000001 is too long or one too many"):
        read_sequence(tmp_path / "x.csv")


def test_unequal_arrays_are_told_how_to_be_stored():
    with pytest.raises(DataError, match=r"X of arrays is no array.*store sequences of unequal length"):
        dataset_from_arrays([[1, 2], [3]], [0, 1])
    with pytest.raises(TypeError, match="X_tst"):
        dataset_from_arrays(X, Y, X_tst=X)


def test_other_arrays_are_named(tmp_path):
    dataset = open_dataset(npz(tmp_path, X=X, y=Y, subjects=Y, group=np.arange(20)))
    assert "not used of data.npz: subjects" == dataset.warnings[0]
    dataset = open_dataset(npz(tmp_path, X=X, y=Y, groups=np.arange(20), X_train=X))
    assert "not used of data.npz: groups (did you mean group?), X_train" == dataset.warnings[0]


def test_an_archive_without_x_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data.npz is no data set: found data, y, expected X and y"):
        open_dataset(npz(tmp_path, y=Y, data=X))


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 4096, 4096), (-1,), (1, 1, 1, 1), (2**62, 4)])
def test_a_huge_array_in_a_tiny_file_is_refused_before_it_is_unpacked(tmp_path, shape):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        archive.writestr("X.npy", header.getvalue() + bytes(10_000_000))
        archive.writestr("y.npy", b"")
    (tmp_path / "bomb.npz").write_bytes(stream.getvalue())
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb.npz"):
        open_dataset(tmp_path / "bomb.npz")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_npz_is_one_clear_error_or_still_whole(data):
    content = bytearray(bytes_of(X=X[:4], y=Y[:4]))
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    try:
        arrays, _ = npz_arrays(bytes(content), "damaged")
    except DataError:
        return
    assert all(np.array_equal(arrays[key], value) for key, value in {"X": X[:4], "y": Y[:4]}.items() if key in arrays)


def test_files_that_are_no_npz_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"PK", b"hello", b"PK\1\2" * 2000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npz"):
            open_dataset(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        open_dataset(path)


# .ts

VOWELS = """#two columns, 3 to 4 rows
@problemName Vowels
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true 2 10 1
@data
1.86,1.89,1.94:-0.2,-0.3,-0.4:2
1.5,1.6,1.7,1.8:0.1,0.2,0.3,0.4:10
# in between
1.1,1.2,1.3:9,8,7:1

2.1,2.2,2.3:9,8,7:1
2.5,2.6,2.7,2.8:0.1,0.2,0.3,0.4:10
2.86,2.89,2.94:-0.2,-0.3,-0.4:2
"""
MOTIONS = """@problemName Motions
@timestamps FALSE
@classLabel true Standing Running\r
@data\r
0.079106,-0.903497:1,2:3,4:Standing\r
0.667496,-0.312815:1,2:3,5:Running\r
0.079107,-0.903497:1,2:3,4:Standing\r
0.667497,-0.312815:1,2:3,5:Running\r
"""


def ts(folder, train=VOWELS, test=VOWELS.replace("1.", "4.")):
    (folder / "Vowels_TRAIN.ts").write_text(train, newline="")
    if test:
        (folder / "Vowels_TEST.ts").write_text(test, newline="")
    return folder / "Vowels_TRAIN.ts"


def test_a_ts_file_of_unequal_lengths_is_read_with_its_test_beside_it(tmp_path):
    path = ts(tmp_path)
    dataset = open_dataset(path)
    assert ("Vowels", ("1", "2", "10"), 2, 4) == (dataset.name, dataset.class_names, dataset.cols, dataset.rows)
    assert ([1, 2, 0, 0, 2, 1], [3, 4, 3, 3, 4, 3]) == (dataset.test.labels.tolist(), dataset.test.lengths.tolist())
    np.testing.assert_allclose(dataset.test.sequences[0], [[4.86, -0.2], [4.89, -0.3], [4.94, -0.4], [0, 0]], rtol=1e-6)
    assert dataset == dataset
    assert dataset.sha256 == open_dataset(tmp_path / "Vowels_TEST.ts").sha256
    assert "Vowels_TEST.ts" == dataset.test.source
    assert "Vowels_TRAIN.ts, line 10" in dataset.train.names + dataset.validation.names


def test_a_ts_file_of_equal_lengths_has_no_lengths(tmp_path):
    dataset = open_dataset(ts(tmp_path, MOTIONS, MOTIONS))
    assert (3, 2, False) == (dataset.cols, dataset.rows, dataset.variable_length)
    assert ("Running", "Standing") == dataset.class_names


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("1.89", "?", r"Vowels_TRAIN.ts, line 10, column 1, row 2: found \?, expected a finite float32 number"),
        ("-0.4:2", "NaN:2", "line 10, column 2, row 3: found NaN"),
        ("1.89", "1e39", "line 10, column 1, row 2: found 1e39"),
        (":9,8,7:1\n\n", ":9,8:1\n\n", "line 13: columns of unequal length: found 2 to 3 values"),
        (":9,8,7:1\n\n", ":9,8,7:1:1\n\n", "line 13: columns: found 3, expected 2, as in line 10"),
        (":9,8,7:1\n\n", ":9,8,7:3\n\n", "line 13: no class at its end: found 3, expected 2, 10, 1"),
        (":9,8,7:1\n\n", "\n\n", "line 13: no class at its end"),
        ("@timeStamps false", "@timeStamps true", "line 3: series with time stamps"),
        ("@classLabel true 2 10 1", "@classLabel false", "no classes: expected a line @classLabel true"),
        ("@classLabel true 2 10 1", "@targetLabel true", "line 8: labels as floats"),
        ("@data", "", "no .ts file with classes: found no line @data"),
        (VOWELS[VOWELS.index("1.86") :], "", "found a line @data and no cases"),
        (VOWELS, "export const x: number = 1;\n", "found no line @data"),
        ("1.86", ",".join(["1"] * 5000), "columns of unequal length"),
        ("1.86,1.89,1.94:-0.2,-0.3,-0.4", ",".join(["1"] * 5000), "found 5,000 rows x 1 columns"),
    ],
)
def test_a_broken_ts_file_says_where_and_what(tmp_path, old, new, text):
    assert old in VOWELS
    with pytest.raises(DataError, match=text):
        open_dataset(ts(tmp_path, VOWELS.replace(old, new)))


def test_a_ts_file_of_another_name_is_split_and_a_test_needs_its_train(tmp_path):
    (tmp_path / "all.ts").write_text(MOTIONS * 1 + "".join(f"{n}.5,1:1,2:3,4:Running\n{n},1:1,2:3,4:Standing\n"
                                                           for n in range(20)))  # fmt: skip
    assert "test and validation drawn from train, stratified by class" == open_dataset(tmp_path / "all.ts").split
    (tmp_path / "B_TEST.ts").write_text(MOTIONS)
    with pytest.raises(DataError, match=r"no file .*B_TRAIN.ts"):
        open_dataset(tmp_path / "B_TEST.ts")


# One sequence


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4\n",
        "1;2\n3;4",
        "1\t2\r\n3\t4\r\n",
        " 1  2\n3 4 ",
        "\ufeffax,ay\n1,2\n3,4\n\n",
        "# made by numpy\n1,2\n3,4",
    ],
)
def test_a_csv_is_parted_by_what_it_has(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert [[1, 2], [3, 4]] == read_sequence(path).tolist()
    assert [[1, 3], [2, 4]] == read_sequence(path, channels_first=True).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,x\n", "a.csv, line 2, column 2: found x, expected a finite float32 number"),
        ("a,b\n1,nan\n", "line 2, column 2: found nan"),
        ("nan,nan\n1,2\n", "line 1, column 1: found nan"),
        ("?,?\n1,2\n", r"line 1, column 1: found \?"),
        ("1,2\n3,\n", "line 2, column 2: found ''"),
        (",0,1\n0,5,6\n", "line 1, column 1: found ''"),
        ("1,2\n3\n", "line 2: columns: found 1, expected 2 as before"),
        ("1,5;2,5\n", "line 1, column 1: found 1,5"),
        ("a,b\n", "a.csv has no rows of numbers"),
        (" \n", "a.csv has no rows of numbers"),
        ("\0\0\0", "found binary or UTF-16"),
        ("1\n" * 4097, "found 4,097 rows x 1 columns"),
        ("1," * 5000, "columns"),
        ("9" * 5000, "line 1, column 1: found 9"),
        ("1e999,2", "line 1, column 1: found 1e999"),
    ],
)
def test_a_broken_csv_says_where_and_what(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_sequence(tmp_path / "a.csv")


def test_a_npy_of_one_or_two_dimensions_is_a_sequence(tmp_path):
    path = tmp_path / "a.npy"
    for array, expected in (([1, 2], [[1], [2]]), ([[1, 2]], [[1, 2]]), (np.asfortranarray([[1, 2], [3, 4]]),) * 2):
        np.save(path, array)
        assert np.asarray(expected).tolist() == read_sequence(path).tolist()
        assert np.float32 == read_sequence(path).dtype


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\), expected \(rows, cols\)"),
        (np.array([[1.0, np.inf]]), "a.npy: row 1, column 2: found inf"),
        (np.array([None]), "never loaded"),
        (np.zeros((0, 3)), "found 0 rows"),
        (np.array("x"), "holds no numbers"),
    ],
)
def test_a_npy_that_is_no_sequence_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_sequence(tmp_path / "a.npy")


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_sequence_or_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for start in (b"", b"\x93NUMPY\1\0", b"1,2\n"):
        path.write_bytes(start + content)
        try:
            assert np.isfinite(read_sequence(path)).all()
        except DataError:
            continue


@pytest.mark.parametrize("text", ["1,5;2,5", "1,5\t2,5", "1,5 2,5"])
def test_a_decimal_comma_is_called_so(text):
    with pytest.raises(DataError, match=r"expected a finite float32 number; a decimal comma\? Write a point"):
        sequence_from(text.encode(), "x.csv")


def test_what_is_missing_in_one_sequence_says_nothing_of_lengths(tmp_path):
    np.save(tmp_path / "x.npy", np.full((2, 2), np.nan))
    with pytest.raises(DataError, match=r"expected a finite float32 number; fill or cut out what is missing$"):
        read_sequence(tmp_path / "x.npy")
    with pytest.raises(DataError, match="fill or cut out what is missing; store sequences of unequal length"):
        dataset_from_arrays(np.where(Y[:, None, None], np.nan, X), Y)
