"""Serve the demo page: from memory, on this machine only unless told otherwise."""

import errno
import http.server
import ipaddress
import re
import socket
import sys
import threading
from http import HTTPStatus
from typing import Any

from edgelstm.errors import OutputError
from edgelstm.web.page import Page

HOST = "127.0.0.1"
PORT = 8028
TIMEOUT_S = 30
"""A client that says nothing for so long is let go."""
MAX_THREADS = 32
"""Connections answered at a time, one thread each; further ones wait in the system's backlog."""
TEXT, HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
HEADERS = {
    # isolation: a finer clock for the latency
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    # one request a connection: bytes that follow a request, such as a body, are never read as another request
    "Connection": "close",
}
HOST_HEADER = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
"""A name or address with or without a port; nothing before an @, which some would read as the host."""


class DemoServer(http.server.ThreadingHTTPServer):
    """Serves the page at /, and nothing else: there is no folder that a path could lead out of."""

    daemon_threads = True
    allow_reuse_address = False  # on Windows it would share a port that is taken
    request_queue_size = 128

    def __init__(self, page: Page, host: str = HOST, port: int = PORT) -> None:
        """Listen on ``host`` and ``port`` (0: any free one). Raises OutputError if that cannot be."""
        self.page = page
        self.is_local = _is_loopback(host)
        self._free = threading.Semaphore(MAX_THREADS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error

    @property
    def url(self) -> str:
        """The page's address on this machine."""
        host = str(self.server_address[0])
        host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, as soon as one of MAX_THREADS is free."""
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread's work."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle of an answer is not spoken of; any other error is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: the page, or an error, always with the security headers."""

    server: DemoServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # 0.9 would have no headers
    server_version, sys_version = "edgelstm", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """The page, or an error."""
        hosts = self.headers.get_all("Host", [])
        host = HOST_HEADER.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if host is None or self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return self.send_error(HTTPStatus.BAD_REQUEST)
        # by name, not by address: another site's name that points to this machine shall not read the model
        if self.server.is_local and not _is_loopback(host[1] or host[2]):
            return self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        if self.path.partition("?")[0] != "/":
            return self.send_error(HTTPStatus.NOT_FOUND)
        return self._answer(HTTPStatus.OK, HTML, self.server.page.html)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """An error in plain text; http.server calls it too, for what it does not understand."""
        status = HTTPStatus(code)
        self._answer(status, TEXT, f"{status.value} {status.phrase}\n".encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        policy = f"{self.server.page.policy}; frame-ancestors 'none'"
        headers = {"Content-Security-Policy": policy, "Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (HEADERS | headers).items():
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
        return host.lower() == "localhost"


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
