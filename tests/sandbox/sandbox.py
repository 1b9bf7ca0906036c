"""The sandbox itself: a proxy in a thread that plays both services, for a `with` block."""

import asyncio
import dataclasses
import os
import re
import shlex
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any, Self

import trustme
from anyio.from_thread import start_blocking_portal

from .answers import Answer
from .proxy import Proxy
from .services import GRAPH_HOST, SIGN_IN_HOST, Entra, Graph, Request, Resource

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

INHERITED_NEVER = re.compile(
    r"(ALL|HTTPS?|NO)_PROXY|(CURL|REQUESTS)_CA_BUNDLE|SSL_CERT_(DIR|FILE)|AZURE_.*", re.IGNORECASE
)
"""Variables that would lead a program past the sandbox, or configure it."""


class Sandbox:
    """Entra and Graph on this machine, as a context manager.

    A sign-in is approved after `pending` polls that find it pending, or never if `pending` is None.
    `interval` is the pause between two polls and `expires_in` the life of a device code, both in
    seconds. `user` is what Graph says of the user at /me, `resources` what it says at other paths,
    such as {"/me/drive": Resource("Files.Read", {"id": "1"})}. `sign_in_host` and `graph_host` are
    those of another cloud. Without `device_codes` it is a tenant that blocks them, and a sign-in
    works in a browser only. `requests` lists all that arrived, in order.

    What goes wrong inside the sandbox itself is raised at the end of the `with` block.
    Raises ValueError for an interval of less than 1 s.
    """

    def __init__(
        self,
        *,
        pending: int | None = 1,
        interval: int = 5,
        expires_in: int = 900,
        device_codes: bool = True,
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
            client_id=self.client_id,
            user=user,
            permissions={resource.permission for resource in answers.values()},
            host=sign_in_host,
            graph_host=graph_host,
            pending=pending,
            interval=interval,
            expires_in=expires_in,
            device_codes=device_codes,
        )
        self._graph = Graph(self._entra, answers)
        # As the real hosts do, only Graph offers HTTP/2.
        self._protocols = {sign_in_host: ["http/1.1"], graph_host: ["h2", "http/1.1"]}
        self._replaced: dict[str, Iterator[Answer | None]] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        authority = trustme.CA()
        certificate = authority.issue_cert(*self._protocols)
        hosts = {host: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for host in self._protocols}
        for host, context in hosts.items():
            certificate.configure_cert(context)
            context.set_alpn_protocols(self._protocols[host])
        self._proxy = Proxy(hosts, self._answer, self._next_replaced, self._record)
        # Windows' default loop cannot reset a connection, and keeps one open that a client resets.
        options = {"loop_factory": asyncio.SelectorEventLoop}
        with ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
            self._ca_file = Path(folder, "ca.pem")
            authority.cert_pem.write_to_path(self._ca_file)
            portal = undo.enter_context(start_blocking_portal(backend_options=options))
            serving = portal.wrap_async_context_manager(self._proxy.serving())
            self._port = undo.enter_context(serving)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._undo.close()
        if self._proxy.errors:
            raise BaseExceptionGroup("in the sandbox", self._proxy.errors)

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
            name: value for name, value in os.environ.items() if not INHERITED_NEVER.fullmatch(name)
        }
        return {
            **kept,
            "AZURE_AUTHORITY_HOST": self._entra.host,
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
        known = {*self._entra.endpoints, *self._graph.endpoints, *self._protocols}
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

    def _answer(self, request: Request) -> Answer:
        service = self._entra if request.host == self._entra.host else self._graph
        name, answer = service.find(request)
        self._record(dataclasses.replace(request, endpoint=name))
        return self._next_replaced(name) or answer()
