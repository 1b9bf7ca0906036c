"""The sandbox refuses what the real services refuse, is heard, and leaves nothing behind."""

import hashlib
import http.client
import signal
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .project import ended, expect, run, started
from .sandbox import Answer, Fault, Resource, Sandbox, graph, graph_error
from .sandbox.entra import DEVICE_CODE_GRANT, TENANT_DOMAIN, TENANT_ID
from .sandbox.tokens import PREFIX, base64url, seal
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST, USER

ME = f"https://{GRAPH_HOST}/v1.0/me"
ELSEWHERE = "00000000-0000-0000-0000-000000000000"
SCOPE = {"scope": "User.Read openid"}
REDIRECT = {"redirect_uri": "http://localhost:8400"}
CHALLENGE = base64url(hashlib.sha256(b"sandbox-verifier").digest())
BEGUN = {**SCOPE, **REDIRECT, "code_challenge": CHALLENGE}
TOKEN = "oauth2/v2.0/token"
POLL = {"grant_type": DEVICE_CODE_GRANT}
REFRESH = {"grant_type": "refresh_token"}
REDEEM = {"grant_type": "authorization_code", **REDIRECT, "code_verifier": "sandbox-verifier"}
WAYS: dict[str, tuple[str, str, Callable[[], dict[str, str]]]] = {
    "discovery": ("GET", "v2.0/.well-known/openid-configuration", dict),
    "devicecode": ("POST", "oauth2/v2.0/devicecode", lambda: SCOPE),
    "authorize": ("GET", "oauth2/v2.0/authorize", lambda: BEGUN),
    "poll": ("POST", TOKEN, lambda: {**POLL, "device_code": seal("device code", 60, **SCOPE)}),
    "refresh": ("POST", TOKEN, lambda: {**REFRESH, "refresh_token": refresh_token(60)}),
    "redeem": ("POST", TOKEN, lambda: {**REDEEM, "code": seal("code", 60, **BEGUN)}),
}
"""The requests to Entra: method, path, and the fields beside the client ID, if all is correct."""


def refresh_token(lifetime: float) -> str:
    return seal("refresh token", lifetime, **SCOPE)


def client_of(sandbox: Sandbox, *, http2: bool = False) -> httpx.Client:
    """Return an HTTP client, neither MSAL nor Kiota, that reaches the sandbox."""
    context = ssl.create_default_context(cafile=sandbox.environment["SSL_CERT_FILE"])
    return httpx.Client(
        proxy=sandbox.address, verify=context, http2=http2, trust_env=False, timeout=30
    )


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with client_of(sandbox) as client:
        yield client


def ask(client: httpx.Client, way: str, tenant: str = "common", **changed: str) -> httpx.Response:
    """Ask Entra as a correct client would, but for the tenant and the fields that are changed."""
    method, path, fields = WAYS[way]
    form = {"client_id": Sandbox.client_id, **fields(), **changed}
    address = f"https://{SIGN_IN_HOST}/{tenant}/{path}"
    return client.get(address, params=form) if method == "GET" else client.post(address, data=form)


def me(client: httpx.Client, token: str = "any") -> httpx.Response:
    return client.get(ME, headers={"Authorization": f"Bearer {token}"})


def refusal(answer: httpx.Response) -> str:
    """Check the shape of a refusal of Entra; return its error and its number."""
    assert answer.status_code == 400, answer.text
    content = answer.json()
    (number,) = content["error_codes"]
    assert content["error_description"].startswith(f"AADSTS{number}: ")
    for name in ("trace_id", "correlation_id", "timestamp"):
        assert content[name] in content["error_description"]
    assert ("error_uri" in content) == (number != 7000014)
    assert answer.headers["x-ms-request-id"] == content["trace_id"]
    return f"{content['error']} {number}"


def expect_graph_error(answer: httpx.Response, status: int, code: str) -> None:
    """Check the whole shape of a refusal of Microsoft Graph."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["innerError"]["request-id"] == answer.headers["request-id"]


WRONG_CLIENT = {"client_id": ELSEWHERE}


@pytest.mark.parametrize(
    ("way", "tenant", "changed", "refused"),
    [
        ("discovery", ELSEWHERE, {}, "invalid_tenant 90002"),
        ("discovery", "nonsense", {}, "invalid_request 900023"),
        ("devicecode", ELSEWHERE, {}, "invalid_tenant 90002"),
        ("devicecode", "common", WRONG_CLIENT, "invalid_request 50059"),
        ("devicecode", "organizations", WRONG_CLIENT, "invalid_request 50059"),
        ("devicecode", "consumers", WRONG_CLIENT, "invalid_client 70002"),
        ("devicecode", TENANT_ID, WRONG_CLIENT, "unauthorized_client 700016"),
        ("authorize", "common", WRONG_CLIENT, "invalid_request 50059"),
        ("poll", "common", WRONG_CLIENT, "invalid_request 50059"),
        ("devicecode", "common", {"client_id": ""}, "invalid_request 900144"),
        ("devicecode", "common", {"scope": ""}, "invalid_request 900144"),
        ("devicecode", "common", {"scope": "User.Read Mail.Read"}, "invalid_scope 70011"),
        ("authorize", "common", {"redirect_uri": "http://localhost.evil"}, "invalid_request 50011"),
        ("poll", "common", {"device_code": "another"}, "invalid_grant 7000014"),
        ("poll", "common", {"device_code": seal("device code", -1)}, "expired_token 70020"),
        ("poll", "common", {"device_code": ""}, "invalid_request 900144"),
        ("poll", "common", {"grant_type": ""}, "invalid_request 900144"),
        ("poll", "common", {"grant_type": "password"}, "unsupported_grant_type 70003"),
        ("refresh", "common", {"refresh_token": "another"}, "invalid_grant 70000"),
        ("refresh", "common", {"refresh_token": seal("access token", 60)}, "invalid_grant 70000"),
        ("refresh", "common", {"refresh_token": refresh_token(-1)}, "invalid_grant 70000"),
        ("refresh", "common", {"scope": "Mail.Read"}, "invalid_scope 70011"),
        ("redeem", "common", {"code": "another"}, "invalid_grant 70008"),
        ("redeem", "common", {"code": seal("code", -1)}, "invalid_grant 70008"),
        ("redeem", "common", {"redirect_uri": "http://localhost:8401"}, "invalid_grant 70008"),
        ("redeem", "common", {"code_verifier": "another"}, "invalid_grant 501481"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_entra_refuses(
    client: httpx.Client, way: str, tenant: str, changed: dict[str, str], refused: str
) -> None:
    assert ask(client, way).status_code == 200
    assert refusal(ask(client, way, tenant, **changed)) == refused


def test_a_tenant_has_its_issuer_and_its_page(client: httpx.Client) -> None:
    personal = "9188040d-6c67-4c5b-b112-36a304b66dad"
    issuers = {"common": "{tenantid}", "consumers": personal, TENANT_DOMAIN: TENANT_ID}
    for tenant, issuer in issuers.items():
        named = ask(client, "discovery", tenant).json()["issuer"]
        assert named == f"https://{SIGN_IN_HOST}/{issuer}/v2.0"
    page = ask(client, "devicecode", "consumers").json()["verification_uri"]
    assert page == "https://www.microsoft.com/link"


@pytest.mark.parametrize(("way", "number"), [("poll", 7000014), ("redeem", 70008)])
def test_a_code_serves_once(sandbox: Sandbox, client: httpx.Client, way: str, number: int) -> None:
    tokens = ask(client, way).json()
    assert tokens["scope"] == "User.Read profile openid email"
    assert tokens["access_token"].startswith(PREFIX), "no test would find it in an output"
    again = ask(client, way, **sandbox.requests[-1].form)

    assert refusal(again) == f"invalid_grant {number}"


def test_a_poll_waits_or_is_blocked(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.pending, sandbox.device_codes = 1, False
    code = seal("device code", 60, scope="User.Read")
    polls = [refusal(ask(client, "poll", device_code=code)) for _ in range(2)]

    assert polls == ["authorization_pending 70016", "invalid_grant 530035"]
    assert ask(client, "redeem").status_code == 200
    sandbox.pending = None
    assert refusal(ask(client, "poll")) == "authorization_pending 70016"


def access_token(lifetime: float = 60, scope: str = "User.Read", **claims: Any) -> str:
    return seal("access token", lifetime, scope=scope, claims=claims)


WRONG_TOKENS = {
    "none": "",
    "another scheme": f"Basic {access_token()}",
    "a wrong signature": f"Bearer {access_token()[:-1]}",
    "an expired one": f"Bearer {access_token(-1)}",
    "a refresh token": f"Bearer {seal('refresh token', 60, scope='User.Read', claims={})}",
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_graph_refuses_a_wrong_token(client: httpx.Client, name: str) -> None:
    answer = client.get(ME, headers={"Authorization": WRONG_TOKENS[name]})

    expect_graph_error(answer, 401, "InvalidAuthenticationToken")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="", authorization_uri=')
    assert "claims=" not in answer.headers["www-authenticate"]


def test_a_resource_needs_its_permission_and_answers_any_method(
    sandbox: Sandbox, client: httpx.Client
) -> None:
    sandbox.resources["me/sendMail"] = Resource("Mail.Send", status=202)
    statuses = []
    for scope in ("User.Read", "openid", "Files.Read", "Files.Read Mail.Send"):
        headers = {"Authorization": f"Bearer {access_token(scope=scope)}"}
        drive = client.get(f"{ME}/drive", headers=headers)
        mail = client.post(f"{ME}/sendMail", headers=headers, content=b"Dear all")
        statuses.append((drive.status_code, mail.status_code))

    assert statuses == [(403, 403), (403, 403), (200, 403), (200, 202)]
    assert (drive.json()["driveType"], mail.content) == ("business", b"")
    sent = sandbox.requests[-1]
    assert (sent.endpoint, sent.method, sent.body) == ("me/sendMail", "POST", b"Dear all")


def test_the_user_can_change_while_it_runs(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.user = {**USER, "displayName": "Grace"}

    answer = me(client, access_token())
    assert (answer.json()["displayName"], answer.headers["odata-version"]) == ("Grace", "4.0")


def test_graph_wants_claims(sandbox: Sandbox, client: httpx.Client) -> None:
    nbf = {"nbf": {"essential": True, "value": "1"}}
    sandbox.required_claims = nbf
    capable = {"xms_cc": {"values": ["CP1"]}}
    answers = [me(client, access_token(**claims)) for claims in ({}, capable, capable | nbf)]

    assert [answer.status_code for answer in answers] == [401, 401, 200]
    header = 'error="insufficient_claims", claims="'
    challenged = [header in answer.headers.get("www-authenticate", "") for answer in answers]
    assert challenged == [False, True, False]


def test_another_path_is_unknown(client: httpx.Client) -> None:
    expect_graph_error(client.get(f"https://{GRAPH_HOST}/v1.0/you"), 400, "BadRequest")
    expect_graph_error(client.get(f"https://{GRAPH_HOST}/beta/me"), 400, "BadRequest")
    assert client.get(f"https://{GRAPH_HOST}/v1.0//me").status_code == 401
    assert client.get(f"https://{SIGN_IN_HOST}/common/oauth2/v2.0/token").status_code == 404


def test_another_host_is_refused_and_recorded(sandbox: Sandbox, client: httpx.Client) -> None:
    for elsewhere in ("graph.microsoft.com.evil.example", f"{GRAPH_HOST}:444"):
        with pytest.raises(httpx.ProxyError, match="403"):
            client.get(f"https://{elsewhere}/v1.0/me")
    assert client.get(f"http://{GRAPH_HOST}:443/v1.0/me").status_code == 403

    assert [(request.endpoint, request.method, request.host) for request in sandbox.requests] == [
        ("", "CONNECT", "graph.microsoft.com.evil.example"),
        ("", "CONNECT", GRAPH_HOST),
        ("", "GET", GRAPH_HOST),
    ]


def test_what_it_cannot_play_is_told(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="interval"):
        Sandbox(interval=0)
    with pytest.raises(ValueError, match="no endpoint 'tokn', but authorize, devicecode, "):
        sandbox.replace("tokn", Answer(500))
    with pytest.raises(ValueError, match="no answer"):
        sandbox.replace("token", times=None)


@pytest.mark.parametrize("http2", [False, True])
def test_answers_are_replaced_in_their_order(sandbox: Sandbox, http2: bool) -> None:
    busy = graph_error(429, "TooManyRequests", "Please retry again later.", {"Retry-After": "1"})
    sandbox.replace("/me", busy, None, times=2)
    sandbox.replace("me", Answer(200, b"<html>", {"Content-Type": "text/html"}, delay=0.01))
    with client_of(sandbox, http2=http2) as client:
        answers = [me(client) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [429, 401, 429, 401, 200, 401]
    assert answers[0].headers["retry-after"] == "1"
    assert (answers[4].text, answers[4].headers["content-type"]) == ("<html>", "text/html")
    assert {request.http_version for request in sandbox.requests} == {"2" if http2 else "1.1"}


@pytest.mark.parametrize("answer", [Answer(delay=2), Answer(fault=Fault.SILENT)])
@pytest.mark.parametrize("endpoint", [GRAPH_HOST, "me"])
def test_an_answer_can_be_late(
    sandbox: Sandbox, client: httpx.Client, endpoint: str, answer: Answer
) -> None:
    sandbox.replace(endpoint, answer)
    with pytest.raises(httpx.TimeoutException):
        client.get(ME, timeout=1)


def test_what_goes_wrong_inside_is_raised_at_the_end() -> None:
    unheard = Answer(200, headers={"X": "\u20ac"})  # which no header can have
    with pytest.raises(UnicodeEncodeError), Sandbox() as sandbox, client_of(sandbox) as client:
        sandbox.replace("me", unheard)
        assert me(client).status_code == 500
    with pytest.raises(ValueError, match="999"), Sandbox() as sandbox, client_of(sandbox) as client:
        sandbox.replace(GRAPH_HOST, Answer(999))
        with pytest.raises(httpx.ProxyError, match="500"):
            me(client)
    with pytest.raises(ExceptionGroup), Sandbox() as sandbox, client_of(sandbox) as client:
        sandbox.replace("me", unheard, times=2)
        assert [me(client).status_code for _ in range(2)] == [500, 500]


def test_an_answer_that_nobody_asks_for_is_an_error() -> None:
    with Sandbox() as sandbox:
        sandbox.replace("token", Answer(500), times=None)
    with pytest.raises(AssertionError, match="nobody asked for: {'token': 2}"), sandbox:
        sandbox.replace("token", Answer(500), times=2)
    with pytest.raises(KeyError, match="of the test's own"), sandbox:
        raise KeyError("of the test's own")


def test_a_client_that_hangs_up_is_no_error() -> None:
    with Sandbox() as sandbox, client_of(sandbox) as client:
        socket.create_connection(("127.0.0.1", int(sandbox.address.rpartition(":")[2]))).close()
        assert me(client).status_code == 401


BROKEN = """
import runpy, tests.sandbox.entra
tests.sandbox.entra.ISSUERS = None
runpy.run_module("tests.sandbox", run_name="__main__", alter_sys=True)
"""


def test_the_command_says_that_the_sandbox_has_failed() -> None:
    result = run(None, "-c", BROKEN)

    expect(result, 70, "")
    assert "TypeError: " in result.stderr
    assert result.stderr.endswith("This is an error in the sandbox, not in get_user.py\n")


def test_nothing_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "NO_PROXY", "SSL_CERT_DIR", "azure_authority_host"):
        monkeypatch.setenv(name, "elsewhere")

    assert "elsewhere" not in sandbox.environment.values()
    assert sandbox.environment["HTTP_PROXY"] == sandbox.environment["HTTPS_PROXY"]


def test_it_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = threading.active_count()
    with Sandbox() as sandbox:
        # A connection of each kind is still open when the sandbox ends.
        port = int(sandbox.address.rpartition(":")[2])
        idle, silent = client_of(sandbox), client_of(sandbox, http2=True)
        me(idle)
        sandbox.replace("me", Answer(fault=Fault.SILENT))
        with pytest.raises(httpx.ReadTimeout):
            silent.get(ME, timeout=0.5)
        beginning = socket.create_connection(("127.0.0.1", port))
        beginning.sendall(f"CONNECT {GRAPH_HOST}:443 HTTP/1.1\r\n\r\n".encode())
        assert beginning.recv(100).startswith(b"HTTP/1.1 200 ")
        assert list(tmp_path.iterdir())
    for connection in (idle, silent, beginning):
        connection.close()

    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_connection_outlives_the_pause_between_two_polls(sandbox: Sandbox) -> None:
    proxy, _, port = sandbox.address.removeprefix("http://").partition(":")
    context = ssl.create_default_context(cafile=sandbox.environment["SSL_CERT_FILE"])
    connection = http.client.HTTPSConnection(proxy, int(port), context=context)
    connection.set_tunnel(SIGN_IN_HOST, 443)
    connection.request("GET", "/")
    connection.getresponse().read()
    assert connection.sock is not None
    connection.sock.settimeout(Sandbox.interval + 1)
    with pytest.raises(TimeoutError):
        connection.sock.recv(1)
    connection.close()


def test_a_crowd_is_let_in_even_while_it_is_busy(
    sandbox: Sandbox, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def answer(*_: object) -> Answer:
        busy.set()
        go_on.wait()
        return Answer(204)

    monkeypatch.setattr(graph, "answer", answer)
    port = int(sandbox.address.rpartition(":")[2])
    with ThreadPoolExecutor() as pool:
        call = pool.submit(me, client)
        busy.wait()
        try:
            crowd = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(100)]
        finally:
            go_on.set()
    for visitor in crowd:
        visitor.sendall(f"CONNECT {GRAPH_HOST}:443 HTTP/1.1\r\n\r\n".encode())
    answers = {visitor.recv(100)[:12] for visitor in crowd}
    for visitor in crowd:
        visitor.close()

    assert (call.result().status_code, answers) == (204, {b"HTTP/1.1 200"})


def in_sandbox(script: Path, code: str, *options: str) -> tuple[str, ...]:
    """Write a script and return the command that runs it in the sandbox, without `python`."""
    script.write_text(code)
    return ("-m", "tests.sandbox", *options, str(script))


def test_the_command_ends_with_the_status_of_its_script(tmp_path: Path) -> None:
    command = in_sandbox(tmp_path / "script.py", "import sys; sys.exit(len(sys.argv))")
    result = run(None, *command, "value")

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_its_script(tmp_path: Path, number: signal.Signals) -> None:
    code = "import time\nprint('started', flush=True)\ntime.sleep(600)\n"
    command = in_sandbox(tmp_path / "script.py", code)
    with started(None, *command, variables={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        # It ends with the script, which has the same pipes.
        result = ended(process, within=10)

    assert (result.returncode, result.stderr.count("\n")) == (128 + number, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
