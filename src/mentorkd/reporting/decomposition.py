"""Where the gain comes from: more updates, mentor rationales, soft labels, or both together.

Arms are identified by what they learn from, never by their names. They share a model, an objective, the settings and the
filters of their common sources. They differ only in

| arm | rationales of | soft labels |
|---|---|---|
| base | teacher | none |
| longer | teacher, with as many updates as the arms below | none |
| rationales | teacher and mentors | none |
| soft labels | teacher | of the mentors |
| both | teacher and mentors | of the mentors |

With these, both - base = (longer - base) + (rationales - longer) + (soft labels - longer) + interaction, where
interaction = both - rationales - soft labels + longer. Where the recipe matches updates, `longer` is `base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from mentorkd.records import GOLD, SELF, TEACHER
from mentorkd.reporting.families import Seeds, Sum, Tests, turned
from mentorkd.reporting.format import format_points
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.matching import unequal_training
from mentorkd.reporting.schema import Decomposition, GainPart
from mentorkd.reporting.verdicts import Verdicts

Part = Literal["more_updates", "rationales", "soft_labels", "interaction", "total"]

PART_NAMES: Mapping[Part, str] = {
    "more_updates": "more updates",
    "rationales": "mentor rationales",
    "soft_labels": "soft labels",
    "interaction": "interaction",
    "total": "all together",
}
"""Names of the parts in tables, in order."""

DISTILLATION = attrgetter("mentor_weights", "kd_weight", "temperature", "distillation")
"""How a learner uses soft labels."""

LENGTH = {"epochs", "updates", "validate_every"}
"""Settings that determine the length of training."""


@dataclass(frozen=True)
class Arms:
    """The arms of a decomposition; `longer` is `base` where that has as many updates as the others."""

    base: LearnerInfo
    longer: LearnerInfo
    both: LearnerInfo
    rationales: LearnerInfo | None
    soft_labels: LearnerInfo | None

    @property
    def all(self) -> list[LearnerInfo]:
        """Every arm once."""
        arms = [self.base, self.longer, self.rationales, self.soft_labels, self.both]
        return list({info.name: info for info in arms if info is not None}.values())


@dataclass(frozen=True)
class Split:
    """A decomposition before its parts are tested."""

    arms: Arms
    seeds: Sequence[int]
    """The seeds shared by all arms."""

    @property
    def sums(self) -> dict[Part, dict[str, int]]:
        """The parts as weighted sums of arms."""
        base, longer, both = self.arms.base.name, self.arms.longer.name, self.arms.both.name
        text, labels = (None if info is None else info.name for info in (self.arms.rationales, self.arms.soft_labels))
        sums: dict[Part, dict[str, int]] = {}
        if longer != base:
            sums["more_updates"] = {longer: 1, base: -1}
        if text:
            sums["rationales"] = {text: 1, longer: -1}
        if labels:
            sums["soft_labels"] = {labels: 1, longer: -1}
        if text and labels:
            sums["interaction"] = {both: 1, text: -1, labels: -1, longer: 1}
        sums["total"] = {both: 1, base: -1}
        return sums


def find_splits(inputs: ReportInputs, verdicts: Verdicts) -> list[Split]:
    """One for each model and set of mentors, with the arms that give the most parts; the first arms win ties."""
    trained = [info for info in inputs.learners if any(info.name == name for name, _ in verdicts)]
    best: dict[tuple[str, ...], Arms] = {}
    for both in trained:
        arms = _arms(both, trained)
        if arms is not None and (arms.rationales or arms.soft_labels):
            key = (both.model_key, *sorted(both.rationales), "|", *sorted(both.mentor_weights))
            if key not in best or len(arms.all) > len(best[key].all):
                best[key] = arms
    splits = [
        Split(arms, [seed for seed in inputs.seeds if all((info.name, seed) in verdicts for info in arms.all)])
        for arms in best.values()
    ]
    return [split for split in splits if split.seeds]


def parts_of(splits: Sequence[Split]) -> dict[Sum, Seeds]:
    """All parts with their seeds."""
    return {
        frozenset(weights.items()): [(seed, seed) for seed in split.seeds]
        for split in splits
        for weights in split.sums.values()
    }


def _arms(both: LearnerInfo, learners: Sequence[LearnerInfo]) -> Arms | None:
    """The arms around `both`; None if it lacks soft labels, teacher or mentor rationales, reads own texts, or if there is no base."""
    originals = [source for source in both.rationales if source in (TEACHER, GOLD)]
    if not both.mentor_weights or not originals or len(originals) == len(both.rationales) or SELF in both.rationales:
        return None
    comparable = [info for info in learners if _is_comparable(info, both)]

    def matching(sources: Sequence[str], soft_labels: bool) -> list[LearnerInfo]:
        return [
            info
            for info in comparable
            if set(info.rationales) == set(sources)
            and (DISTILLATION(info) == DISTILLATION(both) if soft_labels else not info.mentor_weights)
            and all(info.filters.get(s) == both.filters.get(s) for s in sources)
        ]

    bases = sorted(matching(originals, False), key=lambda info: sum(info.updates))
    if not bases:
        return None
    text, labels = matching(both.rationales, False), matching(originals, True)
    longer = next((info for info in bases if list(info.updates) == list(both.updates)), bases[-1])
    return Arms(bases[0], longer, both, text[0] if text else None, labels[0] if labels else None)


def _is_comparable(info: LearnerInfo, both: LearnerInfo) -> bool:
    ours, theirs = ({k: v for k, v in one.settings.items() if k not in LENGTH} for one in (info, both))
    model = attrgetter("run", "model_key", "initial", "objective")
    return (model(info), ours) == (model(both), theirs)


def build_decomposition(split: Split, inputs: ReportInputs, tests: Tests, on_test: Sequence[str]) -> Decomposition:
    """The decomposition with its tested parts; `on_test` names the learners influenced by the test set."""
    arms, sums = split.arms, split.sums
    infos = {info.name: info for info in arms.all}
    parts: list[GainPart] = []
    for part, weights in sums.items():
        unequal = unequal_training([infos[name] for name in weights], inputs.match)
        hidden = unequal is None or part in ("more_updates", "total")
        note = None if hidden else f"includes the effect of different numbers of {unequal}"
        parts.append(_part(part, weights, tests, note, any(name in on_test for name in weights)))
    return {
        "model": arms.both.model,
        "base": arms.base.name,
        "longer": None if arms.longer is arms.base else arms.longer.name,
        "rationales": None if arms.rationales is None else arms.rationales.name,
        "soft_labels": None if arms.soft_labels is None else arms.soft_labels.name,
        "both": arms.both.name,
        "parts": parts,
        "statement": _statement(arms, parts, len(split.seeds)),
        "missing": _missing(arms),
        "questions": len(inputs.questions),
        "seeds": list(split.seeds),
    }


def _part(part: Part, weights: Mapping[str, int], tests: Tests, note: str | None, on_test: bool) -> GainPart:
    key = frozenset(weights.items())
    sign = 1 if key in tests else -1  # the comparisons may have the pair the other way round
    tested = tests[key if sign == 1 else turned(key)]
    fields = tested.fields()
    if sign < 0:
        fields["interval"] = [-end for end in reversed(fields["interval"])]
    return {
        "part": part,
        "arms": dict(weights),
        "gain": round(sign * tested.result.difference, 6),
        **fields,
        "shown": tested.outcome != "unclear",
        "on_test": on_test,
        "note": note,
    }


def _statement(arms: Arms, parts: Sequence[GainPart], seeds: int) -> str:
    total = next(part for part in parts if part["part"] == "total")
    rest = [part for part in parts if part["part"] != "total"]
    gains = ", ".join(f"{format_points(part['gain'])} {PART_NAMES[part['part']]}" for part in rest)
    this = "this " if seeds == 1 else ""
    whole = f"{this}{arms.both.name} against {this}{arms.base.name}: {format_points(total['gain'])} points"
    mark = " (SELECTED ON TEST)" if any(part["on_test"] for part in parts) else ""
    adds_up = any(part["part"] == "interaction" for part in rest)
    return f"{whole}{' = ' if adds_up else '; each alone: '}{gains}{mark}"


def _missing(arms: Arms) -> list[str]:
    lines = []
    if arms.rationales is None:
        lines.append(f"mentor rationales alone: there is no arm like {arms.both.name} without `soft_labels`")
    if arms.soft_labels is None:
        lines.append(f"soft labels alone: there is no arm like {arms.both.name} with rationales of the teacher only")
    if list(arms.longer.updates) != list(arms.both.updates):
        lines.append(f"more updates: there is no arm like {arms.base.name} with as many updates as {arms.both.name}")
    return lines
