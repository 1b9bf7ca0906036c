"""Microsoft Entra ID: a function for each endpoint, and a row for each refusal."""

import re
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from . import graph
from .answers import Answer, Request, base64url, json_answer, seal, unseal

if TYPE_CHECKING:
    from .sandbox import Sandbox

HOST = "login.microsoftonline.com"
CLIENT_ID = "5a9db0c5-0000-4000-8000-00000000c11e"
TENANT_ID = "72f988bf-0000-4000-8000-00005a9db0c5"
# What each tenant says of a client ID that it does not know.
TENANTS = {"common": 50059, "organizations": 50059, "consumers": 70002, TENANT_ID: 700016}
OIDC_SCOPES = {"email", "offline_access", "openid", "profile"}
HOUR = 3600

NOT_VALID = "The provided value for the input parameter 'device_code' is not valid."
# The error and the text that go with each AADSTS number.
REFUSALS = {
    50011: "invalid_request: The redirect URI '{}' is none of those of the application.",
    50059: "invalid_request: No tenant-identifying information found in either the request or "
    "implied by any provided credentials.",
    70002: "invalid_client: The client does not exist or is not enabled for consumers.",
    70003: "unsupported_grant_type: The app requested an unsupported grant type '{}'.",
    70008: "invalid_grant: The provided authorization code or refresh token has expired.",
    70011: "invalid_scope: The provided value for the input parameter 'scope' is not valid: {}. "
    "(The sandbox has {}; each further permission needs a Resource.)",
    70016: "authorization_pending: OAuth 2.0 device flow error. Authorization is pending.",
    70020: f"expired_token: {NOT_VALID} This device code has expired.",
    90002: "invalid_tenant: Tenant '{}' not found.",
    530035: "invalid_grant: Access has been blocked by security defaults.",
    700016: "unauthorized_client: Application with identifier '{}' was not found in the directory.",
    900023: "invalid_request: '{}' is neither a valid DNS name, nor a valid external domain.",
    7000014: f"invalid_grant: {NOT_VALID}",
}


class Refused(Exception):
    """Entra refuses, with an AADSTS number and the names that its text quotes."""

    def __init__(self, number: int, *names: str) -> None:
        self.error, text = REFUSALS[number].split(": ", 1)
        self.text = f"AADSTS{number}: {text.format(*names)}"
        self.answer = entra_error(number, self.error, text.format(*names))


def endpoint(sandbox: "Sandbox", request: Request) -> str:
    asked = f"{request.method} {request.path.partition('?')[0]}"
    return next((name for name in ENDPOINTS if re.fullmatch(ENDPOINTS[name][0], asked)), "")


def answer(sandbox: "Sandbox", request: Request) -> Answer:
    if not request.endpoint:
        return Answer(404)
    tenant, form = request.path.split("/")[1], request.form
    try:
        if tenant not in TENANTS:
            raise Refused(90002 if re.search("[.-]", tenant) else 900023, tenant)
        client_id = form.get("client_id", "")
        if request.endpoint not in ("discovery", "instance") and client_id != CLIENT_ID:
            raise Refused(TENANTS[tenant], client_id)
        return ENDPOINTS[request.endpoint][1](sandbox, tenant, form)
    except Refused as refusal:
        return refusal.answer


def instance(sandbox: "Sandbox", tenant: str, form: dict[str, str]) -> Answer:
    """Name the hosts that share tokens: MSAL asks before it looks for tokens of other hosts."""
    hosts = {"preferred_network": HOST, "preferred_cache": HOST, "aliases": [HOST]}
    return json_answer({"metadata": [hosts]})


def discovery(sandbox: "Sandbox", tenant: str, form: dict[str, str]) -> Answer:
    """Describe a tenant (OpenID Connect Discovery 1.0 section 4)."""
    content = {
        "issuer": f"https://{HOST}/{{tenantid}}/v2.0",  # a template, as on common
        "authorization_endpoint": f"https://{HOST}/{tenant}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"https://{HOST}/{tenant}/oauth2/v2.0/devicecode",
        "token_endpoint": f"https://{HOST}/{tenant}/oauth2/v2.0/token",
    }
    return json_answer(content)


def devicecode(sandbox: "Sandbox", tenant: str, form: dict[str, str]) -> Answer:
    """Begin a sign-in with a code (RFC 8628 section 3.1)."""
    check_scope(sandbox, form["scope"])
    page = "https://login.microsoft.com/device"
    content = {
        "user_code": "SANDBOX42",
        "device_code": seal("device code", sandbox.expires_in, scope=form["scope"]),
        "verification_uri": page,
        "expires_in": sandbox.expires_in,
        "interval": sandbox.interval,
        "message": f"To sign in, open the page {page} and enter the code SANDBOX42.",
    }
    return json_answer(content)


def authorize(sandbox: "Sandbox", tenant: str, form: dict[str, str]) -> Answer:
    """Give browser.py the form that takes a code to the program (RFC 6749 section 4.1.2)."""
    if not re.fullmatch(r"http://localhost(:\d+)?", form["redirect_uri"]):  # RFC 8252 section 7.3
        raise Refused(50011, form["redirect_uri"])
    fields = {"state": form["state"]}
    try:
        check_scope(sandbox, form["scope"])
        fields["code"] = seal("code", HOUR, **form)
    except Refused as refusal:  # which the program is told, not the user in the browser
        fields |= {"error": refusal.error, "error_description": refusal.text}
    return json_answer({"action": form["redirect_uri"], "fields": fields})


def token(sandbox: "Sandbox", tenant: str, form: dict[str, str]) -> Answer:
    """Give the tokens for a grant."""
    grant = form.get("grant_type", "")
    if grant == "urn:ietf:params:oauth:grant-type:device_code":  # RFC 8628 section 3.4
        return poll(sandbox, form.get("device_code", ""))
    if grant == "authorization_code":  # RFC 6749 section 4.1.3
        asked = unseal("code", form.get("code", ""))
        if not asked:
            raise Refused(70008)
        return tokens(sandbox, asked["scope"], asked.get("nonce"))
    if grant == "refresh_token":  # RFC 6749 section 6
        if not unseal("refresh token", form.get("refresh_token", "")):
            raise Refused(70008)
        check_scope(sandbox, form["scope"])
        return tokens(sandbox, form["scope"])
    raise Refused(70003, grant)


def poll(sandbox: "Sandbox", code: str) -> Answer:
    """Answer whether the user has signed in."""
    begun = unseal("device code", code, expired=True)
    if not begun:
        raise Refused(7000014)
    if time.time() > begun["expires_at"]:
        raise Refused(70020)
    if sandbox.pending > 0:
        sandbox.pending -= 1
        raise Refused(70016)
    if not sandbox.device_codes:
        raise Refused(530035)
    return tokens(sandbox, begun["scope"])


def tokens(sandbox: "Sandbox", scope: str, nonce: str | None = None) -> Answer:
    """Give tokens (RFC 6749 section 5.1)."""
    granted = " ".join(name for name in scope.split() if name not in OIDC_SCOPES)
    id_token = {
        "aud": CLIENT_ID,
        "iss": f"https://{HOST}/{TENANT_ID}/v2.0",
        "exp": int(time.time()) + HOUR,
        "nonce": nonce,
        "preferred_username": sandbox.user["userPrincipalName"],
        "tid": TENANT_ID,
    }
    content = {
        "token_type": "Bearer",
        "scope": f"{granted} profile openid email",
        "expires_in": HOUR,
        "access_token": seal("access token", HOUR, scope=granted),
        "refresh_token": seal("refresh token", 2160 * HOUR),
        "id_token": f"header.{base64url(id_token)}.signature",
        "client_info": base64url({"uid": sandbox.user["id"], "utid": TENANT_ID}),
    }
    return json_answer(content)


def check_scope(sandbox: "Sandbox", scopes: str) -> None:
    permissions = {resource.permission for resource in graph.resources(sandbox).values()}
    for scope in scopes.split():
        # If bare, Graph's: https://learn.microsoft.com/entra/identity-platform/scopes-oidc
        permission = scope.removeprefix(f"https://{graph.HOST}/")
        if permission not in permissions and scope not in OIDC_SCOPES:
            raise Refused(70011, scope, ", ".join(sorted(permissions)))


def entra_error(number: int, error: str, text: str, status: int = 400) -> Answer:
    """Return a refusal of Entra; `error` is that of RFC 6749 section 5.2 or RFC 8628 section 3.5.

    See https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
    """
    trace_id, correlation_id = str(uuid.uuid4()), str(uuid.uuid4())
    timestamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    ids = f"Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
    content = {
        "error": error,
        "error_description": f"AADSTS{number}: {text} {ids}",
        "error_codes": [number],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
    }
    if number != 7000014:  # with which Entra sends no page
        content["error_uri"] = f"https://{HOST}/error?code={number}"
    return json_answer(content, status)


# The name of each endpoint, the requests that are for it, and what answers them.
ENDPOINTS = {
    "instance": (r"GET /[^/]+/discovery/instance", instance),
    "discovery": (r"GET /[^/]+/v2\.0/\.well-known/openid-configuration", discovery),
    "authorize": (r"GET /[^/]+/oauth2/v2\.0/authorize", authorize),
    "devicecode": (r"POST /[^/]+/oauth2/v2\.0/devicecode", devicecode),
    "token": (r"POST /[^/]+/oauth2/v2\.0/token", token),
}
