"""Every error a user can cause: what failed, what was found, what was expected, what to do."""

import os

MAX_PRINTED = 200
"""Characters of a foreign text that reach one line of a terminal."""


def printable(text: str | os.PathLike[str], limit: int = MAX_PRINTED) -> str:
    """A text from a file, a name or a path, safe for one line of a terminal, at most ``limit`` characters.

    Control characters, escape sequences, line ends and lone surrogates come as Python would write them, so that
    no file can forge a line of output. An empty text comes as ''.
    """
    line = os.fsdecode(text)
    if not line.isprintable() or not line:
        line = ascii(line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


class EdgeLstmError(Exception):
    """Base of all errors that the command line prints as one line, without a traceback.

    The text is built from its parts, so no message forgets to say what to do:
    ``what: found X, expected Y; fix``.
    """

    def __init__(self, what: str, *, found: object = None, expected: object = None, fix: str | None = None) -> None:
        parts = []
        if found is not None:
            parts.append(f"found {found}")
        if expected is not None:
            parts.append(f"expected {expected}")
        text = what + (": " + ", ".join(parts) if parts else "") + (f"; {fix}" if fix else "")
        text = " ".join(text.split())  # one line, whatever a library put into its message
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))
        self.what = what


class DataError(EdgeLstmError, OSError):
    """MNIST could not be found, fetched, read, or is not what it claims to be."""


class PictureError(EdgeLstmError, ValueError):
    """A picture file cannot be turned into digit pixels."""


class ModelError(EdgeLstmError, ValueError):
    """An ONNX file is damaged, or does not keep the model contract."""


class CheckpointError(EdgeLstmError, ValueError):
    """A checkpoint is damaged, or belongs to another model or run."""


class ProviderError(EdgeLstmError, RuntimeError):
    """The requested execution provider does not run the LSTM node."""


class ParityError(EdgeLstmError, ArithmeticError):
    """Two implementations of the same model disagree."""


class TrainingError(EdgeLstmError, ArithmeticError):
    """Training cannot go on, for example because the loss is not finite."""


class OutputError(EdgeLstmError, OSError):
    """A result cannot be written where it was asked for."""


class MissingDependencyError(EdgeLstmError, ImportError):
    """A package of one of the extras is not installed."""

    def __init__(self, package: str, *extras: str, purpose: str) -> None:
        commands = " or ".join(f'pip install "edgelstm[{extra}]"' for extra in extras)
        super().__init__(f"{purpose} needs the package {package}, which is not installed", fix=f"run {commands}")
