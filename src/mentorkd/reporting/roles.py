"""What learners are to each other, read off the graph: mentors, students, baselines, arms; never off their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mentorkd.records import GOLD, TEACHER
from mentorkd.reporting.inputs import LearnerInfo

__all__ = ["descendants", "headline_pairs", "is_arm", "is_baseline", "leads", "role"]


def role(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> Literal["mentor", "student", "baseline", "untrained"]:
    """See `LearnerResult.role`."""
    if _is_named(info, learners):
        return "mentor"
    if not info.rationales:
        return "untrained"
    return "baseline" if is_baseline(info) else "student"


def is_arm(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> bool:
    """Whether it is trained and no other learner names it."""
    return bool(info.rationales) and not _is_named(info, learners)


def is_baseline(info: LearnerInfo) -> bool:
    """Whether it is trained, and without a mentor."""
    return bool(info.rationales) and not info.imitates and set(info.rationales) <= {TEACHER, GOLD}


def headline_pairs(learners: Sequence[LearnerInfo]) -> list[tuple[str, str]]:
    """(student, baseline) pairs of one model, the most telling first.

    Students that take most from mentors lead, mentors come last; of a sweep's variants only the leading one is asked.
    Baselines that read the teacher, learn as the student does and had as many updates lead.
    """
    leaders = [info for info in learners if leads(info, learners)]
    students = [info for info in leaders if info.rationales and not is_baseline(info)]
    baselines = [info for info in leaders if is_baseline(info)]

    def student_rank(info: LearnerInfo) -> tuple[bool, int]:
        taken = bool(info.imitates) + any(source not in (TEACHER, GOLD) for source in info.rationales)
        return _is_named(info, learners), -taken

    def baseline_rank(student: LearnerInfo, info: LearnerInfo) -> tuple[bool, ...]:
        return (
            _is_named(info, learners),
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
    """Whether it is the best of its variants on validation questions, the first of equal ones; true outside a sweep."""
    if info.variant_of is None:
        return True

    def accuracy(one: LearnerInfo) -> float:
        seen = [value for value in one.validation if value is not None]
        return sum(seen) / len(seen) if seen else 0.0

    return max((one for one in learners if one.variant_of == info.variant_of), key=accuracy).name == info.name


def descendants(names: Iterable[str], learners: Sequence[LearnerInfo]) -> list[str]:
    """Learners that take text, soft labels or judgement from `names`, or from a learner that does; without `names`."""
    first = set(names)
    reached, before = set(first), -1
    while before < len(reached):
        before = len(reached)
        reached |= {info.name for info in learners if reached.intersection(_named(info))}
    return [info.name for info in learners if info.name in reached - first]


def _is_named(info: LearnerInfo, learners: Sequence[LearnerInfo]) -> bool:
    return any(info.name in _named(other) for other in learners)


def _named(info: LearnerInfo) -> tuple[str, ...]:
    """The sources and learners that it stands on."""
    return *info.rationales, *info.imitates, *info.judges
