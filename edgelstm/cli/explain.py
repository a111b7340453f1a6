"""edgelstm explain"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import json_option, print_json, say
from edgelstm.cli.output import drawing
from edgelstm.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from edgelstm.show.explain import Explanation


@click.command(epilog="Example: edgelstm explain digit.png -o why.png")
@click.argument("image")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="An ONNX file, a run folder, or a shipped model's name.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into this PNG or SVG file."
)
@json_option
def command(image: str, model: str, output: Path | None, as_json: bool) -> None:
    """Show what the network saw of a picture, row by row.

    IMAGE is a picture file, or - for a picture on standard input. After each row that the network reads
    comes the class that would be its answer if the picture ended there, with its probability, and the row
    at which the answer settled. The network was trained on whole pictures, so its early guesses are only
    that.
    """
    from edgelstm.data.picture import MAX_FILE_BYTES
    from edgelstm.files import write_bytes
    from edgelstm.show.explain import explain, explanation_plot
    from edgelstm.show.figure import format_of

    picture: str | bytes = image
    if image == "-":  # one byte too many is refused like a long file, and a closed input like an empty one
        picture = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if sys.stdin else b""
    explanation = explain(picture, model)
    if output:
        write_bytes(output, explanation_plot(explanation, format_of(output)))
    if as_json:
        print_json(explanation.to_json())
    else:
        click.echo("\n".join(_lines(explanation)))
    if output:
        say(f"wrote {output}")


def _lines(explanation: "Explanation") -> list[str]:
    """The answer, then a line a row: its ink, and the best class where a step ends."""
    from edgelstm.data.picture import printable

    prediction, names = explanation.prediction, explanation.class_names
    note = f"  ({prediction.note})" if prediction.note else ""
    rows = drawing(prediction).split("\n")
    width = max(len("input"), *map(len, rows))
    lines = [
        f"{printable(prediction.image)}  {prediction.label}  {100 * explanation.probabilities[-1].max():.1f} %, "
        f"settled at row {explanation.settled_at_row} of {explanation.n_rows}{note}",
        f"row  {'input':<{width}}  best",
    ]
    for number, row in enumerate(rows, start=1):
        step, left = divmod(number, explanation.rows_per_step)
        best = ""
        if not left:
            leader = explanation.leaders[step - 1]
            best = f"{names[leader]}  {100 * explanation.probabilities[step - 1, leader]:5.1f} %"
            best += "  settled" if number == explanation.settled_at_row else ""
        lines.append(f"{number:>3}  {row:<{width}}  {best}".rstrip())
    return lines
