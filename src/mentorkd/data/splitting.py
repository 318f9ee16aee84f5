"""The rows of a micro-batch in parts of similar length, so that less padding is computed.

The parts are read one after the other, and their gradients add up to that of the whole. A part also has a fixed cost, which is
given as the number of tokens that take as long to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mentorkd.data.batching import padded_width

Sides = tuple[int, ...]
"""Tokens of each side of a row that is padded separately."""


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
    """The cheapest division of units into runs of neighbours."""
    best = [_Division(0, [])]
    for end in range(1, len(order) + 1):
        rows, longest, choices = 0, (0,) * len(order[0].longest), []
        for start in range(end - 1, -1, -1):
            rows, longest = rows + len(order[start].rows), _longest([longest, order[start].longest])
            width = sum(padded_width(side, multiple) for side in longest)
            choices.append((best[start].cost + fixed_cost + rows * width, -start))
        cost, start = min(choices)
        best.append(_Division(cost, [*best[-start].parts, list(order[-start:end])]))
    return best[-1]
