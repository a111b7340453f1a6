"""edgelstm demo"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import say

if TYPE_CHECKING:
    from edgelstm.web.page import Site


@click.command(epilog="Example: edgelstm demo")
@click.option(
    "--model",
    help="Streaming model: file, run folder, or shipped name.  [default: runs/base if exported, else base.stream]",
)
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

    The page and the model come with edgelstm. onnxruntime-web, which runs the model in the browser, is fetched
    once through npm into the user's cache folder; after that no network is needed, and nothing is ever sent.
    """
    from edgelstm.cli.stream import default_model
    from edgelstm.runtime.runner import find_model, read_model
    from edgelstm.runtime.stream import STREAM_FILE
    from edgelstm.web.page import build_site, ensure_runtime, export_site

    name = model or default_model()
    source = str(find_model(name, STREAM_FILE))
    content = read_model(name, STREAM_FILE)
    build_site(content, source, {})  # a wrong model is refused before anything is fetched
    site = build_site(content, source, ensure_runtime(report=say))
    if folder is None:
        return _serve(site, host, port, no_open)
    export_site(site, folder)
    for part, n_bytes in site.sizes().items():
        click.echo(f"{n_bytes:>12,} bytes  {part}")
    click.echo(f"{sum(site.sizes().values()):>12,} bytes  {folder}")
    return say(f"next: serve it with any web server, for example python -m http.server --directory {folder}")


def _serve(site: "Site", host: str, port: int, no_open: bool) -> None:
    import webbrowser

    from edgelstm.web.server import DemoServer

    with contextlib.suppress(KeyboardInterrupt), DemoServer(site, host, port) as server:
        click.echo(server.url)
        say("Ctrl-C ends it")
        if not no_open:
            webbrowser.open(server.url)
        server.serve_forever()
