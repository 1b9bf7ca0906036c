"""What the tests share: they run programs, copy the project, and read README.md."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .sandbox import Sandbox
from .sandbox.tokens import PREFIX
from .sandbox.world import USER

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GET_USER = str(ROOT / "get_user.py")
GREETING = f"Hello {USER['displayName']}, your ID is {USER['id']}\n"
PROMPT = re.compile(
    r"To sign in, open https://(?:login\.microsoft\.com/device|www\.microsoft\.com/link) and enter "
    r"the code SANDBOX42 \(valid until (\d\d:\d\d)\)\.\n"
)

PATIENCE = 90.0
"""Seconds after which a program hangs: more than any takes on a busy machine."""

Variables = Mapping[str, str | None]
"""Environment variables to set, or, with None, to leave out."""


@contextmanager
def started(
    sandbox: Sandbox | None,
    *command: str,
    variables: Variables | None = None,
    cwd: Path | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    """Start `python COMMAND`, by default get_user.py, and kill it at the end.

    It gets the environment of the sandbox or, without one, that of the tests.
    """
    # Through a pipe, Python on Windows would write in the code page of the machine. PYTHONPATH is
    # for a script that imports tests.sandbox from another folder.
    python = {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    inherited = sandbox.environment if sandbox else os.environ
    changed = {**inherited, **python, **(variables or {})}
    with subprocess.Popen(
        [sys.executable, *(command or [GET_USER])],
        cwd=cwd,
        env={name: value for name, value in changed.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(
    process: "subprocess.Popen[str]", within: float = PATIENCE
) -> "subprocess.CompletedProcess[str]":
    """Return how a program ends within so many seconds; its output may have no secret."""
    stdout, stderr = process.communicate(timeout=within)
    assert PREFIX not in stdout + stderr, "a secret was printed"
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(
    sandbox: Sandbox | None,
    *command: str,
    variables: Variables | None = None,
    cwd: Path | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run `python COMMAND`, as `started` starts it, to its end."""
    with started(sandbox, *command, variables=variables, cwd=cwd) as process:
        return ended(process)


def expect(result: "subprocess.CompletedProcess[str]", status: int, stdout: str) -> None:
    """Check the exit status and stdout of a program."""
    assert (result.returncode, result.stdout) == (status, stdout), result.stderr


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace a text that a file has once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has this {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def quoted(text: str, page: str = README) -> str:
    """Return a text that README.md, or another page, has word for word."""
    assert text in page, f"it does not say: {text}"
    return text


FILES = "get_user.py get-me.yml client requirements.txt"
"""What people copy."""


def copy(folder: Path) -> Path:
    """Copy the project into a new folder, as README.md says, and return the copy's get_user.py."""
    folder.mkdir()
    for name in FILES.split():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder / "get_user.py"
