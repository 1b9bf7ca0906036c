"""How Microsoft Entra ID answers: a function for each endpoint, and a row for each refusal."""

import hashlib
import html
import json
import re
import time

from .answers import Answer, Request, entra_error, entra_headers, json_answer
from .tokens import base64url, seal, unseal
from .world import World

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"  # RFC 8628 section 3.4
# Entra, like RFC 8252 section 7.3, lets a client add any port to the redirect URI.
REDIRECT_URI = "http://localhost"
TENANT_ID = "72f988bf-0000-4000-8000-00005a9db0c5"
TENANT_DOMAIN = "sandbox.example"
# The tenants that there are, and what the issuer of each is called.
ISSUERS = {
    "common": "{tenantid}",
    "organizations": "{tenantid}",
    "consumers": "9188040d-6c67-4c5b-b112-36a304b66dad",
    TENANT_ID: TENANT_ID,
    TENANT_DOMAIN: TENANT_ID,
}
PAGES = {"consumers": "https://www.microsoft.com/link"}
OIDC_SCOPES = {"email", "offline_access", "openid", "profile"}
HOUR = 3600

# The error and the text that go with each AADSTS number.
REFUSALS = {
    50011: "invalid_request: The redirect URI '{}' is none of those of the application '{}'.",
    50059: "invalid_request: No tenant-identifying information found in either the request or "
    "implied by any provided credentials.",
    70000: "invalid_grant: The provided value for the input parameter 'refresh_token' or "
    "'assertion' is not valid.",
    70002: "invalid_client: The client does not exist or is not enabled for consumers.",
    70003: "unsupported_grant_type: The app requested an unsupported grant type '{}'.",
    70008: "invalid_grant: The provided authorization code or refresh token has expired.",
    70011: "invalid_scope: The provided value for the input parameter 'scope' is not valid: {}. "
    "(The sandbox has {}; each further permission needs a Resource.)",
    70016: "authorization_pending: OAuth 2.0 device flow error. Authorization is pending.",
    70020: "expired_token: The provided value for the input parameter 'device_code' is not valid. "
    "This device code has expired.",
    90002: "invalid_tenant: Tenant '{}' not found.",
    501481: "invalid_grant: The Code_Verifier does not match the code_challenge.",
    530035: "invalid_grant: Access has been blocked by security defaults.",
    700016: "unauthorized_client: Application with identifier '{}' was not found in the directory.",
    900023: "invalid_request: '{}' is neither a valid DNS name, nor a valid external domain.",
    900144: "invalid_request: The request body must contain the following parameter: '{}'.",
    7000014: "invalid_grant: The provided value for the input parameter 'device_code' is not "
    "valid.",
}


class Refused(Exception):
    """Entra refuses, with an AADSTS number and the names that its text quotes."""

    def __init__(self, number: int, *names: str) -> None:
        error, text = REFUSALS[number].split(": ", 1)
        self.answer = entra_error(number, error, text.format(*names))


def endpoint(world: World, request: Request) -> str:
    """Return the name of the endpoint that a request is for, or "" if there is none."""
    asked = f"{request.method} {request.path.partition('?')[0]}"
    return next((name for name in ENDPOINTS if re.fullmatch(ENDPOINTS[name][0], asked)), "")


def answer(world: World, request: Request) -> Answer:
    """Return what Entra answers."""
    if not request.endpoint:
        return Answer(404, headers=entra_headers())
    try:
        return ENDPOINTS[request.endpoint][1](world, request.path.split("/")[1], request.form)
    except Refused as refusal:
        return refusal.answer


def instance(world: World, tenant: str, form: dict[str, str]) -> Answer:
    """Name the other hosts of this cloud: there are none. MSAL asks for them before a refresh."""
    host = world.sign_in_host
    names = {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
    return json_answer({"metadata": [names]})


def discovery(world: World, tenant: str, form: dict[str, str]) -> Answer:
    """Describe a tenant (OpenID Connect Discovery 1.0 section 4)."""
    check_tenant(tenant)
    host = f"https://{world.sign_in_host}"
    content = {
        "issuer": f"{host}/{ISSUERS[tenant]}/v2.0",
        "authorization_endpoint": f"{host}/{tenant}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{host}/{tenant}/oauth2/v2.0/devicecode",
        "token_endpoint": f"{host}/{tenant}/oauth2/v2.0/token",
    }
    return json_answer(content)


def devicecode(world: World, tenant: str, form: dict[str, str]) -> Answer:
    """Begin a sign-in with a code (RFC 8628 section 3.1)."""
    check_client(world, tenant, form)
    check_scope(world, form)
    page = PAGES.get(tenant, "https://login.microsoft.com/device")
    content = {
        "user_code": "SANDBOX42",
        "device_code": seal("device code", world.expires_in, scope=form["scope"]),
        "verification_uri": page,
        "expires_in": world.expires_in,
        "interval": world.interval,
        "message": f"To sign in, open the page {page} and enter the code SANDBOX42.",
    }
    return json_answer(content, headers=entra_headers())


def authorize(world: World, tenant: str, form: dict[str, str]) -> Answer:
    """Give a browser the page that takes a code to the program (RFC 6749 section 4.1.2).

    As MSAL asks for it, that is by form_post, with a challenge by S256.
    """
    check_client(world, tenant, form)
    redirect_uri = form.get("redirect_uri", "")
    if re.sub(r":\d+$", "", redirect_uri) != REDIRECT_URI:
        raise Refused(50011, redirect_uri, world.client_id)
    # Now that Entra knows where the program waits, that is told what is wrong, and no longer the
    # user in the browser (RFC 6749 section 4.1.2.1).
    try:
        check_scope(world, form)
        sent = {"code": seal("code", HOUR, **form)}
    except Refused as refusal:
        content = json.loads(refusal.answer.body)
        sent = {name: content[name] for name in ("error", "error_description")}
    page = f'<form method="POST" action="{html.escape(redirect_uri)}">'
    for name, value in {"state": form.get("state", ""), **sent}.items():
        page += f'<input type="hidden" name="{name}" value="{html.escape(value)}" />'
    headers = {**entra_headers(), "Content-Type": "text/html; charset=utf-8"}
    return Answer(200, f"<html><body>{page}</form></body></html>".encode(), headers)


def token(world: World, tenant: str, form: dict[str, str]) -> Answer:
    """Give the tokens for a grant."""
    check_client(world, tenant, form)
    grants = {"authorization_code": redeem, "refresh_token": refresh, DEVICE_CODE_GRANT: poll}
    grant = required("grant_type", form)
    if grant not in grants:
        raise Refused(70003, grant)
    return grants[grant](world, form)


def poll(world: World, form: dict[str, str]) -> Answer:
    """Answer whether the user has signed in (RFC 8628 section 3.4)."""
    code = required("device_code", form)
    begun = unseal("device code", code, expired=True)
    if not begun or code in world.used_codes:
        raise Refused(7000014)
    if time.time() > begun["expires_at"]:
        raise Refused(70020)
    world.polls[code] += 1
    if world.pending is None or world.polls[code] <= world.pending:
        raise Refused(70016)
    if not world.device_codes:
        raise Refused(530035)
    world.used_codes.add(code)
    return issue(world, begun["scope"], form)


def redeem(world: World, form: dict[str, str]) -> Answer:
    """Take a browser's code (RFC 6749 section 4.1.3, RFC 7636 section 4.6)."""
    code = form.get("code", "")
    query = unseal("code", code)
    if not query or code in world.used_codes or form.get("redirect_uri") != query["redirect_uri"]:
        raise Refused(70008)
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    if base64url(digest) != query.get("code_challenge"):
        raise Refused(501481)
    world.used_codes.add(code)
    return issue(world, query["scope"], form, query.get("nonce"))


def refresh(world: World, form: dict[str, str]) -> Answer:
    """Give new tokens for a refresh token (RFC 6749 section 6)."""
    granted = unseal("refresh token", form.get("refresh_token", ""))
    if not granted:
        raise Refused(70000)
    form = {"scope": granted["scope"], **form}
    check_scope(world, form)
    return issue(world, form["scope"], form)


def issue(world: World, scope: str, form: dict[str, str], nonce: str | None = None) -> Answer:
    """Give tokens (RFC 6749 section 5.1)."""
    granted = " ".join(name for name in scope.split() if name not in OIDC_SCOPES)
    claims = json.loads(form.get("claims") or "{}").get("access_token", {})
    id_token = {
        "aud": world.client_id,
        "iss": f"https://{world.sign_in_host}/{TENANT_ID}/v2.0",
        "exp": int(time.time()) + HOUR,
        "nonce": nonce,
        "preferred_username": world.user.get("userPrincipalName"),
        "sub": "sandbox-subject",
        "tid": TENANT_ID,
    }
    parts = [{"typ": "JWT", "alg": "RS256"}, id_token, "signature"]
    client_info = {"uid": world.user.get("id"), "utid": TENANT_ID}
    content = {
        "token_type": "Bearer",
        "scope": f"{granted} profile openid email",
        "expires_in": HOUR,
        "access_token": seal("access token", HOUR, scope=granted, claims=claims),
        "refresh_token": seal("refresh token", 2160 * HOUR, scope=scope),
        "id_token": ".".join(base64url(json.dumps(part).encode()) for part in parts),
        "client_info": base64url(json.dumps(client_info).encode()),
    }
    return json_answer(content, headers=entra_headers())


def required(name: str, form: dict[str, str]) -> str:
    if not form.get(name):
        raise Refused(900144, name)
    return form[name]


def check_tenant(tenant: str) -> None:
    if tenant not in ISSUERS:
        raise Refused(90002 if re.search("[.-]", tenant) else 900023, tenant)


def check_client(world: World, tenant: str, form: dict[str, str]) -> None:
    check_tenant(tenant)
    client_id = required("client_id", form)
    if client_id != world.client_id:
        numbers = {"common": 50059, "organizations": 50059, "consumers": 70002}
        raise Refused(numbers.get(tenant, 700016), client_id)


def check_scope(world: World, form: dict[str, str]) -> None:
    permissions = {resource.permission for resource in world.everything().values()}
    for scope in required("scope", form).split():
        # If bare, Graph's: https://learn.microsoft.com/entra/identity-platform/scopes-oidc
        permission = scope.removeprefix(f"https://{world.graph_host}/")
        if permission not in permissions and scope not in OIDC_SCOPES:
            raise Refused(70011, scope, ", ".join(sorted(permissions)))


# The name of each endpoint, the requests that are for it, and what answers them.
ENDPOINTS = {
    "instance": ("GET /common/discovery/instance", instance),
    "discovery": (r"GET /[^/]+/v2\.0/\.well-known/openid-configuration", discovery),
    "authorize": (r"GET /[^/]+/oauth2/v2\.0/authorize", authorize),
    "devicecode": (r"POST /[^/]+/oauth2/v2\.0/devicecode", devicecode),
    "token": (r"POST /[^/]+/oauth2/v2\.0/token", token),
}
