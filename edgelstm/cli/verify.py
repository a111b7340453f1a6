"""edgelstm verify: the exported file against its checkpoint."""

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import PROVIDERS, data_option, json_option, print_json, say
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.runtime.runner import AnyProvider


@click.command(epilog="Example: edgelstm verify runs/base runs/base/model.onnx --provider cpu")
@click.argument("paths", nargs=-1, metavar="[[CHECKPOINT] MODEL]")
@click.option(
    "--provider", "providers", type=click.Choice(PROVIDERS), multiple=True, default=["cpu", "auto"],
    show_default=True, help="Execution provider to prove; may be given several times.",
)  # fmt: skip
@data_option
@json_option
def command(
    paths: tuple[str, ...], providers: "tuple[AnyProvider, ...]", data: str | None, channels_first: bool, as_json: bool
) -> None:
    """Prove that an exported model answers exactly as its checkpoint.

    Asks for the same graph, weights, values, decisions, confidences and claims, of torch, torch's own exporter,
    NumPy and each provider, on the test part of the data (of MNIST all 10,000 images, or the shipped sample of 1,000
    if MNIST is not on this machine) and on random sequences, in batches of 1, 2, 7, 64 and 1000; then row by row, on
    the CPU, for 1, 7, 64 and 1000 streams and with other splits into calls. Exits 1 on any difference. A line that
    begins with -- is a question that could not be asked on this machine.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there,
    else the shipped base model); CHECKPOINT is by default the one beside it.
    """
    if len(paths) > 2:
        raise click.UsageError("give at most a CHECKPOINT and a MODEL")
    from edgelstm.exporting.verify import verify

    report = verify(
        paths[-1] if paths else None, paths[0] if len(paths) == 2 else None, data=data, channels_first=channels_first,
        providers=providers, on_progress=say,
    )  # fmt: skip
    if as_json:
        print_json({"passed": report.passed, "n_open": report.n_open, **dataclasses.asdict(report)})
    else:
        for check in report.checks:
            mark = {True: "ok  ", False: "FAIL", None: "--  "}[check.passed]
            click.echo(f"{mark}  {check.question}: {printable(check.answer, 2000)}")
        doubt = f", but for {report.n_open} that could not be asked here (--)" if report.n_open else ""
        click.echo(f"{f'verified{doubt}' if report.passed else 'NOT VERIFIED'}: {printable(report.model)}")
    sys.exit(0 if report.passed else 1)
