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
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

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

OIDC_SCOPES = {"offline_access", "openid", "profile"}


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
        return _fields(self.body.decode())

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query, in the order in which they arrived."""
        return _fields(urlsplit(self.path).query)


Endpoint = tuple[str, str, str, Callable[..., Answer]]
"""Name, method and path of an endpoint, and what answers it with what stands in the braces."""


class Service(Protocol):
    """One of the two hosts."""

    def endpoints(self) -> list[Endpoint]:
        """Returns what the host answers."""
        ...

    def unknown(self, request: Request, path: str) -> Answer:
        """Returns the host's answer to any other request."""
        ...


@dataclass(frozen=True)
class Resource:
    """What Graph answers at a path, and the permission that the access token needs for it."""

    permission: str
    content: Mapping[str, Any]


@dataclass
class DeviceCode:
    """A sign-in that waits for its user; times are those of time.monotonic()."""

    scope: str
    expires_at: float
    interval: int
    next_poll: float = 0.0
    polls: int = 0


@dataclass(frozen=True)
class AuthorizationCode:
    """A sign-in in a browser that has not been redeemed yet."""

    scope: str
    redirect_uri: str
    code_challenge: str
    nonce: str | None


@dataclass(frozen=True)
class Token:
    """What an access token stands for."""

    scope: str
    claims: dict[str, Any]
    expires_at: float


class Entra:
    """The identity platform at `host`, with one registered app and one user.

    `client_id` is the app's and `tenant_id` its tenant's; `user` is what Graph says of the user,
    and `permissions` are those of Graph, at `graph_host`, that the app may ask for. `interval` and
    `expires_in` are in seconds. A sign-in with a device code is approved once `pending` polls have
    been answered with authorization_pending, or never if `pending` is None; one in a browser is
    approved at once.
    """

    user_code = "SANDBOX42"
    verification_uri = "https://microsoft.com/devicelogin"
    tenant_domain = "sandbox.example"
    tenant_id = "72f988bf-0000-4000-8000-00005a9db0c5"

    def __init__(
        self,
        client_id: str,
        user: dict[str, Any],
        permissions: set[str],
        *,
        host: str,
        graph_host: str,
        pending: int | None,
        interval: int,
        expires_in: int,
    ) -> None:
        self.client_id = client_id
        self.user = user
        self.permissions = permissions
        self.host = host
        self.graph_host = graph_host
        self.pending = pending
        self.interval = interval
        self.expires_in = expires_in
        self.access_tokens: dict[str, Token] = {}
        self.secrets: set[str] = set()
        self._refresh_tokens: dict[str, str] = {}
        self._device_codes: dict[str, DeviceCode] = {}
        self._authorization_codes: dict[str, AuthorizationCode] = {}

    def endpoints(self) -> list[Endpoint]:
        return [
            ("authorize", "GET", "/{tenant}/oauth2/v2.0/authorize", self.authorize),
            ("discovery", "GET", "/{tenant}/v2.0/.well-known/openid-configuration", self.discovery),
            ("devicecode", "POST", "/{tenant}/oauth2/v2.0/devicecode", self.devicecode),
            ("token", "POST", "/{tenant}/oauth2/v2.0/token", self.token),
            ("instance", "GET", "/common/discovery/instance", self.instance),
        ]

    def unknown(self, request: Request, path: str) -> Answer:
        return Answer(404, headers=entra_headers())

    def discovery(self, request: Request, tenant: str) -> Answer:
        """Answers a request for the tenant's metadata (OpenID Connect Discovery 1.0 section 4)."""
        if refusal := self._tenant_refusal(tenant):
            return refusal
        # The real service names the tenant in the issuer only where the address does.
        issuer = "{tenantid}" if tenant == "common" else tenant
        authority = f"https://{self.host}/{tenant}"
        return json_answer(
            {
                "token_endpoint": f"{authority}/oauth2/v2.0/token",
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
                "jwks_uri": f"{authority}/discovery/v2.0/keys",
                "response_modes_supported": ["query", "fragment", "form_post"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["code", "id_token", "code id_token"],
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
                "issuer": f"https://{self.host}/{issuer}/v2.0",
                "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{authority}/oauth2/v2.0/devicecode",
                "tenant_region_scope": None,
                "cloud_instance_name": self.host.removeprefix("login."),
                "msgraph_host": self.graph_host,
            }
        )

    def instance(self, request: Request) -> Answer:
        """Answers a request for the other names of this cloud, which MSAL makes before a refresh.

        https://learn.microsoft.com/entra/msal/dotnet/advanced/custom-authority-aliases
        """
        aliases = [self.host, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
        return json_answer(
            {
                "tenant_discovery_endpoint": f"https://{self.host}/common/v2.0"
                "/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [
                    {
                        "preferred_network": self.host,
                        "preferred_cache": "login.windows.net",
                        "aliases": aliases,
                    }
                ],
            }
        )

    def devicecode(self, request: Request, tenant: str) -> Answer:
        """Answers the device authorization request (RFC 8628 section 3.1)."""
        form = request.form
        if refusal := self._tenant_refusal(tenant) or self._client_refusal(form, tenant):
            return refusal
        if refusal := self._scope_refusal(form):
            return refusal
        device_code = self._secret("device")
        self._device_codes[device_code] = DeviceCode(
            form["scope"], time.monotonic() + self.expires_in, self.interval
        )
        return json_answer(
            {
                "user_code": self.user_code,
                "device_code": device_code,
                "verification_uri": self.verification_uri,
                "expires_in": self.expires_in,
                "interval": self.interval,
                "message": "To sign in, use a web browser to open the page "
                f"{self.verification_uri} and enter the code {self.user_code} to authenticate.",
            },
            headers=entra_headers(),
        )

    def authorize(self, request: Request, tenant: str) -> Answer:
        """Answers a browser with the page that sends the code on (RFC 6749 section 4.1.2).

        https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
        """
        query = request.query
        if refusal := self._tenant_refusal(tenant) or self._client_refusal(query, tenant):
            return refusal
        redirect_uri = query.get("redirect_uri", "")
        if re.sub(r":\d+$", "", redirect_uri) != REDIRECT_URI:
            return entra_error(
                50011,
                "invalid_request",
                f"The redirect URI '{redirect_uri}' specified in the request does not match the "
                f"redirect URIs configured for the application '{self.client_id}'.",
            )
        required = {
            "response_type": "code",
            "response_mode": "form_post",
            "code_challenge_method": "S256",
        }
        for name, value in required.items():
            if query.get(name) != value:
                return _invalid(name)
        fields = {"state": query.get("state", "")}
        if refusal := self._scope_refusal(query):
            # The program is told, not the person (RFC 6749 section 4.1.2.1).
            content = json.loads(refusal.body)
            fields |= {name: content[name] for name in ("error", "error_description")}
        else:
            fields["code"] = code = self._secret("code")
            self._authorization_codes[code] = AuthorizationCode(
                query["scope"], redirect_uri, query.get("code_challenge", ""), query.get("nonce")
            )
        inputs = "".join(
            f'<input type="hidden" name="{name}" value="{html.escape(value)}" />'
            for name, value in fields.items()
        )
        form = f'<form method="POST" action="{html.escape(redirect_uri)}">{inputs}</form>'
        headers = {**entra_headers(), "Content-Type": "text/html; charset=utf-8"}
        return Answer(200, f"<html><body>{form}</body></html>".encode(), headers)

    def token(self, request: Request, tenant: str) -> Answer:
        """Answers a request for a token.

        It may be a poll (RFC 8628 section 3.4), the redemption of a browser's code (RFC 6749
        section 4.1.3 with RFC 7636 section 4.6) or a refresh (RFC 6749 section 6).
        """
        form = request.form
        if refusal := self._tenant_refusal(tenant) or self._client_refusal(form, tenant):
            return refusal
        match form.get("grant_type"):
            case None | "":
                return _missing("grant_type")
            case "refresh_token":
                return self._refresh(form)
            case "authorization_code":
                return self._redeem(form)
            case grant if grant == DEVICE_CODE_GRANT:
                return self._poll(form)
            case grant:
                return entra_error(
                    70003,
                    "unsupported_grant_type",
                    f"The app requested an unsupported grant type '{grant}'.",
                )

    def _poll(self, form: dict[str, str]) -> Answer:
        code = form.get("device_code") or form.get("code")
        if not code:
            return _missing("device_code")
        waiting = self._device_codes.get(code)
        if waiting is None:
            # The error code is documented, the text is not:
            # https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
            return entra_error(
                70018, "bad_verification_code", "The device_code was not recognized."
            )
        now = time.monotonic()
        if now > waiting.expires_at:
            return entra_error(
                70020,
                "expired_token",
                "The provided value for the input parameter 'device_code' is not valid. "
                "This device code has expired.",
            )
        if now < waiting.next_poll:
            waiting.interval += 5  # RFC 8628 section 3.5
            waiting.next_poll = now + waiting.interval
            return entra_error(None, "slow_down", "The client polls too often.")
        waiting.polls += 1
        waiting.next_poll = now + waiting.interval
        if self.pending is None or waiting.polls <= self.pending:
            return authorization_pending()
        del self._device_codes[code]
        return self._issue(waiting.scope, form)

    def _redeem(self, form: dict[str, str]) -> Answer:
        signed_in = self._authorization_codes.pop(form.get("code", ""), None)
        if signed_in is None:
            return entra_error(
                70008, "invalid_grant", "The provided authorization code is expired or unknown."
            )
        if form.get("redirect_uri") != signed_in.redirect_uri:
            return _invalid("redirect_uri", "invalid_grant")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if _unpadded(digest) != signed_in.code_challenge:
            return entra_error(
                501481,
                "invalid_grant",
                "The Code_Verifier does not match the code_challenge supplied in the "
                "authorization request.",
            )
        return self._issue(signed_in.scope, form, signed_in.nonce)

    def _refresh(self, form: dict[str, str]) -> Answer:
        scope = self._refresh_tokens.get(form.get("refresh_token", ""))
        if scope is None:
            return entra_error(
                70000,
                "invalid_grant",
                "The provided value for the input parameter 'refresh_token' is not valid.",
            )
        return self._issue(form.get("scope") or scope, form)

    def _issue(self, scope: str, form: dict[str, str], nonce: str | None = None) -> Answer:
        lifetime = 3600
        access_token = self._secret("access")
        refresh_token = self._secret("refresh")
        granted = " ".join(name for name in scope.split() if name not in OIDC_SCOPES)
        claims = json.loads(form.get("claims") or "{}").get("access_token", {})
        self.access_tokens[access_token] = Token(granted, claims, time.monotonic() + lifetime)
        self._refresh_tokens[refresh_token] = scope
        now = int(time.time())
        id_token = {
            "aud": self.client_id,
            "iss": f"https://{self.host}/{self.tenant_id}/v2.0",
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "name": self.user.get("displayName"),
            **({"nonce": nonce} if nonce else {}),
            "oid": self.user.get("id"),
            "preferred_username": self.user.get("userPrincipalName"),
            "sub": "sandbox-subject",
            "tid": self.tenant_id,
            "ver": "2.0",
        }
        client_info = {"uid": self.user.get("id"), "utid": self.tenant_id}
        header = {"typ": "JWT", "alg": "RS256"}
        return json_answer(
            {
                "token_type": "Bearer",
                # Entra names the resource's and OpenID Connect's scopes, never offline_access.
                "scope": f"{granted} openid profile",
                "expires_in": lifetime,
                "ext_expires_in": lifetime,
                "access_token": access_token,
                "refresh_token": refresh_token,
                "id_token": f"{_base64url(header)}.{_base64url(id_token)}.c2lnbmVk",
                "client_info": _base64url(client_info),
            },
            headers=entra_headers(),
        )

    def _secret(self, kind: str) -> str:
        secret = f"sandbox-{kind}-{secrets.token_urlsafe(48)}"
        self.secrets.add(secret)
        return secret

    def _client_refusal(self, form: dict[str, str], tenant: str) -> Answer | None:
        client_id = form.get("client_id")
        if not client_id:
            return _missing("client_id")
        if client_id != self.client_id:
            return entra_error(
                700016,
                "unauthorized_client",
                f"Application with identifier '{client_id}' was not found "
                f"in the directory '{tenant}'.",
            )
        return None

    def _scope_refusal(self, form: dict[str, str]) -> Answer | None:
        asked = set(form.get("scope", "").split())
        if not asked:
            return _missing("scope")
        # A scope without a resource is one of Graph's:
        # https://learn.microsoft.com/entra/identity-platform/scopes-oidc
        of_graph = {f"https://{self.graph_host}/{permission}" for permission in self.permissions}
        if unknown := asked - OIDC_SCOPES - self.permissions - of_graph:
            return entra_error(
                70011,
                "invalid_scope",
                "The provided value for the input parameter 'scope' is not valid. "
                f"The scope {' '.join(sorted(unknown))} is not valid.",
            )
        return None

    def _tenant_refusal(self, tenant: str) -> Answer | None:
        known = {"common", "organizations", "consumers", self.tenant_id, self.tenant_domain}
        if tenant in known:
            return None
        if re.fullmatch(
            r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]+(\.[\w-]+)+", tenant, re.IGNORECASE
        ):
            return entra_error(90002, "invalid_tenant", f"Tenant '{tenant}' not found.")
        return entra_error(
            900023,
            "invalid_request",
            f"Specified tenant identifier '{tenant}' is neither a valid DNS name, "
            "nor a valid external domain.",
        )


class Graph:
    """Microsoft Graph at `entra.graph_host`, for the access tokens that `entra` issues.

    `resources` are what it answers, by path. With `required_claims` set, a token that was issued
    without them is challenged, as continuous access evaluation does:
    https://learn.microsoft.com/entra/identity-platform/claims-challenge
    """

    def __init__(self, entra: Entra, resources: Mapping[str, Resource]) -> None:
        self._entra = entra
        self._resources = resources
        self.required_claims: dict[str, Any] = {}

    def endpoints(self) -> list[Endpoint]:
        return [
            (path.removeprefix("/"), "GET", f"/v1.0{empty}{path}", partial(self.get, resource))
            for path, resource in self._resources.items()
            for empty in ("", "/")  # Graph passes over an empty segment, which msgraph-sdk sends
        ]

    def unknown(self, request: Request, path: str) -> Answer:
        segment = path.rsplit("/", 1)[-1]
        return graph_error(400, "BadRequest", f"Resource not found for the segment '{segment}'.")

    def get(self, resource: Resource, request: Request) -> Answer:
        """Answers a request for a resource, such as https://learn.microsoft.com/graph/api/user-get.

        Returns the resource to who has the permission for it, and a refusal to anybody else.
        """
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not value:
            return _unauthorized("Access token is empty.")
        token = self._entra.access_tokens.get(value)
        if token is None:
            return _unauthorized("CompactToken parsing failed with error code: 80049217")
        if time.monotonic() > token.expires_at:
            return _unauthorized("Lifetime validation failed, the token is expired.")
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


def _fields(text: str) -> dict[str, str]:
    fields = parse_qs(text, keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


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


def _missing(parameter: str) -> Answer:
    return entra_error(
        900144,
        "invalid_request",
        f"The request body must contain the following parameter: '{parameter}'.",
    )


def _invalid(parameter: str, error: str = "invalid_request") -> Answer:
    text = f"The provided value for the input parameter '{parameter}' is not valid."
    return entra_error(900971, error, text)


def _base64url(content: dict[str, Any]) -> str:
    return _unpadded(json.dumps(content).encode())


def _unpadded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
