"""psmr.demo: what counts as a disturbance, and what as a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from psmr.demo import Summary, disturbed_ms, problems, write
from psmr.errors import RuntimeFailure

SOUND: Any = {
    "replicas": 3,
    "groups": 16,
    "kill": {"replica": 2, "at_s": 0.4, "serves_again_at_s": 0.9},
    "lost": 0,
    "unread": 0,
    "equal": True,
    "missing": [],
    "timeline_100ms": [5, 10, 10, 10, 0, 4, 10, 10, 10, 10, 1],
}


def test_tenths_of_a_second_under_half_of_the_median_before_the_kill_are_disturbed() -> None:
    assert disturbed_ms([1, 100, 102, 98, 49, 0, 50, 100, 2], kill_at_s=0.4) == 200


def test_the_time_before_the_kill_is_no_disturbance() -> None:
    assert disturbed_ms([1, 100, 0, 100, 100, 100, 0], kill_at_s=0.4) == 0


def test_without_a_time_before_the_kill_there_is_no_answer() -> None:
    with pytest.raises(RuntimeFailure, match="--seconds"):
        disturbed_ms([100, 100], kill_at_s=0.1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lost": 1}, "1 acknowledged writes are lost"),
        ({"unread": 2}, "2 acknowledged writes could not be read"),
        ({"equal": False}, "differ"),
        ({"missing": [3]}, "replica 3"),
    ],
)
def test_each_problem_is_named(change: Summary, named: str) -> None:
    assert problems(SOUND) == []
    [problem] = problems({**SOUND, **change})
    assert named in problem


def test_the_summary_and_the_plot_are_written(tmp_path: Path) -> None:
    write(SOUND, tmp_path / "demo")
    assert (tmp_path / "demo" / "throughput.png").read_bytes().startswith(b"\x89PNG")
    assert '"lost": 0' in (tmp_path / "demo" / "summary.json").read_text()
