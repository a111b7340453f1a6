"""Tests of edgelstm.show.tables: the figures of a made-up report, as text in known units."""

import dataclasses
import re

from edgelstm.contract import EarlyRule, Score
from edgelstm.measure.bench import BatchResult, BenchReport, BenchResult
from edgelstm.measure.machine import Environment, Rates
from edgelstm.measure.timing import LatencySummary, Percentile, Ratio
from edgelstm.runtime.early_exit import CurvePoint, EarlyReport
from edgelstm.runtime.parity import McNemar
from edgelstm.show.tables import bench_html, bench_text, early_text, table

ENVIRONMENT = Environment(
    cpu="Abacus 3", cores=2, load_average=0.5, system="Linux x", versions={"python": "3.11.0", "numpy": "2.0"}, gpu=None
)


def percentile(p, value_us, low_us=None, high_us=None):
    ends = [None if end is None else end / 1e6 for end in (low_us, high_us)]
    return Percentile(p, value_us / 1e6, *ends, confidence=0.95)


def latency(p50_us, reason=None):
    return LatencySummary(
        n=600, n_rounds=12, mean_s=p50_us / 1e6, min_s=0.0, max_s=1.0,
        p50=percentile(50, p50_us, p50_us - 10, p50_us + 10),
        p90=percentile(90, 2 * p50_us, 150, 2500), p99=percentile(99, 3 * p50_us, 250), quantiles_s=(0.0,) * 101,
        stable=reason is None, reason=reason,
    )  # fmt: skip


def batch(size, p50_us, reason=None):
    ratio = Ratio(value=1.0, low=0.9, high=1.1, confidence=0.95, n_rounds=12)
    return BatchResult(size, latency(p50_us, reason), 1e6 / p50_us, ratio, roofline_s=p50_us / 4e6)


def result(name, p50_us, **values):
    known = {
        "model": "base", "provider_requested": "auto", "provider_used": "cpu", "precision": "fp32", "threads": 1,
        "n_parameters": 82_186, "file_bytes": 329_893, "load_s": 0.0125, "first_run_s": 0.0005,
        "accuracy": Score(9_965, 10_000), "batches": (batch(1, p50_us),),
    }  # fmt: skip
    return BenchResult(name=name, **{**known, **values})


def report(*results, environment=ENVIRONMENT):
    return BenchReport(1, environment, "10,000 (MNIST)", "one call", 12, results)


def line_with(text, beginning, nth=0):
    return [line for line in text.splitlines() if line.startswith(beginning)][nth]


def test_a_table_is_aligned_text_left_and_numbers_right():
    assert table([["name", "n"], ["a", "1"], ["bb", "1,000"]]).splitlines() == [
        "name      n",
        "----  -----",
        "a         1",
        "bb    1,000",
    ]


def test_more_columns_of_a_table_can_be_text():
    assert table([["a", "b", "n"], ["x", "yes", "1"], ["x", "no", "10"]], left=2).splitlines() == [
        "a  b     n",
        "-  ---  --",
        "x  yes   1",
        "x  no   10",
    ]


def test_no_line_ends_in_blanks():
    text = bench_text(report(result("base cpu", 100), result("x", 100)))
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


def test_the_header_names_machine_versions_digits_and_what_is_timed():
    lines = bench_text(report(result("base", 100))).splitlines()
    assert lines[:6] == [
        "machine   Abacus 3, 2 cores, Linux x, load 0.50",
        "gpu       none found",
        "rates     not measured",
        "versions  python 3.11.0, numpy 2.0",
        "data      10,000 (MNIST)",
        "timed     one call",
    ]


def test_what_is_not_known_is_said_to_be_unknown():
    environment = Environment("Abacus", 1, None, "Linux", {}, gpu="Slate 1")
    text = bench_text(report(result("torch", 100, file_bytes=None), environment=environment))
    assert "load unknown" in text
    assert "gpu       Slate 1" in text
    assert " -  " in line_with(text, "torch")


def test_the_model_row_holds_both_providers_size_load_first_run_and_accuracy():
    row = line_with(
        bench_text(report(result("base", 100, provider_requested="cuda", peak_memory_bytes=60_400_000))), "base"
    )
    assert " ".join(row.split()) == "base 9,965/10,000 (99.65 %) cuda cpu 1 fp32 82,186 330 12.5 0.50 60"


def test_the_batch_row_holds_microseconds_with_their_intervals_and_images_a_second():
    row = line_with(bench_text(report(result("base", 1000))), "base", nth=2)
    expected = "base 1,000 [990 1,010] 2,000 [150 2,500] 3,000 [250 ?] 1,000 1.00 [0.90 1.10] 4.00"
    assert " ".join(row.split()) == expected


def test_a_report_speaks_of_sequences_whatever_they_are():
    text = bench_text(report(result("base", 1000)))
    assert (text.count("sequences/s"), "Offline sequences/s" in text, "image" in text) == (2, True, False)


def test_what_was_not_measured_is_a_dash():
    plain = dataclasses.replace(batch(4, 100), roofline_s=None)
    text = bench_text(report(result("a", 100, batches=(plain,), accuracy=None)))
    assert line_with(text, "a ").split()[:3] == ["a", "-", "auto"]
    assert line_with(text, "a ", nth=1).split() == ["a", "-", "10,000", "4"]
    assert line_with(text, "a ", nth=2).split()[-1] == "-"


def test_the_scenarios_are_p90_at_batch_1_and_the_best_throughput():
    text = bench_text(report(result("a", 100, batches=(batch(1, 61.5), batch(64, 50), batch(256, 80)))))
    assert line_with(text, "a ", nth=1).split() == ["a", "123.0", "20,000", "64"]


def test_measured_rates_are_in_the_header():
    environment = dataclasses.replace(ENVIRONMENT, rates=Rates(2, 91.4e9, 12.34e9))
    lines = bench_text(report(result("a", 100), environment=environment)).splitlines()
    assert lines[2] == "rates     sgemm 91 GFLOP/s with 2 thread(s), copy 12.3 GB/s"


def test_accuracy_stands_beside_the_name_where_no_window_is_too_narrow_for_it():
    page = bench_html(report(result("a", 1000)), "<svg>drawn</svg>")
    assert "<tr><th>model</th><th>right</th>" in page
    assert "<tr><td>a</td><td>9,965/10,000 (99.65 %)</td>" in page


def test_the_page_holds_the_same_figures_and_needs_nothing_else():
    page = bench_html(report(result("<b>&", 1000)), "<?xml?><svg>drawn</svg>", ["use two threads"])
    assert "&lt;b&gt;&amp;" in page
    assert "1,000 [990 1,010]" in page
    assert "<svg>drawn</svg>" in page
    assert "<li>use two threads" in page
    assert re.findall(r"(?:src|href)=|https?:|<script", page) == []


def test_every_batch_size_has_its_table():
    batches = tuple(batch(size, 100 * size) for size in (1, 64))
    text = bench_text(report(result("a", 1, batches=batches), result("b", 1, batches=batches)))
    assert [line for line in text.splitlines() if line.startswith("batch ")] == ["batch 1", "batch 64"]
    assert "6,400 [6,390 6,410]" in line_with(text, "b ", nth=3)


def test_an_unsteady_batch_has_a_warning_with_the_reason():
    shaky = (batch(1, 100, reason="p50 moved"), batch(64, 100))
    calm = tuple(batch(size, 100) for size in (1, 64))
    text = bench_text(report(result("a", 1, batches=calm), result("b", 1, batches=shaky)))
    warnings = [line for line in text.splitlines() if line.startswith("warning")]
    assert warnings == ["warning: b, batch 1: unsteady, believe the ratios more than the times (p50 moved)"]


def test_a_steady_run_has_no_warning():
    assert "warning" not in bench_text(report(result("a", 100)))


def test_a_streams_single_steps_have_a_table_of_their_own():
    steps = (batch(1, 20), batch(64, 200, reason="p50 moved"))
    batches = tuple(batch(size, 500) for size in (1, 64))
    text = bench_text(report(result("a", 1, batches=batches), result("b", 1, batches=batches, steps=steps)))
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("one step of a stream")]
    assert ["one step of a stream, batch 1", "one step of a stream, batch 64"] == [block[0] for block in blocks]
    assert "steps/s" in blocks[0][1]
    assert ["b"] == [line.split()[0] for line in blocks[0][3:]]
    assert "50,000" in blocks[0][3]
    assert "roofline" not in blocks[0][1]
    assert "warning: b, one step, batch 64: unsteady" in text


def test_an_early_report_is_a_headline_and_a_row_for_each_row_read():
    curve = (CurvePoint(14, Score(5, 10), 0, 0), CurvePoint(28, Score(10, 10), 10, 8))
    early = EarlyReport(
        EarlyRule(0.9, 2), 28, Score(10, 10), Score(8, 10), 20.99, McNemar(2, 0, 0.5), curve, ((20.99, Score(8, 10)),)
    )
    assert early_text(early).splitlines() == [
        "every row    10/10 (100.00 %)",
        "rule         a probability of at least 0.9 for 2 steps",
        "early        8/10 (80.00 %), 21.0 of 28 rows: 75 %",
        "difference   2 lost, 0 won, McNemar p = 0.5: no measurable loss",
        "",
        "rows  right if all stop here  decided by the rule  of them right",
        "----  ----------------------  -------------------  -------------",
        "  14          5/10 (50.00 %)                0.0 %              -",
        "  28        10/10 (100.00 %)              100.0 %        80.00 %",
    ]
    lossy = dataclasses.replace(early, mcnemar=McNemar(9, 0, 0.004))
    assert "McNemar p = 0.004: a measurable loss" in early_text(lossy)
