"""What makes the numbers less than they seem, and how they were made: sentences that a reader must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mentorkd.reporting.format import format_range, format_setting
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.roles import descendants, is_arm
from mentorkd.reporting.schema import ComparisonResult
from mentorkd.reporting.verdicts import Verdicts

__all__ = ["build_protocol", "build_warnings", "on_test"]

MOST_NAMED = 3
"""Learners or pairs that are named in a warning, where more of them are alike."""

SAME_TOKENS = 0.02
"""Arms matched by tokens may differ by this share: a training ends with a whole update."""


def on_test(learners: Sequence[LearnerInfo]) -> list[str]:
    """Learners that the test set had a part in: chosen on it, or learning from one that was."""
    chosen = [info.name for info in learners if _chosen_on_test(info)]
    return [*chosen, *descendants(chosen, learners)]


def build_warnings(inputs: ReportInputs, verdicts: Verdicts, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """A line for each reason to believe the numbers less."""
    lines = [*_on_test(inputs), *inputs.warnings, *_missing(inputs, verdicts), *_uneven(inputs)]
    if inputs.match is None:
        lines += _seeds(verdicts, comparisons)
    if comparisons and comparisons[0]["headline"]:
        lines += [*_unlike(inputs.learners, comparisons[0]), *_choices(inputs, comparisons[0])]
    return lines


def _chosen_on_test(info: LearnerInfo) -> bool:
    """Whether its epoch was, or, where each variant of a sweep was validated once, the variant that leads."""
    return info.select_on == "test" or bool(info.variant_of and info.settings.get("select_on") == "test")


def _on_test(inputs: ReportInputs) -> list[str]:
    chosen = [info.name for info in inputs.learners if _chosen_on_test(info)]
    if not chosen:
        return []
    taught = descendants(chosen, inputs.learners)
    what = "EPOCHS" if any(info.select_on == "test" for info in inputs.learners) else "VARIANTS OF A SWEEP"
    more = (
        f" The test set also reached {', '.join(taught)}, which learn{'s' if len(taught) == 1 else ''} from them, "
        "directly or through others."
        if taught
        else ""
    )
    return [
        f"{what} WERE CHOSEN ON THE TEST SET for {', '.join(chosen)} (select_on: test). These accuracies are the "
        "best of many readings of the test set and therefore too high; do not set them beside numbers chosen on "
        f"validation questions. Every number so selected is marked TEST.{more}"
    ]


def _missing(inputs: ReportInputs, verdicts: Verdicts) -> list[str]:
    missing = []
    for info in inputs.learners:
        seeds = [str(seed) for seed in inputs.seeds if (info.name, seed) not in verdicts]
        if seeds and not (inputs.match is None and len(seeds) < len(inputs.seeds)):
            missing.append(f"{info.name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})")
    return [f"No predictions of {', '.join(missing)}: left out of every number."] if missing else []


def _seeds(verdicts: Verdicts, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """Pairs that do not have all their seeds in common."""
    have = Counter(name for name, _ in verdicts)
    crossed = [row for row in comparisons if row["seeds"] != row["paired_with"]]
    short = [row for row in comparisons if len(row["seeds"]) < max(have[row["a"]], have[row["b"]])]
    lines = []
    if crossed:
        lines.append(
            f"No seed in common: {_pairs(crossed)}. Their seeds are paired by their order, so what a seed does to both "
            "alike is not taken out."
        )
    if short:
        lines.append(
            f"Compared over fewer seeds than learners have: {_pairs(short)}. Differences are those of the seeds compared, "
            "accuracies those of all seeds."
        )
    return lines


def _pairs(rows: Sequence[ComparisonResult]) -> str:
    named = [f"{row['a']} and {row['b']}" for row in rows[:MOST_NAMED]]
    return "; ".join([*named, *([f"{len(rows) - MOST_NAMED} more pairs"] if len(rows) > MOST_NAMED else [])])


def _uneven(inputs: ReportInputs) -> list[str]:
    """Whether arms were trained for unequal lengths, in the unit that was to be held equal."""
    arms = [info for info in inputs.learners if is_arm(info, inputs.learners) and info.updates]
    if inputs.match == "tokens":
        told, unit = {info.name: info.target_tokens for info in arms}, "target tokens"
        lengths = [count for counts in told.values() for count in counts]
        uneven = bool(lengths) and max(lengths) - min(lengths) > SAME_TOKENS * max(lengths)
    else:
        told, unit = {info.name: info.updates for info in arms}, "optimiser updates"
        uneven = any(set(counts) != set(arms[0].updates) for counts in told.values())
    if not uneven:
        return []
    why = {"epochs": " (arms are matched by epochs)", None: " (not matched: each run has its own)"}.get(
        inputs.match, ""
    )
    return [
        f"Arms were not trained for the same number of {unit}{why}: {_grouped(told)}. Differences in accuracy may "
        "come from this as well as from what they learn from."
    ]


def _grouped(counts: Mapping[str, Sequence[int]]) -> str:
    """`vanilla 1,160, student 3,780`; learners of one count together, many of them as `11 others`."""
    groups: dict[str, list[str]] = {}
    for name, row in counts.items():
        groups.setdefault(format_range(row), []).append(name)
    most = max(groups.values(), key=len)
    return ", ".join(
        f"{len(names)} others {count}"
        if names is most and len(names) > MOST_NAMED
        else f"{' and '.join(names)} {count}"
        for count, names in sorted(groups.items(), key=lambda group: group[1] is most and len(most) > MOST_NAMED)
    )


def _unlike(learners: Sequence[LearnerInfo], row: ComparisonResult) -> list[str]:
    """Settings that the two learners of a comparison do not have in common."""
    a, b = (next(info for info in learners if info.name == row[side]) for side in ("a", "b"))
    if not (a.settings and b.settings):
        return []
    told = [
        f"{name} {format_setting(a.settings.get(name))} against {format_setting(b.settings.get(name))}"
        for name in dict.fromkeys([*a.settings, *b.settings])
        if a.settings.get(name) != b.settings.get(name) and not (name in a.searched and name in b.searched)
    ]
    if not told:
        return []
    return [
        f"{a.name} and {b.name} were not trained and asked alike: {', '.join(told)}. Their difference in accuracy may "
        f"come from this as well as from {'the mentor' if a.run == b.run else 'what they learn from'}."
    ]


def _choices(inputs: ReportInputs, row: ComparisonResult) -> list[str]:
    """Whether one of the two learners of a comparison is the best of more trainings than the other."""
    a, b = (next(info for info in inputs.learners if info.name == row[side]) for side in ("a", "b"))
    counts = [_tried(info, inputs) for info in (a, b)]
    if counts[0] == counts[1]:
        return []
    return [
        f"{a.name} was chosen among {counts[0]}, {b.name} among {counts[1]} (variants of a sweep, times trials of a search), "
        "and more choices find more: sweep or search the same for both, or compare variants that were named beforehand."
    ]


def _tried(info: LearnerInfo, inputs: ReportInputs) -> int:
    """How many trainings of one seed a learner was chosen among."""
    variants = [one.name for one in inputs.learners if info.variant_of and one.variant_of == info.variant_of]
    trials = [sum(1 for t in inputs.trials if (t["learner"], t["seed"]) == (info.name, seed)) for seed in inputs.seeds]
    return max(1, len(variants)) * max(1, *trials)


def build_protocol(inputs: ReportInputs, comparisons: Sequence[ComparisonResult]) -> list[str]:
    """The caller's sentences, and where epochs were chosen."""
    lines = list(inputs.protocol)
    once = "; the test set is read once, afterwards"
    for place, searched, text in (
        ("validation", False, f"of the best epoch, chosen on validation questions{once}"),
        ("validation", True, f"of the best trial and its best epoch, chosen on validation questions{once}"),
        ("test", False, "of the best epoch, CHOSEN ON THE TEST SET"),
        ("last", False, "of the last epoch; nothing was chosen"),
        ("last", True, f"of the last epoch of the best trial, chosen on validation questions{once}"),
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
            lines.append(
                f"{leader.name} leads the comparisons as the variant of {leader.variant_of} {_best_by(leader)}."
            )
    return lines


def _best_by(leader: LearnerInfo) -> str:
    if all(value is None for value in leader.validation):
        return "that the sweep names first; nothing was validated"
    return f"with the best {'TEST' if _chosen_on_test(leader) else 'validation'} accuracy"
