"""`edgelstm train`: a model from its data, with progress on stderr and the scores on stdout."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelstm.cli import EXIT_INTERRUPTED
from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import DEFAULT_RECIPE, FAMILY, RECIPES, TRAIN_RANGES
from edgelstm.errors import CheckpointError, EdgeLstmError, printable

if TYPE_CHECKING:
    from edgelstm.measure.classes import ClassReport
    from edgelstm.training.run import Event, RunEnd
    from edgelstm.training.state import RunPlan
    from edgelstm.training.train import Started

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(1)
MAX_TABLE = 12
"""More classes fit no terminal as a table: only what was confused is named."""


def _size(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,4})[x,](\d{1,4})", value)
    if not found:
        raise click.BadParameter(f"found {printable(value)}, expected ROWSxCOLS, for example 28x28")
    return int(found[1]), int(found[2])


@click.command(epilog="Example: edgelstm train --data gestures/ --recipe best")
@click.argument("model", type=click.Choice([*FAMILY]), required=False)
@click.option("--recipe", type=click.Choice([*RECIPES]), default=DEFAULT_RECIPE, show_default=True,
    help="tutorial: the classic exercise. fast: about a minute. best: the shipped models. "
    "early: for deciding before the last row.")  # fmt: skip
@data_option
@click.option("--size", callback=_size, metavar="ROWSxCOLS",
    help="Pictures are fitted into so many rows and columns.  [default: their own, if all have the same small one, "
    "else 28x28]")  # fmt: skip
@click.option("--preparation", type=click.Choice(["plain", "digit"]),
    help="Pictures as they are, or the digit in them found and centred as MNIST's are.  [default: plain]")  # fmt: skip
@click.option("--hidden-size", type=_COUNT, help="LSTM units.  [default: the model's]")
@click.option("--rows-per-step", type=_COUNT,
    help="Rows read at each step; divides the rows.  [default: the model's, or so that long sequences take 8 to 32 "
    "steps]")  # fmt: skip
@click.option("--layers", "n_layers", type=_COUNT, help="LSTM layers.  [default: the model's]")
@click.option("--teacher", "teachers", type=_PATH, multiple=True, metavar="FILE",
    help="Learn from this model's logits instead of the labels; a checkpoint, a run folder or an ONNX file. "
    "Several teach their mean.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(*TRAIN_RANGES["epochs"]),
    help="How often to look at validation and save.  [default: the recipe's]")  # fmt: skip
@click.option("--seed", type=click.IntRange(*TRAIN_RANGES["seed"]), default=0, show_default=True,
    help="Fixes everything random but the split of the data, which is the same for every seed.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="Where to train.")  # fmt: skip
@click.option("--bf16", is_flag=True, help="Multiply in bfloat16: faster on CPUs that have it, a little less exact.")
@click.option("--threads", type=click.IntRange(*TRAIN_RANGES["threads"]),
    help="CPU threads; they are part of what fixes the bits.  [default: all]")  # fmt: skip
@click.option("--shards", type=click.IntRange(*TRAIN_RANGES["shards"]),
    help="Parts of a batch whose gradients are summed in order; they fix the bits, not the number of processes that "
    "torchrun starts.  [default: as many as processes]")  # fmt: skip
@click.option("-o", "--output", type=_PATH, help="Run folder.  [default: runs/MODEL, or runs/ and the data's name]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run folder.")
@click.option("--overwrite", is_flag=True, help="Train anew in a folder that already holds a run.")
@click.option("--steps", "show_steps", is_flag=True, help="Print loss and accuracy every 10 steps.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, recipe: str, data: str | None, output: Path | None, resume: bool, overwrite: bool,
    show_steps: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a model, on MNIST or on sequences of your own.

    MODEL is base (128 LSTM units; the default for MNIST), small (64; the default for your own data) or nano (32).
    What was understood of --data, and what may mislead, is said before anything starts. MNIST is fetched into the
    user's cache folder if it is not there. After every epoch the run folder holds model.safetensors (the weights,
    ready for export), state.safetensors (to go on with --resume), log.jsonl and tensorboard/. Ctrl-C leaves them as
    of the last epoch.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from edgelstm.training.train import train

    progress = _Progress(ctx, show_steps or recipe == "tutorial", data)
    try:
        done = train(
            data, recipe=recipe, output=output, resume=resume, overwrite=overwrite, on_progress=progress.show, **options
        )
    except ValueError as error:
        if isinstance(error, EdgeLstmError):
            raise
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt:
        progress.say(progress.interrupted())
        sys.exit(EXIT_INTERRUPTED)
    finally:
        progress.clear()
    if not done.is_writer:
        return
    if as_json:
        print_json({"folder": done.folder, "plan": dataclasses.asdict(done.plan), **dataclasses.asdict(done.end)})
        return
    mnist = data in (None, "mnist")
    for name, value in _summary(done.end, mnist).items():
        click.echo(f"{name:<11} {value}")
    if not mnist and len(done.plan.config.class_names) <= MAX_TABLE:
        click.echo(f"\nanswers to the test part\n{_confusion_table(done.end.classes)}")
    to_data = f" --data {shlex.quote(data)}" if data else ""
    to_data += " --channels-first" if options["channels_first"] else ""
    say(f"next: edgelstm export {shlex.quote(str(done.folder))}{to_data}")


def _summary(end: "RunEnd", mnist: bool) -> dict[str, str]:
    """What is printed at the end, by its name."""
    lines = {"training": f"{end.train}, in the last epoch"} if end.train else {}
    lines["validation"] = str(end.validation)
    if mnist:
        return lines | {"test": f"{end.test}, first 128: {end.first_test}", "wrote": printable(end.model_file)}
    low, high = (100 * limit for limit in end.classes.interval)
    lines["test"] = f"{end.test}, 95 % interval {low:.1f} to {high:.1f} %, macro-F1 {end.classes.macro_f1:.3f}"
    lines["baseline"] = f"{end.baseline}, if the largest class were always the answer"
    if end.random_split:
        lines["random"] = f"{end.random_split} on a split that disregards groups: what people it knows would flatter by"
    if len(end.classes.class_names) > MAX_TABLE:
        confused = (f"{printable(one)} for {printable(other)} {n}x" for other, one, n in end.classes.confused()[:8])
        lines["confused"] = ", ".join(confused) or "nothing"
    return lines | {"wrote": printable(end.model_file)}


def _confusion_table(report: "ClassReport") -> str:
    """A line a class: how many of it were taken for which."""
    names = [printable(name)[:12] for name in report.class_names]
    width = max(len("true"), *map(len, names))
    cells = [str(count) for row in report.confusion for count in row]
    wide = max(map(len, names + cells))
    lines = [" ".join([f"{'true':<{width}}", *(f"{name:>{wide}}" for name in names)])]
    for name, row in zip(names, report.confusion, strict=True):
        lines.append(" ".join([f"{name:<{width}}", *(f"{count or '.':>{wide}}" for count in row)]))
    return "\n".join(lines)


def _given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _check_same_run(ctx: click.Context, folder: Path, plan: "RunPlan") -> None:
    """What the user asked for by name must be what the folder holds; the teachers are compared by their content."""
    held = dataclasses.asdict(plan.config) | dataclasses.asdict(plan.train)
    del held["teachers"]
    asked_for = ctx.params["model"]
    if asked_for and plan.name != asked_for:  # a run on own data has the data's name
        sizes = {member.hidden_size: name for name, member in FAMILY.items()}
        held["model"] = plan.name if plan.name in FAMILY else sizes.get(plan.config.hidden_size, asked_for)
    for name, asked in ctx.params.items():
        if name in held and _given(ctx, name) and asked != held[name]:
            what, found = f"cannot resume: {printable(folder)} holds another run", f"{name} {held[name]}"
            fix = "leave the option out, or choose another folder with -o"
            raise CheckpointError(what, found=found, expected=asked, fix=fix)


class _Progress:
    """Lines on stderr; below them a bar, if that is a terminal."""

    def __init__(self, ctx: click.Context, show_steps: bool, data: str | None) -> None:
        self._ctx, self._show_steps, self._data = ctx, show_steps, data
        self._epochs_done = self._steps_before = 0
        self._started: Started | None = None
        self._bar: click._termui_impl.ProgressBar[Any] | None = None

    def show(self, event: "Event | Started | str") -> None:
        from edgelstm.training.busy import BusyMachine
        from edgelstm.training.fit import EpochResult, StepResult
        from edgelstm.training.run import RunStart
        from edgelstm.training.train import Started

        if isinstance(event, str):
            self.say(printable(event, 2000))
        elif isinstance(event, Started):
            self._started = event
            if self._ctx.params["resume"]:
                _check_same_run(self._ctx, event.folder, event.plan)
            plan = event.plan
            stacked = plan.config.rows_per_step
            a_step = f"{stacked} rows a step, " if stacked > 1 and plan.config.preparation != "digit" else ""
            self.say(
                f"{printable(plan.name)}: {plan.config.n_parameters:,} parameters, {a_step}recipe {plan.train.recipe}, "
                f"seed {plan.train.seed} -> {printable(event.folder)}"
            )
        elif isinstance(event, RunStart):
            self._epochs_done, self._steps_before = event.epochs_done, event.steps_done
            began = f"going on after epoch {event.epochs_done}" if event.epochs_done else "training"
            many = ""
            if event.processes * event.shards > 1:
                several = "es" if event.processes > 1 else ""
                many = f", {event.processes} process{several}, {event.shards} shard{'s' if event.shards > 1 else ''}"
            self.say(
                f"{began}: {event.n_fitting:,} sequences, {event.n_steps:,} steps in all, "
                f"{event.device}, {event.threads} thread{'s' if event.threads > 1 else ''}{many}"
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
            self._epochs_done = event.epoch
            self.say(
                f"epoch {event.epoch:>3}  loss {event.loss:.4f}  train {100 * event.train.accuracy:.2f} %  "
                f"validation {event.validation}  {event.images_per_s:,.0f} sequences/s"
            )
        elif isinstance(event, BusyMachine):
            self.say(
                f"the machine is busy: in {event.seconds:.0f} s of training its {event.threads} threads had cores "
                f"{100 * event.share:.0f} % of the time, and each step waits for the last of them; "
                f"--threads {event.suggested} is probably faster"
            )

    def interrupted(self) -> str:
        """What Ctrl-C leaves, and how to go on."""
        if not self._epochs_done or self._started is None:
            return "interrupted before the first checkpoint"
        folder, options = self._started.folder, self._ctx.params
        go_on = ["edgelstm", "train", "--resume", "-o", folder]
        go_on += ["--data", self._data] if self._data else []
        go_on += ["--channels-first"] if options["channels_first"] else []
        go_on += [part for teacher in options["teachers"] for part in ("--teacher", teacher)]
        command = shlex.join(map(str, go_on))
        return (
            f"interrupted; {printable(folder)} holds the checkpoint of epoch {self._epochs_done}. Go on with: {command}"
        )

    def say(self, line: str) -> None:
        self.clear()
        say(line)

    def clear(self) -> None:
        """Take the bar away until the next step, and show the cursor, which click hides."""
        if self._bar is not None:
            click.echo("\r\x1b[K\x1b[?25h", err=True, nl=False)
