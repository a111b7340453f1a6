"""`edgelstm demo`: serve the page where a digit is drawn and read, or write it as files."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import click

from edgelstm.cli.options import model_option, model_to_use, say


@click.command(epilog="Example: edgelstm demo")
@model_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets the network in."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8028, show_default=True, help="0 takes any free one.")
@click.option("--no-open", is_flag=True, help="Do not open the browser.")
@click.option(
    "--export", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Write the page as static files for any web server instead.",
)  # fmt: skip
def command(model: str | None, host: str, port: int, no_open: bool, folder: Path | None) -> None:
    """Serve a page where one draws a digit and the browser reads it.

    It needs a picture model of digits of 28x28 pixels, as all that ship; one of values, or of pictures as they are,
    is refused. The page comes with edgelstm. onnxruntime-web, which runs the model in the browser, is fetched once
    (33 MB) through npm into the user's cache folder; after that no network is needed, and nothing is ever sent.
    """
    from edgelstm.web.page import build_page, ensure_runtime, export_page

    page = build_page(model_to_use(model))  # a wrong model is refused before anything is fetched
    page |= ensure_runtime(report=say)
    if folder is None:
        return _serve(page, host, port, no_open)
    export_page(page, folder)
    for name, content in sorted(page.items()):
        click.echo(f"{len(content):>12,} bytes  {name}")
    click.echo(f"{sum(map(len, page.values())):>12,} bytes  {folder}")
    return say(f"next: serve it with any web server, for example python -m http.server --directory {folder}")


def _serve(page: Mapping[str, bytes], host: str, port: int, no_open: bool) -> None:
    import webbrowser

    from edgelstm.web.server import DemoServer

    with contextlib.suppress(KeyboardInterrupt), DemoServer(page, host, port) as server:
        click.echo(server.url)
        say("Ctrl-C ends it")
        if not no_open:
            webbrowser.open(server.url)
        server.serve_forever()
