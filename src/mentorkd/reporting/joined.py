"""What several runs of a recipe show together that have other questions and other seeds, so that their answers cannot be pooled."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from mentorkd.errors import RunError
from mentorkd.reporting.schema import Results
from mentorkd.reporting.statistics import TAIL, t_quantile


class Joined(NamedTuple):
    """How far one learner is above another over several runs, as shares."""

    mean: float
    low: float
    high: float
    """Student's t over the runs, 95 %."""
    smallest: float
    above: int
    """Runs with a difference above 0."""
    shown: int
    """Runs that show by themselves that it is above."""
    runs: int


def join(results: Sequence[Results], a: str, b: str) -> Joined:
    """Learner `a` minus learner `b` over all runs. Raises RunError for a run that does not compare them, and for fewer than two runs."""
    found = [_difference(one, a, b, f"run {number} of {len(results)}") for number, one in enumerate(results, 1)]
    if len(found) < 2:
        raise RunError(f"got {len(found)} runs; expected two or more, since their scatter is the error")
    values = [value for value, _ in found]
    mean = statistics.fmean(values)
    margin = t_quantile(len(values) - 1, 1 - TAIL) * statistics.stdev(values) / math.sqrt(len(values))
    above, shown = sum(value > 0 for value in values), sum(shown for _, shown in found)
    return Joined(mean, mean - margin, mean + margin, min(values), above, shown, len(values))


def _difference(results: Results, a: str, b: str, run: str) -> tuple[float, bool]:
    """The difference in one run, and whether the run shows by itself that `a` is above."""
    rows = [row for row in results["comparisons"] if {row["a"], row["b"]} == {a, b}]
    if len(rows) != 1:
        raise RunError(f"{run} does not compare {a} with {b}; name two learners of all runs")
    sign, better = (1, "a_better") if rows[0]["a"] == a else (-1, "b_better")
    return sign * rows[0]["difference"], rows[0]["outcome"] == better
