"""The code is typed and formatted, here and wherever it is copied to."""

import subprocess
import sys
from pathlib import Path

import pytest

from .copies import CHANGES, changed, copy_as_told, replace
from .program import ROOT
from .readme import blocks, section

RUFF = f"--config={ROOT / '.ruff.toml'}"
MYPY = [f"--config-file={ROOT / '.mypy.ini'}", f"--cache-dir={ROOT / '.mypy_cache'}"]


def expect_success(folder: Path, *command: str) -> None:
    """Runs `python -m COMMAND` in a folder."""
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


def expect_clean(script: Path) -> None:
    """Checks a copy's script as the project checks its own."""
    expect_success(script.parent, "ruff", "check", RUFF, "get_user.py")
    expect_success(script.parent, "ruff", "format", "--check", RUFF, "get_user.py")
    expect_success(script.parent, "mypy", *MYPY, "get_user.py")


def test_the_types_and_the_style_are_right(tmp_path: Path) -> None:
    # One after the other, since each finds in the cache what the first has read.
    expect_success(ROOT, "ruff", "check", "get_user.py", "tests")
    expect_success(ROOT, "ruff", "format", "--check", "get_user.py", "tests")
    expect_success(ROOT, "mypy")
    for name in CHANGES:
        expect_clean(changed(tmp_path / name, name))

    folder = copy_as_told(tmp_path / "own").parent
    (code,) = blocks("python", section("Copy it"))
    (folder / "own.py").write_text(code, encoding="utf-8")
    expect_success(folder, "mypy", *MYPY, "own.py")
    # The client's own types are what it is checked against.
    replace(folder / "own.py", "print(user.id)", "print(user.id + 1)")
    with pytest.raises(AssertionError, match=r"Unsupported operand types for \+"):
        expect_success(folder, "mypy", *MYPY, "own.py")
    # A credential for asyncio is another thing, as its type says.
    script = tmp_path / "azure-cli" / "get_user.py"
    replace(script, "import azure.identity\n", "import azure.identity.aio\n")
    replace(script, "return azure.identity.", "return azure.identity.aio.")
    with pytest.raises(AssertionError, match="Incompatible return value type"):
        expect_success(script.parent, "mypy", *MYPY, "get_user.py")
