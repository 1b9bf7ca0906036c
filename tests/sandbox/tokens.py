"""Codes and tokens that say what they stand for: no sandbox has to remember them."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

PREFIX = "sandbox-secret-"


def base64url(content: bytes) -> str:
    """Return `content` as RFC 7515 section 2 encodes it."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def seal(kind: str, lifetime: float, **content: Any) -> str:
    """Return a new secret of a kind that stands for `content`, for `lifetime` seconds."""
    content |= {"kind": kind, "expires_at": time.time() + lifetime, "id": secrets.token_hex(8)}
    body = base64url(json.dumps(content).encode())
    return f"{PREFIX}{body}.{sign(body)}"


def unseal(kind: str, secret: str, *, expired: bool = False) -> dict[str, Any] | None:
    """Return what a secret of a kind stands for, or None; one that has `expired` only if asked."""
    body, _, signature = secret.removeprefix(PREFIX).rpartition(".")
    if signature != sign(body):
        return None
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(f"{body}=="))
    good = content["kind"] == kind and (expired or time.time() <= content["expires_at"])
    return content if good else None


def sign(body: str) -> str:
    return hmac.new(b"the key of every sandbox", body.encode(), hashlib.sha256).hexdigest()
