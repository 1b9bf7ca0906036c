"""What goes wrong, and all that the user then reads: a row for each kind of failure."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from .project import GREETING, PROMPT, edit, expect, run
from .sandbox import Sandbox, entra, entra_error, graph, graph_error
from .sandbox.answers import CLOSED, PREFIX, SILENT, Answer, json_answer

PAGE = b"<html>\n<script>alert(1)</script></html>"
HTML = {"Content-Type": "text/html"}
WEB_PAGE = Answer(200, PAGE, HTML)
NO_JSON = Answer(200, PAGE, {"Content-Type": "application/json"})
UNREACHED = Answer(502)  # what a proxy says that cannot connect
DECLINED = {"error": "authorization_declined", "error_description": "\r\na\x1b\x9bb\u2028\u202ec"}
LINK = "\nhttps://login.microsoftonline.com/error?code="
FAILED = "Authentication failed: "
NO_PROXY = "('Unable to connect to proxy', *"
GRAPH = "The call to Microsoft Graph failed: "
BAD_URL = "A URL is malformed. Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."
BAD_CA = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: *"

# All that is said ("*" is any text), and what leads to it: an answer that is given for good at an
# endpoint or a host, or a variable of the environment (None: not set).
Change = Mapping[str, Answer | str | None]
CASES: dict[str, tuple[str, Change]] = {
    # Entra refuses.
    "at once": (
        f"Couldn't begin authentication: AADSTS50194: No. Trace ID: *{LINK}50194",
        {"devicecode": entra_error(50194, "invalid_request", "No.")},
    ),
    "in the end": (
        f"{FAILED}AADSTS7000218: AADSTS1: no. Trace ID: *{LINK}7000218",
        {"token": entra_error(7000218, "invalid_client", "AADSTS1: no.", 401)},
    ),
    "without a number": (f"{FAILED}  a  b  c", {"token": json_answer(DECLINED, 400)}),
    "tenant": (f"{FAILED}Unable to get authority *", {"AZURE_TENANT_ID": "elsewhere.test"}),
    # Microsoft Graph refuses.
    "401": (f"{GRAPH}Old. (status 401)", {"me": graph_error(401, "InvalidToken", "Old.")}),
    "no text": (f"{GRAPH}ODataError (status 404)", {"me": json_answer({}, 404)}),
    # Something else comes in place of the answer.
    "page, tenant": (
        f"{FAILED}Unable to complete OIDC Discovery ...",
        {"discovery": Answer(302, PAGE, HTML)},
    ),
    "page, token": (f"{FAILED}Expecting value: line 1 *", {"token": WEB_PAGE}),
    "no JSON": (f"{FAILED}JSON is invalid: * Content: ...", {"token": NO_JSON}),
    "page, Graph": (f"{GRAPH}The server returned an unexp*", {"me": Answer(500, PAGE, HTML)}),
    # Nobody answers.
    "no tenant": (f"{FAILED}{NO_PROXY}", {"discovery": CLOSED}),
    "no code": (f"{FAILED}{NO_PROXY}", {"devicecode": CLOSED}),
    "no token": (f"{FAILED}{NO_PROXY}", {"token": CLOSED}),
    "no user": (f"{GRAPH}Server disconnected*", {"me": CLOSED}),
    "no Graph": (f"{GRAPH}502 Bad Gateway", {graph.HOST: UNREACHED}),
    "no proxy": (f"{FAILED}*", {"HTTPS_PROXY": "http://127.0.0.1:9"}),
    # The settings of this machine are wrong. That a password is not printed, run() checks.
    "password, httpx": (BAD_URL, {"HTTPS_PROXY": f"http://bob:{PREFIX}/2@127.0.0.1:9"}),
    "password, urllib3": (
        f"{FAILED}Failed to parse ...",
        {"HTTPS_PROXY": rf"http://bob:{PREFIX}\2@127.0.0.1:9"},
    ),
    "CA, Entra": (f"{FAILED}{BAD_CA}", {"REQUESTS_CA_BUNDLE": None}),
    "CA, Graph": (f"{GRAPH}{BAD_CA}", {"SSL_CERT_FILE": None}),
}
UNFORESEEN: dict[str, tuple[str, Change]] = {
    "page for a user": ("Exception: Content type text/html ", {"me": WEB_PAGE}),
    "impossible tenant": ("ValueError: Invalid tenant ID", {"AZURE_TENANT_ID": "contoso/x"}),
    "missing CA file": ("FileNotFoundError: ", {"SSL_CERT_FILE": "nowhere.pem"}),
}
"""What keeps its traceback, with what the last line begins with."""


def said_after(sandbox: Sandbox, change: Change) -> str:
    """Run get_user.py, which has to fail, and return what it says after the prompt."""
    variables: dict[str, str | None] = {}
    for name, value in change.items():
        if isinstance(value, Answer):
            sandbox.replace(name, value, times=None)
        else:
            variables[name] = value
    result = run(sandbox, variables=variables)
    expect(result, 1, "")
    return PROMPT.sub("", result.stderr, count=1)


@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_said(sandbox: Sandbox, name: str) -> None:
    says, change = CASES[name]
    said = said_after(sandbox, change)

    assert re.fullmatch(re.escape(f"{says}\n").replace(r"\*", "(.*)"), said), said
    assert all(line.isprintable() for line in said.splitlines())
    assert not re.search("<html|<script|[{]", said)


@pytest.mark.parametrize("name", UNFORESEEN)
def test_what_nobody_foresees_keeps_its_traceback(sandbox: Sandbox, name: str) -> None:
    says, change = UNFORESEEN[name]
    first, *_, last = said_after(sandbox, change).splitlines()

    assert first == "Traceback (most recent call last):"
    assert last.startswith(says)


def test_a_user_who_does_not_sign_in_in_time_is_told(sandbox: Sandbox) -> None:
    sandbox.expires_in = 1
    said = said_after(sandbox, {"token": entra.Refused(70016).answer})

    assert said == "Timed out waiting for user to authenticate\n"


def test_no_token_is_quoted(sandbox: Sandbox) -> None:
    content = json.loads(entra.tokens(sandbox, "User.Read").body)
    content["access_token"] += "\n"
    said = said_after(sandbox, {"token": json_answer(content)})

    assert said == f"{GRAPH}Illegal header ...\n"


def test_an_error_without_a_text_is_named(sandbox: Sandbox, script: Path) -> None:
    edit(script, "_middleware()", "_middleware(httpx.AsyncClient(timeout=1))")
    sandbox.replace("me", SILENT)

    expect(run(sandbox, str(script)), 1, "", f"{GRAPH}ReadTimeout\n")


SURVIVED: dict[str, dict[str, list[Answer | None]]] = {
    "the sign-in host is silent once": {entra.HOST: [SILENT]},
    "the token endpoint is silent once": {"token": [SILENT]},
    # None lets the first connection through. azure-identity tries again after 0, 1.6 and 3.2 s.
    "three seconds without a network": {
        "token": [CLOSED],
        entra.HOST: [None, UNREACHED, UNREACHED],
    },
    "Graph is busy": {"me": [Answer(503, headers={"Retry-After": "1"})]},
}


@pytest.mark.parametrize("name", SURVIVED)
def test_what_passes_is_not_noticed(sandbox: Sandbox, name: str) -> None:
    for endpoint, answers in SURVIVED[name].items():
        sandbox.replace(endpoint, *answers)

    expect(run(sandbox), 0, GREETING, "")


def test_a_proxy_may_need_four_seconds(sandbox: Sandbox) -> None:
    # Each time: if only the first time, a second try would hide a limit that is too short.
    sandbox.replace(entra.HOST, Answer(delay=4), times=None)

    expect(run(sandbox), 0, GREETING, "")
