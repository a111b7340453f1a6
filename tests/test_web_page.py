"""Tests of edgelstm.web.page: what the demo page is made of, with which models, and what it may do."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace

import pytest

from edgelstm.config import ModelConfig
from edgelstm.contract import EarlyRule, Score
from edgelstm.errors import ModelError
from edgelstm.onnx_file import open_model
from edgelstm.web.page import SCRIPTS, SOURCES, build_page, page_data
from edgelstm.web.weights import page_weights

MAX_BYTES = 152_000
"""Of the page with the shipped base model."""


@pytest.fixture(scope="module")
def tiny(tiny_model_bytes):
    return open_model(tiny_model_bytes, "tiny")


@pytest.fixture(scope="module")
def html(tiny):
    return build_page(tiny).html.decode()


def data_in(html):
    """What the page's script reads, as it reads it."""
    [text] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def unpacked(text):
    return zlib.decompress(base64.b64decode(text))


def test_the_page_is_its_sources_and_the_model(tiny, html):
    style, icon = ((SOURCES / name).read_text() for name in ("style.css", "icon.svg"))
    assert f"<style>{style}</style>" in html
    assert f"data:image/svg+xml;base64,{base64.b64encode(icon.encode()).decode()}" in html
    data = data_in(html)
    assert unpacked(data["engine"]) == (SOURCES / "engine.wasm").read_bytes()
    assert unpacked(data["weights"]) == page_weights(tiny)
    assert "{{" not in html
    assert {path.name for path in SOURCES.iterdir()} == {*SCRIPTS, "index.html", "style.css", "icon.svg", "engine.wasm"}


def test_the_scripts_are_one_script_without_modules(html):
    *_, script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script.startswith('"use strict";\n')
    assert re.findall(r"^(?:import|export)\b.*|^ +", script, re.MULTILINE) == []
    for name in SCRIPTS:
        assert (SOURCES / name).read_text(encoding="utf-8").splitlines()[0] in script


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", "picture"), ("fp16", "picture"), ("int8", "picture"), ("int8", "stream")]
)
def test_any_exported_model_fits(tiny_checkpoint, model_bytes_of, precision, kind):
    model = open_model(model_bytes_of(tiny_checkpoint, precision, kind), "tiny")
    assert unpacked(data_in(build_page(model).html.decode())["weights"]) == page_weights(model)


def test_the_page_knows_what_its_model_says_of_itself(tiny):
    rule = EarlyRule(0.75, 3, temperature=1.5)
    model = replace(tiny, contract=replace(tiny.contract, early=rule, temperature=1.25, test=Score(9_968, 10_000)))
    found = page_data(model)
    assert (found["rows"], found["cols"], list(found["class_names"])) == (28, 28, list("0123456789"))
    assert found["temperature"] == 1.25
    assert found["early"] == {**found["early"], "confidence": 0.75, "n_stable": 3, "temperature": 1.5}
    start = "Model tiny: 1,306 parameters, int8, 2 kB · 99.68 % of 10,000 test digits"
    assert found["about"].startswith(f"{start} in fp32 · edgelstm's own C")  # the score is the file's, not int8's
    of_int8 = replace(model, contract=replace(model.contract, precision="int8"))
    assert page_data(of_int8)["about"].startswith(f"{start} · edgelstm's own C")
    assert (page_data(tiny)["early"], "test" in page_data(tiny)["about"]) == (None, False)


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


def hashes(html, tag):
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in contents]


def test_the_page_allows_itself_its_own_script_and_style_and_nothing_else(tiny, html):
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy == build_page(tiny).policy
    assert html.index(policy) < min(html.index("<style"), html.index("<script"))
    assert dict(part.strip().split(" ", 1) for part in policy.split(";")) == {
        "default-src": "'none'", "script-src": f"{hashes(html, 'script')[-1]} 'wasm-unsafe-eval'",
        "style-src": hashes(html, "style")[0], "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_the_page_holds_no_script_or_style_that_its_policy_forbids(html):
    assert len(re.findall("<script", html)) == len(re.findall("</script", html)) == 2
    assert len(re.findall("<style", html)) == 1
    assert re.findall(r"<[^>]*\bstyle=|<[^>]*\bon[a-z]+=|<script[^>]*\bsrc=|<link(?![^>]*data:)", html) == []


def test_a_name_cannot_end_the_script(tiny):
    names = ("</script><script>alert(1)</script>", "<!--", "{{policy}}", *"3456789")
    config = replace(tiny.contract.config, class_names=names)
    model = replace(tiny, contract=replace(tiny.contract, config=config, name="<b>{{script}}"))
    html = build_page(model).html.decode()
    assert len(re.findall("<script", html)) == 2
    assert html.count("<!--") == 0
    assert data_in(html)["class_names"] == list(names)
    assert data_in(html)["about"].startswith("Model <b>{{script}}: ")


def test_the_page_with_the_shipped_model_is_small():
    n_bytes = len(build_page(open_model("base")).html)
    assert n_bytes < MAX_BYTES, f"{n_bytes:,} bytes"
