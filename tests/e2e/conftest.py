"""Clusters that tests share, and the mark of every test here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import Local

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Three durable replicas, for tests that harm nothing and use keys of their own."""
    with Local(tmp_path_factory.mktemp("shared")) as cluster:
        yield cluster
        assert cluster.stop() == 0
