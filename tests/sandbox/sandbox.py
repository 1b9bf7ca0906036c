"""The sandbox itself: both services, and the way to them, for a `with` block."""

import asyncio
import os
import re
import shlex
import sys
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Self

import trustme
from anyio.from_thread import start_blocking_portal

from . import entra, graph
from .answers import Answer, Request
from .transport import Transport
from .world import World

# What Python's webbrowser module starts, in the background (&).
SCRIPT = Path(__file__).with_name("browser.py")
BROWSER = f"{shlex.join([Path(sys.executable).as_posix(), SCRIPT.as_posix()])} %s &"
# The variables that would lead a program past the sandbox, or configure it.
NOT_INHERITED = r"(?i)(ALL|HTTPS?|NO)_PROXY|(CURL|REQUESTS)_CA_BUNDLE|SSL_CERT_(DIR|FILE)|AZURE_.*"


class Sandbox(World):
    """Entra and Graph on this machine, as a context manager.

    pending: how many polls find a sign-in pending before it is approved, None for all of them
    interval, expires_in: the seconds between two polls, and until a device code expires
    device_codes: False for a tenant that blocks them, so that only a browser can sign in
    user: what Graph says of the user at /me
    resources: what Graph has elsewhere, by default {"/me/drive": Resource("Files.Read", ...)}
    sign_in_host, graph_host: the hosts of the cloud
    calls: after how many requests a host ends a connection
    required_claims: the claims that Graph wants, {"nbf": {"essential": True, "value": "1"}}

    `requests` has what the hosts were asked, and what the proxy refused, each a `Request`;
    `address` is the proxy's. The settings can be changed while it runs. At the end of the block,
    what went wrong inside (answered with 500) and answers that nobody asked for are raised, unless
    the block itself raises. An interval below 1 s is a ValueError.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.requests: list[Request] = []
        self._services = {self.sign_in_host: entra, self.graph_host: graph}
        self._next: defaultdict[str, deque[Answer | None]] = defaultdict(deque)
        self._always: dict[str, Iterator[Answer | None]] = {}
        self._errors: list[Exception] = []
        self._arrived = threading.Condition()
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        authority = trustme.CA()
        certificate = authority.issue_cert(*self._services).private_key_and_cert_chain_pem
        # As the real hosts do, only Graph offers HTTP/2.
        protocols = {self.sign_in_host: ["http/1.1"], self.graph_host: ["h2", "http/1.1"]}
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        self._ca_file, server_file = f"{folder}/ca.pem", f"{folder}/server.pem"
        authority.cert_pem.write_to_path(self._ca_file)
        certificate.write_to_path(server_file)
        transport = Transport(
            protocols, server_file, self.calls, self._connect, self._answer, self._errors.append
        )
        # Windows' default loop cannot reset a connection.
        options = {"loop_factory": asyncio.SelectorEventLoop}
        portal = self._opened.enter_context(start_blocking_portal(backend_options=options))
        serving = portal.wrap_async_context_manager(transport.serving())
        self.address = f"http://127.0.0.1:{self._opened.enter_context(serving)}"
        return self

    def __exit__(self, kind: object, raised: BaseException | None, traceback: object) -> None:
        self._opened.close()
        unused = {name: len(answers) for name, answers in self._next.items() if answers}
        if unused:
            self._errors.append(AssertionError(f"answers that nobody asked for: {unused}"))
        if raised or not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        raise ExceptionGroup("errors in the sandbox", self._errors)

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a program in the sandbox, with a browser that signs in by itself."""
        names = [name for name in os.environ if not re.fullmatch(NOT_INHERITED, name)]
        return {
            **{name: os.environ[name] for name in names},
            "AZURE_AUTHORITY_HOST": self.sign_in_host,
            "AZURE_CLIENT_ID": self.client_id,
            "BROWSER": BROWSER,
            "HTTP_PROXY": self.address,
            "HTTPS_PROXY": self.address,
            "REQUESTS_CA_BUNDLE": self._ca_file,
            "SSL_CERT_FILE": self._ca_file,
        }

    def replace(self, endpoint: str, *answers: Answer | None, times: int | None = 1) -> None:
        """Give `answers`, `times` times over, in place of the next ones of `endpoint`.

        An answer that is None stands for the usual one. If `times` is None, they are given for
        good, as soon as no others are left, and may stay unused. `endpoint` is "discovery",
        "devicecode", "authorize", "token", "instance", "me", the path of another resource, or a
        host name: for the next CONNECT to it, of an answer only the status, the delay and SILENT
        count. Raises ValueError for any other endpoint, or without answers.
        """
        endpoint = endpoint.lstrip("/")
        if not answers:
            raise ValueError(f"no answer for {endpoint}")
        known = {*entra.ENDPOINTS, *self.everything(), *self._services}
        if endpoint not in known:
            raise ValueError(f"no endpoint {endpoint!r}, but {', '.join(sorted(known))}")
        if times is None:
            self._always[endpoint] = cycle(answers)
        else:
            self._next[endpoint].extend(answers * times)

    def wait_for(self, endpoint: str, count: int = 1, timeout: float = 30.0) -> None:
        """Wait until `count` requests for `endpoint` have arrived, or raise TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(
                lambda: [each.endpoint for each in self.requests].count(endpoint) >= count, timeout
            ):
                raise TimeoutError(f"no {endpoint} request number {count} within {timeout} s")

    def _connect(self, request: Request) -> Answer:
        """Answer what a client asks the proxy for: a CONNECT to one of the two hosts goes on."""
        known = request.path in [f"{host}:443" for host in self._services]
        answer = self._next_replaced(request.host) if known else Answer(403)
        if answer:
            self._record(request, request.host if known else "")
        return answer or Answer()

    def _answer(self, request: Request) -> Answer:
        """Answer what a client asks one of the two hosts for."""
        service = self._services[request.host]
        self._record(request, service.endpoint(self, request))
        return self._next_replaced(request.endpoint) or service.answer(self, request)

    def _record(self, request: Request, endpoint: str) -> None:
        request.endpoint = endpoint
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()

    def _next_replaced(self, endpoint: str) -> Answer | None:
        if self._next[endpoint]:
            return self._next[endpoint].popleft()
        return next(self._always.get(endpoint, iter(())), None)
