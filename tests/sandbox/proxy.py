"""An HTTPS proxy that plays the hosts it is asked to connect to, on the very same connection."""

import asyncio
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from .answers import Answer, Fault
from .services import Request


class Proxy:
    """The proxy: it serves as long as `serving` lasts.

    `hosts` has the TLS settings of each host that it plays. `answer` returns a host's answer to a
    request, `replaced` the answer to give to a CONNECT to a host instead of playing it, or None.
    `record` gets every request that reaches no host. `errors` are what went wrong in the proxy and
    in the three, apart from clients that went away or did not trust the certificate.
    """

    def __init__(
        self,
        hosts: Mapping[str, ssl.SSLContext],
        answer: Callable[[Request], Answer],
        replaced: Callable[[str], Answer | None],
        record: Callable[[Request], None],
    ) -> None:
        self._hosts = hosts
        self._answer = answer
        self._replaced = replaced
        self._record = record
        self._config = Config()
        self._config.include_server_header = False
        # Hypercorn's own 5 s would end a connection just when the next poll is sent on it.
        self._config.keep_alive_timeout = 900
        self._context = WorkerContext(None)
        self.errors: list[BaseException] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Serves on a free port of 127.0.0.1, which it yields, and in the end leaves nothing."""
        asyncio.get_running_loop().set_exception_handler(self._callback_failed)
        clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client = asyncio.create_task(self._serve(reader, writer))
            clients[client] = writer
            client.add_done_callback(ended)

        def ended(client: asyncio.Task[None]) -> None:
            del clients[client]
            if not client.cancelled() and (error := client.exception()):
                self.errors.append(error)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for client, writer in clients.items():
                if not writer.get_extra_info("ssl_object"):
                    client.cancel()  # It waits for the client, before or in the TLS handshake.
                writer.transport.abort()
            # Hypercorn would wait for the next request of a connection that has ended.
            await self._context.terminated.set()
            await asyncio.gather(*clients, return_exceptions=True)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(context["message"])
        if not isinstance(error, OSError):
            self.errors.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split(" ", 2)
            # https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            url = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host = url.hostname or ""
            known = method == "CONNECT" and host in self._hosts and url.port == 443
            answer = self._replaced(host) if known else Answer(HTTPStatus.FORBIDDEN)
            if answer:
                self._record(Request(host if known else "", host, method, url.path))
                if answer.fault is Fault.SILENT:  # It is the host behind the proxy that is silent.
                    await _send_plain(writer, Answer())
                await _play(answer, writer, reader.read, partial(_send_plain, writer))
            else:
                await self._play_host(host, reader, writer)
        except* (OSError, asyncio.IncompleteReadError):
            pass  # The client went away, or does not trust the certificate.
        finally:
            writer.close()

    async def _play_host(
        self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await _send_plain(writer, Answer())
        await writer.start_tls(self._hosts[host])

        async def app(
            scope: Scope,
            receive: ASGIReceiveCallable,
            send: ASGISendCallable,
            sync_spawn: object,
            call_soon: object,
        ) -> None:
            try:
                if request := await _read(host, scope, receive):
                    await _play(self._answer(request), writer, receive, partial(_send, send))
            except Exception as error:
                self.errors.append(error)
                raise  # Hypercorn prints it and answers 500.

        loop = asyncio.get_running_loop()
        await TCPServer(app, loop, self._config, self._context, {}, reader, writer)


async def _read(host: str, scope: Scope, receive: ASGIReceiveCallable) -> Request | None:
    """Returns the request of an ASGI scope, or None if the client goes away meanwhile."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message["body"]
        more = message["more_body"]
    query = scope["query_string"].decode()
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    path = scope["path"] + (query and f"?{query}")
    return Request("", host, scope["method"], path, headers, body, scope["http_version"])


async def _play(
    answer: Answer,
    writer: asyncio.StreamWriter,
    gone: Callable[[], Awaitable[object]],
    send: Callable[[Answer], Awaitable[None]],
) -> None:
    """Gives an answer, or breaks the connection, unless the client has `gone` before."""
    with suppress(TimeoutError):
        await asyncio.wait_for(gone(), answer.delay)
        return
    if answer.fault is Fault.RESET:
        # Closing a socket that may linger for 0 s resets its connection.
        no_linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        writer.transport.abort()
    elif answer.fault is not Fault.SILENT:
        await send(answer)
    if answer.fault is Fault.CUT_OFF:
        writer.close()
    elif answer.fault:
        await gone()


async def _send(send: ASGISendCallable, answer: Answer) -> None:
    cut_off = answer.fault is Fault.CUT_OFF
    headers = {"Content-Length": str(len(answer.body) + cut_off), **answer.headers}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body, "more_body": cut_off})


async def _send_plain(writer: asyncio.StreamWriter, answer: Answer) -> None:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
