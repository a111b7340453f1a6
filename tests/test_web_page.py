"""Tests of edgelstm.web.page: what the demo page is made of, with which models, and how it is written."""

import hashlib
import json
import re
from dataclasses import replace

import pytest

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule
from edgelstm.data.npm import PinnedFile
from edgelstm.errors import ModelError, OutputError
from edgelstm.onnx_file import open_model
from edgelstm.runtime.stream import stateful_form
from edgelstm.web import page
from edgelstm.web.page import SOURCES, build_page, ensure_runtime, export_page


@pytest.fixture(scope="module")
def tiny(tiny_model_bytes):
    return open_model(tiny_model_bytes, "tiny")


def about(model):
    return json.loads(build_page(model)["model.json"])


def test_the_page_is_its_sources_and_the_model(tiny):
    built = build_page(tiny)
    sources = {path.name: path.read_bytes() for path in SOURCES.iterdir()}
    assert sources.keys() | {"model.onnx", "model.json"} == built.keys()
    assert {name for name, content in sources.items() if built[name] != content} == {"index.html"}
    assert b"{{" not in built["index.html"]


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", "picture"), ("fp16", "picture"), ("int8", "picture"), ("int8", "stream")]
)
def test_the_page_runs_the_stateful_form_of_any_exported_model(tiny_checkpoint, model_bytes_of, precision, kind):
    model = open_model(model_bytes_of(tiny_checkpoint, precision, kind), "tiny")
    content = build_page(model)["model.onnx"]
    assert content == stateful_form(model)
    assert open_model(content, "the page's").contract.kind == "stream"


def test_the_page_knows_what_its_model_says_of_itself(tiny, tiny_config):
    rule = EarlyRule(0.75, 3, temperature=1.5)
    model = replace(tiny, contract=replace(tiny.contract, early=rule, temperature=1.25))
    found = about(model)
    assert found["config"] == {**found["config"], "rows": 28, "cols": 28, "rows_per_step": 1, "hidden_size": 8}
    assert (found["n_parameters"], found["n_bytes"]) == (tiny_config.n_parameters, len(stateful_form(model)))
    assert found["temperature"] == 1.25
    assert found["early"] == {**found["early"], "confidence": 0.75, "n_stable": 3, "temperature": 1.5}
    assert (about(tiny)["early"], about(tiny)["test"]) == (None, None)


@pytest.mark.parametrize(("rows", "cols"), [(28, 20), (20, 28), (8, 8)])
def test_a_model_of_another_size_is_refused_in_one_line(checkpoint_of, model_bytes_of, rows, cols):
    content = model_bytes_of(checkpoint_of(ModelConfig(rows=rows, cols=cols, hidden_size=8)))
    expected = (
        f"small.onnx cannot read what is drawn on the page: found a model of {rows}x{cols} pixels, "
        "expected a picture model of 28x28 pixels, prepared as digits; choose another with --model"
    )
    with pytest.raises(ModelError) as caught:
        build_page(open_model(content, "small.onnx"))
    assert expected == str(caught.value)


@pytest.mark.parametrize(("preparation", "found"), [("values", "28x28 values"), ("plain", "28x28 pixels as they are")])
def test_a_model_of_no_digits_is_refused_whatever_its_size(checkpoint_of, model_bytes_of, preparation, found):
    content = model_bytes_of(checkpoint_of(ModelConfig(hidden_size=8, preparation=preparation)))
    with pytest.raises(ModelError, match=f"found a model of {found}, expected a picture model of 28x28 pixels, prep"):
        build_page(open_model(content, "small.onnx"))


def test_the_page_forbids_itself_whatever_is_elsewhere(tiny):
    html = build_page(tiny)["index.html"].decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert {word for words in directives.values() for word in words.split()} == {
        "'none'",
        "'self'",
        "'wasm-unsafe-eval'",
    }


def test_the_page_holds_no_script_or_style_that_its_policy_forbids():
    html = (SOURCES / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", html) == []


def test_the_sources_are_small():
    n_bytes = sum(path.stat().st_size for path in SOURCES.iterdir())
    assert n_bytes < 50_000, f"{n_bytes:,} bytes in every wheel"


def test_onnxruntime_web_is_found_in_the_users_cache_folder(tmp_path, monkeypatch):
    contents = {"a.mjs": b"export {}", "b.wasm": b"\0asm"}
    folder = tmp_path / "edgelstm" / "onnxruntime-web-1.30.0"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pinned = [PinnedFile(name, f"dist/{name}", len(c), hashlib.sha256(c).hexdigest()) for name, c in contents.items()]
    monkeypatch.setattr(page, "RUNTIME_FILES", pinned)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    assert {"a.js": b"export {}", "b.wasm": b"\0asm"} == ensure_runtime(report=said.append)
    assert said == []


def test_export_writes_every_file(tmp_path):
    export_page({"index.html": b"<!doctype html>", "model.onnx": b"1"}, tmp_path / "new" / "folder")
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert found == {"new/folder/index.html": b"<!doctype html>", "new/folder/model.onnx": b"1"}


def test_export_onto_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write the page into .*file: found a file; choose another folder"):
        export_page({"index.html": b""}, tmp_path / "file")
