"""Microsoft Entra ID and Microsoft Graph, played on this machine.

A program that signs a user in and calls Graph runs here as it is, over real TLS: an HTTPS proxy
on 127.0.0.1 leads it there. See `python -m tests.sandbox --help`, and `Sandbox` for Python.
"""

from .answers import Answer as Answer
from .answers import Fault as Fault
from .answers import Request as Request
from .answers import entra_error as entra_error
from .answers import graph_error as graph_error
from .answers import json_answer as json_answer
from .sandbox import Sandbox as Sandbox
from .world import Resource as Resource
