"""Tests of edgelstm.web.server: it gives its own files to this machine, and nothing else."""

import http.client
import socket
import threading
from http import HTTPStatus
from pathlib import Path

import pytest

from edgelstm.errors import OutputError
from edgelstm.web.page import Page
from edgelstm.web.server import HEADERS, HOST, MAX_THREADS, DemoServer, Handler

PAGE = Page(b"<!doctype html>", "default-src 'none'; script-src 'sha256-x'")
TIMEOUT_S = 60


@pytest.fixture
def server():
    with DemoServer(PAGE, port=0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=TIMEOUT_S)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def ask_raw(server, request):
    with socket.create_connection((HOST, server.server_port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("path", ["/", "/?v=2"])
def test_the_page_is_at_the_root(server, path):
    answer, content = ask(server, path)
    assert (200, PAGE.html, "text/html; charset=utf-8") == (answer.status, content, answer.headers["Content-Type"])
    assert answer.headers["Content-Length"] == str(len(content))


def test_the_page_is_isolated_and_may_reach_nothing_else(server):
    headers = ask(server, "/")[0].headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == f"{PAGE.policy}; frame-ancestors 'none'"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/../../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e%5c%2e%2e%5cetc", "/....//etc/passwd", "//etc/passwd", "/etc/passwd", "/folder/../../demo.py",
        "/folder", "/folder/", "/./", "/.", "/%2f", "/index.html", "/index.html%00", "/page.py",
        "/static/engine.wasm", "/http://example.org/", "/.git/config", "/x" * 4000,
    ],
)  # fmt: skip
def test_a_path_that_leads_anywhere_else_is_not_found(server, path):
    answer, content = ask(server, path)
    assert (answer.status, content) == (404, b"404 Not Found\n")


@pytest.mark.parametrize("target", [b"../etc/passwd", b"http://127.0.0.1/../etc/passwd", b"*", b"/..\\..\\etc"])
def test_a_request_line_of_another_kind_is_not_found(server, target):
    answer = ask_raw(server, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:80]


def test_nothing_is_read_while_serving(server, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *a, **k: pytest.fail("a file was opened"))
    monkeypatch.setattr(Path, "read_bytes", lambda *a: pytest.fail("a file was read"))
    assert ask(server, "/")[1] == PAGE.html


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_gives(server, method):
    assert ask(server, "/", method)[0].status == 501


def test_head_gives_the_same_without_the_content(server):
    answer, content = ask(server, "/", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], content) == (200, str(len(PAGE.html)), b"")


@pytest.mark.parametrize("host", ["example.org", "example.org:8028", "127.0.0.1.example.org"])
def test_another_sites_name_for_this_machine_gets_nothing(server, host):
    answer, content = ask(server, "/", Host=host)
    assert (answer.status, b"html" in content) == (421, False)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:8028"])
def test_this_machines_own_names_are_welcome(server, host):
    assert ask(server, "/", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "host", ["", "[::1", "[", "evil.com@127.0.0.1", "127.0.0.1:x", "127.0.0.1/a", "127.0.0.1 evil.com", "a?b", "[::1]x"]
)
def test_what_is_no_hosts_name_is_a_bad_request(server, host, capfd):
    answer, content = ask(server, "/", Host=host)
    assert (answer.status, content) == (400, b"400 Bad Request\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.com\r\n"])
def test_a_request_names_one_host(server, hosts):
    assert ask_raw(server, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n").startswith(b"HTTP/1.1 400 ")


SECOND = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Content-Length: %d" % len(SECOND), 400), (b"Transfer-Encoding: chunked", 400), (b"Content-Length: 0", 200),
        (b"Connection: keep-alive", 200),
    ],
)  # fmt: skip
def test_what_follows_a_request_is_never_read_as_another(server, header, status):
    first = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n"
    answer = ask_raw(server, first + SECOND)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:80]
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST / HTTP/1.1", 501), (b"GET / HTTP/9.9", 505), (b"GET", 400), (b"GET  / / HTTP/1.1", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1", 414), (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost", 404), (b"GET / HTTP/1.1\r\nHost: example.org", 421),
    ],
)  # fmt: skip
def test_every_error_comes_with_the_security_headers(server, request_line, status):
    head, _, content = ask_raw(server, request_line + b"\r\n\r\n").partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first.split()[1] == str(status), first
    assert {f"{name}: {value}" for name, value in HEADERS.items()} <= set(headers)
    assert "Content-Type: text/plain; charset=utf-8" in headers
    assert content == f"{status} {HTTPStatus(status).phrase}\n".encode()


def test_more_connections_than_threads_wait_for_their_turn(server, monkeypatch):
    address = (HOST, server.server_port)
    silent = [socket.create_connection(address, TIMEOUT_S) for _ in range(MAX_THREADS)]
    with socket.create_connection(address, TIMEOUT_S) as late:
        late.sendall(SECOND)
        late.settimeout(0.5)
        with pytest.raises(TimeoutError):
            late.recv(1)
        silent[0].close()
        late.settimeout(TIMEOUT_S)
        assert late.recv(12) == b"HTTP/1.1 200"
    for connection in silent:
        connection.close()


def test_many_may_come_at_once(server):
    assert server.request_queue_size >= 2 * MAX_THREADS


@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError, TimeoutError])
def test_a_browser_that_hangs_up_is_not_spoken_of(server, error, monkeypatch, capfd):
    monkeypatch.setattr(Handler, "do_GET", lambda self: (_ for _ in ()).throw(error))
    assert ask_raw(server, SECOND) == b""
    assert capfd.readouterr() == ("", "")


def test_an_error_of_our_own_is_shown(server, monkeypatch, capfd):
    monkeypatch.setattr(Handler, "do_GET", lambda self: 1 / 0)
    assert ask_raw(server, SECOND) == b""
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert ask_raw(server, SECOND) == b""  # it goes on


@pytest.mark.parametrize("junk", [b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\0"])
def test_junk_does_not_end_it(server, junk, capfd):
    ask_raw(server, junk)
    assert ask(server, "/")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_it_listens_on_this_machine_only_unless_told_otherwise(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_busy_port_is_one_clear_line(server):
    port = server.server_port
    with pytest.raises(OutputError, match=rf"port {port} is busy: found another program there; choose another with"):
        DemoServer(PAGE, port=port)


def test_an_address_of_another_machine_is_one_clear_line():
    with pytest.raises(
        OutputError, match=r"cannot listen on 192\.0\.2\.1, port 0: found .*; choose an address of this"
    ):
        DemoServer(PAGE, host="192.0.2.1", port=0)


def test_a_name_that_nobody_knows_is_one_clear_line(monkeypatch):
    def unknown(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket.socket, "bind", unknown)
    with pytest.raises(OutputError, match=r"cannot listen on nowhere, port 0: found Name or service not known"):
        DemoServer(PAGE, host="nowhere", port=0)
