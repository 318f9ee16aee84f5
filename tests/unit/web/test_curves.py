from __future__ import annotations

import re
from itertools import pairwise

import pytest

from mentorkd.web.curves import MOST_POINTS, Line, decades, draw_lines, thin, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0.13, 0.92), (0, 0), (3, 3), (-2, 7), (1e-6, 3e-6), (0, 35_000)])
def test_ticks_are_evenly_spaced_and_cover_the_values(low: float, high: float) -> None:
    got = ticks(low, high, 4)
    assert got[0] <= low
    assert got[-1] >= high
    assert len(got) <= 6
    steps = [b - a for a, b in pairwise(got)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_long_lines_are_thinned_to_means() -> None:
    points = [(float(x), float(x % 2)) for x in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= MOST_POINTS
    assert thinned[-1][0] == 9_999
    assert {round(y, 1) for _, y in thinned} == {0.5}
    assert thin([(1.0, 2.0)]) == [(1.0, 2.0)]


def test_a_drawing_has_a_line_for_each_model_and_no_style() -> None:
    lines = [Line("<b>", 9, [(1, 1.0), (2, 0.5)], growing=True), Line("none", 0, []), Line("one", 2, [(5, 3.0)])]
    svg = draw_lines('"loss"', lines)
    assert svg.count("<polyline") == 2
    assert svg.count('class="end') == 1  # of the line that grows
    assert 'class="line c1"' in svg
    assert "&lt;b&gt;" in svg
    assert "style=" not in svg
    assert draw_lines("loss", [Line("none", 0, [])]) == ""


def test_decades_are_few_and_cover_the_values() -> None:
    assert decades(0.3, 12.0) == [0.2, 0.5, 1, 2, 5, 10, 20]
    assert decades(1.0, 1.0) == [1, 2]
    assert decades(2e-5, 3e-5) == [2e-5, 5e-5]


def test_a_logarithmic_scale_gives_equal_ratios_equal_heights() -> None:
    svg = draw_lines("loss", [Line("a", 0, [(0, 1.0), (1, 10.0), (2, 100.0)])], logarithmic=True)
    heights = [float(y) for y in re.findall(r",([\d.]+)", svg[svg.index("points=") : svg.index("</polyline>")])]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    flat = draw_lines("loss", [Line("a", 0, [(0, 0.0), (1, 1.0)])], logarithmic=True)  # 0 has no logarithm
    assert "<polyline" in flat
