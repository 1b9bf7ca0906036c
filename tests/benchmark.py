"""What get_user.py costs beside a script with the fewest calls on the same packages.

`python -m tests.benchmark` runs the two in turn, each in a sandbox of its own that approves at
once, and prints the medians of get_user.py as ratios to those of the bare script. Not on Windows.
"""

import os
from statistics import median
from time import perf_counter

from .project import GET_USER, started
from .sandbox import Sandbox

BARE = """
import asyncio, os
from azure.identity import DeviceCodeCredential
from client.get_user_api_client import GetUserApiClient
from kiota_authentication_azure import azure_identity_authentication_provider as provider
from kiota_http.httpx_request_adapter import HttpxRequestAdapter

async def main():
    credential = DeviceCodeCredential(os.environ["AZURE_CLIENT_ID"], tenant_id="common")
    auth = provider.AzureIdentityAuthenticationProvider(credential, scopes=["User.Read"])
    user = await GetUserApiClient(HttpxRequestAdapter(auth)).me.get()
    print(f"Hello {user.display_name}, your ID is {user.id}")

asyncio.run(main())
"""


def measure(*command: str) -> tuple[float, int, int]:
    """Run `python COMMAND` once; return its seconds, its peak memory and its requests."""
    with Sandbox(pending=0, interval=1) as sandbox:
        begun = perf_counter()
        with started(sandbox, *command) as process:
            _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return perf_counter() - begun, usage.ru_maxrss, len(sandbox.requests)


if __name__ == "__main__":
    runs = [(measure("-c", BARE), measure(GET_USER)) for _ in range(51)][1:]
    for place, name in enumerate(["time", "peak memory", "requests"]):
        bare, ours = (median(run[which][place] for run in runs) for which in (0, 1))
        print(f"{name}: {ours / bare:.2f}")
