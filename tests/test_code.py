"""The code is typed and formatted, here and wherever it is copied to."""

import subprocess
import sys
from pathlib import Path

import pytest

from .program import ROOT
from .readme import blocks, section
from .test_recipes import applied, copy_as_told

RECIPES = {
    "Read one more property": [[0, 1]],
    "Call one more operation": [[0, 1]],
    "Sign in with another credential": [[0], [1]],
    "Stay signed in": [[0]],
    "Use a national cloud": [[0]],
    "Log what happens": [[0]],
}


def expect_success(folder: Path, *command: str) -> None:
    """Runs `python -m COMMAND` in a folder."""
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_finds_nothing(command: list[str]) -> None:
    expect_success(ROOT, "ruff", *command, "get_user.py", "tests")


def test_the_types_fit_here_and_in_every_copy(tmp_path: Path) -> None:
    # One after the other, since each finds in the cache what the first has read.
    expect_success(ROOT, "mypy")
    shared = [f"--config-file={ROOT / '.mypy.ini'}", f"--cache-dir={ROOT / '.mypy_cache'}"]
    folder = copy_as_told(tmp_path / "library").parent
    (code,) = blocks("python", section("Call it from your own program"))
    (folder / "own.py").write_text(code, encoding="utf-8")
    expect_success(folder, "mypy", *shared, "own.py", "get_user.py")
    # The client's own types are what it is checked against.
    (folder / "wrong.py").write_text(code.replace("user.id", "user.id + 1"), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"Unsupported operand types for \+"):
        expect_success(folder, "mypy", *shared, "wrong.py")
    for heading, diffs in RECIPES.items():
        for numbers in diffs:
            script = applied(tmp_path / f"{heading} {numbers}", heading, *numbers)
            expect_success(script.parent, "mypy", *shared, "get_user.py")
            expect_success(script.parent, "ruff", "check", f"--config={ROOT / '.ruff.toml'}")
            expect_success(
                script.parent, "ruff", "format", "--check", f"--config={ROOT / '.ruff.toml'}"
            )
