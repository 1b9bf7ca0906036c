"""Copies of the project, with README.md's changes made as its reader would make them."""

import re
import shutil
import subprocess
from pathlib import Path

from .program import ROOT
from .readme import blocks, section

PATCHES = ROOT / "tests" / "kiota"
"""What `git diff` shows after these changes of get-me.yml and `kiota update`, by Kiota 1.34.1."""

CHANGES: dict[str, tuple[str, list[int]]] = {
    "browser": ("Sign in with a browser", [0]),
    "azure-cli": ("Use the Azure CLI or a managed identity", [0]),
    "mail": ("Read another property, call another operation", [0, 1]),
    "drive": ("Read another property, call another operation", [2, 3]),
    "stay": ("Stay signed in", [0]),
    "cloud": ("Use another cloud", [0]),
    "log": ("Log what happens", [0]),
}
"""The section of README.md in which a change stands, and which of its diffs belong to it."""


def copy_as_told(folder: Path) -> Path:
    """Copies what README.md says to copy, and returns the copy's get_user.py."""
    (command,) = re.findall(r"^cp -r (.*) \.\./my-project$", section("Copy it"), re.MULTILINE)
    folder.mkdir()
    for name in command.split():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder / "get_user.py"


def replace(path: Path, old: str, new: str) -> None:
    """Replaces a text that stands in a file once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has this {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def change(folder: Path, diff: str) -> None:
    """Applies a diff of README.md as its reader would: `@@` stands for any lines between."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old, new = (
            "".join(f"{line[1:]}\n" for line in lines if line[:1] != other) for other in "+-"
        )
        paths = [folder / "get_user.py", folder / "get-me.yml"]
        (path,) = (path for path in paths if old in path.read_text(encoding="utf-8"))
        replace(path, old, new)


def regenerate(folder: Path, patch: str) -> None:
    """Does to client/ what `kiota update` does, if get-me.yml is as in the patch."""
    command = ["git", "apply", "--unsafe-paths", f"--directory={folder}", str(PATCHES / patch)]
    described = (folder / "get-me.yml").read_text(encoding="utf-8")
    shutil.copy(ROOT / "get-me.yml", folder)
    subprocess.run(command, cwd=folder, check=True)
    assert described == (folder / "get-me.yml").read_text(encoding="utf-8")


def changed(folder: Path, *names: str) -> Path:
    """Copies the project, makes the changes of these names, and returns the copy's get_user.py."""
    script = copy_as_told(folder)
    for name in names:
        heading, numbers = CHANGES[name]
        for number in numbers:
            change(folder, blocks("diff", section(heading))[number])
    if described := [name for name in ("mail", "drive") if name in names]:
        regenerate(folder, f"{'-and-'.join(described)}.patch")
    return script
