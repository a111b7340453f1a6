"""What the network saw of a picture, row by row, as text or drawn: python -m edgelstm explain digit.png"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import json_option, model_option, model_to_use, plot_file, print_json, read_stdin, say
from edgelstm.cli.output import drawing
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.show.explain import Explanation


@click.command(epilog="Example: edgelstm explain digit.png -o why.png")
@click.argument("image")
@model_option
@click.option("-o", "--output", callback=plot_file, metavar="FILE", help="Draw it into this PNG or SVG file.")
@json_option
def command(image: str, model: str | None, output: Path | None, as_json: bool) -> None:
    """Show what the network saw of a picture, row by row.

    IMAGE is a picture file, or - for a picture on standard input. After each row that the network reads
    comes the class that would be its answer if the picture ended there, with its probability, and the row
    at which the answer settled. The network was trained on whole pictures, so its early guesses are only
    that.
    """
    from edgelstm.data.picture import MAX_FILE_BYTES
    from edgelstm.files import write_bytes
    from edgelstm.show.explain import explain, explanation_plot
    from edgelstm.show.plots import format_of, new_figure

    if output:
        new_figure(1, 1)  # raises now if there is no matplotlib
    explanation = explain(read_stdin(MAX_FILE_BYTES) if image == "-" else image, model_to_use(model))
    if output:
        write_bytes(output, explanation_plot(explanation, format_of(output)))
    if as_json:
        print_json(explanation.to_json())
    else:
        click.echo("\n".join(_lines(explanation)))
    if output:
        say(f"wrote {printable(output)}")


def _lines(explanation: "Explanation") -> list[str]:
    """The answer, then a line a row: its ink, and the best class where a step ends."""
    prediction, names, leaders = explanation.prediction, explanation.class_names, explanation.leaders
    best = [
        f"{printable(names[leader])}  {100 * shares[leader]:5.1f} %"
        for leader, shares in zip(leaders, explanation.probabilities, strict=True)
    ]
    rows = drawing(prediction).split("\n")
    width = max(len("input"), *map(len, rows))
    lines = [
        f"{printable(prediction.source)}  {printable(names[leaders[-1]])}  "
        f"{100 * explanation.probabilities[-1].max():.1f} %, settled at row {explanation.settled_at_row} of "
        f"{explanation.n_rows}" + (f"  ({prediction.note})" if prediction.note else ""),
        f"row  {'input':<{width}}  best",
    ]
    for number, row in enumerate(rows, start=1):
        step, left = divmod(number, explanation.rows_per_step)
        settled = "  settled" if number == explanation.settled_at_row else ""
        lines.append(f"{number:>3}  {row:<{width}}  {'' if left else best[step - 1] + settled}".rstrip())
    return lines
