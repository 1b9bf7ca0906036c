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
    credential = DeviceCodeCredential(
        client_id=CLIENT_ID,
        tenant_id=TENANT_ID,
        prompt_callback=show_prompt,
        connection_timeout=5,  # seconds for the network, not for the user; the default is 300
        read_timeout=10,
    )
    auth_provider = AzureIdentityAuthenticationProvider(  # only the allowed hosts get the token
        credential, scopes=SCOPES, allowed_hosts=["graph.microsoft.com"]
    )
    # Without http_client, the request adapter makes the same HTTP client, but nothing closes it.
    async with KiotaClientFactory.create_with_default_middleware() as http_client:
        request_adapter = HttpxRequestAdapter(auth_provider, http_client=http_client)
        client = GetUserApiClient(request_adapter)

        # To call more, edit get-me.yml and SCOPES; then kiota update --output client --clean-output
        me = await client.me.get()  # the first call signs in, which blocks the event loop
        if not me or not me.id:
            sys.exit("Microsoft Graph answered, but named no user.")
        print(f"Hello {me.display_name or 'there'}, your ID is {me.id}")


def show_prompt(verification_uri: str, user_code: str, expires_on: datetime) -> None:
    """Show the user what to do (RFC 8628 section 3.3). On stderr, as stdout may go to a file."""
    prompt = f"To sign in, open {verification_uri} and enter the code {user_code}"
    print(f"{prompt} (valid until {expires_on.astimezone():%H:%M}).", file=sys.stderr)


HINTS = {  # Regular expression: hint. The first that fits is shown; "70002:" not for 7000218.
    "AADSTS50059:|AADSTS700016:": "Check the client ID. If the app is for one tenant only, set "
    "AZURE_TENANT_ID to its Directory (tenant) ID. A new app can take a few minutes to work.",
    "AADSTS50194:": "Set AZURE_TENANT_ID to the Directory (tenant) ID of the app registration.",
    "AADSTS9002331:": "Set AZURE_TENANT_ID to the word consumers.",
    "AADSTS70002:|AADSTS7000218:": "In the app registration, set Authentication > Allow public "
    "client flows to Enabled. If it is, check the client ID and the supported account types.",
    "AADSTS53003:|AADSTS530035:": "Device codes may be blocked. Sign in with a browser: in "
    "main(), use InteractiveBrowserCredential without prompt_callback, and register its redirect "
    "URI http://localhost (Mobile and desktop). If that is blocked too, ask an administrator.",
    "AADSTS65001:": "Run it again and accept the permissions, or ask an administrator to do so.",
    r"AADSTS\d+:": "Look the number up at https://login.microsoftonline.com/error.",
    "waiting for user": "Run it again. If the browser showed a number, search get_user.py for it.",
    "CERTIFICATE_VERIFY_FAILED": "Check the clock. If a proxy inspects TLS, set REQUESTS_CA_BUNDLE "
    "(for the sign-in) and SSL_CERT_FILE (for Microsoft Graph) to a PEM file with its CA.",
    "get authority": "Check AZURE_TENANT_ID. If it is right, check the network and HTTPS_PROXY.",
    "ConnectionTerminated": "Repeat the call: Microsoft Graph ends a connection after many calls.",
    "status 403": "Add the permission that the call needs to SCOPES. The user may need a role.",
}
NO_ANSWER = (  # azure-identity then names an error of azure-core as the cause of its own
    "Check the network. If it needs a proxy, set HTTPS_PROXY to http://HOST:PORT or "
    "http://NAME:PASSWORD@HOST:PORT, with special characters percent-encoded."
)


def explain(error: AzureError | APIError | httpx.HTTPError) -> str:
    """Return the error in one line, and in a second one what to do about it, if that is known."""
    text = str(error).removeprefix("Authentication failed: ")
    if isinstance(error, ODataError) and error.error and error.error.code:
        text = f"{error.error.code}: {text}"
    else:  # after these words, azure-core and MSAL quote a page, h11 a token, urllib3 a password
        text = re.split("\nContent:|Discovery:|Illegal header|Failed to parse", text)[0]
    text = "".join(char if char.isprintable() else " " for char in text)
    unanswered = isinstance(error, httpx.TransportError) or isinstance(error.__cause__, AzureError)
    hints = (hint for pattern, hint in HINTS.items() if re.search(pattern, text))
    hint = next(hints, NO_ANSWER if unanswered else "")
    return f"{text or type(error).__name__}\n{hint}".strip()


if __name__ == "__main__":
    if not re.fullmatch("[0-9a-fA-F-]{36}", CLIENT_ID):
        sys.exit("Set AZURE_CLIENT_ID to the Application (client) ID, or replace YOUR_CLIENT_ID.")
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # asyncio's own waits for the sign-in
    for library in ("azure", "msal"):  # or Python would also print what they log about the error
        logging.getLogger(library).addHandler(logging.NullHandler())
    try:  # for a traceback, put `raise` into the except clause; it can show secrets
        asyncio.run(main())
    except AzureError as error:
        sys.exit(f"Sign-in failed: {explain(error)}")
    except (APIError, httpx.HTTPError) as error:
        sys.exit(f"The call to Microsoft Graph failed: {explain(error)}")
    except httpx.InvalidURL:  # not quoted, as it can have the password of a proxy
        sys.exit("A URL is malformed. Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.")
