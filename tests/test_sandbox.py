"""The sandbox refuses what the real services refuse, and leaves nothing behind."""

import hashlib
import signal
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .project import ended, run, started
from .sandbox import Answer, Fault, Resource, Sandbox, graph_error
from .sandbox.entra import DEVICE_CODE_GRANT, TENANT_DOMAIN, TENANT_ID
from .sandbox.tokens import base64url, seal
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST

ME = f"https://{GRAPH_HOST}/v1.0/me"
ELSEWHERE = "00000000-0000-0000-0000-000000000000"
VERIFIER = {"code_verifier": "sandbox-verifier"}
CHALLENGE = base64url(hashlib.sha256(b"sandbox-verifier").digest())


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
    """Ask Entra as a correct client would, but for what is changed."""
    address = f"https://{SIGN_IN_HOST}/{tenant}"
    if way == "discovery":
        return client.get(f"{address}/v2.0/.well-known/openid-configuration")
    scope = {"scope": "User.Read openid"}
    redirect = {"redirect_uri": "http://localhost:8400"}
    begun = {**scope, **redirect, "code_challenge": CHALLENGE}
    code, token = seal("code", 60, **begun), seal("refresh token", 60, **scope)
    device_code = {"device_code": seal("device code", 60, **scope)}
    forms = {
        "devicecode": scope,
        "authorize": begun,
        "poll": {"grant_type": DEVICE_CODE_GRANT, **device_code},
        "refresh": {"grant_type": "refresh_token", "refresh_token": token},
        "redeem": {"grant_type": "authorization_code", "code": code, **redirect, **VERIFIER},
    }
    form = {"client_id": Sandbox().client_id, **forms[way], **changed}
    if way == "authorize":
        return client.get(f"{address}/oauth2/v2.0/authorize", params=form)
    endpoint = "devicecode" if way == "devicecode" else "token"
    return client.post(f"{address}/oauth2/v2.0/{endpoint}", data=form)


def me(client: httpx.Client, token: str = "any") -> httpx.Response:
    return client.get(ME, headers={"Authorization": f"Bearer {token}"})


def refusal(answer: httpx.Response) -> tuple[str, int]:
    """Check the shape of a refusal of Entra; return its error and its number."""
    content = answer.json()
    (number,) = content["error_codes"]
    assert answer.status_code == 400
    assert content["error_description"].startswith(f"AADSTS{number}: ")
    for name in ("trace_id", "correlation_id", "timestamp"):
        assert content[name] in content["error_description"]
    assert ("error_uri" in content) == (number != 7000014)
    assert answer.headers["x-ms-request-id"] == content["trace_id"]
    return content["error"], number


def expect_graph_error(answer: httpx.Response, status: int, code: str) -> None:
    """Check the whole shape of a refusal of Microsoft Graph."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert error["innerError"]["request-id"] == answer.headers["request-id"]


WRONG_CLIENT = {"client_id": ELSEWHERE}


@pytest.mark.parametrize(
    ("way", "changed", "error", "number"),
    [
        ("discovery", {"tenant": ELSEWHERE}, "invalid_tenant", 90002),
        ("discovery", {"tenant": "nonsense"}, "invalid_request", 900023),
        ("devicecode", {"tenant": ELSEWHERE}, "invalid_tenant", 90002),
        ("devicecode", WRONG_CLIENT, "invalid_request", 50059),
        ("devicecode", {**WRONG_CLIENT, "tenant": "organizations"}, "invalid_request", 50059),
        ("devicecode", {**WRONG_CLIENT, "tenant": "consumers"}, "invalid_client", 70002),
        ("devicecode", {**WRONG_CLIENT, "tenant": TENANT_ID}, "unauthorized_client", 700016),
        ("devicecode", {"client_id": ""}, "invalid_request", 900144),
        ("devicecode", {"scope": ""}, "invalid_request", 900144),
        ("devicecode", {"scope": "User.Read Mail.Read"}, "invalid_scope", 70011),
        ("authorize", WRONG_CLIENT, "invalid_request", 50059),
        ("authorize", {"redirect_uri": "http://localhost.example"}, "invalid_request", 50011),
        ("poll", WRONG_CLIENT, "invalid_request", 50059),
        ("poll", {"device_code": "another"}, "invalid_grant", 7000014),
        ("poll", {"device_code": seal("device code", -1)}, "expired_token", 70020),
        ("poll", {"device_code": ""}, "invalid_request", 900144),
        ("poll", {"grant_type": ""}, "invalid_request", 900144),
        ("poll", {"grant_type": "password"}, "unsupported_grant_type", 70003),
        ("refresh", {"refresh_token": "another"}, "invalid_grant", 70000),
        ("refresh", {"refresh_token": seal("access token", 60)}, "invalid_grant", 70000),
        ("refresh", {"refresh_token": seal("refresh token", -1)}, "invalid_grant", 70000),
        ("refresh", {"scope": "Mail.Read"}, "invalid_scope", 70011),
        ("redeem", {"code": "another"}, "invalid_grant", 70008),
        ("redeem", {"code": seal("code", -1)}, "invalid_grant", 70008),
        ("redeem", {"redirect_uri": "http://localhost:8401"}, "invalid_grant", 70008),
        ("redeem", {"code_verifier": "another"}, "invalid_grant", 501481),
    ],
)
def test_entra_refuses(
    client: httpx.Client, way: str, changed: dict[str, str], error: str, number: int
) -> None:
    assert ask(client, way).status_code == 200
    assert refusal(ask(client, way, **changed)) == (error, number)


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
    assert ask(client, way).json()["scope"] == "User.Read profile openid email"
    again = ask(client, way, **sandbox.requests[-1].form)

    assert refusal(again) == ("invalid_grant", number)


def test_a_poll_waits_or_is_blocked(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.pending, sandbox.device_codes = 1, False
    code = seal("device code", 60, scope="User.Read")
    polls = [refusal(ask(client, "poll", device_code=code)) for _ in range(2)]

    assert polls == [("authorization_pending", 70016), ("invalid_grant", 530035)]
    assert ask(client, "redeem").status_code == 200


def access_token(lifetime: float = 60, scope: str = "User.Read", **claims: Any) -> str:
    return seal("access token", lifetime, scope=scope, claims=claims)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"Basic {access_token()}",
        f"Bearer {access_token()[:-1]}",
        f"Bearer {access_token(-1)}",
        f"Bearer {seal('refresh token', 60, scope='User.Read', claims={})}",
    ],
)
def test_graph_refuses_a_wrong_token(client: httpx.Client, value: str) -> None:
    answer = client.get(ME, headers={"Authorization": value})

    expect_graph_error(answer, 401, "InvalidAuthenticationToken")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="", authorization_uri=')
    assert "claims=" not in answer.headers["www-authenticate"]


def test_a_resource_needs_its_permission_and_answers_any_method() -> None:
    resources = {
        "/me/drive": Resource("Files.Read", {"id": "1"}),
        "me/sendMail": Resource("Mail.Send", status=202),
    }
    with Sandbox(pending=0, resources=resources) as sandbox, client_of(sandbox) as client:
        statuses = []
        for scope in ("User.Read", "openid", "Files.Read", "Files.Read Mail.Send"):
            headers = {"Authorization": f"Bearer {access_token(scope=scope)}"}
            drive = client.get(f"{ME}/drive", headers=headers)
            mail = client.post(f"{ME}/sendMail", headers=headers, content=b"Dear all")
            statuses.append((drive.status_code, mail.status_code))

    assert statuses == [(403, 403), (403, 403), (200, 403), (200, 202)]
    assert (drive.json(), mail.content) == ({"id": "1"}, b"")
    sent = sandbox.requests[-1]
    assert (sent.endpoint, sent.method, sent.body) == ("me/sendMail", "POST", b"Dear all")


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


@pytest.mark.parametrize("host", [SIGN_IN_HOST, GRAPH_HOST])
def test_another_ca_is_not_trusted(sandbox: Sandbox, host: str) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://{host}/", proxy=sandbox.address, trust_env=False)

    assert sandbox.requests == []


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
    assert {request.http_version for request in sandbox.requests} == {"2" if http2 else "1.1"}


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "answer", "raised"),
    [
        ("me", Answer(fault=Fault.RESET), httpx.TransportError),
        ("me", Answer(200, b"{", fault=Fault.CUT_OFF), httpx.RemoteProtocolError),
        ("me", Answer(fault=Fault.SILENT), httpx.ReadTimeout),
        (GRAPH_HOST, Answer(fault=Fault.SILENT), httpx.ConnectTimeout),
        (GRAPH_HOST, Answer(delay=2), httpx.ReadTimeout),
        (GRAPH_HOST, Answer(502), httpx.ProxyError),
    ],
)
def test_a_fault_breaks_one_answer(
    sandbox: Sandbox, endpoint: str, answer: Answer, raised: type[Exception], http2: bool
) -> None:
    sandbox.replace(endpoint, answer)
    with client_of(sandbox, http2=http2) as client:
        with pytest.raises(raised):
            client.get(ME, timeout=1 if answer.delay or answer.fault is Fault.SILENT else 30)

        assert me(client).status_code == 401
    assert [request.endpoint for request in sandbox.requests] == [endpoint, "me"]


@pytest.mark.parametrize("http2", [False, True])
def test_a_host_ends_a_connection_after_some_calls(http2: bool) -> None:
    ended = 0
    with Sandbox(calls=3) as sandbox, client_of(sandbox, http2=http2) as client:
        for _ in range(12):
            try:
                assert me(client).status_code == 401
            except httpx.RemoteProtocolError as error:
                assert "ConnectionTerminated" in str(error)
                ended += 1

    assert bool(ended) == http2, "only over HTTP/2, httpx loses calls"


def test_nothing_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "NO_PROXY", "SSL_CERT_DIR", "azure_authority_host"):
        monkeypatch.setenv(name, "elsewhere")

    assert "elsewhere" not in sandbox.environment.values()


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


def test_nothing_goes_astray_under_load(sandbox: Sandbox) -> None:
    everywhere = threading.Barrier(50)

    def call(number: int) -> list[int]:
        with client_of(sandbox, http2=number % 2 == 0) as client:
            first = [ask(client, "discovery").status_code, me(client).status_code]
            everywhere.wait()
            return [*first, ask(client, "discovery").status_code, me(client).status_code]

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(call, range(50)))

    assert statuses == [[200, 401, 200, 401]] * 50
    assert len(sandbox.requests) == 200


def in_sandbox(script: Path, code: str, *options: str) -> tuple[str, ...]:
    """Write a script and return the command that runs it in the sandbox, without `python`."""
    script.write_text(code)
    return ("-m", "tests.sandbox", *options, str(script))


def test_the_command_ends_with_the_status_of_its_script(tmp_path: Path) -> None:
    code = "import sys; sys.exit(len(sys.argv))"
    command = in_sandbox(tmp_path / "script.py", code, "--no-device-codes")
    result = run(None, *command, "value")

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "is approved by itself" in result.stderr


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
