"""psmr.bench.measure: medians and ratios, and the refusal of a load with errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from psmr.bench import measure
from psmr.bench.launch import System
from psmr.bench.measure import Measurement
from psmr.bench.workload import Workload
from psmr.errors import RuntimeFailure


def run(system: str, per_second: float, cpu_us: float | None) -> Measurement:
    return {
        "system": system,
        "commands": 1,
        "errors": 0,
        "seconds": 1.0,
        "per_second": per_second,
        "latency_us": {"p50": 1.0, "p99": 2.0, "p999": 3.0},
        "server_cpu_us": cpu_us,
        "client_cpu_us": 1.0,
        "rss_bytes": [],
        "fdatasync_us": None,
    }


def test_ratios_are_taken_pair_by_pair() -> None:
    pairs = [(run("a", 10, 2), run("b", 10, 1)), (run("a", 90, 4), run("b", 30, 1)), (run("a", 20, 3), run("b", 10, 1))]
    summary = measure.summarise(pairs)
    assert summary["ratio"] == {"per_second": 2.0, "server_cpu_us": 3.0}
    assert summary["median"]["a"]["per_second"] == 20
    assert summary["median"]["b"]["server_cpu_us"] == 1
    assert summary["median"]["a"]["fdatasync_us_p50"] is None


def test_unknown_processor_time_stays_unknown() -> None:
    assert measure.summarise([(run("a", 1, None), run("b", 1, 1))])["ratio"]["server_cpu_us"] is None


@pytest.mark.parametrize("report", [{"errors": 1, "failed": True, "commands": 5}, {"errors": 0, "failed": True, "commands": 5}])
def test_one_error_fails_the_run(monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]) -> None:
    class Load:
        def __init__(self, options: str) -> None: ...

        def preload(self) -> str:
            raise AssertionError

    monkeypatch.setattr(measure, "_psmr", type("engine", (), {"Load": Load}))
    monkeypatch.setattr(measure, "follow", lambda _load, _call: {**report, "first_errors": ["ERR no"]})
    with pytest.raises(RuntimeFailure, match=r"redis: .*ERR no"):
        measure.preload(System("redis", ["127.0.0.1:1"], [], None), Workload())


def test_the_disk_is_timed_and_left_clean(tmp_path: Path) -> None:
    timed = measure.probe_fdatasync(tmp_path)
    assert 0 < timed["p50"] <= timed["p99"]
    assert list(tmp_path.iterdir()) == []
