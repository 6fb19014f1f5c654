"""Clusters that tests share, and the mark of every test here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import Local

_HERE = Path(__file__).parent

if threading.current_thread() is threading.main_thread():
    # Where the tests run in the background of a shell, it is ignored, and whoever they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
