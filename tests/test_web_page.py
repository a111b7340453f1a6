"""Tests of edgelstm.web.page: what the demo page is made of, and where onnxruntime-web comes from."""

import hashlib
import json
import os
import re
import shutil

import pytest

from edgelstm.contract import EarlyRule
from edgelstm.data import npm
from edgelstm.errors import DataError, ModelError, OutputError
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.web import page as site
from edgelstm.web.page import MODEL_FILE, RuntimeFile, Site, build_site, ensure_runtime, export_site

CONTENTS = {"a.mjs": b"export {}", "b.wasm": b"\0asm"}


@pytest.fixture(scope="module")
def stream_bytes(tiny_checkpoint):
    model = build_stream_model(tiny_checkpoint, "fp32", None, EarlyRule(0.75, 3))
    return model.SerializeToString(deterministic=True)


@pytest.fixture
def runtime(monkeypatch):
    """Two small files that stand in for onnxruntime-web's."""
    files = tuple(
        RuntimeFile(name, name.replace(".mjs", ".js"), len(content), hashlib.sha256(content).hexdigest())
        for name, content in CONTENTS.items()
    )
    monkeypatch.setattr(site, "RUNTIME_FILES", files)


@pytest.fixture
def fetches(monkeypatch):
    """Contents that npm packs, in place of a registry; counts the fetches."""
    served = dict(CONTENTS)
    asked = []

    def package_files(package, names, work):
        asked.append((package, list(names)))
        (work / "half").write_bytes(b"half")
        return iter([served[name.removeprefix("dist/")] for name in names])

    monkeypatch.setattr(site, "package_files", package_files)
    return served, asked


def test_the_page_is_its_sources_the_model_and_the_runtime(stream_bytes):
    built = build_site(stream_bytes, "tiny", {"ort.js": b"ort"})
    sources = {path.relative_to(site.WEB).as_posix() for path in site.WEB.rglob("*") if path.is_file()}
    assert sources | {"model.onnx", "model.json", "ort.js"} == set(built.files)
    assert (stream_bytes, b"ort") == (built.files[MODEL_FILE], built.files["ort.js"])


def test_the_page_knows_what_its_model_says_of_itself(stream_bytes, tiny_config):
    about = json.loads(build_site(stream_bytes, "tiny", {}).files["model.json"])
    assert about["config"] == {**about["config"], "rows": 28, "cols": 28, "rows_per_step": 1, "hidden_size": 8}
    assert (about["n_parameters"], about["n_bytes"]) == (tiny_config.n_parameters, len(stream_bytes))
    assert (about["early"]["confidence"], about["early"]["n_stable"]) == (0.75, 3)
    assert about["sha256"] == hashlib.sha256(stream_bytes).hexdigest()
    assert about["temperature"] == 1


def test_the_page_forbids_itself_whatever_is_elsewhere(stream_bytes):
    page = build_site(stream_bytes, "tiny", {}).files["index.html"].decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert {word for words in directives.values() for word in words.split()} == {
        "'none'",
        "'self'",
        "'wasm-unsafe-eval'",
    }


def test_the_page_holds_no_script_or_style_that_its_policy_forbids():
    page = (site.WEB / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", page) == []


def test_a_model_of_whole_pictures_is_refused(tiny_model_bytes):
    with pytest.raises(ModelError, match=r"tiny\.onnx reads whole pictures.*`edgelstm export --streaming`"):
        build_site(tiny_model_bytes, "tiny.onnx", {})


def test_a_damaged_model_is_refused(stream_bytes):
    with pytest.raises(ModelError, match=r"tiny\.onnx cannot be loaded"):
        build_site(stream_bytes[:-9], "tiny.onnx", {})


def test_the_sources_are_small():
    n_bytes = sum(path.stat().st_size for path in site.WEB.rglob("*") if path.is_file())
    assert n_bytes < 120_000, f"{n_bytes:,} bytes in every wheel"


def test_sizes_name_each_part():
    built = Site({"index.html": b"12", "a.js": b"3", "model.onnx": b"1234", "model.json": b"5",
                  "ort.wasm.bundle.min.js": b"67", "ort-wasm-simd-threaded.wasm": b"89012"})  # fmt: skip
    assert built.sizes() == {"page": 3, "model": 5, "ort-wasm-simd-threaded.wasm": 5, "ort.wasm.bundle.min.js": 2}


# onnxruntime-web


def test_it_is_fetched_once_checked_and_kept(tmp_path, runtime, fetches):
    lines = []
    for _ in range(2):
        assert {"a.js": b"export {}", "b.wasm": b"\0asm"} == ensure_runtime(tmp_path / "cache", lines.append)
    assert fetches[1] == [("onnxruntime-web@1.30.0", ["dist/a.mjs", "dist/b.wasm"])]
    assert CONTENTS == {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert lines == [
        f"fetching onnxruntime-web@1.30.0 (33 MB, once) from the npm registry into {tmp_path / 'cache'}",
        "checksums right; from now on no network is needed",
    ]


def test_the_users_cache_folder_is_the_default(tmp_path, runtime, fetches, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ensure_runtime()
    assert CONTENTS.keys() == {path.name for path in (tmp_path / "edgelstm" / "onnxruntime-web-1.30.0").iterdir()}


def test_a_damaged_file_in_the_cache_is_fetched_anew(tmp_path, runtime, fetches):
    ensure_runtime(tmp_path)
    (tmp_path / "b.wasm").write_bytes(b"\0asn")
    assert ensure_runtime(tmp_path)["b.wasm"] == b"\0asm"
    assert (len(fetches[1]), (tmp_path / "b.wasm").read_bytes()) == (2, b"\0asm")


def test_another_file_than_the_original_is_refused_and_not_kept(tmp_path, runtime, fetches):
    fetches[0]["a.mjs"] = b"export 1;"
    with pytest.raises(DataError, match=r"the fetched a\.mjs is not the original: found 9 bytes, sha256 .*, expected "):
        ensure_runtime(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_npm_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError) as caught:
        ensure_runtime(tmp_path / "cache")
    text = str(caught.value)
    for part in ("npm is not installed", "install Node.js", "ort-wasm-simd-threaded.wasm", str(tmp_path / "cache")):
        assert part in text
    assert len(text.splitlines()) == 1


def test_an_npm_that_fails_says_so(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(npm, "TIMEOUT_S", 20)
    with pytest.raises(DataError, match="npm pack failed: found npm error code ENOTFOUND"):
        ensure_runtime(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write onnxruntime-web into .*XDG_CACHE_HOME"):
        ensure_runtime(tmp_path / "file" / "cache")


# Export


def test_export_writes_every_file(tmp_path):
    export_site(Site({"index.html": b"<!doctype html>", "picture/ink.js": b"1"}), tmp_path / "new" / "folder")
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert found == {"new/folder/index.html": b"<!doctype html>", "new/folder/picture/ink.js": b"1"}


def test_export_onto_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write the page into .*file: found a file; choose another folder"):
        export_site(Site({"index.html": b""}), tmp_path / "file")
