"""What a request and an answer look like, and the secrets in them."""

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import TIMEOUT_MAX
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PREFIX = "sandbox-secret-"  # by which the tests find a secret in an output


@dataclass
class Request:
    """One request as it arrived."""

    host: str
    method: str
    path: str  # with the query
    headers: dict[str, str]  # whose names are in lower case
    body: bytes
    endpoint: str = ""  # as Sandbox.replace takes it, or "" for what is not there

    @property
    def form(self) -> dict[str, str]:
        """The fields of the body or, with GET, of the query."""
        fields = urlsplit(self.path).query if self.method == "GET" else self.body.decode()
        return dict(parse_qsl(fields))


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `delay` is the time in seconds before it is sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


SILENT = Answer(delay=TIMEOUT_MAX)  # The connection stays open, and nothing ever comes.
CLOSED = Answer(0)  # The connection is closed without an answer.


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] = {}) -> Answer:
    """Return `content` as a JSON answer; `headers` add to or replace the Content-Type."""
    headers = {"Content-Type": "application/json; charset=utf-8", **headers}
    return Answer(status, json.dumps(content).encode(), headers)


def base64url(content: object) -> str:
    """Return `content` as JSON, encoded as in a JSON Web Token (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def seal(kind: str, lifetime: float, **content: Any) -> str:
    """Return a secret of a kind that itself says what it stands for, for `lifetime` seconds."""
    body = base64url({**content, "kind": kind, "expires_at": time.time() + lifetime})
    return f"{PREFIX}{body}.{hashlib.sha256(body.encode()).hexdigest()}"


def unseal(kind: str, secret: str, *, expired: bool = False) -> dict[str, Any] | None:
    """Return what a secret of a kind stands for, or None; one that has `expired` only if asked."""
    body, _, digest = secret.removeprefix(PREFIX).rpartition(".")
    if digest != hashlib.sha256(body.encode()).hexdigest():
        return None
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(f"{body}=="))
    good = content["kind"] == kind and (expired or time.time() <= content["expires_at"])
    return content if good else None
