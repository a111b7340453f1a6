"""The figures of a report for people: aligned tables as text, or one self-contained page."""

from collections.abc import Sequence
from html import escape

from edgelstm.measure.bench import BatchResult, BenchReport, BenchResult
from edgelstm.measure.timing import Percentile
from edgelstm.runtime.early_exit import EarlyReport


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells in aligned columns; the first row is the head, the first ``left`` columns are text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    head, *body = rows
    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, body)])


def bench_text(report: BenchReport) -> str:
    """A bench report as header, tables and warnings."""
    blocks = ["\n".join(f"{name:<9} {value}" for name, value in header(report))]
    blocks += [f"{title}\n{table(rows)}" for title, rows in bench_tables(report)]
    blocks += ["\n".join(notes)] if (notes := warnings(report)) else []
    return "\n\n".join(blocks)


def bench_html(report: BenchReport, svg: str, notes: Sequence[str] = ()) -> str:
    """The same as one self-contained page: ``svg`` is the plot, ``notes`` are lines of advice."""
    parts = ["<dl>" + "".join(f"<dt>{escape(name)}<dd>{escape(value)}" for name, value in header(report)) + "</dl>"]
    parts.append(svg[svg.index("<svg") :])
    for title, (head, *body) in bench_tables(report):
        rows = [_html_row("th", head), *(_html_row("td", row) for row in body)]
        parts.append(f"<h2>{escape(title)}</h2><table>{''.join(rows)}</table>")
    lines = [*notes, *warnings(report)]
    if lines:
        parts.append("<h2>notes</h2><ul>" + "".join(f"<li>{escape(line)}" for line in lines) + "</ul>")
    return _PAGE.replace("@BODY@", "\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>edgelstm bench</title>
<style>
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { opacity: .65; } dd { margin: 0; }
svg { width: 100%; height: auto; background: #fff; border-radius: 6px; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
</style>
<h1>edgelstm bench</h1>
@BODY@
</html>
"""


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def early_text(report: EarlyReport) -> str:
    """An early report as its headline and a table of accuracy against rows."""
    test, share = report.mcnemar, report.mean_rows / report.rows
    lines = [
        f"every row    {report.full}",
        f"rule         a {report.rule}",
        f"early        {report.early}, {report.mean_rows:.1f} of {report.rows} rows: {100 * share:.0f} %",
        f"difference   {test.n_lost} lost, {test.n_won} won, McNemar p = {test.p_value:.2g}: "
        f"{'no measurable loss' if report.passed else 'a measurable loss'}",
    ]
    rows = [("rows", "right if all stop here", "decided by the rule", "of them right")]
    for point in report.curve:
        decided = f"{100 * point.n_decided / point.score.n:.1f} %"
        right = f"{100 * point.n_decided_right / point.n_decided:.2f} %" if point.n_decided else "-"
        rows.append((str(point.rows), str(point.score), decided, right))
    return "\n".join(lines) + "\n\n" + table(rows, left=0)


def header(report: BenchReport) -> list[tuple[str, str]]:
    """What the figures depend on, as names and values."""
    environment = report.environment
    rates = environment.rates
    load = "unknown" if environment.load_average is None else f"{environment.load_average:.2f}"
    speeds = "not measured" if rates is None else (
        f"sgemm {rates.flops_per_s / 1e9:,.0f} GFLOP/s with {rates.threads} thread(s), "
        f"copy {rates.bytes_per_s / 1e9:,.1f} GB/s"
    )  # fmt: skip
    return [
        ("machine", f"{environment.cpu}, {environment.cores} cores, {environment.system}, load {load}"),
        ("gpu", environment.gpu or "none found"),
        ("rates", speeds),
        ("versions", ", ".join(f"{name} {version}" for name, version in environment.versions.items())),
        ("digits", report.digits),
        ("timed", report.what_is_timed),
        ("rounds", f"{report.n_rounds}, the models in turn within each; 95 % intervals in brackets"),
    ]


def bench_tables(report: BenchReport) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Title and rows of each table, the first row being its head."""
    results = report.results
    tables = [
        ("models", [_MODEL_HEAD, *map(_model_row, results)]),
        ("scenarios, by MLPerf's names", [_SCENARIO_HEAD, *map(_scenario_row, results)]),
    ]
    for title, head, lists in (
        ("batch", _BATCH_HEAD, [(result.name, result.batches) for result in results]),
        ("one step of a stream, batch", _STEP_HEAD, [(result.name, result.steps) for result in results]),
    ):
        measured = [(name, batches) for name, batches in lists if batches]
        for index, batch in enumerate(measured[0][1] if measured else ()):
            rows = [_batch_row(name, batches[index])[: len(head)] for name, batches in measured]
            tables.append((f"{title} {batch.batch_size}", [head, *rows]))
    return tables


def warnings(report: BenchReport) -> list[str]:
    """A line for each measurement that was not steady."""
    return [
        f"warning: {result.name}, {what} {batch.batch_size}: unsteady, believe the ratios more than the times "
        f"({batch.latency.reason})"
        for result in report.results
        for what, batches in (("batch", result.batches), ("one step, batch", result.steps))
        for batch in batches if not batch.latency.stable
    ]  # fmt: skip


_MODEL_HEAD = (
    "model", "right", "requested", "used", "threads", "precision", "parameters", "file kB", "load ms", "first ms",
    "peak MB",
)  # fmt: skip


def _model_row(result: BenchResult) -> tuple[str, ...]:
    return (
        result.name, str(result.accuracy or "-"), result.provider_requested, result.provider_used,
        str(result.threads), result.precision, f"{result.n_parameters:,}", _scaled(result.file_bytes, 1e-3, 0),
        _scaled(result.load_s, 1e3, 1), _scaled(result.first_run_s, 1e3, 2),
        _scaled(result.peak_memory_bytes, 1e-6, 0),
    )  # fmt: skip


_SCENARIO_HEAD = ("model", "SingleStream p90 us", "Offline images/s", "at batch")


def _scenario_row(result: BenchResult) -> tuple[str, ...]:
    best = result.offline
    return (
        result.name, _scaled(result.single_stream_p90_s, 1e6, 1), f"{best.images_per_s:,.0f}", str(best.batch_size)
    )  # fmt: skip


_BATCH_HEAD = ("model", "p50 us", "p90 us", "p99 us", "images/s", "times the first", "times roofline")

_STEP_HEAD = tuple("steps/s" if name == "images/s" else name for name in _BATCH_HEAD[:-1])
"""Without the roofline: the weights and the state stay in the caches, which it does not know."""


def _batch_row(name: str, batch: BatchResult) -> tuple[str, ...]:
    latency, ratio = batch.latency, batch.ratio_to_first
    return (
        name, *(_percentile(p) for p in (latency.p50, latency.p90, latency.p99)), f"{batch.images_per_s:,.0f}",
        f"{ratio.value:.2f} [{_end(ratio.low)} {_end(ratio.high)}]",
        "-" if batch.roofline_s is None else f"{latency.p50.value_s / batch.roofline_s:.2f}",
    )  # fmt: skip


def _end(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _scaled(value: float | None, factor: float, digits: int) -> str:
    """A value in the unit of its column; - for what is not known."""
    return "-" if value is None else f"{value * factor:,.{digits}f}"


def _percentile(percentile: Percentile) -> str:
    """Microseconds with their interval; ? where there are too few calls for an end of it."""
    decimals = 1 if percentile.value_s < 1e-4 else 0
    ends = ["?" if end is None else f"{1e6 * end:,.{decimals}f}" for end in (percentile.low_s, percentile.high_s)]
    return f"{1e6 * percentile.value_s:,.{decimals}f} [{ends[0]} {ends[1]}]"
