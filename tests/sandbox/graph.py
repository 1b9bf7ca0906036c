"""Microsoft Graph: what it has, and how it answers."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .answers import Answer, Request, json_answer, unseal

if TYPE_CHECKING:
    from .sandbox import Sandbox

HOST = "graph.microsoft.com"
USER: dict[str, Any] = {
    "displayName": "Ada Lovelace",
    "givenName": "Ada",
    "mail": "ada@sandbox.example",
    "preferredLanguage": "en-GB",
    "surname": "Lovelace",
    "userPrincipalName": "ada@sandbox.example",
    "id": "5a9db0c5-0000-4000-8000-0000000000ad",
}


@dataclass(frozen=True)
class Resource:
    """What Graph answers to any method, for a token with just this permission, not a wider one."""

    permission: str
    content: Any = None
    status: int = 200


DRIVE = {"/me/drive": Resource("Files.Read", {"id": "1", "driveType": "business"})}


def resources(sandbox: "Sandbox") -> dict[str, Resource]:
    """Return what Graph has just now, by path, without the version and its slashes."""
    user = {"@odata.context": f"https://{HOST}/v1.0/$metadata#users/$entity", **sandbox.user}
    others = {path.lstrip("/"): resource for path, resource in sandbox.resources.items()}
    return {"me": Resource("User.Read", user), **others}


def endpoint(sandbox: "Sandbox", request: Request) -> str:
    version, _, name = request.path.partition("?")[0].removeprefix("/").partition("/")
    return name if version == "v1.0" and name in resources(sandbox) else ""


def answer(sandbox: "Sandbox", request: Request) -> Answer:
    resource = resources(sandbox).get(request.endpoint)
    if not resource:
        segment = request.path.partition("?")[0].rpartition("/")[2]
        return graph_error(400, "BadRequest", f"Resource not found for the segment '{segment}'.")
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    token = unseal("access token", value)
    if scheme != "Bearer" or not token:
        message = "Access token has expired or is not yet valid."
        return graph_error(401, "InvalidAuthenticationToken", message)
    if resource.permission not in {scope.split("/")[-1] for scope in token["scope"].split()}:
        message = "Insufficient privileges to complete the operation."
        return graph_error(403, "Authorization_RequestDenied", message)
    if resource.content is None:
        return Answer(resource.status)
    content_type = "application/json;odata.metadata=minimal;charset=utf-8"
    return json_answer(resource.content, resource.status, {"Content-Type": content_type})


def graph_error(status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> Answer:
    """Return a refusal of Microsoft Graph, in the shape of https://learn.microsoft.com/graph/errors."""
    request_id, date = str(uuid.uuid4()), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    inner = {"date": date, "request-id": request_id, "client-request-id": request_id}
    content = {"error": {"code": code, "message": message, "innerError": inner}}
    return json_answer(content, status, {"Content-Type": "application/json", **headers})
