"""Tests of `edgelstm doctor`: one line a finding, exit status 1 only where something must be mended."""

import json
from importlib import metadata

import pytest
from click.testing import CliRunner

from edgelstm.cli import main


@pytest.fixture(autouse=True)
def _no_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path))


def doctor(*arguments, expected=0):
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert expected == result.exit_code, result.output
    return result


def test_this_machine_is_in_order():
    assert doctor().stdout.splitlines()[-1] == "no problems found"


def test_two_runtime_wheels_exit_1_with_what_to_do(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.31.1" if name.startswith("onnxruntime") else real(name))
    result = doctor(expected=1)
    assert any(line.startswith("FAIL  onnxruntime wheels") for line in result.stdout.splitlines())
    assert result.stdout.splitlines()[-1] == "problems found: see FAIL above"
    assert "do: pip uninstall -y onnxruntime onnxruntime-gpu" in result.stdout
    document = json.loads(doctor("--json", expected=1).stdout)
    assert document["passed"] is False
    assert [one["what"] for one in document["findings"] if one["passed"] is False] == ["onnxruntime wheels"]


def test_an_argument_is_a_usage_error():
    assert "Usage: " in doctor("now", expected=2).stderr
