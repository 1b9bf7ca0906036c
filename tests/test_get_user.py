"""get_user.py, run as its user runs it; what it says when it fails is in test_failures.py."""

import re
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from .project import GET_USER, GREETING, PROMPT, copy, environment, replace_text, run, start
from .sandbox import Answer, Fault, Sandbox, entra_error, graph_error
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST, USER

CALL = "        user = await client.me.get()\n"
CLAIMS = {"nbf": {"essential": True, "value": "1"}}


def test_it_greets_with_one_prompt_and_four_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(sandbox, cwd=tmp_path)

    assert (result.returncode, result.stdout) == (0, GREETING)
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

    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch("Set .*AZURE_CLIENT_ID .*Application [(]client[)] ID.*\n", result.stderr)
    assert sandbox.requests == []


def test_the_id_can_stand_in_the_file(sandbox: Sandbox, tmp_path: Path) -> None:
    script = copy(tmp_path / "copy")
    script.write_text(script.read_text().replace("YOUR_CLIENT_ID", sandbox.client_id))
    result = run(sandbox, str(script), variables={"AZURE_CLIENT_ID": " "})

    assert (result.returncode, result.stdout) == (0, GREETING)


@pytest.mark.parametrize(
    ("value", "tenant"),
    [(" \t", "common"), ("consumers", "consumers"), (" sandbox.example\n", "sandbox.example")],
)
def test_settings_lose_their_white_space(sandbox: Sandbox, value: str, tenant: str) -> None:
    variables = {"AZURE_TENANT_ID": value, "AZURE_CLIENT_ID": f"\t{sandbox.client_id} \n"}
    result = run(sandbox, variables=variables)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    assert {request.path.split("/")[1] for request in sandbox.requests} == {tenant, "v1.0"}


NAME = "محمد\u200cرضا 李\u3000明 👩\u200d💻 \u200fZo\u00ad\u00eb\ufeff  Ünal"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (None, "there"),
        ("", "there"),
        (NAME, NAME),
        ("\x1bc\x9b2J\r\nAda\t\u2028root\u2029\x00\u202eatad\u2066\x7f", "c 2J Ada root atad"),
    ],
)
def test_no_name_takes_over_the_terminal(name: str | None, printed: str) -> None:
    with Sandbox(pending=0, user={**USER, "displayName": name}) as sandbox:
        result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, f"Hello {printed}, your ID is {USER['id']}\n")


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("latin-1", r"Åsa Öberg \u738b"), ("ascii", r"\xc5sa \xd6berg \u738b")],
)
def test_it_prints_any_name_on_any_terminal(encoding: str, printed: str) -> None:
    with Sandbox(pending=0, user={**USER, "displayName": "Åsa Öberg 王"}) as sandbox:
        result = run(sandbox, variables={"PYTHONIOENCODING": encoding}, encoding=encoding)

    assert result.stdout == f"Hello {printed}, your ID is {USER['id']}\n"


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

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    endpoints = [request.endpoint for request in sandbox.requests]
    assert endpoints == ["discovery", "devicecode", "token", "me", "me", "me"]


PENDING = entra_error(70016, "authorization_pending", "Authorization is pending.")
REFUSED = entra_error(50076, "interaction_required", "Use multi-factor authentication.")
INTERRUPTIONS: dict[str, tuple[str, list[Answer | None], int]] = {
    "at the prompt": ("token", [Answer(fault=Fault.SILENT)], 1),
    "while it polls": ("token", [PENDING], 1),
    "while Graph is answering": ("me", [Answer(fault=Fault.SILENT)], 1),
    "at a second prompt": ("token", [None, REFUSED, *[PENDING] * 9], 3),
}
"""The endpoint, how it answers, and with which request to it the moment has come."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to a process")
@pytest.mark.parametrize("moment", INTERRUPTIONS)
def test_one_ctrl_c_ends_and_closes_it(sandbox: Sandbox, tmp_path: Path, moment: str) -> None:
    script = copy(tmp_path / "copy")
    in_try = f'        try:\n    {CALL}        finally:\n            print("closed")\n'
    replace_text(script, CALL, in_try)
    endpoint, answers, count = INTERRUPTIONS[moment]
    sandbox.replace(endpoint, *answers, times=None)
    sandbox.required_claims = CLAIMS if moment == "at a second prompt" else {}
    with start([sys.executable, str(script)], environment(sandbox)) as process:
        try:
            sandbox.wait_for(endpoint, count=count)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=1)
        finally:
            process.kill()

    assert (process.returncode, stdout) == (130, "closed\n")
    assert PROMPT.sub("", stderr) == ""


def test_a_call_to_another_host_gets_no_token(sandbox: Sandbox, tmp_path: Path) -> None:
    script = copy(tmp_path / "copy")
    elsewhere = f'        request_adapter.base_url = "https://{SIGN_IN_HOST}/v1.0"\n'
    replace_text(script, "        client = ", f"{elsewhere}        client = ")
    result = run(sandbox, str(script))

    assert (result.returncode, result.stdout) == (1, "")
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

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert mistake in result.stderr
    assert result.stderr.splitlines()[-1].startswith(MISTAKES[mistake])


def test_a_proxy_may_need_four_seconds(sandbox: Sandbox) -> None:
    sandbox.replace(SIGN_IN_HOST, Answer(delay=4), times=None)
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, GREETING)
