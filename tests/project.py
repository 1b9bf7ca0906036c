"""What the tests share: they run programs, as their user does, and copy the project."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from .sandbox import Sandbox
from .sandbox.answers import PREFIX
from .sandbox.graph import USER

ROOT = Path(__file__).resolve().parents[1]
GET_USER = str(ROOT / "get_user.py")
GREETING = f"Hello {USER['displayName']}, your ID is {USER['id']}\n"
PROMPT = re.compile(r"To sign in, open https://\S+ and enter the code SANDBOX42\.\n")

Process = subprocess.Popen[str]
Result = subprocess.CompletedProcess[str]


def run(
    sandbox: Sandbox | None,
    *command: str,
    variables: Mapping[str, str | None] | None = None,
    cwd: Path | None = None,
    meanwhile: Callable[[Process], object] = lambda process: None,
    within: float = 90,
) -> Result:
    """Run `python COMMAND`, by default get_user.py; its output may have no secret.

    It gets the environment of the sandbox or, without one, that of the tests, with `variables` set
    or, if None, left out. After `meanwhile`, it has to end within so many seconds.
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
            meanwhile(process)
            stdout, stderr = process.communicate(timeout=within)
        finally:
            process.kill()
    assert PREFIX not in stdout + stderr, "a secret was printed"
    return Result(process.args, process.returncode, stdout, stderr)


def expect(result: Result, status: int, stdout: str, said: str | None = None) -> None:
    """Check how a program ended, and what it said on stderr beside the prompt."""
    assert (result.returncode, result.stdout) == (status, stdout), result.stderr
    assert said is None or PROMPT.sub("", result.stderr, count=1) == said


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that a file has once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has this {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def copy(folder: Path) -> Path:
    """Copy the project into a new folder, as README.md says, and return the copy's get_user.py."""
    folder.mkdir()
    for name in ("get_user.py", "get-me.yml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "client", folder / "client")
    return folder / "get_user.py"
