"""A client of the sandbox that is neither MSAL nor Kiota."""

import ssl
from typing import Any

import httpx

from .sandbox import Sandbox
from .sandbox.services import DEVICE_CODE_GRANT


def client_of(sandbox: Sandbox, *, http2: bool = False) -> httpx.Client:
    """Returns an HTTP client that trusts the sandbox and reaches it through its proxy."""
    context = ssl.create_default_context(cafile=sandbox.environment["SSL_CERT_FILE"])
    return httpx.Client(
        proxy=sandbox.address, verify=context, http2=http2, trust_env=False, timeout=30
    )


def post(
    sandbox: Sandbox, client: httpx.Client, endpoint: str, tenant: str = "common", **form: str
) -> httpx.Response:
    """Sends a form with the client ID to an endpoint of sign-in."""
    address = f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/{endpoint}"
    return client.post(address, data={"client_id": sandbox.client_id, **form})


def sign_in(
    sandbox: Sandbox, client: httpx.Client, scope: str = "User.Read openid profile", **form: str
) -> dict[str, Any]:
    """Signs in at the first poll and returns the token answer; `form` adds fields to the poll."""
    code = post(sandbox, client, "devicecode", scope=scope).json()["device_code"]
    form = {"grant_type": DEVICE_CODE_GRANT, "device_code": code, **form}
    answer = post(sandbox, client, "token", **form).raise_for_status()
    content: dict[str, Any] = answer.json()
    return content
