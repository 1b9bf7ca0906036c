"""What goes wrong, and what the user must then see: a row for each kind of failure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from .project import GREETING, PROMPT, Variables, expect, run
from .sandbox import Answer, Fault, Sandbox, entra_error, graph_error, json_answer
from .sandbox.tokens import PREFIX
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST

PAGE = b"<html>\n<script>alert(1)</script></html>"
HTML = {"Content-Type": "text/html"}
AS_JSON = Answer(200, PAGE, {"Content-Type": "application/json"})
SILENT = Answer(fault=Fault.SILENT)
RESET = Answer(fault=Fault.RESET)
CUT_OFF = Answer(fault=Fault.CUT_OFF)
UNREACHED = Answer(502)  # what a proxy says that cannot connect


@dataclass(frozen=True)
class Case:
    """What goes wrong, and what the user then reads after the prompt.

    The message is one line, with `hint` two. "..." at the end of each stands for any text.
    `answers` replace those of the endpoints, and `variables` change the environment.
    """

    says: str
    hint: str = ""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)


def sign_in(endpoint: str, answer: Answer, says: str, hint: str = "") -> Case:
    return Case(f"Sign-in failed: {says}", hint, {endpoint: answer})


def graph(endpoint: str, answer: Answer, says: str, hint: str = "") -> Case:
    return Case(f"The call to Microsoft Graph failed: {says}", hint, {endpoint: answer})


def machine(says: str, hint: str = "", **variables: str | None) -> Case:
    return Case(says, hint, variables=variables)


def refused(number: int, hint: str, endpoint: str = "token") -> Case:
    """Return the case of a refusal by Entra, whose description is shown whole."""
    # No other number that stands in the text may lead to a hint.
    answer = entra_error(number, "error", "Not AADSTS50194, and not AADSTS53003.")
    step = "" if endpoint == "token" else "Couldn't begin authentication: "
    return sign_in(endpoint, answer, step + json.loads(answer.body)["error_description"], hint)


def begin(number: int, hint: str) -> Case:
    return refused(number, hint, "devicecode")


def denied(description: str) -> Answer:
    return json_answer({"error": "authorization_declined", "error_description": description}, 400)


UNKNOWN_APP = "Check the client ID. If the app is for one tenant only, set AZURE_TENANT_ID..."
NOT_PUBLIC = "In the app registration, set Authentication > Allow public client flows to..."
BLOCKED = "Device codes may be blocked. Sign in with a browser: in main(), use..."
NETWORK = "Check the network. If it needs a proxy, set HTTPS_PROXY to http://HOST:PORT or..."
CLOCK = "Check the clock. If a proxy inspects TLS, set REQUESTS_CA_BUNDLE (for the sign-in)..."
TENANT = "Check AZURE_TENANT_ID. If it is right, check the network and HTTPS_PROXY."
ROLE = "Add the permission that the call needs to SCOPES. The user may need a role."
BAD_URL = "A URL is malformed. Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."
BAD_CA = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local..."
UNREADABLE = "The server returned an unexpected status code and the error body could not be..."
EXPIRED = graph_error(401, "InvalidAuthenticationToken", "It has expired.")
BUSY = graph_error(429, "TooManyRequests", "Retry later.", {"Retry-After": "1"})
MISLEADING = graph_error(400, "ReadOnly", "Failed to parse: proxyAddresses. Timed out.")

CASES = {
    # Entra refuses.
    "AADSTS50059": begin(50059, UNKNOWN_APP),
    "AADSTS700016": begin(700016, UNKNOWN_APP),
    "AADSTS50194": begin(50194, "Set AZURE_TENANT_ID to the Directory (tenant) ID of the app..."),
    "AADSTS9002331": begin(9002331, "Set AZURE_TENANT_ID to the word consumers."),
    "AADSTS70002": begin(70002, NOT_PUBLIC),
    "AADSTS7000218": refused(7000218, NOT_PUBLIC),
    "AADSTS53003": refused(53003, BLOCKED),
    "AADSTS530035": refused(530035, BLOCKED),
    "AADSTS65001": refused(65001, "Run it again and accept the permissions, or ask an..."),
    "any other number": begin(501941, "Look the number up at https://login.microsoftonline.com..."),
    "declined": sign_in("token", denied("Denied."), "Denied."),
    "control characters": sign_in("token", denied("\r\na\x1b\x9bb\u2028\u202ec"), "a  b  c"),
    # A page comes instead of the answer.
    "discovery page": sign_in("discovery", Answer(302, PAGE, HTML), "Unable to complete OIDC"),
    "devicecode page": sign_in("devicecode", Answer(200, PAGE, HTML), "Expecting value: line 1..."),
    "token page": sign_in("token", Answer(200, PAGE, HTML), "Expecting value: line 1..."),
    "JSON page": sign_in("token", AS_JSON, "JSON is invalid: Expecting value: line 1...", NETWORK),
    "Graph page": graph("me", Answer(500, PAGE, HTML), UNREADABLE),
    # Microsoft Graph refuses.
    "401": graph("me", EXPIRED, "InvalidAuthenticationToken: It has expired. (status 401)"),
    "403": graph("me", graph_error(403, "Forbidden", "No."), "Forbidden: No. (status 403)", ROLE),
    "429": graph("me", BUSY, "TooManyRequests: Retry later. (status 429)"),
    "words of the network": graph(
        "me", MISLEADING, "ReadOnly: Failed to parse: proxyAddresses. Timed out. (status 400)"
    ),
    "no code": graph("me", json_answer({"error": {"message": "No."}}, 404), "No. (status 404)"),
    "no error": graph("me", json_answer({}, 404), "ODataError (status 404)"),
    # Nobody answers.
    "reset token": sign_in("token", RESET, "('Unable to connect to proxy', ...", NETWORK),
    "reset Graph": graph("me", RESET, "ReadError", NETWORK),
    "cut off discovery": sign_in("discovery", CUT_OFF, "('Connection broken: ...", NETWORK),
    "cut off Graph": graph("me", CUT_OFF, "Server disconnected", NETWORK),
    "Graph behind the proxy": graph(GRAPH_HOST, UNREACHED, "502 Bad Gateway", NETWORK),
    # This machine.
    "no such tenant": machine(
        "Sign-in failed: Unable to get authority...", TENANT, AZURE_TENANT_ID="elsewhere.test"
    ),
    "no proxy": machine("Sign-in failed: ...", NETWORK, HTTPS_PROXY="http://127.0.0.1:9"),
    "password with a slash": machine(BAD_URL, HTTPS_PROXY=f"http://bob:{PREFIX}/2@127.0.0.1:9"),
    "password with a backslash": machine(
        "Sign-in failed: ...", NETWORK, HTTPS_PROXY=rf"http://bob:{PREFIX}\2@127.0.0.1:9"
    ),
    "IPv6 range": machine(BAD_URL, NO_PROXY="fd07:b51a:cc66:f0::/64"),
    "CA of Entra": machine(f"Sign-in failed: {BAD_CA}", CLOCK, REQUESTS_CA_BUNDLE=None),
    "CA of Graph": machine(
        f"The call to Microsoft Graph failed: {BAD_CA}", CLOCK, SSL_CERT_FILE=None
    ),
}


def expect_explained(stderr: str, says: str, hint: str) -> None:
    """Check that after the prompt comes what `Case` describes, and nothing else."""
    lines = PROMPT.sub("", stderr, count=1).splitlines()
    expected = [says, hint] if hint else [says]
    assert len(lines) == len(expected), stderr
    for line, text in zip(lines, expected, strict=True):
        if text.endswith("..."):
            assert line.startswith(text.removesuffix("..."))
        else:
            assert line == text
        assert line.isprintable()
        assert not re.search("<html|<script|[{]", line)


@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_explained(sandbox: Sandbox, name: str) -> None:
    case = CASES[name]
    for endpoint, answer in case.answers.items():
        sandbox.replace(endpoint, answer, times=None)
    result = run(sandbox, variables=case.variables)

    expect(result, 1, "")
    expect_explained(result.stderr, case.says, case.hint)


def test_a_user_who_does_not_sign_in_in_time_is_told(sandbox: Sandbox) -> None:
    sandbox.expires_in = 1
    sandbox.replace("token", entra_error(70016, "authorization_pending", "Wait."), times=None)
    result = run(sandbox)

    expect(result, 1, "")
    says = "Sign-in failed: Timed out waiting for user to authenticate"
    hint = "Run it again. If the browser showed a number, search get_user.py for it."
    expect_explained(result.stderr, says, hint)


@pytest.mark.parametrize("answer", [Answer(204), json_answer({"id": 5}), json_answer([])])
def test_no_user_is_not_greeted(sandbox: Sandbox, answer: Answer) -> None:
    sandbox.replace("me", answer)
    result = run(sandbox)

    expect(result, 1, "")
    expect_explained(result.stderr, "Microsoft Graph answered, but named no user.", "")


UNFORESEEN = {
    "page for a user": Case(
        "Exception: Content type text/html ", "", {"me": Answer(200, PAGE, HTML)}
    ),
    "impossible tenant": machine("ValueError: Invalid tenant ID", AZURE_TENANT_ID="contoso/x"),
    "missing CA file": machine("FileNotFoundError: ", SSL_CERT_FILE="nowhere.pem"),
    "missing package": machine(
        "ImportError: Using SOCKS proxy", HTTPS_PROXY=f"socks5://bob:{PREFIX}@127.0.0.1:9"
    ),
}
"""What keeps its traceback, whose last line begins with these words."""


@pytest.mark.parametrize("name", UNFORESEEN)
def test_what_nobody_foresees_keeps_its_traceback(sandbox: Sandbox, name: str) -> None:
    case = UNFORESEEN[name]
    for endpoint, answer in case.answers.items():
        sandbox.replace(endpoint, answer)
    result = run(sandbox, variables=case.variables)
    traceback = PROMPT.sub("", result.stderr)

    expect(result, 1, "")
    assert traceback.startswith("Traceback ")
    assert traceback.splitlines()[-1].startswith(case.says)
    assert "<html" not in traceback


AWAY = Answer(503, headers={"Retry-After": "1"})
SURVIVED: dict[str, dict[str, list[Answer]]] = {
    "the sign-in host is silent once": {SIGN_IN_HOST: [SILENT]},
    "the token endpoint is silent once": {"token": [SILENT]},
    "discovery is away": {"discovery": [AWAY]},
    "the network is away for three seconds": {"token": [RESET], SIGN_IN_HOST: [UNREACHED] * 2},
    "Graph is away": {"me": [AWAY]},
}


@pytest.mark.parametrize("name", SURVIVED)
def test_what_passes_is_not_noticed(sandbox: Sandbox, name: str) -> None:
    for endpoint, answers in SURVIVED[name].items():
        sandbox.replace(endpoint, *answers)
    result = run(sandbox)

    expect(result, 0, GREETING)
    assert PROMPT.fullmatch(result.stderr)


def test_a_proxy_may_need_four_seconds(sandbox: Sandbox) -> None:
    sandbox.replace(SIGN_IN_HOST, Answer(delay=4), times=None)
    result = run(sandbox)

    expect(result, 0, GREETING)
