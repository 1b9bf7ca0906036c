"""The sandbox itself: both services, and the way to them, for a `with` block."""

import os
import re
import shlex
import ssl
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from threading import Lock
from typing import Any, Self

import trustme

from . import entra, graph
from .answers import Answer, Request
from .server import Server

SERVICES = {entra.HOST: entra, graph.HOST: graph}
# The variables that would lead a program past the sandbox, or configure it.
NOT_INHERITED = r"(?i)(ALL|HTTPS?|NO)_PROXY|(CURL|REQUESTS)_CA_BUNDLE|SSL_CERT_(DIR|FILE)|AZURE_.*"


@dataclass(kw_only=True)
class Sandbox:
    """Entra and Graph on this machine, as a context manager, for one app and one user.

    Graph speaks only HTTP/1.1 here, not HTTP/2 as well.

    pending: how many polls find that nobody has signed in yet
    interval, expires_in: the seconds, at least 1, between two polls, and until a code expires
    device_codes: False for a tenant that blocks them, so that only a browser can sign in
    user: what Graph says of the user at /me
    resources: what Graph has elsewhere, by default {"/me/drive": Resource("Files.Read", ...)}

    `requests` has what the hosts were asked, and what the proxy refused. The settings can be
    changed while it runs. At the end of the block, what went wrong inside (answered with 500) and
    answers that nobody asked for are raised as an ExceptionGroup, unless the block itself raises.
    """

    pending: int = 1
    interval: int = 5
    expires_in: int = 900
    device_codes: bool = True
    user: dict[str, Any] = field(default_factory=graph.USER.copy)
    resources: dict[str, graph.Resource] = field(default_factory=graph.DRIVE.copy)
    requests: list[Request] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._next: defaultdict[str, list[Answer | None]] = defaultdict(list)
        self._always: dict[str, Iterator[Answer | None]] = {}
        self._lock = Lock()
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        self._ca_file = f"{folder}/ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._ca_file)
        contexts = {host: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for host in SERVICES}
        for host, context in contexts.items():
            authority.issue_cert(host).configure_cert(context)
        self._server = self._opened.enter_context(Server(contexts, self._answer))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, kind: object, raised: BaseException | None, traceback: object) -> None:
        self._opened.close()
        unused = [endpoint for endpoint, answers in self._next.items() if answers]
        errors = self._server.errors + [AssertionError(f"unused answer: {each}") for each in unused]
        if errors and not raised:
            raise ExceptionGroup("in the sandbox", errors)

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a program in the sandbox, with a browser that signs in by itself."""
        inherited = [name for name in os.environ if not re.fullmatch(NOT_INHERITED, name)]
        browser = [Path(sys.executable), Path(__file__).with_name("browser.py")]
        return {
            **{name: os.environ[name] for name in inherited},
            "AZURE_CLIENT_ID": entra.CLIENT_ID,
            "BROWSER": f"{shlex.join(part.as_posix() for part in browser)} %s &",
            "HTTP_PROXY": self.address,
            "HTTPS_PROXY": self.address,
            "REQUESTS_CA_BUNDLE": self._ca_file,
            "SSL_CERT_FILE": self._ca_file,
        }

    def replace(self, endpoint: str, *answers: Answer | None, times: int | None = 1) -> None:
        """Give `answers`, `times` times over, in place of the next ones of `endpoint`.

        None is the usual answer. If `times` is None, they are given for good, as soon as no others
        are left, and may stay unused. `endpoint` is one of entra.ENDPOINTS, a path of Graph such as
        "/me", or a host, for a CONNECT to it; any other, or no answer, is a ValueError.
        """
        endpoint = endpoint.lstrip("/")
        known = {*entra.ENDPOINTS, *graph.resources(self), *SERVICES}
        if not answers or endpoint not in known:
            raise ValueError(f"no answer, or {endpoint!r} is none of {', '.join(sorted(known))}")
        if times is None:
            self._always[endpoint] = cycle(answers)
        else:
            self._next[endpoint] += answers * times

    def asked(self) -> list[str]:
        """Return the endpoints of `requests`."""
        return [request.endpoint for request in self.requests]

    def _answer(self, request: Request) -> Answer:
        """Answer what a client asks the proxy, that is to connect it to a host, or a host."""
        service = SERVICES[request.host] if request.path.startswith("/") else None
        with self._lock:
            if service:
                request.endpoint = service.endpoint(self, request)
            elif request.path in [f"{host}:443" for host in SERVICES]:
                request.endpoint = request.host
            once, always = self._next[request.endpoint], self._always.get(request.endpoint)
            answer = once.pop(0) if once else next(always) if always else None
            if request.endpoint in SERVICES and not answer:
                return Answer()  # The client goes on to the host.
            self.requests.append(request)
            return answer or (service.answer(self, request) if service else Answer(403))
