"""edgelstm bench"""

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say

if TYPE_CHECKING:
    from edgelstm.bench import Contestant
    from edgelstm.runtime import OrtRunner, Provider, SessionSettings


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
@data_option
@json_option
def command(
    models: tuple[str, ...],
    providers: "tuple[Provider, ...]",
    batch_sizes: tuple[int, ...],
    threads: int,
    seconds: float,
    with_torch: bool,
    data_folder: Path,
    as_json: bool,
) -> None:
    """Measure accuracy, latency and size side by side.

    MODELS are ONNX files, run folders or shipped models' names (default: runs/base if it is there, else
    the shipped base model). Accuracy is on all 10,000 MNIST test images, or on the shipped sample of
    1,000 if MNIST is not on this machine. The models run in turn within each round, so that a noisy
    machine hurts all alike; compare the figures of one run only.
    """
    from edgelstm.bench import bench
    from edgelstm.data import evaluation_digits
    from edgelstm.report import bench_text
    from edgelstm.runtime import SessionSettings, default_model

    models = models or (default_model(),)
    digits = evaluation_digits(data_folder)
    say(f"measuring {', '.join(models)} with {len(digits):,} digits ({digits.source}), {threads} thread(s)")
    settings = SessionSettings(threads=threads)
    contestants: list[Contestant] = []
    for model in models:
        contestants += _contestants(model, providers, settings, with_torch)
    report = bench(contestants, digits, batch_sizes=batch_sizes, seconds=seconds, on_progress=say)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        click.echo(bench_text(report))


def _contestants(
    model: str, providers: "tuple[Provider, ...]", settings: "SessionSettings", with_torch: bool
) -> "list[Contestant]":
    """One for each provider that differs, and one for torch if it and the checkpoint are there."""
    from edgelstm.runtime import OrtRunner, checkpoint_beside, find_model

    path = find_model(model)
    contestants: list[Contestant] = []
    used = set()
    for provider in providers:
        runner = OrtRunner(path, provider=provider, settings=settings)
        if runner.provider_note:
            say(f"{model}: {runner.provider_note}")
        if runner.provider_used not in used:
            used.add(runner.provider_used)
            contestants.append(_ort_contestant(f"{model} {runner.provider_used}", path, runner))
    checkpoint = checkpoint_beside(path)
    if with_torch and checkpoint.is_file() and importlib.util.find_spec("torch"):
        contestants.append(_torch_contestant(model, checkpoint, settings.threads))
    return contestants


def _ort_contestant(name: str, path: Path, runner: "OrtRunner") -> "Contestant":
    from edgelstm.bench import Contestant
    from edgelstm.runtime import OrtRunner

    provider, settings = runner.provider_requested, runner.settings
    return Contestant(
        name=name,
        load=lambda: OrtRunner(path, provider=provider, settings=settings),
        provider_requested=provider,
        precision=runner.contract.precision,
        n_parameters=runner.contract.config.n_parameters,
        file_bytes=runner.n_bytes,
        threads=settings.threads,
    )


def _torch_contestant(model: str, path: Path, threads: int) -> "Contestant":
    import torch  # noqa: TID251 - only when it is there: torch is one of the contestants

    from edgelstm.bench import Contestant
    from edgelstm.training.checkpoint import load_checkpoint
    from edgelstm.training.model import TorchRunner

    torch.set_num_threads(threads)
    return Contestant(
        name=f"{model} torch",
        load=lambda: TorchRunner(load_checkpoint(path).model()),
        provider_requested="torch",
        precision="fp32",
        n_parameters=load_checkpoint(path).config.n_parameters,
        file_bytes=path.stat().st_size,
        threads=threads,
    )
