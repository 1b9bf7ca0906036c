"""What a request and an answer look like, as data."""

import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, urlsplit

try:
    from datetime import UTC, datetime
except ImportError:
    sys.exit("This needs Python 3.11 or newer.")


@dataclass
class Request:
    """One request as it arrived: its host, method, path with the query, headers, body and form.

    The names of `headers` are in lower case. `endpoint` is the name of what was asked for, as
    Sandbox.replace takes it, or "" for what is not there.
    """

    host: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    http_version: str = "1.1"
    endpoint: str = ""

    @property
    def form(self) -> dict[str, str]:
        """The fields of the body or, with GET, of the query."""
        fields = urlsplit(self.path).query if self.method == "GET" else self.body.decode()
        return dict(parse_qsl(fields))


class Fault(Enum):
    """What can go wrong with the connection that should carry an answer."""

    RESET = "it is reset, as by a machine that crashed"
    CUT_OFF = "it ends in the middle of the answer"
    SILENT = "it stays open, and nothing ever comes"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `delay` is the time in seconds before its first byte."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fault: Fault | None = None


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] = {}) -> Answer:
    """Return `content` as a JSON answer; `headers` add to or replace the Content-Type."""
    headers = {"Content-Type": "application/json; charset=utf-8", **headers}
    return Answer(status, json.dumps(content).encode(), headers)


def entra_headers() -> dict[str, str]:
    """Return the headers that Entra adds to an answer of its devicecode and token endpoints."""
    return {"Cache-Control": "no-store, no-cache", "x-ms-request-id": str(uuid.uuid4())}


def entra_error(
    number: int | None, error: str, text: str, status: int = 400, **more: Any
) -> Answer:
    """Return a refusal of Entra; `number` is the AADSTS code, or None if none is documented.

    `error` is that of RFC 6749 section 5.2 or RFC 8628 section 3.5, `more` are further fields: see
    https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
    """
    headers = entra_headers()
    trace_id, correlation_id = headers["x-ms-request-id"], str(uuid.uuid4())
    timestamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    text = f"AADSTS{number}: {text}" if number else text
    ids = f"Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
    content = {
        "error": error,
        "error_description": f"{text} {ids}",
        "error_codes": [number] if number else [],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        **more,
    }
    if number not in (None, 7000014):  # With 7000014, Entra sends no page.
        content["error_uri"] = f"https://login.microsoftonline.com/error?code={number}"
    return json_answer(content, status, headers)


def graph_headers() -> dict[str, str]:
    """Return the headers that Microsoft Graph sends with every answer."""
    request_id = str(uuid.uuid4())
    return {"request-id": request_id, "client-request-id": request_id}


def graph_error(status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> Answer:
    """Return a refusal of Microsoft Graph, in the shape of https://learn.microsoft.com/graph/errors."""
    sent = graph_headers()
    inner = {"date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", **sent}
    content = {"error": {"code": code, "message": message, "innerError": inner}}
    return json_answer(content, status, {**sent, "Content-Type": "application/json", **headers})
