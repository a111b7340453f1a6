"""Tests of the README: its commands and options exist, what it shows is what is printed, its Python runs."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageFont

from edgelstm.cli import COMMANDS, main
from edgelstm.config import DIGITS
from edgelstm.data.dataset import Dataset, Part
from edgelstm.data.mnist import FILES
from edgelstm.runtime.runner import OrtRunner

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_LINES = 300
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def commands_in(text: str) -> list[str]:
    """Every edgelstm command line in consoles and in backticks, comments and brackets taken off."""
    shown = re.findall(r"^\$ (edgelstm .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    shown += re.findall(r"`(edgelstm [a-z][^`]*)`", text)
    return sorted({re.sub(r"[\[\]]|\\\|.*?(?=[\s\]])|\.\.\.", " ", line.split(" < ")[0]) for line in shown})


def shown_outputs() -> dict[str, list[str]]:
    """Each command of a console with the lines shown below it, if there are any."""
    found = {}
    for block in CONSOLE:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *output = part.rstrip("\n").split("\n")
            if output:
                found[re.sub(r"\s+#.*", "", line)] = output
    return found


def template(line: str) -> str:
    """A line without its numbers, which are of a whole training, of time, or of the test digits."""
    line = re.sub("[0-9a-f]{64}", "SHA256", line)
    line = re.sub(
        r"\d[\d,]*(\.\d+)?(e-?\d+)?", "N", line.replace("?", "0")
    )  # ?: an interval that few calls do not give
    return re.sub(r"(-{2,}|\s)+", " ", line).strip().replace("steps", "step")


def test_every_command_is_in_the_readme():
    assert set(COMMANDS) <= {line.split()[1] for line in commands_in(README)}


@pytest.mark.parametrize("line", commands_in(README))
def test_a_command_of_the_readme_exists_with_its_options(line):
    name, *arguments = shlex.split(line)[1:]
    if name == "COMMAND":
        return
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"no command {name}"
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {argument for argument in arguments if re.match(r"--?[a-z]", argument)} <= options


@pytest.fixture(scope="module")
def printed(tmp_path_factory, sample):
    """Runs a command of the README in a folder where its files lie, training on 800 digits for two epochs."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "models", folder / "models")
    five = "tests/pictures/5/7eraflops+mnist-digit-recognition__5.png"
    (folder / five).parent.mkdir(parents=True)
    shutil.copy(ROOT / five, folder / five)
    shutil.copy(next((ROOT / "tests/pictures/5").glob("ql*")), folder / "digit.png")
    letter = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(letter).text((60, 0), "R", 0, ImageFont.load_default(size=240.0))
    letter.save(folder / "letter.png")
    Image.new("L", (60, 60), 255).save(folder / "blank.png")
    fitting, validation = (Part(sample.sequences[at], sample.labels[at], "") for at in (slice(800), slice(800, 1000)))
    sha256 = FILES["train", "images"].sha256
    mnist = Dataset("MNIST", "digit", DIGITS, fitting, validation, sample, sha256=sha256, split="given")
    runpy.run_path(str(ROOT / "tools" / "digits_as_png.py"))["write"](folder / "digits")
    quick = {"train": ("--epochs", "2", "--threads", "1"), "bench": ("--seconds", "0.1", "--batch-size", "1")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDGELSTM_DATA", str(folder / "no-mnist"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("edgelstm.data.mnist.load_dataset", lambda *arguments: mnist)
        patch.setattr("edgelstm.training.train.ensure_mnist", lambda **options: None)
        patch.setattr("edgelstm.data.evaluation.find_mnist", lambda place: None if place.name == "digits" else place)
        patch.setattr("edgelstm.data.evaluation.evaluation_digits", lambda place: sample)
        patch.setattr("edgelstm.data.evaluation.validation_digits", lambda place: validation)
        patch.setattr("edgelstm.exporting.export.MIN_FOR_RULE", 200)

        def run(line: str) -> list[str]:
            name, *arguments = shlex.split(line)[1:]
            extra = ("--force",) if "int8" in arguments else quick.get(name, ())  # 2 of 1,000 are more than 0.05 points
            done = CliRunner().invoke(main, [name, *arguments, *extra])
            assert done.exit_code in (0, 3), done.output
            return done.output.splitlines()

        yield run


def test_the_lines_shown_are_those_that_the_commands_print(printed):
    """The commands in the README's order: each finds what the one before has left."""
    for line, shown in shown_outputs().items():
        if line.startswith("edgelstm infer"):
            continue  # by the shipped model, to the letter: the next test
        known = {template(found) for found in printed(line)}
        assert [one for one in shown if template(one) not in known] == [], f"{line} prints {sorted(known)}"


def test_what_needs_no_training_is_shown_to_the_letter(printed):
    shutil.rmtree("runs", ignore_errors=True)  # a run of this folder would be taken for the model
    outputs = shown_outputs()
    for name in ("edgelstm infer tests", "edgelstm infer blank"):
        [line] = [line for line in outputs if line.startswith(name)]
        assert printed(line) == outputs[line]


@pytest.mark.skipif(not shutil.which("cc"), reason="needs cc, a C compiler")
def test_the_c_of_the_readme_reads_digits(printed, sample):
    printed("edgelstm compile nano -o digit.c")
    [main_c] = re.findall(r"```c\n(.*?)```", README, re.DOTALL)
    Path("main.c").write_text(main_c)
    [command] = re.findall(r"^\$ (cc .*)$", README, re.MULTILINE)
    subprocess.run(shlex.split(command), check=True)
    done = subprocess.run(["./digit"], input=sample.sequences[:20].tobytes(), capture_output=True, check=True)
    expected = OrtRunner("nano", provider="cpu").logits(sample.sequences[:20]).argmax(1)
    assert expected.tolist() == [int(line) for line in done.stdout.split()]


def test_the_python_of_the_readme_runs(monkeypatch, capsys, tmp_path):
    _, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for name in ("digit.png", "one.png", "two.png"):
        shutil.copy(next((ROOT / "tests/pictures/5").glob("ql*")), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(code, {"row": np.zeros(28, np.uint8)})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["5", "one.png", "two.png"]


@pytest.mark.usefixtures("one_thread")
def test_from_an_array_to_a_verified_file_in_ten_lines(monkeypatch, capsys, tmp_path):
    own, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(own.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(own.replace("output=", "epochs=2, threads=1, output="), {})
    assert "runs/array/model.onnx" in capsys.readouterr().out


def test_the_readme_is_short_and_its_files_are_there():
    assert len(README.splitlines()) <= MAX_LINES
    linked = re.findall(r"\]\(((?!http)[^)]+)\)", README) + re.findall(r"`((?:models|tools|tests)/[^` ]*)`", README)
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_readme_speaks_of_no_one_machine():
    assert re.findall(r"/(?:root|home|tmp|work)/\S*", README) == []
