"""Microsoft Entra ID and Microsoft Graph, played on this machine.

A program that signs a user in and calls Graph runs here as it is, over real TLS: an HTTPS proxy
on 127.0.0.1 leads it there. See `python -m tests.sandbox --help`, and `Sandbox` for Python.
"""

from .answers import Answer, Fault, Request, entra_error, graph_error, json_answer
from .sandbox import Sandbox
from .world import Resource

__all__ = [
    "Answer",
    "Fault",
    "Request",
    "Resource",
    "Sandbox",
    "entra_error",
    "graph_error",
    "json_answer",
]
