"""edgelstm export: checkpoint to ONNX file."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import DEFAULT_MODEL, RUNS_DIR
from edgelstm.errors import DataError

if TYPE_CHECKING:
    from edgelstm.contract import Precision
    from edgelstm.export.export import Exported


@click.command(epilog="Example: edgelstm export runs/base --precision int8 -o base.int8.onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path), default=Path(RUNS_DIR) / DEFAULT_MODEL)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8", "fp16"]),
    default="fp32",
    show_default=True,
    help="int8: a quarter of the size and faster, CPU only. fp16: half the size, for CUDA; a CPU runs it as fp32. "
    "Refused if it costs accuracy.",
)
@click.option(
    "--streaming",
    is_flag=True,
    help="Inputs are rows and the LSTM's state, for streaming in other languages; edgelstm streams every model.",
)
@click.option("--force", is_flag=True, help="Keep an int8 or fp16 model that would be refused.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="ONNX file.  [default: model.onnx, model.int8.onnx, model.stream.onnx ... in the run folder, or "
    "beside the checkpoint]",
)
@data_option
@json_option
def command(
    checkpoint: Path,
    precision: "Precision",
    streaming: bool,
    force: bool,
    output: Path | None,
    data_folder: Path,
    as_json: bool,
) -> None:
    """Write a checkpoint as ONNX with one real LSTM op per layer.

    CHECKPOINT is a run folder or a .safetensors file (default: runs/base). The file gets its name only
    after every check has passed. fp32: onnxruntime's logits must equal torch's. int8 and fp16: at
    most 0.05 points of accuracy may be lost on the MNIST test images (all 10,000 if they are on this
    machine, else the shipped sample).

    If MNIST is on this machine, its validation images choose the model's rule for early exit (`edgelstm stream
    --early`).
    """
    if force and precision == "fp32":
        raise click.UsageError("--force is for int8 and fp16: fp32 is never written unless it is exact")
    if streaming and precision == "fp16":
        raise click.UsageError("--streaming goes with fp32 or int8: a stream runs on the CPU, which has no fp16 LSTM")
    from edgelstm.data.mnist import evaluation_digits, find_mnist, validation_digits
    from edgelstm.export.export import export, fits
    from edgelstm.training.checkpoint import CHECKPOINT_FILE, load_checkpoint

    source = checkpoint / CHECKPOINT_FILE if checkpoint.is_dir() else checkpoint
    suffix = (".stream" if streaming else "") + ("" if precision == "fp32" else f".{precision}") + ".onnx"
    loaded, digits = load_checkpoint(source), evaluation_digits(data_folder)
    fit, evaluation = fits(digits, loaded.config), None if precision == "fp32" else digits
    if evaluation and not fit:
        raise DataError(
            f"{precision} is judged by its accuracy, and no data here has this model's shape",
            found=f"a model of {loaded.config.rows} rows x {loaded.config.cols} columns and "
            f"{loaded.config.n_classes} classes",
            expected="MNIST's 28 x 28 and 10", fix="export fp32",
        )  # fmt: skip
    if evaluation:
        say(f"comparing {precision} with fp32 on {len(evaluation):,} digits ({evaluation.source})")
    validation = validation_digits(data_folder) if fit and find_mnist(data_folder) else None
    if validation:
        say("choosing the rule for early exit on the validation images")
    done = export(
        loaded, output or source.with_suffix(suffix), precision, streaming=streaming, evaluation=evaluation,
        validation=validation, force=force,
    )  # fmt: skip
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    _print(done)
    say(f"next: edgelstm verify {done.path}")


def _print(done: "Exported") -> None:
    click.echo(f"wrote       {done.path} ({done.n_bytes:,} bytes)")
    click.echo(f"operators   {' '.join(done.operators)}")
    _print_proof(done)
    if done.early and done.early.mean_rows is not None:
        click.echo(
            f"early exit  a {done.early}: {done.early.mean_rows:.1f} rows on the shifted validation images, "
            f"{done.early.validation}"
        )


def _print_proof(done: "Exported") -> None:
    parity, tradeoff = done.parity, done.tradeoff
    if tradeoff is None:
        click.echo(
            f"parity      {parity.n_same}/{parity.n} same decisions on random pixels, "
            f"largest difference {parity.max_difference:.1e}"
        )
        return
    test, speed = tradeoff.mcnemar, tradeoff.speed
    click.echo(f"fp32        {tradeoff.fp32}")
    click.echo(
        f"{tradeoff.precision}        {tradeoff.reduced}: {test.n_lost} lost, {test.n_won} won, "
        f"McNemar p = {test.p_value:.2g}; {parity.n_same:,}/{parity.n:,} same decisions"
    )
    click.echo(
        f"speed       {speed.value:.2f} times the time of fp32 for one picture "
        f"[{speed.low or float('nan'):.2f} {speed.high or float('nan'):.2f}], one thread, this machine"
    )
    click.echo(f"provider    {_PROVIDERS[tradeoff.precision]}")


_PROVIDERS = {
    "int8": "CPU only: onnxruntime's CUDA provider has no int8 LSTM",
    "fp16": "CUDA computes in float16; the CPU provider has no fp16 LSTM, widens the weights once and runs in float32",
}
