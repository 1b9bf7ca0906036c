"""Sign in to Microsoft with a device code, ask Microsoft Graph who that was, and greet the user.

Run it with `python3 get_user.py`, or await `get_user()` in a program of your own.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import ssl
import sys
import urllib.request
from datetime import datetime
from typing import Any, TextIO

import httpx
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DeviceCodeCredential
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
SCOPES = ["User.Read"]


async def get_user() -> User:
    """Sign a person in and return the user that Microsoft Graph then names.

    The sign-in is the device code flow of RFC 8628, with the three settings above; the user has an
    ID and, unless it is None, a display name: https://learn.microsoft.com/graph/api/user-get.

    Raises, before any request, ValueError for a CLIENT_ID or TENANT_ID that cannot be one, and
    OSError, ImportError or httpx.InvalidURL for an SSL_CERT_FILE or a proxy that cannot be used;
    azure.core.exceptions.ClientAuthenticationError if sign-in refuses or cannot be reached;
    kiota_abstractions.api_error.APIError, mostly as the client's ODataError, if Graph refuses;
    httpx.HTTPError if Graph cannot be reached; and any Exception, as Kiota does, if its answer is
    not a user. Cancelled, it ends with the next poll.
    """
    if not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", CLIENT_ID):
        raise ValueError(
            "The client ID is not a GUID: set AZURE_CLIENT_ID to the Application (client) ID that "
            "the Overview page of your app registration shows at https://entra.microsoft.com."
        )
    if not re.fullmatch(r"[\w.-]+", TENANT_ID, re.ASCII):
        raise ValueError(HINTS["tenant"])
    credential = AsyncCredential(
        DeviceCodeCredential(
            CLIENT_ID,
            tenant_id=TENANT_ID,
            prompt_callback=show_prompt,
            # With the defaults, a network that swallows packets would keep this silent for hours:
            # sign-in has many addresses, and each is waited for in turn, several times over.
            connection_timeout=3,
            retry_connect=1,
            read_timeout=10,
        )
    )
    async with credential, KiotaClientFactory.create_with_default_middleware() as http_client:
        http_client.timeout = 20  # seconds for each step, for the same reason
        auth_provider = AzureIdentityAuthenticationProvider(
            credential,
            scopes=SCOPES,
            # An empty list, the default, would send the token to every host.
            allowed_hosts=["graph.microsoft.com"],
        )
        request_adapter = HttpxRequestAdapter(auth_provider, http_client=http_client)
        client = GetUserApiClient(request_adapter)
        user = await client.me.get()
    if not user or not user.id:
        raise LookupError("it does not describe a user")
    return user


class AsyncCredential(AsyncTokenCredential):
    """DeviceCodeCredential for asyncio: the event loop goes on while it waits for the person."""

    def __init__(self, credential: DeviceCodeCredential) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token for these scopes, or raise what the credential raises."""
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        self._credential.close()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def show_prompt(verification_uri: str, user_code: str, expires_on: datetime) -> None:
    """Tell the person on stderr where to enter which code, and until what local time.

    Entra sends the three with its device code (RFC 8628 section 3.2).
    """
    prompt = f"To sign in, open {verification_uri} and enter the code {user_code}"
    say(f"{prompt} (valid until {expires_on.astimezone():%H:%M}).", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Write text as one line of characters that can be printed, whatever the stream's encoding.

    Raises OSError if the stream is closed or takes nothing.
    """
    if not stream:  # print would write to the other one
        raise OSError("the stream to print on is closed")
    text = " ".join(text.split())
    joiners = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # part of names and emoji
    line = "".join(c if c.isprintable() or c in joiners else "\ufffd" for c in text)
    encoded = line.encode(stream.encoding, "backslashreplace")
    try:
        print(encoded.decode(stream.encoding), file=stream, flush=True)
    except OSError:
        # A full disk would refuse the line once more at exit, which Python reports in its own way.
        with contextlib.suppress(OSError):
            stream.close()
        raise


def main() -> int:
    """Greet the user who signs in, or say why not; return the exit status."""
    # asyncio.run would have Ctrl-C wait for the thread that waits for the person.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Python prints what no handler takes: here the text of the exception, once more, or, for
    # asyncio on Windows, a traceback of a connection that the other side has reset.
    for library in ("asyncio", "azure", "msal"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    try:
        user = asyncio.run(get_user())
        name = f" {user.display_name}".rstrip() if user.display_name else ""
        say(f"Hello{name}, your ID is {user.id}", sys.stdout)
    except Exception as error:  # the bare class too: Kiota raises it if it cannot read an answer
        for line in explain(error):
            say(line, sys.stderr)
        return 1
    return 0


# What to do, by AADSTS number, OAuth 2.0 error code or, where no code is kept, by cause.
HINTS = {
    "50059": "Set AZURE_TENANT_ID to your Directory (tenant) ID, and check AZURE_CLIENT_ID.",
    "50076": "Run it again, and sign in with multi-factor authentication.",
    "50194": "Set AZURE_TENANT_ID to the Directory (tenant) ID of your app registration.",
    "53003": "Ask an administrator to allow device codes, or use another credential.",
    "65001": "Run it again and consent, or ask an administrator to consent.",
    "70002": "Set Allow public client flows to Yes in the app registration; add no secret.",
    "700016": "Set AZURE_CLIENT_ID to the Application (client) ID, not the Object ID, and "
    "AZURE_TENANT_ID to its tenant.",
    "7000218": "Set Allow public client flows to Yes in the app registration; add no secret.",
    "9002331": "Set AZURE_TENANT_ID to consumers.",
    "authorization_declined": "Run it again, and approve the sign-in.",
    "expired_token": "Run it again, and sign in while the code that it shows is valid.",
    "tenant": f"Set AZURE_TENANT_ID, now {TENANT_ID!r}, to your Directory (tenant) ID or common.",
    "CA": "If your network inspects TLS, name its CA file in REQUESTS_CA_BUNDLE (for sign-in) and "
    "in SSL_CERT_FILE (for Microsoft Graph).",
    "CA file": "Set SSL_CERT_FILE to a file that exists, or unset it.",
}


def explain(error: Exception) -> list[str]:
    """Return what happened, in the original words, and, if that is certain, what to do about it."""
    link: BaseException | None = error
    cause: BaseException = error.__cause__ or error
    while link and not isinstance(cause, TimeoutError):  # down to what the network said
        cause = link if isinstance(link, OSError) else cause
        link = link.__cause__ or link.__context__ or getattr(link, "inner_exception", None)
    causes = {ssl.SSLCertVerificationError: "CA", FileNotFoundError: "CA file"}
    keys = [key for kind, key in causes.items() if isinstance(cause, kind)]
    side, host = "Microsoft Graph", "graph.microsoft.com"
    if isinstance(error, ClientAuthenticationError):
        side = "Sign-in"
        host = os.environ.get("AZURE_AUTHORITY_HOST") or "login.microsoftonline.com"
    proxied = "https" in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)
    # MSAL's RuntimeError and str() of azure-core's exceptions include the whole of an answer.
    said = "" if isinstance(cause, RuntimeError) else getattr(cause, "message", None) or str(cause)
    text = f"no usable answer from {host}{' through the proxy' * proxied}: {type(cause).__name__}"
    text += f": {said}" if said else ""
    match error:
        case ClientAuthenticationError(__cause__=None, response=None):
            text = error.message.removesuffix(": None")
            keys = re.findall(r"AADSTS(\d+)", text)[:1] or ["expired_token"]
        case ClientAuthenticationError(__cause__=None, response=response) if response:
            body: dict[str, object] = {}
            with contextlib.suppress(TypeError, ValueError):  # it may not be an OAuth 2.0 error
                body = dict(json.loads(response.text()))
            said = body.get("error_description") or body.get("error")
            text = f"{said or f'HTTP {response.status_code}'}"
            keys = re.findall(r"\w+", f"{body.get('error_codes')} {body.get('error')}")
            keys += re.findall(r"AADSTS(\d+)", text)[:1]
        case ClientAuthenticationError(__cause__=ValueError(__context__=ValueError() as reason)):
            # MSAL says the same of a refused tenant, whose AADSTS text it drops, and of a web page.
            keys = ["tenant"] if type(reason) is ValueError and TENANT_ID != "common" else []
        case APIError():
            main = getattr(error, "error", None)
            inner = main and main.additional_data.get("innerError")
            sent = inner if isinstance(inner, dict) else {}
            request_id = sent.get("request-id") or (error.response_headers or {}).get("request-id")
            text = f"HTTP {error.response_status_code}"
            for part in (main and main.code, error.primary_message):
                text += f", {part}" if part else ""
            text += f", request ID {request_id}" if request_id else ""
        case httpx.InvalidURL():  # whose text can hold a part of the password
            side, text = "This machine", "the proxy in HTTPS_PROXY or ALL_PROXY is not a valid URL"
        case OSError() | ImportError():
            side, text = "This machine", str(error)
        case ValueError() if type(error) is ValueError:
            return [str(error)]
    return [f"{side}: {text}", *(HINTS[key] for key in keys if key in HINTS)][:2]


if __name__ == "__main__":
    sys.exit(main())
