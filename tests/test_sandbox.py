"""The sandbox refuses what the real services refuse, is heard, and leaves nothing behind."""

import signal
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .project import Process, run
from .sandbox import Resource, Sandbox, entra, graph, graph_error
from .sandbox.answers import CLOSED, SILENT, Answer, seal

ME = f"https://{graph.HOST}/v1.0/me"
ELSEWHERE = "00000000-0000-0000-0000-000000000000"
SCOPE = {"scope": "User.Read openid"}
# What a correct client sends, beside its ID, to an endpoint or, after a blank, for a grant.
CORRECT: dict[str, dict[str, str]] = {
    "discovery": {},
    "instance": {},
    "devicecode": SCOPE,
    "authorize": {**SCOPE, "redirect_uri": "http://localhost:8400", "state": "1"},
    "token device": {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": seal("device code", 600, **SCOPE),
    },
    "token code": {"grant_type": "authorization_code", "code": seal("code", 600, **SCOPE)},
    "token refresh": {
        "grant_type": "refresh_token",
        "refresh_token": seal("refresh token", 600),
        "scope": f"https://{graph.HOST}/User.Read",
    },
}


def client_of(sandbox: Sandbox) -> httpx.Client:
    """Return an HTTP client, neither MSAL nor Kiota, that reaches the sandbox."""
    context = ssl.create_default_context(cafile=sandbox.environment["SSL_CERT_FILE"])
    return httpx.Client(proxy=sandbox.address, verify=context, trust_env=False)


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with client_of(sandbox) as client:
        yield client


def ask(client: httpx.Client, what: str, tenant: str = "common", **changed: str) -> httpx.Response:
    """Ask Entra as a correct client would, but for the tenant and the fields that are changed."""
    base = f"https://{entra.HOST}/{tenant}"
    if what == "discovery":
        return client.get(f"{base}/v2.0/.well-known/openid-configuration")
    if what == "instance":
        return client.get(f"{base}/discovery/instance")
    form = {"client_id": entra.CLIENT_ID, **CORRECT[what], **changed}
    if what == "authorize":
        return client.get(f"{base}/oauth2/v2.0/authorize", params=form)
    return client.post(f"{base}/oauth2/v2.0/{what.split()[0]}", data=form)


WRONG = {"client_id": ELSEWHERE}
OTHER = {"scope": "User.Read Mail.Read"}
REFUSED: list[tuple[str, str, dict[str, str], str]] = [
    ("discovery", ELSEWHERE, {}, "invalid_tenant 90002"),
    ("discovery", "nonsense", {}, "invalid_request 900023"),
    ("devicecode", "common", WRONG, "invalid_request 50059"),
    ("devicecode", "organizations", WRONG, "invalid_request 50059"),
    ("devicecode", "consumers", WRONG, "invalid_client 70002"),
    ("devicecode", entra.TENANT_ID, WRONG, "unauthorized_client 700016"),
    ("devicecode", "common", OTHER, "invalid_scope 70011"),
    ("authorize", "common", {"redirect_uri": "http://localhost.evil"}, "invalid_request 50011"),
    ("token device", "common", WRONG, "invalid_request 50059"),
    ("token device", "common", {"device_code": "another"}, "invalid_grant 7000014"),
    ("token device", "common", {"device_code": seal("code", 600)}, "invalid_grant 7000014"),
    ("token device", "common", {"device_code": seal("device code", -1)}, "expired_token 70020"),
    ("token device", "common", {"grant_type": "password"}, "unsupported_grant_type 70003"),
    ("token code", "common", {"code": seal("code", -1)}, "invalid_grant 70008"),
    ("token refresh", "common", {"refresh_token": "another"}, "invalid_grant 70008"),
    ("token refresh", "common", OTHER, "invalid_scope 70011"),
]


def test_entra_refuses(client: httpx.Client) -> None:
    statuses = {what: ask(client, what).status_code for what in CORRECT}
    assert statuses == dict.fromkeys(CORRECT, 200)
    for what, tenant, changed, refused in REFUSED:
        answer = ask(client, what, tenant, **changed)
        content = answer.json()
        (number,) = content.get("error_codes", [0])
        says = f"{answer.status_code} {content.get('error')} {number}"
        assert says == f"400 {refused}", (what, tenant, changed)
        text = content["error_description"]
        assert text.startswith(f"AADSTS{number}: ")
        assert all(content[name] in text for name in ("trace_id", "timestamp"))
        assert ("error_uri" in content) == (number != 7000014)


def test_a_poll_waits_or_is_blocked(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.pending, sandbox.device_codes = 1, False
    polls = [ask(client, "token device").json()["error_codes"] for _ in range(2)]
    assert polls == [[70016], [530035]]
    assert ask(client, "token code").json()["scope"] == "User.Read profile openid email"


def bearer(scope: str = "User.Read", lifetime: float = 60, kind: str = "access token") -> str:
    return f"Bearer {seal(kind, lifetime, scope=scope)}"


def test_graph_refuses_a_wrong_token(client: httpx.Client) -> None:
    other_kind, other_scheme = bearer(kind="refresh token"), bearer().replace("Bearer", "Basic")
    for wrong in ("", bearer()[:-1], bearer(lifetime=-1), other_kind, other_scheme):
        answer = client.get(ME, headers={"Authorization": wrong})
        assert (answer.status_code, "Token" in answer.json()["error"]["code"]) == (401, True)
    answer = client.get(ME, headers={"Authorization": bearer()})
    assert answer.json()["displayName"] == "Ada Lovelace"


def test_a_resource_needs_its_permission(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.resources["me/sendMail"] = Resource("Mail.Send", status=202)
    statuses = []
    for scope in ("Files.Read", f"https://{graph.HOST}/Mail.Send"):
        headers = {"Authorization": bearer(scope)}
        drive = client.get(f"{ME}/drive", headers=headers)
        mail = client.post(f"{ME}/sendMail", headers=headers, content=b"Dear all")
        statuses.append((drive.status_code, mail.status_code))

    assert statuses == [(200, 403), (403, 202)]
    assert mail.content == b""
    sent = sandbox.requests[-1]
    assert (sent.endpoint, sent.method, sent.body) == ("me/sendMail", "POST", b"Dear all")


def test_what_is_not_there_is_refused_and_recorded(sandbox: Sandbox, client: httpx.Client) -> None:
    for path in ("/v1.0/you", "/beta/me", "/v1.0/me%2Fdrive", "/me", "/"):
        assert client.get(f"https://{graph.HOST}{path}").status_code == 400
    assert client.get(f"https://{entra.HOST}/common/oauth2/v2.0/token").status_code == 404
    for elsewhere in ("graph.microsoft.com.evil.example", f"{graph.HOST}:444"):
        with pytest.raises(httpx.ProxyError, match="403"):
            client.get(f"https://{elsewhere}/v1.0/me")
    assert client.get(f"http://{graph.HOST}:443/v1.0/me").status_code == 403
    assert sandbox.asked() == [""] * 9  # Each of these was recorded.


def test_answers_are_replaced_in_their_order(sandbox: Sandbox, client: httpx.Client) -> None:
    busy = graph_error(429, "TooManyRequests", "Please retry again later.", {"Retry-After": "1"})
    sandbox.replace("/me", busy, None, times=2)
    sandbox.replace("me", Answer(204), SILENT, Answer(delay=2), CLOSED)
    sandbox.replace("me", busy, times=None)
    answers = [client.get(ME) for _ in range(5)]
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            client.get(ME, timeout=1)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(ME)
    answers.append(client.get(ME))

    assert [answer.status_code for answer in answers] == [429, 401, 429, 401, 204, 429]
    assert answers[0].headers["retry-after"] == "1"
    assert "content-length" not in answers[4].headers  # of the 204: RFC 9110 section 8.6


def test_what_it_cannot_play_is_told(sandbox: Sandbox, client: httpx.Client) -> None:
    for endpoint, answers in (("tokn", [Answer()]), ("token", [])):
        with pytest.raises(ValueError, match="is none of authorize, devicecode, "):
            sandbox.replace(endpoint, *answers)
    assert client.post(ME, content=iter([b"chunk"])).status_code == 411


def test_what_goes_wrong_inside_is_raised_at_the_end() -> None:
    with pytest.raises(ExceptionGroup) as raised, Sandbox() as sandbox:
        sandbox.replace("token", Answer(500), times=2)
        sandbox.replace("me", Answer(headers={"X": "\u20ac"}))  # which no header can have
        with client_of(sandbox) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                client.get(ME)
            sandbox.user = None  # type: ignore[assignment]
            assert client.get(ME).status_code == 500
    kinds = [type(error) for error in raised.value.exceptions]
    assert kinds == [UnicodeEncodeError, TypeError, AssertionError]
    with pytest.raises(KeyError, match="of the test's own"), Sandbox() as sandbox:
        sandbox.replace("token", Answer(500))
        raise KeyError("of the test's own")


def connect(sandbox: Sandbox, sent: str = "") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(sandbox.address.rpartition(":")[2])))
    connection.sendall(sent.encode())
    return connection


CONNECT = f"CONNECT {graph.HOST}:443 HTTP/1.1\r\n\r\n"


def test_a_crowd_is_answered_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("https_proxy", "ALL_PROXY", "NO_PROXY", "CURL_CA_BUNDLE", "AZURE_TENANT_ID"):
        monkeypatch.setenv(name, "elsewhere")
    threads = threading.active_count()
    with Sandbox() as sandbox:
        sandbox.replace("me", SILENT, times=None)
        with client_of(sandbox) as client, pytest.raises(httpx.ReadTimeout):
            client.get(ME, timeout=0.5)
        connect(sandbox, CONNECT).close()  # A client that hangs up is no error.
        connect(sandbox, "POST http://x/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort").close()
        crowd = [connect(sandbox, CONNECT) for _ in range(100)]
        assert {each.recv(100) for each in crowd} == {b"HTTP/1.1 200 OK\r\n\r\n"}
        assert list(tmp_path.iterdir())
        assert "elsewhere" not in sandbox.environment.values()
        assert sandbox.environment["HTTP_PROXY"] == sandbox.address
        assert sandbox.asked() == ["me"]

    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        connect(sandbox)
    for each in crowd:
        each.close()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGINT to send")
def test_ctrl_c_ends_the_command_and_its_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('started', flush=True)\nimport time; time.sleep(600)\n")

    def interrupt(process: Process) -> None:
        assert process.stdout and process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)

    # It ends with the script, which has the same pipes.
    command = ("-m", "tests.sandbox", str(script))
    result = run(None, *command, variables={"TMPDIR": str(tmp_path)}, meanwhile=interrupt)
    assert (result.returncode, result.stderr.count("\n")) == (130, 1)
    assert list(tmp_path.iterdir()) == [script]
