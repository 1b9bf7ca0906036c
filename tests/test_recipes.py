"""The recipes of README.md, applied to a copy of the project and run in the sandbox."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import files, requires
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator
from openapi_spec_validator.readers import read_from_filename
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .program import ROOT, run
from .readme import blocks, section
from .sandbox import GRAPH_HOST, Answer, Resource, Sandbox, entra_error
from .sandbox.sandbox import USER
from .test_get_user import GREETING, PROMPT
from .test_sandbox import client_of, sign_in

NO_KEYRING = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}
DRIVE = {"/me/drive": Resource("Files.Read", {"id": "1", "driveType": "business"})}


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


def change(folder: Path, diff: str) -> None:
    """Applies a diff of README.md as its reader would: `@@` stands for any lines between."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old, new = (
            "".join(f"{line[1:]}\n" for line in lines if line[:1] != other) for other in "+-"
        )
        paths = [folder / "get_user.py", folder / "get-me.yml"]
        (path,) = (path for path in paths if old in path.read_text(encoding="utf-8"))
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"it stands in {path.name} more than once:\n{old}"
        path.write_text(text.replace(old, new), encoding="utf-8")


def replace(path: Path, *replacements: tuple[str, str]) -> None:
    """Replaces texts that occur once in a file."""
    text = path.read_text(encoding="utf-8")
    for old, new in replacements:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def regenerate_with_mail(client: Path) -> None:
    """Stands in for `kiota update`: this is how the model changes if `mail` is described."""
    declares = "    id: Optional[str] = None\n"
    reads = """            "id": lambda n : setattr(self, 'id', n.get_str_value()),\n"""
    writes = '        writer.write_str_value("id", self.id)\n'
    lines = [(line, line + re.sub(r"\bid\b", "mail", line)) for line in (declares, reads, writes)]
    replace(client / "models" / "user.py", *lines)


def regenerate_with_drive(client: Path) -> None:
    """Stands in for `kiota update`: the code for /me/drive is that for /me with other names."""
    model = (client / "models" / "user.py").read_text(encoding="utf-8")
    model = re.sub(r".*\bid\b.*\n", "", model).replace("display_name", "drive_type")
    model = re.sub(r"\bUser\b", "Drive", model).replace("displayName", "driveType")
    (client / "models" / "drive.py").write_text(model, encoding="utf-8")
    me = client / "me" / "me_request_builder.py"
    builder = me.read_text(encoding="utf-8").replace("MeRequestBuilder", "DriveRequestBuilder")
    builder = builder.replace("/me", "/me/drive").replace("..models.user", "...models.drive")
    builder = re.sub(r"\bUser\b", "Drive", builder).replace("..models.o_data", "...models.o_data")
    (client / "me" / "drive").mkdir()
    path = client / "me" / "drive" / "drive_request_builder.py"
    path.write_text(builder, encoding="utf-8")
    start = "    async def get(self,"
    begins = """    @property
    def drive(self) -> DriveRequestBuilder:
        from .drive.drive_request_builder import DriveRequestBuilder

        return DriveRequestBuilder(self.request_adapter, self.path_parameters)

"""
    checked = "if TYPE_CHECKING:\n"
    imported = "    from .drive.drive_request_builder import DriveRequestBuilder\n"
    replace(me, (start, begins + start), (checked, checked + imported))


REGENERATED: dict[str, Callable[[Path], None]] = {
    "Read one more property": regenerate_with_mail,
    "Call one more operation": regenerate_with_drive,
}


def applied(folder: Path, heading: str, *numbers: int) -> Path:
    """Copies the project, applies a recipe, or these of its diffs, and returns get_user.py."""
    script = copy_as_told(folder)
    diffs = blocks("diff", section(heading))
    for number in numbers or range(len(diffs)):
        change(folder, diffs[number])
    if heading in REGENERATED:
        OpenAPIV30SpecValidator(read_from_filename(str(folder / "get-me.yml"))[0]).validate()
        REGENERATED[heading](folder / "client")
    return script


def requirements_of(requirements: list[str], extras: set[str]) -> Iterator[Requirement]:
    """Yields those requirements of a list that hold here, and all that they require in turn."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement
            yield from requirements_of(requires(requirement.name) or [], requirement.extras)


def environment_of(requirements: Path, folder: Path) -> str:
    """Makes an environment that holds what pip would install for a file of requirements.

    The packages come from the environment that runs the tests. Returns the path of its Python.
    """
    on_windows = sys.platform == "win32"
    builder = venv.EnvBuilder(symlinks=not on_windows)
    builder.create(folder)
    scheme = "nt" if on_windows else "posix_prefix"
    packages = Path(sysconfig.get_path("purelib", scheme, {"base": str(folder)}))
    put = shutil.copy if on_windows else os.symlink
    lines = requirements.read_text().splitlines()
    for name in {canonicalize_name(needed.name) for needed in requirements_of(lines, set())}:
        for path in files(name) or []:
            if ".." not in path.parts:
                (packages / path).parent.mkdir(parents=True, exist_ok=True)
                put(path.locate(), packages / path)
    return str(builder.ensure_directories(folder).env_exe)


@pytest.mark.parametrize("name", ["my-project", "mein Projekt für Ada"])
def test_a_copy_needs_nothing_else(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    script = copy_as_told(tmp_path / name)
    python = environment_of(script.parent / "requirements.txt", tmp_path / "environment")
    result = run(sandbox, str(script), cwd=script.parent, python=python)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    missing = run(sandbox, "-c", "import pytest", python=python)
    assert "ModuleNotFoundError" in missing.stderr


def test_a_program_of_ones_own_calls_it(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = copy_as_told(tmp_path / "copy").parent
    (code,) = blocks("python", section("Call it from your own program"))
    (folder / "own.py").write_text(code, encoding="utf-8")
    result = run(sandbox, "own.py", cwd=folder)

    assert (result.returncode, result.stdout) == (0, f"{USER['id']}\n")


def test_one_more_property_is_printed(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Read one more property")
    result = run(sandbox, str(script))

    assert result.returncode == 0
    assert result.stdout == f"{GREETING}Your mail address is {USER['mail']}\n"


def test_one_more_operation_is_called_with_its_permission(tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Call one more operation")
    with Sandbox(pending=0, interval=1, resources=DRIVE) as sandbox:
        result = run(sandbox, str(script))

    assert (result.returncode, result.stdout) == (
        0,
        f"Your drive is of the type business.\n{GREETING}",
    )
    (devicecode,) = (request for request in sandbox.requests if request.endpoint == "devicecode")
    assert {"User.Read", "Files.Read"} <= set(devicecode.form["scope"].split())
    assert [request.path for request in sandbox.requests[-2:]] == ["/v1.0/me", "/v1.0/me/drive"]


def play(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    """Runs code that makes a sandbox of its own, in a folder with a copy of the project."""
    (folder / "play.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "play.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        check=False,
        capture_output=True,
        encoding="utf-8",
    )


def test_a_project_of_ones_own_has_a_sandbox_of_its_own(tmp_path: Path) -> None:
    folder = copy_as_told(tmp_path / "copy").parent
    shutil.copytree(ROOT / "tests" / "sandbox", folder / "sandbox")
    result = subprocess.run(
        [sys.executable, "-m", "sandbox"], cwd=folder, check=False, capture_output=True, text=True
    )

    assert (result.returncode, result.stdout) == (0, GREETING)


def test_a_script_of_ones_own_runs_in_a_sandbox_with_more(tmp_path: Path) -> None:
    folder = applied(tmp_path / "copy", "Call one more operation").parent
    result = play(folder, blocks("python", section("Run your own script in the sandbox"))[0])

    assert result.returncode == 0
    assert result.stdout == f"Your drive is of the type business.\n{GREETING}"


def test_a_script_of_ones_own_meets_what_can_go_wrong(tmp_path: Path) -> None:
    folder = copy_as_told(tmp_path / "copy").parent
    result = play(folder, blocks("python", section("Run your own script in the sandbox"))[1])

    assert (result.returncode, result.stdout) == (0, "")
    refused, *_, failed = PROMPT.sub("", result.stderr).splitlines()
    assert refused.startswith("Sign-in: AADSTS53003: Blocked.")
    assert failed.startswith("Microsoft Graph: no usable answer from graph.microsoft.com")


def test_a_browser_signs_in_without_a_code(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Sign in with another credential", 0)
    result = run(sandbox, str(script))

    assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    endpoints = [request.endpoint for request in sandbox.requests]
    assert endpoints == ["discovery", "authorize", "token", "me"]


def test_a_refused_browser_ends_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Sign in with another credential", 0)
    replace(script, ('SCOPES = ["User.Read"]', 'SCOPES = ["Mail.Read"]'))
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
    script = applied(tmp_path / "copy", "Sign in with another credential", 1)
    with client_of(sandbox) as client:
        token = sign_in(sandbox, client)["access_token"]
    answer = json.dumps({"accessToken": token, "expires_on": 4102444800})
    refuse = "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1"
    az = tmp_path / "az"
    az.write_text(AZ.format(does=f"echo '{answer}'" if signed_in else refuse))
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    result = run(sandbox, str(script), variables={"PATH": path})

    if signed_in:
        assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    else:
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Sign-in: Please run 'az login' to set up an account\n"


def test_without_the_azure_cli_it_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Sign in with another credential", 1)
    result = run(sandbox, str(script), variables={"PATH": str(tmp_path)})

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Sign-in: Azure CLI not found on path\n"


def test_a_managed_identity_takes_the_same_change(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Sign in with another credential", 1)
    text = script.read_text(encoding="utf-8")
    other = text.replace("AzureCliCredential", "ManagedIdentityCredential")
    script.write_text(other, encoding="utf-8")
    result = run(sandbox, str(script))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Sign-in: ManagedIdentityCredential authentication unavailable.\n"
    # The address of Azure's metadata service: the sandbox's proxy leads nobody there.
    assert [request.host for request in sandbox.requests] == ["169.254.169.254"]


def stored(home: Path) -> str:
    """Returns what all files below a folder hold."""
    return "".join(path.read_text() for path in home.rglob("*") if path.is_file())


# Elsewhere it would write to the protected store of whoever runs the tests.
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it needs a system without a keyring")


@on_linux
def test_without_a_keyring_nothing_is_stored(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Stay signed in")
    home = tmp_path / "home"
    home.mkdir()
    result = run(sandbox, str(script), variables={**NO_KEYRING, "HOME": str(home)})

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("This machine: Cache encryption is impossible")
    assert sandbox.requests == []
    assert stored(home) == ""


@on_linux
def test_the_second_run_signs_in_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Stay signed in")
    # Stands in for a keyring.
    named = "TokenCachePersistenceOptions(name="
    replace(script, (named, "TokenCachePersistenceOptions(allow_unencrypted_storage=True, name="))
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


def test_a_national_cloud_is_used_for_all(tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Use a national cloud")
    sign_in_host, graph_host = "login.microsoftonline.us", "graph.microsoft.us"
    with Sandbox(pending=0, sign_in_host=sign_in_host, graph_host=graph_host) as sandbox:
        result = run(sandbox, str(script))
        hosts = [request.host for request in sandbox.requests]
        for endpoint, host in [("me", graph_host), ("discovery", sign_in_host)]:
            sandbox.replace(endpoint, Answer(200))
            assert f"no usable answer from {host} " in run(sandbox, str(script)).stderr

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert hosts == [sign_in_host, sign_in_host, sign_in_host, graph_host]


def test_the_log_has_the_requests_and_no_secret(sandbox: Sandbox, tmp_path: Path) -> None:
    script = applied(tmp_path / "copy", "Log what happens")
    result = run(sandbox, str(script), cwd=tmp_path)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    log = (tmp_path / "get_user.log").read_text(encoding="utf-8")
    assert f"https://{GRAPH_HOST}/v1.0/me" in log
    assert "/oauth2/v2.0/token" in log
    assert not any(secret in log for secret in sandbox.secrets)
