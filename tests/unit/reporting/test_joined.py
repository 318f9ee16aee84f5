"""Several runs together: Student's t over their differences."""

from __future__ import annotations

import pytest
from scipy import stats

from mentorkd.reporting.joined import join
from one_run import one_run


def test_runs_are_joined_by_students_t_over_their_differences() -> None:
    runs = [one_run(0.09, "a_better"), one_run(-0.1, "b_better", turned=True), one_run(-0.01), one_run(0.06)]
    expected = stats.ttest_1samp([0.09, 0.1, -0.01, 0.06], 0).confidence_interval()
    joined = join(runs, "student", "vanilla")
    assert joined[:4] == pytest.approx((0.06, expected.low, expected.high, -0.01))
    assert joined[4:] == (3, 2, 4)
    assert join(runs, "vanilla", "student")[:4] == pytest.approx((-0.06, -expected.high, -expected.low, -0.1))
    assert join(runs, "vanilla", "student")[4:] == (1, 0, 4)
