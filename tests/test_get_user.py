"""get_user.py, run as its user runs it."""

import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from .program import GET_USER, ROOT, environment, run, started
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

GREETING = f"Hello {USER['displayName']}, your ID is {USER['id']}\n"
PROMPT = re.compile(
    r"To sign in, open https://microsoft\.com/devicelogin and enter the code SANDBOX42 "
    r"\(valid until (\d\d:\d\d)\)\.\n"
)
CLIENT_ID_MESSAGE = (
    "The client ID is not a GUID: set AZURE_CLIENT_ID to the Application (client) ID that the "
    "Overview page of your app registration shows at https://entra.microsoft.com.\n"
)
DECLINED = entra_error(None, "authorization_declined", "The user declined.")
FORBIDDEN = graph_error(
    403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
)


def copy_project(folder: Path, *, changed: str, old: str, new: str) -> str:
    """Copies what get_user.py needs, with one text of one file changed; returns the copy's path."""
    for source in [ROOT / "get_user.py", *(ROOT / "client").rglob("*.py")]:
        path = folder / source.relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        if source == ROOT / changed:
            assert text.count(old) == 1
            text = text.replace(old, new)
        path.write_text(text)
    return str(folder / "get_user.py")


def test_it_greets_with_one_prompt_and_four_requests(sandbox: Sandbox) -> None:
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    discovery, devicecode, token, me = sandbox.requests
    assert (discovery.host, discovery.path) == (
        SIGN_IN_HOST,
        "/common/v2.0/.well-known/openid-configuration",
    )
    assert devicecode.path == "/common/oauth2/v2.0/devicecode"
    assert devicecode.form["client_id"] == sandbox.client_id
    assert set(devicecode.form["scope"].split()) == {
        "User.Read",
        "offline_access",
        "openid",
        "profile",
    }
    assert token.path == "/common/oauth2/v2.0/token"
    assert (me.host, me.method, me.path) == (GRAPH_HOST, "GET", "/v1.0/me")
    assert [request.http_version for request in sandbox.requests] == ["1.1", "1.1", "1.1", "2"]


def test_importing_it_does_nothing_but_define(sandbox: Sandbox) -> None:
    script = (
        "import signal, get_user; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    result = run(sandbox, "-c", script, variables={"PYTHONPATH": str(ROOT)})

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sandbox.requests == []


@pytest.mark.parametrize("client_id", [None, "", " \t", "my-app", "YOUR_CLIENT_ID", "{client_id}0"])
def test_without_a_client_id_it_says_what_to_set(sandbox: Sandbox, client_id: str | None) -> None:
    value = client_id and client_id.format(client_id=sandbox.client_id)
    result = run(sandbox, variables={"AZURE_CLIENT_ID": value})

    assert (result.returncode, result.stdout, result.stderr) == (1, "", CLIENT_ID_MESSAGE)
    assert sandbox.requests == []


@pytest.mark.parametrize("client_id", [None, "", "  "])
def test_the_constant_serves_where_the_variable_is_not_set(
    sandbox: Sandbox, tmp_path: Path, client_id: str | None
) -> None:
    copy = copy_project(
        tmp_path, changed="get_user.py", old="YOUR_CLIENT_ID", new=sandbox.client_id
    )
    result = run(sandbox, copy, variables={"AZURE_CLIENT_ID": client_id})

    assert (result.returncode, result.stdout) == (0, GREETING)


@pytest.mark.parametrize(
    ("value", "tenant"),
    [
        (None, "common"),
        ("", "common"),
        (" \t", "common"),
        ("organizations", "organizations"),
        (" sandbox.example\n", "sandbox.example"),
    ],
)
def test_the_tenant_is_common_unless_it_is_set(
    sandbox: Sandbox, value: str | None, tenant: str
) -> None:
    result = run(sandbox, variables={"AZURE_TENANT_ID": value})

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert {request.path.split("/")[1] for request in sandbox.requests} == {tenant, "v1.0"}


def test_white_space_around_the_client_id_is_dropped(sandbox: Sandbox) -> None:
    result = run(sandbox, variables={"AZURE_CLIENT_ID": f"\t{sandbox.client_id} \n"})

    assert (result.returncode, result.stdout) == (0, GREETING)


@pytest.mark.parametrize("name", [None, "", " "])
def test_a_user_without_a_display_name_is_greeted(name: str | None) -> None:
    with Sandbox(pending=0, user={**USER, "displayName": name}) as sandbox:
        result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, f"Hello, your ID is {USER['id']}\n")


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "Åsa Öberg 王"),
        ("latin-1", r"Åsa Öberg \u738b"),
        ("ascii", r"\xc5sa \xd6berg \u738b"),
    ],
)
def test_it_prints_any_name_on_any_terminal(encoding: str, printed: str) -> None:
    with (
        Sandbox(pending=0, user={**USER, "displayName": "Åsa Öberg 王"}) as sandbox,
        started(sandbox, variables={"PYTHONIOENCODING": encoding}, encoding=encoding) as process,
    ):
        assert process.stdout is not None
        stdout = process.stdout.read()
        assert process.wait() == 0

    assert stdout.rstrip() == f"Hello {printed}, your ID is {USER['id']}"


def test_a_name_cannot_take_over_the_terminal() -> None:
    name = " Ada\x1b[2J\x07\r\n\tHello\u2028root\u202e\u2066\x9b"
    with Sandbox(pending=0, user={**USER, "displayName": name}) as sandbox:
        result = run(sandbox)

    printed = "Ada\ufffd[2J\ufffd Hello root\ufffd\ufffd\ufffd"
    assert (result.returncode, result.stdout) == (0, f"Hello {printed}, your ID is {USER['id']}\n")


@pytest.mark.parametrize("name", ["محمد\u200cرضا", "李明", "👩\u200d💻", "Zoë Ünal", "नरेश"])
def test_a_name_in_any_script_is_printed_as_it_is(name: str) -> None:
    with Sandbox(pending=0, user={**USER, "displayName": name}) as sandbox:
        result = run(sandbox, variables={"PYTHONIOENCODING": "utf-8"})

    assert (result.returncode, result.stdout) == (0, f"Hello {name}, your ID is {USER['id']}\n")


def test_the_prompt_says_until_when_the_code_is_valid_in_local_time(sandbox: Sandbox) -> None:
    local = timezone(timedelta(hours=5, minutes=30))
    earliest = datetime.now(local) + timedelta(seconds=900)
    result = run(sandbox, variables={"TZ": "XYZ-5:30"})
    latest = datetime.now(local) + timedelta(seconds=900)

    prompt = PROMPT.fullmatch(result.stderr)
    assert prompt
    assert prompt[1] in {f"{earliest:%H:%M}", f"{latest:%H:%M}"}


def test_the_prompt_comes_through_a_pipe_before_the_sign_in() -> None:
    with Sandbox(pending=None) as sandbox, started(sandbox) as process:
        assert process.stderr is not None
        assert PROMPT.fullmatch(process.stderr.readline())
        assert process.poll() is None


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


def test_other_tasks_go_on_while_it_waits_for_the_person() -> None:
    with (
        Sandbox(pending=None) as sandbox,
        started(sandbox, "-c", BESIDE_OTHER_TASKS, variables={"PYTHONPATH": str(ROOT)}) as process,
    ):
        sandbox.wait_for("token")
        expect_beats(process)


def test_other_tasks_go_on_while_graph_demands_a_new_sign_in(sandbox: Sandbox) -> None:
    sandbox.require_claims({"nbf": {"essential": True, "value": "1"}})
    refresh_refused = entra_error(50076, "interaction_required", "Use multi-factor authentication.")
    sandbox.replace("token", None, refresh_refused, *[authorization_pending()] * 3)
    with started(sandbox, "-c", BESIDE_OTHER_TASKS, variables={"PYTHONPATH": str(ROOT)}) as process:
        sandbox.wait_for("token", count=3)
        expect_beats(process)
        stdout, stderr = process.communicate()

    assert process.returncode == 0
    assert stdout.endswith(f"\n{USER['id']}\n")
    assert len(PROMPT.findall(stderr)) == 2
    assert [request.endpoint for request in sandbox.requests] == [
        *["discovery", "devicecode", "token", "me"],
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


def test_a_client_for_another_host_gets_no_token(sandbox: Sandbox, tmp_path: Path) -> None:
    copy = copy_project(
        tmp_path,
        changed="client/get_user_api_client.py",
        old=f"https://{GRAPH_HOST}/v1.0",
        new=f"https://{SIGN_IN_HOST}/v1.0",
    )
    result = run(sandbox, copy)

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
    command = ["-X", "dev", "-W", "always", "-c", CANCELLED]
    with (
        Sandbox(pending=None, interval=1) as sandbox,
        started(sandbox, *command, variables={"PYTHONPATH": str(ROOT)}) as process,
    ):
        sandbox.wait_for("token")
        stdout, stderr = process.communicate("cancel\n", timeout=60)

    assert (process.returncode, stdout) == (0, "cancelled\n")
    assert "ResourceWarning" not in stderr


def test_connecting_to_sign_in_is_tried_twice_only(sandbox: Sandbox) -> None:
    # Where packets are swallowed, each try waits for every one of its addresses.
    sandbox.replace(SIGN_IN_HOST, Answer(fault=Fault.REFUSED), times=None)
    result = run(sandbox)

    assert result.returncode == 1
    assert [request.method for request in sandbox.requests] == ["CONNECT", "CONNECT"]


def test_a_stdout_that_takes_nothing_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
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
    assert re.fullmatch(
        r"This machine: \[Errno \d+\] Bad file descriptor\n", PROMPT.sub("", result.stderr)
    )


@pytest.mark.skipif(sys.platform == "win32", reason="its shell cannot close a stream")
@pytest.mark.parametrize(("closed", "told"), [(">&-", 1), ("2>&-", 0), (">&- 2>&-", 0)])
def test_a_closed_stream_is_told_on_the_other(sandbox: Sandbox, closed: str, told: int) -> None:
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, GET_USER],
        check=False,
        env=environment(sandbox),
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stdout) == (1, "")
    message = PROMPT.sub("", result.stderr)
    assert message == "This machine: the stream to print on is closed\n" * told


WITH_LOGGING = "import logging, get_user; logging.basicConfig({}); get_user.main()"


@pytest.mark.parametrize(("options", "logged"), [("level='CRITICAL'", False), ("", True)])
def test_who_turns_logging_on_gets_the_libraries_lines(
    sandbox: Sandbox, options: str, logged: bool
) -> None:
    sandbox.replace("token", DECLINED)
    script = WITH_LOGGING.format(options)
    result = run(sandbox, "-c", script, variables={"PYTHONPATH": str(ROOT)})

    assert ("WARNING:azure.identity" in result.stderr) is logged


LOGGED_LATER = """
import logging, get_user
get_user.main()
for library in ("asyncio", "azure.identity", "msal"):
    logging.getLogger(library).error("logged")
"""


def test_what_the_libraries_log_is_not_printed(sandbox: Sandbox) -> None:
    result = run(sandbox, "-c", LOGGED_LATER, variables={"PYTHONPATH": str(ROOT)})

    assert PROMPT.fullmatch(result.stderr)


RAISES = """
import asyncio
import httpx
from azure.core.exceptions import ClientAuthenticationError
from kiota_abstractions.api_error import APIError
from client.models.o_data_errors.o_data_error import ODataError
import get_user

try:
    asyncio.run(get_user.get_user())
except ClientAuthenticationError:
    print("ClientAuthenticationError")
except ODataError:
    print("ODataError")
except APIError:
    print("APIError")
except httpx.HTTPError:
    print("HTTPError")
"""


@pytest.mark.parametrize(
    ("endpoint", "answer", "raised"),
    [
        ("token", DECLINED, "ClientAuthenticationError"),
        (SIGN_IN_HOST, Answer(fault=Fault.REFUSED), "ClientAuthenticationError"),
        ("me", FORBIDDEN, "ODataError"),
        ("me", Answer(403), "APIError"),
        ("me", Answer(fault=Fault.RESET), "HTTPError"),
    ],
)
def test_from_python_the_libraries_own_exceptions_are_raised(
    sandbox: Sandbox, endpoint: str, answer: Answer, raised: str
) -> None:
    sandbox.replace(endpoint, answer, times=None)
    result = run(sandbox, "-c", RAISES, variables={"PYTHONPATH": str(ROOT)})

    assert (result.returncode, result.stdout) == (0, f"{raised}\n")


def test_it_starts_from_any_directory(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(sandbox, cwd=tmp_path)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert list(tmp_path.iterdir()) == []
