"""psmr.chart: bars in proportion, as wide as allowed, marked where asked."""

from __future__ import annotations

from psmr.chart import bars


def test_columns_are_in_proportion() -> None:
    assert bars([0, 50, 100], width=10, height=2, marks={2: "K"}) == ["100 │  █", "  0 │ ██", "    └───", "       K"]


def test_eighths_show_between_rows() -> None:
    assert bars([1, 8], width=10, height=1, marks={})[0] == "8 │▁█"


def test_neighbours_share_a_column() -> None:
    lines = bars([10.0] * 100, width=30, height=3, marks={99: "R"})
    assert all(len(line) <= len("10 │") + 30 for line in lines)
    assert lines[0].count("█") == 25
    assert lines[-1].rstrip().endswith("R")


def test_nothing_is_drawn_of_nothing() -> None:
    assert bars([], width=10, height=3, marks={}) == []
    assert bars([0, 0], width=10, height=2, marks={})[0].endswith("│  ")
