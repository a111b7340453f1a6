"""tools/README.md names every tool, every folder and every command as they are; each tool can be imported."""

import importlib
import re
from pathlib import Path

import click
import pytest

from edgelstm.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "tools" / "README.md").read_text(encoding="utf-8")
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


def test_every_tool_has_its_line_and_every_line_its_tool() -> None:
    table = README.split("## The house")[0]
    named = set(re.findall(r"`([\w.]+\.(?:py|c|sh|txt))`", table))
    assert named == {path.name for path in (ROOT / "tools").iterdir() if path.suffix in {".py", ".c", ".sh", ".txt"}}


def test_the_tree_shows_every_folder_and_module_of_level_0() -> None:
    tree = README.split("## The house")[1].split("## ")[0]
    shown = set(re.findall(r"^      ([\w.]+/?) +level \d", tree, re.MULTILINE))
    package = ROOT / "edgelstm"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert shown == folders | {path.name for path in package.glob("[a-z]*.py")}


def test_every_command_of_the_readme_exists_with_its_options() -> None:
    for line in re.findall(r"`edgelstm ([a-z][^`]*)`", README):
        name, *arguments = line.split()
        command = main.get_command(click.Context(main), name)
        assert command is not None, line
        options = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= options, line


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_can_be_imported_and_says_what_it_is_for(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    module = importlib.import_module(tool)
    assert module.__doc__
    if hasattr(module, "main"):
        assert f"tools/{tool}.py" in module.__doc__ or f"make {tool}" in module.__doc__, "the exact command"
