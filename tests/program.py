"""Runs a program in the sandbox, as its user does: in a process of its own."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .sandbox import Sandbox
from .sandbox.sandbox import USER

ROOT = Path(__file__).resolve().parents[1]
GET_USER = str(ROOT / "get_user.py")
GREETING = f"Hello {USER['displayName']}, your ID is {USER['id']}\n"
PROMPT = re.compile(
    r"To sign in, open https://(?:login\.microsoft\.com/device|www\.microsoft\.com/link) and enter "
    r"the code SANDBOX42 \(valid until (\d\d:\d\d)\)\.\n"
)

PATIENCE = 90.0
"""Seconds after which a program hangs: more than a silent network costs on a busy machine, and
less than it costs with any one of the libraries' own timeouts."""

Variables = Mapping[str, str | None]
"""Environment variables to set, or, with None, to leave out."""


def environment(sandbox: Sandbox, variables: Variables | None = None) -> dict[str, str]:
    """Returns the sandbox's environment with `variables` applied.

    The settings of the Python that runs the tests are left out: with PYTHONUNBUFFERED, for
    example, a missing flush would never be seen.
    """
    kept = {
        name: value for name, value in sandbox.environment.items() if not name.startswith("PYTHON")
    }
    # Through a pipe, Python on Windows would write in the code page of the machine.
    kept |= {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    changed = {**kept, **(variables or {})}
    return {name: value for name, value in changed.items() if value is not None}


def run(
    sandbox: Sandbox,
    *command: str,
    variables: Variables | None = None,
    cwd: Path | None = None,
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Runs `python COMMAND`, by default get_user.py, to its end.

    Raises subprocess.TimeoutExpired if it hangs.
    """
    result = subprocess.run(
        [python, *(command or [GET_USER])],
        cwd=cwd,
        env=environment(sandbox, variables),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    for secret in sandbox.secrets:
        assert secret not in result.stdout + result.stderr, "a secret was printed"
    return result


@contextmanager
def started(
    sandbox: Sandbox,
    *command: str,
    variables: Variables | None = None,
    encoding: str = "utf-8",
) -> Iterator[subprocess.Popen[str]]:
    """Starts `python COMMAND`, by default get_user.py, with all three streams as pipes.

    It is killed at the end of the `with` block or when it hangs, so that no read waits forever.
    """
    with subprocess.Popen(
        [sys.executable, *(command or [GET_USER])],
        env=environment(sandbox, variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=encoding,
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()
