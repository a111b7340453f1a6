"""Tests of edgelstm.errors: one line that says what failed, what was found and expected, what to do."""

import inspect
from pathlib import Path

import pytest

from edgelstm import errors
from edgelstm.errors import EdgeLstmError, MissingDependencyError, printable

BUILTIN = {
    "DataError": OSError,
    "PictureError": ValueError,
    "ModelError": ValueError,
    "CheckpointError": ValueError,
    "ProviderError": RuntimeError,
    "ParityError": ArithmeticError,
    "TrainingError": ArithmeticError,
    "OutputError": OSError,
    "MissingDependencyError": ImportError,
}


def test_the_text_says_what_failed_what_was_found_and_expected_and_what_to_do():
    error = EdgeLstmError("the cup leaks", found="a hole", expected="none", fix="buy another")
    assert str(error) == "the cup leaks: found a hole, expected none; buy another"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "it failed"),
        ({"found": "a"}, "it failed: found a"),
        ({"expected": "b"}, "it failed: expected b"),
        ({"fix": "c"}, "it failed; c"),
        ({"found": "a", "fix": "c"}, "it failed: found a; c"),
    ],
)
def test_parts_that_are_not_given_leave_no_trace(parts, expected):
    assert expected == str(EdgeLstmError("it failed", **parts))


def test_nothing_found_is_told_from_not_looked_for():
    assert str(EdgeLstmError("it failed", found=0, expected=False)) == "it failed: found 0, expected False"


def test_a_library_message_of_many_lines_becomes_one():
    assert str(EdgeLstmError("it\nfailed", found="a\n\n   b\r\nc\n")) == "it failed: found a b c"


HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred",
    "two\nlines\r": r"two\nlines\r",
    "\ud800": r"\ud800",
    "back\u202ewards": r"back\u202ewards",
    "\x9b31m\x07\0": r"\x9b31m\x07\x00",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_foreign_text_becomes_one_line_that_no_terminal_obeys(text):
    assert f"'{HOSTILE[text]}'" == printable(text)
    assert printable(text).isprintable()
    error = str(EdgeLstmError("it failed", found=text, fix=text))
    assert error.isprintable()
    assert len(error.splitlines()) == 1


def test_a_harmless_text_is_shown_as_it_is_and_a_path_as_its_name():
    assert ["Ωmega 7", "a/b c.png", "''"] == [printable("Ωmega 7"), printable(Path("a/b c.png")), printable("")]


@pytest.mark.parametrize("text", ["x" * 1000, "\n" * 1000])
def test_a_long_text_is_cut(text):
    assert (200, 50) == (len(printable(text)), len(printable(text, 50)))
    assert printable(text).endswith("...")
    assert printable("x" * 200) == "x" * 200


def test_what_failed_can_be_read_apart():
    assert EdgeLstmError("it failed", fix="mend it").what == "it failed"


def test_every_error_of_the_family_is_listed_here():
    family = {
        name for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, EdgeLstmError) and kind is not EdgeLstmError
    }  # fmt: skip
    assert set(BUILTIN) == family


@pytest.mark.parametrize("name", BUILTIN)
def test_each_error_can_be_caught_as_ours_and_as_the_builtin_it_resembles(name):
    kind = getattr(errors, name)
    assert (issubclass(kind, EdgeLstmError), issubclass(kind, BUILTIN[name])) == (True, True)


@pytest.mark.parametrize("name", [name for name, builtin in BUILTIN.items() if builtin is OSError])
def test_an_error_that_is_an_oserror_keeps_its_text(name):
    error = getattr(errors, name)("it failed", found="a", fix="mend it")
    assert str(error) == "it failed: found a; mend it"


def test_a_missing_package_names_the_command_that_installs_it():
    error = MissingDependencyError("torch", "train", purpose="training")
    assert str(error) == 'training needs the package torch, which is not installed; run pip install "edgelstm[train]"'


def test_a_missing_package_of_two_extras_names_both_commands_to_choose_from():
    error = MissingDependencyError("onnxruntime", "cpu", "gpu", purpose="running a model")
    assert str(error).endswith('run pip install "edgelstm[cpu]" or pip install "edgelstm[gpu]"')
