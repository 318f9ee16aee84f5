"""Student's t against scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from mentorkd.student_t import quantile, upper_tail


@pytest.mark.parametrize("freedom", [1.0, 1.7, 2.0, 4.0, 12.5, 224.0, math.inf])
def test_it_equals_scipy(freedom):
    reference = stats.t(freedom) if math.isfinite(freedom) else stats.norm
    for t in (0.0, 0.3, 1.96, 4.0, 12.0):
        assert upper_tail(t, freedom) == pytest.approx(reference.sf(t), rel=1e-6, abs=1e-15)
    for p in (0.5, 0.8, 0.975, 0.9995):
        assert quantile(p, freedom) == pytest.approx(reference.ppf(p), rel=1e-8, abs=1e-8)
