"""Tests of edgelstm.data.folders: class folders, plain pictures, the cache."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import edgelstm.data.folders as folders
from edgelstm.data.dataset import open_dataset
from edgelstm.data.folders import N_CACHED, plain_pixels
from edgelstm.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "edgelstm" / "data"


def gestures(folder, classes=("left", "right"), n=10):
    """Values: each file has other numbers, and a length of 3 to 5 rows."""
    for c, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for i in range(n):
            rows = [f"{c}.{i},{r}" for r in range(3 + i % 3)]
            (folder / label / f"{i}.csv").write_text("x,y\n" + "\n".join(rows))
    return folder


def pictures(folder, n=10, size=(8, 6), classes=("0", "1")):
    """size is (rows, cols)."""
    draw = np.random.default_rng(0)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(draw.integers(0, 256, size, np.uint8)).save(folder / label / f"{i}.png")
    return folder


def by_name(dataset):
    return {
        name: sequence
        for part in dataset.parts.values()
        for name, sequence in zip(part.names, part.sequences, strict=True)
    }


# Layouts


def test_a_folder_of_csv_is_values_with_a_class_for_each_folder(tmp_path):
    dataset = open_dataset(gestures(tmp_path / "data", ("10", "9")))
    assert ("data", "values", ("9", "10"), 5, 2) == (
        dataset.name, dataset.preparation, dataset.class_names, dataset.rows, dataset.cols)  # fmt: skip
    assert dataset.variable_length
    np.testing.assert_allclose(by_name(dataset)["10/3.csv"][:3], [[0.3, 0], [0.3, 1], [0.3, 2]], rtol=1e-6)


def test_train_val_and_test_folders_are_taken_as_they_are(tmp_path):
    for part, n in (("Train", 3), ("val", 1), ("test", 2)):
        gestures(tmp_path / part, n=n)
    dataset = open_dataset(tmp_path)
    assert ("given", 6, 2, 4) == (dataset.split, *(len(part) for part in dataset.parts.values()))
    assert {"test/left/0.csv", "test/left/1.csv", "test/right/0.csv", "test/right/1.csv"} == {*dataset.test.names}
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match="parted unclearly: found Train, more, test, val, expected"):
        open_dataset(tmp_path)


def test_the_sha256_does_not_depend_on_time_place_or_order_but_on_every_byte(tmp_path):
    first = open_dataset(gestures(tmp_path / "one"))
    for place in sorted((tmp_path / "one").rglob("*.csv"), reverse=True):
        copy = tmp_path / "two" / place.relative_to(tmp_path / "one")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place, copy)
    second = open_dataset(tmp_path / "two")
    assert first.sha256 == second.sha256
    assert first.test.names == second.test.names
    (tmp_path / "two" / "left" / "3.csv").write_text("x,y\n0.31,0\n0.3,1\n0.3,2")
    assert first.sha256 != open_dataset(tmp_path / "two").sha256


def test_groups_csv_keeps_persons_on_one_side(tmp_path):
    folder = gestures(tmp_path / "data", n=12)
    plain = open_dataset(folder).sha256
    lines = [f"{file.parent.name}/{file.name},person {int(file.stem) % 6}" for file in folder.rglob("*.csv")]
    (folder / "groups.csv").write_text("\n".join(["path,group", *lines]))
    dataset = open_dataset(folder)
    sides = [set(part.groups.tolist()) for part in dataset.parts.values()]
    assert 6 == sum(map(len, sides)) == len(set.union(*sides))
    assert plain != dataset.sha256
    (folder / "groups.csv").write_text("\n".join(["path;group", *lines]).replace(",", ";"))
    assert dataset.sha256 == open_dataset(folder).sha256
    (folder / "groups.csv").write_text("\n".join(["path,group", *lines[:-1], "77.csv,p"]))
    text = r"does not name all files: found 1 without a group, such as .*\.csv; no file is called 77\.csv, expected"
    with pytest.raises(DataError, match=text):
        open_dataset(folder)
    (folder / "groups.csv").write_text("\n\n".join([*lines, ""]))
    assert 6 == len({group for part in open_dataset(folder).parts.values() for group in part.groups})
    (folder / "groups.csv").write_text("\n".join([*lines, lines[0] + "0"]))
    with pytest.raises(DataError, match=r"line 25: a second group: found person \d0, expected one a file"):
        open_dataset(folder)
    (folder / "groups.csv").write_text("a,b,c")
    with pytest.raises(DataError, match=r"groups\.csv, line 1: found 3 columns, expected path,group"):
        open_dataset(folder)


def test_hidden_files_are_nothing_and_others_are_named(tmp_path):
    folder = gestures(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "clip.heic"):
        (folder / "left" / name).write_text("x")
    (folder / ".git" / "objects").mkdir(parents=True)
    warnings = open_dataset(folder).warnings
    assert f"not read in {folder}: left/clip.heic, left/notes.txt" == warnings[0]


def test_links_that_go_round_in_circles_are_not_followed(tmp_path):
    folder = gestures(tmp_path)
    (folder / "left" / "loop").symlink_to(folder)
    dataset = open_dataset(folder)
    assert 20 == sum(map(len, dataset.parts.values()))
    assert "loop (a link to a folder)" in dataset.warnings[0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: f.mkdir(), "has no classes: found no folders in it, expected a folder for each class, or train"),
        (lambda f: (gestures(f) / "empty").mkdir(), "class empty in .* is empty: expected files ending in .csv"),
        (lambda f: gestures(f, ("one",)), "too few classes: found only one"),
        (lambda f: gestures(f, n=1), "class left of data has too few sequences to train on: found 1, expected at le"),
        (lambda f: (pictures(gestures(f) / "x"), shutil.move(f / "x" / "0", f / "0"), shutil.rmtree(f / "x")),
         "mixes pictures and sequences of values: found 0/0.png and left/0.csv"),
    ],
    ids=["none", "empty", "one", "one file", "mixed"],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_says_why(tmp_path, make, text):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=text):
        open_dataset(tmp_path / "data")


def test_bad_files_are_counted_and_the_first_five_named(tmp_path):
    folder = gestures(tmp_path)
    for i in range(4):
        (folder / "left" / f"{i}.csv").write_text("1,2,3\n")
    (folder / "left" / "4.csv").write_text("1,nan\n")
    (folder / "left" / "5.csv").write_text("")
    (folder / "left" / "6.csv").unlink()
    os.mkfifo(folder / "left" / "6.csv")
    (folder / "left" / "7.csv").unlink()
    (folder / "left" / "7.csv").symlink_to("7.csv")
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    text = str(caught.value)
    assert "of 20 files" in text
    assert 5 == text.count(".csv")
    gestures_left = [folder / "left" / f"{i}.csv" for i in (4, 5, 6, 7)]
    for path, why in zip(gestures_left, ("found nan", "an empty file", "not a regular file", "symbolic"), strict=True):
        assert why in text or path.name > "5.csv"


def test_thousands_of_files_are_reported_by_count(tmp_path):
    lines = []
    open_dataset(gestures(tmp_path, n=1001), report=lines.append)
    assert ["read 1,000 of 2,002 files", "read 2,000 of 2,002 files"] == lines


# Pictures


def test_small_pictures_of_one_size_are_taken_as_they_are(tmp_path):
    folder = pictures(tmp_path)
    dataset = open_dataset(folder)
    assert ("plain", 8, 6) == (dataset.preparation, dataset.rows, dataset.cols)
    for name, pixels in by_name(dataset).items():
        assert np.array_equal(np.asarray(Image.open(folder / name)), pixels)


@pytest.mark.parametrize("size", [(9, 6), (65, 65)])
def test_pictures_of_several_sizes_or_large_ones_become_28_by_28(tmp_path, size):
    folder = pictures(tmp_path, size=(8, 6) if size == (9, 6) else size)
    Image.fromarray(np.zeros(size, np.uint8)).save(folder / "1" / "5.png")
    dataset = open_dataset(folder)
    assert (28, 28) == (dataset.rows, dataset.cols)
    first = np.asarray(Image.open(folder / "0" / "0.png"))
    assert np.array_equal(plain_pixels(first, 28, 28), by_name(dataset)["0/0.png"])


def test_a_size_and_the_digit_preparation_are_followed(tmp_path):
    folder = pictures(tmp_path)
    assert (5, 4) == open_dataset(folder, size=(5, 4)).train.sequences.shape[1:]
    digits = open_dataset(folder, preparation="digit")
    assert ("digit", 28, 28) == (digits.preparation, digits.rows, digits.cols)
    with pytest.raises(DataError, match="holds pictures; leave out the options"):
        open_dataset(folder, channels_first=True)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30), st.integers(0, 255))
@settings(max_examples=80, deadline=None)
def test_a_plain_picture_is_never_inverted_or_stretched(height, width, rows, cols, seed):
    picture = np.random.default_rng(seed).integers(seed // 2, 128 + seed // 2, (height, width), np.uint8)
    fitted = plain_pixels(picture, rows, cols)
    assert (rows, cols) == fitted.shape
    assert picture.min() <= fitted.min() <= fitted.max() <= picture.max()
    assert np.array_equal(picture, plain_pixels(picture, height, width))
    assert (seed == plain_pixels(np.full((height, width), seed, np.uint8), rows, cols)).all()


def test_a_plain_picture_keeps_its_aspect_in_the_middle_of_its_edges_colour():
    picture = np.full((20, 40), 200, np.uint8)
    picture[4:16, 8:32] = 50
    fitted = plain_pixels(picture, 28, 28)
    assert (200 == fitted[:7]).all()
    assert (200 == fitted[21:]).all()
    rows, cols = np.nonzero(fitted < 125)
    assert (10, 17, 6, 21) == (rows.min(), rows.max(), cols.min(), cols.max())
    assert 5 == plain_pixels(np.full((3, 3, 3), 5, np.uint8), 3, 3)[0, 0]


# The cache


def test_a_second_time_nothing_is_read_until_a_file_changes(tmp_path, cache, monkeypatch):
    folder = gestures(tmp_path)
    first = open_dataset(folder)
    reads = []
    real = folders._read
    monkeypatch.setattr(folders, "_read", lambda *some: reads.append(1) or real(*some))
    again = open_dataset(folder)
    assert ([], first.sha256) == (reads, again.sha256)
    assert all(np.array_equal(one, by_name(again)[name]) for name, one in by_name(first).items())
    path = folder / "left" / "3.csv"
    before = path.stat()
    path.write_text(path.read_text().replace("0.3,0", "0.4,0"))  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = open_dataset(folder)
    assert [1] == reads
    assert first.sha256 != changed.sha256
    assert np.float32(0.4) == by_name(changed)["left/3.csv"][0, 0]


def test_a_damaged_cache_is_made_anew_and_old_entries_go(tmp_path, cache):
    folder = gestures(tmp_path)
    first = open_dataset(folder)
    [entry] = cache.iterdir()
    for damaged in (b"", entry.read_bytes()[:300], entry.read_bytes().replace(b"\x00\x00\x80?", b"\x00\x00\x90?")):
        entry.write_bytes(damaged)
        again = open_dataset(folder)
        assert all(np.array_equal(one, by_name(again)[name]) for name, one in by_name(first).items())
    for i in range(N_CACHED + 2):
        (folder / "left" / "0.csv").write_text(f"7,{i}\n")
        open_dataset(folder)
    assert N_CACHED == len([*cache.iterdir()])


def test_without_a_cache_folder_everything_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert 20 == sum(map(len, open_dataset(gestures(tmp_path / "data")).parts.values()))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("y,x", r"left/3.csv has the columns in another order: found y, x, expected x, y, as in left/0.csv"),
        ("x;z", r"left/3.csv has other columns: found x, z, expected x, y, as in left/0.csv"),
    ],
)
def test_columns_have_the_same_names_in_all_files(tmp_path, header, text):
    folder = gestures(tmp_path)
    (folder / "left" / "1.csv").write_text("1,2\n3,4\n")  # no names at all
    (folder / "left" / "2.csv").write_text('# of today\n "x" , y\n1,2\n3,4\n')
    np.save(folder / "left" / "extra.npy", np.zeros((3, 2)))
    assert 21 == sum(map(len, open_dataset(folder).parts.values()))
    (folder / "left" / "3.csv").write_text(f"{header}\n{header.replace('x', '1').replace('y', '2').replace('z', '3')}")
    with pytest.raises(DataError, match=text):
        open_dataset(folder)
    (folder / "left" / "3.csv").unlink()
    shown = "a,b,c\n1,2,3\n3,4,5\n"  # a row after the other: names are of rows
    for file in folder.rglob("*.csv"):
        file.write_text(shown.replace("a", file.stem + "t"))
    (folder / "left" / "extra.npy").unlink()
    assert (3, 2) == open_dataset(folder, channels_first=True).train.sequences.shape[1:]
