"""Roles of learners (mentor, student, baseline, arm), derived from the graph and never from names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mentorkd.records import GOLD, SELF, TEACHER
from mentorkd.reporting.inputs import LearnerInfo


def role(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> Literal["mentor", "student", "baseline", "untrained"]:
    """See `LearnerResult.role`."""
    if _is_source(info, learners):
        return "mentor"
    if not info.rationales:
        return "untrained"
    return "baseline" if is_baseline(info) else "student"


def is_arm(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> bool:
    """Whether it is trained and no other learner uses it."""
    return bool(info.rationales) and not _is_source(info, learners)


def is_baseline(info: LearnerInfo) -> bool:
    """Whether it is trained without a mentor, without own texts, and from no other learner's weights."""
    original = set(info.rationales) <= {TEACHER, GOLD} and info.initial is None
    return bool(info.rationales) and not info.mentor_weights and original


def is_self_taught(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> bool:
    """Whether it reads texts or soft labels of learners or of itself, and all that it learns from, directly or not, have its own model.

    Initial weights and filters of its own model alone do not make it self-taught.
    """
    models = {other.name: other.model_key for other in learners}
    taught = {*info.rationales, *info.mentor_weights} & {SELF, *models}
    used = ancestors(info.name, learners)
    return bool(info.rationales and taught) and all(models[name] == info.model_key for name in used)


def headline_pairs(learners: Sequence[LearnerInfo]) -> list[tuple[str, str]]:
    """(student, baseline) pairs of one model, the most informative first.

    Students that use most of their mentors come first, mentors last; of a sweep only the leading variant is used. Baselines
    with rationales of the teacher, the objective of the student and equal updates come first.
    """
    leaders = [info for info in learners if leads(info, learners)]
    students = [info for info in leaders if info.rationales and not is_baseline(info)]
    baselines = [info for info in leaders if is_baseline(info)]

    def student_rank(info: LearnerInfo) -> tuple[bool, int]:
        kinds = bool(info.mentor_weights) + any(source not in (TEACHER, GOLD) for source in info.rationales)
        return _is_source(info, learners), -kinds

    def baseline_rank(student: LearnerInfo, info: LearnerInfo) -> tuple[bool, ...]:
        return (
            _is_source(info, learners),
            TEACHER not in info.rationales,
            info.objective != student.objective,
            list(info.updates) != list(student.updates),
        )

    return [
        (student.name, baseline.name)
        for student in sorted(students, key=student_rank)
        for baseline in sorted(baselines, key=lambda info: baseline_rank(student, info))
        if student.model_key == baseline.model_key
    ]


def leads(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> bool:
    """Whether it is the best variant on validation questions (the first among equals); true outside a sweep."""
    if info.variant_of is None:
        return True

    def accuracy(one: LearnerInfo) -> float:
        values = [value for value in one.validation if value is not None]
        return sum(values) / len(values) if values else 0.0

    return max((one for one in learners if one.variant_of == info.variant_of), key=accuracy).name == info.name


def descendants(names: Iterable[str], learners: Sequence[LearnerInfo]) -> list[str]:
    """Learners with rationales, soft labels, filters or initial weights from `names`, directly or through others; without `names`."""
    first = set(names)
    reached, before = set(first), -1
    while before < len(reached):
        before = len(reached)
        reached |= {info.name for info in learners if reached.intersection(_sources(info))}
    return [info.name for info in learners if info.name in reached - first]


def ancestors(name: str, learners: Sequence[LearnerInfo]) -> set[str]:
    """The learners that a learner learns from, or is filtered or begun by, directly or through others."""
    return {other.name for other in learners if name in descendants([other.name], learners)}


def _is_source(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> bool:
    return any(info.name in _sources(other) for other in learners)


def _sources(info: LearnerInfo) -> tuple[str, ...]:
    """The teacher, gold answers and learners that it uses."""
    return *info.rationales, *info.mentor_weights, *info.scorers, *([] if info.initial is None else [info.initial])
