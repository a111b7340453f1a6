"""Tests of edgelstm.show.plots and of bench's advice: the front, the crossover, a picture that holds the names."""

import dataclasses
import io
import sys
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from edgelstm.contract import EarlyRule, Score
from edgelstm.errors import MissingDependencyError
from edgelstm.measure.bench import BatchResult, BenchReport, BenchResult, advice, crossover
from edgelstm.measure.machine import Environment
from edgelstm.measure.timing import median_ratio, summarize
from edgelstm.runtime.early_exit import CurvePoint, EarlyReport
from edgelstm.runtime.parity import McNemar
from edgelstm.show.plots import bench_figure, bench_plot, early_plot, format_of, new_figure, pareto_front


def result(name, times_us, **values):
    batches = []
    for power, time_us in enumerate(times_us):
        rounds = [[time_us / 1e6] * 3] * 6
        ratio = median_ratio(rounds, rounds)
        batches.append(BatchResult(2**power, summarize(rounds), 2**power / time_us * 1e6, ratio))
    accuracy = Score(99, 100)
    known = BenchResult(name, "base", "cpu", "cpu", "fp32", 1, 100, 1000, 0.01, 0.001, accuracy, tuple(batches))
    return dataclasses.replace(known, **values)


def report(*results):
    return BenchReport(1, Environment("Abacus", 2, 0.0, "Linux", {}, None), "100", "a call", 6, results)


def test_the_front_holds_what_nothing_beats_in_both():
    points = [(10.0, 98.0), (20.0, 97.0), (20.0, 99.0), (30.0, 99.0), (40.0, 99.5)]
    assert pareto_front(points) == [(10.0, 98.0), (20.0, 99.0), (40.0, 99.5)]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((12, 22, 25, 45), 4),
        ((5, 5, 5, 5), 1),
        ((20, 30, 50, 90), None),
        ((5, 30, 10, 60), 4),
        ((5, 10, 20, 79), None),  # 1 % is not clearly
        ((9.8, 19.9, 39, 60), 8),
    ],
)
def test_the_crossover_is_the_batch_from_which_it_is_always_clearly_faster(other, expected):
    assert crossover(result("one", (10, 20, 40, 80)), result("two", other, threads=2)) == expected


def test_the_advice_names_the_batch_and_what_was_not_measured():
    lines = advice(report(result("base cpu", (5, 8, 40, 80)), result("base cpu 2 threads", (9, 12, 25, 45), threads=2)))
    assert lines == [
        "base cpu: below batch 4 one thread, from 4 2 threads",
        "base cpu: CUDA not measured: no GPU",
    ]


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_the_picture_is_drawn_the_same_twice(file_format, tmp_path):
    results = report(result("base", (10, 20)), result("small", (5, 9), accuracy=Score(98, 100)))
    drawn = bench_plot(results, file_format)
    if file_format == "png":
        (tmp_path / "a.png").write_bytes(drawn)
        with Image.open(tmp_path / "a.png") as image:
            assert image.width > 1000
        assert bench_plot(results, file_format) == drawn
    else:
        assert b"small" in drawn


def test_no_text_of_the_picture_runs_out_of_it_or_is_taken_for_a_formula():
    names = [f"runs/a-model-with-a-long-name-{i}/model.onnx cpu 2 threads" for i in range(20)]
    names += ["_first.onnx cpu", r"$\frac$ cpu", "x" * 200]
    results = [result(name, (10 + i, 20), accuracy=Score(90 + i % 5, 100)) for i, name in enumerate(names)]
    figure = bench_figure(report(*results))
    FigureCanvasAgg(figure).draw()
    [legend] = figure.legends
    shown = [name if len(name) <= 60 else "..." + name[-57:] for name in names]
    assert shown == [text.get_text().strip().replace(r"\$", "$") for text in legend.get_texts()]
    page = figure.bbox.expanded(1.001, 1.001)
    boxes = [text.get_window_extent() for text in (*figure.texts, *legend.get_texts())]
    boxes += [axes.get_tightbbox() for axes in figure.axes]
    assert [box for box in boxes if page.count_contains(box.corners()) < 4] == []
    assert all(axes.get_window_extent().height > 300 for axes in figure.axes)


def test_the_accuracy_is_drawn_of_those_that_have_one():
    both = bench_figure(report(result("a", (10,)), result("b", (20,), accuracy=None)))
    assert [len(axes.lines) for axes in both.axes] == [2 + 3, 2, 1 + 1]
    none = bench_figure(report(result("b", (20,), accuracy=None)))
    assert ["no labelled data"] == [text.get_text() for text in none.axes[2].texts]


def test_no_axis_goes_beyond_all_right_or_below_a_batch_of_one():
    _, throughput, front = bench_figure(report(result("one", (10,)), result("two", (20,)))).axes
    assert throughput.get_xlim()[0] >= 0.6
    assert front.get_ylim()[1] <= 100


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'drawing a plot needs .* pip install "edgelstm\[plot\]"'):
        new_figure(1, 1)


def test_the_ending_of_a_name_is_its_format():
    assert ["svg", "svg", "png"] == [format_of(Path(name)) for name in ("a.svg", "a.SVG", "a.png")]


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_the_early_curve_names_the_rule_and_the_accuracies(file_format):
    curve = tuple(CurvePoint(row, Score(min(99, 10 * row), 100), 0, 0) for row in range(1, 15))
    trade = ((5.0, Score(60, 100)), (9.5, Score(98, 100)), (14.0, Score(99, 100)))
    early = EarlyReport(
        EarlyRule(0.9, 2), 14, Score(99, 100), Score(98, 100), 9.5, McNemar(1, 0, 1.0), curve, trade
    )  # fmt: skip
    drawn = early_plot(early, file_format)
    if file_format == "svg":
        assert b"rows read, of 14" in drawn
        assert b"68 % of the rows: 98/100 (98.00 %) instead of 99/100 (99.00 %)" in drawn
        assert b"the rule: a probability of at least 0.9 for 2 steps" in drawn
    else:
        with Image.open(io.BytesIO(drawn)) as image:
            assert image.width > 800
