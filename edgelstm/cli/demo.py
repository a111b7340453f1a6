"""`edgelstm demo`: serve the page where a digit is drawn and read, or write it as a file."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import model_option, model_to_use, say
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.web.page import Page


def _html_file(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """A name that browsers take for a page; a folder, which it once was, is none."""
    if value is not None and (value.is_dir() or value.suffix.lower() not in (".html", ".htm")):
        found = f"{printable(value)}{', a folder' if value.is_dir() else ''}"
        raise click.BadParameter(f"found {found}, expected a file name that ends in .html")
    return value


@click.command(epilog="Example: edgelstm demo")
@model_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets the network in."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8028, show_default=True, help="0 takes any free one.")
@click.option("--no-open", is_flag=True, help="Do not open the browser.")
@click.option(
    "--export", "file", type=click.Path(path_type=Path), metavar="FILE.html", callback=_html_file,
    help="Write the page as one file instead, which any browser opens without a server.",
)  # fmt: skip
def command(model: str | None, host: str, port: int, no_open: bool, file: Path | None) -> None:
    """Serve a page where one draws a digit and the browser reads it.

    It needs a picture model of digits of 28x28 pixels, as all that ship; one of values, or of pictures as they are,
    is refused. The page is one file that holds the model, as int8, and the C engine as WebAssembly: nothing is fetched,
    nothing is sent, and its logits are those of `edgelstm compile`, bit for bit.
    """
    from edgelstm.files import write_bytes
    from edgelstm.web.page import build_page

    page = build_page(model_to_use(model))
    if file is None:
        return _serve(page, host, port, no_open)
    write_bytes(file, page.html)
    click.echo(f"wrote {printable(file)} ({len(page.html):,} bytes)")
    return say("next: open it in any browser, here or on a phone")


def _serve(page: "Page", host: str, port: int, no_open: bool) -> None:
    import webbrowser

    from edgelstm.web.server import DemoServer

    with contextlib.suppress(KeyboardInterrupt), DemoServer(page, host, port) as server:
        click.echo(server.url)
        say("Ctrl-C ends it")
        if not no_open:
            webbrowser.open(server.url)
        server.serve_forever()
