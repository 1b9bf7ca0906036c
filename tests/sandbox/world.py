"""What the sandbox plays: one registered app, one user, and what Microsoft Graph has."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SIGN_IN_HOST = "login.microsoftonline.com"
GRAPH_HOST = "graph.microsoft.com"
# What Graph says of the user: the properties that it sends by default.
USER: dict[str, Any] = {
    "businessPhones": ["+44 20 7946 0000"],
    "displayName": "Ada Lovelace",
    "givenName": "Ada",
    "jobTitle": "Analyst",
    "mail": "ada@sandbox.example",
    "mobilePhone": None,
    "officeLocation": "Room 7",
    "preferredLanguage": "en-GB",
    "surname": "Lovelace",
    "userPrincipalName": "ada@sandbox.example",
    "id": "5a9db0c5-0000-4000-8000-0000000000ad",
}


@dataclass(frozen=True)
class Resource:
    """What Graph answers to any method; a sendMail is `Resource("Mail.Send", status=202)`.

    Only a token with the permission of just this name gets it, none with a wider one.
    """

    permission: str
    content: Any = None
    status: int = 200


DRIVE = {"/me/drive": Resource("Files.Read", {"id": "1", "driveType": "business"})}


@dataclass(kw_only=True)
class World:
    """The settings of a sandbox, which `Sandbox` describes, and the codes that it has seen."""

    pending: int | None = 1
    interval: int = 5
    expires_in: int = 900
    device_codes: bool = True
    user: dict[str, Any] = field(default_factory=USER.copy)
    resources: dict[str, Resource] = field(default_factory=DRIVE.copy)
    sign_in_host: str = SIGN_IN_HOST
    graph_host: str = GRAPH_HOST
    calls: int = 10_000
    required_claims: dict[str, Any] = field(default_factory=dict)
    client_id: str = field(default="5a9db0c5-0000-4000-8000-00000000c11e", init=False)
    polls: Counter[str] = field(default_factory=Counter, init=False)
    used_codes: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError("interval must be at least 1 s: MSAL polls without a pause at 0")

    def everything(self) -> dict[str, Resource]:
        """Return what Graph has just now, by the names of the endpoints: paths without a slash."""
        context = f"https://{self.graph_host}/v1.0/$metadata#users/$entity"
        me = Resource("User.Read", {"@odata.context": context, **self.user})
        return {"me": me, **{path.lstrip("/"): self.resources[path] for path in self.resources}}
