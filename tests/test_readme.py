"""What README.md says is what happens: its commands, its changes, its examples, its messages."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .project import GREETING, PROMPT, README, ROOT, copy, replace_text, run
from .sandbox import Resource, Sandbox, entra_error
from .sandbox.tokens import PREFIX, seal
from .sandbox.world import GRAPH_HOST, USER
from .test_failures import CASES, UNFORESEEN

BOTH = "Read another property, call another operation"
CHANGES = {
    "browser": ("Sign in with a browser", 0, 1),
    "azure-cli": ("Use the Azure CLI or a managed identity", 0, 1),
    "mail": (BOTH, 0, 1),
    "drive": (BOTH, 1, 3),
    "stay": ("Stay signed in", 0, 1),
    "cloud": ("Use another cloud", 0, 1),
    "log": ("Log what happens", 0, 1),
}
"""The section in which a change stands, and which of its diffs are the change."""

DRIVE = {"/me/drive": Resource("Files.Read", {"id": "1", "driveType": "business"})}
DRIVE_LINE = "Your drive is of the type business.\n"
HELLO = "        print(f\"Hello {me.display_name or 'there'}, "


def section(heading: str) -> str:
    """Return what README.md has under a heading, up to the next one of its level or above."""
    marks = re.findall(rf"^(#+) {re.escape(heading)}$", README, re.MULTILINE)
    assert len(marks) == 1, f"{len(marks)} headings {heading!r}"
    text = README.split(f"\n{marks[0]} {heading}\n")[1]
    return re.split(rf"^#{{1,{len(marks[0])}}} ", text, flags=re.MULTILINE)[0]


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def change(folder: Path, diff: str) -> None:
    """Apply a diff of README.md as its reader would: `@@` stands for any lines between."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old, new = (
            "".join(f"{line[1:]}\n" for line in lines if line[:1] != other) for other in "+-"
        )
        paths = [folder / "get_user.py", folder / "get-me.yml"]
        (path,) = (path for path in paths if old in path.read_text(encoding="utf-8"))
        replace_text(path, old, new)


def regenerate(folder: Path, patch: str) -> None:
    """Do to client/ what `kiota update` does, if get-me.yml is as in the patch.

    The patches are what `git diff` shows after these changes and that command, by Kiota 1.34.1.
    """
    described = (folder / "get-me.yml").read_text(encoding="utf-8")
    shutil.copy(ROOT / "get-me.yml", folder)
    patch = str(ROOT / "tests" / "kiota" / patch)
    command = ["git", "apply", "--unsafe-paths", f"--directory={folder}", patch]
    subprocess.run(command, cwd=folder, check=True)
    assert described == (folder / "get-me.yml").read_text(encoding="utf-8")


def changed(folder: Path, *names: str) -> Path:
    """Copy the project, make the changes of these names, and return the copy's get_user.py."""
    script = copy(folder)
    for name in names:
        heading, first, last = CHANGES[name]
        for diff in blocks("diff", section(heading))[first:last]:
            change(folder, diff)
    if described := [name for name in ("mail", "drive") if name in names]:
        regenerate(folder, f"{'-and-'.join(described)}.patch")
    return script


def test_the_first_command_prints_what_is_shown() -> None:
    command = blocks("sh")[0].strip().rpartition(" && ")[2].split()
    assert command[0] == ".venv/bin/python"
    result = run(None, *command[1:], cwd=ROOT)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert blocks("text") == [re.sub(r"\d\d:\d\d", "14:35", result.stderr) + GREETING]


def test_ci_runs_the_commands() -> None:
    workflows = ROOT / ".github" / "workflows"
    (tests,) = blocks("sh", section("Run the tests"))
    for command in (blocks("sh")[0], tests, *blocks("powershell")):
        assert f" {command}" in (workflows / "tests.yml").read_text()
    (regenerate,) = blocks("shell", section(BOTH))
    for command in regenerate.splitlines(keepends=True):
        assert f" {command}" in (workflows / "client.yml").read_text()
    lock = json.loads((ROOT / "client" / "kiota-lock.json").read_text())
    assert f" --version {lock['kiotaVersion']}\n" in regenerate

    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == tests.strip()


def test_the_six_packages_are_enough(sandbox: Sandbox, tmp_path: Path) -> None:
    pinned = (ROOT / "requirements.txt").read_text().splitlines()[3:]
    for_tests = (ROOT / "tests" / "requirements.txt").read_text()
    script = copy(tmp_path / "mein Projekt für Ada")
    missing = re.findall("^([a-z]+)==", for_tests, re.MULTILINE)
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({missing}))"
    code += f"; sys.path[0] = {str(script.parent)!r}"
    code += f"; runpy.run_path({str(script)!r}, run_name='__main__')"
    result = run(sandbox, "-c", code, variables={"PYTHONPATH": None})

    assert len(pinned) == 6
    assert all(re.match("(azure-identity|microsoft-kiota-[a-z-]+)==", line) for line in pinned)
    assert {"hypercorn", "pytest", "trustme"} <= set(missing)
    assert (result.returncode, result.stdout) == (0, GREETING)


def test_in_a_notebook_main_is_awaited(sandbox: Sandbox) -> None:
    (call,) = re.findall("In a notebook, run `(.*?)`", README)
    code = f"import asyncio\nfrom get_user import main\nasync def cell():\n {call}\n"
    result = run(sandbox, "-c", f"{code}asyncio.run(cell())")

    assert (result.returncode, result.stdout) == (0, GREETING)


def test_a_property_is_there_without_regenerating(sandbox: Sandbox, tmp_path: Path) -> None:
    (expression,) = re.findall(r"`(me\.additional_data.*?)`", README)
    script = copy(tmp_path / "copy")
    replace_text(script, HELLO, f"        print(type({expression}).__name__)\n{HELLO}")
    with Sandbox(pending=0, user={**USER, "mail": "2026-11-25T20:00:00Z"}) as dated:
        results = [run(each, str(script)) for each in (sandbox, dated)]

    assert [result.stdout.split("\n")[0] for result in results] == ["str", "datetime"]


def test_one_more_property_and_one_more_operation(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "mail", "drive", "log")
    (expression,) = re.findall(r"For `(me\.\w+)`, change get-me.yml", README)
    replace_text(script, HELLO, f"        print({expression})\n{HELLO}")
    with Sandbox(pending=0, interval=1, resources=DRIVE) as sandbox:
        result = run(sandbox, str(script), cwd=tmp_path)

    assert (result.returncode, result.stdout) == (0, f"{USER['mail']}\n{GREETING}{DRIVE_LINE}")
    assert PROMPT.fullmatch(result.stderr)
    assert [request.path for request in sandbox.requests[-2:]] == ["/v1.0/me", "/v1.0/me/drive"]

    log = (tmp_path / "get_user.log").read_text(encoding="utf-8")
    assert f"https://{GRAPH_HOST}/v1.0/me" in log
    assert "/oauth2/v2.0/token" in log
    assert PREFIX not in log


def test_a_browser_signs_in_where_device_codes_are_blocked(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "browser")
    with Sandbox(device_codes=False) as sandbox:
        refused = run(sandbox)
        result = run(sandbox, str(script))
        endpoints = [request.endpoint for request in sandbox.requests[-4:]]

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "AADSTS530035: Access has been blocked" in refused.stderr
    assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    assert endpoints == ["discovery", "authorize", "token", "me"]


def test_a_wrong_scope_is_refused_in_a_browser_too(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "browser")
    replace_text(script, 'SCOPES = ["User.Read"]', 'SCOPES = ["Mail.Read"]')
    result = run(sandbox, str(script))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Sign-in failed: AADSTS70011: ")


AZ = """#!/bin/sh
[ "$*" = "account get-access-token --output json --resource https://graph.microsoft.com" ] || exit 2
cat <<END || exit 1
{answer}
END
"""
TOKEN = seal("access token", 3600, scope=f"https://{GRAPH_HOST}/User.Read", claims={})
AZURE_CLI = {
    TOKEN: (0, GREETING, ""),
    # Over HTTP/1.1, h11 quotes the token of which it complains.
    f"{TOKEN}\n": (1, "", "The call to Microsoft Graph failed: LocalProtocolError\n"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for az is a script with a #!")
@pytest.mark.parametrize("token", AZURE_CLI)
def test_the_azure_cli_gives_the_token(sandbox: Sandbox, tmp_path: Path, token: str) -> None:
    script = changed(tmp_path / "copy", "azure-cli")
    replace_text(script, "_middleware()", "_middleware(httpx.AsyncClient())")
    az = tmp_path / "az"
    az.write_text(AZ.format(answer=json.dumps({"accessToken": token, "expires_on": 4102444800})))
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    result = run(sandbox, str(script), variables={"PATH": path, "AZURE_CLIENT_ID": None})

    assert (result.returncode, result.stdout, result.stderr) == AZURE_CLI[token]


# Elsewhere it would write to the protected store of whoever runs the tests.
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it needs a system without a keyring")
NO_KEYRING = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}


def without_keyring(script: Path) -> None:
    """Let azure-identity store tokens in plain text, which stands in for a keyring."""
    (options,) = re.findall(r"`(TokenCachePersistenceOptions\(.+?\))`", README)
    replace_text(script, "options=TokenCachePersistenceOptions()", f"options={options}")


@on_linux
def test_without_a_keyring_nobody_signs_in(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "stay")
    result = run(sandbox, str(script), variables={**NO_KEYRING, "HOME": str(tmp_path)})

    assert result.returncode == 1
    assert "allow_unencrypted_storage" in result.stderr
    assert sandbox.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@on_linux
def test_the_second_run_signs_in_by_itself(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "stay", "mail", "drive")
    without_keyring(script)
    variables = {**NO_KEYRING, "HOME": str(tmp_path)}
    endpoints, results = [], []
    for claims in ({}, {}, {"nbf": {"essential": True, "value": "1"}}, {}):
        # Each time another sandbox: the tokens are good in all of them.
        with Sandbox(pending=0, interval=1, resources=DRIVE, required_claims=claims) as sandbox:
            if claims:
                revoked = entra_error(50173, "invalid_grant", "The grant has been revoked.")
                sandbox.replace("token", revoked)
            results.append(run(sandbox, str(script), variables=variables))
            endpoints.append([request.endpoint for request in sandbox.requests])

    assert [result.stdout for result in results] == [GREETING + DRIVE_LINE] * 4
    prompts = [len(PROMPT.findall(result.stderr)) for result in results]
    assert prompts == [1, 0, 1, 0], "Graph wants a new sign-in the third time"
    assert endpoints[1] == ["discovery", "me", "me/drive"]
    account = (tmp_path / f".get_user-{sandbox.client_id}.json").read_text()
    assert USER["userPrincipalName"] in account
    assert PREFIX not in account


@on_linux
def test_another_cloud_is_used_for_all(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "cloud", "stay", "log")
    without_keyring(script)
    sign_in, graph = "login.microsoftonline.us", "graph.microsoft.us"
    variables = {**NO_KEYRING, "HOME": str(tmp_path)}
    government = Sandbox(pending=0, sign_in_host=sign_in, graph_host=graph)
    with government as sandbox, Sandbox(pending=0) as elsewhere:
        forgotten, result, again = (
            run(each, str(script), variables=variables, cwd=tmp_path)
            for each in (elsewhere, sandbox, sandbox)
        )

    assert "AADSTS70011" in forgotten.stderr
    assert (result.stdout, again.stdout, again.stderr) == (GREETING, GREETING, "")
    assert {request.host for request in sandbox.requests} == {sign_in, graph}


@pytest.mark.parametrize("mended", [False, True])
def test_http_1_loses_no_call(tmp_path: Path, mended: bool) -> None:
    (factory,) = re.findall(r"use HTTP/1.1: `(.*?)`", README)
    script = copy(tmp_path / "copy")
    if mended:
        replace_text(script, "create_with_default_middleware()", factory)
    replace_text(
        script, HELLO, f"        for _ in range(9):\n            await client.me.get()\n{HELLO}"
    )
    with Sandbox(pending=0, calls=3) as sandbox:
        result = run(sandbox, str(script))

    assert result.returncode == (0 if mended else 1)
    assert ("ConnectionTerminated" in result.stderr) == (not mended)


def test_the_sandbox_runs_a_program_of_ones_own_with_more(tmp_path: Path) -> None:
    folder = copy(tmp_path / "my-project").parent
    shutil.copytree(ROOT / "tests" / "sandbox", folder / "sandbox")
    (code,) = blocks("python", section("Run your own program in the sandbox"))
    commands = [("-c", code), ("-m", "sandbox", str(ROOT / "get_user.py"))]
    results = [run(None, *command, cwd=folder) for command in commands]

    assert [result.stdout for result in results] == ["", GREETING]
    assert "Forbidden: Not allowed. (status 403)" in results[0].stderr


ELSEWHERE = {
    "AADSTS70011",  # test_another_cloud_is_used_for_all
    "ConnectionTerminated",  # test_http_1_loses_no_call
    "not marked critical",  # Python 3.13 and newer, which not all tests run on
    "key usage extension",
}


def test_each_message_of_the_table_is_shown_by_a_case() -> None:
    rows = re.findall(r"^\| (.*?) \| ", section("When it does not work"), re.MULTILINE)
    messages = {text for row in rows for text in re.findall("`(.*?)`", row)}
    shown = [case.says for case in {**CASES, **UNFORESEEN}.values()]

    assert len(messages) > 5
    assert {
        text for text in messages if not any(text in each for each in shown)
    } - ELSEWHERE == set()


def test_each_change_is_tried() -> None:
    tried = {heading: last for heading, _, last in CHANGES.values()}
    for heading, text in re.findall(r"^### (.*?)\n(.*?)(?=^#)", README, re.DOTALL | re.MULTILINE):
        assert len(blocks("diff", text)) == tried.get(heading, 0), heading


def test_every_link_within_it_leads_somewhere() -> None:
    targets = set(re.findall(r"\]\((?!https://)(.*?)\)", README))
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {f"#{re.sub('[^a-z0-9 -]', '', text.lower()).replace(' ', '-')}" for text in headings}

    assert len(targets) > 5
    assert [path for path in targets - anchors if not (ROOT / path).exists()] == []


MYPY = ["mypy", f"--config-file={ROOT / '.mypy.ini'}", f"--cache-dir={ROOT / '.mypy_cache'}"]
RUFF = f"--config={ROOT / '.ruff.toml'}"


def test_the_types_and_the_style_are_right(tmp_path: Path) -> None:
    # One after the other, since each finds in mypy's cache what the first has read.
    for folder in [ROOT, *(changed(tmp_path / name, name).parent for name in CHANGES)]:
        paths = ["get_user.py", "tests"] if folder == ROOT else ["get_user.py"]
        for command in (["ruff", "check", RUFF], ["ruff", "format", "--check", RUFF], MYPY):
            result = run(None, "-m", *command, *paths, cwd=folder)
            assert result.returncode == 0, f"{folder}: {command}\n{result.stdout}{result.stderr}"
