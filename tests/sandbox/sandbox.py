"""The sandbox itself: two TLS servers and a proxy in a thread, as long as a `with` block lasts."""

import asyncio
import os
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from itertools import chain, cycle, repeat
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from typing_extensions import Self

from .answers import Answer, Fault
from .proxy import Proxy, Tunnel
from .services import GRAPH_HOST, SIGN_IN_HOST, Entra, Graph, Request, Resource, Service

CLIENT_ID = "5a9db0c5-0000-4000-8000-00000000c11e"

USER: dict[str, Any] = {
    "businessPhones": ["+44 20 7946 0000"],
    "displayName": "Ada Lovelace",
    "givenName": "Ada",
    "jobTitle": "Analyst",
    "mail": "ada@sandbox.example",
    "mobilePhone": None,
    "officeLocation": "Room 7",
    "preferredLanguage": "en-GB",
    "surname": "Lovelace",
    "userPrincipalName": "ada@sandbox.example",
    "id": "5a9db0c5-0000-4000-8000-0000000000ad",
}
"""What Graph says of the sandbox's user: the properties that it sends by default."""

_browser = Path(__file__).with_name("browser.py")
BROWSER = f"{shlex.join([Path(sys.executable).as_posix(), _browser.as_posix()])} %s &"
"""What Python's webbrowser module starts in the background, as its & says."""

INHERITED_NEVER = {
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
}
"""Variables, and their lower-case forms, that would lead a program past the sandbox."""


class Sandbox:
    """Entra and Graph on this machine, as a context manager.

    A sign-in is approved after `pending` polls that find it pending, or never if `pending` is None.
    `interval` is the pause between two polls and `expires_in` the life of a device code, both in
    seconds. `user` is what Graph says of the user at /me, `resources` what it says at other paths,
    such as {"/me/drive": Resource("Files.Read", {"id": "1"})}. `sign_in_host` and `graph_host` are
    those of another cloud. `requests` lists all that arrived, in order.

    Raises ValueError for an interval of less than 1 s.
    """

    def __init__(
        self,
        *,
        pending: int | None = 1,
        interval: int = 5,
        expires_in: int = 900,
        user: dict[str, Any] = USER,
        resources: Mapping[str, Resource] = {},
        sign_in_host: str = SIGN_IN_HOST,
        graph_host: str = GRAPH_HOST,
    ) -> None:
        if interval < 1:
            raise ValueError("interval must be at least 1 s: MSAL polls without a pause at 0")
        self.client_id = CLIENT_ID
        self.requests: list[Request] = []
        context = f"https://{graph_host}/v1.0/$metadata#users/$entity"
        answers = {"/me": Resource("User.Read", {"@odata.context": context, **user}), **resources}
        self._entra = Entra(
            self.client_id,
            user,
            {resource.permission for resource in answers.values()},
            host=sign_in_host,
            graph_host=graph_host,
            pending=pending,
            interval=interval,
            expires_in=expires_in,
        )
        self._graph = Graph(self._entra, answers)
        self._replaced: dict[str, Iterator[Answer | None]] = {}
        self._changed = threading.Condition()
        self._stop: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-")))
            authority = trustme.CA()
            self._ca_file = folder / "ca.pem"
            authority.cert_pem.write_to_path(self._ca_file)
            certificate = authority.issue_cert(self._entra.host, self._entra.graph_host)
            certificate_file = folder / "server.pem"
            certificate.private_key_and_cert_chain_pem.write_to_path(certificate_file)

            started: Future[int] = Future()
            thread = threading.Thread(
                target=self._run, args=(certificate_file, started), name="sandbox"
            )
            thread.start()
            undo.callback(thread.join)
            self._port = started.result()
            undo.callback(self._stop)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def address(self) -> str:
        """The URL of the proxy that leads to the two services."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a program that is to run in the sandbox, as a new dict.

        It is this process's own, without what would lead the program elsewhere or configure it,
        and with a browser that signs in by itself.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.upper() not in INHERITED_NEVER and not name.upper().startswith("AZURE_")
        }
        return {
            **kept,
            "AZURE_CLIENT_ID": self.client_id,
            "BROWSER": BROWSER,
            "HTTP_PROXY": self.address,
            "HTTPS_PROXY": self.address,
            "REQUESTS_CA_BUNDLE": str(self._ca_file),
            "SSL_CERT_FILE": str(self._ca_file),
        }

    @property
    def secrets(self) -> set[str]:
        """The device codes and tokens that were given out so far: none may ever be printed."""
        return self._entra.secrets

    def replace(self, endpoint: str, *answers: Answer | None, times: int | None = 1) -> None:
        """Gives `answers`, `times` times over, in place of the next ones of `endpoint`.

        `endpoint` is one that a `Request` can name: "discovery", "devicecode", "token" or "me", for
        example, or one of the two host names for the answer to its next CONNECT. None as an answer
        is the one that would be given anyway; None as `times` is for good.

        Raises ValueError for an endpoint that the sandbox does not have.
        """
        known = {self._entra.host, self._entra.graph_host}
        known |= {
            name for service in (self._entra, self._graph) for name, *_ in service.endpoints()
        }
        if endpoint not in known:
            raise ValueError(f"no endpoint {endpoint!r}, but {', '.join(sorted(known))}")
        rounds = cycle(answers) if times is None else chain(*repeat(answers, times))
        self._replaced[endpoint] = chain(self._replaced.get(endpoint, ()), rounds)

    def require_claims(self, claims: dict[str, Any]) -> None:
        """Makes Graph challenge every access token that was issued without `claims`.

        `claims` are an access token's, for example {"nbf": {"essential": True, "value": "1"}}.
        """
        self._graph.required_claims = claims

    def wait_for(self, endpoint: str, count: int = 1, timeout: float = 30.0) -> None:
        """Waits until `count` requests for `endpoint` have arrived.

        Raises TimeoutError after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: sum(request.endpoint == endpoint for request in self.requests) >= count,
                timeout,
            ):
                raise TimeoutError(f"no {endpoint} request number {count} within {timeout} s")

    def _record(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def _next_replaced(self, endpoint: str) -> Answer | None:
        return next(self._replaced.get(endpoint, iter(())), None)

    def _run(self, certificate_file: Path, started: "Future[int]") -> None:
        # Windows' default loop cannot reset a connection, and keeps one open that a client resets.
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(self._serve(certificate_file, started))
        finally:
            loop.close()

    async def _serve(self, certificate_file: Path, started: "Future[int]") -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        stop = asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        ports: dict[str, int] = {}
        proxy = Proxy(ports, self._next_replaced, self._record)
        # As the real hosts do, only Graph offers HTTP/2.
        hosts: list[tuple[str, Service, list[str]]] = [
            (self._entra.host, self._entra, ["http/1.1"]),
            (self._entra.graph_host, self._graph, ["h2", "http/1.1"]),
        ]
        servers = []
        try:
            for host, service, protocols in hosts:
                listening = socket.create_server(("127.0.0.1", 0))
                ports[host] = listening.getsockname()[1]
                config = Config()
                config.bind = [f"fd://{listening.detach()}"]
                config.certfile = config.keyfile = str(certificate_file)
                config.alpn_protocols = protocols
                config.include_server_header = False
                # Hypercorn's own 5 s would end a connection just when the next poll is sent on it.
                config.keep_alive_timeout = 900
                config.loglevel = "WARNING"
                app = Starlette(routes=list(self._routes(host, service, proxy)))
                serving = serve(cast(Framework, app), config, shutdown_trigger=stop.wait)
                servers.append(asyncio.create_task(serving))
            front = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
            started.set_result(front.sockets[0].getsockname()[1])
        except BaseException as error:
            started.set_exception(error)
            raise
        await stop.wait()
        front.close()
        await proxy.close()
        await asyncio.gather(*servers)

    def _routes(self, host: str, service: Service, proxy: Proxy) -> Iterator[Route]:
        def endpoint_of(name: str, answer: Callable[..., Answer]) -> Callable[..., Any]:
            async def endpoint(http_request: HttpRequest) -> _Play:
                query = http_request.url.query
                request = Request(
                    name,
                    host,
                    http_request.method,
                    http_request.url.path + (query and f"?{query}"),
                    dict(http_request.headers),
                    await http_request.body(),
                    http_request.scope["http_version"],
                )
                self._record(request)
                replaced = self._next_replaced(name)
                if replaced and replaced.fault is Fault.REFUSED:
                    refusals = self._replaced.get(host, ())
                    self._replaced[host] = chain([replaced], refusals)
                client = http_request.client
                assert client is not None
                given = replaced or answer(request, **http_request.path_params)
                return _Play(given, proxy.tunnel(client.port))

            return endpoint

        for name, method, path, answer in service.endpoints():
            yield Route(path, endpoint_of(name, answer), methods=[method])
        yield Route("/{path:path}", endpoint_of("", service.unknown), methods=None)


class _Play:
    """Plays an answer as an ASGI response, and breaks the connection where the answer says so."""

    CUT_AFTER = 4096
    """How many bytes of a cut-off answer go out, in TLS records: more than the headers need."""

    def __init__(self, answer: Answer, tunnel: Tunnel) -> None:
        self._answer = answer
        self._tunnel = tunnel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, body = self._answer, self._answer.body
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_disconnected(receive), answer.delay)
        match answer.fault:
            case Fault.RESET:
                self._tunnel.reset()
            case Fault.REFUSED:
                self._tunnel.close()
            case Fault.CUT_OFF:
                self._tunnel.cut_after(self.CUT_AFTER)
                body += b" " * 16 * self.CUT_AFTER
        if answer.fault in (Fault.RESET, Fault.REFUSED, Fault.SILENT):
            await _disconnected(receive)
            return
        headers = {"Content-Length": str(len(body)), **answer.headers}
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # A client that goes away or does not trust the certificate is no fault of the sandbox.
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
