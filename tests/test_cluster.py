"""psmr.cluster: how long a replica that fails stays down."""

from __future__ import annotations

from psmr.cluster import restart_delay_s


def test_a_replica_that_served_is_back_after_a_second() -> None:
    assert restart_delay_s(0) == 1.0


def test_failures_in_a_row_double_the_delay_up_to_half_a_minute() -> None:
    assert [restart_delay_s(failures) for failures in (1, 2, 3, 4, 5, 6, 10_000)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
