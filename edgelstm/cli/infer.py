"""edgelstm infer"""

import glob
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import json_option, provider_option, say
from edgelstm.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from edgelstm.classifier import Prediction
    from edgelstm.runtime import Provider

SHADES = " .:-=+*#%@"


@click.command(epilog="Example: edgelstm infer digit.png scans/ --top 3")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="An ONNX file, a run folder, or a shipped model's name.",
)
@provider_option
@click.option("--top", type=click.IntRange(1), help="Show the K most probable classes.", metavar="K")
@click.option("--show-input", is_flag=True, help="Draw what the network saw.")
@json_option
def command(
    images: tuple[str, ...], model: str, provider: "Provider", top: int | None, show_input: bool, as_json: bool
) -> None:
    """Read the digit in each picture.

    IMAGE is a picture file, a folder (searched with its subfolders), a glob, or - for a picture on
    standard input. One line per picture, in the order given; with --json one JSON object per line. A
    picture that cannot be read gets its own error, the others are still answered, and the exit status
    is 1.
    """
    from edgelstm.classifier import Classifier

    classifier = Classifier(model, provider=provider, top=top or 3)
    if classifier.runner.provider_note:
        say(classifier.runner.provider_note)
    n_failed = 0
    for prediction in classifier.classify_many(_pictures(images)):
        n_failed += prediction.error is not None
        if as_json:
            click.echo(json.dumps(prediction.to_json()))
        elif prediction.error is not None:
            say(f"Error: {prediction.error}")
        else:
            click.echo(_line(prediction, with_top=top is not None))
        if show_input and prediction.pixels is not None:
            click.echo(drawing(prediction), err=as_json)
    sys.exit(1 if n_failed else 0)


def _line(prediction: "Prediction", with_top: bool) -> str:
    from edgelstm.picture import printable

    shares = prediction.top if with_top else prediction.top[:1]
    line = f"{printable(prediction.image)}  " + "   ".join(f"{name}  {100 * share:.1f} %" for name, share in shares)
    return f"{line}  ({prediction.note})" if prediction.note else line


def _pictures(images: Iterable[str]) -> Iterator[str | bytes]:
    """What the arguments stand for, in order; a name that is nothing is left for the reader to refuse."""
    from edgelstm.picture import MAX_FILE_BYTES, SUFFIXES

    for image in images:
        if image == "-":
            # one byte too many is refused like a long file, and a closed input like an empty one
            yield sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if sys.stdin else b""
        elif image and Path(image).is_dir():
            paths = Path(image).rglob("*")
            yield from sorted(str(path) for path in paths if path.suffix.lower() in SUFFIXES) or [image]
        elif not Path(image).exists() and glob.has_magic(image):
            yield from sorted(glob.glob(image, recursive=True)) or [image]
        else:
            yield image


def drawing(prediction: "Prediction") -> str:
    """The model's input as text, two characters a pixel."""
    assert prediction.pixels is not None
    return "\n".join(
        "".join(SHADES[int(pixel) * len(SHADES) // 256] * 2 for pixel in row).rstrip() for row in prediction.pixels
    )
