"""What goes wrong, and what the user must then see: a row for each kind of failure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from .project import GREETING, PROMPT, Variables, run
from .sandbox import Answer, Fault, Sandbox, entra_error, graph_error, json_answer
from .sandbox.world import GRAPH_HOST, SIGN_IN_HOST

PAGE = b"<html>\n<script>alert(1)</script></html>"
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}
SILENT = Answer(fault=Fault.SILENT)
RESET = Answer(fault=Fault.RESET)
CUT_OFF = Answer(fault=Fault.CUT_OFF)
UNREACHED = Answer(502)  # what a proxy says that cannot connect
SIGN_IN = "Sign-in failed: "
POOL = f"HTTPSConnectionPool(host='{SIGN_IN_HOST}', port=443)"
GRAPH = "The call to Microsoft Graph failed: "


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong, after so many prompts.

    `shows` is how the message begins, and `hint` is in its second line; with "" there is none.
    `answers` replace those of the endpoints, and `variables` change the environment.
    """

    shows: str
    hint: str = ""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    prompts: int = 1


def sign_in(endpoint: str, answer: Answer, shows: str, hint: str = "") -> Case:
    """Return the case of an answer to a request of the sign-in."""
    return Case(SIGN_IN + shows, hint, {endpoint: answer}, prompts=int(endpoint == "token"))


def entra(endpoint: str, number: int, hint: str = "", status: int = 400) -> Case:
    """Return the case of a refusal by Entra: its whole description is shown."""
    # No other number that stands in the text may lead to a hint.
    answer = entra_error(number, "error", "Not AADSTS50194, and not AADSTS53003.", status)
    description = json.loads(answer.body)["error_description"]
    if endpoint == "devicecode":
        description = f"Couldn't begin authentication: {description}"
    return sign_in(endpoint, answer, f"{description}\n", hint)


def denied(description: str) -> Answer:
    return json_answer({"error": "authorization_declined", "error_description": description}, 400)


def graph(answer: Answer, shows: str, hint: str = "") -> Case:
    """Return the case of an answer of Microsoft Graph; in `shows`, <ID> is that of the request."""
    request_id = answer.headers.get("request-id", "")
    return Case(GRAPH + shows.replace("<ID>", request_id), hint, {"me": answer})


def network(shows: str, **variables: str) -> Case:
    """Return the case of variables with which nobody answers."""
    return Case(shows, "check HTTPS_PROXY", variables=variables, prompts=0)


def unanswered(step: str, endpoint: str, answer: Answer, shows: str = "") -> Case:
    """Return the case of no usable answer in a step."""
    prompts = int(endpoint not in ("discovery", SIGN_IN_HOST))
    shows = f"{step}no usable answer: {shows}"
    return Case(shows, "check HTTPS_PROXY", {endpoint: answer}, {}, prompts)


CASES = {
    # Entra refuses.
    "AADSTS50059": entra("devicecode", 50059, "If the app is for one tenant only, set AZURE_TEN"),
    "AADSTS700016": entra("devicecode", 700016, "set AZURE_TENANT_ID to the tenant of this app"),
    "AADSTS50194": entra("devicecode", 50194, "Set AZURE_TENANT_ID to the Directory (tenant) ID"),
    "AADSTS9002331": entra("devicecode", 9002331, "Set AZURE_TENANT_ID to the word consumers."),
    "AADSTS70002": entra("devicecode", 70002, "and account types. If both are right, set Authen"),
    "AADSTS7000218": entra("token", 7000218, "your own app's. If so, set Authentication > ", 401),
    "AADSTS530035": entra("token", 530035, "This tenant blocks device codes. Use Interactive"),
    "AADSTS53003": entra("token", 53003, "In main(), try InteractiveBrowserCredential with"),
    "AADSTS65001": entra("token", 65001, "accept the permissions, or ask an administrator"),
    "a number that begins with one of these": entra("devicecode", 501941),
    "authorization_declined": sign_in("token", denied("Denied."), "Denied.\n"),
    "control characters": sign_in("token", denied("a\r\nb\x1b[2J\u202ec"), "a b [2J c\n"),
    "no description": sign_in("token", json_answer({}, 400), "ClientAuthenticationError\n"),
    "a tenant that is not there": Case(
        f"{SIGN_IN}Unable to get authority configuration for https://{SIGN_IN_HOST}/elsewhere.test",
        variables={"AZURE_TENANT_ID": "elsewhere.test"},
        prompts=0,
    ),
    # A page comes instead of the answer.
    "discovery is redirected to a page": sign_in(
        "discovery", Answer(302, PAGE, HTML), "Unable to complete OIDC Discovery: 302\n"
    ),
    "devicecode answers with a page": sign_in(
        "devicecode", Answer(200, PAGE, HTML), "Expecting value: line 1 "
    ),
    "token answers with a page": sign_in(
        "token", Answer(200, PAGE, HTML), "Expecting value: line 1 "
    ),
    "token answers with a page as JSON": unanswered(SIGN_IN, "token", Answer(200, PAGE, JSON)),
    "me fails with a page": graph(Answer(500, PAGE, HTML), "The server returned an unexpected "),
    # Microsoft Graph refuses.
    "HTTP 401": graph(
        graph_error(401, "InvalidAuthenticationToken", "It has expired."),
        "InvalidAuthenticationToken It has expired. (status 401) (request ID <ID>)\n",
    ),
    "HTTP 403": graph(
        graph_error(403, "Forbidden", "Insufficient privileges."),
        "Forbidden Insufficient privileges. (status 403) (request ID <ID>)\n",
        "Add the permission that the call needs to SCOPES",
    ),
    "HTTP 429": graph(
        graph_error(429, "TooManyRequests", "Retry later.", {"Retry-After": "1"}),
        "TooManyRequests Retry later. (status 429) (request ID <ID>)\n",
    ),
    "a message that speaks of the network": graph(
        graph_error(400, "BadRequest", "Failed to parse: proxyAddresses. Timed out."),
        "BadRequest Failed to parse: proxyAddresses. Timed out. (status 400) (request ID <ID>)\n",
    ),
    "no code": graph(json_answer({"error": {"message": "No."}}, 404), "No. (status 404)\n"),
    "no error": graph(json_answer({}, 404), "ODataError (status 404)\n"),
    # The network fails for good. The tests with SILENT in their names begin first: see conftest.py.
    "SILENT sign-in host": unanswered(SIGN_IN, SIGN_IN_HOST, SILENT, f"{POOL}: Read timed out."),
    "SILENT token": unanswered(SIGN_IN, "token", SILENT, f"{POOL}: Read timed out."),
    "SILENT Graph host": unanswered(GRAPH, GRAPH_HOST, SILENT, "ConnectTimeout\n"),
    "token is reset": unanswered(SIGN_IN, "token", RESET),
    "me is reset": unanswered(GRAPH, "me", RESET),
    "discovery is cut off": unanswered(SIGN_IN, "discovery", CUT_OFF),
    "me is cut off": unanswered(GRAPH, "me", CUT_OFF),
    "the proxy does not reach sign-in": unanswered(SIGN_IN, SIGN_IN_HOST, UNREACHED),
    "the proxy does not reach Graph": unanswered(GRAPH, GRAPH_HOST, UNREACHED),
    # This machine.
    "no proxy where HTTPS_PROXY says": network(
        f"{SIGN_IN}no usable answer: ('Unable to connect to proxy', NewConnectionError(",
        HTTPS_PROXY="http://127.0.0.1:9",
    ),
    "a name that no resolver knows": network(  # RFC 6761 keeps .invalid free of them.
        f"{SIGN_IN}no usable answer: ('Unable to connect to proxy', NameResolutionError("
        "\"HTTPSConnection(host='proxy.invalid', port=9): Failed to resolve",
        HTTPS_PROXY="http://proxy.invalid:9",
    ),
    "a proxy password with a slash": network(
        f"{GRAPH}no usable answer: Invalid port\n", HTTPS_PROXY="http://bob:hunt/er2@127.0.0.1:9"
    ),
    "a proxy password with a backslash": network(
        f"{SIGN_IN}no usable answer: Failed to parse\n",
        HTTPS_PROXY=r"http://bob:hunt\er2@127.0.0.1:9",
    ),
    "a certificate for sign-in that nobody trusts": Case(
        f"{SIGN_IN}no usable answer: [SSL: CERTIFICATE_VERIFY_FAILED] ",
        "REQUESTS_CA_BUNDLE (for sign-in)",
        variables={"REQUESTS_CA_BUNDLE": None},
        prompts=0,
    ),
    "a certificate for Graph that nobody trusts": Case(
        f"{GRAPH}no usable answer: [SSL: CERTIFICATE_VERIFY_FAILED] ",
        "SSL_CERT_FILE (for Microsoft Graph)",
        variables={"SSL_CERT_FILE": None},
    ),
}


def expect_explained(output: str, shows: str, hint: str) -> None:
    """Check what is said after the prompts: the failure and, if one is known, a hint."""
    first, *rest = output.splitlines(keepends=True)
    assert first.startswith(shows)
    assert len(rest) == bool(hint)
    assert hint in "".join(rest)
    assert all(line.rstrip("\n").isprintable() for line in [first, *rest])
    assert not re.search(r'\bNone\b|<html|<script|{"|: $|hunt', output, re.MULTILINE)


@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_explained(sandbox: Sandbox, name: str) -> None:
    case = CASES[name]
    for endpoint, answer in case.answers.items():
        sandbox.replace(endpoint, answer, times=None)
    result = run(sandbox, variables=case.variables)

    assert (result.returncode, result.stdout) == (1, "")
    assert len(PROMPT.findall(result.stderr)) == case.prompts
    expect_explained(PROMPT.sub("", result.stderr), case.shows, case.hint)


def test_a_user_who_does_not_sign_in_in_time_is_told(sandbox: Sandbox) -> None:
    sandbox.expires_in = 1
    sandbox.replace("token", entra_error(70016, "authorization_pending", "Wait."), times=None)
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (1, "")
    shows = f"{SIGN_IN}Timed out waiting for user to authenticate\n"
    expect_explained(PROMPT.sub("", result.stderr), shows, "If the browser showed an error")


@pytest.mark.parametrize("answer", [Answer(204), json_answer({"id": 5}), json_answer([])])
def test_no_user_is_not_greeted(sandbox: Sandbox, answer: Answer) -> None:
    sandbox.replace("me", answer)
    result = run(sandbox)

    assert (result.returncode, result.stdout) == (1, "")
    assert PROMPT.sub("", result.stderr) == "Microsoft Graph answered, but named no user.\n"


UNFORESEEN = {
    "a page in place of the user": Case(
        "Exception: Content type text/html ", answers={"me": Answer(200, PAGE, HTML)}
    ),
    "a tenant ID that cannot be one": Case(
        "ValueError: Invalid tenant ID provided.", variables={"AZURE_TENANT_ID": "contoso/x"}
    ),
    "a CA file that is not there": Case(
        "FileNotFoundError: ", variables={"SSL_CERT_FILE": "nowhere.pem"}
    ),
    "a proxy for which a package is missing": Case(
        "ImportError: Using SOCKS proxy, but the 'socksio' package is not installed.",
        variables={"HTTPS_PROXY": "socks5://bob:hunter2@127.0.0.1:9"},
    ),
}


@pytest.mark.parametrize("name", UNFORESEEN)
def test_what_nobody_foresees_keeps_its_traceback(sandbox: Sandbox, name: str) -> None:
    case = UNFORESEEN[name]
    for endpoint, answer in case.answers.items():
        sandbox.replace(endpoint, answer)
    result = run(sandbox, variables=case.variables)
    traceback = PROMPT.sub("", result.stderr)

    assert (result.returncode, result.stdout) == (1, "")
    assert traceback.startswith("Traceback ")
    assert traceback.splitlines()[-1].startswith(case.shows)
    assert not re.search("<html|hunt", traceback)


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
