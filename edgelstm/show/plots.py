"""Reports as pictures: latency, throughput, accuracy against latency; accuracy against rows read."""

from typing import TYPE_CHECKING

from edgelstm.measure.bench import BenchReport, BenchResult
from edgelstm.runtime.early_exit import EarlyReport
from edgelstm.show.figure import FileFormat, figure_bytes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#7f7f7f",
    "#882255",
    "#999933",
    "#332288",
    "#b8860b",
)
"""Okabe and Ito's palette, which people with any colour vision can tell apart."""


def bench_plot(report: BenchReport, file_format: FileFormat = "png") -> bytes:
    """The picture's bytes, ``png`` or ``svg``. Raises MissingDependencyError without matplotlib."""
    figure = new_figure(15, 5)
    figure.set_layout_engine("constrained")
    distribution, throughput, front = figure.subplots(1, 3)
    colours = {result.name: COLOURS[i % len(COLOURS)] for i, result in enumerate(report.results)}
    _draw_distribution(distribution, report.results, colours)
    _draw_throughput(throughput, report.results, colours)
    _draw_front(front, report.results, colours)
    environment = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    figure.suptitle(
        f"{environment.cpu}, {environment.cores} cores, {environment.gpu or 'no GPU'} - {versions}", fontsize=9
    )
    return figure_bytes(figure, file_format)


def early_plot(report: EarlyReport, file_format: FileFormat = "png") -> bytes:
    """Accuracy against rows read: all pictures stopped at the same row, and the rule at every probability."""
    figure = new_figure(8, 5)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    wrong = [(point.rows, 100 * (1 - point.score.accuracy)) for point in report.curve]
    trade = [(rows, 100 * (1 - score.accuracy)) for rows, score in report.trade]
    axes.plot(*zip(*wrong, strict=True), "o-", color=COLOURS[0], markersize=3, label="all stopped at the same row")
    axes.plot(*zip(*trade, strict=True), "-", color=COLOURS[1], label="each stopped by a rule, other probabilities")
    here = report.mean_rows, 100 * (1 - report.early.accuracy)
    axes.plot(*here, "D", color=COLOURS[1], markersize=8, label=f"the rule: a {report.rule}")
    axes.axhline(100 * (1 - report.full.accuracy), color="0.6", linewidth=0.9, linestyle="--", label="every row read")
    axes.set(yscale="log", xlim=(0, report.rows + 0.5))
    _plain_ticks(axes.yaxis, "{x:g}")
    axes.set(xlabel=f"rows read, of {report.rows}", ylabel=f"% of {report.full.n:,} digits wrong")
    axes.set_title(f"{100 * report.mean_rows / report.rows:.0f} % of the rows: {report.early} instead of {report.full}")
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


def _draw_distribution(axes: "Axes", results: tuple[BenchResult, ...], colours: dict[str, str]) -> None:
    size = results[0].batches[0].batch_size
    for result in results:
        quantiles = result.batches[0].quantiles_s
        shares = [i / (len(quantiles) - 1) for i in range(len(quantiles))]
        axes.plot([1e6 * q for q in quantiles], shares, color=colours[result.name], label=result.name, linewidth=2)
    for share in (0.5, 0.9, 0.99):
        axes.axhline(share, color="0.85", linewidth=0.8, zorder=0)
        axes.annotate(f"p{100 * share:.0f}", (1, share), xycoords=("axes fraction", "data"), fontsize=8, color="0.4")
    axes.set(xscale="log")
    _plain_ticks(axes.xaxis)
    slowest = max(
        result.batches[0].quantiles_s[-2] for result in results
    )  # p99: the last hundredth would squeeze the rest
    axes.set(
        ylim=(0, 1),
        xlim=(None, 1.5e6 * slowest),
        xlabel=f"microseconds a call, batch {size}",
        ylabel="share of calls within",
    )
    axes.set_title("Latency")
    axes.legend(fontsize=8, loc="lower right")


def _draw_throughput(axes: "Axes", results: tuple[BenchResult, ...], colours: dict[str, str]) -> None:
    for result in results:
        sizes = [batch.batch_size for batch in result.batches]
        rates = [batch.images_per_s for batch in result.batches]
        axes.plot(sizes, rates, "o-", color=colours[result.name], label=result.name, markersize=4)
    axes.set(xscale="log", yscale="log")
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)
    axes.set(xlabel="batch size", ylabel="images a second")
    axes.set_title("Throughput")
    axes.grid(color="0.92", which="both", linewidth=0.6)


def _plain_ticks(axis: "Axis", form: str = "{x:,.0f}") -> None:
    """1, 2, 5, 10, ... written out on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def _draw_front(axes: "Axes", results: tuple[BenchResult, ...], colours: dict[str, str]) -> None:
    points = [(1e6 * result.batches[0].latency.p50.value_s, 100 * result.accuracy.accuracy) for result in results]
    front = pareto_front(points)
    axes.step(*zip(*front, strict=True), where="post", color="0.8", zorder=0)
    for result, (latency, accuracy) in zip(results, points, strict=True):
        axes.plot(latency, accuracy, "o", color=colours[result.name], markersize=8)
        axes.annotate(
            result.name, (latency, accuracy), xytext=(0, 8), textcoords="offset points", fontsize=8, ha="center"
        )
    axes.margins(x=0.25, y=0.2)
    size = results[0].batches[0].batch_size
    axes.set(xlabel=f"p50 microseconds, batch {size}", ylabel=f"% of {results[0].accuracy.n:,} digits right")
    axes.set_title("Accuracy against latency")
    axes.ticklabel_format(useOffset=False)
