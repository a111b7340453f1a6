"""Tests of `edgelstm explain`: a line a row, JSON, drawings, and one clear line for what cannot be explained."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from commands import fails, run
from PIL import Image

from edgelstm.cli.output import drawing
from edgelstm.config import ModelConfig
from edgelstm.contract import NoDigitRule
from edgelstm.errors import MissingDependencyError
from edgelstm.show.explain import explain

PICTURE = sorted(Path(__file__).with_name("pictures").glob("*/ql*"))[0]


@pytest.fixture(autouse=True)
def _a_picture_and_a_model(tmp_path, monkeypatch, tiny_model_bytes):
    monkeypatch.chdir(tmp_path)
    Path("digit.jpg").write_bytes(PICTURE.read_bytes())
    Path("tiny.onnx").write_bytes(tiny_model_bytes)


def said(*arguments, **options):
    return run("explain", *arguments, "--model", "tiny.onnx", **options)


def test_the_answer_is_as_sure_as_infer_says(tiny_checkpoint, model_bytes_of):
    rule = NoDigitRule(((0.0,) * 71,), (0.0, 3.0))
    Path("tiny.onnx").write_bytes(model_bytes_of(replace(tiny_checkpoint, no_digit=rule)))
    head = said("digit.jpg").stdout.splitlines()[0]
    answer = json.loads(run("infer", "digit.jpg", "--model", "tiny.onnx", "--json").stdout)
    assert f"{100 * answer['confidence']:.1f} %, settled at row" in head
    assert head.endswith("(no digit)")


def test_explain_prints_the_answer_and_a_line_a_row_with_its_ink():
    head, title, *rows = said("digit.jpg").stdout.splitlines()
    explanation = explain("digit.jpg", "tiny.onnx")
    best = 100 * explanation.probabilities[-1].max()
    assert f"digit.jpg  {explanation.prediction.label}  {best:.1f} %, settled at row" in head
    assert ["row", "input", "best"] == title.split()
    assert [str(row) for row in range(1, 29)] == [line.split()[0] for line in rows]
    assert [explanation.settled_at_row] == [row for row, line in enumerate(rows, 1) if line.endswith("settled")]
    for line, ink in zip(rows, drawing(explanation.prediction).split("\n"), strict=True):
        assert line[5:].startswith(ink), line


def test_several_rows_a_step_have_an_answer_where_the_step_ends(checkpoint_of, model_bytes_of):
    config = ModelConfig(rows=12, cols=20, rows_per_step=3, hidden_size=8, class_names=("a", "b", "c"))
    Path("other.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    result = run("explain", "digit.jpg", "--model", "other.onnx")
    rows = result.stdout.splitlines()[2:]
    answered = [number for number, row in enumerate(rows, 1) if "%  " in row or row.endswith("%")]
    assert (len(rows), [3, 6, 9, 12]) == (12, [number for number in answered if number % 3 == 0])
    assert result.stderr == "model other.onnx\n"


@pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")
def test_the_c_engine_explains_its_own_answer():
    one, other = (json.loads(said("digit.jpg", "--json", "--provider", name).stdout) for name in ("cpu", "c"))
    assert one["label"] == other["label"] == other["rows"][-1]["best"]
    assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
    assert other["confidence"] == pytest.approx(other["rows"][-1]["probability"], abs=1e-6)


def test_explain_json_has_the_answer_and_every_row():
    document = json.loads(said("digit.jpg", "--json").stdout)
    assert (28, 28) == (len(document["rows"]), document["rows"][-1]["row"])
    assert (document["label"], pytest.approx(document["confidence"], abs=6e-5)) == (
        document["rows"][-1]["best"], document["rows"][-1]["probability"]
    )  # fmt: skip
    for row in document["rows"]:
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["best"]]
        assert sum(row["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(("name", "begins"), [("why.png", b"\x89PNG"), ("why.svg", b"<?xml"), ("why.PNG", b"\x89PNG")])
def test_explain_draws_into_the_file_and_takes_standard_input(name, begins):
    result = said("-", "-o", name, input=PICTURE.read_bytes())
    assert Path(name).read_bytes().startswith(begins)
    assert result.stderr == f"model tiny.onnx\nwrote {name}\n"
    assert result.stdout.startswith("-  ")


# What cannot be explained


def test_a_blank_picture_is_one_clear_line_and_draws_nothing():
    Image.new("L", (50, 50), 255).save("blank.png")
    assert fails("explain", "blank.png", "-o", "why.png") == (
        "blank.png holds nothing to explain (no ink found): expected a picture with a digit"
    )
    assert not Path("why.png").exists()


@pytest.mark.parametrize("name", ["why.jpg", "why", "why.pdf"])
def test_a_drawing_of_another_format_is_refused_before_any_work(name):
    result = run("explain", "missing.png", "-o", name, expected=2)
    assert f"found {name}, expected a name that ends in .png or .svg" in result.stderr
    assert not Path(name).exists()


def test_a_drawing_without_matplotlib_is_refused_before_any_work(monkeypatch):
    def missing(*arguments):
        raise MissingDependencyError("matplotlib", "plot", purpose="drawing a plot")

    monkeypatch.setattr("edgelstm.show.plots.new_figure", missing)
    assert fails("explain", "missing.png", "-o", "why.png") == (
        'drawing a plot needs the package matplotlib, which is not installed; run pip install "edgelstm[plot]"'
    )


def test_a_checkpoint_in_the_models_place_says_what_to_do():
    Path("base.safetensors").write_bytes(b"x")
    assert fails("explain", "digit.jpg", "--model", "base.safetensors") == (
        "base.safetensors is a checkpoint: expected an ONNX file; write one with `edgelstm export base.safetensors`"
    )


def test_an_empty_standard_input_is_one_clear_line():
    assert "empty" in fails("explain", "-", input=b"")


# Values


@pytest.fixture
def gesture(checkpoint_of, model_bytes_of):
    """A model that reads any number of rows of ten columns."""
    config = ModelConfig(
        rows=12, cols=10, hidden_size=6, class_names=("rest", "walk"), preparation="values", variable_length=True
    )
    Path("gesture.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    return ("--model", "gesture.onnx")


def saved(n_rows):
    np.save("v.npy", np.random.default_rng(n_rows).normal(0, 1000, (n_rows, 10)))
    return "v.npy"


@pytest.mark.parametrize(("n_rows", "apart"), [(1, 1), (40, 1), (41, 2), (1234, 31)])
def test_values_are_a_line_a_row_as_many_as_fit_a_screen(gesture, n_rows, apart):
    explanation = explain(saved(n_rows), "gesture.onnx")
    head, title, *rows = run("explain", "v.npy", *gesture).stdout.splitlines()
    assert f"settled at row {explanation.settled_at_row} of {n_rows}" in head
    assert ["row", "input", "best"] == title.split()
    shown = sorted({*range(apart, n_rows + 1, apart), n_rows, explanation.settled_at_row})
    assert shown == [int(line.split()[0]) for line in rows]
    values = explanation.prediction.sequence
    for number, line in zip(shown, rows, strict=True):
        cells = line.split()
        assert [f"{value:.4g}" for value in values[number - 1, :8].tolist()] == cells[1:9]
        assert cells[9:11] == ["...", ("rest", "walk")[explanation.leaders[number - 1]]]
        assert line.endswith("settled") == (number == explanation.settled_at_row)


@pytest.mark.parametrize(("n_rows", "apart"), [(30, 3), (300, 9)])
def test_values_of_several_rows_a_step_are_a_line_where_a_step_ends(checkpoint_of, model_bytes_of, n_rows, apart):
    config = ModelConfig(
        rows=n_rows, cols=10, rows_per_step=3, hidden_size=6, class_names=("rest", "walk"), preparation="values"
    )
    Path("three.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    settled_at = explain(saved(n_rows), "three.onnx").settled_at_row
    rows = run("explain", "v.npy", "--model", "three.onnx").stdout.splitlines()[2:]
    shown = sorted({*range(apart, n_rows + 1, apart), n_rows, settled_at})
    assert shown == [int(line.split()[0]) for line in rows]
    assert all(" %" in line for line in rows)


def test_values_are_drawn_and_turned(gesture):
    np.save("t.npy", np.load(saved(30)).T)
    assert (
        run("explain", "t.npy", *gesture, "--channels-first", "-o", "why.png").stdout.splitlines()[1:]
        == (run("explain", "v.npy", *gesture).stdout.splitlines()[1:])
    )
    assert Path("why.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads(run("explain", "v.npy", *gesture, "--json").stdout)
    assert (30, 30) == (len(document["rows"]), document["rows"][-1]["row"])


def test_a_picture_for_a_model_of_values_is_one_clear_line(gesture):
    assert "digit.jpg is no sequence of values" in fails("explain", "digit.jpg", *gesture)
