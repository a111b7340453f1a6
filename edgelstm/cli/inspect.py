"""edgelstm inspect: what a model file says of itself, or what a data set holds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import json_option, model_to_use, print_json
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.contract import ModelContract

MAX_LINES = 20
"""Of columns and of classes that are shown."""
PREPARED = {
    "digit": "the digit is found in a picture of any size", "plain": "a picture of any size, fitted as it is",
    "values": "values as they are",
}  # fmt: skip


@click.command(epilog="Example: edgelstm inspect recordings/")
@click.argument("model", required=False, metavar="[MODEL|DATA]")
@click.option(
    "--channels-first", is_flag=True, help="Values in DATA lie as (columns, rows): a channel after the other."
)
@json_option
def command(model: str | None, channels_first: bool, as_json: bool) -> None:
    """Show what a model file says of itself, or what a data set holds.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there,
    else the shipped base model). DATA is what `edgelstm train --data` takes: a folder with a folder for
    each class, an .npz file, a .ts file, or mnist.
    """
    if model is None or not _is_data(model):
        if channels_first:
            raise click.UsageError("--channels-first is for data")
        _inspect_model(model, as_json)
    else:
        _inspect_data(model, channels_first, as_json)


def _is_data(name: str) -> bool:
    from edgelstm.onnx_file import ONNX_FILE, shipped_models

    path = Path(name)
    if path.is_dir() and name not in shipped_models():
        return not (path / ONNX_FILE).exists() and not any(path.glob("*.safetensors"))
    return name == "mnist" or path.suffix.lower() in (".npz", ".ts", ".csv", ".npy")


def _inspect_data(source: str, channels_first: bool, as_json: bool) -> None:
    from edgelstm.cli.options import say
    from edgelstm.data.checks import report
    from edgelstm.data.dataset import open_dataset

    dataset = open_dataset(source, channels_first=channels_first, report=say)
    found = report(dataset)
    statistics = {name: column.tolist() for name, column in vars(found.statistics).items()}
    if as_json:
        print_json({"data": source, **vars(found), "statistics": statistics, "baseline": vars(found.baseline)})
        return
    shortest, median, longest = found.lengths
    click.echo(
        f"{printable(source, 4096)}: {found.description}\n"
        f"split     {printable(found.split)}\nsha256    {found.sha256}\n"
        f"rows      {shortest:,} to {longest:,}, median {median:g}\n"
        f"baseline  {found.baseline} of the test part, if always the largest class were said"
    )
    counts = [[f"{n:,}" for n in part] for part in found.counts.values()]
    _table("class", found.class_names, dict(zip(found.counts, counts, strict=True)))
    numbers = {name: [f"{value:.6g}" for value in column] for name, column in statistics.items()}
    if dataset.preparation == "values":
        _table("column", [str(number + 1) for number in range(len(statistics["mean"]))], numbers)
    for warning in found.warnings:
        click.echo(f"warning: {printable(warning, 1000)}")


def _table(title: str, names: Sequence[str], columns: dict[str, list[str]]) -> None:
    """A line for each name, the first of them if there are many."""
    first = [printable(name, 24) for name in names[:MAX_LINES]]
    width = max(map(len, [title, *first]))
    cells = [[name.rjust(12), *(cell.rjust(12) for cell in column)] for name, column in columns.items()]
    click.echo()
    for name, row in zip([title, *first], zip(*cells, strict=True), strict=False):
        click.echo(name.ljust(width) + "".join(row))
    if len(names) > MAX_LINES:
        click.echo(f"and {len(names) - MAX_LINES:,} more")


def _inspect_model(model: str | None, as_json: bool) -> None:
    from edgelstm.runtime.runner import OrtRunner

    file = model_to_use(model)
    runner = OrtRunner(file, provider="cpu")
    contract, config, graph = file.contract, file.contract.config, file.graph
    if as_json:
        print_json(
            {
                "file": file.path,
                "file_bytes": file.n_bytes,
                "contract": dataclasses.asdict(contract),
                "n_parameters": config.n_parameters,
                "flops_per_image": config.flops,
                "nodes": [{"operator": operator, "provider": provider} for operator, provider in runner.nodes()],
            }
        )
        return
    rule = contract.early
    early = f"a {rule}" if rule else "no rule"
    if rule and rule.mean_rows is not None:
        chosen_by = "sequences" if config.is_values else "images and their shifts by a pixel"
        early += f": {rule.mean_rows:.1f} of {config.rows} rows on the validation {chosen_by}, {rule.validation}"
    form = ", rows and state" if contract.kind == "stream" else ""
    n_steps = f"{config.n_steps:,} steps"
    if config.variable_length:
        n_steps = f"any number of steps (in training at most {config.n_steps:,})"
    lines = {
        "file": f"{file.source} ({file.n_bytes:,} bytes)",
        "contract": f"version {contract.version}{form}, {contract.precision}",
        "input": ", ".join(map(str, graph.inputs)),
        "output": ", ".join(map(str, graph.outputs)),
        "classes": printable(" ".join(config.class_names)),
        "prepared": PREPARED[config.preparation],
        **({"ranges": _ranges(contract)} if contract.ranges else {}),
        "model": f"{contract.name}: {n_steps} of {config.step_size} {'values' if config.is_values else 'pixels'}, "
        f"{config.hidden_size} units, {config.n_layers} layer{'s' if config.n_layers > 1 else ''}",
        "graph": " ".join(operator for operator, _ in runner.nodes()) + "  (as onnxruntime runs it)",
        "parameters": f"{config.n_parameters:,}",
        "flops": f"{config.flops:,} a sequence",
        "recipe": f"{contract.recipe}, seed {contract.seed}",
        "validation": contract.validation or "not recorded",
        "test": contract.test or "not recorded",
        "confidence": f"softmax of the logits / {contract.temperature:.3f}",
        "early exit": early,
        "weights": f"sha256 {contract.weights_sha256}",
        "data": f"sha256 {contract.data_sha256}",
        "versions": ", ".join(f"{name} {version}" for name, version in contract.versions.items()),
    }
    for name, value in lines.items():
        click.echo(f"{name:<11} {printable(str(value), 2000)}")


def _ranges(contract: "ModelContract") -> str:
    """What the columns of values were in training."""
    shown = [f"{number}: {low:.4g} to {high:.4g}" for number, (low, high) in enumerate(contract.ranges[:6], 1)]
    more = len(contract.ranges) - len(shown)
    return f"of the columns in training, {', '.join(shown)}" + (f" and {more:,} more" if more else "")
