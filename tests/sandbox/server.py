"""The way to an answer: a proxy on 127.0.0.1 that is, behind a CONNECT, each of the hosts, too."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socket import SHUT_RDWR
from socketserver import ThreadingTCPServer
from ssl import SSLContext
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

from .answers import CLOSED, Answer, Request


class Client(BaseHTTPRequestHandler):
    """One connection, in a thread of its own: first to the proxy, then over TLS to a host."""

    server: "Server"
    host = ""  # none yet
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would make each request take 40 ms

    def respond(self) -> None:
        """Answer one request, whose head http.server has read."""
        if "Transfer-Encoding" in self.headers:
            return self.send_error(411)
        body = self.rfile.read(length := int(self.headers.get("Content-Length", 0)))
        if len(body) < length:
            raise ConnectionError("The client hung up.")
        asked = urlsplit(self.path if "/" in self.path else f"//{self.path}").hostname or ""
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.host or asked, self.command, self.path, headers, body)
        answer = self.server.answer(request)
        if answer is CLOSED:
            self.close_connection = True
            return None
        connected = self.command == "CONNECT" and answer.status == 200
        self.send_response_only(answer.status)
        if not connected and answer.status != 204:  # RFC 9110 section 8.6
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        return self.go_on_to(request.host) if connected else None

    do_CONNECT = do_DELETE = do_GET = do_PATCH = do_POST = do_PUT = respond

    def go_on_to(self, host: str) -> None:
        """Be a host from now on, over TLS (RFC 9110 section 9.3.6)."""
        self.host = host
        # wrap_socket takes a socket over, so it gets another one than the server has.
        self.request = self.server.contexts[host].wrap_socket(self.request.dup(), server_side=True)
        self.setup()
        self.close_connection = False  # Python 3.11 asks to CONNECT by HTTP/1.0.

    def finish(self) -> None:
        super().finish()
        self.request.close()


class Server(ThreadingTCPServer):
    """Serves until the end of a `with` block, after which no connection and no thread is left.

    `contexts` has the TLS settings of each host. `usual` returns what a request to the proxy or to
    a host is answered; what goes wrong in it is answered with 500 and collected in `errors`.
    """

    request_queue_size = 128  # clients that may wait to be let in

    def __init__(self, contexts: dict[str, SSLContext], usual: Callable[[Request], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Client)
        self.contexts, self._usual = contexts, usual
        self.errors: list[Exception] = []
        self._ended = Event()
        self._threads_of: dict[Any, Thread] = {}
        self._accepting = Thread(target=self.serve_forever, args=[0.05])
        self._accepting.start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._accepting.join()
        self._ended.set()
        for connection in self._threads_of:
            with suppress(OSError):  # It may be closed.
                connection.shutdown(SHUT_RDWR)  # Its thread reads that it has ended.
        end = time.monotonic() + 5
        for thread in self._threads_of.values():
            thread.join(max(0, end - time.monotonic()))

    def process_request(self, request: Any, client_address: Any) -> None:
        args = [request, client_address]
        thread = Thread(target=self.process_request_thread, args=args, daemon=True)
        self._threads_of[request] = thread
        thread.start()

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request when its time has come or, if the block ends, CLOSED."""
        try:
            answer = self._usual(request)
        except Exception as error:  # noqa: BLE001, whatever it is
            self.errors.append(error)
            answer = Answer(500, repr(error).encode())
        return CLOSED if self._ended.wait(answer.delay) else answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Collect what a thread has raised, unless its client just went away."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.errors.append(error)
