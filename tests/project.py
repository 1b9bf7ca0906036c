"""What the tests share: they run programs, copy the project, and read README.md."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
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
"""Seconds after which a program hangs: more than a silent sign-in takes on a busy machine."""

Variables = Mapping[str, str | None]
"""Environment variables to set, or, with None, to leave out."""


def environment(sandbox: Sandbox, variables: Variables | None = None) -> dict[str, str]:
    """Return the sandbox's environment with `variables` applied."""
    # Through a pipe, Python on Windows would write in the code page of the machine.
    python = {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    changed = {**sandbox.environment, **python, **(variables or {})}
    return {name: value for name, value in changed.items() if value is not None}


def run(
    sandbox: Sandbox,
    *command: str,
    variables: Variables | None = None,
    cwd: Path | None = None,
    encoding: str = "utf-8",
) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND`, by default get_user.py, to its end; no output may have a secret."""
    result = subprocess.run(
        [sys.executable, *(command or [GET_USER])],
        cwd=cwd,
        env=environment(sandbox, variables),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding=encoding,
        timeout=PATIENCE,
    )
    assert PREFIX not in result.stdout + result.stderr, "a secret was printed"
    return result


def start(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a command whose outputs are to be read."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def section(heading: str) -> str:
    """Return what README.md has under a heading, up to the next one of its level or above."""
    marks = re.findall(rf"^(#+) {re.escape(heading)}$", README, re.MULTILINE)
    assert len(marks) == 1, f"{len(marks)} headings {heading!r}"
    text = README.split(f"\n{marks[0]} {heading}\n")[1]
    return re.split(rf"^#{{1,{len(marks[0])}}} ", text, flags=re.MULTILINE)[0]


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace a text that a file has once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has this {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def copy(folder: Path) -> Path:
    """Copy what README.md says to copy, and return the copy's get_user.py."""
    (command,) = re.findall(r"cp -r ([^,\n]*) \S+$", README, re.MULTILINE)
    folder.mkdir()
    for name in command.split():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder / "get_user.py"
