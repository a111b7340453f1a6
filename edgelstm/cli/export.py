"""edgelstm export: checkpoint to ONNX file."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import DEFAULT_MODEL, FAMILY, RUNS_DIR, shipped_dir
from edgelstm.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from edgelstm.contract import Precision
    from edgelstm.exporting.export import Exported


@click.command(epilog="Example: edgelstm export runs/base --precision int8 -o base.int8.onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path), default=Path(RUNS_DIR) / DEFAULT_MODEL)
@click.option(
    "--precision", type=click.Choice(["fp32", "int8", "fp16"]), default="fp32", show_default=True,
    help="int8: a quarter of the size and faster, CPU only. fp16: half the size, for CUDA; a CPU runs it as fp32. "
    "Refused if it costs accuracy.",
)  # fmt: skip
@click.option(
    "--streaming", is_flag=True,
    help="Inputs are rows and the LSTM's state, for streaming in other languages; edgelstm streams every model.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Keep an int8 or fp16 model that would be refused.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="ONNX file.  [default: model.onnx, model.int8.onnx, model.stream.onnx ... in the run folder, or "
    "beside the checkpoint]",
)  # fmt: skip
@data_option
@json_option
def command(
    checkpoint: Path, precision: "Precision", streaming: bool, force: bool, output: Path | None, data_folder: Path,
    as_json: bool,
) -> None:  # fmt: skip
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
    from edgelstm.exporting.export import export
    from edgelstm.training.checkpoint import CHECKPOINT_FILE, load_checkpoint

    source = checkpoint / CHECKPOINT_FILE if checkpoint.is_dir() else checkpoint
    if not source.exists() and str(source) in FAMILY:
        fix = f"name it: edgelstm export {shipped_dir() / source}.safetensors -o {source}.onnx"
        raise CheckpointError(f"{source} is the name of a shipped model, which has been exported", fix=fix)
    suffix = (".stream" if streaming else "") + ("" if precision == "fp32" else f".{precision}") + ".onnx"
    loaded, digits = load_checkpoint(source), evaluation_digits(data_folder)
    config, fit = loaded.config, digits.fits(loaded.config)
    if precision != "fp32":
        if not fit:
            raise DataError(
                f"{precision} is judged by its accuracy, and no data here has this model's shape",
                found=f"a model of {config.rows} rows x {config.cols} columns and {config.n_classes} classes",
                expected="MNIST's 28 x 28 and 10", fix="export fp32",
            )  # fmt: skip
        say(f"comparing {precision} with fp32 on {len(digits):,} digits ({digits.source})")
    validation = validation_digits(data_folder) if fit and find_mnist(data_folder) else None
    if validation:
        say("choosing the rule for early exit on the validation images")
    done = export(
        loaded, output or source.with_suffix(suffix), precision, streaming=streaming,
        evaluation=digits if fit else None, validation=validation, force=force,
    )  # fmt: skip
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    _print(done)
    say(f"next: edgelstm verify {done.path}")


def _print(done: "Exported") -> None:
    parity, tradeoff, early = done.parity, done.tradeoff, done.early
    lines = {"wrote": f"{done.path} ({done.n_bytes:,} bytes)", "operators": " ".join(done.operators)}
    if tradeoff is None:
        lines["parity"] = (
            f"{parity.n_same}/{parity.n} same decisions on random pixels, "
            f"largest difference {parity.max_difference:.1e}"
        )
    else:
        test, speed = tradeoff.mcnemar, tradeoff.speed
        lines["fp32"] = str(tradeoff.fp32)
        lines[tradeoff.precision] = (
            f"{tradeoff.reduced}: {test.n_lost} lost, {test.n_won} won, McNemar p = {test.p_value:.2g}; "
            f"{parity.n_same:,}/{parity.n:,} same decisions"
        )
        interval = f"{speed.low or float('nan'):.2f} {speed.high or float('nan'):.2f}"
        lines["speed"] = (
            f"{speed.value:.2f} times the time of fp32 for one picture [{interval}], one thread, this machine"
        )
        lines["provider"] = _PROVIDERS[tradeoff.precision]
    if early and early.mean_rows is not None:
        rows = f"{early.mean_rows:.1f} rows on the validation images and their shifts by a pixel"
        lines["early exit"] = f"a {early}: {rows}, {early.validation}"
    for name, value in lines.items():
        click.echo(f"{name:<11} {value}")


_PROVIDERS = {
    "int8": "CPU only: onnxruntime's CUDA provider has no int8 LSTM",
    "fp16": "CUDA computes in float16; the CPU provider has no fp16 LSTM, widens the weights once and runs in float32",
}
