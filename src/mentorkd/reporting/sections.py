"""Rows of the report's tables beside those of learners, cost and settings: the same text on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.reporting.decomposition import PART_NAMES
from mentorkd.reporting.format import (
    format_count,
    format_points,
    format_range,
    format_seconds,
    format_setting,
    format_share,
    marked,
)
from mentorkd.reporting.schema import Decomposition, LearnerResult, Results
from mentorkd.reporting.views import shown_learners, validated_on_test
from mentorkd.statistics import format_p

__all__ = [
    "Sweep",
    "decomposition_rows",
    "fairness_rows",
    "formula",
    "pair_note",
    "pair_rows",
    "soft_label_rows",
    "spent_rows",
    "sweep_rows",
    "sweeps_of",
    "trial_rows",
]


@dataclass(frozen=True)
class Sweep:
    """One swept key: for each series the variants by value, in the recipe's order; and what to hold them against."""

    key: str
    series: Mapping[str, Sequence[tuple[Any, LearnerResult]]]
    references: Sequence[LearnerResult]


def pair_rows(results: Results) -> list[dict[str, str]]:
    """One row for each comparison."""
    better = {"a_better": "a", "b_better": "b"}
    return [
        {
            "pair": marked(f"{row['a']} − {row['b']}", row["on_test"]),
            "difference in points [95 %]": format_points(row["difference"])
            + " [{}, {}]".format(*map(format_points, row["interval"])),
            "p": format_p(row["p_adjusted"]),
            "verdict": f"{row[better[row['outcome']]]} is better"  # type: ignore[literal-required]
            if row["outcome"] in better
            else "no difference can be shown",
            "only one right": f"{row['only_a']} : {row['only_b']}",
            "detectable": format_share(row["detectable"]) if row["detectable"] <= 1 else "none",
        }
        for row in results["comparisons"]
    ]


def pair_note(results: Results) -> str:
    """For how many pairs p is corrected, which intervals are not; empty where nothing is corrected."""
    families = [row["corrected_for"] for row in results["comparisons"]]
    pairs = max(families, default=1)
    if pairs == 1:
        return ""
    first = "The first pair is tested by itself, p of all other pairs" if families[0] == 1 else "p of all pairs"
    return (
        f"{first} is corrected for their number, {pairs} (Holm). Intervals are each of one pair and not corrected, so one "
        "without 0 beside a p above 0.05 is no contradiction: that difference is not shown."
    )


def decomposition_rows(found: Decomposition) -> list[dict[str, str]]:
    """One row for each part."""
    return [
        {
            "part": marked(PART_NAMES[part["part"]], part["on_test"]),
            "points [95 %]": format_points(part["gain"]) + " [{}, {}]".format(*map(format_points, part["interval"])),
            "p": format_p(part["p"]),
            "arms": formula(part["arms"]),
            "note": part["note"] or "",
        }
        for part in found["parts"]
    ]


def formula(arms: Mapping[str, int]) -> str:
    """`student − vanilla`."""
    terms = [f"{'+' if weight > 0 else '−'} {name}" for name, weight in arms.items()]
    return " ".join(terms).removeprefix("+ ")


def sweeps_of(results: Results) -> list[Sweep]:
    """The swept keys, each with its variants. A series holds the other keys fixed."""
    variants = [learner for learner in results["learners"] if learner["swept"]]
    references = [
        learner
        for learner in results["learners"]
        if learner["rationales"] and not learner["swept"] and learner["accuracy"] is not None
    ]
    sweeps = []
    for key in dict.fromkeys(key for learner in variants for key in learner["swept"]):
        series: dict[str, list[tuple[Any, LearnerResult]]] = {}
        for learner in variants:
            if key in learner["swept"]:
                others = [f"{_short(k)} {format_setting(v)}" for k, v in learner["swept"].items() if k != key]
                name = ", ".join([learner["variant_of"] or learner["name"], *others])
                series.setdefault(name, []).append((learner["swept"][key], learner))
        models = {learner["model"] for points in series.values() for _, learner in points}
        sweeps.append(Sweep(key, series, [learner for learner in references if learner["model"] in models]))
    return sweeps


def _short(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def sweep_rows(results: Results) -> list[dict[str, str]]:
    """One row for each variant, a column for each swept key."""
    variants = [learner for learner in results["learners"] if learner["swept"]]
    keys = list(dict.fromkeys(key for learner in variants for key in learner["swept"]))
    order = {name: place for place, name in enumerate(dict.fromkeys(learner["variant_of"] for learner in variants))}
    variants.sort(
        key=lambda learner: (order[learner["variant_of"]], [_rank(learner["swept"].get(key)) for key in keys])
    )
    on_test = {validated_on_test(learner) for learner in variants}
    heading = (
        "validation or test %" if len(on_test) > 1 else "test % in training" if True in on_test else "validation %"
    )
    return [
        {"learner": learner["variant_of"] or learner["name"]}
        | {key: format_setting(learner["swept"].get(key)) for key in keys}
        | {
            "accuracy % [95 %]": marked(format_share(learner["accuracy"], learner["interval"]), learner["on_test"]),
            "± over seeds": format_share(learner["standard_error"]),
            heading: marked(
                format_share(learner["validation"]), learner["validation"] is not None and validated_on_test(learner)
            ),
        }
        for learner in variants
    ]


def _rank(value: Any) -> tuple[bool, float]:
    """Numbers by size, all else as it stands in the recipe."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0


def trial_rows(results: Results) -> list[dict[str, str]]:
    """One row for each setting tried; a learner is marked that the test set reached through those it learns from."""
    on_test = {learner["name"] for learner in results["learners"] if learner["on_test"]}
    keys = list(dict.fromkeys(key for trial in results["trials"] for key in trial["values"]))
    several = len({trial["seed"] for trial in results["trials"]}) > 1
    return [
        {"learner": marked(trial["learner"], trial["learner"] in on_test)}
        | ({"seed": str(trial["seed"])} if several else {})
        | {key: format_setting(trial["values"].get(key)) for key in keys}
        | {"validation %": format_share(trial["validation"]), "chosen": "✓" if trial["chosen"] else ""}
        for trial in results["trials"]
    ]


def fairness_rows(results: Results) -> list[dict[str, str]]:
    """How long each arm was trained, and how often it could be chosen; nothing where there is but one.

    Variants of one learner that were trained alike share a row.
    """
    validations = {curve["learner"]: len(curve["validation"]) for curve in results["curves"]}
    groups: dict[tuple[str, ...], list[LearnerResult]] = {}
    arms = [learner for learner in results["learners"] if learner["arm"] and learner["updates"]]
    for learner in arms:
        many = OBJECTIVES[learner["objective"]].rows_per_rationale
        told = (
            format_range(learner["rows"]) + (f" ({many} a rationale)" if many > 1 else ""),
            format_range(learner["updates"]),
            _passes(learner["epochs"]),
            format_range(learner["target_tokens"]),
            format_count(validations.get(learner["name"])),
        )
        groups.setdefault((learner["variant_of"] or learner["name"], *told), []).append(learner)
    headings = ("rows", "updates", "passes over the rows", "target tokens", "validations")
    rows = [
        {"arm": learners[0]["name"] if len(learners) == 1 else f"{name}, {len(learners)} variants"}
        | dict(zip(headings, told, strict=True))
        for (name, *told), learners in groups.items()
    ]
    return rows if len(arms) > 1 else []


def _passes(epochs: Sequence[float]) -> str:
    ends = sorted({f"{count:.1f}" for count in epochs}, key=float)
    return "–".join(dict.fromkeys([ends[0], ends[-1]])) if ends else "–"


def soft_label_rows(results: Results) -> list[dict[str, str]]:
    """One row for each student and mentor, mean over seeds by tokens."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in results["soft_labels"]:
        groups.setdefault((row["learner"], row["mentor"]), []).append(row)
    made = []
    for (learner, mentor), rows in groups.items():
        tokens = sum(row["tokens"] for row in rows)

        def mean(field: str, rows: Sequence[Any] = rows, tokens: int = tokens) -> float | None:
            told = [row[field] * row["tokens"] for row in rows if row[field] is not None]
            return sum(told) / tokens if len(told) == len(rows) and tokens else None

        made.append(
            {
                "student": learner,
                "mentor": mentor,
                "mentor NLL": _nats(mean("mentor_nll")),
                "student NLL": _nats(mean("student_nll")),
                "mentor entropy": _nats(mean("mentor_entropy")),
                "student entropy": _nats(mean("student_entropy")),
                "agreement %": format_share(mean("agreement")),
                "target tokens": format_count(tokens),
            }
        )
    return made


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def spent_rows(results: Results) -> list[dict[str, str]]:
    """One row for each learner: what it cost alone, and with all it stands on."""
    shown = {learner["name"]: learner for learner in shown_learners(results)}
    on_gpu = any(spent["whole_gpu_seconds"] for spent in results["run"]["spent"])
    rows = []
    for spent in results["run"]["spent"]:
        if spent["learner"] not in shown:
            continue
        learner, dollars = shown[spent["learner"]], spent["teacher_dollars"]
        rows.append(
            {
                "learner": spent["learner"],
                "accuracy %": marked(format_share(learner["accuracy"]), learner["on_test"]),
                "own time": format_seconds(spent["own_seconds"]),
                "with what it stands on": format_seconds(spent["whole_seconds"]),
                "processor time": format_seconds(spent["whole_cpu_seconds"]),
                **({"GPU time": format_seconds(spent["whole_gpu_seconds"])} if on_gpu else {}),
                "tokens": format_count(spent["whole_tokens"]),
                "peak memory": "–"
                if spent["peak_memory_mb"] is None
                else f"{format_count(spent['peak_memory_mb'])} MB",
                "teacher": "–"
                if dollars is None
                else f"${dollars:,.2f}"
                if dollars >= 1 or not dollars
                else f"${dollars:.4f}",
            }
        )
    return rows
