"""`edgelstm train`: a model from its data, with progress on stderr and the scores on stdout."""

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelstm.cli import EXIT_INTERRUPTED
from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import DEFAULT_MODEL, DEFAULT_RECIPE, FAMILY, RECIPES, RUNS_DIR, TRAIN_RANGES, recipe_for
from edgelstm.errors import CheckpointError, printable

if TYPE_CHECKING:
    from edgelstm.training.run import Event, RunEnd
    from edgelstm.training.state import RunPlan

_PATH = click.Path(path_type=Path)
_SIZE = click.IntRange(1)


@click.command(epilog="Example: edgelstm train base --recipe best --seed 1 -o runs/base-1")
@click.argument("model", type=click.Choice([*FAMILY]), default=DEFAULT_MODEL)
@click.option("--recipe", type=click.Choice([*RECIPES]), default=DEFAULT_RECIPE, show_default=True,
    help="tutorial: the classic exercise. fast: about a minute. best: the shipped models. "
    "early: for deciding before the last row.")  # fmt: skip
@click.option("--hidden-size", type=_SIZE, help="LSTM units.  [default: the model's]")
@click.option("--rows-per-step", type=_SIZE, help="Rows read at each step; divides 28.  [default: the model's]")
@click.option("--layers", "n_layers", type=_SIZE, help="LSTM layers.  [default: the model's]")
@click.option("--teacher", "teachers", type=_PATH, multiple=True, metavar="FILE",
    help="Learn from this model's logits instead of the labels; a checkpoint, a run folder or an ONNX file. "
    "Several teach their mean.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(*TRAIN_RANGES["epochs"]),
    help="Passes over the training images.  [default: the recipe's]")  # fmt: skip
@click.option("--seed", type=click.IntRange(*TRAIN_RANGES["seed"]), default=0, show_default=True,
    help="Fixes everything random.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="Where to train.")  # fmt: skip
@click.option("--bf16", is_flag=True, help="Multiply in bfloat16: faster on CPUs that have it, a little less exact.")
@click.option("--threads", type=click.IntRange(*TRAIN_RANGES["threads"]),
    help="CPU threads; they are part of what fixes the bits.  [default: all]")  # fmt: skip
@data_option
@click.option("-o", "--output", type=_PATH, help="Run folder.  [default: runs/MODEL]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run folder.")
@click.option("--overwrite", is_flag=True, help="Train anew in a folder that already holds a run.")
@click.option("--steps", "show_steps", is_flag=True, help="Print loss and accuracy every 10 steps.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, model: str, recipe: str, teachers: tuple[Path, ...], epochs: int | None, seed: int,
    device: str, bf16: bool, threads: int | None, data_folder: Path, output: Path | None, resume: bool, overwrite: bool,
    show_steps: bool, as_json: bool, **sizes: Any,
) -> None:  # fmt: skip
    """Train a model on MNIST, with progress, checkpoints and a TensorBoard log.

    MNIST is fetched into the data folder if it is not there. After every epoch the run folder holds
    model.safetensors (the weights, ready for export), state.safetensors (to go on with --resume),
    log.jsonl and tensorboard/. Ctrl-C leaves them as of the last epoch.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    try:
        # the sizes go by their names in ModelConfig; None is one that was not given
        config = dataclasses.replace(FAMILY[model], **{name: size for name, size in sizes.items() if size})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from edgelstm.data.mnist import check_folder, ensure_mnist
    from edgelstm.training import run
    from edgelstm.training.state import RunPlan

    named = _given(ctx, "data_folder")
    if named:
        check_folder(data_folder)
    folder = output or Path(RUNS_DIR) / model
    if resume:
        plan, events = run.resume_run(folder, data_folder, device, teachers=teachers)
        _check_same_run(ctx, folder, plan)
    else:
        train = dataclasses.replace(recipe_for(model, recipe), seed=seed, threads=threads, bf16=bf16)
        if epochs:
            train = dataclasses.replace(train, epochs=epochs, n_samples=None)
        plan = RunPlan(model, config, train)
        events = run.begin_run(plan, folder, data_folder, device, teachers=teachers, overwrite=overwrite)
    ensure_mnist(data_folder if named else None, say)  # after all that can be refused at once
    say(
        f"{printable(plan.name)}: {plan.config.n_parameters:,} parameters, recipe {plan.train.recipe}, "
        f"seed {plan.train.seed} -> {printable(folder)}"
    )
    go_on = ["edgelstm", "train", "--resume", "-o", folder]
    go_on += ["--data", data_folder] if named else []
    go_on += [part for teacher in teachers for part in ("--teacher", teacher)]
    end = _show(events, folder, shlex.join(map(str, go_on)), show_steps or plan.train.recipe == "tutorial")
    if as_json:
        print_json({"folder": folder, "plan": dataclasses.asdict(plan), **dataclasses.asdict(end)})
        return
    if end.train:
        click.echo(f"training    {end.train}, in the last epoch")
    click.echo(f"validation  {end.validation}")
    click.echo(f"test        {end.test}, first 128: {end.first_test}")
    click.echo(f"wrote       {printable(end.model_file)}")
    say(f"next: edgelstm export {shlex.quote(str(folder))}")


def _given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _check_same_run(ctx: click.Context, folder: Path, plan: "RunPlan") -> None:
    """What the user asked for by name must be what the folder holds; the teachers are compared by their content."""
    held = {"model": plan.name} | dataclasses.asdict(plan.config) | dataclasses.asdict(plan.train)
    del held["teachers"]
    for name, asked in ctx.params.items():
        if name in held and _given(ctx, name) and asked != held[name]:
            what, found = f"cannot resume: {printable(folder)} holds another run", f"{name} {held[name]}"
            fix = "leave the option out, or choose another folder with -o"
            raise CheckpointError(what, found=found, expected=asked, fix=fix)


class _Progress:
    """Lines on stderr; below them a bar, if that is a terminal."""

    def __init__(self, show_steps: bool) -> None:
        self.epochs_done = 0
        self._show_steps, self._steps_before = show_steps, 0
        self._bar: click._termui_impl.ProgressBar[Any] | None = None

    def show(self, event: "Event") -> None:
        from edgelstm.training.busy import BusyMachine
        from edgelstm.training.fit import EpochResult, StepResult
        from edgelstm.training.run import RunStart

        if isinstance(event, RunStart):
            self.epochs_done, self._steps_before = event.epochs_done, event.steps_done
            began = f"going on after epoch {event.epochs_done}" if event.epochs_done else "training"
            self.say(
                f"{began}: {event.n_fitting:,} images, {event.n_steps:,} steps in all, "
                f"{event.device}, {event.threads} threads"
            )
            n_steps = event.n_steps - event.steps_done
            if n_steps and sys.stderr and sys.stderr.isatty():
                self._bar = click.progressbar(length=n_steps, show_pos=True, file=sys.stderr, item_show_func=str)
        elif isinstance(event, StepResult):
            text = f"loss {event.loss:.4f}  accuracy {event.train.accuracy:.3f}"
            if self._show_steps:
                self.say(f"step {event.step:>5}  {text}")
            if self._bar is not None:
                self._bar.update(event.step - self._steps_before - self._bar.pos, f"epoch {event.epoch}  {text}")
        elif isinstance(event, EpochResult):
            self.epochs_done = event.epoch
            self.say(
                f"epoch {event.epoch:>3}  loss {event.loss:.4f}  train {100 * event.train.accuracy:.2f} %  "
                f"validation {event.validation}  {event.images_per_s:,.0f} images/s"
            )
        elif isinstance(event, BusyMachine):
            self.say(
                f"the machine is busy: in {event.seconds:.0f} s of training its {event.threads} threads had cores "
                f"{100 * event.share:.0f} % of the time, and each step waits for the last of them; "
                f"--threads {event.suggested} is probably faster"
            )

    def say(self, line: str) -> None:
        self.clear()
        say(line)

    def clear(self) -> None:
        """Take the bar away until the next step, and show the cursor, which click hides."""
        if self._bar is not None:
            click.echo("\r\x1b[K\x1b[?25h", err=True, nl=False)


def _show(events: "Iterator[Event]", folder: Path, go_on: str, show_steps: bool) -> "RunEnd":
    """Show the progress on stderr until the run ends; Ctrl-C names the last checkpoint and exits 130."""
    from edgelstm.training.run import RunEnd

    progress, event = _Progress(show_steps), None
    try:
        for event in events:
            progress.show(event)
    except KeyboardInterrupt:
        line, epochs = "interrupted before the first checkpoint", progress.epochs_done
        if epochs:
            line = f"interrupted; {printable(folder)} holds the checkpoint of epoch {epochs}. Go on with: {go_on}"
        progress.say(line)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        progress.clear()
    assert isinstance(event, RunEnd), "a run ends with RunEnd or an exception"
    return event
