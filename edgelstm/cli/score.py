"""`edgelstm score`: read a collection of any size into Parquet files, by all cores or a Ray cluster."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli import EXIT_INTERRUPTED
from edgelstm.cli.options import json_option, model_option, model_to_use, print_json, say

if TYPE_CHECKING:
    from edgelstm.runtime.parts import Counts
    from edgelstm.runtime.scoring import Engine

LINE_EVERY_S = 10
"""Where nobody watches a terminal."""


class _Progress:
    """A line on stderr: how many, how fast, how long still; rewritten on a terminal."""

    def __init__(self) -> None:
        self.counts = ""
        self._on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._start = self._last = time.monotonic()

    def __call__(self, counts: "Counts", n_earlier: int, n: int) -> None:
        now = time.monotonic()
        self.counts = f"{counts.n:,} of {n:,}"
        if counts.n == n_earlier:  # from here on it is timed
            self._start = now
            if n_earlier:
                say(f"{n_earlier:,} of {n:,} were scored by earlier runs")
        elif now - self._last >= (0.2 if self._on_terminal else LINE_EVERY_S) or counts.n == n:
            self._last = now
            rate = (counts.n - n_earlier) / max(now - self._start, 1e-9)
            left_s = round((n - counts.n) / rate)
            left = f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left"
            line = (
                f"scored {self.counts} ({counts.n / n:.0%}), {counts.n_errors:,} errors, {rate:,.0f} a second, {left}"
            )
            click.echo(f"\r\x1b[K{line}" if self._on_terminal else line, err=True, nl=not self._on_terminal)
            if self._on_terminal and counts.n == n:
                click.echo(err=True)


@click.command(epilog="Example: edgelstm score scans/ -o scored")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the Parquet files.")
@model_option
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="local: a process a core; ray: Ray Data, an actor a core.",
)  # fmt: skip
@click.option("--address", help="Ray cluster, for example auto.  [default: RAY_ADDRESS, else one on this machine]")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Inputs that the model runs on at once.",
)
@json_option
def command(
    source: str, output: Path, model: str | None, engine: "Engine", address: str | None, batch_size: int, as_json: bool
) -> None:
    """Read a collection of pictures or sequences of any size into Parquet files.

    SOURCE is a folder (searched with its subfolders for what the model reads), a text file of paths, a line each, or -
    for such lines on standard input; Parquet files, or a folder of them, with a column path, bytes or image; an .npz
    file with an array X; or a URI of any of these (s3://, gs://, hdfs://, file://). Each input becomes a row, in order:
    path, label, index, confidence, note, error, model_sha256. What cannot be read is a row with its error, and the exit
    status is 1. The same command goes on where an earlier one was stopped. On a Ray cluster SOURCE and the output
    folder must lie in storage that all machines share.
    """
    from edgelstm.runtime.scoring import score

    if address and engine != "ray":
        raise click.UsageError("--address is for --engine ray")
    progress = _Progress()
    try:
        scored = score(
            source,
            output,
            model_to_use(model),
            engine=engine,
            batch_size=batch_size,
            address=address,
            progress=progress,
        )
    except KeyboardInterrupt:
        say(f"Stopped: {progress.counts or 'none'} scored; the same command goes on.")
        sys.exit(EXIT_INTERRUPTED)
    counts = scored.counts
    if as_json:
        values = {"source": source, "output": output, "engine": engine, **asdict(counts), **asdict(scored)}
        del values["counts"]
        print_json({**values, "per_second": scored.per_second})
    else:
        earlier = f", {scored.n_earlier:,} of them by earlier runs" if scored.n_earlier else ""
        click.echo(f"scored     {counts.n:,} inputs into {scored.n_parts:,} files in {output}{earlier}")
        click.echo(f"errors     {counts.n_errors:,}")
        click.echo(f"abstained  {counts.n_abstained:,}")
        click.echo(f"time       {scored.seconds:,.1f} s, {scored.per_second:,.0f} a second")
    sys.exit(1 if counts.n_errors else 0)
