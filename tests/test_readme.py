"""Tests of the README: its commands exist, its options exist, its Python runs, its file tree is the real one."""

import re
import shlex
from pathlib import Path

import click
import pytest

import edgelstm
from edgelstm.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(edgelstm.__file__).parent


def commands_in(text: str) -> list[str]:
    """Every edgelstm command line in consoles and in backticks, comments and brackets taken off."""
    shown = re.findall(r"^\$ (edgelstm .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    shown += re.findall(r"`(edgelstm [a-z][^`]*)`", text)
    return sorted({re.sub(r"[\[\]]|\\\|.*?(?=[\s\]])|\.\.\.", " ", line) for line in shown})


def test_every_command_is_in_the_readme():
    told = {line.split()[1] for line in commands_in(README)}
    assert set(COMMANDS) <= told


@pytest.mark.parametrize("line", commands_in(README))
def test_a_command_of_the_readme_exists_with_its_options(line):
    name, *arguments = shlex.split(line)[1:]
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"no command {name}"
    options = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in arguments if re.match(r"--?[a-z]", argument)} <= options


def test_the_python_of_the_readme_runs(monkeypatch, capsys, tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [picture] = (ROOT / "tests" / "pictures" / "5").glob("ql*")
    (tmp_path / "digit.png").write_bytes(picture.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.split()[0] == "5"


def test_the_file_tree_of_the_readme_is_the_real_one():
    tree = README.split("## How the pieces fit")[1].split("\n## ")[0]
    told = set(re.findall(r"^      ([a-z_]+\.py|[a-z]+/) ", tree, re.MULTILINE))
    real = {path.name + ("/" if path.is_dir() else "") for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert told == {name for name in real if name.endswith((".py", "/"))}


def test_the_readme_speaks_of_no_one_machine():
    assert re.findall(r"/(?:root|home|tmp|work)/\S*", README) == []
