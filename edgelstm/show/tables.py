"""The figures of a report for people: aligned tables as text, or one self-contained page."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from edgelstm.measure.bench import BatchResult, BenchReport, BenchResult
from edgelstm.measure.timing import Percentile
from edgelstm.runtime.early_exit import EVERY_ROW, EarlyReport


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells in aligned columns; the first row is the head, the first ``left`` columns are text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        return "  ".join(cells).rstrip()

    head, *body = rows
    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, body)])


def bench_text(report: BenchReport) -> str:
    """A bench report as header, tables and warnings."""
    blocks = ["\n".join(f"{name:<9} {value}" for name, value in header(report).items())]
    blocks += [f"{title}\n{table(rows)}" for title, rows in bench_tables(report)]
    blocks += ["\n".join(warnings(report))]
    return "\n\n".join(blocks).rstrip()


def bench_html(report: BenchReport, svg: str, notes: Sequence[str] = ()) -> str:
    """The same as one self-contained page: ``svg`` is the plot, ``notes`` are lines of advice."""
    about = "".join(f"<dt>{escape(name)}<dd>{escape(value)}" for name, value in header(report).items())
    parts = [f"<dl>{about}</dl>", svg[svg.index("<svg") :]]
    for title, (head, *body) in bench_tables(report):
        rows = _html_row("th", head) + "".join(_html_row("td", row) for row in body)
        parts.append(f"<h2>{escape(title)}</h2><table>{rows}</table>")
    if lines := [*notes, *warnings(report)]:
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
    if report.rule == EVERY_ROW:
        rule = "rule         none: one needs at least 500 validation sequences of one length"
        few = [("rows", "right if all stop here"), *((str(point.rows), str(point.score)) for point in report.curve)]
        return f"every row    {report.full}\n{rule}\n\n{table(few, left=0)}"
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


def header(report: BenchReport) -> dict[str, str]:
    """What the figures depend on, by name."""
    machine, rates = report.environment, report.environment.rates
    load = "unknown" if machine.load_average is None else f"{machine.load_average:.2f}"
    speeds = "not measured"
    if rates:
        product = f"sgemm {rates.flops_per_s / 1e9:,.0f} GFLOP/s with {rates.threads} thread(s)"
        speeds = f"{product}, copy {rates.bytes_per_s / 1e9:,.1f} GB/s"
    return {
        "machine": f"{machine.cpu}, {machine.cores} cores, {machine.system}, load {load}",
        "gpu": machine.gpu or "none found",
        "rates": speeds,
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "data": report.digits,
        "timed": report.what_is_timed,
        "rounds": f"{report.n_rounds}, the models in turn within each; 95 % intervals in brackets",
    }


def bench_tables(report: BenchReport) -> Iterator[tuple[str, list[Sequence[str]]]]:
    """Title and rows of each table, the first row being its head."""
    results = report.results
    yield "models", _rows(map(_model_cells, results))
    yield "scenarios, by MLPerf's names", _rows(map(_scenario_cells, results))
    for title, rate, lists in (
        ("batch", "sequences/s", [(result.name, result.batches) for result in results]),
        ("one step of a stream, batch", "steps/s", [(result.name, result.steps) for result in results if result.steps]),
    ):
        for i, batch in enumerate(lists[0][1] if lists else ()):
            cells = (_batch_cells(name, batches[i], rate) for name, batches in lists)
            yield f"{title} {batch.batch_size}", _rows(cells)


def warnings(report: BenchReport) -> list[str]:
    """A line for each measurement that was not steady."""
    return [
        f"warning: {result.name}, {what} {batch.batch_size}: unsteady, believe the ratios more than the times "
        f"({batch.latency.reason})"
        for result in report.results
        for what, batches in (("batch", result.batches), ("one step, batch", result.steps))
        for batch in batches if not batch.latency.stable
    ]  # fmt: skip


def _rows(cells: Iterable[dict[str, str]]) -> list[Sequence[str]]:
    """The names of the columns, then the values of each row."""
    rows = list(cells)
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _model_cells(result: BenchResult) -> dict[str, str]:
    return {
        "model": result.name, "right": str(result.accuracy or "-"), "requested": result.provider_requested,
        "used": result.provider_used, "threads": str(result.threads), "precision": result.precision,
        "parameters": f"{result.n_parameters:,}", "file kB": _scaled(result.file_bytes, 1e-3, 0),
        "load ms": _scaled(result.load_s, 1e3, 1), "first ms": _scaled(result.first_run_s, 1e3, 2),
        "peak MB": _scaled(result.peak_memory_bytes, 1e-6, 0),
    }  # fmt: skip


def _scenario_cells(result: BenchResult) -> dict[str, str]:
    best = result.offline
    return {
        "model": result.name, "SingleStream p90 us": _scaled(result.single_stream_p90_s, 1e6, 1),
        "Offline sequences/s": f"{best.images_per_s:,.0f}", "at batch": str(best.batch_size),
    }  # fmt: skip


def _batch_cells(name: str, batch: BatchResult, rate: str) -> dict[str, str]:
    p50, ratio = batch.latency.p50, batch.ratio_to_first
    cells = {
        "model": name, "p50 us": _percentile(p50), "p90 us": _percentile(batch.latency.p90),
        "p99 us": _percentile(batch.latency.p99), rate: f"{batch.images_per_s:,.0f}",
        "times the first": f"{ratio.value:.2f} [{_scaled(ratio.low, 1, 2, '?')} {_scaled(ratio.high, 1, 2, '?')}]",
    }  # fmt: skip
    if rate == "sequences/s":  # a step's weights and state stay in the caches, which the roofline does not know
        cells["times roofline"] = "-" if batch.roofline_s is None else f"{p50.value_s / batch.roofline_s:.2f}"
    return cells


def _percentile(percentile: Percentile) -> str:
    """Microseconds with their interval; ? where there are too few calls for an end of it."""
    decimals = 1 if percentile.value_s < 1e-4 else 0
    ends = (percentile.value_s, percentile.low_s, percentile.high_s)
    value, low, high = (_scaled(seconds, 1e6, decimals, "?") for seconds in ends)
    return f"{value} [{low} {high}]"


def _scaled(value: float | None, factor: float, digits: int, unknown: str = "-") -> str:
    """A value in the unit of its column."""
    return unknown if value is None else f"{value * factor:,.{digits}f}"
