from collections.abc import Iterator

import pytest

from .sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that approves a sign-in at its first poll."""
    with Sandbox(pending=0, interval=1) as sandbox:
        yield sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A silent network is waited for the longest: all else runs beside those tests.
    items.sort(key=lambda item: "SILENT" not in item.name)
