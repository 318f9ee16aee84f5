"""What the page, the Markdown and the plots show beside tables: selections of learners, notes in words, scales."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mentorkd.reporting.format import format_range, format_setting
from mentorkd.reporting.schema import ContrastResult, Decomposition, GainPart, LearnerResult, Results

SOFT_LABELS = (
    "Mentor and trained student on the same target tokens, a sample of the student's training rows. NLL and entropy in nats per "
    "token, at temperature 1; agreement: share of tokens for which both models have the same most likely token."
)

COSTS = (
    "Mean over seeds. The dependencies of a learner (the teacher's rationales, the training, sampling and scoring of its "
    "mentors) are counted in full, as if they served this learner alone."
)

SAMPLED = (
    "Several sampled texts for each test question. Vote: the answer that most of them have; of equally frequent answers (ties) the one "
    "that was sampled first, and texts without an answer do not vote. pass@k: estimated share of questions with a correct answer "
    "among k texts, which needs somebody who recognises it; pass@1 is the mean accuracy of the texts. Mean over seeds; the unit of "
    "the intervals is the question with all its seeds and texts. vote − greedy is paired by question and seed, and its interval is "
    "not corrected for the number of learners."
)

OFTEN_CUT = 0.1
"""Share of truncated answers above which the report says so in words."""

MOST_VARIANTS = 3


@dataclass(frozen=True)
class Sweep:
    """One swept key."""

    key: str
    series: Mapping[str, Sequence[tuple[Any, LearnerResult]]]
    """Series -> (value, variant), in the recipe's order; a series holds the other swept keys fixed."""
    references: Sequence[LearnerResult]
    """Trained learners of the same models that the sweep does not change."""


def shown_learners(results: Results) -> list[LearnerResult]:
    """The learners to show one by one; of more than `MOST_VARIANTS` variants of a learner only the leading one."""
    sizes = Counter(learner["variant_of"] for learner in results["learners"])
    return [
        learner
        for learner in results["learners"]
        if learner["variant_of"] is None or learner["leads"] or sizes[learner["variant_of"]] <= MOST_VARIANTS
    ]


def validated_on_test(learner: LearnerResult) -> bool:
    """Whether its validations used test questions, with or without a selection by them."""
    return "test" in (learner["select_on"], learner["settings"].get("select_on"))


def validated_on(learners: Iterable[LearnerResult], names: tuple[str, str, str]) -> str:
    """The name of the learners' validations, from `names`: on validation questions, on test questions, or on both."""
    on_test = {validated_on_test(learner) for learner in learners}
    return names[2] if len(on_test) > 1 else names[True in on_test]


def sweeps_of(results: Results) -> list[Sweep]:
    """The swept keys, each with its evaluated variants."""
    evaluated = [learner for learner in results["learners"] if learner["accuracy"] is not None]
    variants = [learner for learner in evaluated if learner["swept"]]
    references = [learner for learner in evaluated if learner["rationales"] and not learner["swept"]]
    sweeps = []
    for key in dict.fromkeys(key for learner in variants for key in learner["swept"]):
        series: dict[str, list[tuple[Any, LearnerResult]]] = {}
        for learner in variants:
            if key in learner["swept"]:
                fixed = {name: value for name, value in learner["swept"].items() if name != key}
                others = [f"{name.rsplit('.', 1)[-1]} {format_setting(value)}" for name, value in fixed.items()]
                name = ", ".join([learner["variant_of"] or learner["name"], *others])
                series.setdefault(name, []).append((learner["swept"][key], learner))
        models = {learner["model"] for points in series.values() for _, learner in points}
        sweeps.append(Sweep(key, series, [learner for learner in references if learner["model"] in models]))
    return sweeps


def axis(bounds: Iterable[float]) -> tuple[float, float, list[float]]:
    """Low end, high end and round ticks of an axis of shares that contains 0 and all `bounds`."""
    values = [0.0, *bounds]
    span = max(max(values) - min(values), 0.02)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if span / s <= 5)
    first = math.floor(min(values) / step)
    last = max(math.ceil(max(values) / step), first + 1)
    ticks = [round(index * step, 6) for index in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def waterfall(decomposition: Decomposition) -> list[tuple[GainPart, float]]:
    """The parts, each with the gain at which it begins: one after the other where they add up, else all at the base."""
    adds_up = any(part["part"] == "interaction" for part in decomposition["parts"])
    longer = next((part["gain"] for part in decomposition["parts"] if part["part"] == "more_updates"), 0.0)
    at, steps = 0.0, []
    for part in decomposition["parts"]:
        first = part["part"] in ("total", "more_updates")
        steps.append((part, 0.0 if first else at if adds_up else longer))
        at += 0.0 if part["part"] == "total" else part["gain"]
    return steps


def control_lines(results: Results) -> list[str]:
    """The verdicts on the student against self-taught arms, each a sentence without its full stop."""
    numbers = results["headline"].get("controls", [])  # reports of earlier versions have none
    rows = [results["comparisons"][number] for number in numbers]
    return [f"Against self-training: {row['verdict']}{' (SELECTED ON TEST)' if row['on_test'] else ''}" for row in rows]


def cut_lines(results: Results) -> list[str]:
    """A sentence about the learners with more than `OFTEN_CUT` truncated answers; empty if there are none."""
    often = [
        f"{100 * learner['cut']:.1f} % of {learner['name']}'s"
        for learner in results["learners"]
        if learner["cut"] is not None and learner["cut"] > OFTEN_CUT
    ]
    line = (
        f"Answers were truncated at max_new_tokens; only the text before the cut is graded: {', '.join(often)}. Either the limit "
        "is too short, or the models do not learn to stop."
    )
    return [line] if often else []


def pair_note(results: Results) -> str:
    """For how many tests p is corrected, that intervals are not, and what one seed means; empty where nothing of this applies."""
    tests: list[ContrastResult] = [
        *results["comparisons"],
        *(part for each in results["decompositions"] for part in each["parts"]),
    ]
    sizes = {test["family"]: test["corrected_for"] for test in tests if test["corrected_for"] > 1}
    names = {
        "parts": "parts of decompositions",
        "pairs": "other pairs" if len(tests) > sizes.get("pairs", 0) else "pairs",
    }
    families = [f"of the {sizes[family]} {name}" for family, name in names.items() if family in sizes]
    lines = []
    if families:
        first = "The first pair is tested by itself; p" if tests[0]["family"] == "headline" else "p"
        verb = "are each" if len(families) > 1 else "is"
        lines.append(
            f"{first} {' and p '.join(families)} {verb} corrected for their number (Holm). Each interval is that of one test and is not "
            "corrected. So an interval without 0 beside a p above 0.05 is no contradiction: that difference is not shown."
        )
    if any(len(row["seeds"]) == 1 for row in results["comparisons"]):
        lines.append(
            "With one seed, a pair is two trained models, not two learners: it says nothing about other seeds."
        )
    return " ".join(lines)


COUNTED = {"tokens": "tokens of the learner's own tokenizer", "characters": "characters, four per token"}


def funnel_notes(results: Results) -> list[str]:
    """What the filters' counts do not show: equations that `arithmetic` could not check, and the unit of `length`."""
    notes, checks = [], [row for row in results["filters"] if row["equations"] is not None]
    for learner, source in dict.fromkeys((row["learner"], row["source"]) for row in checks):
        rows = [row for row in checks if (row["learner"], row["source"]) == (learner, source)]
        counts = [row["equations"] or 0 for row in rows]
        unread = 100 * sum(row["unread"] or 0 for row in rows) / max(1, sum(counts))
        texts = f"{source}'s rationales" + (f" for {learner}" if learner else "")
        notes.append(
            f"arithmetic, {texts}: {unread:.1f} % of {format_range(counts)} equations could not be checked and were ignored."
        )
    units = dict.fromkeys(row["counted_in"] for row in results["filters"] if row["counted_in"])
    return notes + [f"length counts {COUNTED.get(unit, unit)}." for unit in units if unit]


def dropped_lines(results: Results) -> list[str]:
    """`student: 3 rows per seed (target over 128 tokens)`; a range where seeds differ."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row in results["dropped"]:
        groups.setdefault((row["learner"], row["reason"]), []).append(row["rows"])
    each = " per seed" if len(results["seeds"]) > 1 else ""
    return [f"{learner}: {format_range(counts)} rows{each} ({reason})" for (learner, reason), counts in groups.items()]
