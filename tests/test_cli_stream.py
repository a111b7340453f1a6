"""Tests of `edgelstm stream`: a line after each row, early answers, states on disk, and one line for what is wrong."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from commands import TIMEOUT_S, fails, run, started
from PIL import Image

import edgelstm
from edgelstm.config import ModelConfig, shipped_dir
from edgelstm.contract import EarlyRule
from edgelstm.data.dataset import Part
from edgelstm.errors import MissingDependencyError
from edgelstm.exporting.export import MIN_FOR_RULE
from edgelstm.runtime.classifier import Classifier
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream
from edgelstm.training.checkpoint import load_checkpoint

RULE = EarlyRule(0.9, 2, temperature=1.25)


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path, model_bytes_of):
    """The shipped weights, another temperature, and a rule that decides early, in the current folder."""
    checkpoint = load_checkpoint(shipped_dir() / "base.safetensors")
    checkpoint = dataclasses.replace(checkpoint, test=None, temperature=1.25)
    Path("m.onnx").write_bytes(model_bytes_of(checkpoint, early=RULE))
    return "m.onnx"


def lines(*arguments, **options):
    return [json.loads(line) for line in run("stream", *arguments, **options).stdout.splitlines()]


def test_a_line_after_each_row_and_the_next_picture_after_the_last(model, sample):
    found = lines(model, input=sample.sequences[:3].tobytes())
    assert [(line["picture"], line["rows"]) for line in found] == [(i, row) for i in range(3) for row in range(1, 29)]
    assert [str(label) for label in sample.labels[:3]] == [line["label"] for line in found if line["rows"] == 28]
    logits = Stream(model).push(sample.sequences[0, :20])[0].astype(np.float64)
    assert {"picture", "stream", "rows", "label", "confidence"} == set(found[19])
    assert str(logits.argmax()) == found[19]["label"]
    shares = np.exp(logits / 1.25) / np.exp(logits / 1.25).sum()
    assert float(shares.max()) == pytest.approx(found[19]["confidence"], abs=1e-5)


@pytest.mark.parametrize("name", ["m.onnx", "nano", "early"])
def test_the_confidence_after_the_last_row_is_infers(model, sample, name):
    """One digit, one model, one confidence: the temperature is in both."""
    pictures = [Image.fromarray(255 - image) for image in sample.sequences[:8]]
    predictions = [Classifier(name, provider="cpu").classify(picture) for picture in pictures]
    rows = np.stack([prediction.sequence for prediction in predictions])
    found = [line["confidence"] for line in lines(name, input=rows.tobytes()) if line["rows"] == 28]
    assert found == pytest.approx([prediction.confidence for prediction in predictions], abs=2e-6)
    assert min(found) < 0.9999


@pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")
def test_the_c_engine_streams_with_its_state_in_a_file(model, sample):
    rows = sample.sequences[:2].tobytes()
    expected = lines(model, "--provider", "c-int8", input=rows)
    options = ("--provider", "c-int8", "--state", "state")
    found = lines(model, *options, input=rows[: 28 * 10]) + lines(model, *options, input=rows[28 * 10 :])
    assert expected == found
    as_floats = lines(model, "--provider", "c", input=rows)
    assert [line["label"] for line in lines(model, input=rows)] == [line["label"] for line in as_floats]


def test_early_tells_one_line_a_picture_at_its_decision(model, sample):
    found = lines(model, "--early", input=sample.sequences[:20].tobytes())
    assert list(range(20)) == [line["picture"] for line in found]
    stream = Stream(model, early=True)
    for line, image in zip(found, sample.sequences, strict=False):
        stream.reset()
        while not stream.decided[0]:
            stream.push(image[stream.rows_read[0]])
        assert (stream.rows_read[0], str(stream.decisions[0])) == (line["rows"], line["label"])
    assert min(line["rows"] for line in found) < 28


def test_many_streams_take_a_row_each_in_turn(model, sample):
    side_by_side = sample.sequences[:6].reshape(2, 3, 28, 28).transpose(0, 2, 1, 3)  # (pictures, rows, streams, cols)
    together = lines(model, "--streams", 3, "--early", input=side_by_side.tobytes())
    alone = lines(model, "--early", input=sample.sequences[:6].tobytes())
    key = ("label", "rows")
    assert {(3 * line["picture"] + line["stream"], *map(line.get, key)) for line in together} == {
        (line["picture"], *map(line.get, key)) for line in alone
    }
    assert sorted(line["rows"] for line in together[:3]) == [line["rows"] for line in together[:3]], "as they come"


@pytest.mark.parametrize("early", [[], ["--early"]])
@pytest.mark.parametrize("rows", [1, 20, 26, 28, 41])
def test_a_state_goes_on_where_it_was_left(model, sample, early, rows):
    content = sample.sequences[:2].tobytes()
    whole = lines(model, *early, input=content)
    parts = [content[: 28 * rows], content[28 * rows :]]
    found = [line for part in parts for line in lines(model, *early, "--state", "state", input=part)]
    assert [(line["rows"], line["label"]) for line in whole] == [(line["rows"], line["label"]) for line in found]
    assert Stream(model, early=True).save() == Path("state").read_bytes(), "after the last row it is a new picture's"


@pytest.mark.parametrize("early", [[], ["--early"]])
def test_a_state_at_the_end_of_a_picture_goes_on_with_the_next(model, sample, early):
    """As from Stream.save, or where nobody read the last answer: the next row was a traceback."""
    stream = Stream(model, early=True)
    stream.push(sample.sequences[:1])
    Path("state").write_bytes(stream.save())
    content = sample.sequences[1].tobytes()
    assert lines(model, *early, "--state", "state", input=content) == lines(model, *early, input=content)


def test_a_state_of_gigabytes_is_refused_unread(model):
    with open("state", "wb") as stream:
        stream.truncate(2**29)  # sparse: takes no room on the disk
    message = fails("stream", model, "--state", "state", input=bytes(28))
    assert message.startswith("state is not a saved state: found 536,870,912 bytes, expected 1 to ")


def test_an_input_that_ends_within_a_picture_says_so(model, sample):
    result = run("stream", model, input=sample.sequences[0, :5].tobytes())
    assert result.stderr == "model m.onnx\nthe input ended after row 5 of 28 of sequence 0\n"
    assert len(result.stdout.splitlines()) == 5


def test_an_input_that_ends_within_a_row_is_a_clear_line_after_the_answers_before(model, sample):
    result = run("stream", model, input=sample.sequences[0].tobytes()[:70], expected=1)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: the input ends in the middle of a step: found 14 bytes, expected 28; a step is 1 x 1 rows of 28 bytes"
    )


def test_no_input_is_no_line_and_a_note(model):
    assert lines(model, input=b"") == []
    assert run("stream", model, input=b"").stderr == "model m.onnx\nno rows came on standard input\n"


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "stream"), ("int8", "picture"), ("fp16", "picture")])
@pytest.mark.parametrize(
    ("config", "n_bytes", "rows"),
    [
        (ModelConfig(hidden_size=6, rows_per_step=4), 784, range(4, 29, 4)),
        (ModelConfig(rows=100, cols=3, hidden_size=6, class_names=("rest", "walk")), 300, range(1, 101)),
    ],
    ids=["four rows a step", "100 steps of three columns"],
)
def test_every_exported_model_streams(checkpoint_of, model_bytes_of, precision, kind, config, n_bytes, rows):
    Path("other.onnx").write_bytes(model_bytes_of(checkpoint_of(config), precision, kind))
    assert list(rows) == [line["rows"] for line in lines("other.onnx", input=bytes(n_bytes))]


def test_an_answer_comes_before_the_next_row_is_there(model, sample):
    """A scanner waits for nobody: the first row's line must not sit in a buffer until more rows come."""
    with started("stream", model, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        try:
            for row in sample.sequences[0, :3]:
                one.stdin.write(row.tobytes())
                one.stdin.flush()
                assert json.loads(one.stdout.readline())["picture"] == 0
            one.stdin.close()
            assert one.wait(TIMEOUT_S) == 0
        finally:
            one.kill()


def test_a_run_folder_means_its_model_and_is_the_default(model):
    Path("runs/base").mkdir(parents=True)
    Path(model).rename("runs/base/model.onnx")
    assert len(lines("runs/base", input=bytes(56))) == len(lines(input=bytes(56))) == 2
    assert run("stream", input=b"").stderr.startswith("model runs/base/model.onnx\n")


# Usage and errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluate", "--early"], "--evaluate reads --data, not stdin"),
        (["--evaluate", "--streams", "2"], "--evaluate reads --data, not stdin"),
        (["--evaluate", "--state", "x"], "--evaluate reads --data, not stdin"),
        (["--evaluate", "--csv"], "--evaluate reads --data, not stdin"),
        (["--evaluate", "--window", "28"], "--evaluate reads --data, not stdin"),
        (["--plot", "x.png"], "--plot, --json and --data are for --evaluate"),
        (["--json"], "--plot, --json and --data are for --evaluate"),
        (["--data", "x"], "--plot, --json and --data are for --evaluate"),
        (["--hop", "5"], "--hop goes with --window"),
        (["--window", "28", "--early"], "--hop goes with --window, --early does not"),
        (["--window", "28", "--streams", "2"], "leave out --streams"),
        (["--csv", "--streams", "2"], "leave out --streams"),
        (["--csv"], "--csv is for models of values"),
        (["--window", "27"], "--window: found 27, expected 28, which is what the model reads"),
        (["--window", "28", "--hop", "29"], "--hop: found 29 for a window of 28 rows"),
        (["--evaluate", "--plot", "x.jpg"], "found x.jpg, expected a name that ends in .png or .svg"),
    ],
)
def test_options_that_do_not_go_together_are_usage(model, arguments, message):
    assert message in run("stream", model, *arguments, expected=2, input=b"").stderr


@pytest.mark.skipif(os.name != "posix", reason="a shell that can close a stream")
@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        ("<&-", "no rows to read: found a closed standard input, expected raw rows, or lines with --csv"),
        (">&-", "standard output is closed: open it, or lead it into a file or a pipe"),
    ],
)
def test_a_closed_stream_of_a_real_process_is_a_clear_line(model, closed, expected):
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])}
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "edgelstm", "stream", model]
    result = subprocess.run(
        command, env=environment, input=bytes(784), stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False
    )
    assert (result.returncode, result.stderr.decode()) == (1, f"Error: {expected}\n")


def test_a_model_without_a_rule_cannot_decide_early(tiny_model_bytes):
    Path("plain.onnx").write_bytes(tiny_model_bytes)
    assert fails("stream", "plain.onnx", "--early", input=b"") == (
        "plain.onnx has no rule for early exit: expected one chosen by at least 500 validation sequences of one "
        "length; export it again where these are, or give edgelstm.Stream a rule"
    )
    assert MIN_FOR_RULE == 500


@pytest.mark.usefixtures("gesture")
def test_a_model_of_any_length_is_not_sent_to_export_for_a_rule():
    message = fails("stream", "free.onnx", "--early", input=b"")
    assert "found a model of sequences of any length, expected one chosen by at least 500 validation seq" in message
    assert "export" not in message
    assert "cannot be evaluated" in fails("stream", "free.onnx", "--evaluate", "--data", "x.npz")


def test_a_damaged_state_is_a_clear_line_and_stays_as_it_is(model):
    Path("state").write_bytes(b"damaged")
    assert "the saved state cannot be read" in fails("stream", model, "--state", "state", input=bytes(28))
    assert Path("state").read_bytes() == b"damaged"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("state", ["pipe", "/dev/zero"])
def test_a_state_that_is_no_file_is_refused_before_a_row_is_read(model, monkeypatch, state):
    """A pipe would be waited for, a device read without end."""
    os.mkfifo("pipe")
    rows = io.BytesIO(bytes(784))
    error = fails("stream", model, "--state", state, input=rows)
    assert error == f"{state} is not a saved state: found not a regular file, expected a file"


def test_a_state_of_streams_at_different_rows_is_a_clear_line(model):
    stream = Stream(model, n_streams=2)
    stream.push(np.zeros((1, 1, 28), np.uint8), [1])
    Path("state").write_bytes(stream.save())
    message = fails("stream", model, "--streams", 2, "--state", "state", input=b"")
    assert "found streams that stand at different rows" in message


# Evaluate


@pytest.fixture
def few(monkeypatch, sample):
    digits = Part(sample.sequences[:100], sample.labels[:100], "a hundred")
    monkeypatch.setattr("edgelstm.data.evaluation.evaluation_digits", lambda folder: digits)


@pytest.mark.usefixtures("few")
def test_evaluate_prints_the_headline_and_a_row_for_each_row(model):
    result = run("stream", model, "--evaluate", "--plot", "curve.png")
    shown = result.stdout.splitlines()
    assert shown[0].startswith("every row    ")
    assert shown[1] == "rule         a probability of at least 0.9 for 2 steps"
    assert " of 28 rows: " in shown[2]
    assert "lost, " in shown[3]
    assert [str(row) for row in range(1, 29)] == [line.split()[0] for line in shown[-28:]]
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("few")
def test_evaluate_json_holds_the_same(model):
    document = json.loads(run("stream", model, "--evaluate", "--json").stdout)
    assert (28, 28, 100) == (document["rows"], len(document["curve"]), document["full"]["n"])
    assert document["curve"][-1]["score"] == document["full"]
    assert document["mean_rows"] < 28
    assert document["rule"]["confidence"] == 0.9


def test_a_plot_without_matplotlib_is_refused_before_anything_is_read(model, monkeypatch):
    def missing(*arguments):
        raise MissingDependencyError("matplotlib", "plot", purpose="drawing a plot")

    def evaluated(folder):
        raise AssertionError("digits were read")

    monkeypatch.setattr("edgelstm.show.plots.new_figure", missing)
    monkeypatch.setattr("edgelstm.data.evaluation.evaluation_digits", evaluated)
    error = fails("stream", model, "--evaluate", "--plot", "curve.png")
    assert error == (
        'drawing a plot needs the package matplotlib, which is not installed; run pip install "edgelstm[plot]"'
    )


def test_a_model_of_another_shape_cannot_be_evaluated_on_mnist(checkpoint_of, model_bytes_of):
    config = ModelConfig(rows=100, cols=3, hidden_size=6, class_names=("rest", "walk"))
    Path("gesture.onnx").write_bytes(model_bytes_of(checkpoint_of(config), early=RULE))
    assert fails("stream", "gesture.onnx", "--evaluate") == (
        "gesture.onnx cannot be evaluated: found no data of its shape, expected what it was trained on, with --data"
    )


# Values

GESTURE = ModelConfig(rows=6, cols=2, hidden_size=5, class_names=("rest", "walk"), preparation="values")
SIGNAL = np.random.default_rng(3).normal(0, 1, (40, 2)).astype(np.float32)
TEXT = "".join(f"{x!r},{y!r}\n" for x, y in SIGNAL.tolist())


@pytest.fixture
def gesture(checkpoint_of, model_bytes_of):
    """Models of values, of six rows and of any number, in the current folder."""
    for name, config in (("fixed", GESTURE), ("free", dataclasses.replace(GESTURE, variable_length=True))):
        Path(f"{name}.onnx").write_bytes(model_bytes_of(checkpoint_of(config), early=RULE if name == "fixed" else None))


def said(logits):
    """The label and the confidence of (N, classes) logits."""
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [(("rest", "walk")[row.argmax()], pytest.approx(row.max(), abs=2e-6)) for row in shares]


@pytest.mark.usefixtures("gesture")
@pytest.mark.parametrize(
    ("arguments", "content"),
    [([], SIGNAL.astype("<f4").tobytes()), (["--csv"], TEXT), (["--csv"], "# two axes\nx1,y-2\n" + TEXT + "\n\n"),
     (["--csv"], "\ufeff" + TEXT.replace(",", " ; ").replace("\n", "\r\n").rstrip()),
     (["--csv"], TEXT.replace(",", "\t")), (["--csv"], TEXT.replace(",", "   "))],
    ids=["raw", "csv", "header and end", "semicolons, BOM, CRLF, no last line end", "tabs", "blanks"],
)  # fmt: skip
def test_windows_of_a_signal_are_told_with_the_row_that_ends_each(arguments, content):
    found = lines("fixed.onnx", "--window", 6, "--hop", 4, *arguments, input=content)
    ends = list(range(6, 41, 4))
    windows = np.stack([SIGNAL[end - 6 : end] for end in ends])
    assert [*enumerate(ends)] == [(line["window"], line["end_row"]) for line in found]
    expected = said(OrtRunner("fixed.onnx", provider="cpu").logits(windows))
    assert [(line["label"], line["confidence"]) for line in found] == expected


@pytest.mark.usefixtures("gesture")
def test_a_blank_line_ends_a_sequence_of_any_length_and_begins_a_signal_anew():
    rows = TEXT.splitlines()
    text = "\n".join([*rows[:3], "", "", *rows[3:10], "", rows[10]])
    found = lines("free.onnx", "--csv", input=text)
    expected = [*((0, row) for row in range(1, 4)), *((1, row) for row in range(1, 8)), (2, 1)]
    assert expected == [(line["sequence"], line["rows"]) for line in found]
    logits = OrtRunner("free.onnx", provider="cpu").logits(SIGNAL[None, 3:10])
    assert said(logits) == [(found[9]["label"], found[9]["confidence"])]
    windows = lines("free.onnx", "--csv", "--window", 3, input=text)
    assert [3, 3, 6] == [line["end_row"] for line in windows]


@pytest.mark.usefixtures("gesture")
def test_a_blank_line_within_a_sequence_of_fixed_length_gives_it_up_and_says_so():
    rows = TEXT.splitlines()
    result = run("stream", "fixed.onnx", "--csv", input="\n".join([*rows[:6], "", *rows[:2], "", *rows[:6]]))
    found = [(line["sequence"], line["rows"]) for line in map(json.loads, result.stdout.splitlines())]
    assert [*((0, i) for i in range(1, 7)), (1, 1), (1, 2), *((2, i) for i in range(1, 7))] == found
    assert result.stderr.splitlines()[1:] == ["the input ended after row 2 of 6 of sequence 1"]


@pytest.mark.usefixtures("gesture")
@pytest.mark.parametrize(
    ("line", "found"),
    [("1,2,3", "3 numbers"), ("1", "1 numbers"), ("1,x", "1,x"), ("1,nan", "1,nan"), ("inf,1", "inf,1"),
     ("1,1e39", "1,1e39"), ("1,", "1,"), ("1,5;2,5", "1,5;2,5"), ("x,y", "x,y"),
     ("1,2" + " " * 5000 + "3", "2 numbers"), ("1," * 5000, "1," * 28 + "1...")],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named_after_the_answers_before(line, found):
    result = run("stream", "free.onnx", "--csv", input=f"1,2\n\n3,4\n{line}\n5,6\n", expected=1)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines()[-1] == (
        f"Error: line 4 of the input is no row: found {found}, expected 2 finite numbers, parted by commas, "
        "semicolons, tabs or blanks"
    )


@pytest.mark.usefixtures("gesture")
def test_raw_values_that_end_amid_a_row_are_a_clear_line_after_the_answers_before():
    result = run("stream", "free.onnx", input=SIGNAL[:3].tobytes()[:-3], expected=1)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: the input ends in the middle of a step: found 5 bytes, expected 8; "
        "a step is 1 x 1 rows of 2 float32 values"
    )


def test_a_blank_line_amid_a_step_is_refused(checkpoint_of, model_bytes_of):
    config = dataclasses.replace(GESTURE, rows_per_step=3)
    Path("three.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    assert [3, 6] == [line["rows"] for line in lines("three.onnx", "--csv", input="1,2\n" * 6 + "\n")]
    message = "the input ends in the middle of a step: found 1 row, expected 3, as the model reads at a time"
    assert message == fails("stream", "three.onnx", "--csv", input="1,2\n\n1,2\n1,2\n")
    message = run("stream", "three.onnx", "--window", 6, "--hop", 2, input=b"", expected=2).stderr
    assert "expected a multiple of 3 up to it; the model reads 3 rows a step, `train --rows-per-step 1` free" in message


@pytest.mark.usefixtures("gesture")
def test_fewer_rows_than_a_window_are_a_note():
    options = ["--window", 6, "--csv", "--state", "state"]
    note = "the input ended after row 4, before the first window of 6 rows did"
    assert note in run("stream", "free.onnx", *options, input="1,2\n" * 4).stderr
    assert "ended" not in run("stream", "free.onnx", *options, input="1,2\n" * 3).stderr, "with those before"


@pytest.mark.usefixtures("gesture")
def test_raw_values_that_are_no_numbers_are_a_clear_line_after_the_answers_before():
    rows = SIGNAL[:5].copy()
    rows[2, 1] = np.nan
    result = run("stream", "free.onnx", input=rows.tobytes(), expected=1)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines()[-1].startswith("Error: step 3 of the input holds a value that is not finite: exp")


@pytest.mark.usefixtures("gesture")
@pytest.mark.parametrize("options", [["--window", 6, "--hop", 4], []])
def test_a_signal_goes_on_from_its_state(options):
    whole = lines("free.onnx", *options, input=SIGNAL.tobytes())
    parts = [SIGNAL[:17].tobytes(), SIGNAL[17:].tobytes()]
    found = [line for part in parts for line in lines("free.onnx", *options, "--state", "state", input=part)]
    assert [(line["label"], line.get("end_row")) for line in whole] == [
        (line["label"], line.get("end_row")) for line in found
    ]


@pytest.mark.usefixtures("gesture")
def test_several_streams_of_values_take_a_step_each_in_turn():
    both = np.stack([SIGNAL[:6], SIGNAL[6:12]], axis=1)  # (rows, streams, cols)
    together = lines("fixed.onnx", "--streams", 2, input=both.tobytes())
    alone = lines("fixed.onnx", input=SIGNAL[:12].tobytes())
    assert {(line["stream"], line["rows"]): line["label"] for line in together} == {
        (line["sequence"], line["rows"]): line["label"] for line in alone
    }


@pytest.mark.parametrize("options", [[], ["--window", 6]])
def test_values_far_outside_those_of_training_are_told_once(checkpoint_of, model_bytes_of, options):
    checkpoint = dataclasses.replace(checkpoint_of(GESTURE), ranges=((-9.0, 9.0),) * 2)
    Path("ranged.onnx").write_bytes(model_bytes_of(checkpoint))
    assert "warning" not in run("stream", "ranged.onnx", *options, input=SIGNAL.tobytes()).stderr
    text = TEXT + "1,100\n" * 2 + TEXT[: TEXT.index("\n") + 1] + "1,200\n" * 8
    warnings = run("stream", "ranged.onnx", "--csv", *options, input=text).stderr.splitlines()[1:]
    assert [line[:70] for line in warnings if "warning" in line] == [
        "warning: far outside what it was trained on: column 2 reaches 100 to 1"
    ]


@pytest.mark.usefixtures("gesture")
def test_text_without_csv_is_refused_or_of_a_few_bytes_asked_about():
    assert fails("stream", "free.onnx", input="x,y\n" + TEXT).startswith("the input looks like text: found 'x,y\\n")
    assert "give --csv" in fails("stream", "fixed.onnx", "--window", 6, input=TEXT)
    assert "the input looks like text; --csv?" in run("stream", "free.onnx", input="1.5,2.5\n").stderr


@pytest.mark.usefixtures("gesture")
def test_evaluate_takes_data_of_ones_own():
    np.savez("own.npz", X=np.tile(SIGNAL[:6], (30, 1, 1)) + np.arange(30)[:, None, None], y=["rest", "walk"] * 15)
    document = json.loads(run("stream", "fixed.onnx", "--evaluate", "--data", "own.npz", "--json").stdout)
    assert (6, 6, 6) == (document["rows"], len(document["curve"]), document["full"]["n"])


def test_evaluate_without_a_rule_tells_the_accuracy_after_every_row(checkpoint_of, model_bytes_of):
    Path("bare.onnx").write_bytes(model_bytes_of(checkpoint_of(GESTURE)))
    np.savez("own.npz", X=np.tile(SIGNAL[:6], (30, 1, 1)) + np.arange(30)[:, None, None], y=["rest", "walk"] * 15)
    evaluate = ["stream", "bare.onnx", "--evaluate", "--data", "own.npz"]
    full, rule, _, *table = run(*evaluate).stdout.splitlines()
    assert full.startswith("every row    ")
    assert rule == "rule         none: one needs at least 500 validation sequences of one length"
    assert [line.split()[0] for line in table[2:]] == ["1", "2", "3", "4", "5", "6"]
    assert full.removeprefix("every row").strip() == table[-1].removeprefix(" " * 3 + "6").strip()
    pytest.importorskip("matplotlib")
    document = json.loads(run(*evaluate, "--json", "--plot", "x.svg").stdout)
    assert (document["rule"], len(document["curve"])) == (None, 6)
    assert "rule" not in Path("x.svg").read_text()
