"""Tests of edgelstm.files: a file is written whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from edgelstm.errors import OutputError
from edgelstm.files import FolderLock, remove_parts, replacing, sha256_of, write_bytes


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


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_device_or_pipe_is_not_replaced_by_a_file(tmp_path, through_a_link):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(OutputError, match="pipe: found not a regular file, expected a file name; choose another -o"):
        write_bytes(tmp_path / ("link" if through_a_link else "pipe"), b"")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_the_file_it_names_is_replaced(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    if exists:
        (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/file")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path / "elsewhere") == ["file"]


def test_a_link_to_itself_is_one_clear_line(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OutputError, match=r"cannot write .*link: found Too many levels of symbolic links"):
        write_bytes(tmp_path / "link", b"")


def test_only_what_killed_writes_of_these_files_left_is_removed(tmp_path):
    stays = [
        "file",
        ".file.part",
        "file.abcdefgh.part",
        ".other.abcdefgh.part",
        ".file.ABCDEFGH.part",
        ".file.mine.part",
    ]
    for name in [*stays, ".file.ab_d3fgh.part", ".a+b.abcdefgh.part"]:
        (tmp_path / name).write_bytes(b"")
    remove_parts(tmp_path, ["file", "a+b"])
    assert sorted(stays) == sorted(os.listdir(tmp_path))


def test_a_part_that_a_write_makes_is_known_as_one(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        remove_parts(tmp_path, ["file"])
        assert os.listdir(tmp_path) == []
        temporary.touch()  # to be renamed


HOLDER = """
import sys, pathlib, edgelstm.files
lock = edgelstm.files.FolderLock(pathlib.Path(sys.argv[1]), "a test uses")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_locked_folder_is_refused_until_its_process_ends_even_by_kill(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=rf"a test uses {tmp_path}; wait for it to end, stop it, or choose"):
            FolderLock(tmp_path, "a test uses")
        process.kill()
        process.wait()
        FolderLock(tmp_path, "a test uses").close()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_is_closed_or_forgotten_lets_others_in(tmp_path):
    FolderLock(tmp_path, "a test uses")
    first = FolderLock(tmp_path, "a test uses")
    first.close()
    first.close()
    FolderLock(tmp_path, "a test uses").close()


def test_sha256_is_the_published_one_of_abc():
    # FIPS 180-4, appendix of examples
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
