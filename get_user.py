"""Sign in with Microsoft, ask Microsoft Graph who that was, and greet the user."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, TextIO

import azure.identity
import httpx
from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from kiota_abstractions.api_error import APIError
from kiota_authentication_azure.azure_identity_authentication_provider import (
    AzureIdentityAuthenticationProvider,
)
from kiota_http.httpx_request_adapter import HttpxRequestAdapter
from kiota_http.kiota_client_factory import KiotaClientFactory

from client.get_user_api_client import GetUserApiClient
from client.models.user import User

CLIENT_ID = os.environ.get("AZURE_CLIENT_ID", "").strip() or "YOUR_CLIENT_ID"
TENANT_ID = os.environ.get("AZURE_TENANT_ID", "").strip() or "common"
GRAPH_HOST = "graph.microsoft.com"  # the only host that gets the token
SCOPES = ["User.Read"]
TIMEOUTS = {"connection_timeout": 3, "read_timeout": 10}  # seconds; the defaults add up to hours


def create_credential() -> AbstractContextManager[TokenCredential]:
    """Return what signs the person in: any credential of azure.identity, with its own SCOPES."""
    if not re.fullmatch("[0-9a-fA-F-]{36}", CLIENT_ID):
        raise AzureError("Set AZURE_CLIENT_ID to the Application (client) ID, which is a GUID.")
    return azure.identity.DeviceCodeCredential(
        client_id=CLIENT_ID, tenant_id=TENANT_ID, prompt_callback=show_prompt, **TIMEOUTS
    )


@asynccontextmanager
async def open_client() -> AsyncIterator[GetUserApiClient]:
    """Yield a client for Microsoft Graph that signs the person in at its first call.

    Raises AzureError (sign-in), APIError and httpx.HTTPError (Graph), and what Kiota trips over.
    """
    with create_credential() as credential:
        async with KiotaClientFactory.create_with_default_middleware() as http_client:
            http_client.timeout = 20  # seconds
            auth_provider = AzureIdentityAuthenticationProvider(
                ThreadedCredential(credential), scopes=SCOPES, allowed_hosts=[GRAPH_HOST]
            )
            request_adapter = HttpxRequestAdapter(auth_provider, http_client=http_client)
            request_adapter.base_url = f"https://{GRAPH_HOST}/v1.0"
            yield GetUserApiClient(request_adapter)


class ThreadedCredential:
    """Waits for the person in a thread, which no credential of azure.identity.aio does."""

    def __init__(self, credential: TokenCredential) -> None:
        self._get_token = credential.get_token
        self._thread = ThreadPoolExecutor(1)  # with two, two first calls at once would prompt twice

    def get_token(self, *scopes: str, **options: Any) -> Any:  # a future, which Kiota awaits
        return asyncio.wrap_future(self._thread.submit(self._get_token, *scopes, **options))


async def get_user() -> User:
    """Return the user who signs in: https://learn.microsoft.com/graph/api/user-get."""
    async with open_client() as client:
        user = await client.me.get()
    if not user or not user.id:
        raise LookupError(f"{GRAPH_HOST} names no user")
    return user


def main() -> int:
    """Greet the user who signs in, or say why not; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # or Ctrl-C would wait for the thread
    for library in ("asyncio", "azure", "msal"):  # or Python prints their warnings
        logging.getLogger(library).addHandler(logging.NullHandler())
    try:
        user = asyncio.run(get_user())
        say(f"Hello {user.display_name or ''}".strip() + f", your ID is {user.id}", sys.stdout)
        return 0
    except AzureError as error:
        return fail(f"Sign-in: {error.message}")
    except APIError as error:
        code = getattr(getattr(error, "error", None), "code", None) or ""
        request_id = (error.response_headers or {}).get("request-id", "none")
        return fail(f"{GRAPH_HOST}: {code} {error} (request ID: {request_id})")
    except httpx.HTTPError as error:
        return fail(f"{GRAPH_HOST}: {type(error).__name__}: {error}")
    except OSError as error:
        sys.stdout = None  # or Python would try once more, at exit, what just failed
        return fail(f"{type(error).__name__}: {error}")
    except Exception as error:  # a mistake in here, or an answer that Kiota cannot read
        if sys.flags.dev_mode:
            raise
        return fail(f"{type(error).__name__}: {error}", "python3 -X dev get_user.py shows where.")


def show_prompt(verification_uri: str, user_code: str, expires_on: datetime) -> None:
    """Tell the person where to enter which code, and until when (RFC 8628 section 3.3)."""
    prompt = f"To sign in, open {verification_uri} and enter the code {user_code}"
    say(f"{prompt} (valid until {expires_on.astimezone():%H:%M}).", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Write text, at once, as one line of what any terminal can show."""
    text = " ".join(text.split())  # below, the two joiners, which are part of names and emoji
    text = "".join(c if c.isprintable() or c in "\u200c\u200d" else "\ufffd" for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def fail(text: str, hint: str = "") -> int:
    """Say what happened, less bodies and secrets, and what HINTS advises; return exit status 1."""
    text = re.sub(RAW, r"\1", text).removesuffix("None").removesuffix(": ")
    said = (re.findall(r"AADSTS\d+", text) or [text])[0]  # the number that leads, if there is one
    hint = next((HINTS[codes] for codes in HINTS if re.search(rf"\b({codes})\b", said)), hint)
    for line in filter(None, [text, hint]):
        say(line, sys.stderr)
    return 1


RAW = r"(?s)(Discovery: \d+|Illegal header|InvalidURL|to parse|\n(?=Content)).*"
HINTS = {  # what to do, by the AADSTS number that leads in a message, or else by words in it
    "AADSTS(530035|53003|53000|530003|50097|50005)": "Instead of a device code, use "
    "InteractiveBrowserCredential (redirect URI http://localhost), on a managed device if asked.",
    "AADSTS(50059|700016)": "Check AZURE_CLIENT_ID, AZURE_TENANT_ID; give a new app some minutes.",
    "AADSTS50194|Invalid tenant ID": "Set AZURE_TENANT_ID to your Directory (tenant) ID.",
    "AADSTS9002331": "Set AZURE_TENANT_ID to consumers.",
    "AADSTS7000218": "Enable Allow public client flows in the app registration; add no secret.",
    "AADSTS70002": "Check AZURE_CLIENT_ID and the app's account types and public client flows.",
    "AADSTS(65001|50076|50079|50158)": "Run it again, and do in the browser what it asks for.",
    "CERTIFICATE_VERIFY_FAILED": "Behind TLS inspection, set REQUESTS_CA_BUNDLE and SSL_CERT_FILE.",
    r"] .* directory$|NO_CERTIFICATE_OR_CRL_FOUND": "Correct SSL_CERT_FILE or REQUESTS_CA_BUNDLE.",
    r"to proxy', (New|Name|OS)\w+|SOCKS|proxy URL|ProxyError|InvalidURL|to parse": "Check "
    "HTTPS_PROXY, ALL_PROXY and NO_PROXY; percent-encode what is special in a password.",
}

if __name__ == "__main__":
    sys.exit(main())
