"""Tests of edgelstm.files: a file is written whole or not at all."""

import errno
import os

import pytest

from edgelstm.errors import OutputError
from edgelstm.files import replacing, sha256_of, write_bytes


def test_bytes_are_written_and_the_folder_is_made(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"


def test_an_existing_file_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"a longer old content")
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_nothing_else_is_left_in_the_folder(tmp_path):
    write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_the_file_has_ordinary_rights(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert oct((tmp_path / "file").stat().st_mode & 0o777) == "0o640"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "file").write_bytes(b"old")

    def fail():
        with replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_the_new_file_has_its_name_only_when_it_is_whole(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").exists()


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*file: found No space left on device; free some space"):
        write_bytes(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*folder/out: found a file in place of one of its folders"):
        write_bytes(tmp_path / "file" / "folder" / "out", b"")


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="found a folder, expected a file name"):
        write_bytes(tmp_path / "folder", b"")


def test_sha256_is_the_published_one_of_abc():
    # FIPS 180-4, appendix of examples
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
