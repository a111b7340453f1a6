"""A matplotlib figure without a screen, and its bytes: the same figure gives the same bytes."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgelstm.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FileFormat = Literal["png", "svg"]


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure of this size in inches. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "train", purpose="drawing a plot") from error
    return Figure(figsize=(width_in, height_in), facecolor="white")


def figure_bytes(figure: "Figure", file_format: FileFormat, dpi: int = 130) -> bytes:
    """The figure as a PNG or SVG file, without a date and with fixed ids."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "edgelstm"}):
        figure.savefig(buffer, format=file_format, dpi=dpi, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


def format_of(path: Path) -> FileFormat:
    """What to write into a file of this name: ``svg`` if it ends so, else ``png``."""
    return "svg" if path.suffix == ".svg" else "png"
