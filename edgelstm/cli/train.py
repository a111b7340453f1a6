"""edgelstm train"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import DEFAULT_MODEL, DEFAULT_RECIPE, FAMILY, RECIPES, RUNS_DIR, ModelConfig, recipe_for
from edgelstm.errors import CheckpointError

if TYPE_CHECKING:
    from edgelstm.training.run import Event, RunEnd, RunPlan

EXIT_INTERRUPTED = 130


def _picture(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """The file to draw into; an empty path where only the option was given."""
    if value and not value.endswith((".png", ".svg")):
        raise click.BadParameter(f"found {value}, expected a file that ends in .png or .svg, or nothing behind it")
    return None if value is None else Path(value)


@click.command(epilog="Example: edgelstm train base --recipe best --seed 1 -o runs/base-1")
@click.argument("model", type=click.Choice([*FAMILY]), default=DEFAULT_MODEL)
@click.option(
    "--recipe",
    type=click.Choice([*RECIPES]),
    default=DEFAULT_RECIPE,
    show_default=True,
    help="tutorial: the classic exercise. fast: about a minute. best: the shipped models. "
    "early: for deciding before the last row.",
)
@click.option("--hidden-size", type=click.IntRange(1, 1024), help="LSTM units.  [default: the model's]")
@click.option(
    "--rows-per-step", type=click.IntRange(1), help="Rows read at each step; divides 28.  [default: the model's]"
)
@click.option("--layers", "n_layers", type=click.IntRange(1, 8), help="LSTM layers.  [default: the model's]")
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Learn from this model's logits instead of the labels; a checkpoint, a run folder or an ONNX file. "
    "Several teach their mean.",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.  [default: the recipe's]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Fixes everything random.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option("--bf16", is_flag=True, help="Multiply in bfloat16: faster on CPUs that have it, a little less exact.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; they are part of what fixes the bits.  [default: all]"
)
@data_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: runs/MODEL]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run folder.")
@click.option("--overwrite", is_flag=True, help="Train anew in a folder that already holds a run.")
@click.option("--steps", "show_steps", is_flag=True, help="Print loss and accuracy every 10 steps.")
@click.option(
    "--plot",
    is_flag=False,
    flag_value="",
    callback=_picture,
    metavar="[FILE]",
    help="Draw loss and accuracy at the end, into a PNG or SVG.  [default: curves.png in the run folder]",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    recipe: str,
    hidden_size: int | None,
    rows_per_step: int | None,
    n_layers: int | None,
    teachers: tuple[Path, ...],
    epochs: int | None,
    seed: int,
    device: str,
    bf16: bool,
    threads: int | None,
    data_folder: Path,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    show_steps: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Train a model on MNIST, with progress, checkpoints and a TensorBoard log.

    MNIST is fetched into the data folder if it is not there. After every epoch the run folder holds
    model.safetensors (the weights, ready for export), state.safetensors (to go on with --resume),
    log.jsonl and tensorboard/. Ctrl-C leaves them as of the last epoch.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from edgelstm.data.mnist import ensure_mnist
    from edgelstm.show.figure import new_figure
    from edgelstm.training import run

    if plot:
        new_figure(1, 1)  # raises before hours of training, not after, if there is no matplotlib
    folder = output or Path(RUNS_DIR) / model
    if resume:
        plan, events = run.resume_run(folder, data_folder, device, teachers=teachers)
        _check_same_run(ctx, folder, plan)
    else:
        train = dataclasses.replace(recipe_for(model, recipe), seed=seed, threads=threads, bf16=bf16)
        if epochs:
            train = dataclasses.replace(train, epochs=epochs, n_samples=None)
        plan = run.RunPlan(model, _config(model, hidden_size, rows_per_step, n_layers), train)
        events = run.begin_run(plan, folder, data_folder, device, teachers=teachers, overwrite=overwrite)
    ensure_mnist(data_folder, say)  # after all that can be refused at once
    say(
        f"{plan.name}: {plan.config.n_parameters:,} parameters, recipe {plan.train.recipe}, "
        f"seed {plan.train.seed} -> {folder}"
    )
    end = _show(events, folder, show_steps or plan.train.recipe == "tutorial")
    if plot:
        _draw(folder, plan, plot if plot.name else folder / run.PLOT_FILE)
    if as_json:
        print_json({"folder": folder, "plan": dataclasses.asdict(plan), **dataclasses.asdict(end)})
        return
    if end.train:
        click.echo(f"training    {end.train}, in the last epoch")
    click.echo(f"validation  {end.validation}")
    click.echo(f"test        {end.test}, first 128: {end.first_test}")
    click.echo(f"wrote       {end.model_file}")
    say(f"next: edgelstm export {folder}")


def _draw(folder: Path, plan: "RunPlan", target: Path) -> None:
    from edgelstm.files import write_bytes
    from edgelstm.show.curves import read_log, training_plot
    from edgelstm.show.figure import format_of
    from edgelstm.training.run import LOG_FILE

    title = f"{plan.name}, recipe {plan.train.recipe}, seed {plan.train.seed}"
    write_bytes(target, training_plot(read_log(folder / LOG_FILE), title, format_of(target)))
    say(f"wrote {target}")


def _config(model: str, hidden_size: int | None, rows_per_step: int | None, n_layers: int | None) -> ModelConfig:
    config = FAMILY[model]
    try:
        return dataclasses.replace(
            config,
            hidden_size=hidden_size or config.hidden_size,
            rows_per_step=rows_per_step or config.rows_per_step,
            n_layers=n_layers or config.n_layers,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _check_same_run(ctx: click.Context, folder: Path, plan: "RunPlan") -> None:
    """What the user asked for by name must be what the folder holds."""
    held = {
        "model": plan.name,
        "hidden_size": plan.config.hidden_size,
        "rows_per_step": plan.config.rows_per_step,
        "n_layers": plan.config.n_layers,
        "recipe": plan.train.recipe,
        "epochs": plan.train.epochs,
        "seed": plan.train.seed,
        "threads": plan.train.threads,
        "bf16": plan.train.bf16,
    }
    for name, value in held.items():
        asked = ctx.params[name]
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and asked != value:
            raise CheckpointError(
                f"cannot resume: {folder} holds another run",
                found=f"{name} {value}",
                expected=asked,
                fix="leave the option out, or choose another folder with -o",
            )


def _show(events: "Iterator[Event]", folder: Path, show_steps: bool) -> "RunEnd":
    """Draw the progress on stderr until the run ends; Ctrl-C names the last checkpoint and exits 130."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from edgelstm.training.fit import EpochResult, StepResult
    from edgelstm.training.run import RunEnd, RunStart

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    progress = Progress(
        TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    epochs_done, end = 0, None
    with progress:
        try:
            task = progress.add_task("starting", epoch=1, total=None)
            for event in events:
                if isinstance(event, RunStart):
                    epochs_done = event.epochs_done
                    progress.update(task, total=event.n_steps, epoch=epochs_done + 1)
                    began = f"going on after epoch {epochs_done}" if epochs_done else "training"
                    console.print(
                        f"{began}: {event.n_fitting:,} images, {event.n_steps:,} steps in all, "
                        f"{event.device}, {event.threads} threads"
                    )
                elif isinstance(event, StepResult):
                    text = f"loss {event.loss:.4f}  accuracy {event.train.accuracy:.3f}"
                    progress.update(task, completed=event.step, epoch=event.epoch, description=text)
                    if show_steps:
                        console.print(f"step {event.step:>5}  {text}")
                elif isinstance(event, EpochResult):
                    epochs_done = event.epoch
                    console.print(
                        f"epoch {event.epoch:>3}  loss {event.loss:.4f}  train {100 * event.train.accuracy:.2f} %  "
                        f"validation {event.validation}  {event.images_per_s:,.0f} images/s"
                    )
                elif isinstance(event, RunEnd):
                    end = event
        except KeyboardInterrupt:
            progress.stop()
            if epochs_done:
                say(
                    f"interrupted; {folder} holds the checkpoint of epoch {epochs_done}. "
                    f"Go on with: edgelstm train {folder.name if folder.name in FAMILY else ''} --resume -o {folder}"
                )
            else:
                say("interrupted before the first checkpoint")
            sys.exit(EXIT_INTERRUPTED)
    assert end is not None, "a run ends with RunEnd or an exception"
    return end
