"""Tests of `edgelstm stream`, and of the other commands given a streaming model."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import edgelstm
from edgelstm.cli import main
from edgelstm.config import ModelConfig, shipped_dir
from edgelstm.contract import EarlyRule
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.runtime.stream import Stream
from edgelstm.training.checkpoint import load_checkpoint, save_checkpoint

TIMEOUT_S = 60
RULE = EarlyRule(0.9, 2)


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path):
    """The shipped weights as a streaming model that decides early, in the current folder."""
    checkpoint = dataclasses.replace(load_checkpoint(shipped_dir() / "base.safetensors"), test=None)
    Path("m.stream.onnx").write_bytes(build_stream_model(checkpoint, early=RULE).SerializeToString())
    save_checkpoint(Path("m.safetensors"), checkpoint)
    return "m.stream.onnx"


def run(*arguments, expected=0, **options):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert expected == result.exit_code, result.output
    return result


def lines(*arguments, **options):
    return [json.loads(line) for line in run("stream", *arguments, **options).stdout.splitlines()]


def test_a_line_after_each_row_and_the_next_picture_after_the_last(model, sample):
    found = lines(model, input=sample.images[:3].tobytes())
    assert [(line["picture"], line["rows"]) for line in found] == [(i, row) for i in range(3) for row in range(1, 29)]
    assert [str(label) for label in sample.labels[:3]] == [line["label"] for line in found if line["rows"] == 28]
    logits = Stream(model).push(sample.images[0, :20])
    assert {"picture", "stream", "rows", "label", "confidence"} == set(found[19])
    assert str(logits.argmax()) == found[19]["label"]
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert float(shares.max()) == pytest.approx(found[19]["confidence"], abs=1e-5)


def test_early_tells_one_line_a_picture_at_its_decision(model, sample):
    found = lines(model, "--early", input=sample.images[:20].tobytes())
    assert list(range(20)) == [line["picture"] for line in found]
    stream = Stream(model, early=True)
    for line, image in zip(found, sample.images, strict=False):
        stream.reset()
        while not stream.decided[0]:
            stream.push(image[stream.rows_read[0]])
        assert (stream.rows_read[0], str(stream.decisions[0])) == (line["rows"], line["label"])
    assert min(line["rows"] for line in found) < 28


def test_many_streams_take_a_row_each_in_turn(model, sample):
    side_by_side = sample.images[:6].reshape(2, 3, 28, 28).transpose(0, 2, 1, 3)  # (pictures, rows, streams, cols)
    together = lines(model, "--streams", 3, "--early", input=side_by_side.tobytes())
    alone = lines(model, "--early", input=sample.images[:6].tobytes())
    key = ("label", "rows")
    assert {(3 * line["picture"] + line["stream"], *map(line.get, key)) for line in together} == {
        (line["picture"], *map(line.get, key)) for line in alone
    }
    assert sorted(line["rows"] for line in together[:3]) == [line["rows"] for line in together[:3]], "as they come"


@pytest.mark.parametrize("early", [[], ["--early"]])
@pytest.mark.parametrize("rows", [1, 20, 26, 28, 41])
def test_a_state_goes_on_where_it_was_left(model, sample, early, rows):
    content = sample.images[:2].tobytes()
    whole = lines(model, *early, input=content)
    parts = [content[: 28 * rows], content[28 * rows :]]
    found = [line for part in parts for line in lines(model, *early, "--state", "state", input=part)]
    assert [(line["rows"], line["label"]) for line in whole] == [(line["rows"], line["label"]) for line in found]
    assert Stream(model, early=True).save() == Path("state").read_bytes(), "after the last row it is a new picture's"


def test_an_input_that_ends_within_a_picture_says_so(model, sample):
    result = run("stream", model, input=sample.images[0, :5].tobytes())
    assert result.stderr == "the input ended after row 5 of 28 of picture 0\n"
    assert len(result.stdout.splitlines()) == 5


def test_an_input_that_ends_within_a_row_is_a_clear_line_after_the_answers_before(model, sample):
    result = run("stream", model, input=sample.images[0].tobytes()[:70], expected=1)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == (
        "Error: the input ends in the middle of a step: found 14 bytes, expected 28; a step is 1 x 1 rows of 28 bytes\n"
    )


def test_no_input_is_no_line(model):
    assert lines(model, input=b"") == []


def test_several_rows_a_step_are_one_line(checkpoint_of):
    config = ModelConfig(hidden_size=6, rows_per_step=4)
    Path("four.onnx").write_bytes(build_stream_model(checkpoint_of(config)).SerializeToString())
    assert list(range(4, 29, 4)) == [line["rows"] for line in lines("four.onnx", input=bytes(784))]


def test_an_answer_comes_before_the_next_row_is_there(model, sample):
    """A scanner waits for nobody: the first row's line must not sit in a buffer until more rows come."""
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])}
    command = [sys.executable, "-m", "edgelstm", "stream", model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            for row in sample.images[0, :3]:
                process.stdin.write(row.tobytes())
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["picture"] == 0
            process.stdin.close()
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


# Usage and errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluate", "--early"], "--evaluate reads MNIST, not stdin"),
        (["--evaluate", "--streams", "2"], "--evaluate reads MNIST, not stdin"),
        (["--plot", "x.png"], "--plot and --json are for --evaluate"),
        (["--json"], "--plot and --json are for --evaluate"),
    ],
)
def test_options_that_do_not_go_together_are_usage(model, arguments, message):
    assert message in run("stream", model, *arguments, expected=2, input=b"").stderr


def fails(*arguments, **options):
    result = run(*arguments, expected=1, **options)
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def test_a_model_without_a_rule_cannot_decide_early(checkpoint_of):
    Path("plain.onnx").write_bytes(build_stream_model(checkpoint_of(ModelConfig(hidden_size=4))).SerializeToString())
    assert "has no rule for deciding early" in fails("stream", "plain.onnx", "--early", input=b"")
    assert "has no rule for deciding early" in fails("stream", "plain.onnx", "--evaluate")


def test_a_whole_picture_model_is_a_clear_line(tiny_model_bytes):
    Path("tiny.onnx").write_bytes(tiny_model_bytes)
    assert "reads whole pictures: expected a streaming model" in fails("stream", "tiny.onnx", input=b"")


def test_a_damaged_state_is_a_clear_line_and_stays_as_it_is(model):
    Path("state").write_bytes(b"damaged")
    assert "the saved state cannot be read" in fails("stream", model, "--state", "state", input=bytes(28))
    assert Path("state").read_bytes() == b"damaged"


def test_a_state_of_streams_at_different_rows_is_a_clear_line(model):
    stream = Stream(model, n_streams=2)
    stream.push(np.zeros((1, 1, 28), np.uint8), [1])
    Path("state").write_bytes(stream.save())
    message = fails("stream", model, "--streams", 2, "--state", "state", input=b"")
    assert "found streams that stand at different rows" in message


def test_a_run_folder_means_its_streaming_model(model):
    Path("runs/base").mkdir(parents=True)
    Path(model).rename("runs/base/model.stream.onnx")
    assert len(lines("runs/base", input=bytes(56))) == len(lines(input=bytes(56))) == 2


# Evaluate


def test_evaluate_prints_the_headline_and_a_row_for_each_row(model):
    result = run("stream", model, "--evaluate", "--plot", "curve.png")
    shown = result.stdout.splitlines()
    assert shown[0].startswith("every row    99")
    assert shown[1] == "rule         a probability of at least 0.9 for 2 steps"
    assert " of 28 rows: " in shown[2]
    assert "lost, " in shown[3]
    assert [str(row) for row in range(1, 29)] == [line.split()[0] for line in shown[-28:]]
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_json_holds_the_same(model):
    document = json.loads(run("stream", model, "--evaluate", "--json").stdout)
    assert (28, 28, 1000) == (document["rows"], len(document["curve"]), document["full"]["n"])
    assert document["curve"][-1]["score"] == document["full"]
    assert document["mean_rows"] < 28
    assert document["rule"]["confidence"] == 0.9


# The other commands


def test_infer_says_what_to_use_instead(model, sample):
    from PIL import Image

    Image.fromarray(sample.images[0]).save("d.png")
    assert "reads a picture row by row" in fails("infer", "d.png", "--model", model)


def test_inspect_shows_a_stream(model):
    shown = dict(line.split(None, 1) for line in run("inspect", model).stdout.splitlines())
    assert shown["contract"] == "version 1 for streams, fp32"
    assert shown["input"].startswith(
        "row uint8 (batch, rows, 28), rows a multiple of 1; h and c float32 (1, batch, 128)"
    )
    assert shown["output"].endswith("h_out and c_out float32 (1, batch, 128)")
    assert shown["early"] == "a probability of at least 0.9 for 2 steps"
    assert json.loads(run("inspect", model, "--json").stdout)["contract"]["kind"] == "stream"


def test_bench_measures_pictures_and_single_steps(model):
    arguments = ["--seconds", 0.1, "--batch-size", 1, "--batch-size", 3, "--no-torch"]
    document = json.loads(run("bench", "base", model, *arguments, "--json").stdout)
    whole, stream = document["results"]
    assert (whole["accuracy"], [], [1, 3]) == (
        stream["accuracy"], whole["steps"], [step["batch_size"] for step in stream["steps"]]
    )  # fmt: skip
    assert (stream["name"], stream["provider_used"]) == (f"{model} rows", "cpu")
    assert [1.0, 1.0] == [step["ratio_to_first"]["value"] for step in stream["steps"]]
    assert all(step["floor_s"] is None and step["latency"]["n_rounds"] == 12 for step in stream["steps"])
    text = run("bench", model, *arguments).stdout
    assert "one step of a stream, batch 3" in text
    assert "steps/s" in text


def test_bench_on_cuda_is_a_clear_line(model):
    assert "reads row by row, which edgelstm does on the CPU only" in fails("bench", model, "--provider", "cuda")


def test_export_writes_a_stream_beside_the_checkpoint_and_verify_takes_it(tiny_checkpoint):
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    result = run("export", "tiny.safetensors", "--streaming")
    assert result.stdout.startswith("wrote       tiny.stream.onnx (")
    assert "no rule for deciding early: MNIST's training images are not on this machine" in result.stderr
    assert run("export", "tiny.safetensors", "--streaming", "--precision", "int8", "--force").stdout.startswith(
        "wrote       tiny.stream.int8.onnx ("
    )
    shown = run("verify", "tiny.stream.onnx").stdout.splitlines()
    assert shown[-1] == "verified: tiny.stream.onnx"
    assert len(shown) > 12


def test_export_still_writes_whole_pictures(tiny_checkpoint, tiny_model_bytes):
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    run("export", "tiny.safetensors")
    assert tiny_model_bytes == Path("tiny.onnx").read_bytes()
