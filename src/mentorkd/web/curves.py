"""Learning curves as small SVG drawings, without style attributes, which the pages' Content-Security-Policy forbids.

They are drawn once a second while a training runs; matplotlib, which draws those of the report, takes a hundred times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 10, 24
MOST_POINTS = 160
"""Of a line. Neighbouring points of longer ones are averaged."""
_MOST_MARKED = 12
"""Points of a line that are marked, at most."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """The values of one model by its updates, in the colour of its learner."""

    name: str
    colour: int
    points: Sequence[Point]
    growing: bool = False
    """Whether its training runs; its last point is marked then."""


def draw_lines(label: str, lines: Sequence[Line], *, logarithmic: bool = False) -> Markup:
    """The drawing, or nothing without a point. The values begin at 0, or at the least of them if their scale is logarithmic."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return Markup("")
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_ticks = ticks(0, max(xs), 5)
    x_scale = _scale(0, max(x_ticks[-1], max(xs)), _LEFT, WIDTH - _RIGHT)
    if logarithmic and min(ys) > 0:
        y_ticks = decades(min(ys), max(ys))
        scaled = _scale(math.log(y_ticks[0]), math.log(y_ticks[-1]), HEIGHT - _BOTTOM, _TOP)
        y_scale: Callable[[float], float] = lambda y: scaled(math.log(y))  # noqa: E731
    else:
        y_ticks = ticks(min(0, *ys), max(ys), 4)
        y_scale = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y_scale(y):.1f}" y2="{y_scale(y):.1f}" class="grid"/>'
        f'<text x="{_LEFT - 6}" y="{y_scale(y) + 3.5:.1f}" text-anchor="end">{y:g}</text>'
        for y in y_ticks
    ]
    parts += [
        f'<text x="{x_scale(x):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{x:,.0f}</text>'
        for x in x_ticks
        if x <= max(xs) or x == 0
    ]
    for line in drawn:
        places = [f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in thin(line.points)]
        title = f"<title>{escape(line.name)}</title>"
        parts.append(f'<polyline class="line c{line.colour % 8}" points="{" ".join(places)}">{title}</polyline>')
        marked = places if len(places) <= _MOST_MARKED else places[-1:] if line.growing else []
        for place in marked:
            x, y = place.split(",")
            kind, radius = ("end", 3.5) if line.growing and place == places[-1] else ("point", 2)
            parts.append(f'<circle class="{kind} c{line.colour % 8}" cx="{x}" cy="{y}" r="{radius}">{title}</circle>')
    return Markup(
        f'<svg class="curves" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    )


def thin(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` points: means of neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def ticks(low: float, high: float, number: int) -> list[float]:
    """About `number` round numbers, the first at most `low` and the last at least `high`."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / number))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= number)
    first = math.floor(low / step)
    count = max(1, math.ceil(high / step - first - 1e-9))
    return [round((first + index) * step, 10) for index in range(count + 1)]


def decades(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 times a power of ten, the last that is at most `low` to the first that is at least `high`; both positive."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    numbers = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(place for place, number in enumerate(numbers) if number <= low)
    last = next(place for place, number in enumerate(numbers) if number >= high and place > first)
    return numbers[first : last + 1]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    factor = (end - start) / ((high - low) or 1.0)
    return lambda value: start + (value - low) * factor
