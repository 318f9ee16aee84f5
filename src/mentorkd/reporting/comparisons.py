"""Pairs of learners: which are compared, their rows, the headline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from mentorkd.reporting.families import Seeds, Tests, pair_sum
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.matching import unequal_training
from mentorkd.reporting.roles import ancestors, headline_pairs, is_arm, is_self_taught, leads
from mentorkd.reporting.schema import ComparisonResult, Headline, LearnerResult
from mentorkd.reporting.statistics import verdict
from mentorkd.reporting.verdicts import Verdicts


def pairs_of(inputs: ReportInputs, verdicts: Verdicts) -> dict[tuple[str, str], Seeds]:
    """All pairs of learners with their paired seeds, headline pairs first; without pairs that have none."""
    headline = headlines(inputs)
    others = [
        (b, a) for a, b in combinations(inputs.learners, 2) if {(a.name, b.name), (b.name, a.name)}.isdisjoint(headline)
    ]
    others.sort(key=lambda pair: max(_interest(info, inputs.learners) for info in pair))
    pairs = [*headline, *((a.name, b.name) for a, b in others)]
    return {(a, b): seeds for a, b in pairs if (seeds := _paired_seeds(a, b, inputs.seeds, verdicts))}


def build_comparisons(
    inputs: ReportInputs, pairs: Iterable[tuple[str, str]], tests: Tests, on_test: Sequence[str]
) -> list[ComparisonResult]:
    """The comparisons of the pairs; `on_test` names the learners influenced by the test set."""
    headline, infos = headlines(inputs), {info.name: info for info in inputs.learners}
    rows: list[ComparisonResult] = []
    for a, b in pairs:
        tested = tests[pair_sum(a, b)]
        result = tested.result
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": round(result.difference, 6),
                **tested.fields(),
                "only_a": result.only_a,
                "only_b": result.only_b,
                "questions": result.questions,
                "seeds": [one for one, _ in tested.seeds],
                "paired_with": [other for _, other in tested.seeds],
                "on_test": a in on_test or b in on_test,
                "unmatched": unequal_training([infos[a], infos[b]], inputs.match),
                "outcome": tested.outcome,
                "verdict": verdict(a, b, result, p_adjusted=tested.p_adjusted, pairs=tested.size),
                "headline": (a, b) in headline,
            }
        )
    return rows


def _interest(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> int:
    """Sort key: arms, then mentors, variants that do not lead, and untrained models."""
    return 3 if not info.rationales else 2 if not leads(info, learners) else int(not is_arm(info, learners))


def headlines(inputs: ReportInputs) -> list[tuple[str, str]]:
    """The headline pairs: those given, or those of the graph of learners."""
    return headline_pairs(inputs.learners) if inputs.headline is None else list(inputs.headline)


def _paired_seeds(a: str, b: str, seeds: Sequence[int], verdicts: Verdicts) -> Seeds:
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
        controls = _against_self_training(comparisons[0]["a"], inputs.learners, comparisons)
        return {"statement": comparisons[0]["verdict"] + mark, "comparison": 0, "controls": controls}
    if not any(learner["per_seed"] for learner in learners):
        reason = "no learner has been evaluated yet"
    elif headlines(inputs):
        reason = "the student and its baseline were not both evaluated with a common seed"
    elif len(inputs.learners) == 1:
        reason = f"the recipe has only one learner, {inputs.learners[0].name}, and none to compare it with"
    else:
        reason = (
            "the recipe has no student (a learner that learns from a mentor) beside a learner of the same model "
            "that learns only from the teacher"
        )
    return {"statement": f"no headline comparison: {reason}", "comparison": None, "controls": []}


def _against_self_training(
    student: str, learners: Sequence[LearnerInfo], comparisons: Sequence[ComparisonResult]
) -> list[int]:
    """The pairs of the student with self-taught learners of its model, every round of a chain, and of a sweep the leading one.

    None where the student is self-taught. Learners that it learns from are no controls.
    """
    infos = {info.name: info for info in learners}
    if is_self_taught(infos[student], learners):
        return []
    others = [info for info in learners if leads(info, learners) and info.name not in ancestors(student, learners)]
    taught = {
        info.name for info in others if info.model_key == infos[student].model_key and is_self_taught(info, learners)
    }
    pairs = [{row["a"], row["b"]} for row in comparisons]
    return [number for number, pair in enumerate(pairs) if student in pair and pair & taught]


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
