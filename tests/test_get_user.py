"""get_user.py, run as its user runs it; what it says when it fails is in test_failures.py."""

import re
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from .project import GET_USER, GREETING, PROMPT, copy, ended, expect, replace_text, run, started
from .sandbox import Answer, Fault, Sandbox, entra_error, graph_error
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST, USER

CALL = (
    "        me = await client.me.get()  # the first call signs in, which blocks the event loop\n"
)


def test_it_greets_with_one_prompt_and_four_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(sandbox, cwd=tmp_path)

    expect(result, 0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    discovery, devicecode, token, me = sandbox.requests
    assert (discovery.host, discovery.path.split("/")[1]) == (SIGN_IN_HOST, "common")
    assert devicecode.form["client_id"] == sandbox.client_id
    scopes = {"User.Read", "offline_access", "openid", "profile"}
    assert set(devicecode.form["scope"].split()) == scopes
    assert token.path == "/common/oauth2/v2.0/token"
    assert (me.host, me.method, me.path) == (GRAPH_HOST, "GET", "/v1.0/me")
    assert [request.http_version for request in sandbox.requests] == ["1.1", "1.1", "1.1", "2"]
    assert list(tmp_path.iterdir()) == []


def test_importing_it_does_nothing_but_define(sandbox: Sandbox) -> None:
    script = "import get_user, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    result = run(sandbox, "-c", script)

    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")
    assert sandbox.requests == []


@pytest.mark.parametrize("client_id", [None, " \t", "0" * 37, "x" * 36])
def test_without_a_client_id_it_says_what_to_set(sandbox: Sandbox, client_id: str | None) -> None:
    result = run(sandbox, variables={"AZURE_CLIENT_ID": client_id})

    expect(result, 1, "")
    assert re.fullmatch(
        "Set AZURE_CLIENT_ID to the Application .client. ID, or .*YOUR_CLIENT_ID.*\n", result.stderr
    )
    assert sandbox.requests == []


def test_the_id_can_stand_in_the_file(sandbox: Sandbox, tmp_path: Path) -> None:
    script = copy(tmp_path / "copy")
    script.write_text(script.read_text().replace("YOUR_CLIENT_ID", sandbox.client_id))
    result = run(sandbox, str(script), variables={"AZURE_CLIENT_ID": " "})

    expect(result, 0, GREETING)


@pytest.mark.parametrize("tenant", ["", "consumers", "organizations", "sandbox.example"])
def test_settings_lose_their_white_space(sandbox: Sandbox, tenant: str) -> None:
    ids = {"AZURE_TENANT_ID": tenant, "AZURE_CLIENT_ID": sandbox.client_id}
    variables = {name: f" \t{ids[name]} \n" for name in ids}
    result = run(sandbox, variables=variables)

    expect(result, 0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    paths = [request.path.split("/")[1] for request in sandbox.requests]
    assert set(paths) == {tenant or "common", "v1.0"}


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (None, "there"),
        ("", "there"),
        ("\u0645\u062d \u674e 👩\u200d💻", "\u0645\u062d \u674e 👩\u200d💻"),
    ],
)
def test_any_name_is_greeted(name: str | None, printed: str) -> None:
    with Sandbox(pending=0, user={**USER, "displayName": name}) as sandbox:
        result = run(sandbox)

    expect(result, 0, f"Hello {printed}, your ID is {USER['id']}\n")


SHELL = f"""
import runpy, sys
class Shell:
    write, flush = sys.stdout.write, sys.stdout.flush
sys.stdout = Shell()
runpy.run_path({GET_USER!r}, run_name="__main__")
"""


def test_it_greets_where_stdout_only_writes(sandbox: Sandbox) -> None:
    result = run(sandbox, "-c", SHELL)

    expect(result, 0, GREETING)


def test_the_prompt_says_until_when_the_code_is_valid_in_local_time(sandbox: Sandbox) -> None:
    local = timezone(timedelta(hours=5, minutes=30))
    earliest = datetime.now(local) + timedelta(seconds=900)
    result = run(sandbox, variables={"TZ": "XYZ-5:30"})
    latest = datetime.now(local) + timedelta(seconds=900)

    prompt = PROMPT.fullmatch(result.stderr)
    assert prompt
    assert prompt[1] in {f"{earliest:%H:%M}", f"{latest:%H:%M}"}


def test_further_calls_need_no_further_sign_in(sandbox: Sandbox, tmp_path: Path) -> None:
    script = copy(tmp_path / "copy")
    replace_text(
        script, CALL, f"{CALL}        await asyncio.gather(client.me.get(), client.me.get())\n"
    )
    result = run(sandbox, str(script))

    expect(result, 0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    endpoints = [request.endpoint for request in sandbox.requests]
    assert endpoints == ["discovery", "devicecode", "token", "me", "me", "me"]


PENDING = entra_error(70016, "authorization_pending", "Authorization is pending.")
REFUSED = entra_error(50076, "interaction_required", "Use multi-factor authentication.")
MOMENTS = {
    "at the prompt": ("token", Answer(fault=Fault.SILENT)),
    "while it polls": ("token", PENDING),
    "while Graph is answering": ("me", Answer(fault=Fault.SILENT)),
}
"""The request with which the moment comes, and the answer to it."""


def expect_interrupted(sandbox: Sandbox, folder: Path, endpoint: str, count: int = 1) -> None:
    """Check that Ctrl-C ends get_user.py at a request, and that what stands in `finally` runs."""
    script = copy(folder)
    in_try = f'        try:\n    {CALL}        finally:\n            print("closed")\n'
    replace_text(script, CALL, in_try)
    with started(sandbox, str(script)) as process:
        sandbox.wait_for(endpoint, count=count)
        process.send_signal(signal.SIGINT)
        result = ended(process, within=5)

    expect(result, 130, "closed\n")
    assert PROMPT.sub("", result.stderr) == ""


no_windows = pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGINT to send")


@no_windows
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_ctrl_c_ends_and_closes_it(sandbox: Sandbox, tmp_path: Path, moment: str) -> None:
    endpoint, answer = MOMENTS[moment]
    sandbox.replace(endpoint, answer, times=None)
    expect_interrupted(sandbox, tmp_path / "copy", endpoint)


@no_windows
def test_one_ctrl_c_ends_it_at_a_second_prompt(sandbox: Sandbox, tmp_path: Path) -> None:
    # Graph sends a claims challenge, and Entra refuses the refresh token.
    sandbox.required_claims = {"nbf": {"essential": True, "value": "1"}}
    sandbox.replace("token", None, REFUSED)
    sandbox.replace("token", PENDING, times=None)
    expect_interrupted(sandbox, tmp_path / "copy", "token", count=3)


def test_a_call_to_another_host_gets_no_token(sandbox: Sandbox, tmp_path: Path) -> None:
    script = copy(tmp_path / "copy")
    elsewhere = f'        request_adapter.base_url = "https://{SIGN_IN_HOST}/v1.0"\n'
    replace_text(script, "        client = ", f"{elsewhere}        client = ")
    result = run(sandbox, str(script))

    expect(result, 1, "")
    (request,) = sandbox.requests
    assert (request.host, request.path) == (SIGN_IN_HOST, "/v1.0/me")
    assert "authorization" not in request.headers


@pytest.mark.parametrize("answer", [None, graph_error(403, "Forbidden", "No.")])
def test_it_closes_what_it_opened(sandbox: Sandbox, answer: Answer | None) -> None:
    sandbox.replace("me", answer)
    result = run(sandbox, "-X", "dev", "-W", "always", GET_USER)

    assert result.returncode == bool(answer)
    assert "DeprecationWarning: " in result.stderr, "Kiota's own, so warnings are shown"
    assert "ResourceWarning: " not in result.stderr


MISTAKES = {
    "client.me.gte()": "AttributeError: 'MeRequestBuilder' object has no attribute 'gte'",
    "exec(\"raise ValueError('Failed to parse: line 3')\")": "ValueError: Failed to parse: line 3",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_keeps_its_traceback(sandbox: Sandbox, tmp_path: Path, mistake: str) -> None:
    script = copy(tmp_path / "copy")
    replace_text(script, "await client.me.get()", mistake)
    result = run(sandbox, str(script))

    expect(result, 1, "")
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert mistake in result.stderr
    assert result.stderr.splitlines()[-1].startswith(MISTAKES[mistake])
