"""get_user.py, run as its user runs it."""

import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from .cases import PLACE_HINT
from .copies import copy_as_told, replace
from .program import GET_USER, GREETING, PROMPT, environment, run, started
from .sandbox import (
    GRAPH_HOST,
    SIGN_IN_HOST,
    Answer,
    Fault,
    Sandbox,
    authorization_pending,
    entra_error,
    graph_error,
)
from .sandbox.sandbox import USER

CLIENT_ID_MESSAGE = "Set AZURE_CLIENT_ID to the Application (client) ID, which is a GUID."
SCRIPTS = "محمد\u200cرضا 李明 👩\u200d💻 Zoë Ünal नरेश"
DECLINED = entra_error(None, "authorization_declined", "The user declined.")
FORBIDDEN = graph_error(403, "Authorization_RequestDenied", "Insufficient privileges.")


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
    script = (
        "import signal, threading, get_user; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler; "
        "assert threading.active_count() == 1"
    )
    result = run(sandbox, "-c", script)

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sandbox.requests == []


@pytest.mark.parametrize("client_id", [None, " \t", "{client_id}0"])
def test_without_a_client_id_it_says_what_to_set(sandbox: Sandbox, client_id: str | None) -> None:
    value = client_id and client_id.format(client_id=sandbox.client_id)
    result = run(sandbox, variables={"AZURE_CLIENT_ID": value})

    message = f"Sign-in: {CLIENT_ID_MESSAGE}\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)
    assert sandbox.requests == []


def test_the_constant_serves_where_the_variable_is_empty(sandbox: Sandbox, tmp_path: Path) -> None:
    copy = copy_as_told(tmp_path / "copy")
    replace(copy, "YOUR_CLIENT_ID", sandbox.client_id)
    result = run(sandbox, str(copy), variables={"AZURE_CLIENT_ID": " "})

    assert (result.returncode, result.stdout) == (0, GREETING)


@pytest.mark.parametrize(
    ("value", "tenant"),
    [
        (" \t", "common"),
        ("organizations", "organizations"),
        ("consumers", "consumers"),
        (" sandbox.example\n", "sandbox.example"),
    ],
)
def test_the_settings_are_taken_without_white_space(
    sandbox: Sandbox, value: str, tenant: str
) -> None:
    variables = {"AZURE_TENANT_ID": value, "AZURE_CLIENT_ID": f"\t{sandbox.client_id} \n"}
    result = run(sandbox, variables=variables)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    assert {request.path.split("/")[1] for request in sandbox.requests} == {tenant, "v1.0"}


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (None, ""),
        (" ", ""),
        (
            " Ada\x1b[2J\x07\r\n\tHello\u2028root\u202e\u2066\x9b",
            " Ada\ufffd[2J\ufffd Hello root\ufffd\ufffd\ufffd",
        ),
        (SCRIPTS, f" {SCRIPTS}"),
    ],
)
def test_any_name_is_printed_and_none_takes_over_the_terminal(
    name: str | None, printed: str
) -> None:
    with Sandbox(pending=0, user={**USER, "displayName": name}) as sandbox:
        result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, f"Hello{printed}, your ID is {USER['id']}\n")


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("latin-1", r"Åsa Öberg \u738b"), ("ascii", r"\xc5sa \xd6berg \u738b")],
)
def test_it_prints_any_name_on_any_terminal(encoding: str, printed: str) -> None:
    with (
        Sandbox(pending=0, user={**USER, "displayName": "Åsa Öberg 王"}) as sandbox,
        started(sandbox, variables={"PYTHONIOENCODING": encoding}, encoding=encoding) as process,
    ):
        stdout, _ = process.communicate()

    assert process.returncode == 0
    assert stdout.rstrip() == f"Hello {printed}, your ID is {USER['id']}"


def test_the_prompt_says_until_when_the_code_is_valid_in_local_time(sandbox: Sandbox) -> None:
    local = timezone(timedelta(hours=5, minutes=30))
    earliest = datetime.now(local) + timedelta(seconds=900)
    result = run(sandbox, variables={"TZ": "XYZ-5:30"})
    latest = datetime.now(local) + timedelta(seconds=900)

    prompt = PROMPT.fullmatch(result.stderr)
    assert prompt
    assert prompt[1] in {f"{earliest:%H:%M}", f"{latest:%H:%M}"}


def test_the_prompt_is_in_a_file_before_the_first_poll(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with Sandbox(pending=None) as sandbox, path.open("w") as stderr:
        command = [sys.executable, GET_USER]
        with subprocess.Popen(command, env=environment(sandbox), stderr=stderr) as process:
            try:
                sandbox.wait_for("token")
                assert PROMPT.fullmatch(path.read_text())
            finally:
                process.kill()


BESIDE_OTHER_TASKS = """
import asyncio
import get_user

async def main():
    signing_in = asyncio.create_task(get_user.get_user())
    while not signing_in.done():
        print("beat", flush=True)
        await asyncio.sleep(0.02)
    user = await signing_in
    print(user.id, flush=True)

asyncio.run(main())
"""


def expect_beats(process: "subprocess.Popen[str]", count: int = 100) -> None:
    """Reads beats that a blocked loop could not send: more than may wait in the pipe already."""
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline() == "beat\n"


def test_other_tasks_go_on_while_it_waits_for_the_person(sandbox: Sandbox) -> None:
    # The first sign-in, and the one that Graph demands in the middle of a call.
    sandbox.require_claims({"nbf": {"essential": True, "value": "1"}})
    refresh_refused = entra_error(50076, "interaction_required", "Use multi-factor authentication.")
    pending = [authorization_pending()] * 3
    sandbox.replace("token", *pending, None, refresh_refused, *pending)
    with started(sandbox, "-c", BESIDE_OTHER_TASKS) as process:
        for count in (1, 6):
            sandbox.wait_for("token", count=count)
            expect_beats(process)
        stdout, stderr = process.communicate()

    assert process.returncode == 0
    assert stdout.endswith(f"\n{USER['id']}\n")
    assert len(PROMPT.findall(stderr)) == 2
    assert [request.endpoint for request in sandbox.requests] == [
        *["discovery", "devicecode", "token", "token", "token", "token", "me"],
        *["token", "instance", "devicecode", "token", "token", "token", "token", "me"],
    ]


def test_a_challenge_that_the_refresh_token_answers_is_not_seen(sandbox: Sandbox) -> None:
    sandbox.require_claims({"nbf": {"essential": True, "value": "1"}})
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    assert [request.endpoint for request in sandbox.requests[3:]] == ["me", "token", "me"]


INTERRUPTIONS = {
    "at the prompt": ("token", Answer(fault=Fault.SILENT)),
    "while it polls": ("token", authorization_pending()),
    "while Graph is answering": ("me", Answer(fault=Fault.SILENT)),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to a process")
@pytest.mark.parametrize("moment", INTERRUPTIONS)
def test_one_ctrl_c_ends_it(sandbox: Sandbox, moment: str) -> None:
    endpoint, answer = INTERRUPTIONS[moment]
    sandbox.replace(endpoint, answer, times=None)
    with started(sandbox) as process:
        sandbox.wait_for(endpoint)
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=1)
        stdout, stderr = process.communicate()

    assert (status, stdout) == (-signal.SIGINT, "")
    assert PROMPT.fullmatch(stderr)


def test_a_redirect_does_not_take_the_token_to_another_host(sandbox: Sandbox) -> None:
    elsewhere = f"https://{SIGN_IN_HOST}/elsewhere"
    sandbox.replace("me", Answer(302, headers={"Location": elsewhere}))
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (1, "")
    redirected = sandbox.requests[-1]
    assert (redirected.host, redirected.path) == (SIGN_IN_HOST, "/elsewhere")
    assert "authorization" not in redirected.headers


def test_a_request_to_another_host_gets_no_token(sandbox: Sandbox, tmp_path: Path) -> None:
    copy = copy_as_told(tmp_path / "copy")
    replace(copy, 'f"https://{GRAPH_HOST}/v1.0"', f'"https://{SIGN_IN_HOST}/v1.0"')
    result = run(sandbox, str(copy))

    assert (result.returncode, result.stdout) == (1, "")
    (request,) = sandbox.requests
    assert (request.host, request.path) == (SIGN_IN_HOST, "/v1.0/me")
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("endpoint", "answer", "status"),
    [("me", None, 0), ("token", DECLINED, 1), ("me", FORBIDDEN, 1)],
)
def test_it_closes_what_it_opened(
    sandbox: Sandbox, endpoint: str, answer: Answer | None, status: int
) -> None:
    sandbox.replace(endpoint, answer)
    result = run(sandbox, "-X", "dev", "-W", "always", GET_USER)

    assert result.returncode == status
    warnings = re.findall(r"\w+Warning: [\w ]+", result.stderr)
    assert warnings == [
        "DeprecationWarning: GetQueryParameters is deprecated",
        "DeprecationWarning: This class is deprecated",
    ]


CANCELLED = """
import asyncio
import sys
import get_user

async def main():
    signing_in = asyncio.create_task(get_user.get_user())
    await asyncio.to_thread(sys.stdin.readline)
    signing_in.cancel()
    try:
        await signing_in
    except asyncio.CancelledError:
        print("cancelled", flush=True)

asyncio.run(main())
"""


def test_a_cancelled_sign_in_stops_polling_and_closes_what_it_opened() -> None:
    with (
        Sandbox(pending=None, interval=1) as sandbox,
        started(sandbox, "-X", "dev", "-W", "always", "-c", CANCELLED) as process,
    ):
        sandbox.wait_for("token")
        stdout, stderr = process.communicate("cancel\n", timeout=60)

    assert (process.returncode, stdout) == (0, "cancelled\n")
    assert "ResourceWarning" not in stderr


def test_a_stdout_that_takes_nothing_is_told_in_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.touch()
    with path.open("r") as only_to_read:  # like a full disk, but on every system
        result = subprocess.run(
            [sys.executable, GET_USER],
            check=False,
            env=environment(sandbox),
            stdout=only_to_read,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert result.returncode == 1
    assert re.fullmatch(r"OSError: \[Errno \d+\] .*\n", PROMPT.sub("", result.stderr))


@pytest.mark.skipif(sys.platform == "win32", reason="its shell cannot close a stream")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_fails_it(sandbox: Sandbox, closed: str) -> None:
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, GET_USER],
        check=False,
        env=environment(sandbox),
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stdout) == (1, "")


REPLACED = """
import io
import sys
import get_user

sys.stderr, stderr = io.StringIO(), sys.stderr
status = get_user.main()
stderr.write(sys.stderr.getvalue())
sys.exit(status)
"""


def test_the_prompt_needs_no_real_stderr(sandbox: Sandbox) -> None:
    result = run(sandbox, "-c", REPLACED)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)


LOGS = """
import logging, sys, get_user
if len(sys.argv) > 1:
    logging.basicConfig()
get_user.main()
for library in ("asyncio", "azure.identity", "msal", "my program"):
    logging.getLogger(library).error("%s logs", library)
"""


def test_what_the_libraries_log_is_printed_only_for_who_turns_it_on(sandbox: Sandbox) -> None:
    sandbox.replace("token", DECLINED, times=None)
    result = run(sandbox, "-c", LOGS)
    turned_on = run(sandbox, "-c", LOGS, "on")

    assert re.findall(".*logs|.*WARNING.*", result.stderr) == ["my program logs"]
    assert "WARNING:azure.identity" in turned_on.stderr
    assert turned_on.stderr.count(" logs\n") == 4


def test_a_mistake_of_ones_own_is_blamed_on_nobody(sandbox: Sandbox, tmp_path: Path) -> None:
    copy = copy_as_told(tmp_path / "copy")
    replace(copy, "client.me.get()", "client.me.gte()")
    result = run(sandbox, str(copy))
    shown = run(sandbox, "-X", "dev", str(copy))

    mistake = "AttributeError: 'MeRequestBuilder' object has no attribute 'gte'\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"{mistake}{PLACE_HINT}\n")
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith(mistake)


RAISES = """
import asyncio, sys
import httpx
from azure.core.exceptions import ClientAuthenticationError
from kiota_abstractions.api_error import APIError
from client.models.o_data_errors.o_data_error import ODataError
import get_user

try:
    asyncio.run(get_user.get_user())
except eval(sys.argv[1]):
    print("as expected")
"""


@pytest.mark.parametrize(
    ("endpoint", "answer", "raised"),
    [
        ("token", DECLINED, "ClientAuthenticationError"),
        (SIGN_IN_HOST, Answer(407), "ClientAuthenticationError"),
        ("me", FORBIDDEN, "ODataError"),
        ("me", Answer(403), "APIError"),
        ("me", Answer(fault=Fault.RESET), "httpx.HTTPError"),
    ],
)
def test_from_python_the_libraries_own_exceptions_are_raised(
    sandbox: Sandbox, endpoint: str, answer: Answer, raised: str
) -> None:
    sandbox.replace(endpoint, answer, times=None)
    result = run(sandbox, "-c", RAISES, raised)

    assert (result.returncode, result.stdout) == (0, "as expected\n")
