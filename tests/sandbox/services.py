"""How Microsoft Entra ID and Microsoft Graph decide what to answer.

Both are plain state and functions from a request to an `Answer`; nothing here knows about sockets.
They accept what the real services accept for one registered app and one user, and refuse the rest.
"""

import base64
import hashlib
import html
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .answers import (
    Answer,
    authorization_pending,
    entra_error,
    entra_headers,
    graph_error,
    graph_headers,
    json_answer,
)

SIGN_IN_HOST = "login.microsoftonline.com"
GRAPH_HOST = "graph.microsoft.com"
DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
"""The grant type of RFC 8628 section 3.4."""

REDIRECT_URI = "http://localhost"
"""The app's redirect URI. Entra, like RFC 8252 section 7.3, lets a client add any port to it."""

TENANT_ID = "72f988bf-0000-4000-8000-00005a9db0c5"
TENANT_DOMAIN = "sandbox.example"
ISSUERS = {
    "common": "{tenantid}",
    "organizations": "{tenantid}",
    "consumers": "9188040d-6c67-4c5b-b112-36a304b66dad",
    TENANT_ID: TENANT_ID,
    TENANT_DOMAIN: TENANT_ID,
}
"""The tenants that there are, and what the issuer of each is called."""

USER_CODE = "SANDBOX42"
OIDC_SCOPES = {"email", "offline_access", "openid", "profile"}
LIFETIME = 3600
"""Seconds for which a token is said to be valid: longer than a sandbox lasts."""

REFUSALS = {
    50011: "invalid_request: The redirect URI '{}' specified in the request does not match the "
    "redirect URIs configured for the application '{}'.",
    50059: "invalid_request: No tenant-identifying information found in either the request or "
    "implied by any provided credentials.",
    70000: "invalid_grant: The provided value for the input parameter 'refresh_token' or "
    "'assertion' is not valid.",
    70002: "invalid_client: The client does not exist or is not enabled for consumers.",
    70003: "unsupported_grant_type: The app requested an unsupported grant type '{}'.",
    70008: "invalid_grant: The provided authorization code or refresh token has expired due to "
    "inactivity. Send a new interactive authorization request for this user and resource.",
    70011: "invalid_scope: The provided value for the input parameter 'scope' is not valid. "
    "The scope {} is not valid.",
    70020: "expired_token: The provided value for the input parameter 'device_code' is not valid. "
    "This device code has expired.",
    90002: "invalid_tenant: Tenant '{}' not found.",
    501481: "invalid_grant: The Code_Verifier does not match the code_challenge supplied in the "
    "authorization request.",
    530035: "invalid_grant: Access has been blocked by security defaults.",
    700016: "unauthorized_client: Application with identifier '{}' was not found in the directory "
    "'{}'.",
    900023: "invalid_request: Specified tenant identifier '{}' is neither a valid DNS name, nor a "
    "valid external domain.",
    900144: "invalid_request: The request body must contain the following parameter: '{}'.",
    7000014: "invalid_grant: The provided value for the input parameter 'device_code' is not "
    "valid.",
}
"""The error and the text that go with each AADSTS number."""


@dataclass(frozen=True)
class Request:
    """One request as it arrived.

    `endpoint` is the name of the answer it asked for: "discovery", "devicecode", "authorize",
    "token", "instance", "me" or the path of another resource of Graph, a host name if it is a
    CONNECT that got a replaced answer, or "" for anything else, a CONNECT to a host that the
    sandbox does not play included. Header names are in lower case.
    """

    endpoint: str
    host: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    http_version: str = "1.1"

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form body, in the order in which they arrived."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query, in the order in which they arrived."""
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))


@dataclass(frozen=True)
class Resource:
    """What Graph answers at a path, and the permission that the access token needs for it."""

    permission: str
    content: Mapping[str, Any]


@dataclass
class DeviceCode:
    """A sign-in that waits for its user; `expires_at` is a time of time.monotonic()."""

    scope: str
    expires_at: float
    polls: int = 0


@dataclass(frozen=True)
class Token:
    """What an access token stands for."""

    scope: str
    claims: dict[str, Any]


@dataclass(kw_only=True)
class Entra:
    """The identity platform at `host`, with one registered app and one user.

    `user` is what Graph says of the user, and `permissions` are those of Graph, at `graph_host`,
    that the app may ask for. `interval` and `expires_in` are in seconds. A sign-in with a device
    code is pending for `pending` polls, or forever if that is None, and then approved, or refused
    without `device_codes`; one in a browser is approved at once.
    """

    client_id: str
    user: dict[str, Any]
    permissions: set[str]
    host: str
    graph_host: str
    pending: int | None
    interval: int
    expires_in: int
    device_codes: bool
    access_tokens: dict[str, Token] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    _refresh_tokens: dict[str, str] = field(default_factory=dict)
    _device_codes: dict[str, DeviceCode] = field(default_factory=dict)
    _signed_in: dict[str, dict[str, str]] = field(default_factory=dict)

    endpoints = ("authorize", "devicecode", "discovery", "instance", "token")

    def find(self, request: Request) -> tuple[str, Callable[[], Answer]]:
        """Returns the name of the endpoint that a request is for, and what answers it."""
        path = request.path.partition("?")[0]
        match request.method, path.split("/")[1:]:
            case "GET", ["common", "discovery", "instance"]:
                return "instance", self._instance
            case "GET", [tenant, "v2.0", ".well-known", "openid-configuration"]:
                return "discovery", partial(self._discovery, tenant)
            case "GET", [tenant, "oauth2", "v2.0", "authorize"]:
                return "authorize", partial(self._authorize, request.query, tenant)
            case "POST", [tenant, "oauth2", "v2.0", "devicecode"]:
                return "devicecode", partial(self._devicecode, request.form, tenant)
            case "POST", [tenant, "oauth2", "v2.0", "token"]:
                return "token", partial(self._token, request.form, tenant)
        return "", partial(Answer, 404, headers=entra_headers())

    def _instance(self) -> Answer:
        # MSAL asks for the other names of this cloud before a refresh.
        # https://learn.microsoft.com/entra/msal/dotnet/advanced/custom-authority-aliases
        aliases = [self.host, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
        names = {"preferred_network": self.host, "preferred_cache": self.host, "aliases": aliases}
        return json_answer({"metadata": [names]})

    def _discovery(self, tenant: str) -> Answer:
        """Describes a tenant (OpenID Connect Discovery 1.0 section 4)."""
        if refusal := _tenant_refusal(tenant):
            return refusal
        oauth = f"https://{self.host}/{tenant}/oauth2/v2.0"
        content = {
            "issuer": f"https://{self.host}/{ISSUERS[tenant]}/v2.0",
            "authorization_endpoint": f"{oauth}/authorize",
            "device_authorization_endpoint": f"{oauth}/devicecode",
            "token_endpoint": f"{oauth}/token",
        }
        return json_answer(content)

    def _devicecode(self, form: dict[str, str], tenant: str) -> Answer:
        """Begins a sign-in with a code (RFC 8628 section 3.1)."""
        if refusal := self._client_refusal(form, tenant) or self._scope_refusal(form):
            return refusal
        device_code = self._secret("device")
        expires_at = time.monotonic() + self.expires_in
        self._device_codes[device_code] = DeviceCode(form["scope"], expires_at)
        page = "https://login.microsoft.com/device"
        if tenant == "consumers":
            page = "https://www.microsoft.com/link"
        content = {
            "user_code": USER_CODE,
            "device_code": device_code,
            "verification_uri": page,
            "expires_in": self.expires_in,
            "interval": self.interval,
            "message": "To sign in, use a web browser to open the page "
            f"{page} and enter the code {USER_CODE} to authenticate.",
        }
        return json_answer(content, headers=entra_headers())

    def _authorize(self, query: dict[str, str], tenant: str) -> Answer:
        """Gives a browser the page that sends the code on (RFC 6749 section 4.1.2).

        https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
        """
        if refusal := self._client_refusal(query, tenant):
            return refusal
        redirect_uri = query.get("redirect_uri", "")
        if re.sub(r":\d+$", "", redirect_uri) != REDIRECT_URI:
            return _refused(50011, redirect_uri, self.client_id)
        asked = [query.get(name) for name in ("response_type", "response_mode")]
        if asked != ["code", "form_post"] or query.get("code_challenge_method") != "S256":
            return entra_error(None, "invalid_request", "Only a code by form_post with S256.")
        fields = {"state": query.get("state", "")}
        if refusal := self._scope_refusal(query):
            # The program is told, not the person (RFC 6749 section 4.1.2.1).
            content = json.loads(refusal.body)
            fields |= {name: content[name] for name in ("error", "error_description")}
        else:
            fields["code"] = code = self._secret("code")
            self._signed_in[code] = query
        inputs = "".join(
            f'<input type="hidden" name="{name}" value="{html.escape(value)}" />'
            for name, value in fields.items()
        )
        form = f'<form method="POST" action="{html.escape(redirect_uri)}">{inputs}</form>'
        headers = {**entra_headers(), "Content-Type": "text/html; charset=utf-8"}
        return Answer(200, f"<html><body>{form}</body></html>".encode(), headers)

    def _token(self, form: dict[str, str], tenant: str) -> Answer:
        if refusal := self._client_refusal(form, tenant):
            return refusal
        grant = form.get("grant_type")
        flows = {
            "authorization_code": self._redeem,
            "refresh_token": self._refresh,
            DEVICE_CODE_GRANT: self._poll,
        }
        if not grant:
            return _refused(900144, "grant_type")
        return flows[grant](form) if grant in flows else _refused(70003, grant)

    def _poll(self, form: dict[str, str]) -> Answer:
        """Answers whether the person has signed in (RFC 8628 section 3.4)."""
        code = form.get("device_code") or form.get("code")
        if not code:
            return _refused(900144, "device_code")
        waiting = self._device_codes.get(code)
        if waiting is None:
            return _refused(7000014)
        if time.monotonic() > waiting.expires_at:
            return _refused(70020)
        waiting.polls += 1
        if self.pending is None or waiting.polls <= self.pending:
            return authorization_pending()
        if not self.device_codes:
            return _refused(530035)
        del self._device_codes[code]
        return self._issue(waiting.scope, form)

    def _redeem(self, form: dict[str, str]) -> Answer:
        """Takes a browser's code (RFC 6749 section 4.1.3, RFC 7636 section 4.6)."""
        query = self._signed_in.pop(form.get("code", ""), None)
        if query is None:
            return _refused(70008)
        if form.get("redirect_uri") != query["redirect_uri"]:
            return entra_error(None, "invalid_grant", "The redirect_uri is another one.")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if _base64url(digest) != query.get("code_challenge"):
            return _refused(501481)
        return self._issue(query["scope"], form, query.get("nonce"))

    def _refresh(self, form: dict[str, str]) -> Answer:
        """Gives new tokens for a refresh token (RFC 6749 section 6)."""
        scope = self._refresh_tokens.get(form.get("refresh_token", ""))
        if scope is None:
            return _refused(70000)
        asked = {"scope": scope, **form}
        return self._scope_refusal(asked) or self._issue(asked["scope"], form)

    def _issue(self, scope: str, form: dict[str, str], nonce: str | None = None) -> Answer:
        access_token, refresh_token = self._secret("access"), self._secret("refresh")
        granted = " ".join(name for name in scope.split() if name not in OIDC_SCOPES)
        claims = json.loads(form.get("claims") or "{}").get("access_token", {})
        self.access_tokens[access_token] = Token(granted, claims)
        self._refresh_tokens[refresh_token] = scope
        now = int(time.time())
        id_token = {
            "aud": self.client_id,
            "iss": f"https://{self.host}/{TENANT_ID}/v2.0",
            "iat": now,
            "exp": now + LIFETIME,
            **({"nonce": nonce} if nonce else {}),
            "oid": self.user.get("id"),
            "preferred_username": self.user.get("userPrincipalName"),
            "sub": "sandbox-subject",
            "tid": TENANT_ID,
        }
        parts = [{"typ": "JWT", "alg": "RS256"}, id_token, "signature"]
        client_info = {"uid": self.user.get("id"), "utid": TENANT_ID}
        content = {
            "token_type": "Bearer",
            "scope": f"{granted} profile openid email",
            "expires_in": LIFETIME,
            "ext_expires_in": LIFETIME,
            "access_token": access_token,
            "refresh_token": refresh_token,
            "id_token": ".".join(_base64url(json.dumps(part).encode()) for part in parts),
            "client_info": _base64url(json.dumps(client_info).encode()),
        }
        return json_answer(content, headers=entra_headers())

    def _secret(self, kind: str) -> str:
        secret = f"sandbox-{kind}-{secrets.token_urlsafe(48)}"
        self.secrets.add(secret)
        return secret

    def _client_refusal(self, form: dict[str, str], tenant: str) -> Answer | None:
        client_id = form.get("client_id")
        if refusal := _tenant_refusal(tenant):
            return refusal
        if not client_id:
            return _refused(900144, "client_id")
        if client_id == self.client_id:
            return None
        if tenant in ("common", "organizations"):
            return _refused(50059)
        if tenant == "consumers":
            return _refused(70002)
        return _refused(700016, client_id, tenant)

    def _scope_refusal(self, form: dict[str, str]) -> Answer | None:
        asked = set(form.get("scope", "").split())
        if not asked:
            return _refused(900144, "scope")
        # A scope without a resource is one of Graph's:
        # https://learn.microsoft.com/entra/identity-platform/scopes-oidc
        of_graph = {f"https://{self.graph_host}/{permission}" for permission in self.permissions}
        unknown = asked - OIDC_SCOPES - self.permissions - of_graph
        return _refused(70011, " ".join(sorted(unknown))) if unknown else None


class Graph:
    """Microsoft Graph at `host`, for the access tokens that `entra` issues.

    `resources` are what it answers, by path. With `required_claims` set, a token that was issued
    without them is challenged, as continuous access evaluation does:
    https://learn.microsoft.com/entra/identity-platform/claims-challenge
    """

    def __init__(self, entra: Entra, resources: Mapping[str, Resource]) -> None:
        self.host = entra.graph_host
        self.endpoints = tuple(path.removeprefix("/") for path in resources)
        self.required_claims: dict[str, Any] = {}
        self._entra = entra
        self._resources = resources

    def find(self, request: Request) -> tuple[str, Callable[[], Answer]]:
        """Returns the name of the endpoint that a request is for, and what answers it."""
        # Graph passes over an empty segment, which msgraph-sdk sends.
        path = request.path.partition("?")[0].replace("//", "/")
        resource = self._resources.get(path.removeprefix("/v1.0"))
        if request.method == "GET" and path.startswith("/v1.0/") and resource:
            return path.removeprefix("/v1.0/"), partial(self._get, request, resource)
        message = f"Resource not found for the segment '{path.rpartition('/')[2]}'."
        return "", partial(graph_error, 400, "BadRequest", message)

    def _get(self, request: Request, resource: Resource) -> Answer:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not value:
            return _unauthorized("Access token is empty.")
        token = self._entra.access_tokens.get(value)
        if token is None:
            return _unauthorized("CompactToken parsing failed with error code: 80049217")
        if not self.required_claims.items() <= token.claims.items():
            message = "Continuous access evaluation resulted in challenge."
            # Only a client that says it can (capability CP1) is sent a challenge it could answer.
            capable = "CP1" in token.claims.get("xms_cc", {}).get("values", [])
            return _unauthorized(message, self.required_claims if capable else None)
        if resource.permission not in {scope.split("/")[-1] for scope in token.scope.split()}:
            message = "Insufficient privileges to complete the operation."
            return graph_error(403, "Authorization_RequestDenied", message)
        headers = {
            "Content-Type": "application/json;odata.metadata=minimal;odata.streaming=true;"
            "IEEE754Compatible=false;charset=utf-8",
            "OData-Version": "4.0",
            **graph_headers(),
        }
        return json_answer(resource.content, headers=headers)


def _tenant_refusal(tenant: str) -> Answer | None:
    if tenant in ISSUERS:
        return None
    guid_or_domain = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]+(\.[\w-]+)+"
    known_form = re.fullmatch(guid_or_domain, tenant, re.IGNORECASE)
    return _refused(90002 if known_form else 900023, tenant)


def _refused(number: int, *names: str) -> Answer:
    error, text = REFUSALS[number].split(": ", 1)
    return entra_error(number, error, text.format(*names))


def _unauthorized(message: str, claims: dict[str, Any] | None = None) -> Answer:
    challenge = (
        'Bearer realm="", '
        'authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", '
        'client_id="00000003-0000-0000-c000-000000000000"'
    )
    if claims:
        encoded = base64.b64encode(json.dumps({"access_token": claims}).encode()).decode()
        challenge += f', error="insufficient_claims", claims="{encoded}"'
    headers = {"WWW-Authenticate": challenge}
    return graph_error(401, "InvalidAuthenticationToken", message, headers)


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
