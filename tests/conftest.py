import signal
from collections.abc import Iterator

import pytest

from .sandbox import Sandbox

# A shell ignores Ctrl-C on behalf of what it starts in the background, and so would the programs.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that approves a sign-in at its first poll."""
    with Sandbox(pending=0, interval=1) as sandbox:
        yield sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The tests of a silent network take longest, so they begin first, each on a worker of its own:
    # pytest-xdist hands the first two tests to one worker, the next two to another, and so on.
    silent = [item for item in items if "SILENT" in item.name]
    items[:] = [item for item in items if item not in silent]
    for place, item in enumerate(silent):
        items.insert(2 * place, item)
