"""Sign in to Microsoft with a device code, ask Microsoft Graph who that was, and greet the user.

Run it with `python3 get_user.py`, or await `get_user()` in a program of your own.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from datetime import datetime
from typing import Any, TextIO

from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.identity import DeviceCodeCredential
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

    Raises ValueError for a CLIENT_ID or TENANT_ID that cannot be one, before any request;
    azure.core.exceptions.ClientAuthenticationError if sign-in refuses or cannot be reached;
    the client's ODataError if Graph refuses; httpx.HTTPError if Graph cannot be reached; and
    Exception, as Kiota does, if its answer is not a user. Cancelled, it ends with the next poll.
    """
    if not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", CLIENT_ID):
        raise ValueError(
            "The client ID is not a GUID: set AZURE_CLIENT_ID to the Application (client) ID that "
            "the Overview page of your app registration shows at https://entra.microsoft.com."
        )
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
        raise RuntimeError("Microsoft Graph answered, but not with a user.")
    return user


class AsyncCredential(AsyncTokenCredential):
    """Makes a credential awaitable, so that the event loop goes on while it waits for the person.

    azure.identity.aio has no DeviceCodeCredential.
    """

    def __init__(self, credential: DeviceCodeCredential) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        self._credential.close()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def show_prompt(verification_uri: str, user_code: str, expires_on: datetime) -> None:
    """Tell the person where to enter which code, and until what local time."""
    until = expires_on.astimezone().strftime("%H:%M")
    prompt = f"To sign in, open {verification_uri} and enter the code {user_code}"
    say(f"{prompt} (valid until {until}).", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Write text as one line of characters that can be printed, whatever the stream's encoding."""
    text = " ".join(text.split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoded = line.encode(stream.encoding, "backslashreplace")
    try:
        print(encoded.decode(stream.encoding), file=stream, flush=True)
    except OSError:
        # A full disk would refuse the line once more at exit, which Python reports in its own way.
        with contextlib.suppress(OSError):
            stream.close()
        raise


def main() -> int:
    """Greet the user who signs in; return the exit status."""
    # asyncio.run would have Ctrl-C wait for the thread that waits for the person.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Python prints a warning that no handler takes: here the text of the exception, once more.
    for library in ("azure", "msal"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    try:
        user = asyncio.run(get_user())
        name = f" {user.display_name}".rstrip() if user.display_name else ""
        say(f"Hello{name}, your ID is {user.id}", sys.stdout)
    except Exception as error:  # the bare class too: Kiota raises it if it cannot read an answer
        say(getattr(error, "message", None) or str(error) or type(error).__name__, sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
