"""What an answer of the two services looks like, as data."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any


class Fault(Enum):
    """What can go wrong with the connection that should carry an answer."""

    RESET = "it is reset, as by a machine that crashed"
    CUT_OFF = "it ends in the middle of the body"
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
    """Returns `content` as a JSON answer; `headers` add to or replace the Content-Type."""
    content_type = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, json.dumps(content).encode(), {**content_type, **headers})


WITHOUT_PAGE = {None, 7000014}
"""The numbers with which Entra sends no error_uri."""


def entra_headers() -> dict[str, str]:
    """Returns the headers that Entra adds to an answer of its devicecode and token endpoints."""
    return {"Cache-Control": "no-store, no-cache", "x-ms-request-id": str(uuid.uuid4())}


def entra_error(
    number: int | None, error: str, text: str, status: int = 400, **more: Any
) -> Answer:
    """Returns a refusal of the identity platform.

    `number` is the AADSTS code, or None where Microsoft documents none; `error` is the OAuth 2.0
    error code (RFC 6749 section 5.2, RFC 8628 section 3.5); `more` adds fields such as `suberror`.
    For the shape, see https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
    """
    headers = entra_headers()
    trace_id, correlation_id = headers["x-ms-request-id"], str(uuid.uuid4())
    timestamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    ids = f"Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
    code = "" if number is None else f"AADSTS{number}: "
    content = {
        "error": error,
        "error_description": f"{code}{text} {ids}",
        "error_codes": [] if number is None else [number],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        **more,
    }
    if number not in WITHOUT_PAGE:
        content["error_uri"] = f"https://login.microsoftonline.com/error?code={number}"
    return json_answer(content, status, headers)


def authorization_pending() -> Answer:
    """Returns what a poll gets while the person has not signed in yet (RFC 8628 section 3.5)."""
    text = "OAuth 2.0 device flow error. Authorization is pending. Continue polling."
    return entra_error(70016, "authorization_pending", text)


def graph_headers() -> dict[str, str]:
    """Returns the headers that Microsoft Graph sends with every answer."""
    request_id = str(uuid.uuid4())
    return {"request-id": request_id, "client-request-id": request_id}


def graph_error(status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> Answer:
    """Returns a refusal of Microsoft Graph, in the shape of https://learn.microsoft.com/graph/errors."""
    sent = graph_headers()
    inner = {"date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", **sent}
    content = {"error": {"code": code, "message": message, "innerError": inner}}
    sent["Content-Type"] = "application/json"
    return json_answer(content, status, {**sent, **headers})
