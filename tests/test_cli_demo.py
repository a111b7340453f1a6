"""Tests of edgelstm demo: which model, what it says, how it ends."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgelstm
from edgelstm.cli import main
from edgelstm.config import ModelConfig
from edgelstm.data.npm import PinnedFile
from edgelstm.onnx_file import open_model
from edgelstm.runtime.stream import stateful_form
from edgelstm.web import page
from edgelstm.web.server import DemoServer

CONTENTS = {"ort.wasm.bundle.min.mjs": b"export {}", "ort-wasm-simd-threaded.wasm": b"\0asm"}
TIMEOUT_S = 60


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that holds two small files in place of onnxruntime-web."""
    folder = tmp_path / "cache" / "edgelstm" / "onnxruntime-web-1.30.0"
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    pinned = [PinnedFile(name, f"dist/{name}", len(c), hashlib.sha256(c).hexdigest()) for name, c in CONTENTS.items()]
    monkeypatch.setattr(page, "RUNTIME_FILES", pinned)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def demo(*arguments):
    return CliRunner().invoke(main, ["demo", *map(str, arguments)])


def test_export_says_how_large_each_file_is(cache, tiny_model_path, tmp_path):
    done = demo("--model", tiny_model_path, "--export", tmp_path / "out")
    assert done.exit_code == 0, done.output
    *lines, total = [line.split() for line in done.stdout.splitlines()]
    written = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert {name: f"{n_bytes:,}" for name, n_bytes in written.items()} == {name: size for size, _, name in lines}
    assert total == [f"{sum(written.values()):,}", "bytes", str(tmp_path / "out")]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == stateful_form(open_model(tiny_model_path))


@pytest.mark.parametrize("own", [True, False])
def test_the_default_is_the_trained_model_or_else_the_shipped_one(cache, tiny_model_bytes, tmp_path, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    if own:
        (tmp_path / "runs" / "base").mkdir(parents=True)
        (tmp_path / "runs" / "base" / "model.onnx").write_bytes(tiny_model_bytes)
    assert demo("--export", "out").exit_code == 0
    expected = open_model(tiny_model_bytes if own else "base")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == stateful_form(expected)


def test_a_model_of_another_size_is_refused_before_anything_is_fetched(
    checkpoint_of, model_bytes_of, tmp_path, monkeypatch
):
    monkeypatch.setattr(page, "ensure_runtime", lambda **k: pytest.fail("fetched"))
    content = model_bytes_of(checkpoint_of(ModelConfig(rows=12, cols=5, hidden_size=8)))
    (tmp_path / "sensor.onnx").write_bytes(content)
    done = demo("--model", tmp_path / "sensor.onnx")
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert "found a model of 12x5 pixels, expected a picture model of 28x28 pixels" in done.stderr.splitlines()[-1]


def test_a_busy_port_exits_1_with_one_line(cache, tiny_model_path):
    with DemoServer({"index.html": b""}, port=0) as other:
        done = demo("--model", tiny_model_path, "--no-open", "--port", other.server_port)
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert f"port {other.server_port} is busy" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("no_open", [True, False])
def test_the_browser_is_opened_unless_it_shall_not(cache, tiny_model_path, monkeypatch, no_open):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(DemoServer, "serve_forever", lambda self: None)
    done = demo("--model", tiny_model_path, "--port", "0", *(["--no-open"] if no_open else []))
    assert done.exit_code == 0, done.output
    assert opened == ([] if no_open else [done.stdout.strip()])


SERVE = """
import sys
from edgelstm.web import page
page.ensure_runtime = lambda report: {}
from edgelstm.cli import main
main(sys.argv[1:], prog_name="edgelstm")
"""


def test_ctrl_c_ends_it_quietly(tiny_model_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, "demo", "--no-open", "--port", "0", "--model", str(tiny_model_path)],
        env={**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    url, said = process.stdout.readline(), [process.stderr.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert url.startswith("http://127.0.0.1:"), err
    assert (process.returncode, out, err) == (0, "", "")
    assert said == [f"model {tiny_model_path}\n", "Ctrl-C ends it\n"]
