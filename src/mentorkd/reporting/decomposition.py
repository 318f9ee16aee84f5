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

from mentorkd.records import GOLD, TEACHER
from mentorkd.reporting.format import format_points
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.schema import Decomposition, GainPart
from mentorkd.reporting.verdicts import Verdicts, bounds, peers_of, stacked
from mentorkd.statistics import contrast, outcome

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


def build_decompositions(inputs: ReportInputs, verdicts: Verdicts, on_test: Sequence[str]) -> list[Decomposition]:
    """One decomposition for each model and set of mentors, with the arms that give the most parts; the first arms win ties.

    `on_test` names the learners influenced by the test set.
    """
    trained = [info for info in inputs.learners if any(info.name == name for name, _ in verdicts)]
    best: dict[tuple[str, ...], Arms] = {}
    for both in trained:
        arms = _arms(both, trained)
        if arms is not None and (arms.rationales or arms.soft_labels):
            key = (both.model_key, *sorted(both.rationales), "|", *sorted(both.mentor_weights))
            if key not in best or len(arms.all) > len(best[key].all):
                best[key] = arms
    return [each for arms in best.values() if (each := _decomposition(arms, inputs, verdicts, on_test))]


def _arms(both: LearnerInfo, learners: Sequence[LearnerInfo]) -> Arms | None:
    """The arms around `both`; None if it lacks soft labels, teacher or mentor rationales, or if there is no base."""
    originals = [source for source in both.rationales if source in (TEACHER, GOLD)]
    if not both.mentor_weights or not originals or len(originals) == len(both.rationales):
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
    return (info.run, info.model_key, info.objective, ours) == (both.run, both.model_key, both.objective, theirs)


def _decomposition(
    arms: Arms, inputs: ReportInputs, verdicts: Verdicts, on_test: Sequence[str]
) -> Decomposition | None:
    names = [info.name for info in arms.all]
    seeds = [seed for seed in inputs.seeds if all((name, seed) in verdicts for name in names)]
    if not seeds:
        return None
    base, longer, both = arms.base.name, arms.longer.name, arms.both.name
    text, labels = (None if info is None else info.name for info in (arms.rationales, arms.soft_labels))
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
    peers = peers_of(names, inputs.learners, verdicts, seeds)
    infos = {info.name: info for info in arms.all}
    matrices = {name: stacked(verdicts, name, seeds) for name in names}
    parts: list[GainPart] = []
    for part, weights in sums.items():
        others = [matrices[name] for name in names if name not in weights]
        result = contrast([matrices[name] for name in weights], list(weights.values()), peers=[*others, *peers])
        parts.append(
            {
                "part": part,
                "arms": weights,
                "gain": round(result.difference, 6),
                "interval": bounds(result.interval.low, result.interval.high),
                "p": result.p_value,
                "shown": outcome(result) != "unclear",
                "on_test": any(name in on_test for name in weights),
                "note": None if part in ("more_updates", "total") else _uneven([infos[name] for name in weights]),
            }
        )
    return {
        "model": arms.both.model,
        "base": base,
        "longer": None if longer == base else longer,
        "rationales": text,
        "soft_labels": labels,
        "both": both,
        "parts": parts,
        "statement": _statement(arms, parts),
        "missing": _missing(arms),
        "questions": len(inputs.questions),
        "seeds": seeds,
    }


def _uneven(arms: Sequence[LearnerInfo]) -> str | None:
    """A note where the arms of a part have different numbers of updates; None where they are equal."""
    if len({tuple(info.updates) for info in arms}) == 1:
        return None
    updates = ", ".join(f"{info.name} {sum(info.updates) / max(1, len(info.updates)):,.0f}" for info in arms)
    return f"includes the effect of different numbers of updates: {updates}"


def _statement(arms: Arms, parts: Sequence[GainPart]) -> str:
    total = next(part for part in parts if part["part"] == "total")
    rest = [part for part in parts if part["part"] != "total"]
    gains = ", ".join(f"{format_points(part['gain'])} {PART_NAMES[part['part']]}" for part in rest)
    whole = f"{arms.both.name} against {arms.base.name}: {format_points(total['gain'])} points"
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
