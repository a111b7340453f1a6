"""edgelstm bench"""

import dataclasses
import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import n_cores
from edgelstm.errors import ProviderError

if TYPE_CHECKING:
    from edgelstm.measure.bench import BenchReport, Contestant
    from edgelstm.runtime.runner import OrtRunner, Provider, SessionSettings
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
    "--provider",
    "providers",
    type=click.Choice(["auto", "cpu", "cuda"]),
    multiple=True,
    default=["cpu", "auto"],
    show_default=True,
    help="Execution provider to measure; may be given several times.",
)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1, MAX_BATCH),
    multiple=True,
    default=[1, 64, 1000],
    show_default=True,
    help="Images of one call; may be given several times.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each model.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    callback=_finite,
    default=10.0,
    show_default=True,
    help="Measuring time.",
)
@click.option(
    "--torch/--no-torch",
    "with_torch",
    default=True,
    show_default=True,
    help="Measure the checkpoint in torch too, where torch and the checkpoint are there.",
)
@click.option(
    "--sweep", is_flag=True, help="Batches from 1 to 1024 with one thread and with all cores; ends in advice."
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the figures into this PNG or SVG.")
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
    sweep: bool,
    plot: Path | None,
    html: Path | None,
    data_folder: Path,
    as_json: bool,
) -> None:
    """Measure accuracy, latency and size side by side.

    MODELS are ONNX files, run folders or shipped models' names (default: runs/base if it is there, else
    the shipped base model). Accuracy is on all 10,000 MNIST test images, or on the shipped sample of
    1,000 if MNIST is not on this machine. A streaming model is fed one step a call: its figures are those of
    whole pictures, and of one step alone. The models run in turn within each round, so that a noisy
    machine hurts all alike; compare the figures of one run only.
    """
    from edgelstm.data.mnist import evaluation_digits
    from edgelstm.measure.bench import advice, bench
    from edgelstm.runtime.runner import SessionSettings, default_model
    from edgelstm.show.tables import bench_text

    models = models or (default_model(),)
    digits = evaluation_digits(data_folder)
    thread_counts = sorted({1, n_cores()}) if sweep else [threads]
    if sweep:
        batch_sizes, with_torch = SWEEP, False
    say(f"measuring {', '.join(models)} with {len(digits):,} digits ({digits.source})")
    contestants: list[Contestant] = []
    for model in models:
        for count in thread_counts:
            contestants += _contestants(model, providers, SessionSettings(threads=count), with_torch)
    report = bench(contestants, digits, batch_sizes=batch_sizes, seconds=seconds, with_machine=True, on_progress=say)
    notes = [*advice(report), *_settings_to_copy(contestants)] if sweep else []
    _draw(report, notes, plot, html)
    if as_json:
        print_json({**dataclasses.asdict(report), "advice": notes})
    else:
        click.echo("\n\n".join([bench_text(report), *(["advice\n" + "\n".join(notes)] if notes else [])]))


def _settings_to_copy(contestants: "list[Contestant]") -> list[str]:
    """The session settings behind the figures, as Python to copy."""
    return [
        f"SessionSettings(threads={threads}): intra_op_num_threads={threads}, inter_op_num_threads=1, ORT_SEQUENTIAL, "
        "session.intra_op.allow_spinning=0"
        for threads in sorted({contestant.threads for contestant in contestants})
    ]


def _draw(report: "BenchReport", notes: list[str], plot: Path | None, html: Path | None) -> None:
    if plot is None and html is None:
        return
    from edgelstm.files import write_bytes
    from edgelstm.show.figure import format_of
    from edgelstm.show.plots import bench_plot
    from edgelstm.show.tables import bench_html

    if plot:
        write_bytes(plot, bench_plot(report, format_of(plot)))
        say(f"wrote {plot}")
    if html:
        write_bytes(html, bench_html(report, bench_plot(report, "svg").decode(), notes).encode())
        say(f"wrote {html}")


def _contestants(
    model: str, providers: "tuple[Provider, ...]", settings: "SessionSettings", with_torch: bool
) -> "list[Contestant]":
    """One for each provider that differs, and one for torch if it and the checkpoint are there."""
    from edgelstm.runtime.runner import OrtRunner, checkpoint_beside, find_model, read_model
    from edgelstm.runtime.stream_runner import is_streaming

    path = find_model(model)
    if is_streaming(read_model(path)):
        if "cuda" in providers:
            raise ProviderError(f"{path} reads row by row, which edgelstm does on the CPU only", fix="leave cuda out")
        return [_stream_contestant(f"{model} rows", path, settings)]
    contestants: list[Contestant] = []
    used = set()
    for provider in providers:
        runner = OrtRunner(path, provider=provider, settings=settings)
        if runner.provider_note:
            say(f"{model}: {runner.provider_note}")
        if runner.provider_used not in used:
            used.add(runner.provider_used)
            threads = "" if settings.threads == 1 else f" {settings.threads} threads"
            contestants.append(_ort_contestant(f"{model} {runner.provider_used}{threads}", path, runner))
    checkpoint = checkpoint_beside(path)
    shared = path.name.endswith((".int8.onnx", ".fp16.onnx"))  # its checkpoint is measured with the fp32 model
    if with_torch and not shared and checkpoint.is_file() and importlib.util.find_spec("torch"):
        contestants.append(_torch_contestant(model, checkpoint, settings.threads))
    return contestants


def _ort_contestant(name: str, path: Path, runner: "OrtRunner") -> "Contestant":
    from edgelstm.measure.bench import Contestant
    from edgelstm.runtime.runner import OrtRunner

    provider, settings = runner.provider_requested, runner.settings
    return Contestant(
        name=name,
        load=partial(OrtRunner, path, provider=provider, settings=settings),
        provider_requested=provider,
        precision=runner.contract.precision,
        n_parameters=runner.contract.config.n_parameters,
        file_bytes=runner.n_bytes,
        threads=settings.threads,
        config=runner.contract.config,
    )


def _stream_contestant(name: str, path: Path, settings: "SessionSettings") -> "Contestant":
    from edgelstm.measure.bench import Contestant
    from edgelstm.runtime.stream_runner import StreamRunner

    runner = StreamRunner(path, settings=settings)
    return Contestant(
        name=name,
        load=partial(StreamRunner, path, settings=settings),
        provider_requested="cpu",
        precision=runner.contract.precision,
        n_parameters=runner.contract.config.n_parameters,
        file_bytes=runner.n_bytes,
        threads=settings.threads,
        config=runner.contract.config,
    )


def _torch_contestant(model: str, path: Path, threads: int) -> "Contestant":
    from edgelstm.measure.bench import Contestant
    from edgelstm.training.checkpoint import load_checkpoint

    config = load_checkpoint(path).config
    return Contestant(
        name=f"{model} torch",
        load=partial(_load_torch, path, threads),
        provider_requested="torch",
        precision="fp32",
        n_parameters=config.n_parameters,
        file_bytes=path.stat().st_size,
        threads=threads,
        config=config,
    )


def _load_torch(path: Path, threads: int) -> "TorchRunner":
    import torch  # noqa: TID251 - only when it is there: torch is one of the contestants

    from edgelstm.training.checkpoint import load_checkpoint
    from edgelstm.training.model import TorchRunner

    torch.set_num_threads(threads)
    return TorchRunner(load_checkpoint(path).model())
