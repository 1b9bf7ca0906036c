import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .project import copy
from .sandbox import Sandbox

# What a shell starts in the background inherits that Ctrl-C is ignored, and so would the programs.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that approves a sign-in at its first poll."""
    with Sandbox(pending=0, interval=1) as sandbox:
        yield sandbox


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The get_user.py of a copy of the project."""
    return copy(tmp_path / "copy")
