"""Sign in a user with Microsoft, get their profile from Microsoft Graph, and greet them."""

import asyncio
import logging
import os
import re
import signal
import sys

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

CLIENT_ID = os.environ.get("AZURE_CLIENT_ID", "").strip()  # you can put your ID (no secret) into ""
# "common" is for an app that supports all account types. Other apps need "organizations" (work or
# school accounts), "consumers" (personal accounts) or the Directory (tenant) ID (a single tenant).
TENANT_ID = os.environ.get("AZURE_TENANT_ID", "").strip() or "common"
# To make another call, describe it in get-me.yml, add its permission to SCOPES, and run:
# kiota update --output client --clean-output
SCOPES = ["User.Read"]


async def main() -> None:
    # If device codes are blocked, use InteractiveBrowserCredential, without prompt_callback, and
    # add the redirect URI http://localhost (Mobile and desktop applications) to the app.
    credential = DeviceCodeCredential(
        client_id=CLIENT_ID,
        tenant_id=TENANT_ID,
        prompt_callback=lambda uri, code, _: print(  # on stderr: pipes and containers buffer stdout
            f"To sign in, open {uri} and enter the code {code}.", file=sys.stderr
        ),
        connection_timeout=5,  # seconds to wait for the network, not for the user; by default 300
        read_timeout=10,
    )
    auth_provider = AzureIdentityAuthenticationProvider(  # only allowed_hosts get the token
        credential, scopes=SCOPES, allowed_hosts=["graph.microsoft.com"]
    )
    # Without http_client, the request adapter makes an HTTP client that is never closed.
    async with KiotaClientFactory.create_with_default_middleware() as http_client:
        request_adapter = HttpxRequestAdapter(auth_provider, http_client=http_client)
        client = GetUserApiClient(request_adapter)

        me = await client.me.get()  # the first call signs in, which blocks the event loop
        if me:
            print(f"Hello {me.display_name or 'there'}, your ID is {me.id}")


def explain(text: str) -> str:
    """Return what an error says in one line, and below it Microsoft's page on its AADSTS number."""
    text = "".join(char if char.isprintable() else " " for char in text)
    # Cut off what azure-core and MSAL (raw answers), h11 (a token) and urllib3 (a password) quote.
    text = re.sub("(Content:|OIDC Discovery|Illegal header|Failed to parse).*", r"\1 ...", text)
    if number := re.search(r"AADSTS(\d+)", text):
        text += f"\nhttps://login.microsoftonline.com/error?code={number[1]}"
    return text


if __name__ == "__main__":
    if not CLIENT_ID:
        sys.exit("Set AZURE_CLIENT_ID to the client ID of an app that allows public client flows.")
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # or else Ctrl-C waits for the sign-in
    for library in ("azure", "msal"):  # without a handler, Python also prints what they log
        logging.getLogger(library).addHandler(logging.NullHandler())
    try:  # For a traceback, which can show secrets, replace each sys.exit(...) below by `raise`.
        asyncio.run(main())
    except AzureError as error:
        sys.exit(explain(error.message))  # str(error) would end in the raw answer
    except (APIError, httpx.HTTPError) as error:
        text = str(error) or type(error).__name__  # a timeout has no text
        sys.exit(f"The call to Microsoft Graph failed: {explain(text)}")
    except httpx.InvalidURL:  # not shown: it can have the password of a proxy
        sys.exit("A URL is malformed. Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.")
