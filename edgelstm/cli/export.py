"""edgelstm export: checkpoint to ONNX file."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import data_option, json_option, print_json, say
from edgelstm.config import DEFAULT_MODEL, RUNS_DIR

if TYPE_CHECKING:
    from edgelstm.contract import Precision
    from edgelstm.exporting.export import Exported


@click.command(epilog="Example: edgelstm export runs/base --precision int8 -o base.int8.onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path), default=Path(RUNS_DIR) / DEFAULT_MODEL)
@click.option(
    "--precision", type=click.Choice(["fp32", "int8", "fp16"]), default="fp32", show_default=True,
    help="int8: about a quarter of the size, CPU only; how fast is measured. fp16: half the size, for CUDA; a CPU "
    "runs it as fp32. Refused if it costs accuracy.",
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
    checkpoint: Path, precision: "Precision", streaming: bool, force: bool, output: Path | None, data: str | None,
    channels_first: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a checkpoint as ONNX with one real LSTM op per layer.

    CHECKPOINT is a run folder or a .safetensors file (default: runs/base). The file gets its name only
    after every check has passed. fp32: onnxruntime's logits must equal torch's. int8 and fp16: at
    most 0.05 points of accuracy may be lost on the test part of the data (of MNIST all 10,000 images if they are on
    this machine, else the shipped sample), or, where it is too small to show that, no more than chance explains.

    The data's validation part chooses the model's rule for early exit (`edgelstm stream --early`), where it has
    at least 500 sequences of one length.
    """
    if force and precision == "fp32":
        raise click.UsageError("--force is for int8 and fp16: fp32 is never written unless it is exact")
    if streaming and precision == "fp16":
        raise click.UsageError("--streaming goes with fp32 or int8: a stream runs on the CPU, which has no fp16 LSTM")
    from edgelstm.exporting.export import export

    done = export(
        checkpoint, output, precision, data=data, channels_first=channels_first, streaming=streaming, force=force,
        on_progress=say,
    )  # fmt: skip
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    _print(done)
    say(f"next: edgelstm verify {done.path}{f' --data {shlex.quote(data)}' if data else ''}")


def _print(done: "Exported") -> None:
    parity, tradeoff, early = done.parity, done.tradeoff, done.early
    lines = {"wrote": f"{done.path} ({done.n_bytes:,} bytes)", "operators": " ".join(done.operators)}
    if tradeoff is None:
        lines["parity"] = (
            f"{parity.n_same}/{parity.n} same decisions on random sequences, "
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
            f"{speed.value:.2f} times the time of fp32 for one sequence [{interval}], one thread, this machine"
        )
        lines["provider"] = _PROVIDERS[tradeoff.precision]
    if early and early.mean_rows is not None:
        rows = f"{early.mean_rows:.1f} rows on the validation sequences"
        lines["early exit"] = f"a {early}: {rows}, {early.validation}"
    for name, value in lines.items():
        click.echo(f"{name:<11} {value}")


_PROVIDERS = {
    "int8": "CPU only: onnxruntime's CUDA provider has no int8 LSTM",
    "fp16": "CUDA computes in float16; the CPU provider has no fp16 LSTM, widens the weights once and runs in float32",
}
