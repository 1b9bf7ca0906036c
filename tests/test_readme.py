"""What README.md and tests/README.md tell to run and to change, run and changed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .project import GREETING, ROOT, copy, edit, expect, run
from .sandbox import Sandbox
from .sandbox.graph import USER

README = (ROOT / "README.md").read_text(encoding="utf-8")
TESTS_README = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
HELLO = "            print(f\"Hello {me.display_name or 'there'}, your ID is {me.id}\")\n"
PROPERTY, CALL = "Read another property", "Make another call"
BROWSER = "Sign in with a browser"
PATCHES = {PROPERTY: "mail.patch", CALL: "drive.patch"}
"""What `git diff` shows after a change of get-me.yml and `kiota update`, by Kiota 1.34.1."""


def blocks(language: str, heading: str = "", page: str = README) -> list[str]:
    """Return the blocks of code in a language, of a whole page or under a heading."""
    section = re.split(rf"^#+ {heading}$", page, flags=re.MULTILINE)[-1] if heading else page
    section = re.split("^#", section, flags=re.MULTILINE)[0] if heading else page
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found, f"no block of {language} under {heading or 'any heading'}"
    return found


def make(folder: Path, *headings: str) -> None:
    """Make the changes under these headings in a copy of the project."""
    for heading in headings:
        for hunk in "@@\n".join(blocks("diff", heading)).split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(x[1:] for x in lines if x[0] != sign) for sign in "+-")
            paths = [folder / "get_user.py", folder / "get-me.yml"]
            fitting = [path for path in paths if old in path.read_text(encoding="utf-8")]
            assert fitting, f"neither get_user.py nor get-me.yml has this:\n{old}"
            edit(fitting[0], old, new)
        if heading in PATCHES:
            regenerate(folder, PATCHES[heading])


def regenerate(folder: Path, patch: str) -> None:
    """Do to client/ what Kiota does, if get-me.yml has been changed as it was for the patch."""
    apply = ["git", "apply", "--whitespace=nowarn", str(ROOT / "tests" / "kiota" / patch)]
    subprocess.run([*apply, "--reverse", "--check", "--include=get-me.yml"], cwd=folder, check=True)
    # The hash in the lock file is that of this change alone.
    others = ["--exclude=get-me.yml", "--exclude=client/kiota-lock.json"]
    subprocess.run([*apply, *others], cwd=folder, check=True)


def test_the_first_command_prints_what_is_shown() -> None:
    result = run(None, "-m", "tests.sandbox", cwd=ROOT)

    expect(result, 0, GREETING)
    assert [result.stderr + result.stdout] == blocks("text", "See it work")


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are a shell's")
def test_a_copy_asks_for_a_client_id_and_runs_in_the_sandbox(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*"))
    (clone / ".venv").symlink_to(sys.prefix)
    # To install the packages is what .ci/run does.
    commands = "".join(blocks("sh", "Start your own project"))
    lines = "\n".join(line for line in commands.splitlines() if "pip install" not in line)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    code = f"import subprocess; subprocess.run({lines!r}, shell=True)"
    result = run(None, "-c", code, variables={"PATH": path, "AZURE_CLIENT_ID": None}, cwd=clone)

    assert result.stderr.startswith("Set AZURE_CLIENT_ID ")
    assert result.stdout == f"{clone}\n{GREETING}"


def test_another_property_and_another_call(sandbox: Sandbox, script: Path) -> None:
    make(script.parent, PROPERTY, CALL)
    edit(script, HELLO, f"            print(me.mail)\n{HELLO}")
    result = run(sandbox, str(script))

    expect(result, 0, f"{USER['mail']}\n{GREETING}Your drive is of the type business.\n", "")


def test_a_browser_signs_in_where_device_codes_are_blocked(script: Path) -> None:
    make(script.parent, BROWSER)
    with Sandbox(device_codes=False) as sandbox:
        result = run(sandbox, str(script))

    assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    assert sandbox.asked() == ["discovery", "authorize", "token", "me"]


def test_a_wrong_scope_is_refused_in_a_browser_too(sandbox: Sandbox, script: Path) -> None:
    make(script.parent, BROWSER)
    edit(script, 'SCOPES = ["User.Read"]', 'SCOPES = ["Mail.Read"]')
    result = run(sandbox, str(script))

    expect(result, 1, "")
    assert "AADSTS70011: " in result.stderr
    assert "(The sandbox has Files.Read, User.Read; " in result.stderr


def test_a_script_decides_what_graph_has(tmp_path: Path) -> None:
    script = copy(tmp_path / "my-project")
    edit(script, HELLO, blocks("python", PROPERTY)[0] + HELLO)
    make(script.parent, CALL)
    (code,), (shown,) = blocks("python", page=TESTS_README), blocks("text", page=TESTS_README)
    (tmp_path / "clone").mkdir()
    result = run(None, "-c", code, cwd=tmp_path / "clone")

    failed, endpoints = shown.splitlines(keepends=True)
    drive = "Your drive is of the type personal.\n"
    expect(result, 0, f"{USER['mail']}\n{GREETING}{drive}{endpoints}")
    assert result.stderr.endswith(failed)


def test_the_sandbox_is_taken_along_and_refuses_device_codes(script: Path) -> None:
    shutil.copytree(ROOT / "tests" / "sandbox", script.parent / "sandbox")
    command = ("-m", "sandbox", "--no-device-codes", "get_user.py")
    result = run(None, *command, cwd=script.parent, variables={"PYTHONPATH": None})

    expect(result, 1, "")
    assert "AADSTS530035: Access has been blocked" in result.stderr


def test_the_types_and_the_style_are_right(script: Path, tmp_path: Path) -> None:
    make(script.parent, PROPERTY, CALL, BROWSER)
    config = [f"--config={ROOT / '.ruff.toml'}"]
    mypy = ["mypy", f"--config-file={ROOT / '.mypy.ini'}", f"--cache-dir={tmp_path / 'cache'}"]
    for folder, paths in ((ROOT, ["get_user.py", "tests"]), (script.parent, ["get_user.py"])):
        for command in (["ruff", "check", *config], ["ruff", "format", "--check", *config], mypy):
            result = run(None, "-m", *command, *paths, cwd=folder)
            assert result.returncode == 0, f"{folder}: {command}\n{result.stdout}{result.stderr}"
