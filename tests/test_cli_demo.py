"""Tests of edgelstm demo: which model, what it says, how it ends."""

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
from edgelstm.onnx_file import open_model
from edgelstm.web.page import Page, build_page
from edgelstm.web.server import DemoServer

TIMEOUT_S = 60


def demo(*arguments):
    return CliRunner().invoke(main, ["demo", *map(str, arguments)])


def test_export_writes_one_file_and_says_how_large_it_is(tiny_model_path, tmp_path):
    file = tmp_path / "new" / "page.html"
    done = demo("--model", tiny_model_path, "--export", file)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {file} ({file.stat().st_size:,} bytes)\n"
    assert file.read_bytes() == build_page(open_model(tiny_model_path)).html
    assert [file] == list(file.parent.iterdir())


@pytest.mark.parametrize("name", ["folder", "folder.html", "page", "page.js"])
def test_export_to_what_is_no_page_is_one_clear_line(tiny_model_path, tmp_path, name):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    done = demo("--model", tiny_model_path, "--export", tmp_path / name)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    a_folder = ", a folder" if name.startswith("folder") else ""
    said = f"found {tmp_path / name}{a_folder}, expected a file name that ends in .html"
    assert done.stderr.splitlines()[-1].endswith(said)
    assert not (tmp_path / name).is_file()


def test_what_cannot_be_written_is_one_clear_line(tiny_model_path, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    done = demo("--model", tiny_model_path, "--export", tmp_path / "file" / "page.html")
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.splitlines()[-1].startswith("Error: cannot write "), done.stderr


@pytest.mark.parametrize("own", [True, False])
def test_the_default_is_the_trained_model_or_else_the_shipped_one(tiny_model_bytes, tmp_path, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    if own:
        (tmp_path / "runs" / "base").mkdir(parents=True)
        (tmp_path / "runs" / "base" / "model.onnx").write_bytes(tiny_model_bytes)
    assert demo("--export", "page.html").exit_code == 0
    expected = open_model(tiny_model_bytes if own else "base")
    assert (tmp_path / "page.html").read_bytes() == build_page(expected).html


def test_a_model_of_another_size_is_refused(checkpoint_of, model_bytes_of, tmp_path):
    content = model_bytes_of(checkpoint_of(ModelConfig(rows=12, cols=5, hidden_size=8)))
    (tmp_path / "sensor.onnx").write_bytes(content)
    done = demo("--model", tmp_path / "sensor.onnx", "--export", tmp_path / "page.html")
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert "found a model of 12x5 pixels, expected a picture model of 28x28 pixels" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "page.html").exists()


def test_a_busy_port_exits_1_with_one_line(tiny_model_path):
    with DemoServer(Page(b"", ""), port=0) as other:
        done = demo("--model", tiny_model_path, "--no-open", "--port", other.server_port)
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert f"port {other.server_port} is busy" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("no_open", [True, False])
def test_the_browser_is_opened_unless_it_shall_not(tiny_model_path, monkeypatch, no_open):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(DemoServer, "serve_forever", lambda self: None)
    done = demo("--model", tiny_model_path, "--port", "0", *(["--no-open"] if no_open else []))
    assert done.exit_code == 0, done.output
    assert opened == ([] if no_open else [done.stdout.strip()])


def test_ctrl_c_ends_it_quietly(tiny_model_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "edgelstm", "demo", "--no-open", "--port", "0", "--model", str(tiny_model_path)],
        env={**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    url, said = process.stdout.readline(), [process.stderr.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert url.startswith("http://127.0.0.1:"), err
    assert (process.returncode, out, err) == (0, "", "")
    assert said == [f"model {tiny_model_path}\n", "Ctrl-C ends it\n"]
