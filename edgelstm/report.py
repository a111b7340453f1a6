"""The figures of a report as text for people: aligned tables, plain enough for a log file."""

from collections.abc import Sequence

from edgelstm.bench import BenchReport, BenchResult
from edgelstm.timing import Percentile


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
    environment = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    load = "unknown" if environment.load_average is None else f"{environment.load_average:.2f}"
    lines = [
        f"machine   {environment.cpu}, {environment.cores} cores, {environment.system}, load {load}",
        f"gpu       {environment.gpu or 'none found'}",
        f"versions  {versions}",
        f"digits    {report.digits}",
        f"timed     {report.what_is_timed}",
        f"rounds    {report.n_rounds}, the models in turn within each; 95 % intervals in brackets",
        "",
        table([_MODEL_HEAD, *map(_model_row, report.results)]),
        "",
    ]
    for index, size in enumerate(batch.batch_size for batch in report.results[0].batches):
        lines += [
            f"batch {size}",
            table([_BATCH_HEAD, *(_batch_row(r, index, report) for r in report.results)]),
            "",
        ]
    lines += [
        f"warning: {result.name}, batch {batch.batch_size}: unsteady, believe the ratios more than the times "
        f"({batch.latency.reason})"
        for result in report.results for batch in result.batches if not batch.latency.stable
    ]  # fmt: skip
    return "\n".join(lines).rstrip()


_MODEL_HEAD = (
    "model", "requested", "used", "threads", "precision", "parameters", "file kB", "load ms", "first ms", "right"
)  # fmt: skip


def _model_row(result: BenchResult) -> tuple[str, ...]:
    return (
        result.name, result.provider_requested, result.provider_used, str(result.threads), result.precision,
        f"{result.n_parameters:,}", "-" if result.file_bytes is None else f"{result.file_bytes / 1000:,.0f}",
        f"{1000 * result.load_s:,.1f}", f"{1000 * result.first_run_s:,.2f}", str(result.accuracy),
    )  # fmt: skip


_BATCH_HEAD = ("model", "p50 us", "p90 us", "p99 us", "images/s", "times the first")


def _batch_row(result: BenchResult, index: int, report: BenchReport) -> tuple[str, ...]:
    batch, first = result.batches[index], report.results[0].batches[index]
    latency = batch.latency
    return (
        result.name, *(_percentile(p) for p in (latency.p50, latency.p90, latency.p99)),
        f"{batch.images_per_s:,.0f}", f"{latency.p50.value_s / first.latency.p50.value_s:.2f}",
    )  # fmt: skip


def _percentile(percentile: Percentile) -> str:
    ends = [
        "?" if end is None else f"{1e6 * end:,.0f}" for end in (percentile.low_s, percentile.high_s)
    ]  # ? : too few calls for that end
    return f"{1e6 * percentile.value_s:,.0f} [{ends[0]} {ends[1]}]"
