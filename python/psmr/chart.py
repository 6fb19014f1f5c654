"""A bar chart for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], width: int, height: int, marks: Mapping[int, str]) -> list[str]:
    """Draw values as columns, left to right, on a scale from 0; neighbours share a column if `width` is too small.

    `marks`: a letter below the column of a value, by the value's position.
    """
    if not values:
        return []
    share = -(-len(values) // max(1, width))
    columns = [sum(values[at : at + share]) / len(values[at : at + share]) for at in range(0, len(values), share)]
    top = max(max(columns), 1.0)
    labels = [f"{top:,.0f}", *[""] * (height - 2), "0"][:height]
    margin = max(len(label) for label in labels)
    lines = []
    for row in range(height):
        below = height - 1 - row
        cells = "".join(_EIGHTHS[round(8 * min(1.0, max(0.0, value / top * height - below)))] for value in columns)
        lines.append(f"{labels[row]:>{margin}} │{cells}")
    axis = [" "] * len(columns)
    for position, letter in marks.items():
        axis[min(position // share, len(columns) - 1)] = letter
    lines.append(f"{'':>{margin}} └{'─' * len(columns)}")
    lines.append(f"{'':>{margin}}  {''.join(axis)}".rstrip())
    return lines
