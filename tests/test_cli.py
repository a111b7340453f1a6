"""Tests of edgelstm.cli: what is printed where, how it exits, and one clear line for whatever is wrong."""

import csv
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import edgelstm
from edgelstm.cli import COMMANDS, infer, main
from edgelstm.cli.options import print_json
from edgelstm.export import verify as training_verify
from edgelstm.runtime import runner as runtime
from edgelstm.runtime import scoring as workers
from edgelstm.runtime.classifier import Classifier
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import save_checkpoint, save_tensors
from edgelstm.training.model import TorchRunner

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "PIL", "rich", "safetensors", "torchvision", "matplotlib")
INFER_KEYS = ["image", "digit", "label", "confidence", "top", "note", "error"]
TIMEOUT_S = 120


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    """Every command runs in a folder of its own, on a machine without MNIST."""
    monkeypatch.setenv("EDGELSTM_DATA", str(tmp_path / "no-mnist"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture
def pictures(sample):
    """A folder of three digits, with other files between them; the paths in their order."""
    folder = Path("scans")
    (folder / "more").mkdir(parents=True)
    paths = [folder / "a.png", folder / "b.PNG", folder / "more" / "c.jpg"]
    for path, image in zip(paths, sample.images[:3], strict=True):
        Image.fromarray(image).save(path)
    (folder / "notes.txt").write_text("no picture")
    return [str(path) for path in paths]


@pytest.fixture
def tiny(tiny_model_bytes):
    """The tiny model's file in the current folder."""
    Path("tiny.onnx").write_bytes(tiny_model_bytes)
    return "tiny.onnx"


@pytest.fixture
def checkpoint(tiny_checkpoint):
    """The tiny model's checkpoint in the current folder."""
    save_checkpoint(Path("tiny.safetensors"), tiny_checkpoint)
    return "tiny.safetensors"


def run(*arguments, expected=0, **options):
    """The command line's result, exit status checked; an exception that came out is shown."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert expected == result.exit_code, result.output
    return result


def fails(*arguments, **options):
    """The one error line of a command that must exit 1 and give no result."""
    result = run(*arguments, expected=1, **options)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == errors[0]
    return errors[0].removeprefix("Error: ")


def process(*arguments, flags=("-W", "error"), **options):
    """A real process of the command line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *flags, "-m", "edgelstm", *map(str, arguments)], env=environment, timeout=TIMEOUT_S,
        **{"capture_output": True, "text": True, **options},
    )  # fmt: skip


def strict_json(text):
    """Parsed JSON, without the NaN and Infinity that Python's parser would take."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def stranger():
    """A sound ONNX model of another kind."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


# Help


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda names: " ".join(names) or "main")
def test_help_is_shown_without_importing_anything_heavy(command):
    code = (
        "import sys\nfrom edgelstm.cli import main\n"
        "try: main([*sys.argv[1:], '--help'], prog_name='edgelstm')\n"
        f"finally: print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith("Usage: edgelstm")


def test_the_help_lists_every_command_with_its_line():
    lines = run("--help").stdout.splitlines()
    for name in COMMANDS:
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3, line


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_one_line_an_example_and_the_short_option(command):
    text = run(command, "-h").stdout
    assert text.splitlines()[2].strip().endswith(".")
    assert f"Example: edgelstm {command}" in text


def test_the_version_is_the_packages():
    assert f"edgelstm, version {edgelstm.__version__}\n" == run("--version").stdout


def test_the_package_runs_as_a_module():
    assert f"edgelstm, version {edgelstm.__version__}\n" == process("--version").stdout


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "--nonsense",
        "infer",
        "infer x.png --top 0",
        "infer x.png --min-confidence 1.5",
        "infer x.png --min-confidence nan",
        "infer x.png --csv --json",
        "infer - --files0-from -",
        "infer x.png --top many",
        "infer x.png --provider tpu",
        "infer x.png --nonsense",
        "verify a b c",
        "inspect a b",
        "export a b",
    ],
)
def test_usage_errors_exit_2_and_point_to_the_help(arguments):
    result = run(*arguments.split(), expected=2)
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr
    assert result.stdout == ""


# infer

INFER = ("infer", "--provider", "cpu")
"""With auto, the first line on stderr says what it chose."""


def infer_lines(model, paths):
    answers = Classifier(model, provider="cpu").classify_many(paths)
    return [f"{one.image}  {one.label}  {100 * one.confidence:.1f} %{in_brackets(one.note)}" for one in answers]


def in_brackets(note):
    return f"  ({note})" if note else ""


def test_infer_prints_one_line_a_picture_in_the_order_given(tiny, pictures):
    arguments = [pictures[2], pictures[0], pictures[1], pictures[0]]
    assert infer_lines(tiny, arguments) == run(*INFER, *arguments, "--model", tiny).stdout.splitlines()


def test_infer_prints_name_class_and_percentage(tiny, pictures):
    [prediction] = Classifier(tiny, provider="cpu").classify_many(pictures[:1])
    expected = f"scans/a.png  {prediction.digit}  {100 * prediction.confidence:.1f} %  (low confidence)\n"
    assert expected == run(*INFER, "scans/a.png", "--model", tiny).stdout


def test_infer_reads_with_the_shipped_model_by_default(pictures, sample):
    name, digit, share, percent = run(*INFER, pictures[0]).stdout.split()
    assert (pictures[0], str(sample.labels[0]), "%") == (name, digit, percent)
    assert 50 < float(share) <= 100


def test_infer_searches_a_folder_with_its_subfolders_for_pictures_in_order(tiny, pictures):
    assert infer_lines(tiny, pictures) == run(*INFER, "scans", "--model", tiny).stdout.splitlines()


def test_infer_takes_a_glob_that_the_shell_has_left_alone(tiny, pictures):
    assert infer_lines(tiny, pictures[:1]) == run(*INFER, "scans/*.png", "--model", tiny).stdout.splitlines()
    assert infer_lines(tiny, pictures[2:]) == run(*INFER, "**/*.jpg", "--model", tiny).stdout.splitlines()


def test_infer_takes_a_file_whose_name_looks_like_a_glob(tiny, pictures):
    Path(pictures[0]).rename("digit[1].png")
    Path(pictures[1]).rename("digit1.png")  # what the glob would find
    assert infer_lines(tiny, ["digit[1].png"]) == run(*INFER, "digit[1].png", "--model", tiny).stdout.splitlines()


def test_infer_reads_a_picture_from_standard_input(tiny, pictures):
    content = Path(pictures[0]).read_bytes()
    assert infer_lines(tiny, [content]) == run(*INFER, "-", "--model", tiny, input=content).stdout.splitlines()


def test_infer_shows_the_most_probable_classes(tiny, pictures):
    [prediction] = Classifier(tiny, provider="cpu", top=2).classify_many(pictures[:1])
    expected = "   ".join(f"{name}  {100 * share:.1f} %" for name, share in prediction.top)
    assert (
        f"{pictures[0]}  {expected}  (low confidence)\n" == run(*INFER, pictures[0], "--model", tiny, "--top", 2).stdout
    )


def test_infer_puts_a_note_behind_the_answer(tiny):
    Image.new("L", (28, 28)).save("blank.png")
    assert run(*INFER, "blank.png", "--model", tiny).stdout == "blank.png  no digit  (no ink found)\n"


def test_infer_gives_no_digit_below_the_confidence_asked_for_and_exits_3(tiny, pictures):
    result = run(*INFER, pictures[0], "--model", tiny, "--min-confidence", 0.9, expected=3)
    [prediction] = Classifier(tiny, provider="cpu").classify_many(pictures[:1])
    share = f"{prediction.label}  {100 * prediction.confidence:.1f} %"
    assert f"{pictures[0]}  unsure   {share}  (low confidence)\n" == result.stdout
    document = strict_json(
        run(*INFER, pictures[0], "--model", tiny, "--min-confidence", 0.9, "--json", expected=3).stdout
    )
    assert (document["digit"], document["label"], document["error"]) == (None, None, None)
    assert [prediction.confidence, "low confidence"] == [document["confidence"], document["note"]]


def test_a_blank_page_exits_3_only_where_confidence_was_asked_for(tiny, pictures):
    Image.new("L", (28, 28)).save("blank.png")
    run(*INFER, "blank.png", pictures[0], "--model", tiny)
    run(*INFER, "blank.png", pictures[0], "--model", tiny, "--min-confidence", 0, expected=3)
    run(*INFER, pictures[0], "--model", tiny, "--min-confidence", 0)


def test_an_error_outweighs_an_abstention(tiny):
    Image.new("L", (28, 28)).save("blank.png")
    run(*INFER, "blank.png", "missing.png", "--model", tiny, "--min-confidence", 0.5, expected=1)


def test_infer_csv_has_a_header_and_a_row_a_picture_with_errors_in_their_place(tiny, pictures):
    Path("a, b.png").write_bytes(Path(pictures[0]).read_bytes())
    result = run(*INFER, "a, b.png", "missing.png", "--model", tiny, "--csv", expected=1)
    header, answer, error = csv.reader(result.stdout.splitlines())
    [prediction] = Classifier(tiny, provider="cpu").classify_many(pictures[:1])
    assert header == ["image", "digit", "confidence", "note", "error"]
    assert answer == ["a, b.png", prediction.label, str(prediction.confidence), "low confidence", ""]
    assert error[:4] == ["missing.png", "", "", ""]
    assert error[4].startswith("cannot read missing.png")
    assert result.stderr == ""


def test_infer_reads_the_names_that_find_prints(tiny, pictures):
    odd = "new\nline *.png"
    Path(odd).write_bytes(Path(pictures[0]).read_bytes())
    names = b"".join(os.fsencode(name) + b"\0" for name in [pictures[1], odd])
    expected = infer_lines(tiny, [pictures[2], pictures[1]])
    result = run(*INFER, pictures[2], "--files0-from", "-", "--model", tiny, input=names)
    assert expected == result.stdout.splitlines()[:2]
    assert result.stdout.splitlines()[2].startswith(ascii(odd))
    Path("names").write_bytes(names)
    assert result.stdout == run(*INFER, pictures[2], "--files0-from", "names", "--model", tiny).stdout


def test_names_that_do_not_end_in_nul_are_refused_with_what_to_do(tiny, pictures):
    result = run(*INFER, "--files0-from", "-", "--model", tiny, input=b"a.png\nb.png\n", expected=1)
    assert "found lines, expected what `find -print0` writes" in result.stderr
    assert "no such file" in fails(*INFER, "--files0-from", "missing", "--model", tiny)


def test_no_names_give_no_answers(tiny):
    assert run(*INFER, "--files0-from", "-", "--model", tiny, input=b"").stdout == ""


def test_infer_saves_what_the_network_saw_beside_the_pictures(tiny, pictures):
    run(*INFER, *pictures, "missing.png", "--model", tiny, "--save-input", "seen.png", expected=1)
    page = np.asarray(Image.open("seen.png").convert("L"))
    pixels = Classifier(tiny, provider="cpu").classify(pictures[0]).pixels
    seen = page[24 : 24 + 224, 226 : 226 + 224]
    np.testing.assert_array_equal(np.kron(pixels, np.ones((8, 8), np.uint8)), seen)
    assert page.shape[1] == 3 * (450 + 12) - 12
    run(*INFER, *pictures, "--model", tiny, "--save-input", "seen")
    assert ["0001-a.png", "0002-b.png", "0003-c.png"] == sorted(path.name for path in Path("seen").iterdir())


def test_what_the_network_saw_never_replaces_a_picture(tiny, pictures):
    before = Path(pictures[0]).read_bytes()
    assert "is one of the pictures" in fails(*INFER, pictures[0], "--model", tiny, "--save-input", pictures[0])
    assert before == Path(pictures[0]).read_bytes()


def test_infer_draws_what_the_network_saw(tiny, pictures):
    lines = run(*INFER, pictures[0], "--model", tiny, "--show-input").stdout.splitlines()
    assert infer_lines(tiny, pictures[:1]) == lines[:1]
    pixels = Classifier(tiny, provider="cpu").classify(pictures[0]).pixels
    drawn = np.array([[cell != " " for cell in line.ljust(56)[::2]] for line in lines[1:]])
    np.testing.assert_array_equal(pixels >= 26, drawn)


def test_infer_json_is_one_line_a_picture_with_the_documented_keys(tiny, pictures):
    lines = run(*INFER, *pictures, "--model", tiny, "--json").stdout.splitlines()
    documents = [strict_json(line) for line in lines]
    answers = Classifier(tiny, provider="cpu").classify_many(pictures)
    assert [one.to_json() for one in answers] == documents
    for document in documents:
        assert list(document) == INFER_KEYS
        assert len(document["top"]) == 3
        assert [document["digit"], document["confidence"]] == document["top"][0]
        assert (str(document["digit"]), "low confidence", None) == (
            document["label"],
            document["note"],
            document["error"],
        )


def test_infer_json_keeps_stdout_clean_when_it_draws(tiny, pictures):
    result = run(*INFER, pictures[0], "--model", tiny, "--json", "--show-input")
    assert pictures[0] == strict_json(result.stdout)["image"]
    assert len(result.stderr.splitlines()) == 28


BAD_PICTURES = {
    "missing.png": (None, "cannot read missing.png: found no such file"),
    "text.png": (b"this is no picture\n", "text.png is no picture this program reads: found text"),
    "empty.png": (b"", "empty.png is empty"),
    "cut.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cut.png is damaged"),
    "*.tiff": (None, "cannot read *.tiff"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_gets_one_clear_line_and_exit_1(tiny, name):
    content, expected = BAD_PICTURES[name]
    if content is not None:
        Path(name).write_bytes(content)
    assert fails(*INFER, name, "--model", tiny).startswith(expected)


def test_bad_pictures_do_not_keep_the_others_from_being_answered(tiny, pictures):
    for name, (content, _) in BAD_PICTURES.items():
        if content is not None:
            Path(name).write_bytes(content)
    result = run(*INFER, pictures[0], *BAD_PICTURES, "scans/more", pictures[1], "--model", tiny, expected=1)
    assert infer_lines(tiny, [pictures[0], pictures[2], pictures[1]]) == result.stdout.splitlines()
    errors = result.stderr.splitlines()
    assert len(BAD_PICTURES) == len(errors), result.stderr
    for line, (_, expected) in zip(errors, BAD_PICTURES.values(), strict=True):
        assert line.startswith(f"Error: {expected}")


def test_a_folder_without_pictures_does_not_keep_the_others_from_being_answered(tiny, pictures):
    Path("bare").mkdir()
    result = run(*INFER, pictures[0], "bare", pictures[1], "--model", tiny, expected=1)
    assert infer_lines(tiny, pictures[:2]) == result.stdout.splitlines()
    [error] = result.stderr.splitlines()
    assert "bare" in error


def test_infer_json_holds_the_error_in_its_place_and_exits_1(tiny, pictures):
    result = run(*INFER, pictures[0], "missing.png", pictures[1], "--model", tiny, "--json", expected=1)
    documents = [strict_json(line) for line in result.stdout.splitlines()]
    assert [pictures[0], "missing.png", pictures[1]] == [document["image"] for document in documents]
    assert [document["error"] is not None for document in documents] == [False, True, False]
    assert list(documents[1]) == INFER_KEYS
    assert {key: documents[1][key] for key in ("digit", "label", "confidence", "top", "note")} == {
        "digit": None,
        "label": None,
        "confidence": None,
        "top": [],
        "note": None,
    }
    assert result.stderr == ""


def test_infer_says_when_auto_chose_cuda(tiny, pictures, monkeypatch):
    real = OrtRunner._session_on
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(OrtRunner, "_session_on", lambda self, provider, content: real(self, "cpu", content))
    monkeypatch.setattr(runtime, "lstm_placement", lambda session: {"lstm_0": "CUDAExecutionProvider"})
    assert "cuda" in run("infer", pictures[0], "--model", tiny).stderr


def test_infer_says_when_auto_fell_back_to_the_cpu(tiny, pictures, monkeypatch):
    monkeypatch.setattr(runtime, "cuda_problem", lambda ort: "there is no GPU; buy one")
    assert "there is no GPU" in run("infer", pictures[0], "--model", tiny).stderr


def test_a_reader_that_goes_away_is_no_error_to_speak_of(tiny, pictures):
    reader, writer = os.pipe()
    os.close(reader)  # every write fails, as after `| head -1` has what it wants
    try:
        done = process(*INFER, *pictures, "--model", tiny, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(tiny, pictures):
    with open("/dev/full", "w") as full:
        done = process(
            *INFER, *pictures, "--model", tiny, flags=(), capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert 1 == done.returncode
    [error] = done.stderr.splitlines()
    assert "No space left" in error


def test_a_bad_picture_is_one_line_of_a_real_process_too(tiny, pictures):
    done = process(*INFER, "missing.png", pictures[0], "--model", tiny)
    assert (1, infer_lines(tiny, pictures[:1])) == (done.returncode, done.stdout.splitlines())
    assert done.stderr.splitlines() == [
        "Error: cannot read missing.png: found no such file or directory; check the path"
    ]


# infer, many pictures


@pytest.fixture
def crowd(sample):
    """A folder of 129 small pictures; every 50th is bad."""
    folder = Path("crowd")
    folder.mkdir()
    paths = [folder / f"{i:03}.png" for i in range(129)]
    for i, path in enumerate(paths):
        Image.fromarray(sample.images[i]).save(path)
    for path in paths[49::50]:
        path.write_text("no picture")
    return [str(path) for path in paths]


@pytest.fixture
def started(monkeypatch):
    """The workers of every infer, on a machine of two cores."""
    seen = []

    class Seen(workers.Workers):
        def __init__(self):
            super().__init__(2)
            seen.append(self)

    monkeypatch.setattr(workers, "Workers", Seen)
    monkeypatch.setattr(workers, "n_cores", lambda: 2)
    monkeypatch.setattr(infer, "ENOUGH_S", 128.5 * infer.SMALL_S)
    return seen


def good(paths):
    return [path for i, path in enumerate(paths) if i % 50 != 49]


@pytest.mark.parametrize("argument", ["crowd", "crowd/*.png", "each"])
def test_many_pictures_are_read_by_workers_with_the_same_answers(tiny, crowd, started, argument):
    arguments = crowd if argument == "each" else [argument]
    result = run(*INFER, *arguments, "--model", tiny, expected=1)
    assert infer_lines(tiny, good(crowd)) == result.stdout.splitlines()
    assert [f"Error: {path} is no" for path in crowd[49::50]] == [
        line[: len("Error: crowd/000.png is no")] for line in result.stderr.splitlines()
    ]
    [used] = started
    assert [False, False] == [process.poll() is None for process in used.processes]


def test_few_large_pictures_are_worth_as_much_as_many_small_ones(tiny, pictures, started, monkeypatch):
    monkeypatch.setattr(infer, "ENOUGH_S", 2.5 * infer.LARGE_S)
    Image.effect_noise((64, 64), 40).save("large.png")
    run(*INFER, *["large.png"] * 2, "--model", tiny)
    assert [] == started
    assert 3 == len(run(*INFER, *["large.png"] * 3, "--model", tiny).stdout.splitlines())
    assert 1 == len(started)


def test_few_pictures_start_no_process(tiny, crowd, started):
    run(*INFER, *good(crowd), "--model", tiny)
    assert [] == started


def test_a_bad_model_leaves_no_workers(crowd, started):
    fails(*INFER, "crowd", "--model", "missing.onnx")
    assert [False, False] == [process.poll() is None for process in started[0].processes]


def test_what_was_answered_before_workers_broke_off_is_written(tiny, crowd, started, monkeypatch):
    real = workers.Workers._ask
    chunks = itertools.count()

    def ask(self, chunk, rows, cols):
        if next(chunks) == 1:
            for process in self.processes:
                process.kill()
        return real(self, chunk, rows, cols)

    monkeypatch.setattr(workers, "ThreadPoolExecutor", lambda n: ThreadPoolExecutor(1))
    monkeypatch.setattr(workers.Workers, "_ask", ask)
    result = run(*INFER, "crowd", "--model", tiny, expected=1)
    assert infer_lines(tiny, good(crowd[:64])) == result.stdout.splitlines()
    assert "the process that reads the pictures broke off" in result.stderr.splitlines()[-1]


def many_in_a_process(*arguments):
    """A process that has read some of very many pictures; its stderr ends when its workers have ended too."""
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "TERM": "xterm"}
    started = subprocess.Popen(
        [sys.executable, "-m", "edgelstm", *INFER, *["crowd"] * 400, *arguments], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, start_new_session=True,
    )  # fmt: skip
    started.first = started.stdout.readline()
    return started


def test_ctrl_c_leaves_the_finished_answers_and_exits_130(tiny, crowd):
    started = many_in_a_process("--model", tiny, "--json")
    os.killpg(started.pid, signal.SIGINT)  # to all of them, as a terminal does
    out, err = started.communicate(timeout=TIMEOUT_S)
    n = len([strict_json(line) for line in (started.first + out).splitlines()])
    assert (130, f"Stopped: {n:,} answered.\n") == (started.returncode, err.decode())
    assert 0 < n < 400 * len(crowd)


def test_ctrl_c_loses_no_answer_that_waits_to_be_written(tiny, pictures, monkeypatch):
    real = Classifier.classify_many

    def stopped(*arguments):
        yield from real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "classify_many", stopped)
    result = run(*INFER, *pictures, "--model", tiny, expected=130)
    assert len(pictures) == len(result.stdout.splitlines())
    assert "Stopped: 3 answered.\n" == result.stderr


@pytest.mark.parametrize(("n_times", "n_lines"), [(1, 3), (2, 0)])
def test_ctrl_c_waits_for_what_is_being_written_and_a_second_does_not(tiny, pictures, monkeypatch, n_times, n_lines):
    real = click.echo

    def echo(text, **options):
        for _ in range(0 if options else n_times):  # the notes have options
            os.kill(os.getpid(), signal.SIGINT)
        real(text, **options)

    monkeypatch.setattr(click, "echo", echo)
    result = run(*INFER, *pictures, "--model", tiny, expected=130)
    assert n_lines == len(result.stdout.splitlines())
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_errors_come_in_their_place_where_both_streams_go_to_one(tiny, pictures):
    done = process(
        *INFER, pictures[0], "missing.png", pictures[1], "--model", tiny, capture_output=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert [pictures[0], "Error:", pictures[1]] == [line.split()[0] for line in done.stdout.splitlines()]


def test_a_reader_that_goes_away_early_ends_the_workers_quietly(tiny, crowd):
    started = many_in_a_process("--model", tiny, "--json")
    started.stdout.close()
    assert b"" == started.stderr.read()
    started.stderr.close()
    assert 1 == started.wait(timeout=TIMEOUT_S)


def test_workers_end_with_a_process_that_is_killed(tiny, crowd):
    with many_in_a_process("--model", tiny, "--json") as started:
        started.kill()
        started.wait(timeout=TIMEOUT_S)
        assert b"" == started.stderr.read()  # returns when the last one that could write has ended


def test_a_bar_counts_on_a_terminal_and_leaves_the_answers_alone(tiny, crowd, monkeypatch):
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", "xterm")
    terminal, stderr = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as seen:
        done = process(
            *INFER, *good(crowd), "--model", tiny, flags=(), capture_output=False, stdout=subprocess.PIPE,
            stderr=stderr,
        )  # fmt: skip
        os.close(stderr)
        bar = seen.read(100_000).decode()
    assert infer_lines(tiny, good(crowd)) == done.stdout.splitlines()
    n = len(good(crowd))
    assert f"/{n}" in bar, bar


# CUDA on a machine that cannot


def no_build(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def no_driver(monkeypatch):
    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(runtime, "ctypes", SimpleNamespace(CDLL=load))


def no_library(monkeypatch):
    def load(name):
        if "onnxruntime" in name:
            raise OSError("libcudnn.so.9: cannot open shared object file")

    real = OrtRunner._session_on
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(runtime, "ctypes", SimpleNamespace(CDLL=load))
    monkeypatch.setattr(OrtRunner, "_session_on", lambda self, provider, content: real(self, "cpu", content))


CAUSES = [
    (no_build, "a build without CUDA", 'pip install "edgelstm[gpu]"'),
    (no_driver, "no NVIDIA driver", "install the driver of your GPU"),
    (no_library, "libcudnn.so.9", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
]


@pytest.mark.parametrize(("cause", "why", "fix"), CAUSES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("command", ["infer", "bench", "verify"])
def test_cuda_that_cannot_be_had_exits_1_and_says_why_and_what_to_install(
    request, monkeypatch, tiny, checkpoint, pictures, command, cause, why, fix
):
    arguments = {
        "infer": [pictures[0], "--model", tiny], "bench": [tiny, "--no-torch"], "verify": [checkpoint, tiny]
    }  # fmt: skip
    cause(monkeypatch)
    error = fails(command, *arguments[command], "--provider", "cuda")
    assert error.startswith("provider cuda cannot run this model: ")
    assert (why in error, fix in error) == (True, True), error


# Bad models


MODELS = {
    "stranger.onnx": (stranger(), "stranger.onnx is not an edgelstm model"),
    "damaged.onnx": (b"\x08\x0a" + bytes(range(256)) * 4, "damaged.onnx cannot be loaded as an ONNX model"),
    "text.onnx": (b"this is no model\n", "text.onnx cannot be loaded as an ONNX model"),
    "empty.onnx": (b"", "empty.onnx is not a model: found 0 bytes"),
    "missing.onnx": (None, "no model missing.onnx: found no such file"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("command", ["infer", "bench", "inspect"])
def test_a_bad_model_gets_one_clear_line_and_exit_1(pictures, command, name):
    content, expected = MODELS[name]
    if content is not None:
        Path(name).write_bytes(content)
    arguments = [pictures[0], "--model", name] if command == "infer" else [name]
    assert fails(command, *arguments).startswith(expected)


@pytest.mark.parametrize("name", ["empty.onnx", "missing.onnx"])
def test_verify_gives_one_clear_line_for_a_file_that_is_no_model(checkpoint, name):
    content, expected = MODELS[name]
    if content is not None:
        Path(name).write_bytes(content)
    assert fails("verify", checkpoint, name).startswith(expected)


@pytest.mark.parametrize("name", ["stranger.onnx", "damaged.onnx", "text.onnx"])
def test_verify_calls_another_model_not_verified(checkpoint, name):
    content, expected = MODELS[name]
    Path(name).write_bytes(content)
    result = run("verify", checkpoint, name, expected=1)
    answer = expected
    assert any(line.startswith("FAIL") and answer in line for line in result.stdout.splitlines()), result.stdout
    assert f"NOT VERIFIED: {name}" == result.stdout.splitlines()[-1]


# export and bad checkpoints


def test_export_writes_beside_the_checkpoint_and_says_what(checkpoint, tiny_model_bytes):
    result = run("export", checkpoint)
    assert tiny_model_bytes == Path("tiny.onnx").read_bytes()
    assert [
        f"wrote       tiny.onnx ({len(tiny_model_bytes):,} bytes)",
        "operators   Cast Transpose LSTM Squeeze Gemm",
    ] == (result.stdout.splitlines()[:2])
    assert "256/256 same decisions" in result.stdout
    assert "edgelstm verify tiny.onnx" in result.stderr


def test_export_takes_a_run_folder_and_writes_into_it(tiny_checkpoint, tiny_model_bytes):
    save_checkpoint(Path("runs/base/model.safetensors"), tiny_checkpoint)
    run("export")
    assert tiny_model_bytes == Path("runs/base/model.onnx").read_bytes()


def test_export_json_is_one_document(checkpoint):
    document = strict_json(run("export", checkpoint, "-o", "out/x.onnx", "--json").stdout)
    assert ("out/x.onnx", Path("out/x.onnx").stat().st_size) == (document["path"], document["n_bytes"])
    assert document["operators"] == ["Cast", "Transpose", "LSTM", "Squeeze", "Gemm"]


def spoiled(tiny_checkpoint, **weights):
    """The tiny checkpoint's file with weights replaced, or, for None, left out."""
    tensors = {**tiny_checkpoint.weights, **{name.replace("__", "."): weight for name, weight in weights.items()}}
    values = dataclasses.asdict(dataclasses.replace(tiny_checkpoint, weights={}))
    del values["weights"]
    save_tensors(
        Path("spoiled.safetensors"), {name: weight for name, weight in tensors.items() if weight is not None}, values
    )
    return "spoiled.safetensors"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"head__bias": None}, "found no weight head.bias"),
        ({"head__bias": torch.zeros(9)}, "weight head.bias is torch.float32 (9,) instead of torch.float32 (10,)"),
        ({"extra": torch.zeros(1)}, "unexpected weight extra"),
    ],
)
def test_a_checkpoint_whose_weights_are_not_its_configs_is_one_clear_line(tiny_checkpoint, weights, expected):
    path = spoiled(tiny_checkpoint, **weights)
    for command in (["export", path], ["verify", path, "base"]):
        error = fails(*command)
        assert error.startswith("spoiled.safetensors does not hold the weights of its own config")
        assert expected in error
    assert not Path("spoiled.onnx").exists()


def test_a_checkpoint_of_nan_is_not_exported_and_the_old_file_stays(tiny_checkpoint):
    path = spoiled(tiny_checkpoint, head__bias=torch.full((10,), math.nan))
    Path("spoiled.onnx").write_bytes(b"the old file")
    assert "weights that are not numbers: found head.bias" in fails("export", path)
    assert Path("spoiled.onnx").read_bytes() == b"the old file"


@pytest.mark.parametrize("content", [None, b"", b"text", b"\xff" * 100])
def test_a_damaged_or_missing_checkpoint_is_one_clear_line(content):
    if content is not None:
        Path("bad.safetensors").write_bytes(content)
    assert "bad.safetensors" in fails("export", "bad.safetensors")


@pytest.mark.parametrize("target", ["file/model.onnx", "file/below/model.onnx", "folder"])
def test_an_output_that_cannot_be_written_is_one_clear_line(checkpoint, target):
    Path("file").touch()
    Path("folder").mkdir()
    before = sorted(Path.cwd().rglob("*"))
    assert f"cannot write {target}: found" in fails("export", checkpoint, "-o", target)
    assert before == sorted(Path.cwd().rglob("*"))


# verify


@pytest.fixture
def _no_torch_export(monkeypatch):
    """torch's exporter takes seconds and has its own tests: stand in for it with torch itself."""
    monkeypatch.setattr(
        training_verify, "torch_exported_runner", lambda checkpoint: TorchRunner(checkpoint.model(), name="stand-in")
    )


@pytest.mark.usefixtures("_no_torch_export")
def test_verify_of_a_true_export_exits_0_with_every_answer(tiny, checkpoint):
    result = run("verify", tiny, "--provider", "cpu")
    lines = result.stdout.splitlines()
    assert lines[-1] == "verified: tiny.onnx"
    assert {"ok"} == {line.split()[0] for line in lines[:-1]}
    assert "1,000 digits" in result.stderr


@pytest.mark.usefixtures("_no_torch_export")
def test_verify_of_a_tampered_file_exits_1_and_names_the_weight(tiny, checkpoint):
    model = onnx.load(tiny)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    array = numpy_helper.to_array(tensor).copy()
    array[3] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tiny)
    result = run("verify", tiny, "--provider", "cpu", "--json", expected=1)
    document = strict_json(result.stdout)
    assert document["passed"] is False
    failed = [check["answer"] for check in document["checks"] if not check["passed"]]
    assert any("head.bias" in answer for answer in failed), failed


def test_verify_of_a_model_without_its_checkpoint_says_which_is_missing(tiny):
    assert fails("verify", tiny).startswith("no checkpoint at tiny.safetensors")


# JSON


def test_json_for_programs_has_null_where_there_is_no_number(capsys):
    print_json({"a": math.nan, "b": [math.nan, 1], "c": {"d": (math.nan,)}, "e": Path("x"), "f": None})
    assert strict_json(capsys.readouterr().out) == {"a": None, "b": [None, 1], "c": {"d": [None]}, "e": "x", "f": None}


def test_json_for_programs_has_no_infinity(capsys):
    print_json({"margin": math.inf})
    assert strict_json(capsys.readouterr().out) == {"margin": None}


# inspect


def test_inspect_shows_contract_graph_size_and_parameters(tiny, tiny_config, tiny_model_bytes):
    lines = dict(line.split(maxsplit=1) for line in run("inspect", tiny).stdout.splitlines())
    assert f"tiny.onnx ({len(tiny_model_bytes):,} bytes)" == lines["file"]
    assert lines["contract"] == "version 1, fp32"
    assert lines["input"] == "pixels uint8 (batch, 28, 28)"
    assert lines["output"] == "logits float32 (batch, 10): 0 1 2 3 4 5 6 7 8 9"
    assert f"{tiny_config.n_parameters:,}" == lines["parameters"]
    assert "LSTM" in lines["graph"].split()


def test_inspect_json_is_one_document(tiny, tiny_config):
    document = strict_json(run("inspect", tiny, "--json").stdout)
    assert (tiny_config.n_parameters, tiny_config.flops) == (document["n_parameters"], document["flops_per_image"])
    assert document["contract"]["config"]["hidden_size"] == 8
    assert {"operator": "LSTM", "provider": "CPUExecutionProvider"} in document["nodes"]


def test_inspect_shows_the_shipped_model_by_default():
    assert "82,186" in run("inspect").stdout
