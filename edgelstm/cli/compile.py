"""edgelstm compile: a model file as one C99 file with the same bits on every machine."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, model_to_use, print_json, say
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.measure.compile import Compiled
    from edgelstm.native.scheme import Precision


@click.command(epilog="Example: edgelstm compile nano -o digit.c && cc -std=c99 -O3 -march=native -c digit.c")
@click.argument("model", required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.c",
    help="The C file; its header FILE.h comes beside it.  [default: NAME.c]",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True,
    help="int8: 8-bit weights, integer sums, a quarter of the size. fp32: the model file's weights.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="What the C functions' names begin with.  [default: the file's name]")
@click.option("--force", is_flag=True, help="Write int8 although it costs accuracy, or although no data shows what.")
@data_option
@json_option
def command(
    model: str | None, output: Path | None, precision: "Precision", name: str | None, force: bool, data: str | None,
    channels_first: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a model as one C99 file with the same logits everywhere, bit for bit.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there, else the shipped
    base model). The file needs no library, no heap and no operating system; its first lines say how to call it. It
    is written only if at most 0.05 points of accuracy are lost on the test part of the data (of MNIST all 10,000
    images, or the shipped sample of 1,000), or, where that is too small to show it, no more than chance explains.
    """
    from edgelstm.measure.compile import compile as to_c

    done = to_c(
        model_to_use(model), output, precision, name=name, data=data, channels_first=channels_first, force=force,
        on_progress=say,
    )  # fmt: skip
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    _print(done)
    say(f"next: cc -std=c99 -O3 -march=native -c {printable(done.path)}, and #include its header")


def _print(done: "Compiled") -> None:
    header = done.path.with_suffix(".h")
    lines = {"wrote": f"{printable(done.path)} ({done.n_bytes:,} bytes of text) and {printable(header)}"}
    if accuracy := done.accuracy:
        test = accuracy.mcnemar
        lines["accuracy"] = (
            f"{accuracy.c} instead of {accuracy.reference}: {test.n_lost} lost, {test.n_won} won, "
            f"McNemar p = {test.p_value:.2g}; {accuracy.n_same:,}/{accuracy.c.n:,} same decisions"
        )
        if accuracy.n_saturated:
            lines["cut off"] = f"{accuracy.n_saturated:,} of {accuracy.n_values:,} values, 128 deviations from the mean"
        lines["sha256"] = f"{accuracy.logits_sha256} of the logits, on every machine"
    else:
        lines["accuracy"] = "not measured: no data"
    lines["flash"] = f"{done.constant_bytes:,} bytes of constants, and 2 to 3 kB of code"
    lines["RAM"] = f"{done.state_bytes:,} bytes of state, and about {done.stack_bytes:,} of stack in a call"
    if speed := done.speed:
        interval = f"{speed.low or float('nan'):.3f} {speed.high or float('nan'):.3f}"
        lines["speed"] = (
            f"{speed.value:.3f} times the time of onnxruntime for one sequence [{interval}], "
            "both called from Python, one thread, this machine"
        )
    else:
        lines["speed"] = f"not measured: {done.no_speed}"
    for name, value in lines.items():
        click.echo(f"{name:<9} {value}")
