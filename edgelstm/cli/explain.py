"""What the network saw of an input, row by row, as text or drawn: python -m edgelstm explain digit.png"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import (
    cpu_provider_option,
    json_option,
    model_option,
    model_to_use,
    plot_file,
    print_json,
    read_stdin,
    say,
)
from edgelstm.cli.output import drawing
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.runtime.runner import AnyProvider
    from edgelstm.show.explain import Explanation


@click.command(epilog="Example: edgelstm explain digit.png -o why.png")
@click.argument("source", metavar="INPUT")
@model_option
@cpu_provider_option
@click.option("--channels-first", is_flag=True, help="Values lie as (columns, rows): a channel a line.")
@click.option("-o", "--output", callback=plot_file, metavar="FILE", help="Draw it into this PNG or SVG file.")
@json_option
def command(
    source: str, model: str | None, provider: "AnyProvider", channels_first: bool, output: Path | None, as_json: bool
) -> None:
    """Show what the network saw of a picture or a sequence of values, row by row.

    INPUT is a picture, for a model of values a .csv or .npy file, or - for one of these on standard input. After
    each row that the network reads comes the class that would be its answer if the input ended there, with its
    probability, and the row at which the answer settled. The network was trained on whole inputs, so its early
    guesses are only that. Of a long sequence every so many rows are printed; --json and the drawing have all.
    """
    from edgelstm.data.picture import MAX_FILE_BYTES
    from edgelstm.files import write_bytes
    from edgelstm.show.explain import explain, explanation_plot
    from edgelstm.show.plots import format_of, new_figure

    if output:
        new_figure(1, 1)  # raises now if there is no matplotlib
    explanation = explain(
        read_stdin(MAX_FILE_BYTES) if source == "-" else source, model_to_use(model), provider=provider,
        channels_first=channels_first,
    )  # fmt: skip
    if output:
        write_bytes(output, explanation_plot(explanation, format_of(output)))
    if as_json:
        print_json(explanation.to_json())
    else:
        click.echo("\n".join(_lines(explanation)))
    if output:
        say(f"wrote {printable(output)}")


MAX_LINES, MAX_COLUMNS = 40, 8
"""Rows and columns of values that are printed."""


def _rows_of(explanation: "Explanation") -> list[str]:
    """Each row of the input as text."""
    sequence = explanation.prediction.sequence
    assert sequence is not None, "an explanation is of an input that could be read"
    if not explanation.is_values:
        return drawing(explanation.prediction).split("\n")
    more = "  ..." if sequence.shape[1] > MAX_COLUMNS else ""
    return ["".join(f"{value:>10.4g}" for value in row[:MAX_COLUMNS]) + more for row in sequence.tolist()]


def _lines(explanation: "Explanation") -> list[str]:
    """The answer, then a line a row: its ink or values, and the best class where a step ends."""
    prediction, names, leaders = explanation.prediction, explanation.class_names, explanation.leaders
    best = [
        f"{printable(names[leader])}  {100 * shares[leader]:5.1f} %"
        for leader, shares in zip(leaders, explanation.probabilities, strict=True)
    ]
    rows, settled_at = _rows_of(explanation), explanation.settled_at_row
    width, digits = max(len("input"), *map(len, rows)), max(3, len(str(len(rows))))
    lines = [
        f"{printable(prediction.source)}  {printable(names[leaders[-1]])}  "
        f"{100 * (prediction.confidence or 0):.1f} %, settled at row {settled_at} of "
        f"{explanation.n_rows}" + (f"  ({prediction.note})" if prediction.note else ""),
        f"{'row':<{digits}}  {'input':<{width}}  best",
    ]
    # of values steps so many rows apart that they fit; of a picture every row
    step = explanation.rows_per_step
    apart = -(-len(rows) // (MAX_LINES * step)) * step if explanation.is_values else 1
    for number, row in enumerate(rows, start=1):
        if number % apart and number not in (len(rows), settled_at):
            continue
        settled = "  settled" if number == settled_at else ""
        answer = "" if number % step else best[number // step - 1] + settled
        lines.append(f"{number:>{digits}}  {row:<{width}}  {answer}".rstrip())
    return lines
