"""Pairs of learners: paired statistics, the correction for their number, the headline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.roles import headline_pairs, is_arm, leads
from mentorkd.reporting.schema import ComparisonResult, Headline, LearnerResult
from mentorkd.reporting.verdicts import Verdicts, bounds, peers_of, stacked
from mentorkd.statistics import Contrast, compare, holm, outcome, verdict


def build_comparisons(inputs: ReportInputs, verdicts: Verdicts, on_test: Sequence[str]) -> list[ComparisonResult]:
    """All pairs of learners, headline pairs first; `on_test` names the learners influenced by the test set.

    The first headline pair is the hypothesis that the recipe states before any measurement, so it is tested by itself.
    All other pairs are corrected together, by Holm.
    """
    headline = _headline_pairs(inputs)
    others = [
        (b, a) for a, b in combinations(inputs.learners, 2) if {(a.name, b.name), (b.name, a.name)}.isdisjoint(headline)
    ]
    others.sort(key=lambda pair: max(_interest(info, inputs.learners) for info in pair))
    pairs_of_names = [*headline, *((a.name, b.name) for a, b in others)]
    paired = {(a, b): seeds for a, b in pairs_of_names if (seeds := _paired_seeds(a, b, inputs.seeds, verdicts))}
    first = int(next(iter(paired), None) in headline)
    families = [1] * first + [len(paired) - first] * (len(paired) - first)
    compared: list[Contrast] = []
    for ((a, b), seeds), pairs in zip(paired.items(), families, strict=True):
        mine, theirs = ([one[side] for one in seeds] for side in (0, 1))
        peers = peers_of([a, b], inputs.learners, verdicts, mine) if mine == theirs else []
        compared.append(compare(stacked(verdicts, a, mine), stacked(verdicts, b, theirs), peers=peers, pairs=pairs))
    p_values = [result.p_value for result in compared]
    adjusted = [*p_values[:first], *holm(p_values[first:])]
    return [
        {
            "a": a,
            "b": b,
            "difference": round(result.difference, 6),
            "interval": bounds(result.interval.low, result.interval.high),
            "p_value": float(f"{result.p_value:.6g}"),
            "p_adjusted": float(f"{p:.6g}"),
            "corrected_for": pairs,
            "detectable": round(result.detectable, 6),
            "inflation": round(result.inflation, 6),
            "only_a": result.only_a,
            "only_b": result.only_b,
            "questions": result.questions,
            "seeds": [one for one, _ in paired[a, b]],
            "paired_with": [other for _, other in paired[a, b]],
            "on_test": a in on_test or b in on_test,
            "outcome": outcome(result, p_adjusted=p),
            "verdict": verdict(a, b, result, p_adjusted=p, pairs=pairs),
            "headline": (a, b) in headline,
        }
        for (a, b), result, p, pairs in zip(paired, compared, adjusted, families, strict=True)
    ]


def _interest(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> int:
    """Sort key: arms, then mentors, variants that do not lead, and untrained models."""
    return 3 if not info.rationales else 2 if not leads(info, learners) else int(not is_arm(info, learners))


def _headline_pairs(inputs: ReportInputs) -> list[tuple[str, str]]:
    return headline_pairs(inputs.learners) if inputs.headline is None else list(inputs.headline)


def _paired_seeds(a: str, b: str, seeds: Sequence[int], verdicts: Verdicts) -> list[tuple[int, int]]:
    """The shared seeds; without any (two runs), the seeds of both in order, up to the shorter list."""
    mine, theirs = ([seed for seed in seeds if (name, seed) in verdicts] for name in (a, b))
    shared = [(seed, seed) for seed in mine if seed in theirs]
    return shared or list(zip(mine, theirs, strict=False))


def build_headline(
    inputs: ReportInputs, learners: Sequence[LearnerResult], comparisons: Sequence[ComparisonResult]
) -> Headline:
    """The verdict of the first headline pair, or the reason why there is none."""
    if comparisons and comparisons[0]["headline"]:
        mark = " (SELECTED ON TEST)" if comparisons[0]["on_test"] else ""
        return {"statement": comparisons[0]["verdict"] + mark, "comparison": 0}
    if not any(learner["per_seed"] for learner in learners):
        reason = "no learner has been evaluated yet"
    elif _headline_pairs(inputs):
        reason = "the student and its baseline were not both evaluated with a common seed"
    elif len(inputs.learners) == 1:
        reason = f"the recipe has only one learner, {inputs.learners[0].name}, and none to compare it with"
    else:
        reason = (
            "the recipe has no student (a learner that learns from a mentor) beside a learner of the same model "
            "that learns only from the teacher"
        )
    return {"statement": f"no headline comparison: {reason}", "comparison": None}


def featured_learners(
    learners: Sequence[LearnerInfo], verdicts: Verdicts, comparisons: Sequence[ComparisonResult]
) -> list[str]:
    """Learners whose answers are shown side by side: the headline pair and its mentors, or the first four learners."""
    names = [info.name for info in learners if any(info.name == name for name, _ in verdicts)]
    if not comparisons or not comparisons[0]["headline"]:
        return names[:4]
    a, b = comparisons[0]["a"], comparisons[0]["b"]
    sources = [
        source for info in learners if info.name in (a, b) for source in (*info.mentor_weights, *info.rationales)
    ]
    return [name for name in names if name in (a, b, *sources)]
