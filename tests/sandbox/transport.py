"""The way to an answer: a proxy on 127.0.0.1 and, behind it, Hypercorn for each of the hosts."""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

from .answers import Answer, Fault, Request

BACKLOG = 1024  # clients that may wait to be let in


def reset(writer: asyncio.StreamWriter) -> None:
    # Closing a socket that may linger for 0 s resets its connection.
    no_linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    writer.transport.abort()


async def respond(send: ASGISendCallable, answer: Answer) -> None:
    # To a client to cut off, one byte more is announced than comes.
    cut_off = answer.fault is Fault.CUT_OFF
    sent = {"Content-Length": str(len(answer.body) + cut_off), **answer.headers}
    raw = [(name.lower().encode(), sent[name].encode("latin-1")) for name in sent]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body, "more_body": cut_off})


@dataclass
class Transport:
    """The proxy and the servers, as long as `serving` lasts.

    `hosts` has the protocols that each host offers; `certificate` is the file with the certificate
    of all and its key. A server ends a connection after `calls` requests. `connect` returns what
    the proxy answers (after a 200, the client goes on to the host), `answer` what the host answers.
    What goes wrong in either is given to `failed` and answered with 500.
    """

    hosts: Mapping[str, list[str]]
    certificate: str
    calls: int
    connect: Callable[[Request], Answer]
    answer: Callable[[Request], Answer]
    failed: Callable[[Exception], None]
    _ports: dict[str, int] = field(default_factory=dict)
    _clients: set[asyncio.StreamWriter] = field(default_factory=set)
    _tunnels: dict[int, asyncio.StreamWriter] = field(default_factory=dict)  # to whom a port leads
    _cut_off: set[asyncio.StreamWriter] = field(default_factory=set)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Serve on a free port of 127.0.0.1, which is yielded, and leave nothing behind."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as servers:
            for host in self.hosts:
                app, config = partial(self._app, host), self._configured(host)
                servers.create_task(serve(app, config, shutdown_trigger=ended.wait))
            proxy = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=BACKLOG)
            yield proxy.sockets[0].getsockname()[1]
            proxy.close()
            for client in self._clients:
                client.transport.abort()  # Hypercorn would wait for the connections that are open.
            ended.set()

    def _configured(self, host: str) -> Config:
        listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._ports[host] = listening.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.certfile = config.keyfile = self.certificate
        config.alpn_protocols = self.hosts[host]
        config.loglevel = "ERROR"
        # Hypercorn's own 5 s would end a connection just when the next poll is sent on it.
        config.keep_alive_timeout = 900
        config.keep_alive_max_requests = self.calls
        return config

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            await self._proxy(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client went away.
        except Exception as error:  # noqa: BLE001, it is raised at the end
            self.failed(error)
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
        self._clients.discard(writer)
        writer.close()

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what a client asks the proxy for (RFC 9110 section 9.3.6)."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode("latin-1").split(" ", 2)
        host = urlsplit(f"//{target}" if method == "CONNECT" else target).hostname or ""
        answer = self.connect(Request(host, method, target))
        await asyncio.sleep(answer.delay)
        status = HTTPStatus(answer.status)
        writer.write(f"HTTP/1.1 {status} {status.phrase}\r\n\r\n".encode())
        if answer.fault is Fault.SILENT:  # as of a host that is reached and says nothing
            await reader.read()
        elif status == HTTPStatus.OK:
            from_host, to_host = await asyncio.open_connection("127.0.0.1", self._ports[host])
            port = to_host.get_extra_info("sockname")[1]
            self._tunnels[port] = writer
            await asyncio.gather(self._pass_on(reader, to_host), self._pass_on(from_host, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # The other end may be gone; one to cut off still gets some.
            while writer not in self._cut_off and (data := await reader.read(65536)):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _app(
        self, host: str, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] == "http":
            try:
                await self._serve(host, scope, receive, send)
            except Exception as error:  # noqa: BLE001, it is raised at the end
                self.failed(error)
                await respond(send, Answer(500, repr(error).encode()))

    async def _serve(
        self, host: str, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer a request, or break the connection (https://asgi.readthedocs.io)."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # The client went away.
            body, more = body + message["body"], message["more_body"]
        path = scope["path"] + (b"?" + scope["query_string"]).decode().rstrip("?")
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(host, scope["method"], path, headers, body, scope["http_version"])
        answer = self.answer(request)
        client = self._tunnels[(scope["client"] or ("", 0))[1]]
        await asyncio.sleep(answer.delay)
        if answer.fault is Fault.CUT_OFF:
            self._cut_off.add(client)
        if answer.fault is Fault.RESET:
            reset(client)
        elif answer.fault is not Fault.SILENT:
            await respond(send, answer)
        if answer.fault:
            await receive()  # until the client is gone
