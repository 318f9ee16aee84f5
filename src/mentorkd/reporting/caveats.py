"""Warnings about the validity of the numbers, and the protocol behind them: sentences that a reader must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mentorkd.reporting.format import format_setting
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.matching import are_unequal, format_lengths, training_lengths, without_plateau
from mentorkd.reporting.own_texts import collapse_lines
from mentorkd.reporting.roles import descendants, is_arm
from mentorkd.reporting.schema import ComparisonResult
from mentorkd.reporting.verdicts import Verdicts

MOST_NAMED = 3
"""A warning names at most this many learners or pairs of the same kind."""


def on_test(learners: Sequence[LearnerInfo]) -> list[str]:
    """Learners influenced by the test set: selected on it, or trained from a learner that was."""
    chosen = [info.name for info in learners if _chosen_on_test(info)]
    return [*chosen, *descendants(chosen, learners)]


def build_warnings(inputs: ReportInputs, verdicts: Verdicts, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """One line for each reason to trust the numbers less."""
    lines = [*_on_test(inputs), *inputs.warnings, *_missing(inputs, verdicts), *_uneven(inputs), *_plateaus(inputs)]
    lines += [*_empty_sources(inputs), *_sources_compared(inputs, comparisons), *collapse_lines(inputs)]
    if inputs.match is None:
        lines += _seeds(verdicts, comparisons)
    if comparisons and comparisons[0]["headline"]:
        infos = {info.name: info for info in inputs.learners}
        a, b = infos[comparisons[0]["a"]], infos[comparisons[0]["b"]]
        lines += [*_unlike(a, b), *_choices(a, b, inputs)]
    return lines


def _chosen_on_test(info: LearnerInfo) -> bool:
    """Whether its epoch was selected on the test set, or its variant of a sweep whose variants were validated once."""
    return info.select_on == "test" or bool(info.variant_of and info.settings.get("select_on") == "test")


def _on_test(inputs: ReportInputs) -> list[str]:
    chosen = [info.name for info in inputs.learners if _chosen_on_test(info)]
    if not chosen:
        return []
    affected = descendants(chosen, inputs.learners)
    subject = "EPOCHS" if any(info.select_on == "test" for info in inputs.learners) else "VARIANTS OF A SWEEP"
    more = (
        f" The test set also influenced {', '.join(affected)}, which learn{'s' if len(affected) == 1 else ''} from them, "
        "directly or through other learners."
        if affected
        else ""
    )
    return [
        f"{subject} WERE CHOSEN ON THE TEST SET for {', '.join(chosen)} (select_on: test). These accuracies are the "
        "best of several evaluations on the test set and therefore too high; do not compare them with numbers selected on "
        f"validation questions. Every number selected in this way is marked TEST.{more}"
    ]


def _missing(inputs: ReportInputs, verdicts: Verdicts) -> list[str]:
    missing = []
    for info in inputs.learners:
        seeds = [str(seed) for seed in inputs.seeds if (info.name, seed) not in verdicts]
        if seeds and not (inputs.match is None and len(seeds) < len(inputs.seeds)):
            missing.append(f"{info.name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})")
    return [f"No predictions of {', '.join(missing)}: excluded from all numbers."] if missing else []


def _empty_sources(inputs: ReportInputs) -> list[str]:
    """A warning for each source of which its readers were trained on no text: they differ from others in name alone."""
    steps: dict[tuple[str, str | None, int | None], list[Mapping[str, Any]]] = {}
    for row in inputs.filters:
        steps.setdefault((row["source"], row.get("learner"), row.get("seed")), []).append(row)
    readers: dict[tuple[str, str], list[str]] = {}
    for (source, learner, seed), rows in steps.items():
        if learner and not rows[-1]["after"]:
            name = f"{learner} (seed {seed})" if len(inputs.seeds) > 1 else learner
            drops = [(row["filter"], row["before"] - row["after"]) for row in rows if row["before"] != row["after"]]
            by = ", ".join(f"`{step}` {count}" for step, count in drops)
            readers.setdefault((source, by), []).append(name)
    return [
        f"No text of {source} passed the filters of {', '.join(names)}{f' (dropped by {by})' if by else ''}: "
        "nothing was learned from this source there."
        for (source, by), names in readers.items()
    ]


def _seeds(verdicts: Verdicts, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """Pairs of learners with different seeds."""
    have = Counter(name for name, _ in verdicts)
    crossed = [row for row in comparisons if row["seeds"] != row["paired_with"]]
    short = [row for row in comparisons if len(row["seeds"]) < max(have[row["a"]], have[row["b"]])]
    paired = "Their seeds are paired by order, so effects that one seed has on both learners do not cancel."
    shared = "Differences are over the shared seeds, accuracies over all seeds."
    lines = [f"No seed in common: {_pairs(crossed)}. {paired}"] if crossed else []
    return lines + ([f"Compared over fewer seeds than the learners have: {_pairs(short)}. {shared}"] if short else [])


def _pairs(rows: Sequence[ComparisonResult]) -> str:
    named = [f"{row['a']} and {row['b']}" for row in rows[:MOST_NAMED]]
    return "; ".join([*named, *([f"{len(rows) - MOST_NAMED} more pairs"] if len(rows) > MOST_NAMED else [])])


def _uneven(inputs: ReportInputs) -> list[str]:
    """A warning where training lengths of arms differ, in the unit that the recipe matches."""
    arms = [info for info in inputs.learners if is_arm(info, inputs.learners)]
    if inputs.match == "plateau" or not are_unequal(arms, inputs.match):
        return []
    counts, unit = training_lengths(arms, inputs.match)
    lengths = {name: format_lengths(row, inputs.match) for name, row in counts.items()}
    reasons = {"epochs": " (arms are matched by epochs)", None: " (not matched: each run has its own number)"}
    return [
        f"Arms were not trained for the same number of {unit}{reasons.get(inputs.match, '')}: {_grouped(lengths)}. This may explain "
        "differences in accuracy as well as their different training data."
    ]


LEAST_QUESTIONS = 400
"""Validation questions that find a plateau reliably: the standard error of an accuracy on them is at most 2.5 points."""


def _plateaus(inputs: ReportInputs) -> list[str]:
    """Warnings where the limit of updates ended trainings before their plateau, and where few questions found plateaus."""
    patient = [info for info in inputs.learners if info.plateaus]
    lines = []
    if missing := without_plateau(patient):
        lines.append(
            f"The limit of updates ended trainings before their plateau: {', '.join(missing)}. They may have gone on learning, "
            "and the comparison may change with more updates; raise `training.updates`."
        )
    questions = inputs.task["validation"]
    if patient and questions < LEAST_QUESTIONS:
        lines.append(
            f"Plateaus were found on {questions} validation questions, where chance alone may hide an improvement; use at least "
            f"{LEAST_QUESTIONS}."
        )
    return lines


def _sources_compared(inputs: ReportInputs, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """A warning for each headline pair of unequal training with a learner that another learner learns from."""
    infos = {info.name: info for info in inputs.learners}
    lines = []
    for row in comparisons:
        sources = [name for name in (row["a"], row["b"]) if not is_arm(infos[name], inputs.learners)]
        if row["headline"] and row["unmatched"] and sources and inputs.match != "plateau":
            who, it = ("is trained by its", "it") if len(sources) == 1 else ("are trained by their", "them")
            lines.append(
                f"{row['a']} and {row['b']} were not trained equally ({row['unmatched']}): {' and '.join(sources)} {who} own "
                f"epochs, because another learner learns from {it}. This may explain their difference in accuracy as well as "
                "their different training data; `training.updates` sets equal numbers."
            )
    return lines


def _grouped(lengths: Mapping[str, str]) -> str:
    """`vanilla 1,160, student 3,780`; learners of equal length are grouped, a large group as `11 others`."""
    groups: dict[str, list[str]] = {}
    for name, length in lengths.items():
        groups.setdefault(length, []).append(name)
    most = max(groups.values(), key=len)
    return ", ".join(
        f"{len(names)} others {count}"
        if names is most and len(names) > MOST_NAMED
        else f"{' and '.join(names)} {count}"
        for count, names in sorted(groups.items(), key=lambda group: group[1] is most and len(most) > MOST_NAMED)
    )


def _unlike(a: LearnerInfo, b: LearnerInfo) -> list[str]:
    """A warning about settings in which the two learners of a comparison differ."""
    differences = [
        f"{name} {format_setting(a.settings.get(name))} against {format_setting(b.settings.get(name))}"
        for name in dict.fromkeys([*a.settings, *b.settings])
        if a.settings.get(name) != b.settings.get(name) and not (name in a.searched and name in b.searched)
    ]
    if not (differences and a.settings and b.settings):
        return []
    return [
        f"{a.name} and {b.name} were trained or evaluated with different settings: {', '.join(differences)}. This may explain "
        f"their difference in accuracy as well as {'the mentor' if a.run == b.run else 'their different training data'}."
    ]


def _choices(a: LearnerInfo, b: LearnerInfo, inputs: ReportInputs) -> list[str]:
    """A warning where one learner of a comparison was selected among more trainings than the other."""
    counts = [_tried(info, inputs) for info in (a, b)]
    if counts[0] == counts[1]:
        return []
    return [
        f"{a.name} was selected among {counts[0]}, {b.name} among {counts[1]} (variants of a sweep, times trials of a search). "
        "More candidates give a higher maximum: use the same sweep or search for both, or compare variants named beforehand."
    ]


def _tried(info: LearnerInfo, inputs: ReportInputs) -> int:
    """The number of trainings per seed that a learner was selected among."""
    variants = [one.name for one in inputs.learners if info.variant_of and one.variant_of == info.variant_of]
    trials = [sum(1 for t in inputs.trials if (t["learner"], t["seed"]) == (info.name, seed)) for seed in inputs.seeds]
    return max(1, len(variants)) * max(1, *trials)


def build_protocol(inputs: ReportInputs, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """The caller's sentences, and how epochs were selected."""
    lines = list(inputs.protocol)
    once = "; the test set is used once, afterwards"
    for place, searched, text in (
        ("validation", False, f"best epoch, selected on validation questions{once}"),
        ("validation", True, f"best epoch of the best trial, both selected on validation questions{once}"),
        ("test", False, "best epoch, CHOSEN ON THE TEST SET"),
        ("last", False, "last epoch; no selection"),
        ("last", True, f"last epoch of the best trial, selected on validation questions{once}"),
    ):
        names = [
            info.name
            for info in inputs.learners
            if (info.select_on, bool(info.searched)) == (place, searched) and info.rationales
        ]
        if names:
            lines.append(f"Weights of {', '.join(names)}: {text}.")
    if comparisons and comparisons[0]["headline"]:
        leader = next(info for info in inputs.learners if info.name == comparisons[0]["a"])
        if leader.swept:
            reason = f"it has the best {'TEST' if _chosen_on_test(leader) else 'validation'} accuracy"
            if all(value is None for value in leader.validation):
                reason = "it is the first of the sweep; no variant was validated"
            lines.append(
                f"{leader.name} represents the variants of {leader.variant_of} in the first comparison: {reason}."
            )
    return lines
