"""Measure models side by side: python -m edgelstm bench base small"""

import dataclasses
import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, plot_file, print_json, say
from edgelstm.config import n_cores
from edgelstm.errors import CheckpointError, printable

if TYPE_CHECKING:
    from edgelstm.measure.bench import Contestant
    from edgelstm.onnx_file import ModelFile
    from edgelstm.runtime.session import Provider
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
    "--provider", "providers", type=click.Choice(["auto", "cpu", "cuda"]), multiple=True,
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
    providers: "tuple[Provider, ...]",
    batch_sizes: tuple[int, ...],
    threads: int,
    seconds: float,
    with_torch: bool,
    streaming: bool,
    sweep: bool,
    plot: Path | None,
    html: Path | None,
    data_folder: Path,
    as_json: bool,
) -> None:
    """Measure accuracy, latency and size side by side.

    MODELS are ONNX files, run folders or shipped models' names (default: runs/base if it is there, else
    the shipped base model). Accuracy is on all 10,000 MNIST test images, or on the shipped sample of
    1,000 if MNIST is not on this machine. The models run in turn within each round, so that a noisy
    machine hurts all alike; compare the figures of one run only.
    """
    from edgelstm.data.mnist import evaluation_digits
    from edgelstm.files import write_bytes
    from edgelstm.measure.bench import advice, bench
    from edgelstm.onnx_file import default_model, open_model
    from edgelstm.runtime.session import has_nvidia_driver
    from edgelstm.show.plots import bench_plot, format_of, new_figure
    from edgelstm.show.tables import bench_html, bench_text

    if plot or html:
        new_figure(1, 1)  # raises before minutes of measuring, not after, if there is no matplotlib
    models = models or (default_model(),)
    providers = tuple(dict.fromkeys(providers)) or (("cpu", "auto") if has_nvidia_driver() else ("cpu",))
    thread_counts = sorted({1, n_cores()}) if sweep else [threads]
    if sweep:
        batch_sizes, with_torch = SWEEP, False
    files = {model: open_model(model) for model in models}
    digits = evaluation_digits(data_folder)
    say(f"measuring {', '.join(map(printable, models))} with {len(digits):,} digits ({digits.source})")
    contestants = [
        contestant
        for model, file in files.items()
        for count in thread_counts
        for contestant in _contestants(printable(model), file, providers, count, with_torch, streaming)
    ]
    report = bench(contestants, digits, batch_sizes=batch_sizes, seconds=seconds, with_machine=True, on_progress=say)
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


def _contestants(
    name: str, file: "ModelFile", providers: "tuple[Provider, ...]", threads: int, with_torch: bool, streaming: bool
) -> "list[Contestant]":
    """One for each provider, and one for torch if it and the checkpoint are there."""
    from edgelstm.measure.bench import Contestant
    from edgelstm.onnx_file import checkpoint_beside
    from edgelstm.runtime.runner import OrtRunner
    from edgelstm.runtime.session import SessionSettings
    from edgelstm.runtime.stream import Stream

    contract, settings = file.contract, SessionSettings(threads=threads)
    known = partial(Contestant, name=name, precision=contract.precision, config=contract.config, threads=threads)

    def stream(n_streams: int) -> Stream:
        return Stream(file, n_streams=n_streams, settings=settings)

    contestants = [
        known(
            load=partial(OrtRunner, file, provider=provider, settings=settings), provider_requested=provider,
            file_bytes=file.n_bytes, stream=stream if streaming and provider == "cpu" else None,
        )
        for provider in providers
    ]  # fmt: skip
    checkpoint = checkpoint_beside(file.path) if file.path else None
    shared = contract.precision != "fp32"  # its checkpoint is measured with the fp32 model
    if with_torch and not shared and checkpoint and checkpoint.is_file() and importlib.util.find_spec("torch"):
        load = partial(_load_torch, checkpoint, contract.weights_sha256, threads)
        contestants.append(known(load=load, provider_requested="torch", file_bytes=checkpoint.stat().st_size))
    return contestants


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
