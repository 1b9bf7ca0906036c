"""Microsoft Entra ID and Microsoft Graph, played on this machine: see tests/README.md."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, as this is where it is said
    sys.exit("This needs Python 3.11 or newer. If you have it, delete .venv and run this again.")

from .answers import Answer as Answer
from .entra import entra_error as entra_error
from .graph import Resource as Resource
from .graph import graph_error as graph_error
from .sandbox import Sandbox as Sandbox
