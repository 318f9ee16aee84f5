"""Where the gain comes from: more updates, mentor rationales, soft labels, or both together.

The arms are told by what they learn from, never by their names. They share a model, an objective, their settings and the
filters of the sources they have in common, and differ only in

| arm | reads | soft labels |
|---|---|---|
| base | teacher | none |
| longer | teacher, for as many updates as the arms below | none |
| rationales | teacher and mentors | none |
| soft labels | teacher | of the mentors |
| both | teacher and mentors | of the mentors |

With these, both - base = (longer - base) + (rationales - longer) + (soft labels - longer) + interaction, where
interaction = both - rationales - soft labels + longer. Where recipes hold updates equal, base is `longer` already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mentorkd.records import GOLD, TEACHER
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.schema import Decomposition, GainPart
from mentorkd.reporting.verdicts import Verdicts, bounds, peers_of, stacked
from mentorkd.statistics import contrast, outcome

__all__ = ["PART_NAMES", "build_decompositions"]

Part = Literal["more_updates", "rationales", "soft_labels", "interaction", "total"]

PART_NAMES: Mapping[Part, str] = {
    "more_updates": "more updates",
    "rationales": "mentor rationales",
    "soft_labels": "soft labels",
    "interaction": "interaction",
    "total": "all together",
}
"""What the parts are called in tables, in their order."""

LENGTH = {"epochs", "updates", "validate_every"}
"""Settings that say how long a learner is trained."""


@dataclass(frozen=True)
class Arms:
    """The arms that were found; `longer` is `base` where that has as many updates."""

    base: LearnerInfo
    longer: LearnerInfo
    both: LearnerInfo
    rationales: LearnerInfo | None
    soft_labels: LearnerInfo | None

    @property
    def all(self) -> list[LearnerInfo]:
        """Each once."""
        found = [self.base, self.longer, self.rationales, self.soft_labels, self.both]
        return list({info.name: info for info in found if info is not None}.values())


def build_decompositions(inputs: ReportInputs, verdicts: Verdicts, on_test: Sequence[str]) -> list[Decomposition]:
    """One decomposition for each model and choice of mentors, of the arms that tell most; first arms win ties.

    `on_test` names the learners that the test set had a part in.
    """
    trained = [info for info in inputs.learners if any(info.name == name for name, _ in verdicts)]
    best: dict[tuple[str, ...], Arms] = {}
    for both in trained:
        arms = _arms(both, trained)
        if arms is not None and (arms.rationales or arms.soft_labels):
            key = (both.model_key, *sorted(both.rationales), "|", *sorted(both.imitates))
            if key not in best or len(arms.all) > len(best[key].all):
                best[key] = arms
    found = [_decomposition(arms, inputs, verdicts, on_test) for arms in best.values()]
    return [each for each in found if each is not None]


def _arms(both: LearnerInfo, learners: Sequence[LearnerInfo]) -> Arms | None:
    """The arms around a learner that has both, or None where it has not, or there is no base."""
    taught = [source for source in both.rationales if source in (TEACHER, GOLD)]
    if not both.imitates or not taught or len(taught) == len(both.rationales):
        return None
    like = [info for info in learners if _is_like(info, both)]

    def reading(sources: Sequence[str], imitates: bool) -> list[LearnerInfo]:
        return [
            info
            for info in like
            if set(info.rationales) == set(sources)
            and (_imitates_as(info, both) if imitates else not info.imitates)
            and all(info.filters.get(s) == both.filters.get(s) for s in sources)
        ]

    bases = sorted(reading(taught, False), key=lambda info: sum(info.updates))
    if not bases:
        return None
    full, text, labels = both, reading(both.rationales, False), reading(taught, True)
    longer = next((info for info in bases if list(info.updates) == list(full.updates)), bases[-1])
    return Arms(bases[0], longer, both, text[0] if text else None, labels[0] if labels else None)


def _is_like(info: LearnerInfo, both: LearnerInfo) -> bool:
    ours, theirs = ({k: v for k, v in one.settings.items() if k not in LENGTH} for one in (info, both))
    return (info.run, info.model_key, info.objective, ours) == (both.run, both.model_key, both.objective, theirs)


def _imitates_as(info: LearnerInfo, both: LearnerInfo) -> bool:
    return (info.imitates, info.kd_weight, info.temperature, info.distillation) == (
        both.imitates,
        both.kd_weight,
        both.temperature,
        both.distillation,
    )


def _decomposition(
    arms: Arms, inputs: ReportInputs, verdicts: Verdicts, on_test: Sequence[str]
) -> Decomposition | None:
    names = [info.name for info in arms.all]
    seeds = [seed for seed in inputs.seeds if all((name, seed) in verdicts for name in names)]
    if not seeds:
        return None
    base, longer, both = arms.base.name, arms.longer.name, arms.both.name
    text, labels = (None if info is None else info.name for info in (arms.rationales, arms.soft_labels))
    sums: dict[Part, list[tuple[str, int]]] = {}
    if longer != base:
        sums["more_updates"] = [(longer, 1), (base, -1)]
    if text:
        sums["rationales"] = [(text, 1), (longer, -1)]
    if labels:
        sums["soft_labels"] = [(labels, 1), (longer, -1)]
    if text and labels:
        sums["interaction"] = [(both, 1), (text, -1), (labels, -1), (longer, 1)]
    sums["total"] = [(both, 1), (base, -1)]
    peers = peers_of(names, inputs.learners, verdicts, seeds)
    known = {info.name: info for info in arms.all}
    matrices = {name: stacked(verdicts, name, seeds) for name in names}
    parts: list[GainPart] = []
    for part, terms in sums.items():
        others = [matrices[name] for name in names if name not in dict(terms)]
        found = contrast([matrices[name] for name, _ in terms], [w for _, w in terms], peers=[*others, *peers])
        parts.append(
            {
                "part": part,
                "arms": dict(terms),
                "gain": round(found.difference, 6),
                "interval": bounds(found.interval.low, found.interval.high),
                "p": found.p_value,
                "shown": outcome(found) != "unclear",
                "on_test": any(name in on_test for name, _ in terms),
                "note": None if part in ("more_updates", "total") else _uneven([known[name] for name, _ in terms]),
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
    """Where arms of a part had different numbers of updates, more updates may be in it."""
    if all(list(one.updates) == list(other.updates) for one, other in pairwise(arms)):
        return None
    told = ", ".join(f"{info.name} {sum(info.updates) / max(1, len(info.updates)):,.0f}" for info in arms)
    return f"more updates may be in this: {told}"


def _statement(arms: Arms, parts: Sequence[GainPart]) -> str:
    total = next(part for part in parts if part["part"] == "total")
    rest = [part for part in parts if part["part"] != "total"]
    told = [f"{_points(part['gain'])} {PART_NAMES[part['part']]}" for part in rest]
    whole = f"{arms.both.name} against {arms.base.name}: {_points(total['gain'])} points"
    marked = " (SELECTED ON TEST)" if any(part["on_test"] for part in parts) else ""
    if any(part["part"] == "interaction" for part in rest):
        return f"{whole} = {', '.join(told)}{marked}"
    return f"{whole}; alone: {', '.join(told)}{marked}"


def _missing(arms: Arms) -> list[str]:
    lines = []
    if arms.rationales is None:
        lines.append(f"mentor rationales alone: no arm like {arms.both.name} without `soft_labels`")
    if arms.soft_labels is None:
        lines.append(f"soft labels alone: no arm like {arms.both.name} that reads the teacher only")
    if list(arms.longer.updates) != list(arms.both.updates):
        lines.append(f"more updates: no arm like {arms.base.name} with as many updates as {arms.both.name}")
    return lines


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
