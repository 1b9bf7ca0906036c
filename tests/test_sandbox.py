"""The sandbox refuses what the real services refuse, and leaves nothing behind."""

import base64
import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .program import ROOT
from .sandbox import (
    GRAPH_HOST,
    SIGN_IN_HOST,
    Answer,
    Fault,
    Resource,
    Sandbox,
    graph_error,
)
from .sandbox.services import DEVICE_CODE_GRANT

SIGN_IN = f"https://{SIGN_IN_HOST}/common"
ME = f"https://{GRAPH_HOST}/v1.0/me"
VERIFIER = "sandbox-verifier"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:-1]


def client_of(sandbox: Sandbox, *, http2: bool = False) -> httpx.Client:
    """Returns an HTTP client that trusts the sandbox and reaches it through its proxy."""
    context = ssl.create_default_context(cafile=sandbox.environment["SSL_CERT_FILE"])
    return httpx.Client(
        proxy=sandbox.address, verify=context, http2=http2, trust_env=False, timeout=30
    )


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with client_of(sandbox) as client:
        yield client


def device_code(
    sandbox: Sandbox, client: httpx.Client, scope: str = "User.Read offline_access openid profile"
) -> dict[str, Any]:
    """Starts a sign-in and returns Entra's answer."""
    form = {"client_id": sandbox.client_id, "scope": scope}
    answer = client.post(f"{SIGN_IN}/oauth2/v2.0/devicecode", data=form)
    assert answer.status_code == 200
    content: dict[str, Any] = answer.json()
    return content


def poll(sandbox: Sandbox, client: httpx.Client, code: str, **changed: str) -> httpx.Response:
    """Asks for the token of a sign-in; `changed` replaces fields of the form."""
    form = {
        "client_id": sandbox.client_id,
        "grant_type": DEVICE_CODE_GRANT,
        "device_code": code,
        **changed,
    }
    return client.post(f"{SIGN_IN}/oauth2/v2.0/token", data=form)


def sign_in(sandbox: Sandbox, client: httpx.Client) -> dict[str, Any]:
    """Signs in and returns the token answer."""
    answer = poll(sandbox, client, device_code(sandbox, client)["device_code"])
    assert answer.status_code == 200
    content: dict[str, Any] = answer.json()
    return content


def me(client: httpx.Client, token: str) -> httpx.Response:
    return client.get(ME, headers={"Authorization": f"Bearer {token}"})


def expect_entra_error(answer: httpx.Response, status: int, error: str, number: int | None) -> None:
    """Checks the whole shape of a refusal of the identity platform."""
    content = answer.json()
    assert (answer.status_code, content["error"]) == (status, error)
    assert content["error_codes"] == ([] if number is None else [number])
    if number is not None:
        assert content["error_description"].startswith(f"AADSTS{number}: ")
    for name in ("trace_id", "correlation_id", "timestamp"):
        assert content[name] in content["error_description"]
    assert content["error_uri"].startswith(f"https://{SIGN_IN_HOST}/error")
    assert answer.headers["cache-control"] == "no-store, no-cache"
    assert answer.headers["x-ms-request-id"] == content["trace_id"]


def expect_graph_error(answer: httpx.Response, status: int, code: str) -> None:
    """Checks the whole shape of a refusal of Microsoft Graph."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert error["innerError"]["request-id"] == answer.headers["request-id"]
    assert set(error["innerError"]) == {"date", "request-id", "client-request-id"}


def test_discovery_names_what_msal_needs(client: httpx.Client) -> None:
    answer = client.get(f"{SIGN_IN}/v2.0/.well-known/openid-configuration")

    assert answer.status_code == 200
    assert answer.json()["issuer"] == f"https://{SIGN_IN_HOST}/{{tenantid}}/v2.0"
    assert answer.json()["authorization_endpoint"] == f"{SIGN_IN}/oauth2/v2.0/authorize"
    assert answer.json()["token_endpoint"] == f"{SIGN_IN}/oauth2/v2.0/token"
    assert answer.json()["device_authorization_endpoint"] == f"{SIGN_IN}/oauth2/v2.0/devicecode"


@pytest.mark.parametrize(
    ("tenant", "error", "number"),
    [
        ("00000000-0000-0000-0000-000000000000", "invalid_tenant", 90002),
        ("elsewhere.example", "invalid_tenant", 90002),
        ("nonsense", "invalid_request", 900023),
    ],
)
def test_an_unknown_tenant_is_refused(
    client: httpx.Client, tenant: str, error: str, number: int
) -> None:
    answer = client.get(f"https://{SIGN_IN_HOST}/{tenant}/v2.0/.well-known/openid-configuration")

    expect_entra_error(answer, 400, error, number)


@pytest.mark.parametrize(
    ("changed", "error", "number"),
    [
        ({"client_id": "0" * 8}, "unauthorized_client", 700016),
        ({"client_id": ""}, "invalid_request", 900144),
        ({"scope": ""}, "invalid_request", 900144),
        ({"scope": "User.Read Mail.Read"}, "invalid_scope", 70011),
    ],
)
def test_a_wrong_device_code_request_is_refused(
    sandbox: Sandbox, client: httpx.Client, changed: dict[str, str], error: str, number: int
) -> None:
    form = {"client_id": sandbox.client_id, "scope": "User.Read", **changed}
    answer = client.post(f"{SIGN_IN}/oauth2/v2.0/devicecode", data=form)

    expect_entra_error(answer, 400, error, number)


def authorize(sandbox: Sandbox, client: httpx.Client, **changed: str) -> httpx.Response:
    """Asks for the page that a browser gets; `changed` replaces fields of the query."""
    query = {
        "client_id": sandbox.client_id,
        "response_type": "code",
        "response_mode": "form_post",
        "redirect_uri": "http://localhost:8400",
        "scope": "User.Read offline_access openid profile",
        "state": 'a"b',
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changed,
    }
    return client.get(f"{SIGN_IN}/oauth2/v2.0/authorize", params=query)


def redeem(sandbox: Sandbox, client: httpx.Client, **changed: str) -> httpx.Response:
    """Signs in in a browser and asks for the token; `changed` replaces fields of the form."""
    page = authorize(sandbox, client)
    (code,) = re.findall('name="code" value="(.*?)"', page.text)
    form = {
        "client_id": sandbox.client_id,
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": "http://localhost:8400",
        "code_verifier": VERIFIER,
        **changed,
    }
    return client.post(f"{SIGN_IN}/oauth2/v2.0/token", data=form)


def test_a_browser_gets_a_page_that_sends_the_code_on(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    page = authorize(sandbox, client)

    assert page.status_code == 200
    assert '<form method="POST" action="http://localhost:8400">' in page.text
    assert 'name="state" value="a&quot;b"' in page.text


@pytest.mark.parametrize(
    ("changed", "error", "number"),
    [
        ({"client_id": "0" * 8}, "unauthorized_client", 700016),
        ({"redirect_uri": "http://localhost.example"}, "invalid_request", 50011),
        ({"response_type": "token"}, "invalid_request", 900971),
        ({"response_mode": "fragment"}, "invalid_request", 900971),
        ({"code_challenge_method": "plain"}, "invalid_request", 900971),
    ],
)
def test_a_wrong_request_of_a_browser_is_refused(
    sandbox: Sandbox, client: httpx.Client, changed: dict[str, str], error: str, number: int
) -> None:
    expect_entra_error(authorize(sandbox, client, **changed), 400, error, number)


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ({"code": "another"}, 70008),
        ({"redirect_uri": "http://localhost:8401"}, 900971),
        ({"code_verifier": "another"}, 501481),
    ],
)
def test_a_code_is_redeemed_only_by_who_asked_for_it(
    sandbox: Sandbox, client: httpx.Client, changed: dict[str, str], number: int
) -> None:
    expect_entra_error(redeem(sandbox, client, **changed), 400, "invalid_grant", number)


def test_a_program_is_told_of_a_scope_that_its_app_does_not_have(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    page = authorize(sandbox, client, scope="Mail.Read")

    assert 'name="error" value="invalid_scope"' in page.text
    assert 'name="error_description" value="AADSTS70011: ' in page.text
    assert 'name="code"' not in page.text


def test_a_code_is_redeemed_once(sandbox: Sandbox, client: httpx.Client) -> None:
    answer = redeem(sandbox, client)
    assert answer.status_code == 200
    assert me(client, answer.json()["access_token"]).status_code == 200
    redeemed = sandbox.requests[-2].form["code"]

    expect_entra_error(redeem(sandbox, client, code=redeemed), 400, "invalid_grant", 70008)


def test_each_resource_needs_its_permission() -> None:
    drive = {"/me/drive": Resource("Files.Read", {"id": "1"})}
    with Sandbox(pending=0, resources=drive) as sandbox, client_of(sandbox) as client:
        headers = {"Authorization": f"Bearer {sign_in(sandbox, client)['access_token']}"}
        refused = client.get(f"{ME}/drive", headers=headers)
        code = device_code(sandbox, client, scope="Files.Read")["device_code"]
        token = poll(sandbox, client, code).json()["access_token"]
        given = client.get(f"{ME}/drive", headers={"Authorization": f"Bearer {token}"})

    expect_graph_error(refused, 403, "Authorization_RequestDenied")
    assert given.json() == {"id": "1"}


def test_another_cloud_has_its_own_hosts_and_scopes() -> None:
    with (
        Sandbox(
            sign_in_host="login.microsoftonline.us", graph_host="graph.microsoft.us"
        ) as sandbox,
        client_of(sandbox) as client,
    ):
        devicecode = "https://login.microsoftonline.us/common/oauth2/v2.0/devicecode"
        form = {"client_id": sandbox.client_id, "scope": "https://graph.microsoft.us/User.Read"}
        assert client.post(devicecode, data=form).status_code == 200
        form["scope"] = f"https://{GRAPH_HOST}/User.Read"
        expect_entra_error(client.post(devicecode, data=form), 400, "invalid_scope", 70011)
        with pytest.raises(httpx.ProxyError):
            client.get(ME)


def test_a_device_code_answer_has_the_real_shape(sandbox: Sandbox, client: httpx.Client) -> None:
    form = {"client_id": sandbox.client_id, "scope": "User.Read"}
    answer = client.post(f"{SIGN_IN}/oauth2/v2.0/devicecode", data=form)

    assert {name: type(value) for name, value in answer.json().items()} == {
        "user_code": str,
        "device_code": str,
        "verification_uri": str,
        "expires_in": int,
        "interval": int,
        "message": str,
    }
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store, no-cache"
    assert answer.headers["x-ms-request-id"]


@pytest.mark.parametrize(
    ("changed", "error", "number"),
    [
        ({"device_code": "wrong"}, "bad_verification_code", 70018),
        ({"device_code": ""}, "invalid_request", 900144),
        ({"grant_type": ""}, "invalid_request", 900144),
        ({"grant_type": "password"}, "unsupported_grant_type", 70003),
        ({"client_id": "0" * 8}, "unauthorized_client", 700016),
        ({"grant_type": "refresh_token", "refresh_token": "wrong"}, "invalid_grant", 70000),
    ],
)
def test_a_wrong_token_request_is_refused(
    sandbox: Sandbox, client: httpx.Client, changed: dict[str, str], error: str, number: int
) -> None:
    code = device_code(sandbox, client)["device_code"]

    expect_entra_error(poll(sandbox, client, code, **changed), 400, error, number)


def test_a_device_code_serves_once(sandbox: Sandbox, client: httpx.Client) -> None:
    code = device_code(sandbox, client)["device_code"]
    assert poll(sandbox, client, code).status_code == 200

    expect_entra_error(poll(sandbox, client, code), 400, "bad_verification_code", 70018)


def test_a_device_code_expires() -> None:
    with Sandbox(pending=0, expires_in=0) as sandbox, client_of(sandbox) as client:
        code = device_code(sandbox, client)["device_code"]

        expect_entra_error(poll(sandbox, client, code), 400, "expired_token", 70020)


def test_a_sign_in_is_pending_and_then_approved() -> None:
    with Sandbox(pending=1, interval=1) as sandbox, client_of(sandbox) as client:
        started = device_code(sandbox, client)
        pending = poll(sandbox, client, started["device_code"])
        time.sleep(started["interval"])  # what RFC 8628 asks of a client, not a guess
        approved = poll(sandbox, client, started["device_code"])

    expect_entra_error(pending, 400, "authorization_pending", 70016)
    assert approved.status_code == 200


def test_a_client_that_polls_too_often_must_slow_down() -> None:
    with Sandbox(pending=None, interval=5) as sandbox, client_of(sandbox) as client:
        code = device_code(sandbox, client)["device_code"]
        poll(sandbox, client, code)

        expect_entra_error(poll(sandbox, client, code), 400, "slow_down", None)


def test_a_token_answer_has_the_real_shape(sandbox: Sandbox, client: httpx.Client) -> None:
    answer = sign_in(sandbox, client)

    assert {name: type(value) for name, value in answer.items()} == {
        "token_type": str,
        "scope": str,
        "expires_in": int,
        "ext_expires_in": int,
        "access_token": str,
        "refresh_token": str,
        "id_token": str,
        "client_info": str,
    }
    assert "User.Read" in answer["scope"].split()


def test_a_refresh_token_gives_another_access_token(sandbox: Sandbox, client: httpx.Client) -> None:
    first = sign_in(sandbox, client)
    form = {
        "client_id": sandbox.client_id,
        "grant_type": "refresh_token",
        "refresh_token": first["refresh_token"],
    }
    second = client.post(f"{SIGN_IN}/oauth2/v2.0/token", data=form).json()

    assert second["access_token"] != first["access_token"]
    assert me(client, second["access_token"]).status_code == 200


def test_tokens_are_new_in_each_run() -> None:
    tokens = set()
    for _ in range(2):
        with Sandbox(pending=0) as sandbox, client_of(sandbox) as client:
            tokens.add(sign_in(sandbox, client)["access_token"])

    assert len(tokens) == 2


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer wrong"}]
)
def test_graph_refuses_a_wrong_token(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.get(ME, headers=headers)

    expect_graph_error(answer, 401, "InvalidAuthenticationToken")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="", authorization_uri=')
    assert "claims=" not in answer.headers["www-authenticate"]


def test_graph_refuses_a_token_without_the_scope(sandbox: Sandbox, client: httpx.Client) -> None:
    form = {"client_id": sandbox.client_id, "scope": "openid profile"}
    code = client.post(f"{SIGN_IN}/oauth2/v2.0/devicecode", data=form).json()["device_code"]
    token = poll(sandbox, client, code).json()["access_token"]

    expect_graph_error(me(client, token), 403, "Authorization_RequestDenied")


def test_graph_challenges_a_token_without_the_claims(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    sandbox.require_claims({"nbf": {"essential": True, "value": "1"}})
    capable = '{"access_token": {"xms_cc": {"values": ["CP1"]}%s}}'
    nbf = ', "nbf": {"essential": true, "value": "1"}'
    answers = []
    for claims in ("", capable % "", capable % nbf):
        code = device_code(sandbox, client)["device_code"]
        token = poll(sandbox, client, code, claims=claims).json()["access_token"]
        answers.append(me(client, token))

    assert [answer.status_code for answer in answers] == [401, 401, 200]
    header = 'error="insufficient_claims", claims="'
    challenged = [header in answer.headers.get("www-authenticate", "") for answer in answers]
    assert challenged == [False, True, False]


def test_graph_does_not_know_another_path(client: httpx.Client) -> None:
    expect_graph_error(client.get(f"https://{GRAPH_HOST}/v1.0/you"), 400, "BadRequest")
    assert client.get(f"https://{GRAPH_HOST}/v1.0//me").status_code == 401


def test_sign_in_speaks_http_1_1_and_graph_http_2_too(sandbox: Sandbox) -> None:
    versions = []
    for http2 in (True, False):
        with client_of(sandbox, http2=http2) as client:
            token = sign_in(sandbox, client)["access_token"]
            versions.append(me(client, token).http_version)

    assert versions == ["HTTP/2", "HTTP/1.1"]
    recorded = {(request.host, request.http_version) for request in sandbox.requests}
    assert recorded == {(SIGN_IN_HOST, "1.1"), (GRAPH_HOST, "2"), (GRAPH_HOST, "1.1")}


def test_requests_are_recorded_in_order(sandbox: Sandbox, client: httpx.Client) -> None:
    token = sign_in(sandbox, client)["access_token"]
    me(client, token)

    devicecode, poll_request, me_request = sandbox.requests
    assert (devicecode.endpoint, devicecode.host, devicecode.method) == (
        "devicecode",
        SIGN_IN_HOST,
        "POST",
    )
    assert devicecode.form["client_id"] == sandbox.client_id
    assert poll_request.form["grant_type"] == DEVICE_CODE_GRANT
    assert me_request.path == "/v1.0/me"
    assert me_request.headers["authorization"] == f"Bearer {token}"


@pytest.mark.parametrize("host", [SIGN_IN_HOST, GRAPH_HOST])
def test_a_client_that_does_not_trust_the_ca_gets_nothing(sandbox: Sandbox, host: str) -> None:
    with (
        httpx.Client(proxy=sandbox.address, trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get(f"https://{host}/")

    assert sandbox.requests == []


def test_another_host_is_refused_and_recorded(sandbox: Sandbox, client: httpx.Client) -> None:
    with pytest.raises(httpx.ProxyError, match="403"):
        client.get("https://graph.microsoft.com.evil.example/v1.0/me")
    assert client.get(f"http://{GRAPH_HOST}/v1.0/me").status_code == 403

    assert [(request.method, request.host) for request in sandbox.requests] == [
        ("CONNECT", "graph.microsoft.com.evil.example"),
        ("GET", GRAPH_HOST),
    ]


def test_an_interval_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="interval"):
        Sandbox(interval=0)


@pytest.mark.parametrize("http2", [False, True])
def test_answers_are_replaced_in_their_order(sandbox: Sandbox, http2: bool) -> None:
    busy = graph_error(429, "TooManyRequests", "Please retry again later.", {"Retry-After": "1"})
    page = Answer(200, b"<html>", {"Content-Type": "text/html"}, delay=0.01)
    sandbox.replace("me", busy, None, times=2)
    sandbox.replace("me", page)
    with client_of(sandbox, http2=http2) as client:
        token = sign_in(sandbox, client)["access_token"]
        answers = [me(client, token) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [429, 200, 429, 200, 200, 200]
    assert answers[0].headers["retry-after"] == "1"
    assert (answers[4].text, answers[4].headers["content-type"]) == ("<html>", "text/html")


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CUT_OFF, Fault.REFUSED])
def test_a_fault_breaks_one_answer(sandbox: Sandbox, fault: Fault, http2: bool) -> None:
    sandbox.replace("me", Answer(fault=fault, body=b"{"))
    with client_of(sandbox, http2=http2) as client:
        with pytest.raises(httpx.TransportError):
            me(client, "any")
        if fault is Fault.REFUSED:
            with pytest.raises(httpx.ProxyError):
                me(client, "any")

        assert me(client, "any").status_code == 401


def test_a_cut_off_answer_has_begun(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.replace("me", Answer(fault=Fault.CUT_OFF, body=b"{"))
    with (
        pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"),
        client.stream("GET", ME) as answer,
    ):
        assert answer.status_code == 200
        answer.read()


@pytest.mark.parametrize("endpoint", ["me", GRAPH_HOST])
def test_a_silent_connection_stays_open(sandbox: Sandbox, endpoint: str) -> None:
    sandbox.replace(endpoint, Answer(fault=Fault.SILENT))
    with client_of(sandbox) as client:
        with pytest.raises(httpx.TimeoutException):
            client.get(ME, timeout=2)

        assert client.get(ME).status_code == 401


@pytest.mark.parametrize("fault", [None, Fault.RESET, Fault.REFUSED, Fault.CUT_OFF])
def test_a_connect_can_be_replaced(sandbox: Sandbox, fault: Fault | None) -> None:
    sandbox.replace(GRAPH_HOST, Answer(407, fault=fault))
    with client_of(sandbox) as client:
        with pytest.raises(httpx.TransportError):
            client.get(ME)

        assert client.get(ME).status_code == 401
    assert [request.method for request in sandbox.requests] == ["CONNECT", "GET"]


def test_an_unknown_endpoint_is_not_replaced(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no endpoint 'tokn', but authorize, devicecode, "):
        sandbox.replace("tokn", Answer(500))


def test_the_environment_leads_nowhere_else(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "https_proxy",
        "NO_PROXY",
        "SSL_CERT_DIR",
        "AZURE_TENANT_ID",
        "azure_authority_host",
    ):
        monkeypatch.setenv(name, "elsewhere")
    environment = sandbox.environment

    assert "elsewhere" not in environment.values()
    assert environment["HTTPS_PROXY"] == sandbox.address
    assert environment["AZURE_CLIENT_ID"] == sandbox.client_id
    assert sandbox.address.startswith("http://127.0.0.1:")


def test_it_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = threading.active_count()
    with Sandbox() as sandbox:
        port = int(sandbox.address.rpartition(":")[2])
        # A connection of each kind is still open when the sandbox ends.
        sandbox.replace("me", Answer(fault=Fault.SILENT))
        client = client_of(sandbox)
        with pytest.raises(httpx.TimeoutException):
            client.get(ME, timeout=2)
        client.get(ME)
        lingering = socket.create_connection(("127.0.0.1", port))
        lingering.sendall(f"CONNECT {GRAPH_HOST}:443 HTTP/1.1\r\n\r\n".encode())
        assert lingering.recv(100).startswith(b"HTTP/1.1 200 ")
        assert list(tmp_path.iterdir())
    client.close()
    lingering.close()

    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.sandbox", *arguments]


def test_the_command_runs_get_user_and_says_that_it_is_a_sandbox() -> None:
    result = subprocess.run(command_line(), cwd=ROOT, check=False, capture_output=True, text=True)

    assert (result.returncode, result.stdout.count("\n")) == (0, 1)
    assert result.stdout.startswith("Hello ")
    assert result.stderr.startswith("This is a sandbox: nobody is really signed in.")
    assert result.stderr.count("\n") == 2


KILLED = 9 if sys.platform == "win32" else 128 + 9


@pytest.mark.parametrize(
    ("script", "status"), [("sys.exit(len(sys.argv))", 3), ("os.kill(os.getpid(), 9)", KILLED)]
)
def test_the_command_runs_another_script_and_ends_with_its_status(
    tmp_path: Path, script: str, status: int
) -> None:
    path = tmp_path / "script.py"
    path.write_text(f"import os, sys\n{script}\n")
    command = command_line(str(path), "--option", "value")
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    assert result.returncode == status


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to signal")
@pytest.mark.parametrize("to_group", [True, False])
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_a_signal_ends_the_command_and_all_that_it_started(
    tmp_path: Path, name: str, to_group: bool
) -> None:
    number = signal.Signals[name]
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    with subprocess.Popen(
        command_line(str(script)),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert list(folder.iterdir())
        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=10)

    assert process.returncode == 128 + number
    assert stderr.count("\n") == 1
    assert list(folder.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
