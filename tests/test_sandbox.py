"""The sandbox refuses what the real services refuse, and leaves nothing behind."""

import base64
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .program import ROOT
from .sandbox import GRAPH_HOST, SIGN_IN_HOST, Answer, Fault, Resource, Sandbox, graph_error
from .sandbox.services import DEVICE_CODE_GRANT, TENANT_DOMAIN, TENANT_ID
from .sandbox_client import client_of, post, sign_in

ME = f"https://{GRAPH_HOST}/v1.0/me"
ELSEWHERE = "00000000-0000-0000-0000-000000000000"
VERIFIER = "sandbox-verifier"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:-1]


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with client_of(sandbox) as client:
        yield client


def me(client: httpx.Client, token: str = "any") -> httpx.Response:
    return client.get(ME, headers={"Authorization": f"Bearer {token}"})


def discovery(
    sandbox: Sandbox, client: httpx.Client, tenant: str = "common", **unused: str
) -> httpx.Response:
    path = f"{tenant}/v2.0/.well-known/openid-configuration"
    return client.get(f"https://{SIGN_IN_HOST}/{path}")


def devicecode(sandbox: Sandbox, client: httpx.Client, **changed: str) -> httpx.Response:
    return post(sandbox, client, "devicecode", **{"scope": "User.Read", **changed})


def poll(sandbox: Sandbox, client: httpx.Client, **changed: str) -> httpx.Response:
    code = devicecode(sandbox, client).json()["device_code"]
    form = {"grant_type": DEVICE_CODE_GRANT, "device_code": code, **changed}
    return post(sandbox, client, "token", **form)


def refresh(sandbox: Sandbox, client: httpx.Client, **changed: str) -> httpx.Response:
    token = sign_in(sandbox, client)["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": token, **changed}
    return post(sandbox, client, "token", **form)


def authorize(
    sandbox: Sandbox, client: httpx.Client, tenant: str = "common", **changed: str
) -> httpx.Response:
    query = {
        "client_id": sandbox.client_id,
        "response_type": "code",
        "response_mode": "form_post",
        "redirect_uri": "http://localhost:8400",
        "scope": "User.Read openid profile",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changed,
    }
    address = f"https://{SIGN_IN_HOST}/{tenant}/oauth2/v2.0/authorize"
    return client.get(address, params=query)


def redeem(sandbox: Sandbox, client: httpx.Client, **changed: str) -> httpx.Response:
    (code,) = re.findall('name="code" value="(.*?)"', authorize(sandbox, client).text)
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER}
    form["redirect_uri"] = "http://localhost:8400"
    return post(sandbox, client, "token", **{**form, **changed})


def refusal(answer: httpx.Response) -> tuple[str, int | None]:
    """Checks the shape of a refusal of the identity platform; returns its error and its number."""
    content = answer.json()
    number = content["error_codes"][0] if content["error_codes"] else None
    prefix = f"AADSTS{number}: " if number else ""
    assert answer.status_code == 400
    assert content["error_description"].startswith(prefix)
    for name in ("trace_id", "correlation_id", "timestamp"):
        assert content[name] in content["error_description"]
    assert ("error_uri" in content) == (number not in (None, 7000014))
    assert answer.headers["x-ms-request-id"] == content["trace_id"]
    return content["error"], number


def expect_graph_error(answer: httpx.Response, status: int, code: str) -> None:
    """Checks the whole shape of a refusal of Microsoft Graph."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert error["innerError"]["request-id"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("tenant", "issuer"),
    [
        ("common", "{tenantid}"),
        ("organizations", "{tenantid}"),
        ("consumers", "9188040d-6c67-4c5b-b112-36a304b66dad"),
        (TENANT_ID, TENANT_ID),
        (TENANT_DOMAIN, TENANT_ID),
    ],
)
def test_a_tenant_has_its_issuer_and_its_page(
    sandbox: Sandbox, client: httpx.Client, tenant: str, issuer: str
) -> None:
    named = discovery(sandbox, client, tenant).json()["issuer"]
    page = devicecode(sandbox, client, tenant=tenant).json()["verification_uri"]

    assert named == f"https://{SIGN_IN_HOST}/{issuer}/v2.0"
    personal = tenant == "consumers"
    assert (
        page == f"https://{'www.microsoft.com/link' if personal else 'login.microsoft.com/device'}"
    )


WRONG_CLIENT = {"client_id": ELSEWHERE}
WRONG_TENANT = {"tenant": ELSEWHERE}


@pytest.mark.parametrize(
    ("ask", "changed", "error", "number"),
    [
        (discovery, WRONG_TENANT, "invalid_tenant", 90002),
        (discovery, {"tenant": "elsewhere.example"}, "invalid_tenant", 90002),
        (discovery, {"tenant": "nonsense"}, "invalid_request", 900023),
        (devicecode, WRONG_TENANT, "invalid_tenant", 90002),
        (devicecode, WRONG_CLIENT, "invalid_request", 50059),
        (devicecode, {**WRONG_CLIENT, "tenant": "organizations"}, "invalid_request", 50059),
        (devicecode, {**WRONG_CLIENT, "tenant": "consumers"}, "invalid_client", 70002),
        (devicecode, {**WRONG_CLIENT, "tenant": TENANT_ID}, "unauthorized_client", 700016),
        (devicecode, {"client_id": ""}, "invalid_request", 900144),
        (devicecode, {"scope": ""}, "invalid_request", 900144),
        (devicecode, {"scope": "User.Read Mail.Read"}, "invalid_scope", 70011),
        (poll, WRONG_CLIENT, "invalid_request", 50059),
        (poll, {"device_code": "another"}, "invalid_grant", 7000014),
        (poll, {"device_code": ""}, "invalid_request", 900144),
        (poll, {"grant_type": ""}, "invalid_request", 900144),
        (poll, {"grant_type": "password"}, "unsupported_grant_type", 70003),
        (refresh, {"refresh_token": "another"}, "invalid_grant", 70000),
        (refresh, {"scope": "Mail.Read"}, "invalid_scope", 70011),
        (authorize, WRONG_CLIENT, "invalid_request", 50059),
        (authorize, {"redirect_uri": "http://localhost.example"}, "invalid_request", 50011),
        (authorize, {"response_type": "token"}, "invalid_request", None),
        (authorize, {"response_mode": "fragment"}, "invalid_request", None),
        (authorize, {"code_challenge_method": "plain"}, "invalid_request", None),
        (redeem, {"code": "another"}, "invalid_grant", 70008),
        (redeem, {"redirect_uri": "http://localhost:8401"}, "invalid_grant", None),
        (redeem, {"code_verifier": "another"}, "invalid_grant", 501481),
    ],
)
def test_what_is_wrong_is_refused(
    sandbox: Sandbox,
    client: httpx.Client,
    ask: Callable[..., httpx.Response],
    changed: dict[str, str],
    error: str,
    number: int | None,
) -> None:
    assert ask(sandbox, client).status_code == 200
    assert refusal(ask(sandbox, client, **changed)) == (error, number)


def test_a_browser_takes_a_refused_scope_to_the_program(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    page = authorize(sandbox, client, scope="Mail.Read", state='a"b').text

    assert 'name="state" value="a&quot;b"' in page
    assert 'name="error" value="invalid_scope"' in page
    assert 'name="code"' not in page


@pytest.mark.parametrize(("ask", "number"), [(poll, 7000014), (redeem, 70008)])
def test_a_code_serves_once(
    sandbox: Sandbox, client: httpx.Client, ask: Callable[..., httpx.Response], number: int
) -> None:
    assert ask(sandbox, client).json()["scope"] == "User.Read profile openid email"
    again = post(sandbox, client, "token", **sandbox.requests[-1].form)

    assert refusal(again) == ("invalid_grant", number)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"pending": 1}, ("authorization_pending", 70016)),
        ({"pending": 0, "expires_in": 0}, ("expired_token", 70020)),
        ({"pending": 0, "device_codes": False}, ("invalid_grant", 530035)),
    ],
)
def test_a_poll_waits_or_fails(settings: dict[str, Any], refused: tuple[str, int]) -> None:
    with Sandbox(**settings) as sandbox, client_of(sandbox) as client:
        assert refusal(poll(sandbox, client)) == refused
        assert redeem(sandbox, client).status_code == 200


@pytest.mark.parametrize("value", ["", "Basic {token}", "Bearer another"])
def test_graph_refuses_a_wrong_token(sandbox: Sandbox, client: httpx.Client, value: str) -> None:
    token = sign_in(sandbox, client)["access_token"]
    answer = client.get(ME, headers={"Authorization": value.format(token=token)})

    expect_graph_error(answer, 401, "InvalidAuthenticationToken")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="", authorization_uri=')
    assert "claims=" not in answer.headers["www-authenticate"]


def test_each_resource_needs_its_permission() -> None:
    drive = {"/me/drive": Resource("Files.Read", {"id": "1"})}
    with Sandbox(pending=0, resources=drive) as sandbox, client_of(sandbox) as client:
        for scope, status in [("User.Read", 403), ("openid", 403), ("Files.Read", 200)]:
            token = sign_in(sandbox, client, scope)["access_token"]
            answer = client.get(f"{ME}/drive", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status

    assert answer.json() == {"id": "1"}


def test_graph_challenges_a_token_without_the_claims(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    sandbox.require_claims({"nbf": {"essential": True, "value": "1"}})
    capable = '{"access_token": {"xms_cc": {"values": ["CP1"]}%s}}'
    nbf = ', "nbf": {"essential": true, "value": "1"}'
    answers = [
        me(client, sign_in(sandbox, client, claims=claims)["access_token"])
        for claims in ("", capable % "", capable % nbf)
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 200]
    header = 'error="insufficient_claims", claims="'
    challenged = [header in answer.headers.get("www-authenticate", "") for answer in answers]
    assert challenged == [False, True, False]


def test_another_path_is_unknown(client: httpx.Client) -> None:
    expect_graph_error(client.get(f"https://{GRAPH_HOST}/v1.0/you"), 400, "BadRequest")
    expect_graph_error(client.get(f"https://{GRAPH_HOST}/me"), 400, "BadRequest")
    expect_graph_error(client.post(ME), 400, "BadRequest")
    assert client.get(f"https://{GRAPH_HOST}/v1.0//me").status_code == 401
    assert client.get(f"https://{SIGN_IN_HOST}/common/oauth2/v2.0/token").status_code == 404


@pytest.mark.parametrize("http2", [True, False])
def test_requests_are_recorded_in_order(sandbox: Sandbox, http2: bool) -> None:
    with client_of(sandbox, http2=http2) as client:
        token = sign_in(sandbox, client)["access_token"]
        client.get(ME, params={"$select": "id"}, headers={"Authorization": f"Bearer {token}"})

    seen = [(each.endpoint, each.host, each.http_version) for each in sandbox.requests]
    assert seen == [
        ("devicecode", SIGN_IN_HOST, "1.1"),
        ("token", SIGN_IN_HOST, "1.1"),
        ("me", GRAPH_HOST, "2" if http2 else "1.1"),
    ]
    assert sandbox.requests[1].form["grant_type"] == DEVICE_CODE_GRANT
    assert sandbox.requests[2].query == {"$select": "id"}
    assert sandbox.requests[2].headers["authorization"] == f"Bearer {token}"
    assert token in sandbox.secrets


@pytest.mark.parametrize("host", [SIGN_IN_HOST, GRAPH_HOST])
def test_a_client_that_does_not_trust_the_ca_gets_nothing(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], host: str
) -> None:
    with (
        httpx.Client(proxy=sandbox.address, trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get(f"https://{host}/")

    assert sandbox.requests == []
    assert capfd.readouterr() == ("", "")


def test_another_host_is_refused_and_recorded(sandbox: Sandbox, client: httpx.Client) -> None:
    for elsewhere in ("graph.microsoft.com.evil.example", f"{GRAPH_HOST}:444"):
        with pytest.raises(httpx.ProxyError, match="403"):
            client.get(f"https://{elsewhere}/v1.0/me")
    assert client.get(f"http://{GRAPH_HOST}:443/v1.0/me").status_code == 403

    assert [(request.method, request.host) for request in sandbox.requests] == [
        ("CONNECT", "graph.microsoft.com.evil.example"),
        ("CONNECT", GRAPH_HOST),
        ("GET", GRAPH_HOST),
    ]


def test_what_it_cannot_play_is_told(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="interval"):
        Sandbox(interval=0)
    with pytest.raises(ValueError, match="no endpoint 'tokn', but authorize, devicecode, "):
        sandbox.replace("tokn", Answer(500))


@pytest.mark.parametrize("http2", [False, True])
def test_answers_are_replaced_in_their_order(sandbox: Sandbox, http2: bool) -> None:
    busy = graph_error(429, "TooManyRequests", "Please retry again later.", {"Retry-After": "1"})
    sandbox.replace("me", busy, None, times=2)
    sandbox.replace("me", Answer(200, b"<html>", {"Content-Type": "text/html"}, delay=0.01))
    with client_of(sandbox, http2=http2) as client:
        answers = [me(client) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [429, 401, 429, 401, 200, 401]
    assert answers[0].headers["retry-after"] == "1"
    assert (answers[4].text, answers[4].headers["content-type"]) == ("<html>", "text/html")


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "fault", "raised"),
    [
        ("me", Fault.RESET, httpx.TransportError),
        ("me", Fault.CUT_OFF, httpx.RemoteProtocolError),
        ("me", Fault.SILENT, httpx.ReadTimeout),
        (GRAPH_HOST, Fault.RESET, httpx.ReadError),
        (GRAPH_HOST, Fault.CUT_OFF, httpx.ConnectError),
        (GRAPH_HOST, Fault.SILENT, httpx.ConnectTimeout),
        (GRAPH_HOST, None, httpx.ProxyError),
    ],
)
def test_a_fault_breaks_one_answer(
    sandbox: Sandbox, endpoint: str, fault: Fault | None, raised: type[Exception], http2: bool
) -> None:
    sandbox.replace(endpoint, Answer(200 if fault else 502, b"{", fault=fault))
    with client_of(sandbox, http2=http2) as client:
        with pytest.raises(raised):
            client.get(ME, timeout=2 if fault is Fault.SILENT else 30)

        assert me(client).status_code == 401
    assert [request.endpoint for request in sandbox.requests] == [endpoint, "me"]


def test_an_error_inside_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    broken = Answer(200, headers={"Name": "\u0100"})
    with pytest.raises(ExceptionGroup) as raised, Sandbox() as sandbox:
        sandbox.replace("me", broken)
        sandbox.replace(GRAPH_HOST, None, broken)
        with client_of(sandbox) as client:
            assert me(client).status_code == 500
        with client_of(sandbox) as client, pytest.raises(httpx.RemoteProtocolError):
            me(client)

    assert [type(error) for error in raised.value.exceptions] == [UnicodeEncodeError] * 2
    assert "UnicodeEncodeError" in capfd.readouterr().err


def test_the_environment_leads_nowhere_else(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "NO_PROXY", "SSL_CERT_DIR", "azure_authority_host"):
        monkeypatch.setenv(name, "elsewhere")
    environment = sandbox.environment

    assert "elsewhere" not in environment.values()
    assert environment["HTTPS_PROXY"] == sandbox.address
    assert environment["AZURE_CLIENT_ID"] == sandbox.client_id
    assert sandbox.address.startswith("http://127.0.0.1:")


def test_it_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = threading.active_count()
    with ThreadPoolExecutor() as pool:
        with Sandbox() as sandbox:
            # A connection of each kind is still open when the sandbox ends.
            port = int(sandbox.address.rpartition(":")[2])
            idle = client_of(sandbox)
            me(idle)
            sandbox.replace("me", Answer(fault=Fault.SILENT))
            silent = pool.submit(me, client_of(sandbox))
            sandbox.wait_for("me", count=2)
            beginning = socket.create_connection(("127.0.0.1", port))
            beginning.sendall(f"CONNECT {GRAPH_HOST}:443 HTTP/1.1\r\n\r\n".encode())
            assert beginning.recv(100).startswith(b"HTTP/1.1 200 ")
            assert list(tmp_path.iterdir())
        with pytest.raises(httpx.TransportError, match="disconnected"):
            silent.result()
    idle.close()
    beginning.close()

    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def command(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    """Starts `python -m tests.sandbox` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("options", "status", "output", "error"),
    [
        ([], 0, "Hello ", "it is approved by itself"),
        (["--no-device-codes"], 1, "", "Sign-in: Authentication failed: AADSTS530035: "),
    ],
)
def test_the_command_runs_get_user(
    tmp_path: Path, options: list[str], status: int, output: str, error: str
) -> None:
    with command(*options, folder=tmp_path) as process:
        stdout, stderr = process.communicate()

    assert (process.returncode, stdout[:6]) == (status, output)
    assert stderr.startswith("This is a sandbox: nobody is really signed in.")
    assert error in stderr


KILLED = 9 if sys.platform == "win32" else 128 + 9


@pytest.mark.parametrize(
    ("code", "status"), [("sys.exit(len(sys.argv))", 3), ("os.kill(os.getpid(), 9)", KILLED)]
)
def test_the_command_ends_with_the_status_of_its_script(
    tmp_path: Path, code: str, status: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import os, sys\n{code}\n")
    with command(str(script), "--no-device-codes", "value", folder=tmp_path) as process:
        _, stderr = process.communicate()

    assert process.returncode == status
    assert "approved" in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_its_script(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    folder = tmp_path / "temporary"
    folder.mkdir()
    with command(str(script), folder=folder) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(number)
        _, stderr = process.communicate(timeout=10)

    assert (process.returncode, stderr.count("\n")) == (128 + number, 1)
    assert list(folder.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
