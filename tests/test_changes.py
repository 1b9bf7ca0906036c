"""The changes of README.md, made in a copy of the project and run in the sandbox."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.metadata import files, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .cases import BLOCKED_HINT
from .copies import changed, copy_as_told, replace
from .program import GREETING, PROMPT, ROOT, run
from .readme import blocks, section
from .sandbox import GRAPH_HOST, Resource, Sandbox, entra_error
from .sandbox.sandbox import USER
from .sandbox_client import client_of, sign_in

DRIVE = {"/me/drive": Resource("Files.Read", {"id": "1", "driveType": "business"})}
DRIVE_LINE = "Your drive is of the type business.\n"


def us_government() -> Sandbox:
    """A sandbox of that cloud, as README.md says."""
    code = section("Use another cloud").split("`Sandbox(")[1].split(")`")[0]
    return Sandbox(pending=0, **dict(re.findall(r'(\w+)="(.*?)"', code)))


def needed_by(requirements: list[str], extras: set[str]) -> Iterator[str]:
    """Yields the names of what pip would install for a list of requirements."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonicalize_name(requirement.name)
            yield from needed_by(requires(requirement.name) or [], requirement.extras)


def environment_of(requirements: Path, folder: Path) -> str:
    """Makes an environment that holds what pip would install for a file of requirements.

    The packages come from the environment that runs the tests. Returns the path of its Python.
    """
    on_windows = sys.platform == "win32"
    builder = venv.EnvBuilder(symlinks=not on_windows)
    builder.create(folder)
    scheme = "nt" if on_windows else "posix_prefix"
    packages = Path(sysconfig.get_path("purelib", scheme, {"base": str(folder)}))
    for name in set(needed_by(requirements.read_text().splitlines(), set())):
        for path in files(name) or []:
            if ".." not in path.parts:
                (packages / path).parent.mkdir(parents=True, exist_ok=True)
                (shutil.copy if on_windows else os.symlink)(path.locate(), packages / path)
    return str(builder.ensure_directories(folder).env_exe)


def test_a_copy_needs_nothing_else(sandbox: Sandbox, tmp_path: Path) -> None:
    script = copy_as_told(tmp_path / "mein Projekt für Ada")
    python = environment_of(script.parent / "requirements.txt", tmp_path / "environment")
    variables = {"PYTHONPATH": None}
    result = run(sandbox, str(script), cwd=script.parent, python=python, variables=variables)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)


def test_a_program_of_ones_own_makes_calls_with_one_sign_in(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (code,) = blocks("python", section("Copy it"))
    call = "user = await client.me.get()"
    both = "user, _ = await asyncio.gather(client.me.get(), client.me.get())"
    result = run(sandbox, "-c", code.replace(call, both), variables={"PYTHONPATH": str(ROOT)})

    assert (result.returncode, result.stdout) == (0, f"{USER['id']}\n")
    assert PROMPT.fullmatch(result.stderr)
    endpoints = [request.endpoint for request in sandbox.requests]
    assert endpoints == ["discovery", "devicecode", "token", "me", "me"]


def test_a_browser_signs_in_where_device_codes_are_blocked(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "browser")
    with Sandbox(device_codes=False) as sandbox:
        refused = run(sandbox)
        result = run(sandbox, str(script))
        endpoints = [request.endpoint for request in sandbox.requests[-4:]]

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "AADSTS530035: Access has been blocked" in refused.stderr
    assert refused.stderr.endswith(f"\n{BLOCKED_HINT}\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    assert endpoints == ["discovery", "authorize", "token", "me"]


def test_a_refused_browser_ends_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "browser")
    replace(script, 'SCOPES = ["User.Read"]', 'SCOPES = ["Mail.Read"]')
    result = run(sandbox, str(script))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Sign-in: Authentication failed: AADSTS70011: ")


AZ = """#!/bin/sh
if [ "$*" = "account get-access-token --output json --resource https://graph.microsoft.com" ]
then {does}
else exit 2
fi
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for az is a script with a #!")
@pytest.mark.parametrize("signed_in", [True, False])
def test_the_azure_cli_gives_the_token(sandbox: Sandbox, tmp_path: Path, signed_in: bool) -> None:
    script = changed(tmp_path / "copy", "azure-cli")
    with client_of(sandbox) as client:
        token = sign_in(sandbox, client)["access_token"]
    answer = json.dumps({"accessToken": token, "expires_on": 4102444800})
    refuse = "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1"
    az = tmp_path / "az"
    az.write_text(AZ.format(does=f"echo '{answer}'" if signed_in else refuse))
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    result = run(sandbox, str(script), variables={"PATH": path, "AZURE_CLIENT_ID": None})

    if signed_in:
        assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    else:
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Sign-in: Please run 'az login' to set up an account\n"


def test_a_managed_identity_takes_the_same_change(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "azure-cli")
    replace(script, "AzureCliCredential", "ManagedIdentityCredential")
    result = run(sandbox, str(script))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Sign-in: ManagedIdentityCredential authentication unavailable.\n"
    # The address of Azure's metadata service: the sandbox's proxy leads nobody there.
    assert [request.host for request in sandbox.requests] == ["169.254.169.254"]


def test_one_more_property_and_one_more_operation(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "mail", "drive")
    with Sandbox(pending=0, interval=1, resources=DRIVE) as sandbox:
        result = run(sandbox, str(script))

    mail = f"Your mail address is {USER['mail']}.\n"
    assert (result.returncode, result.stdout) == (0, DRIVE_LINE + GREETING + mail)
    assert PROMPT.fullmatch(result.stderr)
    assert [request.path for request in sandbox.requests[-2:]] == ["/v1.0/me", "/v1.0/me/drive"]


def test_a_property_is_there_without_regenerating(sandbox: Sandbox, tmp_path: Path) -> None:
    text = section("Read another property, call another operation")
    (expression,) = re.findall(r"`(user\.additional_data.*?)`", text)
    code = blocks("python", section("Copy it"))[0].replace("user.id", expression)
    result = run(sandbox, "-c", code)

    assert (result.returncode, result.stdout) == (0, f"{USER['mail']}\n")


# Elsewhere it would write to the protected store of whoever runs the tests.
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it needs a system without a keyring")
NO_KEYRING = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}


def without_keyring(script: Path) -> None:
    """Lets azure-identity store tokens in plain text, which stands in for a keyring."""
    options = "TokenCachePersistenceOptions("
    replace(script, f"{options})", f"{options}allow_unencrypted_storage=True)")


@on_linux
def test_without_a_keyring_nothing_is_stored(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "stay")
    home = tmp_path / "home"
    home.mkdir()
    result = run(sandbox, str(script), variables={**NO_KEYRING, "HOME": str(home)})

    assert (result.returncode, result.stdout) == (1, "")
    assert "Cache encryption is impossible" in result.stderr
    assert sandbox.requests == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


@on_linux
def test_the_second_run_signs_in_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "stay")
    without_keyring(script)
    variables = {**NO_KEYRING, "HOME": str(tmp_path)}
    first = run(sandbox, str(script), variables=variables)
    second = run(sandbox, str(script), variables=variables)

    assert (first.returncode, first.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(first.stderr)
    assert (second.returncode, second.stdout, second.stderr) == (0, GREETING, "")
    endpoints = [request.endpoint for request in sandbox.requests]
    assert endpoints == ["discovery", "devicecode", "token", "me", "discovery", "me"]
    account = (tmp_path / f".get_user-{sandbox.client_id}.json").read_text()
    assert USER["userPrincipalName"] in account
    assert not any(secret in account for secret in sandbox.secrets)

    # When Graph wants a new sign-in and the refresh token does not help, the person is asked again.
    sandbox.require_claims({"nbf": {"essential": True, "value": "1"}})
    sandbox.replace("token", entra_error(50173, "invalid_grant", "The grant has been revoked."))
    third = run(sandbox, str(script), variables=variables)
    fourth = run(sandbox, str(script), variables=variables)
    assert (third.returncode, third.stdout) == (fourth.returncode, fourth.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(third.stderr)
    assert fourth.stderr == ""


@on_linux
@pytest.mark.parametrize("other", ["drive", "cloud"])
def test_staying_signed_in_goes_together_with(tmp_path: Path, other: str) -> None:
    script = changed(tmp_path / "copy", "stay", other)
    without_keyring(script)
    variables = {**NO_KEYRING, "HOME": str(tmp_path)}
    with us_government() if other == "cloud" else Sandbox(pending=0, resources=DRIVE) as sandbox:
        first = run(sandbox, str(script), variables=variables)
        second = run(sandbox, str(script), variables=variables)

    greeting = GREETING if other == "cloud" else DRIVE_LINE + GREETING
    assert (first.stdout, second.stdout, second.stderr) == (greeting, greeting, "")
    assert PROMPT.fullmatch(first.stderr)


def test_another_cloud_is_used_for_all(tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "cloud")
    with us_government() as sandbox:
        result = run(sandbox, str(script))
        hosts = [request.host for request in sandbox.requests]

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert hosts == ["login.microsoftonline.us"] * 3 + ["graph.microsoft.us"]


def test_the_log_has_the_requests_and_no_secret(sandbox: Sandbox, tmp_path: Path) -> None:
    script = changed(tmp_path / "copy", "log")
    result = run(sandbox, str(script), cwd=tmp_path)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    log = (tmp_path / "get_user.log").read_text(encoding="utf-8")
    assert f"https://{GRAPH_HOST}/v1.0/me" in log
    assert "/oauth2/v2.0/token" in log
    assert not any(secret in log for secret in sandbox.secrets)


def play(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python COMMAND`, which makes a sandbox of its own, in a folder."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        check=False,
        capture_output=True,
        encoding="utf-8",
    )


def test_a_project_of_ones_own_has_a_sandbox_of_its_own(tmp_path: Path) -> None:
    folder = copy_as_told(tmp_path / "copy").parent
    shutil.copytree(ROOT / "tests" / "sandbox", folder / "sandbox")
    result = play(folder, "-m", "sandbox")

    assert (result.returncode, result.stdout) == (0, GREETING)


def test_a_script_of_ones_own_runs_in_a_sandbox_with_more(tmp_path: Path) -> None:
    folder = changed(tmp_path / "copy", "drive").parent
    (code,) = blocks("python", section("Use the sandbox for your program"))
    result = play(folder, "-c", code)

    assert (result.returncode, result.stdout) == (0, DRIVE_LINE + GREETING)
    assert "AADSTS53003: Blocked." in result.stderr
