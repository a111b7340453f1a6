"""Tests of edgelstm.runtime.inputs: every kind of source gives exactly its inputs, in order, in the same parts."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgelstm.config import ModelConfig
from edgelstm.errors import DataError, MissingDependencyError, OutputError
from edgelstm.runtime import inputs as module
from edgelstm.runtime.inputs import FEWEST_PARTS, MIN_PART_ROWS, MOST_SLICES, PART_ROWS, find_inputs, read_rows, search

pa = pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "edgelstm[score]"')
pq = pytest.importorskip("pyarrow.parquet")

PICTURES, VALUES = ModelConfig(), ModelConfig(rows=5, cols=2, rows_per_step=1, preparation="values")


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def found(source, config=PICTURES):
    """The rows of all parts, and the parts themselves."""
    listing = Path("../out/listing")
    inputs = find_inputs(str(source), config, listing, listing)
    rows = [row for part in inputs.parts for row in read_rows(part)]
    assert inputs.n == len(rows) == sum(part.n for part in inputs.parts)
    return rows, inputs


def refused(source, config=PICTURES):
    with pytest.raises(DataError) as caught:
        found(source, config)
    return str(caught.value)


def png():
    stream = io.BytesIO()
    Image.new("L", (3, 3)).save(stream, "PNG")
    return stream.getvalue()


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(png())


# Folders


def test_a_folder_gives_its_pictures_in_the_order_of_their_paths():
    names = ["p/b.png", "p/a/2.jpg", "p/a/1.PNG", "p/a-1.png", "p/a.png", "p/deep/er/x.heic", "p/notes.txt"]
    touch(*names)
    expected = sorted(names[:-1])
    assert expected == [row.name for row in found("p")[0]] == [row.source for row in found("p")[0]]
    assert expected == [name for name, _ in search("p", PICTURES)]


def test_a_model_of_values_finds_its_sequences_and_not_the_groups_beside_folders():
    touch("v/1.csv", "v/a/2.npy", "v/a/x.png", "v/groups.csv", "v/a/groups.csv")
    assert ["v/1.csv", "v/a/2.npy", "v/a/groups.csv"] == [row.name for row in found("v", VALUES)[0]]


def test_a_name_that_is_no_utf_8_is_read_by_its_bytes_and_shown_with_escapes():
    Path("p").mkdir()
    name = os.fsdecode(b"p/\xff.png")
    Path(name).write_bytes(png())
    [row] = found("p")[0]
    assert (name, "p/\\xff.png") == (row.source, row.name)
    Path("list.txt").write_bytes(b"p/\xff.png\n")
    assert [row] == found("list.txt")[0]


def test_a_folder_that_cannot_be_searched_is_an_input_with_its_error(monkeypatch):
    touch("p/a.png", "p/locked/b.png", "p/z.png")
    entries = module._entries

    def denied(folder):
        if folder == "p/locked/":
            raise PermissionError(13, "Permission denied", folder)
        return entries(folder)

    monkeypatch.setattr(module, "_entries", denied)
    rows = found("p")[0]
    assert ["p/a.png", "p/locked", "p/z.png"] == [row.name for row in rows]
    assert [None, "cannot search p/locked: found permission denied", None] == [row.error for row in rows]
    assert refused("p/locked/") == "cannot search p/locked/: found permission denied"


def test_linked_folders_are_not_followed_and_the_output_folder_is_left_out():
    touch("p/a.png", "../out/b.png")
    Path("p/loop").symlink_to(".")
    Path("p/out").symlink_to("../../out")
    assert ["p/a.png"] == [row.name for row in found("p")[0]]
    assert ["../here/p/a.png"] == [row.name for row in found("..")[0]]
    assert "is the output folder too" in refused("../out")


def test_a_folder_without_inputs_is_refused():
    Path("p").mkdir()
    assert refused("p").startswith("p holds no inputs: expected pictures, their paths, a line each, or Parquet")
    assert refused("p", VALUES).startswith("p holds no inputs: expected sequences of values")
    assert "no such file" in refused("missing")


# Lists


def test_a_list_gives_its_lines_as_they_are_twice_if_they_stand_there_twice():
    Path("list.txt").write_bytes(b"a.png\r\n\nb c.png\n a.png\nmissing.png\na.png")
    assert ["a.png", "b c.png", " a.png", "missing.png", "a.png"] == [row.source for row in found("list.txt")[0]]


@pytest.mark.parametrize("content", [b"", b"\n\r\n"], ids=["empty", "blank"])
def test_an_empty_list_is_refused(content):
    Path("list.txt").write_bytes(content)
    assert "list.txt holds no inputs" in refused("list.txt")


@pytest.mark.parametrize("content", [png(), b"a.png\0b.png\0", b"x" * 2**17], ids=["picture", "NUL", "endless"])
def test_what_is_no_list_is_refused(content):
    Path("list.txt").write_bytes(content)
    assert "list.txt is no list of paths: found line" in refused("list.txt")


def test_a_pipe_is_not_waited_for():
    os.mkfifo("pipe")
    assert "no regular file" in refused("pipe")


# Parquet


def write(name, table, **options):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), name, **options)


def test_parquet_of_paths_of_bytes_and_of_both():
    write("paths.parquet", {"path": ["a.png", None, "c.png"], "label": [1, 2, 3]})
    rows = found("paths.parquet")[0]
    assert ["a.png", None, "c.png"] == [row.source for row in rows]
    assert "paths.parquet#1 is empty: found null" == rows[1].error
    write("bytes.parquet", {"bytes": [b"one", None]})
    rows = found("bytes.parquet")[0]
    assert [("bytes.parquet#0", b"one"), ("bytes.parquet#1", None)] == [(row.name, row.source) for row in rows]
    write("both.parquet", {"bytes": [b"one", b"two"], "path": ["a", "b"]})
    assert [("a", b"one"), ("b", b"two")] == [(row.name, row.source) for row in found("both.parquet")[0]]
    write("hub.parquet", {"image": [{"bytes": b"one", "path": "a"}, {"bytes": b"two", "path": None}]})
    assert [("a", b"one"), ("hub.parquet#1", b"two")] == [(row.name, row.source) for row in found("hub.parquet")[0]]


def test_a_folder_of_parquet_files_is_all_of_their_rows_and_no_pictures():
    write("p/b.parquet", {"path": ["3"]})
    write("p/a/x.parquet", {"path": pa.array([b"1", b"2"])})
    assert ["1", "2", "3"] == [row.source for row in found("p")[0]]
    touch("p/a.png")
    assert "p holds two kinds of inputs: found 1 files that the model reads, and 2 Parquet files" in refused("p")


def test_parquet_without_a_column_to_read_or_without_rows_is_refused():
    write("x.parquet", {"name": ["a"], "n": [1]})
    assert "x.parquet holds no inputs: found name (string), n (int64), expected a column path" in refused("x.parquet")
    write("x.parquet", {"path": [1]})
    assert "found path (int64)" in refused("x.parquet")
    write("x.parquet", {"path": pa.array([], pa.string())})
    assert "x.parquet holds no inputs" in refused("x.parquet")
    Path("x.parquet").write_bytes(b"PAR1 and no more")
    assert "cannot read x.parquet" in refused("x.parquet")


@pytest.mark.parametrize(("n", "group"), [(1, 100), (1000, 7), (1000, 300), (40_000, 40_000), (40_000, 8192)])
def test_parts_are_all_rows_in_order_whatever_the_row_groups(n, group):
    write("x.parquet", {"path": [str(i) for i in range(n)]}, row_group_size=group)
    rows, inputs = found("x.parquet")
    assert [str(i) for i in range(n)] == [row.source for row in rows]
    size = min(PART_ROWS, max(MIN_PART_ROWS, -(-n // FEWEST_PARTS)))
    assert -(-n // size) <= len(inputs.parts) <= 2 * (n // size) + 1 or len(inputs.parts) == MOST_SLICES


def test_rows_that_a_damaged_file_does_not_give_come_with_their_error():
    write("x.parquet", {"bytes": [os.urandom(50) for _ in range(600)]}, compression="zstd", row_group_size=300)
    inputs = find_inputs("x.parquet", PICTURES, Path("listing"), Path("listing"))
    content = bytearray(Path("x.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)  # in the second row group
    Path("x.parquet").write_bytes(content)
    rows = [row for part in inputs.parts for row in read_rows(part)]
    assert 600 == len(rows)
    assert [None] == list({row.error for row in rows[:300]})
    assert rows[-1].error.startswith("cannot read x.parquet#599: found")
    write("x.parquet", {"bytes": [b"one"] * 10})
    rows = [row for part in inputs.parts for row in read_rows(part)]
    assert (600, "cannot read x.parquet#10: found fewer rows than when the work began") == (len(rows), rows[10].error)


# Arrays


def test_the_sequences_of_an_npz_are_arrays_cut_to_their_lengths(tmp_path):
    x = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    np.savez("x.npz", X=x, lengths=np.array([5, 2, 1]), y=np.arange(3))
    rows = found("x.npz", VALUES)[0]
    assert ["x.npz#0", "x.npz#1", "x.npz#2"] == [row.name for row in rows]
    for sequence, row, n in zip(x, rows, (5, 2, 1), strict=True):
        np.testing.assert_array_equal(sequence[:n], row.source)
    np.savez_compressed("p.npz", X=np.zeros((2, 28, 28), np.uint8))
    assert [(28, 28), (28, 28)] == [row.source.shape for row in found("p.npz")[0]]


def test_an_npz_that_cannot_be_read_is_refused():
    np.savez("x.npz", Y=np.zeros((1, 5, 2)))
    assert "x.npz holds no inputs: found Y, expected an array X (n, rows, cols)" in refused("x.npz")
    np.savez("x.npz", X=np.zeros((2, 5, 2)), lengths=np.array([1, -1]))
    assert "lengths do not fit X" in refused("x.npz")
    np.savez("x.npz", X=np.zeros((0, 5, 2)))
    assert "x.npz holds no inputs" in refused("x.npz")
    Path("x.npz").write_bytes(b"PK no more")
    assert "x.npz is damaged" in refused("x.npz")


# URIs


def test_a_uri_gives_a_folder_a_list_and_parquet_and_its_files_are_read_through_it():
    touch("p/b.png", "p/a b/c.png")
    place = Path.cwd().as_uri()
    rows = found(f"{place}/p")[0]
    assert [f"{place}/p/a%20b/c.png", f"{place}/p/b.png"] == [row.name for row in rows]
    assert [png(), png()] == [row.source for row in rows]
    Path("list.txt").write_text(f"{place}/p/b.png\n{place}/missing.png\np/b.png\n")
    one, other, local = found(f"{place}/list.txt")[0]
    assert (png(), None, "p/b.png") == (one.source, other.source, local.source)
    assert other.error.startswith(f"cannot read {place}/missing.png: found")
    write("x.parquet", {"path": ["p/b.png"]})
    assert ["p/b.png"] == [row.source for row in found(f"{place}/x.parquet")[0]]


def test_a_uri_that_cannot_be_opened_is_refused():
    assert "cannot read nosuch://place/x" in refused("nosuch://place/x")
    assert "cannot read" in refused(f"{Path.cwd().as_uri()}/missing")


# What decides which job it is


def test_the_sha256_changes_with_names_and_files_and_with_nothing_else():
    touch("p/a.png", "p/b.png")
    before = found("p")[1]
    Path("p/c.txt").write_text("")
    assert before == found("p")[1]
    touch("p/c.png")
    assert before.sha256 != found("p")[1].sha256
    write("x.parquet", {"path": ["a"]})
    before = found("x.parquet")[1].sha256
    os.utime("x.parquet", (1, 1))
    assert before != found("x.parquet")[1].sha256


def test_a_listing_that_cannot_be_written_is_an_output_error():
    touch("p/a.png")
    with pytest.raises(OutputError, match="cannot write nowhere: found No such file"):
        find_inputs("p", PICTURES, Path("nowhere/listing"), Path("nowhere/listing"))
    Path("list.txt").write_text("a.png\n" * 100_000)
    with pytest.raises(OutputError, match="cannot write /dev: found No space left on device"):
        find_inputs("list.txt", PICTURES, Path("/dev/full"), Path("/dev/full"))


def test_without_pyarrow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'needs the package pyarrow.*pip install "edgelstm\[score\]"'):
        find_inputs("p", PICTURES, Path("x"), Path("x"))
