"""Microsoft Entra ID and Microsoft Graph, played on this machine.

A program that signs a person in and calls Graph runs here unmodified, in a process of its own and
over real TLS: an HTTPS proxy on 127.0.0.1 leads the names of the two services to servers in this
process. `python -m tests.sandbox` runs get_user.py that way, `Sandbox` does the same from Python.
"""

from .answers import Answer, Fault, authorization_pending, entra_error, graph_error, json_answer
from .sandbox import Sandbox
from .services import GRAPH_HOST, SIGN_IN_HOST, Request, Resource

__all__ = [
    "GRAPH_HOST",
    "SIGN_IN_HOST",
    "Answer",
    "Fault",
    "Request",
    "Resource",
    "Sandbox",
    "authorization_pending",
    "entra_error",
    "graph_error",
    "json_answer",
]
