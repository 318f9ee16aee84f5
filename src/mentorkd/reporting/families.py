"""The tests of a report: every weighted sum of learners is tested once, in one of three families.

| family | p |
|---|---|
| the first headline pair: the hypothesis that the recipe states before any measurement | by itself |
| the parts of all decompositions | corrected together, by Holm |
| all other pairs | corrected together, by Holm |

A pair that is a part of a decomposition has one p, wherever the report shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mentorkd.reporting.inputs import LearnerInfo
from mentorkd.reporting.schema import ContrastResult
from mentorkd.reporting.statistics import Contrast, Outcome, contrast, holm, outcome
from mentorkd.reporting.verdicts import Verdicts, bounds, peers_of, rounded, stacked

Family = Literal["headline", "parts", "pairs"]

Sum = frozenset[tuple[str, int]]
"""A weighted sum of learners: (learner, weight)."""

Seeds = Sequence[tuple[int, int]]
"""Paired seeds: of the first learner, and of the second; they differ only between runs without a common seed."""


@dataclass(frozen=True)
class Tested:
    """A weighted sum of accuracies and its test."""

    seeds: Seeds
    peers: Sequence[str]
    """Further learners in the estimate of the scatter over seeds."""
    result: Contrast
    p_adjusted: float
    family: Family
    size: int
    """Number of tests in the family."""

    @property
    def outcome(self) -> Outcome:
        """Whether the sum differs from 0."""
        return outcome(self.result, p_adjusted=self.p_adjusted)

    def fields(self) -> ContrastResult:
        """The fields that comparisons and parts share."""
        result = self.result
        ends = result.detectable_interval
        return {
            "interval": bounds(result.interval.low, result.interval.high),
            "standard_error": float(f"{result.standard_error:.9g}"),
            "freedom": float(f"{result.freedom:.9g}"),
            "factor": round(result.factor, 6),
            "scatter": rounded(result.scatter),
            "scatter_interval": None
            if result.scatter_interval is None
            else bounds(result.scatter_interval.low, result.scatter_interval.high),
            "detectable": round(result.detectable, 6),
            "detectable_interval": None if ends is None else bounds(ends.low, ends.high),
            "peers": list(self.peers),
            "p_value": float(f"{result.p_value:.6g}"),
            "p_adjusted": float(f"{self.p_adjusted:.6g}"),
            "family": self.family,
            "corrected_for": self.size,
        }


Tests = Mapping[Sum, Tested]
"""Weighted sum -> its test. A pair is there once, as the comparisons show it."""


def run_tests(
    headline: Sequence[tuple[str, str]],
    pairs: Mapping[tuple[str, str], Seeds],
    parts: Mapping[Sum, Seeds],
    learners: Sequence[LearnerInfo],
    verdicts: Verdicts,
) -> Tests:
    """Test all pairs and parts; `headline` has the first pair of `pairs` if the recipe states one."""
    sums = {pair_sum(a, b): seeds for (a, b), seeds in pairs.items()}
    hypothesis = {pair_sum(*pair) for pair in list(pairs)[:1] if pair in headline}
    known = {key if key in sums or turned(key) not in sums else turned(key): seeds for key, seeds in parts.items()}
    sums |= known  # a part's pair is compared over the seeds that all arms share, so that parts add up
    families: dict[Family, list[Sum]] = {
        "headline": [key for key in sums if key in hypothesis],
        "parts": [key for key in sums if key in known and key not in hypothesis],
        "pairs": [key for key in sums if key not in known and key not in hypothesis],
    }
    tests: dict[Sum, Tested] = {}
    for family, keys in families.items():
        results = [_test(dict(key), sums[key], family, len(keys), learners, verdicts) for key in keys]
        adjusted = holm([one.result.p_value for one in results])
        tests |= {key: replace(one, p_adjusted=p) for key, one, p in zip(keys, results, adjusted, strict=True)}
    return tests


def pair_sum(a: str, b: str) -> Sum:
    """Learner a minus learner b."""
    return frozenset({(a, 1), (b, -1)})


def turned(key: Sum) -> Sum:
    """The negative of a weighted sum."""
    return frozenset((name, -weight) for name, weight in key)


def _test(
    weights: Mapping[str, int],
    seeds: Seeds,
    family: Family,
    size: int,
    learners: Sequence[LearnerInfo],
    verdicts: Verdicts,
) -> Tested:
    names = sorted(weights, key=lambda name: (-weights[name], [info.name for info in learners].index(name)))
    mine, theirs = ([one[side] for one in seeds] for side in (0, 1))
    peers = peers_of(names, learners, verdicts, mine) if mine == theirs else {}
    arms = [stacked(verdicts, name, mine if weights[name] > 0 else theirs) for name in names]
    signs = [weights[name] for name in names]
    result = contrast(arms, signs, peers=list(peers.values()), pairs=size)
    return Tested(seeds, list(peers), result, result.p_value, family, size)
