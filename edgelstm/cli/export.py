"""edgelstm export"""

import dataclasses
from pathlib import Path

import click

from edgelstm.cli.options import json_option, print_json, say
from edgelstm.config import DEFAULT_MODEL, RUNS_DIR


@click.command(epilog="Example: edgelstm export runs/base -o base.onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path), default=Path(RUNS_DIR) / DEFAULT_MODEL)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="ONNX file.  [default: model.onnx in the run folder, or beside the checkpoint]",
)
@json_option
def command(checkpoint: Path, output: Path | None, as_json: bool) -> None:
    """Write a checkpoint as ONNX with one real LSTM op per layer.

    CHECKPOINT is a run folder or a .safetensors file (default: runs/base). The file gets its name only
    after the graph has passed its gates and onnxruntime's logits equal torch's.
    """
    from edgelstm.training.checkpoint import MODEL_FILE, load_checkpoint
    from edgelstm.training.export import export

    source = checkpoint / MODEL_FILE if checkpoint.is_dir() else checkpoint
    target = output or source.with_suffix(".onnx")
    done = export(load_checkpoint(source), target)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    click.echo(f"wrote       {done.path} ({done.n_bytes:,} bytes)")
    click.echo(f"operators   {' '.join(done.operators)}")
    click.echo(
        f"parity      {done.parity.n_same}/{done.parity.n} same decisions on random pixels, "
        f"largest difference {done.parity.max_difference:.1e}"
    )
    say(f"next: edgelstm verify {done.path}")
