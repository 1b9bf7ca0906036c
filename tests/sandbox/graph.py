"""How Microsoft Graph answers."""

import base64
import json
import time
from typing import Any

from .answers import Answer, Request, graph_error, graph_headers, json_answer
from .tokens import unseal
from .world import World

AUTHORIZE = "https://login.microsoftonline.com/common/oauth2/authorize"
GRAPH_ID = "00000003-0000-0000-c000-000000000000"


def endpoint(world: World, request: Request) -> str:
    """Return the name of the endpoint that a request is for, or "" if there is none."""
    # Graph passes over an empty segment, which msgraph-sdk sends.
    path = request.path.partition("?")[0].replace("//", "/")
    version, _, name = path.removeprefix("/").partition("/")
    return name if version == "v1.0" and name in world.everything() else ""


def answer(world: World, request: Request) -> Answer:
    """Return what Graph answers."""
    if not request.endpoint:
        segment = request.path.partition("?")[0].rpartition("/")[2]
        message = f"Resource not found for the segment '{segment}'."
        return graph_error(400, "BadRequest", message)
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value:
        return unauthorized("Access token is empty.")
    token = unseal("access token", value, expired=True)
    if not token:
        return unauthorized("CompactToken parsing failed with error code: 80049217")
    if time.time() > token["expires_at"]:
        return unauthorized("Lifetime validation failed, the token is expired.")
    if not world.required_claims.items() <= token["claims"].items():
        # https://learn.microsoft.com/entra/identity-platform/claims-challenge: only a client that
        # says it can (capability CP1) is sent a challenge that it could answer.
        capable = "CP1" in token["claims"].get("xms_cc", {}).get("values", [])
        message = "Continuous access evaluation resulted in challenge."
        return unauthorized(message, world.required_claims if capable else None)
    resource = world.everything()[request.endpoint]
    if resource.permission not in {scope.split("/")[-1] for scope in token["scope"].split()}:
        message = "Insufficient privileges to complete the operation."
        return graph_error(403, "Authorization_RequestDenied", message)
    if resource.content is None:
        return Answer(resource.status, headers=graph_headers())
    headers = {
        "Content-Type": "application/json;odata.metadata=minimal;odata.streaming=true;"
        "IEEE754Compatible=false;charset=utf-8",
        "OData-Version": "4.0",
        **graph_headers(),
    }
    return json_answer(resource.content, resource.status, headers)


def unauthorized(message: str, claims: dict[str, Any] | None = None) -> Answer:
    challenge = f'Bearer realm="", authorization_uri="{AUTHORIZE}", client_id="{GRAPH_ID}"'
    if claims:
        encoded = base64.b64encode(json.dumps({"access_token": claims}).encode()).decode()
        challenge += f', error="insufficient_claims", claims="{encoded}"'
    return graph_error(401, "InvalidAuthenticationToken", message, {"WWW-Authenticate": challenge})
