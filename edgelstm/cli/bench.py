"""Measure models side by side: python -m edgelstm bench base small"""

import dataclasses
import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import PROVIDERS, data_option, json_option, plot_file, print_json, say
from edgelstm.config import n_cores
from edgelstm.errors import CheckpointError, printable

if TYPE_CHECKING:
    from edgelstm.data.dataset import Part
    from edgelstm.measure.bench import Contestant
    from edgelstm.onnx_file import ModelFile
    from edgelstm.runtime.runner import AnyProvider
    from edgelstm.training.model import TorchRunner


SWEEP = tuple(2**power for power in range(11))
"""Batch sizes of --sweep."""
MAX_BATCH = 65_536
"""Images of one call; 51 MB of pixels."""


def _finite(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):  # nan slips through every range
        raise click.BadParameter(f"{value} is not a number of seconds")
    return value


@click.command(epilog="Example: edgelstm bench base runs/base --batch-size 1 --batch-size 64 --threads 2")
@click.argument("models", nargs=-1)
@click.option(
    "--provider", "providers", type=click.Choice(PROVIDERS), multiple=True,
    show_default="cpu, and auto where there is an NVIDIA driver",
    help="Execution provider to measure; may be given several times.",
)  # fmt: skip
@click.option(
    "--batch-size", "batch_sizes", type=click.IntRange(1, MAX_BATCH), multiple=True, default=[1, 64, 1000],
    show_default=True, help="Images of one call; may be given several times.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each model.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), callback=_finite, default=10.0, show_default=True,
    help="Measuring time.",
)  # fmt: skip
@click.option(
    "--torch/--no-torch", "with_torch", default=True, show_default=True,
    help="Measure the checkpoint in torch too, where torch and the checkpoint are there.",
)  # fmt: skip
@click.option("--streaming", is_flag=True, help="Time one step of each model's stream on the CPU, too.")
@click.option(
    "--sweep", is_flag=True, help="Batches from 1 to 1024 with one thread and with all cores; ends in advice."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), callback=plot_file, help="Draw the figures into this PNG or SVG."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a self-contained report.")
@data_option
@json_option
def command(
    models: tuple[str, ...],
    providers: "tuple[AnyProvider, ...]",
    batch_sizes: tuple[int, ...],
    threads: int,
    seconds: float,
    with_torch: bool,
    streaming: bool,
    sweep: bool,
    plot: Path | None,
    html: Path | None,
    data: str | None,
    channels_first: bool,
    as_json: bool,
) -> None:
    """Measure accuracy, latency and size side by side.

    MODELS are ONNX files, run folders or shipped models' names (default: runs/base if it is there, else
    the shipped base model). Accuracy is on the test part of the data: of MNIST all 10,000 images, or the shipped
    sample of 1,000 if MNIST is not on this machine. The models run in turn within each round, so that a noisy
    machine hurts all alike; compare the figures of one run only.
    """
    from edgelstm.files import write_bytes
    from edgelstm.measure.bench import advice, bench
    from edgelstm.onnx_file import default_model
    from edgelstm.show.plots import bench_plot, format_of, new_figure
    from edgelstm.show.tables import bench_html, bench_text

    if plot or html:
        new_figure(1, 1)  # raises before minutes of measuring, not after, if there is no matplotlib
    models = models or (default_model(),)
    thread_counts = sorted({1, n_cores()}) if sweep else [threads]
    report = bench(
        models, data=data, channels_first=channels_first, providers=providers,
        batch_sizes=SWEEP if sweep else batch_sizes, threads=thread_counts, seconds=seconds, streaming=streaming,
        with_torch=None if sweep or not with_torch else partial(_torch_contestant, threads=threads), on_progress=say,
    )  # fmt: skip
    notes = [*advice(report), *map(_settings_to_copy, thread_counts)] if sweep else []
    if as_json:
        print_json({**dataclasses.asdict(report), "advice": notes})
    else:
        click.echo("\n\n".join([bench_text(report), *(["advice\n" + "\n".join(notes)] if notes else [])]))
    if plot:
        write_bytes(plot, bench_plot(report, format_of(plot)))
        say(f"wrote {printable(plot)}")
    if html:
        write_bytes(html, bench_html(report, bench_plot(report, "svg").decode(), notes).encode())
        say(f"wrote {printable(html)}")


def _settings_to_copy(threads: int) -> str:
    """The session settings behind the figures, as Python to copy."""
    return (
        f"SessionSettings(threads={threads}): intra_op_num_threads={threads}, inter_op_num_threads=1, ORT_SEQUENTIAL, "
        "session.intra_op.allow_spinning=0"
    )


def _torch_contestant(file: "ModelFile", name: str, data: "Part | None", threads: int) -> "Contestant | None":
    """The checkpoint beside a model file in torch, if both are there."""
    from edgelstm.measure.bench import Contestant
    from edgelstm.onnx_file import checkpoint_beside

    contract = file.contract
    checkpoint = checkpoint_beside(file.path) if file.path else None
    shared = contract.precision != "fp32"  # its checkpoint is measured with the fp32 model
    if shared or not checkpoint or not checkpoint.is_file() or not importlib.util.find_spec("torch"):
        return None
    load = partial(_load_torch, checkpoint, contract.weights_sha256, threads)
    n_bytes = checkpoint.stat().st_size
    return Contestant(name, load, "torch", contract.precision, contract.config, n_bytes, threads, data=data)


def _load_torch(path: Path, weights_sha256: str | None, threads: int) -> "TorchRunner":
    import torch  # noqa: TID251 - only when it is there: torch is one of the contestants

    from edgelstm.training.checkpoint import load_checkpoint
    from edgelstm.training.model import TorchRunner

    checkpoint = load_checkpoint(path)
    if weights_sha256 not in (None, checkpoint.weights_sha256):
        raise CheckpointError(
            f"{printable(path)} holds other weights than the model beside it",
            fix="export it again, or leave torch out with --no-torch",
        )
    torch.set_num_threads(threads)
    return TorchRunner(checkpoint.model())
