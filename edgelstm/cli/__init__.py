"""The command line: parse, call, print. One file a command, imported when it is asked for."""

import contextlib
import errno
import importlib
import os
import sys
from typing import Any

import click

from edgelstm import __version__
from edgelstm.errors import EdgeLstmError

EXIT_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""
COMMANDS = (
    "train", "export", "verify", "compile", "infer", "score", "explain", "stream", "bench", "inspect", "doctor", "demo",
)  # fmt: skip


class _Commands(click.Group):
    """Loads ``edgelstm.cli.NAME.command`` on demand; shows the user's errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"edgelstm.cli.{name}").command
        return found

    def invoke(self, ctx: click.Context) -> Any:
        if sys.stdout is None:  # closed before we began: click would drop what it prints
            raise click.ClickException("standard output is closed: open it, or lead it into a file or a pipe")
        try:
            return super().invoke(ctx)
        except EdgeLstmError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as stop:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from stop
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has what it wants; click ends quietly
                raise
            with contextlib.suppress(OSError):  # or Python tries to write there again at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.ClickException(f"the system says: {error}") from error


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgelstm")
def main() -> None:
    """Train a small row-sequence LSTM, export it to ONNX, prove it equal, run it and measure it.

    Results go to stdout, progress and notes to stderr. Exit status: 0 fine, 1 failed, 2 usage,
    3 less sure than asked for, 130 stopped by Ctrl-C.
    """
