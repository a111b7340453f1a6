"""Options that several commands share, and the ways they speak."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.onnx_file import ModelFile

_DATA = click.option(
    "--data", metavar="DATA",
    help="Your own: a folder with a folder for each class, an .npz file or a .ts file.  [default: MNIST, in "
    "EDGELSTM_DATA or the user's cache folder]",
)  # fmt: skip
_CHANNELS_FIRST = click.option(
    "--channels-first", is_flag=True, help="Values in --data lie as (columns, rows): a channel after the other."
)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--data and --channels-first: what is trained on, or scored."""
    return _DATA(_CHANNELS_FIRST(command))


model_option = click.option(
    "--model", help="ONNX file, run folder, or shipped model's name.  [default: runs/base if exported, else base]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
ON_CPU = ("cpu", "c", "c-int8")
PROVIDERS = ("auto", "cpu", "cuda", *ON_CPU[1:])
IN_C = (
    "c is the C engine, without onnxruntime, in the precision of the file, c-int8 the same in int8; both need a C "
    "compiler, once"
)
provider_option = click.option(
    "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True,
    help="Execution provider. cuda fails if the LSTM cannot run there; auto says what it chose where there is a GPU; "
    f"{IN_C}.",
)  # fmt: skip
cpu_provider_option = click.option(
    "--provider", type=click.Choice(ON_CPU), default="cpu", show_default=True, help=f"cpu is onnxruntime; {IN_C}.",
)  # fmt: skip


def plot_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """A callback for an option that names a plot's file: its ending says the format."""
    path = None if value is None else Path(value)
    if path and path.suffix.lower() not in (".png", ".svg"):
        raise click.BadParameter(f"found {printable(path)}, expected a name that ends in .png or .svg")
    return path


def model_to_use(name: str | None) -> "ModelFile":
    """The model that a command was given, or the default; says which where it is not one that ships."""
    from edgelstm.onnx_file import default_model, is_shipped, open_model

    model = open_model(name or default_model())
    if not is_shipped(model.path):
        say(f"model {model.source}")
    return model


def read_stdin(limit: int) -> bytes:
    """Standard input, at most a byte more than ``limit``, so that more is seen; a closed one is empty."""
    return sys.stdin.buffer.read(limit + 1) if sys.stdin else b""


def say(line: str) -> None:
    """A note for the person at the terminal: stderr."""
    click.echo(line, err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinity, which JSON does not have, become null."""
    click.echo(json.dumps(_plain(value), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
