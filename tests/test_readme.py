"""What README.md and tests/README.md say is what happens: commands, changes, examples, messages."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .project import FILES, GREETING, PROMPT, README, ROOT, copy, expect, quoted, replace_text, run
from .sandbox import Answer, Resource, Sandbox, entra_error
from .sandbox.tokens import PREFIX, seal
from .sandbox.world import GRAPH_HOST, USER
from .test_failures import CASES, UNFORESEEN

TESTS_README = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
DRIVE_LINE = "Your drive is of the type business.\n"
HELLO = "        print(f\"Hello {me.display_name or 'there'}, your ID is {me.id}\")\n"

PROPERTY, CALL = "Read another property", "Make another call"
BROWSER, AZURE_CLI = "Sign in with a browser", "Use the Azure CLI's sign-in"
STAY, CLOUD = "Stay signed in", "Call another cloud, or another API"
PATCHES = {PROPERTY: "mail.patch", CALL: "drive.patch"}
"""What `git diff` shows after a change of get-me.yml and `kiota update`, by Kiota 1.34.1."""

TRIED: list[tuple[str, ...]] = []
"""The changes that tests try together, by their headings."""


def tries(*headings: str) -> pytest.MarkDecorator:
    """Give a test, as `script`, the get_user.py of a copy with these changes, made in this order.

    Two tests at the end see from it which changes there are to check.
    """
    TRIED.append(headings)
    return pytest.mark.parametrize("script", [headings], ids=["+".join(headings)], indirect=True)


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return changed(tmp_path / "copy", request.param)


def diffs() -> dict[str, list[str]]:
    """Return the diffs of README.md by the heading under which they stand."""
    sections = re.split(r"^#+ (.*)\n", README, flags=re.MULTILINE)[1:]
    under = {
        heading: re.findall(r"^```diff\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for heading, text in zip(sections[::2], sections[1::2], strict=True)
    }
    return {heading: found for heading, found in under.items() if found}


def changed(folder: Path, headings: tuple[str, ...]) -> Path:
    """Copy the project, make the changes, and return the copy's get_user.py."""
    script = copy(folder)
    for heading in headings:
        for diff in diffs()[heading]:
            change(folder, diff)
        if heading in PATCHES:
            regenerate(folder, PATCHES[heading])
    return script


def change(folder: Path, diff: str) -> None:
    """Apply a diff as a reader would: `@@` stands for any lines between."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        paths = [folder / "get_user.py", folder / "get-me.yml"]
        fitting = [path for path in paths if old in path.read_text(encoding="utf-8")]
        assert fitting, f"neither get_user.py nor get-me.yml has this:\n{old}"
        replace_text(fitting[0], old, new)


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
    assert (
        f"```text\n{re.sub('[0-9]{2}:[0-9]{2}', '14:35', result.stderr)}{GREETING}```\n" in README
    )


@pytest.mark.parametrize(
    ("workflow", "languages"), [("tests.yml", "sh|powershell"), ("client.yml", "shell")]
)
def test_a_workflow_runs_the_commands(workflow: str, languages: str) -> None:
    steps = (ROOT / ".github" / "workflows" / workflow).read_text()
    found = re.findall(rf"^```(?:{languages})\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    for command in "".join(found).splitlines():
        # These need an account.
        assert command in steps or re.match("az ad|export AZURE_|.*python3? get_user.py$", command)


def test_what_stands_in_several_places_agrees() -> None:
    tests, client = (
        (ROOT / ".github" / "workflows" / name).read_text() for name in ("tests.yml", "client.yml")
    )
    assert quoted(r".venv\Scripts\python -m pytest -n 8") in tests
    assert quoted(r".venv\Scripts\python -m tests.sandbox ..\my-project\get_user.py") in tests
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] in README
    version = json.loads((ROOT / "client" / "kiota-lock.json").read_text())["kiotaVersion"]
    assert quoted(f"install --global Microsoft.OpenApi.Kiota --version {version}") in client
    update = quoted("kiota update --output client --clean-output")
    assert update in (ROOT / "get_user.py").read_text()
    assert f"cp -r {FILES} ../my-project" in README


def test_the_six_packages_are_enough(sandbox: Sandbox, tmp_path: Path) -> None:
    for_tests = (ROOT / "tests" / "requirements.txt").read_text()
    names = re.findall("^([a-z]+)==", for_tests, re.MULTILINE)
    script = copy(tmp_path / "mein Projekt für Ada")
    # A name for which sys.modules has None is one that Python does not find.
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({names}))"
    code += f"; sys.path[0] = {str(script.parent)!r}"
    code += f"; runpy.run_path({str(script)!r}, run_name='__main__')"
    result = run(sandbox, "-c", code, variables={"PYTHONPATH": None})

    assert {"hypercorn", "pytest", "trustme"} <= set(names)
    expect(result, 0, GREETING)


def test_in_a_notebook_main_is_awaited(sandbox: Sandbox) -> None:
    call = quoted("await main()")
    code = f"import asyncio\nfrom get_user import main\nasync def cell():\n {call}\n"
    result = run(sandbox, "-c", f"{code}asyncio.run(cell())")

    expect(result, 0, GREETING)


@pytest.mark.parametrize(
    ("mail", "printed"),
    [
        ("ada@sandbox.example", "ada@sandbox.example"),
        ("2026-11-25T20:00:00Z", "2026-11-25 20:00:00+00:00"),
    ],
)
def test_a_property_is_there_without_regenerating(tmp_path: Path, mail: str, printed: str) -> None:
    line = quoted('print(me.additional_data.get("mail"))')
    script = copy(tmp_path / "copy")
    replace_text(script, HELLO, f"{HELLO}        {line}\n")
    with Sandbox(pending=0, user={**USER, "mail": mail}) as sandbox:
        result = run(sandbox, str(script))

    assert result.stdout == f"{GREETING}{printed}\n"


@tries(PROPERTY, CALL)
def test_one_more_property_and_one_more_call(sandbox: Sandbox, script: Path) -> None:
    replace_text(script, HELLO, f"        print({quoted('me.mail')})\n{HELLO}")
    logging = quoted('logging.basicConfig(filename="get_user.log", encoding="utf-8", level="INFO")')
    guard = quoted('if __name__ == "__main__":')
    replace_text(script, f"{guard}\n", f"{guard}\n    {logging}\n")
    result = run(sandbox, str(script), cwd=script.parent)

    expect(result, 0, f"{USER['mail']}\n{GREETING}{DRIVE_LINE}")
    assert PROMPT.fullmatch(result.stderr)
    log = (script.parent / "get_user.log").read_text(encoding="utf-8")
    assert f"https://{GRAPH_HOST}/v1.0/me/drive" in log
    assert "/oauth2/v2.0/token" in log
    assert PREFIX not in log


POST = """        from kiota_abstractions.method import Method
        from kiota_abstractions.request_information import RequestInformation
        mail = RequestInformation(Method.POST, "{+baseurl}/me/sendMail")
        await request_adapter.send_no_response_content_async(mail, {})
"""


def test_kiota_repeats_a_post(tmp_path: Path) -> None:
    assert "even a POST" in README
    script = copy(tmp_path / "copy")
    replace_text(script, HELLO, POST + HELLO)
    replace_text(script, 'SCOPES = ["User.Read"]', 'SCOPES = ["User.Read", "Mail.Send"]')
    resources = {"/me/sendMail": Resource("Mail.Send", status=202)}
    with Sandbox(pending=0, resources=resources) as sandbox:
        sandbox.replace("me/sendMail", Answer(504, headers={"Retry-After": "1"}))
        result = run(sandbox, str(script))

    expect(result, 0, GREETING)
    posts = [each.method for each in sandbox.requests if each.endpoint == "me/sendMail"]
    assert posts == ["POST", "POST"]


@tries(BROWSER)
def test_a_browser_signs_in_where_device_codes_are_blocked(script: Path) -> None:
    with Sandbox(device_codes=False) as sandbox:
        result = run(sandbox, str(script))

    assert (result.returncode, result.stdout, result.stderr) == (0, GREETING, "")
    endpoints = [request.endpoint for request in sandbox.requests]
    assert endpoints == ["discovery", "authorize", "token", "me"]


@tries(BROWSER)
def test_a_wrong_scope_is_refused_in_a_browser_too(sandbox: Sandbox, script: Path) -> None:
    replace_text(script, 'SCOPES = ["User.Read"]', 'SCOPES = ["Mail.Read"]')
    result = run(sandbox, str(script))

    expect(result, 1, "")
    assert result.stderr.startswith("Sign-in failed: AADSTS70011: ")
    assert "(The sandbox has Files.Read, User.Read; " in result.stderr


AZ = """#!/bin/sh
[ "$*" = "account get-access-token --output json --resource https://graph.microsoft.com" ] || exit 2
cat <<END
{answer}
END
"""
TOKEN = seal("access token", 3600, scope=f"https://{GRAPH_HOST}/User.Read", claims={})
# Over HTTP/1.1, h11 quotes the token of which it complains.
BAD_TOKEN = "The call to Microsoft Graph failed: LocalProtocolError\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for az is a script with a #!")
@tries(AZURE_CLI)
@pytest.mark.parametrize(
    ("token", "says"), [(TOKEN, ""), (f"{TOKEN}\n", BAD_TOKEN)], ids=["good", "bad"]
)
def test_the_azure_cli_gives_the_token(
    sandbox: Sandbox, script: Path, token: str, says: str
) -> None:
    replace_text(script, "_middleware()", "_middleware(httpx.AsyncClient())")
    az = script.with_name("az")
    az.write_text(AZ.format(answer=json.dumps({"accessToken": token, "expires_on": 4102444800})))
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(az.parent), os.environ["PATH"]])
    result = run(sandbox, str(script), variables={"PATH": path, "AZURE_CLIENT_ID": None})

    assert (result.returncode, result.stdout) == ((1, "") if says else (0, GREETING))
    assert result.stderr.startswith(says)


# Elsewhere it would write to the protected store of whoever runs the tests.
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it needs a system without a keyring")
NO_KEYRING = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}


def without_keyring(script: Path) -> None:
    """Let azure-identity store tokens in plain text, which stands in for a keyring."""
    options = quoted("TokenCachePersistenceOptions(allow_unencrypted_storage=True)")
    replace_text(script, "options=TokenCachePersistenceOptions()", f"options={options}")


REVOKED = entra_error(50173, "invalid_grant", "The grant has been revoked.")


@on_linux
@tries(STAY, PROPERTY, CALL)
def test_the_second_run_signs_in_by_itself(tmp_path: Path, script: Path) -> None:
    without_keyring(script)
    endpoints = []

    def prompts(required_claims: dict[str, object]) -> int:
        """Run it once and count the prompts; the tokens are good in each new sandbox."""
        with Sandbox(pending=0, interval=1, required_claims=required_claims) as sandbox:
            if required_claims:
                sandbox.replace("token", REVOKED)
            result = run(sandbox, str(script), variables={**NO_KEYRING, "HOME": str(tmp_path)})
        endpoints.append([request.endpoint for request in sandbox.requests])
        assert result.stdout == GREETING + DRIVE_LINE
        return len(PROMPT.findall(result.stderr))

    assert prompts({}) == 1
    assert prompts({}) == 0
    assert endpoints[1] == ["discovery", "me", "me/drive"]
    assert prompts({"nbf": {"essential": True, "value": "1"}}) == 1, "Graph wants a new sign-in"
    assert prompts({}) == 0
    (account,) = tmp_path.glob(".get_user-*.json")
    assert USER["userPrincipalName"] in account.read_text()
    assert PREFIX not in account.read_text()
    assert "To sign in as somebody else, delete that file." in README
    account.unlink()
    assert prompts({}) == 1


@on_linux
@tries(CLOUD, STAY)
def test_another_cloud_is_used_for_all(tmp_path: Path, script: Path) -> None:
    without_keyring(script)
    variables = {**NO_KEYRING, "HOME": str(tmp_path)}
    sign_in, graph = quoted("login.microsoftonline.us"), quoted("graph.microsoft.us")
    with Sandbox(pending=0, sign_in_host=sign_in, graph_host=graph) as sandbox:
        results = [run(sandbox, str(script), variables=variables) for _ in range(2)]

    assert [result.stdout for result in results] == [GREETING, GREETING]
    assert results[1].stderr == ""
    assert {request.host for request in sandbox.requests} == {sign_in, graph}


@pytest.mark.parametrize("mended", [False, True])
def test_http_1_loses_no_call(tmp_path: Path, mended: bool) -> None:
    factory = quoted("create_with_default_middleware(httpx.AsyncClient(timeout=100))")
    script = copy(tmp_path / "copy")
    if mended:
        replace_text(script, "create_with_default_middleware()", factory)
    calls = "        for _ in range(9):\n            await client.me.get()\n"
    replace_text(script, HELLO, calls + HELLO)
    with Sandbox(pending=0, calls=3) as sandbox:
        result = run(sandbox, str(script))

    assert result.returncode == (0 if mended else 1)
    message, _, hint = PROMPT.sub("", result.stderr).partition("\n")
    assert ("ConnectionTerminated" in message) == (not mended)
    assert hint.startswith("" if mended else "Repeat the call: ")


def test_a_name_that_cannot_be_printed_needs_utf_8() -> None:
    variables = {"PYTHONIOENCODING": None, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    with Sandbox(pending=0, user={**USER, "displayName": "王"}) as sandbox:
        ascii_only, utf_8 = (
            run(sandbox, variables={**variables, "PYTHONUTF8": mode}) for mode in ("0", "1")
        )

    assert "Set `PYTHONUTF8=1`." in README
    assert "UnicodeEncodeError" in ascii_only.stderr
    assert utf_8.stdout == f"Hello 王, your ID is {USER['id']}\n"


def test_without_its_environment_it_finds_no_module(sandbox: Sandbox) -> None:
    result = run(sandbox, "-S", str(ROOT / "get_user.py"))

    assert "ModuleNotFoundError" in result.stderr


BY_OTHER_TESTS = {
    "ConnectionTerminated",  # test_http_1_loses_no_call
    "UnicodeEncodeError",  # test_a_name_that_cannot_be_printed_needs_utf_8
    "AADSTS70011",  # test_a_wrong_scope_is_refused_in_a_browser_too
    "ModuleNotFoundError",  # test_without_its_environment_it_finds_no_module
    "not marked critical",  # Python 3.13 and newer, which not all tests run on
    "key usage extension",
}


def test_each_message_of_the_table_is_shown_by_a_case() -> None:
    rows = re.findall(r"^\| (.*?) \| ", README, re.MULTILINE)
    messages = {text for row in rows for text in re.findall("`(.*?)`", row)}
    shown = [case.says for case in {**CASES, **UNFORESEEN}.values()]

    assert {text for text in messages if not any(text in each for each in shown)} == BY_OTHER_TESTS


def test_each_change_is_tried() -> None:
    assert {heading for headings in TRIED for heading in headings} == set(diffs())


@tries(CALL)
def test_a_script_decides_what_graph_has(tmp_path: Path, script: Path) -> None:
    script.parent.rename(tmp_path / "my-project")
    clone = tmp_path / "clone"
    clone.mkdir()
    has, fails = re.findall(r"^```python\n(.*?)^```$", TESTS_README, re.DOTALL | re.MULTILINE)
    results = [run(None, "-c", code, cwd=clone) for code in (has, fails)]

    drive, paths = re.findall(r"^```text\n(.*?)^```$", TESTS_README, re.DOTALL | re.MULTILINE)
    assert [result.stdout for result in results] == [GREETING + drive, paths]
    assert "Forbidden: Not allowed. (status 403)" in results[1].stderr


def test_a_program_takes_the_sandbox_along(tmp_path: Path) -> None:
    script = copy(tmp_path / "copy")
    assert "copy `tests/sandbox` as `sandbox`" in TESTS_README
    shutil.copytree(ROOT / "tests" / "sandbox", script.parent / "sandbox")
    command = quoted("-m sandbox get_user.py", TESTS_README)
    result = run(None, *command.split(), cwd=script.parent, variables={"PYTHONPATH": None})

    expect(result, 0, GREETING)


def test_without_device_codes_the_sandbox_refuses_them() -> None:
    option = quoted("--no-device-codes", TESTS_README)
    result = run(None, "-m", "tests.sandbox", option, cwd=ROOT)

    expect(result, 1, "")
    assert "AADSTS530035: Access has been blocked" in result.stderr


def test_every_link_within_leads_somewhere() -> None:
    for folder, page in ((ROOT, README), (ROOT / "tests", TESTS_README)):
        targets = re.findall(r"\]\((?!https://)(.*?)\)", page)
        assert len(targets) > 1
        for target in targets:
            path, _, anchor = target.partition("#")
            text = (folder / path).read_text(encoding="utf-8") if anchor and path else page
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = [
                re.sub("[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings
            ]
            assert (folder / path).exists(), target
            assert not anchor or anchor in anchors, target


MYPY = ["mypy", f"--config-file={ROOT / '.mypy.ini'}", f"--cache-dir={ROOT / '.mypy_cache'}"]
RUFF = f"--config={ROOT / '.ruff.toml'}"


def test_the_types_and_the_style_are_right(tmp_path: Path) -> None:
    largest = {each for each in TRIED if not any(set(each) < set(other) for other in TRIED)}
    copies = [changed(tmp_path / f"copy{n}", each).parent for n, each in enumerate(largest)]
    # One after the other, since each finds in mypy's cache what the first has read.
    for folder in [ROOT, *copies]:
        paths = ["get_user.py", "tests"] if folder == ROOT else ["get_user.py"]
        for command in (["ruff", "check", RUFF], ["ruff", "format", "--check", RUFF], MYPY):
            result = run(None, "-m", *command, *paths, cwd=folder)
            assert result.returncode == 0, f"{folder}: {command}\n{result.stdout}{result.stderr}"
