"""How Microsoft Entra ID and Microsoft Graph decide what to answer.

Both are plain state and functions from a request to an `Answer`; nothing here knows about sockets.
They accept what the real services accept for one registered app and one user, and refuse the rest.
"""

import base64
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs

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

OIDC_SCOPES = {"offline_access", "openid", "profile"}


@dataclass(frozen=True)
class Request:
    """One request as it arrived.

    `endpoint` is the name of the answer it asked for: "discovery", "devicecode", "token", "me",
    "instance", a host name if it is a CONNECT that got a replaced answer, or "" for anything else,
    a CONNECT to a host that the sandbox does not play included. Header names are in lower case.
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
        fields = parse_qs(self.body.decode(), keep_blank_values=True)
        return {name: values[-1] for name, values in fields.items()}


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


@dataclass
class DeviceCode:
    """A sign-in that waits for its user; times are those of time.monotonic()."""

    scope: str
    expires_at: float
    interval: int
    next_poll: float = 0.0
    polls: int = 0


@dataclass(frozen=True)
class Token:
    """What an access token stands for."""

    scope: str
    claims: dict[str, Any]
    expires_at: float


class Entra:
    """The identity platform, with one registered app and one user.

    `client_id` is the app's and `tenant_id` its tenant's; `user` is what Graph says of the user.
    `interval` and `expires_in` are in seconds. A sign-in is approved once `pending` polls have been
    answered with authorization_pending, or never if `pending` is None.
    """

    user_code = "SANDBOX42"
    verification_uri = "https://microsoft.com/devicelogin"
    tenant_domain = "sandbox.example"
    tenant_id = "72f988bf-0000-4000-8000-00005a9db0c5"
    scopes = frozenset({"User.Read"})

    def __init__(
        self,
        client_id: str,
        user: dict[str, Any],
        *,
        pending: int | None,
        interval: int,
        expires_in: int,
    ) -> None:
        self.client_id = client_id
        self.user = user
        self.pending = pending
        self.interval = interval
        self.expires_in = expires_in
        self.access_tokens: dict[str, Token] = {}
        self.secrets: set[str] = set()
        self._refresh_tokens: dict[str, str] = {}
        self._device_codes: dict[str, DeviceCode] = {}

    def endpoints(self) -> list[Endpoint]:
        return [
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
        authority = f"https://{SIGN_IN_HOST}/{tenant}"
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
                "issuer": f"https://{SIGN_IN_HOST}/{issuer}/v2.0",
                "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{authority}/oauth2/v2.0/devicecode",
                "tenant_region_scope": None,
                "cloud_instance_name": "microsoftonline.com",
                "msgraph_host": GRAPH_HOST,
            }
        )

    def instance(self, request: Request) -> Answer:
        """Answers a request for the other names of this cloud, which MSAL makes before a refresh.

        https://learn.microsoft.com/entra/msal/dotnet/advanced/custom-authority-aliases
        """
        aliases = [SIGN_IN_HOST, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
        return json_answer(
            {
                "tenant_discovery_endpoint": f"https://{SIGN_IN_HOST}/common/v2.0"
                "/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [
                    {
                        "preferred_network": SIGN_IN_HOST,
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
        asked = set(form.get("scope", "").split())
        if not asked:
            return _missing("scope")
        if unknown := asked - self.scopes - OIDC_SCOPES:
            return entra_error(
                70011,
                "invalid_scope",
                "The provided value for the input parameter 'scope' is not valid. "
                f"The scope {' '.join(sorted(unknown))} is not valid.",
            )
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

    def token(self, request: Request, tenant: str) -> Answer:
        """Answers a poll for the token (RFC 8628 section 3.4) or a refresh (RFC 6749 section 6)."""
        form = request.form
        if refusal := self._tenant_refusal(tenant) or self._client_refusal(form, tenant):
            return refusal
        match form.get("grant_type"):
            case None | "":
                return _missing("grant_type")
            case "refresh_token":
                return self._refresh(form)
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

    def _refresh(self, form: dict[str, str]) -> Answer:
        scope = self._refresh_tokens.get(form.get("refresh_token", ""))
        if scope is None:
            return entra_error(
                70000,
                "invalid_grant",
                "The provided value for the input parameter 'refresh_token' is not valid.",
            )
        return self._issue(form.get("scope") or scope, form)

    def _issue(self, scope: str, form: dict[str, str]) -> Answer:
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
            "iss": f"https://{SIGN_IN_HOST}/{self.tenant_id}/v2.0",
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "name": self.user.get("displayName"),
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
    """Microsoft Graph, for the access tokens that `entra` issues.

    With `required_claims` set, a token that was issued without them is challenged, as continuous
    access evaluation does: https://learn.microsoft.com/entra/identity-platform/claims-challenge
    """

    def __init__(self, entra: Entra) -> None:
        self._entra = entra
        self.required_claims: dict[str, Any] = {}

    def endpoints(self) -> list[Endpoint]:
        return [("me", "GET", "/v1.0/me", self.me)]

    def unknown(self, request: Request, path: str) -> Answer:
        segment = path.rsplit("/", 1)[-1]
        return graph_error(400, "BadRequest", f"Resource not found for the segment '{segment}'.")

    def me(self, request: Request) -> Answer:
        """Answers GET /v1.0/me: https://learn.microsoft.com/graph/api/user-get"""
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
        if "User.Read" not in token.scope.split():
            message = "Insufficient privileges to complete the operation."
            return graph_error(403, "Authorization_RequestDenied", message)
        content = {"@odata.context": f"https://{GRAPH_HOST}/v1.0/$metadata#users/$entity"}
        headers = {
            "Content-Type": "application/json;odata.metadata=minimal;odata.streaming=true;"
            "IEEE754Compatible=false;charset=utf-8",
            "OData-Version": "4.0",
            **graph_headers(),
        }
        return json_answer({**content, **self._entra.user}, headers=headers)


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


def _base64url(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
