"""What get_user.py costs beside a script with the fewest calls on the same packages.

Run it with `python -m tests.benchmark`: the two sign in and greet in turn, each in a sandbox of
its own that approves at once, and a table shows the medians as ratios to the bare script.
"""

import argparse
import os
import subprocess
import sys
from statistics import median
from time import perf_counter

from .program import GET_USER, ROOT, environment
from .sandbox import Sandbox

BARE = """
import asyncio
import os
from azure.identity import DeviceCodeCredential
from client.get_user_api_client import GetUserApiClient
from kiota_authentication_azure.azure_identity_authentication_provider import (
    AzureIdentityAuthenticationProvider,
)
from kiota_http.httpx_request_adapter import HttpxRequestAdapter

async def main():
    credential = DeviceCodeCredential(os.environ["AZURE_CLIENT_ID"], tenant_id="common")
    auth_provider = AzureIdentityAuthenticationProvider(
        credential, scopes=["User.Read"], allowed_hosts=["graph.microsoft.com"]
    )
    client = GetUserApiClient(HttpxRequestAdapter(auth_provider))
    user = await client.me.get()
    print(f"Hello {user.display_name}, your ID is {user.id}")

asyncio.run(main())
"""

PROGRAMS = {"bare script": ["-c", BARE], "get_user.py": [GET_USER]}


HEAD = ["time to prompt", "approval to greeting", "total time", "peak memory", "requests"]


def measure(command: list[str]) -> list[float]:
    """Returns what it costs to run `python COMMAND` once, in the order of HEAD.

    Raises AssertionError if it does not prompt and greet.
    """
    with Sandbox(pending=0, interval=1) as sandbox:
        start = perf_counter()
        with subprocess.Popen(
            # Unbuffered, or a pipe would show the bare script's prompt only when it has ended.
            [sys.executable, "-u", *command],
            cwd=ROOT,
            env=environment(sandbox),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            assert b"To sign in" in process.stdout.readline()
            prompted = perf_counter()
            sandbox.wait_for("token")
            approved = perf_counter()
            assert b"Hello Ada Lovelace" in process.stdout.readline()
            greeted = perf_counter()
            _, status, usage = os.wait4(process.pid, 0)
            ended = perf_counter()
            process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    times = [prompted - start, greeted - approved, ended - start]
    return [*times, usage.ru_maxrss, len(sandbox.requests)]


def table(rounds: int) -> str:
    """Returns the table for the medians of so many rounds, each of which runs both programs."""
    for command in PROGRAMS.values():
        measure(command)  # with cold caches, which only the first would pay for
    runs: dict[str, list[list[float]]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, command in PROGRAMS.items():
            runs[name].append(measure(command))
    medians = {name: list(map(median, zip(*costs, strict=True))) for name, costs in runs.items()}
    lines = [f"| | {' | '.join(HEAD)} |", "|---" * (1 + len(HEAD)) + "|"]
    for name, row in medians.items():
        ratios = [value / bare for value, bare in zip(row, medians["bare script"], strict=True)]
        lines.append(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often each program is run")
    options = parser.parse_args()
    if not hasattr(os, "wait4"):
        print("The benchmark needs os.wait4, which Windows does not have.", file=sys.stderr)
        return 1
    print(table(options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
