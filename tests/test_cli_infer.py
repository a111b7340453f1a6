"""Tests of `edgelstm infer`: pictures from anywhere, answers in every form, and nothing that one bad file can spoil."""

import contextlib
import csv
import dataclasses
import io
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import TIMEOUT_S, fails, process, run, started, strict_json
from PIL import Image

from edgelstm.cli import infer, output
from edgelstm.config import ModelConfig
from edgelstm.errors import ModelError
from edgelstm.runtime import scoring, session
from edgelstm.runtime.classifier import CHUNK, Classifier
from edgelstm.training.checkpoint import save_checkpoint

INFER_KEYS = ["source", "index", "label", "confidence", "top", "note", "error"]


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    """Every command runs in a folder of its own; what workers set for good is put back."""
    for name in ("PYTHONSAFEPATH", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def pictures(sample):
    """A folder of three digits, with other files between them; the paths in their order."""
    folder = Path("scans")
    (folder / "more").mkdir(parents=True)
    paths = [folder / "a.png", folder / "b.PNG", folder / "more" / "c.jpg"]
    for path, image in zip(paths, sample.sequences[:3], strict=True):
        Image.fromarray(image).save(path)
    (folder / "notes.txt").write_text("no picture")
    return [str(path) for path in paths]


INFER = ("infer", "--provider", "cpu")
"""With auto, a line on stderr says what it chose where there is a GPU."""
NAMED = "model tiny.onnx\n"
"""What stderr begins with where the model is not one that ships."""


# One picture and several


def infer_lines(model, paths):
    answers = Classifier(model, provider="cpu").classify_many(paths)
    return [f"{one.source}  {one.label}  {100 * one.confidence:.1f} %{in_brackets(one.note)}" for one in answers]


def in_brackets(note):
    return f"  ({note})" if note else ""


def test_infer_prints_one_line_a_picture_in_the_order_given(tiny, pictures):
    arguments = [pictures[2], pictures[0], pictures[1], pictures[0]]
    assert infer_lines(tiny, arguments) == run(*INFER, *arguments, "--model", tiny).stdout.splitlines()


def test_infer_prints_name_class_and_percentage(tiny, pictures):
    [prediction] = Classifier(tiny, provider="cpu").classify_many(pictures[:1])
    expected = f"scans/a.png  {prediction.label}  {100 * prediction.confidence:.1f} %  (low confidence)\n"
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
    assert (document["index"], document["label"], document["error"]) == (None, None, None)
    assert [round(prediction.confidence, 6), "low confidence"] == [document["confidence"], document["note"]]


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
    assert header == ["source", "label", "confidence", "note", "error"]
    assert answer == ["a, b.png", prediction.label, str(round(prediction.confidence, 6)), "low confidence", ""]
    assert error[:4] == ["missing.png", "", "", ""]
    assert error[4].startswith("no file missing.png")
    assert result.stderr == NAMED


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
    pixels = Classifier(tiny, provider="cpu").classify(pictures[0]).sequence
    seen = page[24 : 24 + 224, 226 : 226 + 224]
    np.testing.assert_array_equal(np.kron(pixels, np.ones((8, 8), np.uint8)), seen)
    assert page.shape[1] == 3 * (450 + 12) - 12
    run(*INFER, *pictures, "--model", tiny, "--save-input", "seen")
    assert ["0001-a.png", "0002-b.png", "0003-c.png"] == sorted(path.name for path in Path("seen").iterdir())


def test_what_the_network_saw_never_replaces_a_picture(tiny, pictures):
    before = Path(pictures[0]).read_bytes()
    assert "is one of the pictures" in fails(*INFER, pictures[0], "--model", tiny, "--save-input", pictures[0])
    assert before == Path(pictures[0]).read_bytes()


@pytest.mark.parametrize("name", ["seen.jpg", "seen.PDF"])
def test_what_the_network_saw_is_a_png_or_a_folder_of_them(tiny, pictures, name):
    result = run(*INFER, pictures[0], "--model", tiny, "--save-input", name, expected=2)
    assert f"found {name}, expected a name that ends in .png, or a folder's" in result.stderr
    assert not Path(name).exists()
    Path(name).mkdir()
    run(*INFER, pictures[0], "--model", tiny, "--save-input", name)
    assert [path.name for path in Path(name).iterdir()] == ["0001-a.png"]


def test_infer_draws_what_the_network_saw(tiny, pictures):
    lines = run(*INFER, pictures[0], "--model", tiny, "--show-input").stdout.splitlines()
    assert infer_lines(tiny, pictures[:1]) == lines[:1]
    pixels = Classifier(tiny, provider="cpu").classify(pictures[0]).sequence
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
        assert [document["label"], document["confidence"]] == document["top"][0]
        assert (str(document["index"]), "low confidence", None) == (
            document["label"],
            document["note"],
            document["error"],
        )


def test_infer_json_keeps_stdout_clean_when_it_draws(tiny, pictures):
    result = run(*INFER, pictures[0], "--model", tiny, "--json", "--show-input")
    assert pictures[0] == strict_json(result.stdout)["source"]
    assert len(result.stderr.splitlines()) == 1 + 28


BAD_PICTURES = {
    "missing.png": (None, "no file missing.png"),
    "text.png": (b"this is no picture\n", "text.png is no picture this program reads: found text"),
    "empty.png": (b"", "empty.png is not a picture: found an empty file"),
    "cut.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cut.png is damaged"),
    "*.tiff": (None, "no file *.tiff"),
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
    errors = result.stderr.removeprefix(NAMED).splitlines()
    assert len(BAD_PICTURES) == len(errors), result.stderr
    for line, (_, expected) in zip(errors, BAD_PICTURES.values(), strict=True):
        assert line.startswith(f"Error: {expected}")


def test_a_folder_without_pictures_does_not_keep_the_others_from_being_answered(tiny, pictures):
    Path("bare").mkdir()
    Path("bare/notes.txt").touch()
    result = run(*INFER, pictures[0], "bare", pictures[1], "--model", tiny, expected=1)
    assert infer_lines(tiny, pictures[:2]) == result.stdout.splitlines()
    [error] = result.stderr.removeprefix(NAMED).splitlines()
    assert error.startswith("Error: bare holds no pictures: expected files that end in .png, .jpg, ")


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".svg", ".pdf"])
def test_pictures_of_a_folder_that_cannot_be_read_get_their_error_in_their_place(tiny, pictures, suffix):
    Path(f"scans/aa{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    result = run(*INFER, "scans", "--model", tiny, "--json", expected=1)
    documents = [strict_json(line) for line in result.stdout.splitlines()]
    assert [pictures[0], f"scans/aa{suffix}", *pictures[1:]] == [document["source"] for document in documents]
    assert [False, True, False, False] == [document["error"] is not None for document in documents]


def test_a_folder_that_may_not_be_searched_says_so_and_the_rest_is_answered(tiny, pictures, monkeypatch):
    real = os.scandir

    def scandir(place):
        if str(place).endswith("more"):
            raise PermissionError(13, "Permission denied", place)
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    result = run(*INFER, "scans", "--model", tiny, expected=1)
    assert infer_lines(tiny, pictures[:2]) == result.stdout.splitlines()
    assert result.stderr == NAMED + "Error: cannot search scans/more: found permission denied\n"


def test_infer_json_holds_the_error_in_its_place_and_exits_1(tiny, pictures):
    result = run(*INFER, pictures[0], "missing.png", pictures[1], "--model", tiny, "--json", expected=1)
    documents = [strict_json(line) for line in result.stdout.splitlines()]
    assert [pictures[0], "missing.png", pictures[1]] == [document["source"] for document in documents]
    assert [document["error"] is not None for document in documents] == [False, True, False]
    assert list(documents[1]) == INFER_KEYS
    assert {key: documents[1][key] for key in ("index", "label", "confidence", "top", "note")} == {
        "index": None,
        "label": None,
        "confidence": None,
        "top": [],
        "note": None,
    }
    assert result.stderr == NAMED


def test_infer_says_when_auto_chose_cuda(tiny, pictures, monkeypatch):
    real = session.open_session
    monkeypatch.setattr(session, "cuda_problem", lambda ort: None)
    monkeypatch.setattr(session, "open_session", lambda content, settings, provider: real(content, settings, "cpu"))
    monkeypatch.setattr(session, "lstm_placement", lambda _: {"lstm_0": "CUDAExecutionProvider"})
    assert "provider cuda: the LSTM node is placed on CUDA" in run("infer", pictures[0], "--model", tiny).stderr


@pytest.mark.parametrize("has_gpu", [True, False])
def test_infer_says_that_auto_fell_back_to_the_cpu_only_where_there_is_a_gpu(tiny, pictures, monkeypatch, has_gpu):
    monkeypatch.setattr(session, "cuda_problem", lambda ort: "no CUDA library; install one")
    monkeypatch.setattr(session, "has_nvidia_driver", lambda: has_gpu)
    note = "provider cpu: CUDA cannot be used (no CUDA library)\n" if has_gpu else ""
    assert run("infer", pictures[0], "--model", tiny).stderr == NAMED + note


# Start-up

UNNEEDED = {
    "asyncio", "bz2", "concurrent", "csv", "glob", "hashlib", "lzma", "multiprocessing", "random", "rich", "shutil",
    "socket", "subprocess", "tempfile", "urllib.request", "edgelstm.runtime.scoring", "edgelstm.runtime.stream",
    "edgelstm.show", "edgelstm.measure", "edgelstm.training", "edgelstm.exporting",
}  # fmt: skip
"""Modules that one picture needs none of; each costs a part of the time until its answer."""


def test_one_picture_imports_nothing_that_it_does_not_need(pictures):
    code = (
        "import sys\nfrom edgelstm.cli import main\n"
        "try: main(sys.argv[1:], prog_name='edgelstm')\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = process(*INFER, pictures[0], flags=("-c", code))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    *_, modules = done.stderr.splitlines()
    assert "edgelstm.runtime.classifier" in modules.split()
    assert UNNEEDED & set(modules.split()) == set()


# Which model


def test_infer_takes_the_run_of_this_folder_if_it_is_exported_and_says_so(tiny, pictures):
    assert run(*INFER, pictures[0]).stderr == ""
    Path("runs/base").mkdir(parents=True)
    Path("runs/base/model.onnx").write_bytes(Path(tiny).read_bytes())
    result = run(*INFER, pictures[0])
    assert infer_lines(tiny, pictures[:1]) == result.stdout.splitlines()
    assert result.stderr == "model runs/base/model.onnx\n"


def test_a_file_of_a_shipped_models_name_is_not_taken_for_it(tiny, pictures):
    expected = run(*INFER, pictures[0]).stdout
    Path("base").write_bytes(Path(tiny).read_bytes())
    assert (expected, "") == (run(*INFER, pictures[0], "--model", "base").stdout, run(*INFER, pictures[0]).stderr)
    assert run(*INFER, pictures[0], "--model", "./base").stderr == "model ./base\n"


def test_a_checkpoint_is_not_called_damaged_but_to_be_exported(tiny_checkpoint, pictures):
    save_checkpoint(Path("mine.safetensors"), tiny_checkpoint)
    error = fails(*INFER, pictures[0], "--model", "mine.safetensors")
    assert error.startswith("mine.safetensors is a checkpoint")
    assert "edgelstm export mine.safetensors" in error


# Foreign names


NASTY = {
    "an escape sequence": "\x1b[31mRED\x1b]0;owned\x07",
    "a forged line": "7  100.0 %\nother.png  3",
    "a carriage return": "7\rforged",
    "a right-to-left mark": "\u202e7",
    "a name of 5,000 digits": "7" * 5_000,
    "a formula": "=1+2",
}


@pytest.mark.parametrize("form", ["text", "csv", "json"])
@pytest.mark.parametrize("name", NASTY)
def test_class_names_reach_the_terminal_as_one_safe_line(tiny, pictures, monkeypatch, name, form):
    real = Classifier.answer

    def predictions(self, batch):
        return [dataclasses.replace(one, label=NASTY[name], top=((NASTY[name], 0.9),)) for one in real(self, batch)]

    monkeypatch.setattr(Classifier, "answer", predictions)
    result = run(*INFER, pictures[0], "--model", tiny, *([] if form == "text" else [f"--{form}"]))
    *header, line = result.stdout.split("\n")[:-1]
    assert (line.isprintable(), len(header)) == (True, form == "csv")
    if form == "json":
        assert strict_json(line)["label"] == NASTY[name]
    elif name == "a formula":
        assert line.startswith("scans/a.png,'=1+2," if form == "csv" else "scans/a.png  =1+2  ")


def test_names_of_pictures_come_as_one_safe_line_and_never_as_a_formula(tiny, pictures):
    names = ["=cmd|' !A0.png", "+1.png", "@SUM.png", "./-1.png", "new\nline.png"]
    for name in names:
        Path(name).write_bytes(Path(pictures[0]).read_bytes())
    cells = [row[0] for row in csv.reader(run(*INFER, *names, "--model", tiny, "--csv").stdout.splitlines())]
    assert cells == ["source", *(f"'{name}" for name in names[:3]), "./-1.png", r"'new\nline.png'"]
    shown = run(*INFER, *names, "--model", tiny).stdout.splitlines()
    assert [line.startswith(name) for line, name in zip(shown, names[:4], strict=False)] == [True] * 4
    content = Path(pictures[0]).read_bytes()
    [_, from_stdin] = run(*INFER, "-", "--model", tiny, "--csv", input=content).stdout.splitlines()
    assert from_stdin.startswith("-,")


def test_long_paths_are_shown_whole(tiny, pictures):
    folder = Path("/".join(["deep" * 20] * 5))
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(Path(pictures[0]).read_bytes())
    assert run(*INFER, folder, "--model", tiny).stdout.startswith(f"{folder}/a.png  ")


# Many pictures


@pytest.fixture
def crowd(sample):
    """A folder of 129 small pictures; every 50th is bad."""
    folder = Path("crowd")
    folder.mkdir()
    paths = [folder / f"{i:03}.png" for i in range(129)]
    for i, path in enumerate(paths):
        Image.fromarray(sample.sequences[i]).save(path)
    for path in paths[49::50]:
        path.write_text("no picture")
    return [str(path) for path in paths]


@pytest.fixture
def pools(monkeypatch):
    """The processes of every pool that infer starts, on a machine of two cores, for more than 100 bytes of pictures."""
    seen = []

    class Seen(scoring.Workers):
        def __init__(self):
            super().__init__(2)
            seen.append(multiprocessing.active_children())

    monkeypatch.setattr(scoring, "Workers", Seen)
    monkeypatch.setattr(scoring, "n_cores", lambda: 2)
    monkeypatch.setattr(infer, "MANY_BYTES", 100)
    return seen


def good(paths):
    return [path for i, path in enumerate(paths) if i % 50 != 49]


@pytest.mark.parametrize("argument", ["crowd", "crowd/*.png", "each"])
def test_many_pictures_are_read_by_workers_with_the_same_answers(tiny, crowd, pools, argument):
    arguments = crowd if argument == "each" else [argument]
    result = run(*INFER, *arguments, "--model", tiny, expected=1)
    assert infer_lines(tiny, good(crowd)) == result.stdout.splitlines()
    errors = result.stderr.removeprefix(NAMED).splitlines()
    assert [f"Error: {path} is no" for path in crowd[49::50]] == [
        line[: len("Error: crowd/000.png is no")] for line in errors
    ]
    [processes] = pools
    assert [False, False] == [process.is_alive() for process in processes]


def test_a_share_of_the_work_or_few_bytes_start_no_process(tiny, crowd, pools, monkeypatch):
    run(*INFER, *good(crowd)[:CHUNK], "--model", tiny)
    assert pools == []
    monkeypatch.setattr(infer, "MANY_BYTES", sum(Path(path).stat().st_size for path in good(crowd)))
    run(*INFER, *good(crowd), "missing.png", "--model", tiny, expected=1)
    assert pools == []
    monkeypatch.setattr(infer, "MANY_BYTES", infer.MANY_BYTES - 1)
    run(*INFER, *good(crowd), "--model", tiny)
    assert len(pools) == 1


def test_a_bad_model_leaves_no_workers(tiny, crowd, pools, monkeypatch):
    def cannot(*arguments, **options):
        raise ModelError("cannot be run")

    monkeypatch.setattr("edgelstm.runtime.classifier.open_runner", cannot)
    fails(*INFER, "crowd", "--model", tiny)
    assert [False, False] == [process.is_alive() for process in pools[0]]


def test_what_was_answered_before_workers_broke_off_is_written(tiny, crowd, pools, monkeypatch):
    real = Classifier.answer
    batches = itertools.count()

    def predictions(self, batch):
        if next(batches) == 1:
            for process in pools[0]:
                process.kill()
        return real(self, batch)

    monkeypatch.setattr(Classifier, "answer", predictions)
    result = run(*INFER, *good(crowd) * 20, "--model", tiny, expected=1)
    lines = result.stdout.splitlines()
    assert 2 * CHUNK <= len(lines) < 20 * len(good(crowd))
    assert infer_lines(tiny, (good(crowd) * 20)[: len(lines)]) == lines
    assert "a process that prepares the inputs broke off" in result.stderr.splitlines()[-1]


def many_in_a_process(*arguments):
    """A process that has read some of very many pictures; its stderr ends when its workers have ended too."""
    one = started(
        *INFER, *["crowd"] * 400, *arguments, flags=("-m", "edgelstm"), bufsize=0, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    one.first = one.stdout.readline()
    return one


def test_ctrl_c_leaves_the_finished_answers_and_exits_130(tiny, crowd):
    one = many_in_a_process("--model", tiny, "--json")
    os.killpg(one.pid, signal.SIGINT)  # to all of them, as a terminal does
    out, err = one.communicate(timeout=TIMEOUT_S)
    n = len([strict_json(line) for line in (one.first + out).splitlines()])
    assert (130, f"{NAMED}Stopped: {n:,} answered.\n") == (one.returncode, err.decode())
    assert 0 < n < 400 * len(crowd)


def test_ctrl_c_loses_no_answer_that_waits_to_be_written(tiny, pictures, monkeypatch):
    real = Classifier.classify_many

    def stopped(*arguments):
        yield from real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "classify_many", stopped)
    result = run(*INFER, *pictures, "--model", tiny, expected=130)
    assert len(pictures) == len(result.stdout.splitlines())
    assert f"{NAMED}Stopped: 3 answered.\n" == result.stderr


@pytest.mark.parametrize(("n_times", "n_lines"), [(1, 3), (2, 0)])
def test_ctrl_c_waits_for_what_is_being_written_and_a_second_does_not(tiny, pictures, monkeypatch, n_times, n_lines):
    real = output._write

    def write(text):
        for _ in range(n_times):
            os.kill(os.getpid(), signal.SIGINT)
        real(text)

    monkeypatch.setattr(output, "_write", write)
    result = run(*INFER, *pictures, "--model", tiny, expected=130)
    assert n_lines == len(result.stdout.splitlines())
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_ctrl_c_that_is_ignored_stays_ignored(tiny, pictures, monkeypatch):
    """As in the background of a shell script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(output, "_write", lambda text: os.kill(os.getpid(), signal.SIGINT))
    try:
        run(*INFER, *pictures, "--model", tiny)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stdout_that_takes_less_than_it_is_given_gets_the_rest_too(monkeypatch):
    class Slow(io.BytesIO):
        def write(self, content):
            return super().write(content[:7])

    stdout = io.TextIOWrapper(Slow(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    output._write("a line \u00e9 longer than seven bytes\n")
    assert stdout.buffer.getvalue().decode() == "a line \u00e9 longer than seven bytes\n"


def test_errors_come_in_their_place_where_both_streams_go_to_one(tiny, pictures):
    done = process(*INFER, pictures[0], "missing.png", pictures[1], "--model", tiny, stderr=subprocess.STDOUT)
    assert ["model", pictures[0], "Error:", pictures[1]] == [line.split()[0] for line in done.stdout.splitlines()]


def test_a_reader_that_goes_away_early_ends_the_workers_quietly(tiny, crowd):
    one = many_in_a_process("--model", tiny, "--json")
    one.stdout.close()
    assert NAMED.encode() == one.stderr.read()
    one.stderr.close()
    assert 1 == one.wait(timeout=TIMEOUT_S)


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_workers_need_no_stderr(tiny, crowd):
    """Their pipes must not get its number."""
    paths = good(crowd) * 32  # enough for workers on any machine of two cores
    Path("names").write_text("\0".join(paths))
    done = process(*INFER, "--files0-from", "names", "--model", tiny, preexec_fn=lambda: os.close(2), stderr=None)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, len(paths))


def test_workers_end_with_a_process_that_is_killed(tiny, crowd):
    with many_in_a_process("--model", tiny, "--json") as one:
        one.kill()
        one.wait(timeout=TIMEOUT_S)
        # returns when the last one that could write has ended; Python's own clean-up may have something to say
        assert one.stderr.read().startswith(NAMED.encode())


def test_a_bar_counts_on_a_terminal_and_leaves_answers_and_errors_alone(tiny, crowd):
    pty = pytest.importorskip("pty")
    terminal, stderr = pty.openpty()
    done = process(*INFER, "crowd", "--model", tiny, stderr=stderr)
    os.close(stderr)
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as seen, contextlib.suppress(OSError):  # EIO: the end of a terminal
        while part := seen.read(4_096):
            shown += part
    assert infer_lines(tiny, good(crowd)) == done.stdout.splitlines()
    assert re.search(rb"129/129\D", shown), shown
    errors = [line.decode() for line in shown.split(b"\n") if b"Error: " in line]
    for path, line in zip(crowd[49::50], errors, strict=True):
        assert f"\r\x1b[KError: {path} is no" in line


# Values


@pytest.fixture
def gestures(checkpoint_of, model_bytes_of):
    """A model of values, and a folder of such in three files, with a picture and a note between them."""
    config = ModelConfig(rows=5, cols=2, hidden_size=4, class_names=("rest", "walk"), preparation="values")
    Path("gestures.onnx").write_bytes(model_bytes_of(checkpoint_of(config)))
    Path("more").mkdir()
    values = np.random.default_rng(2).normal(0, 1, (3, 5, 2)).astype(np.float32)
    paths = ["more/a.CSV", "more/b.npy", "more/c.npy"]
    np.savetxt(paths[0], values[0], delimiter=",", header="x,y", comments="", fmt="%.9g")
    for path, one in zip(paths[1:], values[1:], strict=True):
        np.save(path, one)
    Image.new("L", (5, 2)).save("more/d.png")
    Path("more/notes.txt").touch()
    return paths


@pytest.mark.parametrize("arguments", [["more"], ["more/*"], None], ids=["folder", "glob", "names"])
def test_values_are_read_from_files_folders_and_globs(gestures, arguments):
    glob = arguments == ["more/*"]
    result = run(*INFER, *(arguments or gestures), "--model", "gestures.onnx", expected=int(glob))
    assert infer_lines("gestures.onnx", gestures) == result.stdout.splitlines()
    errors = result.stderr.splitlines()[1:]
    assert ([" no sequence of values: " in line for line in errors]) == ([True, True] if glob else [])


def test_the_groups_of_a_training_folder_are_no_sequence(gestures):
    Path("data").mkdir()
    Path("more").rename("data/walk")
    Path("data/groups.csv").write_text("walk/a.CSV,anna\n")
    Path("data/walk/groups.csv").write_text("1,2\n" * 5)  # here it is one like any other
    found = run(*INFER, "data", "--model", "gestures.onnx").stdout.splitlines()
    assert ["a.CSV", "b.npy", "c.npy", "groups.csv"] == [Path(line.split()[0]).name for line in found]


def test_a_folder_without_values_says_what_the_model_reads(gestures):
    Path("bare").mkdir()
    assert fails(*INFER, "bare", "--model", "gestures.onnx") == (
        "bare holds no sequences of values: expected files that end in .csv, .npy"
    )


def test_a_bad_file_of_values_costs_only_itself(gestures):
    np.save("more/bb.npy", np.zeros((5, 3)))
    result = run(*INFER, "more", "--model", "gestures.onnx", "--csv", expected=1)
    rows = [*csv.reader(result.stdout.splitlines())]
    assert [gestures[0], gestures[1], "more/bb.npy", gestures[2]] == [row[0] for row in rows[1:]]
    assert rows[3][4] == "more/bb.npy does not fit the model: found shape (5, 3), expected (5, 2)"


def test_channels_first_files_are_turned(gestures):
    np.save("turned.npy", np.load(gestures[1]).T)
    assert "columns first are for channels_first (on the command line --channels-first)" in fails(
        *INFER, "turned.npy", "--model", "gestures.onnx"
    )
    turned = run(*INFER, "turned.npy", "--model", "gestures.onnx", "--channels-first").stdout
    assert run(*INFER, gestures[1], "--model", "gestures.onnx").stdout.split()[1:] == turned.split()[1:]


def test_many_files_of_values_go_through_workers_too(gestures, monkeypatch):
    monkeypatch.setattr(infer, "MANY_BYTES", 100)
    expected = run(*INFER, *gestures * 20, "--model", "gestures.onnx").stdout
    monkeypatch.setattr(scoring, "can_start", lambda: False)
    assert expected == run(*INFER, *gestures * 20, "--model", "gestures.onnx").stdout


@pytest.mark.parametrize("options", [["--show-input"], ["--save-input", "x.png"]])
def test_values_are_drawn_by_explain(gestures, options):
    result = run(*INFER, gestures[0], "--model", "gestures.onnx", *options, expected=2)
    assert "draw pictures; edgelstm explain draws values" in result.stderr


def test_a_file_of_values_for_a_model_of_pictures_is_a_clear_line(tiny, gestures):
    assert fails(*INFER, gestures[0], "--model", tiny).startswith("more/a.CSV is no picture: found values, by its name")
    message = run(*INFER, gestures[0], expected=1).stderr.splitlines()
    assert message[0].startswith("the default model, ")
    assert message[0].endswith("base.onnx, reads pictures; one of values is given as --model RUN")
    assert message[1].endswith("expected one, as the model reads; choose a model of values: --model RUN")


def test_values_come_on_standard_input_too(gestures):
    content = Path(gestures[0]).read_bytes()
    expected = run(*INFER, gestures[0], "--model", "gestures.onnx").stdout.replace(gestures[0], "-")
    assert expected == run(*INFER, "-", "--model", "gestures.onnx", input=content).stdout
    assert "the input has no rows of numbers" in fails(*INFER, "-", "--model", "gestures.onnx", input=b"")
