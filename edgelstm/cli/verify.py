"""edgelstm verify"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say

if TYPE_CHECKING:
    from edgelstm.runtime.runner import Provider


@click.command(epilog="Example: edgelstm verify runs/base runs/base/model.onnx --provider cpu")
@click.argument("paths", nargs=-1, metavar="[[CHECKPOINT] MODEL]")
@click.option(
    "--provider",
    "providers",
    type=click.Choice(["auto", "cpu", "cuda"]),
    multiple=True,
    default=["cpu", "auto"],
    show_default=True,
    help="Execution provider to prove; may be given several times.",
)
@data_option
@json_option
def command(paths: tuple[str, ...], providers: "tuple[Provider, ...]", data_folder: Path, as_json: bool) -> None:
    """Prove that an exported model decides exactly as its checkpoint.

    Asks for the same names and shapes, weights, values and decisions, of torch, torch's own exporter,
    NumPy and each provider, on all 10,000 MNIST test images (the shipped sample of 1,000 if MNIST is
    not on this machine) and on random pixels, in batches of 1, 2, 7, 64 and 1000. Exits 1 on any
    difference.

    A streaming model is fed row by row instead, to 1, 7, 64 and 1000 streams and with other splits into
    calls, on the CPU; after the last row it must say what the whole picture says.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there,
    else the shipped base model); CHECKPOINT is by default the one beside it.
    """
    if len(paths) > 2:
        raise click.UsageError("give at most a CHECKPOINT and a MODEL")
    from edgelstm.data.mnist import evaluation_digits
    from edgelstm.export.stream_verify import verify_stream
    from edgelstm.export.verify import verify
    from edgelstm.runtime.runner import checkpoint_beside, default_model, find_model, read_model
    from edgelstm.runtime.stream_runner import is_streaming
    from edgelstm.training.checkpoint import load_checkpoint

    model = find_model(paths[-1] if paths else default_model())
    checkpoint = Path(paths[0]) if len(paths) == 2 else checkpoint_beside(model)
    digits = evaluation_digits(data_folder)
    say(f"verifying {model} against {checkpoint} on {len(digits):,} digits ({digits.source})")
    loaded, name = load_checkpoint(checkpoint), str(checkpoint)
    if is_streaming(read_model(model)):
        report = verify_stream(loaded, model, digits, checkpoint_name=name)
    else:
        report = verify(loaded, model, digits, providers=providers, checkpoint_name=name)
    if as_json:
        print_json({"passed": report.passed, **dataclasses.asdict(report)})
    else:
        for check in report.checks:
            click.echo(f"{'ok  ' if check.passed else 'FAIL'}  {check.question}: {check.answer}")
        click.echo(f"{'verified' if report.passed else 'NOT VERIFIED'}: {model}")
    sys.exit(0 if report.passed else 1)
