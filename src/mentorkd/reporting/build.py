"""From records to results: pure computing, nothing is read or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mentorkd.errors import RunError
from mentorkd.recipe import TEACHER
from mentorkd.records import Prediction, Question
from mentorkd.reporting.curves import build_curve
from mentorkd.reporting.examples import differing_examples, written_examples
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.schema import (
    SCHEMA,
    Bounds,
    ComparisonResult,
    Cost,
    DroppedRows,
    FilterCount,
    Headline,
    LearnerResult,
    Results,
    SeedResult,
)
from mentorkd.reporting.views import format_setting, format_updates
from mentorkd.statistics import (
    Interval,
    accuracy_interval,
    compare,
    holm,
    mean_and_error,
    outcome,
    verdict,
    wilson_interval,
)

__all__ = ["build_results"]


def build_results(inputs: ReportInputs) -> Results:
    """All numbers of the report.

    Raises RunError where a learner's predictions are not one for each test question.
    """
    verdicts = _verdicts(inputs)
    learners = [_learner(info, inputs, verdicts) for info in inputs.learners]
    comparisons = _comparisons(inputs.learners, verdicts, inputs.seeds)
    return {
        "schema": SCHEMA,
        "name": inputs.name,
        "task": {
            "name": inputs.task.name,
            "kind": inputs.task.kind,
            "train": inputs.task.train,
            "validation": inputs.task.validation,
            "test": inputs.task.test,
        },
        "seeds": list(inputs.seeds),
        "headline": _headline(inputs.learners, learners, comparisons),
        "warnings": [
            *_warnings(inputs, verdicts),
            *(_unlike(inputs.learners, comparisons[0]) if comparisons and comparisons[0]["headline"] else []),
        ],
        "protocol": [*inputs.protocol, *_protocol(inputs)],
        "learners": learners,
        "comparisons": comparisons,
        "filters": [_filter(row) for row in inputs.filters],
        "dropped": [_dropped(row) for row in inputs.dropped],
        "curves": [
            build_curve(info.name, seed, inputs.metrics[info.name, seed])
            for info in inputs.learners
            for seed in inputs.seeds
            if inputs.metrics.get((info.name, seed))
        ],
        "differing": differing_examples(inputs, _featured(inputs.learners, verdicts, comparisons)),
        "written": written_examples(inputs),
        "faults": list(inputs.faults),
        "run": {
            "costs": [_cost(row) for row in inputs.costs],
            "teacher": inputs.teacher,
            "manifest": dict(inputs.manifest),
        },
    }


def _verdicts(inputs: ReportInputs) -> dict[tuple[str, int], NDArray[np.int64]]:
    """1 where (learner, seed) is right, in the order of the test questions; keys without predictions are left out."""
    return {
        (info.name, seed): _in_order(predictions, inputs.questions, f"{info.name} (seed {seed})")
        for info in inputs.learners
        for seed in inputs.seeds
        if (predictions := inputs.predictions.get((info.name, seed)))
    }


def _in_order(predictions: Sequence[Prediction], questions: Sequence[Question], who: str) -> NDArray[np.int64]:
    asked, answered = Counter(q.id for q in questions), Counter(p.question_id for p in predictions)
    if asked != answered:
        extra, missing = (answered - asked).total(), (asked - answered).total()
        raise RunError(
            f"predictions of {who}: {extra} too many, {missing} missing; expected one for each of the "
            f"{len(questions)} test questions; evaluate it again (--force evaluate)"
        )
    right: dict[str, list[bool]] = {}
    for prediction in predictions:
        right.setdefault(prediction.question_id, []).append(prediction.verdict == "correct")
    waiting = {question_id: iter(flags) for question_id, flags in right.items()}
    return np.array([next(waiting[question.id]) for question in questions], dtype=np.int64)


def _learner(
    info: LearnerInfo, inputs: ReportInputs, verdicts: Mapping[tuple[str, int], NDArray[np.int64]]
) -> LearnerResult:
    seeds = [seed for seed in inputs.seeds if (info.name, seed) in verdicts]
    per_seed = [_seed(seed, inputs.predictions[info.name, seed]) for seed in seeds]
    accuracy = error = interval = None
    if per_seed:
        accuracy, error = mean_and_error([row["accuracy"] for row in per_seed])
        interval = accuracy_interval(np.stack([verdicts[info.name, seed] for seed in seeds], axis=1))
    answers = sum(row["questions"] for row in per_seed)
    return {
        "name": info.name,
        "model": info.model,
        "parameters": info.parameters,
        "role": _role(info, inputs.learners),
        "rationales": list(info.rationales),
        "soft_labels": info.soft_labels,
        "kd_weight": info.kd_weight if info.soft_labels else None,
        "temperature": info.temperature if info.soft_labels else None,
        "select_on": info.select_on,
        "updates": list(info.updates),
        "settings": dict(info.settings),
        "distillation": dict(info.distillation),
        "accuracy": _round(accuracy),
        "interval": _bounds(interval) if interval else None,
        "standard_error": _round(error),
        "no_answer": _round(sum(row["no_answer"] for row in per_seed) / answers) if answers else None,
        "cut": _round(sum(row["cut"] for row in per_seed) / answers) if answers else None,
        "tokens_per_answer": _round(sum(r["tokens_per_answer"] * r["questions"] for r in per_seed) / answers)
        if answers
        else None,
        "per_seed": per_seed,
    }


def _seed(seed: int, predictions: Sequence[Prediction]) -> SeedResult:
    correct = sum(p.verdict == "correct" for p in predictions)
    return {
        "seed": seed,
        "questions": len(predictions),
        "correct": correct,
        "no_answer": sum(p.verdict == "no_answer" for p in predictions),
        "cut": sum(not p.finished for p in predictions),
        "accuracy": _round(correct / len(predictions)),
        "interval": _bounds(wilson_interval(correct, len(predictions))),
        "tokens_per_answer": _round(sum(p.tokens for p in predictions) / len(predictions)),
    }


def _role(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> Literal["mentor", "student", "baseline"]:
    if any(info.name in (*other.rationales, other.soft_labels) for other in learners):
        return "mentor"
    return "baseline" if _teacher_alone(info) else "student"


def _teacher_alone(info: LearnerInfo) -> bool:
    return info.soft_labels is None and all(source == TEACHER for source in info.rationales)


def _headline_pairs(learners: Sequence[LearnerInfo]) -> list[tuple[str, str]]:
    """(student, baseline) pairs of one model: students that take most from mentors first, mentors themselves last."""

    def rank(info: LearnerInfo) -> tuple[bool, int]:
        taken = (info.soft_labels is not None) + any(source != TEACHER for source in info.rationales)
        return _role(info, learners) == "mentor", -taken

    students = sorted((info for info in learners if not _teacher_alone(info)), key=rank)
    baselines = [info for info in learners if _teacher_alone(info)]
    baselines.sort(key=lambda info: _role(info, learners) == "mentor")
    return [(s.name, b.name) for s in students for b in baselines if s.model_key == b.model_key]


def _comparisons(
    learners: Sequence[LearnerInfo], verdicts: Mapping[tuple[str, int], NDArray[np.int64]], seeds: Sequence[int]
) -> list[ComparisonResult]:
    headline = _headline_pairs(learners)
    names = [info.name for info in learners]
    others = [(b, a) for i, a in enumerate(names) for b in names[i + 1 :]]
    others = [(a, b) for a, b in others if (a, b) not in headline and (b, a) not in headline]
    shared = {
        (a, b): [seed for seed in seeds if (a, seed) in verdicts and (b, seed) in verdicts]
        for a, b in [*headline, *others]
    }
    pairs = [pair for pair, common in shared.items() if common]
    compared = [
        compare(*(np.stack([verdicts[name, seed] for seed in shared[pair]], axis=1) for name in pair), pairs=len(pairs))
        for pair in pairs
    ]
    rows: list[ComparisonResult] = []
    for (a, b), result, p in zip(pairs, compared, holm([c.p_value for c in compared]), strict=True):
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": _round(result.difference),
                "interval": _bounds(result.interval),
                "p_value": float(f"{result.p_value:.6g}"),
                "p_adjusted": float(f"{p:.6g}"),
                "detectable": _round(result.detectable),
                "inflation": _round(result.inflation),
                "only_a": result.only_a,
                "only_b": result.only_b,
                "questions": result.questions,
                "seeds": shared[a, b],
                "outcome": outcome(result, p_adjusted=p),
                "verdict": verdict(a, b, result, p_adjusted=p, pairs=len(pairs)),
                "headline": (a, b) in headline,
            }
        )
    return rows


def _headline(
    infos: Sequence[LearnerInfo], learners: Sequence[LearnerResult], comparisons: Sequence[ComparisonResult]
) -> Headline:
    if comparisons and comparisons[0]["headline"]:
        return {"statement": comparisons[0]["verdict"], "comparison": 0}
    if not any(learner["per_seed"] for learner in learners):
        reason = "no learner has been evaluated yet"
    elif _headline_pairs(infos):
        reason = "the student and its baseline were not both evaluated with a common seed"
    elif len(infos) == 1:
        reason = f"the recipe trains one learner, {infos[0].name}, and nothing to measure it against"
    else:
        reason = (
            "the recipe has no student (a learner that learns from a mentor) beside a learner of the same model "
            "that learns from the teacher alone"
        )
    return {"statement": f"no headline comparison: {reason}", "comparison": None}


def _featured(
    learners: Sequence[LearnerInfo],
    verdicts: Mapping[tuple[str, int], NDArray[np.int64]],
    comparisons: Sequence[ComparisonResult],
) -> list[str]:
    """The learners whose answers are shown side by side: a headline pair and its mentors, else the first four."""
    names = [info.name for info in learners if any(info.name == name for name, _ in verdicts)]
    if not comparisons or not comparisons[0]["headline"]:
        return names[:4]
    a, b = comparisons[0]["a"], comparisons[0]["b"]
    student = next(info for info in learners if info.name == a)
    return [name for name in names if name in (a, b, student.soft_labels, *student.rationales)]


def _warnings(inputs: ReportInputs, verdicts: Mapping[tuple[str, int], NDArray[np.int64]]) -> list[str]:
    lines = []
    on_test = [info.name for info in inputs.learners if info.select_on == "test"]
    if on_test:
        lines.append(
            f"EPOCHS WERE CHOSEN ON THE TEST SET for {', '.join(on_test)} (select_on: test). These accuracies are the "
            "best of many readings of the test set and therefore too high; do not set them beside numbers chosen on "
            "validation questions."
            + (
                f" The test set also reached {', '.join(taught)}, which learn{'s' if len(taught) == 1 else ''} from "
                "them, directly or through others."
                if (taught := _descendants(on_test, inputs.learners))
                else ""
            )
        )
    missing = []
    for info in inputs.learners:
        seeds = [str(seed) for seed in inputs.seeds if (info.name, seed) not in verdicts]
        if seeds:
            missing.append(f"{info.name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})")
    if missing:
        lines.append(f"No predictions of {', '.join(missing)}: left out of every number.")
    return lines


def _descendants(mentors: Sequence[str], learners: Sequence[LearnerInfo]) -> list[str]:
    """Learners that take text or soft labels from `mentors`, or from a learner that does; without `mentors`."""
    reached, before = set(mentors), -1
    while before < len(reached):
        before = len(reached)
        reached |= {info.name for info in learners if reached.intersection((*info.rationales, info.soft_labels))}
    return [info.name for info in learners if info.name in reached and info.name not in mentors]


def _unlike(learners: Sequence[LearnerInfo], row: ComparisonResult) -> list[str]:
    """What, beside whom they learn from, the two learners of a comparison do not have in common."""
    a, b = (next(info for info in learners if info.name == row[side]) for side in ("a", "b"))
    told = []
    if list(a.updates) != list(b.updates):
        told.append(f"optimiser updates {format_updates(a.updates)} against {format_updates(b.updates)}")
    for name in dict.fromkeys([*a.settings, *b.settings]):
        ours, theirs = a.settings.get(name), b.settings.get(name)
        if ours != theirs:
            told.append(f"{name} {format_setting(ours)} against {format_setting(theirs)}")
    if not told:
        return []
    return [
        f"{a.name} and {b.name} were not trained and asked alike: {', '.join(told)}. Their difference in accuracy may "
        "come from this as well as from the mentor."
    ]


def _protocol(inputs: ReportInputs) -> list[str]:
    lines = []
    for place, text in (
        ("validation", "of the best epoch, chosen on validation questions; the test set is read once, afterwards"),
        ("test", "of the best epoch, CHOSEN ON THE TEST SET"),
        ("last", "of the last epoch; nothing was chosen"),
    ):
        names = [info.name for info in inputs.learners if info.select_on == place]
        if names:
            lines.append(f"Weights of {', '.join(names)}: {text}.")
    return lines


def _filter(row: Mapping[str, Any]) -> FilterCount:
    return {
        "learner": row.get("learner"),
        "source": row["source"],
        "seed": row.get("seed"),
        "filter": row["filter"],
        "before": row["before"],
        "after": row["after"],
    }


def _dropped(row: Mapping[str, Any]) -> DroppedRows:
    return {"learner": row["learner"], "seed": row.get("seed"), "reason": row["reason"], "rows": row["rows"]}


def _cost(row: Mapping[str, Any]) -> Cost:
    fields = ("stage", "learner", "seed", "seconds", "tokens", "peak_memory_mb")
    return cast(Cost, {name: row.get(name) for name in fields})


def _bounds(interval: Interval) -> Bounds:
    return [_round(interval.low), _round(interval.high)]


def _round(value: Any) -> Any:
    return None if value is None else round(float(value), 6)
