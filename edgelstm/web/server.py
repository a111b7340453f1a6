"""Serve the demo page: from memory, on this machine only unless told otherwise."""

import errno
import http.server
import ipaddress
import socket
import urllib.parse
from http import HTTPStatus

from edgelstm.errors import OutputError
from edgelstm.web.page import CONTENT_SECURITY_POLICY, Site

HOST = "127.0.0.1"
PORT = 8028
TIMEOUT_S = 30
"""A client that says nothing for so long is let go."""
MIME_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "wasm": "application/wasm",
    "onnx": "application/octet-stream",
}
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY + "; frame-ancestors 'none'",
    # isolation: a finer clock for the latency, and shared memory should a model ever want threads
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class DemoServer(http.server.ThreadingHTTPServer):
    """Serves exactly the files of a site, by exact address: there is no folder that a path could lead out of."""

    daemon_threads = True
    allow_reuse_address = False  # on Windows it would share a port that is taken

    def __init__(self, site: Site, host: str = HOST, port: int = PORT) -> None:
        """Listen on ``host`` and ``port`` (0: any free one). Raises OutputError if that cannot be."""
        self.files = {f"/{name}": content for name, content in site.files.items()} | {"/": site.files["index.html"]}
        self.is_local = _is_loopback(host)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        except OverflowError as error:
            raise OutputError(f"no port {port}", expected="0 to 65535", fix="choose another with --port") from error

    @property
    def url(self) -> str:
        """The page's address on this machine."""
        host = self.server_address[0]
        host = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up in the middle of an answer is nothing to speak of."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: DemoServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgelstm", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """A file of the page, or 404."""
        # by name, not by address: another site's name that points to this machine shall not read the model
        name = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if self.server.is_local and not _is_loopback(name):
            return self._answer(HTTPStatus.MISDIRECTED_REQUEST)
        path = self.path.partition("?")[0]
        content = self.server.files.get(path)
        if content is None:
            return self._answer(HTTPStatus.NOT_FOUND)
        kind = MIME_TYPES.get(path.rpartition(".")[2], MIME_TYPES["html"])
        return self._answer(HTTPStatus.OK, kind, content)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _answer(
        self, status: HTTPStatus, kind: str = "text/plain; charset=utf-8", content: bytes | None = None
    ) -> None:
        content = f"{status.value} {status.phrase}\n".encode() if content is None else content
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Requests are not worth a line each."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cannot_listen(host: str, port: int, error: OSError) -> OutputError:
    if error.errno == errno.EADDRINUSE:
        return OutputError(
            f"port {port} is busy", found="another program there",
            fix=f"choose another with --port {port + 1 if port < 65535 else port - 1}, or any free one with --port 0",
        )  # fmt: skip
    if error.errno == errno.EACCES:
        return OutputError(
            f"port {port} is not for ordinary users", expected="a port above 1023", fix=f"try --port {PORT}"
        )
    return OutputError(
        f"cannot listen on {host}, port {port}", found=error.strerror or str(error),
        fix=f"choose an address of this machine with --host, for example {HOST}",
    )  # fmt: skip
