"""Runs the suites of client libraries in other languages, redis-py's, and that of frameworks, against a cluster: `make clients`.

Each suite is told the replicas' addresses (`PSMR_ADDRESSES`) and processes (`PSMR_PIDS`), and may kill one of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.clients import redis_py  # noqa: E402 - found by the line before
from tests.e2e.support import Local, is_running, wait_until  # noqa: E402

BUILD = ROOT / "build" / "clients"
FRAMEWORKS = BUILD / "frameworks"


@dataclass(frozen=True)
class Suite:
    """A client library and what runs its tests."""

    name: str
    #: What has to be on the path, and where to get it.
    tool: tuple[str, str]
    commands: tuple[tuple[str, ...], ...]
    directory: Path


SUITES = (
    Suite("go-redis", ("go", "https://go.dev/dl"), (("go", "test", "-count=1", "./..."),), HERE / "go"),
    Suite(
        "node-redis",
        ("npm", "https://nodejs.org"),
        (("npm", "ci", "--no-audit", "--no-fund", "--silent"), ("node", "--test", "--test-concurrency=1")),
        HERE / "node",
    ),
    Suite(
        "jedis",
        ("mvn", "your system's packages (Debian: apt install maven)"),
        (("mvn", "--batch-mode", "--quiet", f"-DbuildDirectory={BUILD / 'jedis'}", "test"),),
        HERE / "java",
    ),
    Suite("redis-py", ("git", "your system's packages"), redis_py.commands(BUILD / "redis-py"), ROOT),
    Suite(
        "frameworks",
        (sys.executable, "https://python.org"),
        (
            (sys.executable, "-m", "venv", str(FRAMEWORKS)),
            (f"{FRAMEWORKS}/bin/pip", "install", "--quiet", "--require-hashes", "--requirement", "requirements.txt"),
            (f"{FRAMEWORKS}/bin/pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "frameworks.py"),
        ),
        HERE / "frameworks",
    ),
)


def main(wanted: list[str]) -> int:
    """Run the suites that are named, or all; returns the exit code."""
    suites = [suite for suite in SUITES if not wanted or suite.name in wanted]
    unknown = set(wanted) - {suite.name for suite in SUITES}
    missing = [
        f"{suite.tool[0]} is missing for {suite.name}: {suite.tool[1]}" for suite in suites if not shutil.which(suite.tool[0])
    ]
    if unknown or missing:
        print("\n".join([*(f"there is no suite {name}" for name in unknown), *missing]), file=sys.stderr)
        return 2
    # Ends the cluster, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    with tempfile.TemporaryDirectory(prefix="psmr-clients-") as directory, Local(Path(directory)) as cluster:
        for suite in suites:
            # The last suite may have ended one, which starts again.
            wait_until(lambda: all(map(is_running, cluster.pids())), 60, "every replica serves")
            print(f"== {suite.name}", flush=True)
            environment = {
                **os.environ,
                "PSMR_ADDRESSES": ",".join(cluster.addresses()),
                "PSMR_PIDS": ",".join(map(str, cluster.pids())),
            }
            if any(
                subprocess.run(command, cwd=suite.directory, env=environment, check=False).returncode
                for command in suite.commands
            ):
                failed.append(suite.name)
    print(f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(suite.name for suite in suites)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
