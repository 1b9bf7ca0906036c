"""Sign in a user with Microsoft, get their profile from Microsoft Graph, and greet them."""

import asyncio
import logging
import os
import re
import signal
import sys
from datetime import datetime

import httpx
from azure.core.exceptions import AzureError
from azure.identity import DeviceCodeCredential
from kiota_abstractions.api_error import APIError
from kiota_authentication_azure.azure_identity_authentication_provider import (
    AzureIdentityAuthenticationProvider,
)
from kiota_http.httpx_request_adapter import HttpxRequestAdapter
from kiota_http.kiota_client_factory import KiotaClientFactory

from client.get_user_api_client import GetUserApiClient  # Kiota made client/ from get-me.yml
from client.models.o_data_errors.o_data_error import ODataError

CLIENT_ID = os.environ.get("AZURE_CLIENT_ID", "").strip() or "YOUR_CLIENT_ID"
TENANT_ID = os.environ.get("AZURE_TENANT_ID", "").strip() or "common"  # "common" takes any account
SCOPES = ["User.Read"]


async def main() -> None:
    credential = DeviceCodeCredential(  # has no async version: it blocks the loop during sign-in
        client_id=CLIENT_ID,
        tenant_id=TENANT_ID,
        prompt_callback=show_prompt,  # for a browser sign-in instead, see AADSTS530035 in HINTS
        connection_timeout=5,  # seconds for the network, not for the user; the default is 300
        read_timeout=10,
    )
    # Only the allowed hosts get the access token.
    auth_provider = AzureIdentityAuthenticationProvider(
        credential, scopes=SCOPES, allowed_hosts=["graph.microsoft.com"]
    )
    # Without http_client, the request adapter makes the same HTTP client, but nothing closes it.
    async with KiotaClientFactory.create_with_default_middleware() as http_client:
        request_adapter = HttpxRequestAdapter(auth_provider, http_client=http_client)
        client = GetUserApiClient(request_adapter)
        # This call signs in. Add more below it: first edit get-me.yml, rerun Kiota, extend SCOPES.
        user = await client.me.get()
        if not user or not user.id:
            sys.exit("Microsoft Graph answered, but named no user.")
        print(f"Hello {printable(user.display_name or 'there')}, your ID is {printable(user.id)}")


def show_prompt(verification_uri: str, user_code: str, expires_on: datetime) -> None:
    """Show the user what to do (RFC 8628 section 3.3). On stderr, as stdout may go to a file."""
    prompt = f"To sign in, open {verification_uri} and enter the code {user_code}"
    print(printable(f"{prompt} (valid until {expires_on.astimezone():%H:%M})."), file=sys.stderr)


def printable(text: str) -> str:
    """Return text from the network as one line that cannot control the terminal."""
    # C0 and C1 controls, line and paragraph separators, bidirectional overrides and isolates
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+", " ", text).strip()


ALLOW_PUBLIC = "set Authentication > Allow public client flows to Enabled in the app registration."
HINTS = {  # words: hint. The first entry that fits wins; ":" keeps 70002 from matching 7000218
    "AADSTS50059:": "Check AZURE_CLIENT_ID. If the app is for one tenant only, set AZURE_TENANT_ID "
    "to its Directory (tenant) ID. A new app registration can take a few minutes to work.",
    "AADSTS700016:": "Check AZURE_CLIENT_ID, and set AZURE_TENANT_ID to the tenant of this app. "
    "A new app registration can take a few minutes to work.",
    "AADSTS50194:": "Set AZURE_TENANT_ID to the Directory (tenant) ID of the app registration.",
    "AADSTS9002331:": "Set AZURE_TENANT_ID to the word consumers.",
    "AADSTS7000218:": f"Check that AZURE_CLIENT_ID is your own app's. If so, {ALLOW_PUBLIC}",
    "AADSTS70002:": f"Check AZURE_CLIENT_ID and account types. If both are right, {ALLOW_PUBLIC}",
    "AADSTS530035:": "This tenant blocks device codes. Use InteractiveBrowserCredential in main(), "
    "without prompt_callback. Register the redirect URI http://localhost (mobile and desktop).",
    "AADSTS53003:": "In main(), try InteractiveBrowserCredential without prompt_callback (register "
    "the redirect URI http://localhost). If that is blocked too, ask an administrator.",
    "AADSTS65001:": "Run it again and accept the permissions, or ask an administrator to do so.",
    "user to authenticate": "Sign in sooner. If the browser showed an error, look that one up.",
    "CERTIFICATE_VERIFY_FAILED": "Check the clock. If a proxy inspects TLS, set REQUESTS_CA_BUNDLE "
    "(for sign-in) and SSL_CERT_FILE (for Microsoft Graph) to a PEM file with its CA.",
    "no usable answer": "Check the network. If it needs a proxy, check HTTPS_PROXY: "
    "http://HOST:PORT or http://NAME:PASSWORD@HOST:PORT, special characters percent-encoded.",
    "(status 403)": "Add the permission that the call needs to SCOPES (the documentation of the "
    "call names it). If it is there, an administrator may have to give the user a role.",
}
# Cut what is quoted: a web page (azure-core's "Content:", MSAL's "Discovery:"), the access token
# (h11's "Illegal header"), the proxy password (urllib3 "Failed to parse", httpx "Invalid port").
CUT = r"(?s)\nContent:.*|(Discovery: \d+|Illegal header|Failed to parse|Invalid port).*"


def explain(error: AzureError | APIError | httpx.HTTPError | httpx.InvalidURL) -> str:
    """Return what failed, in the words of the service or library, and what to do about it."""
    if isinstance(error, APIError):  # Microsoft Graph answered; str(error) has message and status
        code = error.error.code if isinstance(error, ODataError) and error.error else None
        request_id = (error.response_headers or {}).get("request-id")
        text = f"{code or ''} {error}" + (f" (request ID {request_id})" if request_id else "")
    else:
        text = re.sub(CUT, r"\1", str(error).removeprefix("Authentication failed: "))
        text = text if text not in ("", "None") else type(error).__name__  # str() of an empty error
        # No usable answer: what is left is httpx's, or azure-core's that azure-identity wrapped.
        if not isinstance(error, AzureError) or isinstance(error.__cause__, AzureError):
            text = f"no usable answer: {text}"  # HINTS has these words
    step = "Sign-in" if isinstance(error, AzureError) else "The call to Microsoft Graph"
    hint = next((hint for words, hint in HINTS.items() if words in text), "")
    return f"{step} failed: {printable(text)}\n{hint}".rstrip()


if __name__ == "__main__":
    if not re.fullmatch("[0-9a-fA-F-]{36}", CLIENT_ID):
        sys.exit("Set the environment variable AZURE_CLIENT_ID to the Application (client) ID.")
    # End at the first Ctrl-C. asyncio.run() keeps this handler; its own would wait for the sign-in.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    for library in ("azure", "msal"):  # or Python would also print what they log about the error
        logging.getLogger(library).addHandler(logging.NullHandler())
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any alphabet
    try:
        asyncio.run(main())
    except (AzureError, APIError, httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(explain(error))  # for the traceback, write `raise` instead (it can show secrets)
