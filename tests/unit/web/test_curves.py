from __future__ import annotations

from itertools import pairwise

import pytest

from mentorkd.web.curves import MOST_POINTS, Line, draw_lines, thin, ticks


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
    assert svg.count("<circle") == 2  # of a growing line and of a single point
    assert 'class="line c1"' in svg
    assert "&lt;b&gt;" in svg
    assert "style=" not in svg
    assert draw_lines("loss", [Line("none", 0, [])]) == ""
