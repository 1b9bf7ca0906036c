"""What can go wrong, and what the person must then see: a row for each kind of failure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .program import Variables
from .sandbox import (
    GRAPH_HOST,
    SIGN_IN_HOST,
    Answer,
    Fault,
    entra_error,
    graph_error,
    json_answer,
    services,
)

SECRET_HINT = "Enable Allow public client flows in the app registration; add no secret."
CONSUMERS_HINT = "Set AZURE_TENANT_ID to consumers."
BLOCKED_HINT = (
    "Instead of a device code, use InteractiveBrowserCredential (redirect URI http://localhost), "
    "on a managed device if asked."
)
CLIENT_HINT = "Check AZURE_CLIENT_ID, AZURE_TENANT_ID; give a new app some minutes."
PUBLIC_HINT = "Check AZURE_CLIENT_ID and the app's account types and public client flows."
TENANT_HINT = "Set AZURE_TENANT_ID to your Directory (tenant) ID."
BROWSER_HINT = "Run it again, and do in the browser what it asks for."
TLS_HINT = "Behind TLS inspection, set REQUESTS_CA_BUNDLE and SSL_CERT_FILE."
CA_FILE_HINT = "Correct SSL_CERT_FILE or REQUESTS_CA_BUNDLE."
PROXY_HINT = (
    "Check HTTPS_PROXY, ALL_PROXY and NO_PROXY; percent-encode what is special in a password."
)
PLACE_HINT = "python3 -X dev get_user.py shows where."

NOBODY_IS_THERE = "http://127.0.0.1:9"
PAGE = b"<html><script>alert(1)</script></html>"
HTML = Answer(200, PAGE, {"Content-Type": "text/html"})
SIGN_IN = "Sign-in: Authentication failed: "
GRAPH = f"{GRAPH_HOST}: "
SILENT = (Answer(fault=Fault.SILENT),)
RESET = (Answer(fault=Fault.RESET),)
CUT_OFF = (Answer(fault=Fault.CUT_OFF),)
REFUSED = (Answer(502),)
"""To a CONNECT: what a proxy says that cannot connect."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    `answers` replace those of the endpoints, for good or, with `times`, only so often.
    `variables` change the environment, `expires_in` the life of the code in seconds. `shows` is
    how the first line after the prompts begins, `also` what else must be in it, and `hint` the
    whole second line. Where `greets`, the person sees the prompts and the greeting, nothing else.
    """

    answers: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    times: int | None = None
    variables: Variables = field(default_factory=dict)
    expires_in: int = 900
    shows: str = ""
    also: tuple[str, ...] = ()
    hint: str = ""
    prompts: int = 1
    greets: bool = False


def refused(endpoint: str, number: int, hint: str, **more: Any) -> Case:
    """Returns the case of a refusal by Entra: the whole description is shown."""
    error, text = REFUSALS[number].split(": ", 1)
    answer = entra_error(number, error, text, **more)
    description = json.loads(answer.body)["error_description"]
    begun = endpoint == "token"
    said = "Authentication failed" if begun else "Couldn't begin authentication"
    shows = f"Sign-in: {said}: {description}\n"
    return Case({endpoint: (answer,)}, shows=shows, hint=hint, prompts=int(begun))


def graph_refused(status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> Case:
    """Returns the case of a refusal by Microsoft Graph."""
    answer = graph_error(status, code, message, headers)
    said = f"{code} {message} (status {status}) (request ID: {answer.headers['request-id']})\n"
    return Case({"me": (answer,)}, shows=GRAPH + said)


def graph_answers(answer: Answer, shows: str, *also: str, hint: str = "") -> Case:
    """Returns the case of another answer of Microsoft Graph."""
    return Case({"me": (answer,)}, shows=shows, also=also, hint=hint)


def machine(shows: str, hint: str = "", *, prompts: int = 0, **variables: str | None) -> Case:
    """Returns the case of these environment variables."""
    return Case(variables=variables, shows=shows, hint=hint, prompts=prompts)


def error(**fields: Any) -> Answer:
    """Returns an answer in which Entra refuses with these fields alone."""
    return json_answer(fields, 400)


REFUSALS = {
    **services.REFUSALS,
    50076: "interaction_required: Due to a configuration change made by your administrator, or "
    "because you moved to a new location, you must use multi-factor authentication to access 'X'.",
    50194: "invalid_request: Application 'X' is not configured as a multi-tenant application. "
    "Usage of the /common endpoint is not supported for such apps.",
    53003: "invalid_grant: Access has been blocked by Conditional Access policies.",
    65001: "invalid_grant: The user or administrator has not consented to use the application.",
    501941: "invalid_request: Nobody has heard of it; another begins so.",
    700022: "invalid_grant: Nobody has heard of it; it is neither AADSTS70002 nor AADSTS53003.",
    7000218: "invalid_client: The request body must contain the following parameter: "
    "'client_assertion' or 'client_secret'.",
    9002331: "invalid_request: Application 'X' is configured for use by Microsoft Account users "
    "only. Please use the /consumers endpoint to serve this request.",
}
"""The error and the text that go with each AADSTS number."""


CASES: dict[str, Case] = {
    # Entra refuses.
    "AADSTS530035": refused("token", 530035, BLOCKED_HINT),
    "AADSTS53003": refused("token", 53003, BLOCKED_HINT),
    "AADSTS7000218": refused("token", 7000218, SECRET_HINT, status=401),
    "AADSTS65001": refused("token", 65001, BROWSER_HINT, suberror="consent_required"),
    "AADSTS50076": refused("token", 50076, BROWSER_HINT),
    "AADSTS70020": refused("token", 70020, ""),
    "AADSTS50059": refused("devicecode", 50059, CLIENT_HINT),
    "AADSTS700016": refused("devicecode", 700016, CLIENT_HINT),
    "AADSTS50194": refused("devicecode", 50194, TENANT_HINT),
    "AADSTS9002331": refused("devicecode", 9002331, CONSUMERS_HINT),
    "AADSTS70002": refused("devicecode", 70002, PUBLIC_HINT),
    "a code without a row, before codes with one": refused("token", 700022, ""),
    "a code that is longer than one with a row": refused("devicecode", 501941, ""),
    "authorization_declined": Case(
        {"token": (error(error="authorization_declined", error_description="It was denied."),)},
        shows=f"{SIGN_IN}It was denied.\n",
    ),
    "AADSTS90002": machine(
        f"{SIGN_IN}Unable to get authority configuration for https://{SIGN_IN_HOST}/elsewhere.test",
        AZURE_TENANT_ID="elsewhere.test",
    ),
    "nobody signs in": Case(
        {"token": (entra_error(70016, "authorization_pending", "Pending."),)},
        expires_in=1,
        shows="Sign-in: Timed out waiting for user to authenticate\n",
    ),
    "a description of several lines with control characters": Case(
        {"token": (error(error="x", error_description="a\r\nb\x1b[2J\u202e"),)},
        shows=f"{SIGN_IN}a b\ufffd[2J\ufffd\n",
    ),
    # What answers is not Entra, or not itself.
    "discovery answers with a page": Case(
        {"discovery": (HTML,)}, shows=f"{SIGN_IN}Unable to get authority", prompts=0
    ),
    "discovery is redirected": Case(
        {"discovery": (Answer(302, b"To\nlogin", {"Content-Type": "text/html"}),)},
        shows=f"{SIGN_IN}Unable to complete OIDC Discovery: 302\n",
        prompts=0,
    ),
    "devicecode answers with a page": Case(
        {"devicecode": (HTML,)}, shows=f"{SIGN_IN}Expecting value: line 1 ", prompts=0
    ),
    "token answers with a page as JSON": Case(
        {"token": (Answer(200, PAGE, {"Content-Type": "application/json"}),)},
        shows=f"{SIGN_IN}JSON is invalid: ",
    ),
    "token answers without an error": Case(
        {"token": (json_answer({}, 400),)}, shows="Sign-in: Authentication failed\n"
    ),
    # What passes.
    "discovery once answers 503": Case({"discovery": (Answer(503),)}, times=1, greets=True),
    "the network is away while the person is in the browser": Case(
        {"token": RESET, SIGN_IN_HOST: (Answer(502), Answer(502))}, times=1, greets=True
    ),
    "me once answers 503": Case(
        {"me": (Answer(503, headers={"Retry-After": "1"}),)}, times=1, greets=True
    ),
    # Microsoft Graph refuses.
    "HTTP 401": graph_refused(
        401,
        "InvalidAuthenticationToken",
        "Access token has expired or is not yet valid.",
        {"WWW-Authenticate": 'Bearer realm="", client_id="00000003-0000-0000-c000-000000000000"'},
    ),
    "HTTP 403": graph_refused(
        403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
    ),
    "HTTP 429": graph_refused(
        429, "TooManyRequests", "Please retry again later.", {"Retry-After": "1"}
    ),
    "a Graph error of the wrong shape": graph_answers(
        json_answer({"error": {"code": 5, "message": []}}, 403),
        f"{GRAPH}ODataError (status 403) (request ID: none)\n",
    ),
    "a Graph error without an error": graph_answers(
        json_answer({}, 403), f"{GRAPH}ODataError (status 403) "
    ),
    "a Graph error that is a page": graph_answers(
        Answer(500, PAGE, HTML.headers), f"{GRAPH}The server returned ", "(status 500)"
    ),
    # Microsoft Graph is not itself.
    "a page in place of the user": graph_answers(
        HTML, "Exception: Content type text/html ", hint=PLACE_HINT
    ),
    "nothing in place of the user": graph_answers(
        Answer(200), f"LookupError: {GRAPH_HOST} names no user\n", hint=PLACE_HINT
    ),
    "a user without an ID": graph_answers(json_answer({"id": 5}), "LookupError: ", hint=PLACE_HINT),
    "broken JSON in place of the user": graph_answers(
        Answer(200, b'{"id":', {"Content-Type": "application/json"}),
        "JSONDecodeError: ",
        hint=PLACE_HINT,
    ),
    "a redirect in a circle": graph_answers(
        Answer(302, headers={"Location": f"https://{GRAPH_HOST}/v1.0/me"}),
        "RedirectError: Too many redirects.",
        hint=PLACE_HINT,
    ),
    # The network fails for good.
    "SILENT sign-in host": Case({SIGN_IN_HOST: SILENT}, shows=SIGN_IN, prompts=0),
    "SILENT token": Case({"token": SILENT}, shows=SIGN_IN, also=("Read timed out",)),
    "SILENT Graph host": Case({GRAPH_HOST: SILENT}, shows=f"{GRAPH}ConnectTimeout\n"),
    "SILENT me": Case({"me": SILENT}, shows=f"{GRAPH}ReadTimeout\n"),
    "token is reset": Case({"token": RESET}, shows=SIGN_IN),
    "me is reset": Case({"me": RESET}, shows=f"{GRAPH}ReadError"),
    "discovery is cut off": Case({"discovery": CUT_OFF}, shows=SIGN_IN, prompts=0),
    "me is cut off": Case({"me": CUT_OFF}, shows=f"{GRAPH}RemoteProtocolError: "),
    "the proxy does not reach sign-in": Case(
        {SIGN_IN_HOST: REFUSED}, shows=SIGN_IN, also=("502",), hint=PROXY_HINT, prompts=0
    ),
    "the proxy does not reach Graph": Case(
        {GRAPH_HOST: REFUSED}, shows=f"{GRAPH}ProxyError: 502", hint=PROXY_HINT
    ),
    # This machine.
    "no proxy where HTTPS_PROXY says": machine(SIGN_IN, PROXY_HINT, HTTPS_PROXY=NOBODY_IS_THERE),
    "a proxy password with a slash": machine(
        "InvalidURL\n", PROXY_HINT, HTTPS_PROXY="http://bob:hunt/er2@127.0.0.1:9"
    ),
    "a proxy password with a backslash": machine(
        f"{SIGN_IN}Failed to parse\n", PROXY_HINT, HTTPS_PROXY=r"http://bob:hunt\er2@127.0.0.1:9"
    ),
    "a proxy with a port that is none": machine(
        f"{SIGN_IN}Failed to parse\n", PROXY_HINT, HTTPS_PROXY="http://bob:hunter2@127.0.0.1:99999"
    ),
    "NO_PROXY that httpx cannot read": machine("InvalidURL\n", PROXY_HINT, NO_PROXY="[::1]"),
    "a proxy whose name cannot be resolved": machine(
        # RFC 6761 keeps .invalid free for names that no resolver knows.
        SIGN_IN,
        PROXY_HINT,
        HTTPS_PROXY="http://proxy.invalid:9",
    ),
    "a proxy of another scheme": machine(
        "ValueError: Unknown scheme for proxy URL ", PROXY_HINT, HTTPS_PROXY="ftp://127.0.0.1:9"
    ),
    "a SOCKS proxy": machine(
        "ImportError: Using SOCKS proxy, but ", PROXY_HINT, HTTPS_PROXY="socks5://127.0.0.1:9"
    ),
    "CERTIFICATE_VERIFY_FAILED": machine(
        f"{SIGN_IN}[SSL: CERTIFICATE_VERIFY_FAILED] ", TLS_HINT, REQUESTS_CA_BUNDLE=None
    ),
    "a certificate of Graph that nobody trusts": machine(
        f"{GRAPH}ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] ",
        TLS_HINT,
        SSL_CERT_FILE=None,
        prompts=1,
    ),
    "SSL_CERT_FILE names no file": machine(
        "FileNotFoundError: [Errno 2] No such file ", CA_FILE_HINT, SSL_CERT_FILE="nowhere.pem"
    ),
    "SSL_CERT_FILE names no certificate": machine(
        "SSLError: [X509: NO_CERTIFICATE_OR_CRL_FOUND] ", CA_FILE_HINT, SSL_CERT_FILE=__file__
    ),
    "REQUESTS_CA_BUNDLE names no file": machine(
        f"{SIGN_IN}Could not find a suitable TLS CA certificate bundle, invalid path: nowhere.pem",
        REQUESTS_CA_BUNDLE="nowhere.pem",
    ),
    "a tenant that cannot be one": machine(
        "ValueError: Invalid tenant ID provided.", TENANT_HINT, AZURE_TENANT_ID="contoso/x"
    ),
}
