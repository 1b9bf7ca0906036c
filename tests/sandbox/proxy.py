"""An HTTPS proxy that leads known hosts to servers here, and can break connections on the way."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from .answers import Answer, Fault
from .services import Request


class Tunnel:
    """One connection of a client, carried on to a server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._server = server
        self._left: int | None = None

    async def carry(self, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        """Carries bytes both ways until the server has ended its side, which it does last."""
        await asyncio.gather(self._upstream(client), self._downstream(server))

    async def _upstream(self, client: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await client.read(65536):
                self._server.write(data)
                await self._server.drain()
        with contextlib.suppress(OSError):
            self._server.write_eof()

    async def _downstream(self, server: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await server.read(65536):
                if self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                self._client.write(data)
                if self._left == 0:
                    self.close()
                await self._client.drain()
        self.close()

    def cut_after(self, size: int) -> None:
        """Ends the connection once `size` more bytes have gone to the client."""
        self._left = size

    def close(self) -> None:
        """Ends the connection in order, on the client's side; the server's follows."""
        self._client.close()

    def reset(self) -> None:
        """Ends the connection with a TCP reset, on the client's side; the server's follows."""
        reset(self._client)


def reset(writer: asyncio.StreamWriter) -> None:
    """Resets a TCP connection, which is what closing a socket that may linger for 0 s does."""
    no_linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    writer.transport.abort()


class Proxy:
    """The proxy: `accept` serves the connections of an asyncio.start_server.

    `ports` has the local port of each host that is played here. `replaced(host)` returns the answer
    to give to a CONNECT instead of carrying it, or None. `record` gets every request that is not
    carried.
    """

    def __init__(
        self,
        ports: Mapping[str, int],
        replaced: Callable[[str], Answer | None],
        record: Callable[[Request], None],
    ) -> None:
        self._ports = ports
        self._replaced = replaced
        self._record = record
        self._tunnels: dict[int, Tunnel] = {}
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def tunnel(self, port: int) -> Tunnel:
        """Returns the tunnel whose connection a server sees coming from the local `port`."""
        return self._tunnels[port]

    async def close(self) -> None:
        """Ends every connection, and returns when the servers have ended theirs."""
        for writer in self._clients.values():
            writer.close()
        await asyncio.gather(*self._clients)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client: what asyncio.start_server calls for each connection."""
        # A coroutine in this place could be cancelled before it begins, and close nothing.
        client = asyncio.create_task(self._serve(reader, writer))
        self._clients[client] = writer
        client.add_done_callback(lambda client: self._clients.pop(client).close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split(" ", 2)
            # https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            url = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host = url.hostname or ""
            if method != "CONNECT" or host not in self._ports or url.port != 443:
                self._record(Request("", host, method, url.path))
                await _respond(writer, Answer(HTTPStatus.FORBIDDEN))
            elif answer := self._replaced(host):
                self._record(Request(host, host, method, url.path))
                await self._replace(answer, reader, writer)
            else:
                await self._connect(self._ports[host], reader, writer)

    async def _connect(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        local_port = server_writer.get_extra_info("sockname")[1]
        tunnel = self._tunnels[local_port] = Tunnel(writer, server_writer)
        try:
            await _respond(writer, Answer())
            await tunnel.carry(reader, server_reader)
        finally:
            server_writer.close()
            del self._tunnels[local_port]

    async def _replace(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(), answer.delay)
        match answer.fault:
            case Fault.RESET:
                reset(writer)
            case Fault.REFUSED:
                await _respond(writer, Answer(HTTPStatus.BAD_GATEWAY))
            case Fault.SILENT:
                await _respond(writer, Answer())
                await reader.read()
            case Fault.CUT_OFF:
                pass
            case None:
                await _respond(writer, answer)


async def _respond(writer: asyncio.StreamWriter, answer: Answer) -> None:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
    await writer.drain()
