"""What goes wrong, and what the user must then see: a row for each kind of failure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from .project import GREETING, PROMPT, Variables, run
from .sandbox import Answer, Fault, Sandbox, entra_error, graph_error, json_answer
from .sandbox.tokens import PREFIX
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST

PAGE = b"<html>\n<script>alert(1)</script></html>"
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}
SILENT = Answer(fault=Fault.SILENT)
RESET = Answer(fault=Fault.RESET)
CUT_OFF = Answer(fault=Fault.CUT_OFF)
UNREACHED = Answer(502)  # what a proxy says that cannot connect
CHECK_NETWORK = "Check the network. If it needs a proxy, set HTTPS_PROXY to http://HOST:PORT or..."


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


def refused(endpoint: str, number: int, hint: str, status: int = 400) -> Case:
    """Return the case of a refusal by Entra: its whole description is shown."""
    # No other number that stands in the text may lead to a hint.
    answer = entra_error(number, "error", "Not AADSTS50194, and not AADSTS53003.", status)
    step = "Couldn't begin authentication: " if endpoint == "devicecode" else ""
    description = json.loads(answer.body)["error_description"]
    return sign_in(endpoint, answer, f"{step}{description}", hint)


def denied(description: str) -> Answer:
    return json_answer({"error": "authorization_declined", "error_description": description}, 400)


def this_machine(says: str, hint: str = "", **variables: str | None) -> Case:
    return Case(says, hint, variables=variables)


UNKNOWN_APP = "Check the client ID. If the app is for one tenant only, set AZURE_TENANT_ID..."
NOT_PUBLIC = "In the app registration, set Authentication > Allow public client flows to..."
BLOCKED = "Device codes may be blocked. Sign in with a browser: in main(), use..."
UNCONNECTED = "Sign-in failed: ('Unable to connect to proxy', ..."
BAD_CA = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local..."
CHECK_CLOCK = "Check the clock. If a proxy inspects TLS, set REQUESTS_CA_BUNDLE (for the..."
BAD_URL = "A URL is malformed. Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."

CASES = {
    # Silence takes longest, so it begins. A quick row follows each: pytest-xdist begins with pairs.
    "a silent token endpoint": sign_in(
        "token",
        SILENT,
        "HTTPSConnectionPool(host='login.micro...",
        CHECK_NETWORK,
    ),
    "AADSTS50059": refused("devicecode", 50059, UNKNOWN_APP),
    "a silent Graph host": graph(GRAPH_HOST, SILENT, "ConnectTimeout", CHECK_NETWORK),
    "AADSTS700016": refused("devicecode", 700016, UNKNOWN_APP),
    "a silent sign-in host": sign_in(
        SIGN_IN_HOST,
        SILENT,
        "HTTPSConnectionPool(host='login.micro...",
        CHECK_NETWORK,
    ),
    "AADSTS50194": refused("devicecode", 50194, "Set AZURE_TENANT_ID to the Directory (tenant)..."),
    # Entra refuses.
    "AADSTS9002331": refused("devicecode", 9002331, "Set AZURE_TENANT_ID to the word consumers."),
    "AADSTS70002": refused("devicecode", 70002, NOT_PUBLIC),
    "AADSTS7000218": refused("token", 7000218, NOT_PUBLIC, 401),
    "AADSTS53003": refused("token", 53003, BLOCKED),
    "AADSTS530035": refused("token", 530035, BLOCKED),
    "AADSTS65001": refused("token", 65001, "Run it again and accept the permissions, or ask an..."),
    "any other number": refused(
        "devicecode", 501941, "Look the number up at https://login.micro..."
    ),
    "authorization_declined": sign_in("token", denied("Denied."), "Denied."),
    "control characters": sign_in("token", denied("\r\na\x1b\x9bb\u2028\u202ec"), "a  b  c"),
    "a tenant that is not there": this_machine(
        "Sign-in failed: Unable to get authority configuration for...",
        "Check AZURE_TENANT_ID. If it is right, check the network and HTTPS_PROXY.",
        AZURE_TENANT_ID="elsewhere.test",
    ),
    # A page comes instead of the answer.
    "discovery is redirected to a page": sign_in(
        "discovery",
        Answer(302, PAGE, HTML),
        "Unable to complete OIDC",
    ),
    "devicecode answers with a page": sign_in(
        "devicecode",
        Answer(200, PAGE, HTML),
        "Expecting value: line 1 column 1 (char 0)",
    ),
    "token answers with a page as JSON": sign_in(
        "token",
        Answer(200, PAGE, JSON),
        "JSON is invalid: Expecting value: line 1 column 1 (char 0)",
        CHECK_NETWORK,
    ),
    "me fails with a page": graph(
        "me",
        Answer(500, PAGE, HTML),
        "The server returned an unexpected status code and the error body could not be parsed...",
    ),
    # Microsoft Graph refuses.
    "HTTP 401": graph(
        "me",
        graph_error(401, "InvalidAuthenticationToken", "It has expired."),
        "InvalidAuthenticationToken: It has expired. (status 401)",
    ),
    "HTTP 403": graph(
        "me",
        graph_error(403, "Forbidden", "Insufficient privileges."),
        "Forbidden: Insufficient privileges. (status 403)",
        "Add the permission that the call needs to SCOPES. The user may need a role.",
    ),
    "HTTP 429": graph(
        "me",
        graph_error(429, "TooManyRequests", "Retry later.", {"Retry-After": "1"}),
        "TooManyRequests: Retry later. (status 429)",
    ),
    "a code and a message that speak of the network": graph(
        "me",
        graph_error(400, "ReadOnly", "Failed to parse: proxyAddresses. Timed out."),
        "ReadOnly: Failed to parse: proxyAddresses. Timed out. (status 400)",
    ),
    "no code": graph("me", json_answer({"error": {"message": "No."}}, 404), "No. (status 404)"),
    "no error": graph("me", json_answer({}, 404), "ODataError (status 404)"),
    # The network fails for good.
    "token is reset": sign_in("token", RESET, "...", CHECK_NETWORK),
    "me is reset": graph("me", RESET, "ReadError", CHECK_NETWORK),
    "discovery is cut off": sign_in(
        "discovery", CUT_OFF, "('Connection broken: ...", CHECK_NETWORK
    ),
    "me is cut off": graph("me", CUT_OFF, "Server disconnected...", CHECK_NETWORK),
    "the proxy does not reach Graph": graph(
        GRAPH_HOST, UNREACHED, "502 Bad Gateway", CHECK_NETWORK
    ),
    # This machine.
    "no proxy where HTTPS_PROXY says": this_machine(
        UNCONNECTED, CHECK_NETWORK, HTTPS_PROXY="http://127.0.0.1:9"
    ),
    "a proxy password with a slash": this_machine(
        BAD_URL, HTTPS_PROXY=f"http://bob:{PREFIX}/2@127.0.0.1:9"
    ),
    "a proxy password with a backslash": this_machine(
        "Sign-in failed: ClientAuthenticationError",
        CHECK_NETWORK,
        HTTPS_PROXY=rf"http://bob:{PREFIX}\2@127.0.0.1:9",
    ),
    "an IPv6 range in NO_PROXY": this_machine(BAD_URL, NO_PROXY="fd07:b51a:cc66:f0::/64"),
    "a certificate for sign-in that nobody trusts": this_machine(
        f"Sign-in failed: {BAD_CA}",
        CHECK_CLOCK,
        REQUESTS_CA_BUNDLE=None,
    ),
    "a certificate for Graph that nobody trusts": this_machine(
        f"The call to Microsoft Graph failed: {BAD_CA}",
        CHECK_CLOCK,
        SSL_CERT_FILE=None,
    ),
}


def expect_explained(stderr: str, says: str, hint: str) -> None:
    """Check that after the prompt comes what `Case` describes, and nothing else."""
    lines = PROMPT.sub("", stderr, count=1).split("\n")
    expected = [*filter(None, (says, hint)), ""]
    assert len(lines) == len(expected), stderr
    for line, text in zip(lines, expected, strict=True):
        whole = not text.endswith("...")
        assert line == text if whole else line.startswith(text.removesuffix("...")), stderr
        assert line.isprintable()
        assert not re.search("<html|<script|[{]", line)


@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_explained(sandbox: Sandbox, name: str) -> None:
    case = CASES[name]
    for endpoint, answer in case.answers.items():
        sandbox.replace(endpoint, answer, times=None)
    result = run(sandbox, variables=case.variables)

    assert (result.returncode, result.stdout) == (1, "")
    expect_explained(result.stderr, case.says, case.hint)


def test_a_user_who_does_not_sign_in_in_time_is_told(sandbox: Sandbox) -> None:
    sandbox.expires_in = 1
    sandbox.replace("token", entra_error(70016, "authorization_pending", "Wait."), times=None)
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (1, "")
    says = "Sign-in failed: Timed out waiting for user to authenticate"
    hint = "Run it again. If the browser showed a number, search get_user.py for it."
    expect_explained(result.stderr, says, hint)


@pytest.mark.parametrize("answer", [Answer(204), json_answer({"id": 5}), json_answer([])])
def test_no_user_is_not_greeted(sandbox: Sandbox, answer: Answer) -> None:
    sandbox.replace("me", answer)
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (1, "")
    expect_explained(result.stderr, "Microsoft Graph answered, but named no user.", "")


UNFORESEEN = {
    "a page in place of the user": Case(
        "Exception: Content type text/html ", answers={"me": Answer(200, PAGE, HTML)}
    ),
    "a tenant ID that cannot be one": this_machine(
        "ValueError: Invalid tenant ID provided.", AZURE_TENANT_ID="contoso/x"
    ),
    "a CA file that is not there": this_machine("FileNotFoundError: ", SSL_CERT_FILE="nowhere.pem"),
    "a proxy for which a package is missing": this_machine(
        "ImportError: Using SOCKS proxy, but the 'socksio' package is not installed.",
        HTTPS_PROXY=f"socks5://bob:{PREFIX}@127.0.0.1:9",
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

    assert (result.returncode, result.stdout) == (1, "")
    assert traceback.startswith("Traceback ")
    assert traceback.splitlines()[-1].startswith(case.says)
    assert "<html" not in traceback


BUSY = Answer(503, headers={"Retry-After": "1"})
SURVIVED: dict[str, dict[str, list[Answer]]] = {
    "discovery once answers 503": {"discovery": [BUSY]},
    "the network is away for three seconds": {"token": [RESET], SIGN_IN_HOST: [UNREACHED] * 2},
    "me once answers 503": {"me": [BUSY]},
}


@pytest.mark.parametrize("name", SURVIVED)
def test_what_passes_is_not_noticed(sandbox: Sandbox, name: str) -> None:
    for endpoint, answers in SURVIVED[name].items():
        sandbox.replace(endpoint, *answers)
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
