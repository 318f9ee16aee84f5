"""Objective: what a learner minimises, from its part of the recipe and what its mentors left on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mentorkd.distillation.mentors import MentorEnsemble, OnlineMentor, SingleMentor
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.files import digest_path
from mentorkd.models import LoadedModel, load_folder, tokenizer_digest
from mentorkd.recipe.learner import Learner

__all__ = ["MentorFiles", "objective_of"]


@dataclass(frozen=True)
class MentorFiles:
    """What a mentor left on disk."""

    model: Path
    stores: Sequence[Path]
    """Its soft labels, one store a source of rationales; none where it is asked live."""


def objective_of(learner: Learner, student: LoadedModel, mentors: Mapping[str, MentorFiles], *, seed: int) -> Objective:
    """The objective of a learner that imitates `mentors`."""
    if learner.objective == "step_by_step":
        return StepByStep(learner.alpha)
    imitation = _imitation(learner, student, mentors, seed) if mentors else CrossEntropy()
    if learner.objective == "mcc":
        return Consistency(learner.alpha, learner.objective_temperature, imitation)
    return imitation


def _imitation(learner: Learner, student: LoadedModel, mentors: Mapping[str, MentorFiles], seed: int) -> Objective:
    if learner.divergence == "hidden_states":
        (files,) = mentors.values()
        mentor = load_folder(files.model, device=student.device)
        return HiddenMatching(student, mentor, kd_weight=learner.kd_weight, layers=learner.layers, seed=seed)
    sources = [(share, _source(mentors[name], learner, student)) for name, share in learner.mentor_weights.items()]
    source = sources[0][1] if len(sources) == 1 else MentorEnsemble(sources)
    return Distillation(source, learner.kd_weight, learner.temperature, learner.tau_squared, learner.divergence)


def _source(files: MentorFiles, learner: Learner, student: LoadedModel) -> SingleMentor:
    if not files.stores:
        return OnlineMentor(load_folder(files.model, device=student.device))
    return StoredSoftLabels(
        files.stores,
        device=student.device,
        mentor=digest_path(files.model),
        tokenizer=tokenizer_digest(student.tokenizer),
        target=learner.target,
    )
