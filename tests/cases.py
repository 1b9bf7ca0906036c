"""What can go wrong, and what the person must then see: a row a case."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from .program import Variables
from .sandbox import (
    GRAPH_HOST,
    SIGN_IN_HOST,
    Answer,
    Fault,
    entra_error,
    graph_error,
    json_answer,
)

TENANT_HINT = "Set AZURE_TENANT_ID, now {tenant!r}, to your Directory (tenant) ID or common."
EXPIRED_HINT = "Run it again, and sign in while the code that it shows is valid."
CA_HINT = (
    "If your network inspects TLS, name its CA file in REQUESTS_CA_BUNDLE (for sign-in) and in "
    "SSL_CERT_FILE (for Microsoft Graph)."
)
NOBODY_IS_THERE = "http://127.0.0.1:9"
HTML = Answer(200, b"<html><script>alert(1)</script></html>", {"Content-Type": "text/html"})
SIGN_IN_SILENT = "Sign-in: no usable answer from login.microsoftonline.com through the proxy: "
GRAPH_SILENT = "Microsoft Graph: no usable answer from graph.microsoft.com through the proxy: "


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    `answers` replace those of the endpoints, for good or, with `times`, only so often.
    `variables` change the environment, `expires_in` the life of the code in seconds. `shows` is
    how the first line after the prompts begins, `also` what else must be in it, and `hint` the
    whole second line. Where `greets`, the person sees the prompts and the greeting, nothing else.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    times: int | None = None
    variables: Variables = field(default_factory=dict)
    expires_in: int = 900
    shows: str = ""
    also: tuple[str, ...] = ()
    hint: str = ""
    prompts: int = 1
    greets: bool = False


def refused(
    number: int | None, error: str, text: str, hint: str, status: int = 400, **more: str
) -> Case:
    """Returns the case of a refusal by Entra's token endpoint: the whole description is shown."""
    answer = entra_error(number, error, text, status, **more)
    return Case({"token": answer}, shows=f"Sign-in: {description(answer)}", hint=hint)


def not_begun(number: int, error: str, text: str, hint: str) -> Case:
    """Returns the case of a refusal by Entra's devicecode endpoint."""
    answer = entra_error(number, error, text)
    shows = f"Sign-in: Couldn't begin authentication: {description(answer)}"
    return Case({"devicecode": answer}, shows=shows, hint=hint, prompts=0)


def description(answer: Answer) -> str:
    """Returns the error_description of a refusal of Entra."""
    return str(json.loads(answer.body)["error_description"])


def graph_refused(status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> Case:
    """Returns the case of a refusal by Microsoft Graph."""
    answer = graph_error(status, code, message, headers)
    shows = f"Microsoft Graph: HTTP {status}, {code}, {message}, request ID "
    return Case({"me": answer}, shows=shows + answer.headers["request-id"])


def sign_in_is_not_itself() -> dict[str, Case]:
    """Returns the cases in which an endpoint of sign-in sends no answer of Entra."""
    answers = {
        f"{status} with {name}": Answer(status, body, {"Content-Type": "application/json"})
        for status in (200, 400)
        for name, body in {
            "nothing": b"",
            "an object without fields": b"{}",
            "a list": b"[]",
            "bytes that are no text": b'{"error": "\xff"}',
        }.items()
    }
    answers |= {
        f"{status} with a page": Answer(status, HTML.body, HTML.headers)
        for status in (200, 204, 302, 401, 429, 503)
    }
    return {
        f"{endpoint} answers {name}": Case(
            {endpoint: answer},
            shows="Sign-in: ",
            hint=EXPIRED_HINT if endpoint == "token" and answer.body == b"{}" else "",
            prompts=1 if endpoint == "token" else 0,
        )
        for endpoint in ("discovery", "devicecode", "token")
        for name, answer in answers.items()
    }


def passing() -> dict[str, Case]:
    """Returns the cases of faults that pass: the person sees nothing of them."""
    cases = {
        f"{endpoint} once answers {status}": Case(
            {endpoint: Answer(status, b"<html>")}, times=1, greets=True
        )
        for endpoint in ("discovery", "devicecode", "token")
        for status in (429, 503)
    }
    for endpoint in ("discovery", "devicecode", "token"):
        for fault in (Fault.RESET, Fault.CUT_OFF):
            cases[f"{endpoint} once fails: {fault.name}"] = Case(
                {endpoint: Answer(fault=fault)}, times=1, greets=True
            )
    for status in (429, 503, 504):
        cases[f"me once answers {status}"] = Case(
            {"me": Answer(status, headers={"Retry-After": "1"})}, times=1, greets=True
        )
    return cases


def unreachable() -> dict[str, Case]:
    """Returns the cases of a network that fails for good."""
    cases = {}
    for fault in Fault:
        said = "TimeoutError" if fault is Fault.SILENT else ""
        sign_in, graph = SIGN_IN_SILENT + said, GRAPH_SILENT + said
        for endpoint, shows, prompts in [
            (SIGN_IN_HOST, sign_in, 0),
            ("discovery", sign_in, 0),
            ("devicecode", sign_in, 0),
            ("token", sign_in, 1),
            (GRAPH_HOST, graph, 1),
            ("me", graph, 1),
        ]:
            cases[f"{endpoint} fails: {fault.name}"] = Case(
                {endpoint: Answer(fault=fault)}, shows=shows, prompts=prompts
            )
    return cases


CASES: dict[str, Case] = {
    # Entra refuses.
    "AADSTS7000218": refused(
        7000218,
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or "
        "'client_secret'.",
        "Set Allow public client flows to Yes in the app registration; add no secret.",
        status=401,
    ),
    "AADSTS700016": not_begun(
        700016,
        "unauthorized_client",
        "Application with identifier 'X' was not found in the directory 'Y'.",
        "Set AZURE_CLIENT_ID to the Application (client) ID, not the Object ID, and "
        "AZURE_TENANT_ID to its tenant.",
    ),
    "AADSTS50059": not_begun(
        50059,
        "invalid_request",
        "No tenant-identifying information found in either the request or implied by any provided "
        "credentials.",
        "Set AZURE_TENANT_ID to your Directory (tenant) ID, and check AZURE_CLIENT_ID.",
    ),
    "AADSTS50194": not_begun(
        50194,
        "invalid_request",
        "Application 'X' is not configured as a multi-tenant application. Usage of the /common "
        "endpoint is not supported for such apps.",
        "Set AZURE_TENANT_ID to the Directory (tenant) ID of your app registration.",
    ),
    "AADSTS9002331": not_begun(
        9002331,
        "invalid_request",
        "Application 'X' is configured for use by Microsoft Account users only. Please use the "
        "/consumers endpoint to serve this request.",
        "Set AZURE_TENANT_ID to consumers.",
    ),
    "AADSTS70002": not_begun(
        70002,
        "invalid_client",
        "The client application must be marked as 'mobile.'",
        "Set Allow public client flows to Yes in the app registration; add no secret.",
    ),
    "AADSTS90002": Case(
        variables={"AZURE_TENANT_ID": "elsewhere.example"},
        shows=SIGN_IN_SILENT + "ValueError: Unable to get authority configuration for "
        "https://login.microsoftonline.com/elsewhere.example.",
        hint=TENANT_HINT.format(tenant="elsewhere.example"),
        prompts=0,
    ),
    "AADSTS900023": Case(
        variables={"AZURE_TENANT_ID": "nonsense"},
        shows=SIGN_IN_SILENT + "ValueError: Unable to get authority configuration for "
        "https://login.microsoftonline.com/nonsense.",
        hint=TENANT_HINT.format(tenant="nonsense"),
        prompts=0,
    ),
    "AADSTS65001": refused(
        65001,
        "invalid_grant",
        "The user or administrator has not consented to use the application with ID 'X'.",
        "Run it again and consent, or ask an administrator to consent.",
        suberror="consent_required",
    ),
    "AADSTS53003": refused(
        53003,
        "invalid_grant",
        "Access has been blocked by Conditional Access policies.",
        "Ask an administrator to allow device codes, or use another credential.",
    ),
    "AADSTS50076": refused(
        50076,
        "interaction_required",
        "Due to a configuration change made by your administrator, or because you moved to a new "
        "location, you must use multi-factor authentication to access 'X'.",
        "Run it again, and sign in with multi-factor authentication.",
    ),
    "AADSTS70020": refused(
        70020,
        "expired_token",
        "The provided value for the input parameter 'device_code' is not valid. This device code "
        "has expired.",
        EXPIRED_HINT,
    ),
    "authorization_declined": refused(
        None,
        "authorization_declined",
        "The end user denied the authorization request.",
        "Run it again, and approve the sign-in.",
    ),
    "an AADSTS code that nobody has heard of": refused(
        1234567, "invalid_grant", "Something that is not AADSTS53003.", ""
    ),
    "a refusal that mentions another code": not_begun(
        1234567, "invalid_request", "Something that is not AADSTS53003.", ""
    ),
    "a refusal without error_codes": Case(
        {"token": json_answer({"error": "x", "error_description": "AADSTS65001: No."}, 400)},
        shows="Sign-in: AADSTS65001: No.\n",
        hint="Run it again and consent, or ask an administrator to consent.",
    ),
    "nobody signs in": Case(
        {"token": entra_error(70016, "authorization_pending", "Pending.")},
        expires_in=1,
        shows="Sign-in: Timed out waiting for user to authenticate",
        hint=EXPIRED_HINT,
    ),
    # Entra is not itself.
    **sign_in_is_not_itself(),
    "a description of several lines with control characters": Case(
        {"token": json_answer({"error": "x", "error_description": "a\r\nb\x1b[2J\u202e"}, 400)},
        shows="Sign-in: a b\ufffd[2J\ufffd",
    ),
    "an error without a description": Case(
        {"token": json_answer({"error": "server_error"}, 400)}, shows="Sign-in: server_error"
    ),
    # What passes.
    **passing(),
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
    "HTTP 404": graph_refused(
        404, "Request_ResourceNotFound", "Resource 'X' does not exist or is not present."
    ),
    "HTTP 429": graph_refused(
        429, "TooManyRequests", "Please retry again later.", {"Retry-After": "1"}
    ),
    "HTTP 500": graph_refused(500, "generalException", "General exception while processing."),
    "HTTP 503": graph_refused(
        503, "serviceNotAvailable", "Service unavailable", {"Retry-After": "1"}
    ),
    "a Graph error with nothing but a code": Case(
        {"me": json_answer({"error": {"code": "Forbidden"}}, 403)},
        shows="Microsoft Graph: HTTP 403, Forbidden\n",
    ),
    "a Graph error with the request ID in the body only": Case(
        {"me": json_answer({"error": {"code": "C", "innerError": {"request-id": "R"}}}, 403)},
        shows="Microsoft Graph: HTTP 403, C, request ID R\n",
    ),
    "a Graph error with the request ID in a header only": Case(
        {"me": json_answer({"error": {"message": "M"}}, 403, {"request-id": "R"})},
        shows="Microsoft Graph: HTTP 403, M, request ID R\n",
    ),
    "a Graph error of the wrong shape": Case(
        {"me": json_answer({"error": {"code": 5, "message": [], "innerError": "x"}}, 403)},
        shows="Microsoft Graph: HTTP 403\n",
    ),
    "a Graph error without an error": Case(
        {"me": json_answer({}, 403)}, shows="Microsoft Graph: HTTP 403\n"
    ),
    "an empty Graph error": Case({"me": Answer(403)}, shows="Microsoft Graph: HTTP 403, "),
    "a Graph error that is a page": Case(
        {"me": Answer(500, HTML.body, HTML.headers)}, shows="Microsoft Graph: HTTP 500, "
    ),
    # Microsoft Graph is not itself.
    "a page in place of the user": Case({"me": HTML}, shows=GRAPH_SILENT, also=("text/html",)),
    "nothing in place of the user": Case(
        {"me": Answer(200)}, shows=GRAPH_SILENT + "LookupError: it does not describe a user"
    ),
    "HTTP 204": Case({"me": Answer(204)}, shows=GRAPH_SILENT),
    "broken JSON in place of the user": Case(
        {"me": Answer(200, b'{"id":', {"Content-Type": "application/json"})},
        shows=GRAPH_SILENT + "JSONDecodeError: ",
    ),
    "bytes in place of the user": Case(
        {"me": Answer(200, b'{"id": "\xff"}', {"Content-Type": "application/json"})},
        shows=GRAPH_SILENT + "UnicodeDecodeError: ",
    ),
    "a list in place of the user": Case({"me": json_answer([{"id": "1"}])}, shows=GRAPH_SILENT),
    "null in place of the user": Case({"me": json_answer(None)}, shows=GRAPH_SILENT),
    "a user of the wrong types": Case(
        {"me": json_answer({"id": 5, "displayName": ["x"]})}, shows=GRAPH_SILENT
    ),
    "a user without an ID": Case(
        {"me": json_answer({"id": "", "displayName": "Ada"})}, shows=GRAPH_SILENT
    ),
    "a redirect to another host": Case(
        {"me": Answer(302, headers={"Location": "https://elsewhere.example/me"})},
        shows=GRAPH_SILENT,
    ),
    "a redirect to plain http": Case(
        {"me": Answer(302, headers={"Location": f"http://{GRAPH_HOST}/v1.0/me"})},
        shows=GRAPH_SILENT,
    ),
    "a redirect to nowhere": Case({"me": Answer(302)}, shows="Microsoft Graph: HTTP 302, "),
    "a redirect in a circle": Case(
        {"me": Answer(302, headers={"Location": f"https://{GRAPH_HOST}/v1.0/me"})},
        shows=GRAPH_SILENT + "RedirectError: Too many redirects.",
    ),
    # The network.
    **unreachable(),
    "no proxy where HTTPS_PROXY says": Case(
        variables={"HTTPS_PROXY": NOBODY_IS_THERE},
        shows=SIGN_IN_SILENT + "ConnectionRefusedError: ",
        prompts=0,
    ),
    "a proxy that asks for a password": Case(
        {SIGN_IN_HOST: Answer(407)},
        shows=SIGN_IN_SILENT + "OSError: Tunnel connection failed: 407 ",
        prompts=0,
    ),
    "a proxy whose password is no part of a URL": Case(
        variables={"HTTPS_PROXY": "http://bob:hunt/er2@127.0.0.1:9"},
        shows="This machine: the proxy in HTTPS_PROXY or ALL_PROXY is not a valid URL\n",
        prompts=0,
    ),
    "a proxy that is passed by": Case(
        # The missing file ends it before anything is sent past the sandbox.
        variables={"NO_PROXY": "*", "REQUESTS_CA_BUNDLE": "nowhere.pem"},
        shows="Sign-in: no usable answer from login.microsoftonline.com: OSError: ",
        prompts=0,
    ),
    "a SOCKS proxy": Case(
        variables={"HTTPS_PROXY": "socks5://127.0.0.1:9"},
        shows="This machine: Using SOCKS proxy, but ",
        prompts=0,
    ),
    "a proxy whose name cannot be resolved": Case(
        # RFC 6761 keeps .invalid free for names that no resolver knows.
        variables={"HTTPS_PROXY": "http://proxy.invalid:9"},
        shows=SIGN_IN_SILENT + "gaierror: ",
        prompts=0,
    ),
    "CERTIFICATE_VERIFY_FAILED": Case(
        variables={"REQUESTS_CA_BUNDLE": None},
        shows=SIGN_IN_SILENT + "SSLCertVerificationError: ",
        hint=CA_HINT,
        prompts=0,
    ),
    "a certificate of Graph that nobody trusts": Case(
        variables={"SSL_CERT_FILE": None},
        shows=GRAPH_SILENT + "SSLCertVerificationError: ",
        hint=CA_HINT,
    ),
    "SSL_CERT_FILE names no file": Case(
        variables={"SSL_CERT_FILE": "nowhere.pem"},
        shows="This machine: [Errno 2] No such file or directory",
        hint="Set SSL_CERT_FILE to a file that exists, or unset it.",
        prompts=0,
    ),
    "REQUESTS_CA_BUNDLE names no file": Case(
        variables={"REQUESTS_CA_BUNDLE": "nowhere.pem"},
        shows=SIGN_IN_SILENT,
        also=("nowhere.pem",),
        prompts=0,
    ),
    # Settings; those of the client ID are in test_get_user.py.
    **{
        f"the tenant {tenant!r}": Case(
            variables={"AZURE_TENANT_ID": tenant},
            shows=TENANT_HINT.format(tenant=tenant),
            prompts=0,
        )
        for tenant in ("a b", "contoso/x", "../x", "contoso.com?x", "ténant", "\x1b[2J")
    },
    **{
        f"the tenant {tenant!r}": Case(variables={"AZURE_TENANT_ID": tenant}, greets=True)
        for tenant in (
            "72f988bf-0000-4000-8000-00005a9db0c5",
            "sandbox.example",
            "organizations",
            "consumers",
        )
    },
}
