"""What the network saw of one input, row by row: the probability of each class so far, as figures and drawn."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Logits, Sequences
from edgelstm.errors import PictureError, printable
from edgelstm.onnx_file import ModelSource, default_model, open_model
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.classifier import Classifier, Prediction, Source
from edgelstm.runtime.runner import AnyProvider
from edgelstm.runtime.stream import Stream
from edgelstm.show.plots import FileFormat, figure_bytes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#332288", "#4fb0e8", "#35a294", "#117733", "#999933", "#dba51e", "#cc6677", "#882255", "#aa4499", "#e07b39"
)  # fmt: skip
"""One for each class, after Paul Tol's muted palette; what they say stands in the columns too."""
INK, FAINT = "#1a1a1a", "#6b6b6b"
MAX_COLUMNS = 20
"""Columns of values that fit one above the other."""
MAX_WHOLE = 256
"""Steps up to which each beginning of a sequence is read from its first row: that takes the square of the time."""


@dataclass(frozen=True)
class Explanation:
    """The answers to one input as its rows come in, the last of which is the answer."""

    prediction: Prediction
    """What `infer` says of it."""
    class_names: tuple[str, ...]
    rows_per_step: int
    probabilities: npt.NDArray[np.float64]
    """(T, classes): after each step, what the answer would be if the input ended there. The network was trained on
    whole ones only, so it has never been asked that early."""

    @property
    def leaders(self) -> list[int]:
        """The most probable class after each step."""
        return [int(leader) for leader in self.probabilities.argmax(axis=1)]

    @property
    def settled_at_row(self) -> int:
        """The row, counted from 1, from which on the most probable class is the answer and stays it."""
        leaders = self.leaders
        others = [step for step, leader in enumerate(leaders, 1) if leader != leaders[-1]]
        return (max(others, default=0) + 1) * self.rows_per_step

    @property
    def is_values(self) -> bool:
        """Whether the input is a sequence of values; else it is a picture."""
        return self.prediction.sequence is not None and self.prediction.sequence.dtype != np.uint8

    @property
    def n_rows(self) -> int:
        return len(self.probabilities) * self.rows_per_step

    def to_json(self) -> dict[str, Any]:
        """The answer, and what it would have been after each row."""
        rows = [
            {
                "row": (step + 1) * self.rows_per_step, "best": self.class_names[leader],
                "probability": float(shares[leader]),
                "probabilities": dict(zip(self.class_names, shares.tolist(), strict=True)),
            }
            for step, (leader, shares) in enumerate(zip(self.leaders, self.probabilities, strict=True))
        ]  # fmt: skip
        return {**self.prediction.to_json(), "settled_at_row": self.settled_at_row, "rows": rows}


def explain(
    source: Source,
    model: ModelSource | None = None,
    *,
    provider: AnyProvider = "cpu",
    channels_first: bool = False,
) -> Explanation:
    """Read one picture or sequence of values on the CPU, and each of its beginnings.

    All is what Classifier takes. Raises PictureError or DataError if it cannot be read or is empty, ModelError if the
    model cannot be run.
    """
    file = open_model(default_model() if model is None else model)
    prediction = Classifier(file, provider=provider, channels_first=channels_first).classify(source)
    assert prediction.sequence is not None, "classify raises where there are no pixels"
    if prediction.confidence is None:
        raise PictureError(
            f"{printable(prediction.source)} holds nothing to explain ({prediction.note})",
            expected="a picture with a digit",
        )
    config = file.contract.config
    shares = probabilities(
        logits_of_beginnings(Stream(file, provider=provider), prediction.sequence), file.contract.temperature
    )
    return Explanation(prediction, config.class_names, config.rows_per_step, shares)


def logits_of_beginnings(stream: Stream, sequence: Sequences) -> Logits:
    """(rows, cols) -> (T, classes): the logits of the first step's rows, of the first two's, ... of all.

    Each beginning is one call from zero states, so that the last is the answer to the whole, bit for bit: an int8
    model scales its input over a call, and would round the rows of another call otherwise. Of a long sequence only the
    whole is.
    """
    n, found = stream.contract.config.rows_per_step, []
    n_steps = len(sequence) // n
    for step in range(1, n_steps + 1):
        begin = 0 if n_steps <= MAX_WHOLE or step == n_steps else (step - 1) * n
        if not begin:
            stream.reset()
        found.append(stream.push(sequence[None, begin : step * n])[0])
    stream.reset()
    return np.stack(found)


def explanation_plot(explanation: Explanation, file_format: FileFormat = "png") -> bytes:
    """The picture's bytes. Raises MissingDependencyError without matplotlib."""
    figure = new_figure(10, 5.6)
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(explanation.class_names))]
    sequence = explanation.prediction.sequence
    assert sequence is not None, "an explanation is of an input that could be read"
    if explanation.is_values:
        _draw_values(figure, sequence, explanation, colours)
        return figure_bytes(figure, file_format, dpi=120)
    picture, streams = figure.subplots(
        1, 2, width_ratios=(1, 1.25),
        gridspec_kw={"left": 0.05, "right": 0.985, "top": 0.83, "bottom": 0.1, "wspace": 0.04},
    )  # fmt: skip
    _draw_picture(picture, sequence, explanation, colours)
    _draw_streams(streams, explanation, colours)
    if row := explanation.settled_at_row - explanation.rows_per_step:  # a line above it, unless it is the first
        for axes in (picture, streams):
            axes.plot([0, 1], [row, row], transform=axes.get_yaxis_transform(), color=INK, linewidth=0.8, zorder=3)
    _draw_title(figure, explanation, colours, "below the line", (
        "a stream is as wide as its class is probable, if the picture ended there;\n"
        "each row of the picture has the colour of the class then ahead"
    ))  # fmt: skip
    return figure_bytes(figure, file_format, dpi=120)


def _draw_values(figure: "Figure", values: Sequences, explanation: Explanation, colours: list[str]) -> None:
    """Each column as a line over time, one above the other, each from its least to its largest; below, each class."""
    lines, classes = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"left": 0.09, "right": 0.9, "top": 0.83, "bottom": 0.09, "hspace": 0.1}
    )
    n_rows, n_cols = len(values), min(values.shape[1], MAX_COLUMNS)
    at = np.arange(1, n_rows + 1)
    for index, column in enumerate(values.T[:n_cols].astype(np.float64)):
        low, high = column.min(), column.max()
        lines.plot(at, (column - low) / ((high - low) or 1) * 0.9 - index, color=INK, linewidth=0.9)
        label = {"fontsize": 8, "color": FAINT, "va": "center", "transform": lines.get_yaxis_transform()}
        lines.text(-0.01, 0.45 - index, f"column {index + 1}", ha="right", **label)
        lines.text(1.01, 0.45 - index, f"{low:.3g} to {high:.3g}", **label)
    if more := values.shape[1] - n_cols:
        lines.text(0, 1.01, f"and {more:,} more columns", fontsize=8, color=FAINT, transform=lines.transAxes)
    lines.set(ylim=(0.9 - n_cols, 1), yticks=[])
    ends = np.arange(1, len(explanation.probabilities) + 1) * explanation.rows_per_step
    place = 2.0
    for index in np.argsort(-explanation.probabilities[-1], kind="stable").tolist():
        shares = explanation.probabilities[:, index]
        if shares.max() >= 0.05:
            classes.plot(ends, shares, color=colours[index], linewidth=2.5 if place == 2 else 1.2)
        if shares[-1] >= 0.05:
            place = min(float(shares[-1]), place - 0.08)  # no name upon another
            style = {
                "color": colours[index],
                "va": "center",
                "transform": classes.get_yaxis_transform(),
                "parse_math": False,
            }
            classes.text(1.01, place, printable(explanation.class_names[index], 12), **style)
    led = sorted(set(explanation.leaders))
    handles = [classes.plot([], [], color=colours[index])[0] for index in led]
    legend = classes.legend(handles, ["name"] * len(led), loc="center left", fontsize=8, framealpha=0.7)
    for text, index in zip(legend.get_texts(), led, strict=True):
        text.set(text=printable(explanation.class_names[index], 20), parse_math=False)
    classes.set(ylim=(0, 1.02), xlim=(0.5, n_rows + 0.5), xlabel="row", ylabel="probability")
    for axes in (lines, classes):
        axes.axvline(explanation.settled_at_row - 0.5, color=INK, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_title(figure, explanation, colours, "right of the line", (
        "above, each column from its least to its largest value;\nbelow, each class, if the sequence ended there"
    ))  # fmt: skip


def _draw_picture(axes: "Axes", pixels: Sequences, explanation: Explanation, colours: list[str]) -> None:
    """The input, each row in the colour of the class that was ahead once it had been read; its name beside it."""
    from matplotlib.colors import to_rgba_array

    leaders, n = explanation.leaders, explanation.rows_per_step
    rows, cols = pixels.shape
    row_colours = np.repeat(to_rgba_array([colours[leader] for leader in leaders]), n, axis=0)  # (rows, RGBA)
    image = np.repeat(row_colours[:, None], cols, axis=1)
    image[:, :, 3] = pixels / 255
    axes.set_facecolor("#f5f5f3")
    axes.imshow(image, extent=(0, cols, rows, 0), aspect="equal", interpolation="nearest")
    axes.set_anchor("E")
    for step, (before, leader) in enumerate(zip([None, *leaders], leaders, strict=False)):
        if leader != before:
            axes.text(
                cols - 0.5, (step + 0.5) * n, explanation.class_names[leader], ha="right", va="center", fontsize=8,
                color=colours[leader], fontweight="bold", parse_math=False,
            )  # fmt: skip
    named = [1, *range(7, rows, 7), rows]
    axes.set(xticks=[], yticks=[row - 0.5 for row in named], yticklabels=named)
    axes.tick_params(length=0, labelsize=9, labelcolor=FAINT)
    axes.spines[:].set_visible(False)


def _draw_streams(axes: "Axes", explanation: Explanation, colours: list[str]) -> None:
    """A stream for each class, at each row as wide as its probability there."""
    n_steps, rows, answer = len(explanation.probabilities), explanation.n_rows, explanation.leaders[-1]
    shares = np.pad(explanation.probabilities, ((1, 1), (0, 0)), mode="edge")  # known amid a step; drawn to both ends
    at = np.clip(np.arange(n_steps + 2) - 0.5, 0, n_steps) * explanation.rows_per_step
    for index, (name, colour) in enumerate(zip(explanation.class_names, colours, strict=True)):
        half = np.maximum(0.46 * shares[:, index], 0.012)  # a thread at least, so that the eye can follow
        axes.fill_betweenx(at, index - half, index + half, color=colour, linewidth=0, zorder=2)
        weight, ink = ("bold", INK) if index == answer else ("normal", FAINT)
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": weight, "parse_math": False}
        axes.text(index, -1.1, name, fontsize=14, color=colour, **style)
        if (share := shares[-1, index]) >= 0.005:
            axes.text(index, rows + 1.1, f"{100 * share:.0f} %", fontsize=9, color=ink, **style)
    axes.set(xlim=(-0.6, len(colours) - 0.4), ylim=(rows, 0))
    axes.axis("off")


def _draw_title(figure: "Figure", explanation: Explanation, colours: list[str], side: str, legend: str) -> None:
    answer, left, top = explanation.leaders[-1], 0.048, 0.925
    figure.text(left, top, "Read as", fontsize=20, color=INK)
    figure.text(
        0.163,
        top,
        explanation.class_names[answer],
        fontsize=20,
        color=colours[answer],
        fontweight="bold",
        parse_math=False,
    )
    settled = f"settled at row {explanation.settled_at_row} of {explanation.n_rows}, {side}"
    figure.text(left, top - 0.05, settled, fontsize=10, color=FAINT)
    figure.text(0.985, top, legend, fontsize=9, color=FAINT, ha="right", linespacing=1.5)
