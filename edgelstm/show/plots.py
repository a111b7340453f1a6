"""Reports as pictures: latency, throughput, accuracy against latency; accuracy against rows read."""

import io
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgelstm.errors import MissingDependencyError
from edgelstm.runtime.early_exit import EVERY_ROW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from edgelstm.measure.bench import BenchReport, BenchResult
    from edgelstm.runtime.early_exit import EarlyReport

FileFormat = Literal["png", "svg"]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
"""Okabe and Ito's palette, which people with any colour vision can tell apart; its yellow is too pale for lines."""
STYLES = [
    {"color": colour, "marker": marker, "linestyle": line}
    for marker, line in (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-.")) for colour in COLOURS
]  # fmt: skip
"""Every colour with the first marker and line, then every colour with the second, ..."""
MAX_LABEL, LEGEND_CHARACTERS = 60, 180
"""Characters of a name, and of a line of the legend, that fit into 15 inches."""


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure of this size in inches. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", purpose="drawing a plot") from error
    return Figure(figsize=(width_in, height_in), facecolor="white")


def figure_bytes(figure: "Figure", file_format: FileFormat, dpi: int = 130) -> bytes:
    """The figure as a PNG or SVG file, without a date and with fixed ids: the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "edgelstm"}):
        figure.savefig(buffer, format=file_format, dpi=dpi, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


def format_of(path: Path) -> FileFormat:
    """What to write into a file of this name: ``svg`` if it ends so, else ``png``."""
    return "svg" if path.suffix.lower() == ".svg" else "png"


def bench_plot(report: "BenchReport", file_format: FileFormat = "png") -> bytes:
    """The picture's bytes. Raises MissingDependencyError without matplotlib."""
    return figure_bytes(bench_figure(report), file_format)


def bench_figure(report: "BenchReport") -> "Figure":
    """Latency, throughput, and accuracy against latency, side by side over one legend."""
    names = [_label(result.name) for result in report.results]
    columns = max(1, min(len(names), LEGEND_CHARACTERS // (max(map(len, names)) + 8)))
    figure = new_figure(15, 5.4 + 0.2 * math.ceil(len(names) / columns))
    figure.set_layout_engine("constrained")
    distribution, throughput, front = figure.subplots(1, 3)
    styled: _Styled = list(zip(report.results, itertools.cycle(STYLES), strict=False))
    _draw_distribution(distribution, styled)
    _draw_throughput(throughput, styled)
    _draw_front(front, styled)
    # one legend for all: names beside the points would lie on each other and run out of the picture
    figure.legend(throughput.lines, names, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    machine = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    figure.suptitle(f"{machine.cpu}, {machine.cores} cores, {machine.gpu or 'no GPU'} - {versions}", fontsize=9)
    return figure


def _label(name: str) -> str:
    """A name as matplotlib shows it: not as a formula, not too wide."""
    short = name if len(name) <= MAX_LABEL else "..." + name[3 - MAX_LABEL :]
    return short.replace("$", r"\$")


def early_plot(report: "EarlyReport", file_format: FileFormat = "png") -> bytes:
    """Accuracy against rows read: all stopped at the same row, and the rule at every probability."""
    figure = new_figure(8, 5)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    curve = [(point.rows, 100 * (1 - point.score.accuracy)) for point in report.curve]
    trade = [(rows, 100 * (1 - score.accuracy)) for rows, score in report.trade]
    here = report.mean_rows, 100 * (1 - report.early.accuracy)
    axes.plot(*zip(*curve, strict=True), "o-", color=COLOURS[0], markersize=3, label="all stopped at the same row")
    if has_rule := report.rule != EVERY_ROW:
        axes.plot(*zip(*trade, strict=True), "-", color=COLOURS[1], label="each stopped by a rule, other probabilities")
        axes.plot(*here, "D", color=COLOURS[1], markersize=8, label=f"the rule: a {report.rule}")
    axes.axhline(100 * (1 - report.full.accuracy), color="0.6", linewidth=0.9, linestyle="--", label="every row read")
    axes.set(yscale="log", xlim=(0, report.rows + 0.5))
    _plain_ticks(axes.yaxis, "{x:g}")
    axes.set(xlabel=f"rows read, of {report.rows}", ylabel=f"% of {report.full.n:,} sequences wrong")
    share = f"{100 * report.mean_rows / report.rows:.0f} % of the rows: {report.early} instead of {report.full}"
    axes.set_title(share if has_rule else f"every row: {report.full}")
    axes.grid(color="0.92", which="both", linewidth=0.6)
    axes.legend(fontsize=8, loc="lower left")
    return figure_bytes(figure, file_format)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (latency, accuracy) points those that no other beats in both, by rising latency."""
    front: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((latency, accuracy))
    return front


_Styled = list[tuple["BenchResult", dict[str, Any]]]
"""Each result with the options of its lines: colour, marker, line style."""


def _draw_distribution(axes: "Axes", styled: _Styled) -> None:
    for result, style in styled:
        quantiles_us = 1e6 * np.array(result.batches[0].latency.quantiles_s)
        axes.plot(quantiles_us, np.linspace(0, 1, len(quantiles_us)), **{**style, "marker": ""}, linewidth=2)
    for share in (0.5, 0.9, 0.99):
        axes.axhline(share, color="0.85", linewidth=0.8, zorder=0)
        axes.annotate(f"p{100 * share:.0f}", (1, share), xycoords=("axes fraction", "data"), fontsize=8, color="0.4")
    # p99: the last hundredth would squeeze the rest
    slowest = max(result.batches[0].latency.quantiles_s[-2] for result, _ in styled)
    size = styled[0][0].batches[0].batch_size
    axes.set(xscale="log", ylim=(0, 1), xlim=(None, 1.5e6 * slowest))
    _plain_ticks(axes.xaxis)
    axes.set(xlabel=f"microseconds a call, batch {size}", ylabel="share of calls within", title="Latency")


def _draw_throughput(axes: "Axes", styled: _Styled) -> None:
    for result, style in styled:
        rates = [(batch.batch_size, batch.images_per_s) for batch in result.batches]
        axes.plot(*zip(*rates, strict=True), **style, markersize=5)
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(left=max(0.6, axes.get_xlim()[0]))  # no batch is smaller than 1
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)
    axes.set(xlabel="batch size", ylabel="sequences a second", title="Throughput")
    axes.grid(color="0.92", which="both", linewidth=0.6)


def _draw_front(axes: "Axes", styled: _Styled) -> None:
    size = styled[0][0].batches[0].batch_size
    axes.set(xlabel=f"p50 microseconds, batch {size}", title="Accuracy against latency")
    points = []
    for result, style in styled:
        if result.accuracy:
            points.append((1e6 * result.batches[0].latency.p50.value_s, 100 * result.accuracy.accuracy))
            axes.plot(*points[-1], **{**style, "linestyle": "none"}, markersize=9, clip_on=False)
    if not points:
        axes.text(0.5, 0.5, "no labelled data", transform=axes.transAxes, ha="center", color="0.4")
        return
    axes.step(*zip(*pareto_front(points), strict=True), where="post", color="0.8", zorder=0)
    axes.set(xscale="log", ylabel="% of the sequences right")
    _plain_ticks(axes.xaxis)
    axes.margins(x=0.1, y=0.1)
    axes.set_ylim(top=min(100, axes.get_ylim()[1]))  # nothing is more than all right
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color="0.92", which="both", linewidth=0.6)


def _plain_ticks(axis: "Axis", form: str = "{x:,.0f}") -> None:
    """1, 2, 5, 10, ... written out on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_formatter(NullFormatter())
