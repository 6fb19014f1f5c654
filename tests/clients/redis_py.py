"""redis-py's own tests, of what psmr has: which are run, and why others are not. A plugin of pytest, and what runs it.

Its source package has the tests. A test that comes to a command which psmr does not have at all is passed over, and counted by
the command; the table below names the other tests that are left out, with reasons.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("test_commands.py", "test_pipeline.py", "test_lock.py", "test_encoding.py")
FILES = tuple(f"{directory}/{name}" for directory in ("tests", "tests/test_asyncio") for name in NAMES)

#: Tests that are left out, by a pattern of their names, and the reason.
LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("test_client_tracking", "keys are not tracked, which CLIENT TRACKING says"),
    ("test_client_kill.*", "there is no CLIENT KILL"),
    ("test_client_list_client_id", "expects another connection to be listed at once; it is within a second"),
    ("test_config_.*", "CONFIG GET has what clients look at, and nothing can be set"),
    ("test_slowlog_.*", "the slow log is empty, and not configured"),
    ("test_select|test_copy_to_another_database", "there is one database"),
    ("test_scan", "a scan of few keys has several pages, since a page is of one group"),
    ("test_mset_on_cluster_multiple_slots", "expects MSET over several slots to fail, which it does not here"),
    ("test_readonly_invalid_cluster_state", "expects READONLY to fail, which is accepted here"),
    ("test_command|test_command_count|test_command_list", "counts the commands of a whole Redis"),
    ("test_command_getkeysandflags", "asks for those of LMOVE"),
    ("test_psync|test_module.*", "there are no modules, and replicas of Redis have nothing to do here"),
)

_UNKNOWN = re.compile(r"unknown (?:sub)?command '?(?P<name>[\w|-]+)|DB index is out of range")


class Selection:
    """Passes over what psmr does not have, and counts it."""

    def __init__(self) -> None:
        self.passed_over: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests of the table."""
        for item in items:
            for pattern, reason in LEFT_OUT:
                if re.fullmatch(pattern, item.name.partition("[")[0]):
                    item.add_marker(pytest.mark.skip(reason=reason))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Turn the failure of a command that psmr does not have into a test that is passed over."""
        report = yield
        unknown = _UNKNOWN.search(str(call.excinfo.value)) if call.excinfo is not None and report.failed else None
        if unknown is not None:
            name = (unknown["name"] or "select of another database").lower()
            self.passed_over[name] += 1
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, f"psmr has no {name}")
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was passed over."""
        shown = ", ".join(f"{name} {count}" for name, count in sorted(self.passed_over.items()))
        terminalreporter.write_line(f"tests of commands that psmr does not have: {shown}")


def commands(build: Path) -> tuple[tuple[str, ...], ...]:
    """Return what gets the source of redis-py and runs its tests; the cluster is named by the environment."""
    return ((sys.executable, str(Path(__file__)), str(build)),)


def source(build: Path) -> Path:
    """Return the source package of the redis-py that is installed, unpacked."""
    version = subprocess.run(
        [sys.executable, "-c", "import redis; print(redis.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    unpacked = build / f"redis-{version}"
    if not unpacked.exists():
        build.mkdir(parents=True, exist_ok=True)
        # The requirements have the hash of the source package, too.
        pins = (ROOT / "requirements-dev.txt").read_text()
        pinned = re.search(r"^redis==[^\n]*(?:\n    --hash=[^\n]*)*", pins, re.MULTILINE)
        assert pinned is not None, "requirements-dev.txt has redis"
        (build / "requirements.txt").write_text(pinned[0].rstrip(" \\") + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "redis", "--require-hashes"]
        subprocess.run([*command, "--requirement", str(build / "requirements.txt"), "--dest", str(build)], check=True)
        with tarfile.open(build / f"redis-{version}.tar.gz") as archive:
            archive.extractall(build, filter="data")
    return unpacked


def main(build: Path) -> int:
    """Run the tests; returns pytest's exit code."""
    home = source(build)
    os.chdir(home)
    address = os.environ["PSMR_ADDRESSES"].split(",")[0]
    options = ["-q", "-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider", "--timeout", "60", "--tb", "line"]
    options += ["--redis-url", f"redis://{address}/0", *FILES]
    sys.path.insert(0, str(home))
    return int(pytest.main(options, plugins=[Selection()]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
