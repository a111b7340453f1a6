"""Runs the command line for tests: in this process with its exit status checked, or as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

import edgelstm
from edgelstm.cli import main

TIMEOUT_S = 120


def run(*arguments, expected=0, **options):
    """The command line's result, exit status checked; an exception that came out is shown."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert expected == result.exit_code, result.output
    return result


def fails(*arguments, **options):
    """The one error line, the last on stderr, of a command that must exit 1 and give no result."""
    result = run(*arguments, expected=1, **options)
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert (result.stdout, error) == ("", result.stderr.splitlines()[-1])
    return error.removeprefix("Error: ")


def started(*arguments, flags=("-W", "error", "-m", "edgelstm"), **options):
    """A real process of the command line, with Python's own ``flags`` before its arguments."""
    environment = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "TERM": "xterm"}
    command = [sys.executable, *flags, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **options)


def process(*arguments, **options):
    """The result of a real process, with its output as text."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with started(*arguments, **options) as one:
        try:
            out, err = one.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            one.kill()
            raise
    return subprocess.CompletedProcess(one.args, one.returncode, out, err)


def strict_json(text):
    """Parsed JSON, without the NaN and Infinity that Python's parser would take."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)
