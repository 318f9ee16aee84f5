"""Student's t distribution with any positive, fractional number of degrees of freedom (infinite: the normal one)."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantile", "upper_tail"]


def upper_tail(t: float, freedom: float) -> float:
    """P(T > t), t >= 0."""
    if math.isinf(freedom):
        return NormalDist().cdf(-t)
    # With t = sqrt(freedom) tan(u) the density is cos(u) ^ (freedom - 1), up to a constant; it ends at pi / 2.
    nodes, weights = _gauss_legendre()
    start = math.atan2(t, math.sqrt(freedom))
    half = (math.pi / 2 - start) / 2
    area = half * float(weights @ np.sin(half * (1 - nodes)) ** (freedom - 1))
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return constant * area


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[NDArray[Any], NDArray[Any]]:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def quantile(p: float, freedom: float) -> float:
    """The t below which T lies with probability `p`, 0.5 <= p < 1."""
    normal = NormalDist().inv_cdf(p)
    if math.isinf(freedom):
        return normal
    low, high = 0.0, 2 * normal + 1
    while upper_tail(high, freedom) > 1 - p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(middle, freedom) > 1 - p else (low, middle)
    return (low + high) / 2
