"""A training log as a picture: loss and accuracy, on training and validation digits, over the steps."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Score
from edgelstm.errors import DataError
from edgelstm.show.figure import FileFormat, figure_bytes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING, VALIDATION, QUIET = "#0072b2", "#d55e00", "#6b6b6b"
"""Blue, vermilion and grey of Okabe and Ito's palette, which people with any colour vision can tell apart."""
TICKS = (0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)

Line = dict[str, Any]
Floats = npt.NDArray[np.float64]


def read_log(path: Path) -> list[Line]:
    """The whole lines of a run's log.jsonl. Raises DataError if it is missing or not such a log."""
    try:
        text = path.read_text(encoding="utf-8")
        lines: list[Line] = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        for line in lines:
            Score(**line["train"]), float(line["loss"]), int(line["step"]), line["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as a training log", found=f"{type(error).__name__}: {error}",
            expected="what `edgelstm train` writes", fix="train again",
        ) from error  # fmt: skip
    return lines


def training_plot(lines: list[Line], title: str, file_format: FileFormat = "png") -> bytes:
    """The picture's bytes. Raises DataError if no epoch is logged, MissingDependencyError without matplotlib."""
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    if not epochs:
        raise DataError("nothing to draw: the log has no whole epoch", fix="train for an epoch at least")
    figure = new_figure(10, 4.2)
    figure.set_layout_engine("constrained")
    loss, accuracy = figure.subplots(1, 2)
    _draw_loss(loss, steps, epochs)
    _draw_accuracy(accuracy, steps, epochs)
    for axes in (loss, accuracy):
        axes.set_xlim(0, epochs[-1]["step"])
        axes.set_xlabel(f"optimizer steps, {len(epochs)} epochs", fontsize=9, color=QUIET)
        axes.grid(color="0.93", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, colors=QUIET)
    figure.suptitle(title, fontsize=11)
    return figure_bytes(figure, file_format)


def smoothed(values: Floats) -> Floats:
    """The mean of each value and those around it, a fortieth of all; fewer at the ends."""
    half = len(values) // 80
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    mean: Floats = (sums[last] - sums[first]) / (last - first)
    return mean


def _draw_loss(axes: "Axes", steps: list[Line], epochs: list[Line]) -> None:
    x, y = (np.array([line[key] for line in steps or epochs], float) for key in ("step", "loss"))
    axes.plot(x, y, ".", color=TRAINING, alpha=0.18, markersize=3, markeredgewidth=0)
    axes.plot(x, smoothed(y), color=TRAINING, linewidth=1.8)
    axes.set(yscale="log", ylim=(0.8 * np.quantile(y, 0.02), None))  # a lucky batch or two would squeeze the rest
    axes.set_title("Training loss", fontsize=11, loc="left")
    _plain_numbers(axes)


def _draw_accuracy(axes: "Axes", steps: list[Line], epochs: list[Line]) -> None:
    """The last per cent takes as much room as the first ninety: the axis is the logarithm of the errors."""
    x = np.array([line["step"] for line in steps or epochs], float)
    shares = np.array([line["train"]["n_right"] / line["train"]["n"] for line in steps or epochs], float)
    final = Score(**epochs[-1]["validation"])
    least = 0.5 / max(line["validation"]["n"] for line in epochs)
    axes.plot(x, _nines(smoothed(shares), least), color=TRAINING, linewidth=1.8, label="training, as each batch came")
    at = [line["step"] for line in epochs]
    found = np.array([line["validation"]["n_right"] / line["validation"]["n"] for line in epochs], float)
    axes.plot(at, _nines(found, least), "o-", color=VALIDATION, linewidth=1.4, markersize=3.5, label="validation")
    low, high = axes.get_ylim()
    ticks = [share for share in TICKS if low <= float(_nines(np.array(share), least)) <= high]
    axes.set_yticks([float(_nines(np.array(share), least)) for share in ticks], [f"{100 * t:g} %" for t in ticks])
    axes.set_title("Accuracy", fontsize=11, loc="left")
    axes.set_title(f"validation {final}", fontsize=9, loc="right", color=VALIDATION)
    axes.legend(fontsize=9, loc="lower right", frameon=False)


def _nines(share: Floats, least: float) -> Floats:
    """0.9 -> 1, 0.99 -> 2: how many nines, no error being half of one in the validation digits."""
    found: Floats = -np.log10(np.maximum(1 - share, least))
    return found


def _plain_numbers(axes: "Axes") -> None:
    """1, 0.5, 0.2, ... written out on a logarithmic axis, as many as it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    many = math.log10(high / low) > 1.5
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if many else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
