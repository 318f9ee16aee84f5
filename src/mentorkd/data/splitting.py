"""The rows of a micro-batch in parts of similar length, so that less padding is computed.

The parts are read one after the other, and their gradients add up to that of the whole. A part also has a fixed cost, which is
given as the number of tokens that take as long to compute.

Legend: U units in order, S sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mentorkd.data.padding import padded_width

Sides = tuple[int, ...]
"""Tokens of each side of a row that is padded separately."""


_PART_COSTS = {"cpu": (1.4e9, 50), "gpu": (1e13, 50)}
"""By device: floating-point operations that it does in the time of a part's calls, and tokens a part whose time it takes to add up
the gradients. Fixed and not measured, because a training that is resumed must divide its rows as before."""


def cost_of_part(parameters: int, device: Literal["cpu", "gpu"]) -> int:
    """The tokens that take as long as what a part costs whatever its length: the calls of the model's operations, and adding its
    gradients to those of the other parts."""
    call_flops, gradient_tokens = _PART_COSTS[device]
    return round(call_flops / (6 * parameters)) + gradient_tokens


class _Unit(NamedTuple):
    """Rows that stay together."""

    rows: list[int]
    longest: Sides


class _Division(NamedTuple):
    cost: int
    parts: list[list[_Unit]]


def split_rows(
    sides: Sequence[Sides], groups: Sequence[str | None], *, fixed_cost: int, multiple: int
) -> list[list[int]]:
    """The numbers of the rows in each part, longest part first. Among the divisions into neighbours by length they cost least.

    Args:
        sides: of every row.
        groups: rows of one group stay together.
        fixed_cost: that of a part, in padded tokens.
        multiple: of `padded_width`.
    """
    units = _units(sides, groups)
    orders = (sorted(units, key=key) for key in _lengths(len(sides[0])))
    best = min((_divided(order, fixed_cost, multiple) for order in orders), key=lambda division: division.cost)
    return [[row for unit in part for row in unit.rows] for part in reversed(best.parts)]


def _units(sides: Sequence[Sides], groups: Sequence[str | None]) -> list[_Unit]:
    members: dict[str | int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(row if group is None else group, []).append(row)
    return [_Unit(rows, _longest([sides[row] for row in rows])) for rows in members.values()]


def _longest(sides: Sequence[Sides]) -> Sides:
    return tuple(map(max, zip(*sides, strict=True)))


def _lengths(sides: int) -> list[Callable[[_Unit], int]]:
    """The lengths by which units are put in order: that of each side, and of all together."""
    each: list[Callable[[_Unit], int]] = [lambda unit, side=side: unit.longest[side] for side in range(sides)]  # type: ignore[misc]
    return [lambda unit: sum(unit.longest), *each] if sides > 1 else each


def _divided(order: Sequence[_Unit], fixed_cost: int, multiple: int) -> _Division:
    """The cheapest division of U units into runs of neighbours; of several, the one whose last run is shortest."""
    rows_U = np.array([len(unit.rows) for unit in order])
    # A longer side is never padded to less, so the width of a run is the largest of its units'.
    widths_US = np.array([[padded_width(side, multiple) for side in unit.longest] for unit in order])
    whole = int(rows_U.sum() * widths_US.max(0).sum())
    if whole - int(rows_U @ widths_US.sum(1)) < fixed_cost:  # no second part can save its cost
        return _Division(fixed_cost + whole, [list(order)])
    before_U = rows_U.cumsum() - rows_U
    best = np.zeros(len(order) + 1, dtype=np.int64)  # cost of the first units
    starts: list[int] = []  # of the last run, for each end
    longest_US = np.zeros_like(widths_US)  # of the run from each unit to the end
    for end in range(1, len(order) + 1):
        runs_US = longest_US[:end]
        np.maximum(runs_US, widths_US[end - 1], out=runs_US)
        rows = before_U[end - 1] + rows_U[end - 1] - before_U[:end]
        costs = best[:end] + fixed_cost + rows * runs_US.sum(1)
        starts.append(end - 1 - int(costs[::-1].argmin()))
        best[end] = costs[starts[-1]]
    parts, end = list[list[_Unit]](), len(order)
    while end:
        parts.insert(0, list(order[starts[end - 1] : end]))
        end = starts[end - 1]
    return _Division(int(best[-1]), parts)
