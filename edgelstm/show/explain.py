"""What the network saw of one picture, row by row: the probability of each class so far, as figures and drawn."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgelstm.contract import Logits, Pixels
from edgelstm.errors import PictureError, printable
from edgelstm.onnx_file import ModelSource, default_model, open_model
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.classifier import Classifier, Prediction, Source
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


@dataclass(frozen=True)
class Explanation:
    """The answers to one picture as its rows come in, the last of which is the answer."""

    prediction: Prediction
    """What `infer` says of the picture."""
    class_names: tuple[str, ...]
    rows_per_step: int
    probabilities: npt.NDArray[np.float64]
    """(T, classes): after each step, what the answer would be if the picture ended there. The network was
    trained on whole pictures only, so it has never been asked that early."""

    @property
    def leaders(self) -> list[int]:
        """The most probable class after each step."""
        return [int(leader) for leader in self.probabilities.argmax(axis=1)]

    @property
    def settled_at_row(self) -> int:
        """The row, counted from 1, from which on the most probable class is the answer and stays it."""
        others = [step for step, leader in enumerate(self.leaders, 1) if leader != self.leaders[-1]]
        return (max(others, default=0) + 1) * self.rows_per_step

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


def explain(picture: Source, model: ModelSource | None = None) -> Explanation:
    """Read one picture on the CPU, and each of its beginnings.

    ``picture`` and ``model`` are what Classifier takes. Raises PictureError if the picture cannot be read or is
    empty, ModelError if the model cannot be run.
    """
    file = open_model(default_model() if model is None else model)
    prediction = Classifier(file, provider="cpu").classify(picture)
    assert prediction.sequence is not None, "classify raises where there are no pixels"
    if prediction.confidence is None:
        raise PictureError(
            f"{printable(prediction.source)} holds nothing to explain ({prediction.note})",
            expected="a picture with a digit",
        )
    config = file.contract.config
    shares = probabilities(logits_of_beginnings(Stream(file), prediction.sequence), file.contract.temperature)
    return Explanation(prediction, config.class_names, config.rows_per_step, shares)


def logits_of_beginnings(stream: Stream, pixels: Pixels) -> Logits:
    """(rows, cols) -> (T, classes): the logits of the first step's rows, of the first two's, ... of all.

    Each beginning is one call from zero states, so that the last is the answer to the whole picture, bit for bit: an
    int8 model scales its input over a call, and would round the rows of another call otherwise.
    """
    config, found = stream.contract.config, []
    for step in range(1, config.n_steps + 1):
        stream.reset()
        found.append(stream.push(pixels[None, : step * config.rows_per_step])[0])
    stream.reset()
    return np.stack(found)


def explanation_plot(explanation: Explanation, file_format: FileFormat = "png") -> bytes:
    """The picture's bytes. Raises MissingDependencyError without matplotlib."""
    figure = new_figure(10, 5.6)
    digit, streams = figure.subplots(
        1, 2, width_ratios=(1, 1.25),
        gridspec_kw={"left": 0.05, "right": 0.985, "top": 0.83, "bottom": 0.1, "wspace": 0.04},
    )  # fmt: skip
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(explanation.class_names))]
    _draw_digit(digit, explanation, colours)
    _draw_streams(streams, explanation, colours)
    if row := explanation.settled_at_row - explanation.rows_per_step:  # a line above it, unless it is the first
        for axes in (digit, streams):
            axes.plot([0, 1], [row, row], transform=axes.get_yaxis_transform(), color=INK, linewidth=0.8, zorder=3)
    _draw_title(figure, explanation, colours)
    return figure_bytes(figure, file_format, dpi=120)


def _draw_digit(axes: "Axes", explanation: Explanation, colours: list[str]) -> None:
    """The input, each row in the colour of the class that was ahead once it had been read; its name beside it."""
    from matplotlib.colors import to_rgba_array

    pixels, leaders, n = explanation.prediction.sequence, explanation.leaders, explanation.rows_per_step
    assert pixels is not None, "an explanation is of a picture that could be read"
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
                color=colours[leader], fontweight="bold",
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
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": weight}
        axes.text(index, -1.1, name, fontsize=14, color=colour, **style)
        if (share := shares[-1, index]) >= 0.005:
            axes.text(index, rows + 1.1, f"{100 * share:.0f} %", fontsize=9, color=ink, **style)
    axes.set(xlim=(-0.6, len(colours) - 0.4), ylim=(rows, 0))
    axes.axis("off")


def _draw_title(figure: "Figure", explanation: Explanation, colours: list[str]) -> None:
    answer, left, top = explanation.leaders[-1], 0.048, 0.925
    figure.text(left, top, "Read as", fontsize=20, color=INK)
    figure.text(0.163, top, explanation.class_names[answer], fontsize=20, color=colours[answer], fontweight="bold")
    settled = f"settled at row {explanation.settled_at_row} of {explanation.n_rows}, below the line"
    figure.text(left, top - 0.05, settled, fontsize=10, color=FAINT)
    figure.text(
        0.985, top, "a stream is as wide as its class is probable, if the picture ended there;\n"
        "each row of the picture has the colour of the class then ahead",
        fontsize=9, color=FAINT, ha="right", linespacing=1.5,
    )  # fmt: skip
