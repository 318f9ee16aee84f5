"""From a learner of the recipe, and the files of its mentors, to its objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mentorkd.distillation.mentors import OnlineMentor, SoftLabelSource
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.distillation.vocabularies import end_tokens
from mentorkd.errors import ModelError
from mentorkd.files import digest_path
from mentorkd.models import LoadedModel, load_folder, load_tokenizer, tokenizer_digest
from mentorkd.recipe.learner import Learner, ModelConfig


@dataclass(frozen=True)
class MentorFiles:
    """A trained model of a mentor on disk."""

    model: Path
    stores: Mapping[str, Path] = field(default_factory=dict)
    """Source of rationales -> its soft labels of them; none for a live mentor. Texts of a source without are trained by CE alone."""


TrainedMentors: TypeAlias = Mapping[str, Sequence[MentorFiles]]
"""Learner name -> the models of that mentor: one, or one for each of its folds."""


def objective_of(learner: Learner, student: LoadedModel, mentors: TrainedMentors, *, seed: int) -> Objective:
    """The objective of a learner that imitates `mentors` (which may be empty)."""
    base = _imitation(learner, student, mentors, seed) if mentors else CrossEntropy()
    match learner.objective:
        case "rationale":
            return base
        case "step_by_step":
            return StepByStep(learner.alpha)
        case "mcc":
            return Consistency(learner.alpha, learner.objective_temperature, base)


def _imitation(learner: Learner, student: LoadedModel, mentors: TrainedMentors, seed: int) -> Objective:
    if learner.divergence == "hidden_states":
        return _matching(learner, student, mentors, seed)
    return Distillation(
        [(share, _soft_labels(mentors[name], learner, student)) for name, share in learner.mentor_weights.items()],
        {source: learner.kd_weight_of(source) for source in learner.rationales},
        {source: learner.temperature_of(source) for source in learner.rationales},
        learner.tau_squared,
        {source: learner.divergence_of(source) for source in learner.rationales},
    )


def _matching(learner: Learner, student: LoadedModel, mentors: TrainedMentors, seed: int) -> HiddenMatching:
    weights = {source: learner.kd_weight_of(source) for source in learner.rationales}
    if len(set(weights.values())) > 1:
        raise ModelError(
            f"got `kd_weight` {weights} for `divergence: hidden_states`, expected one number for all sources"
        )
    ((files,),) = mentors.values()
    mentor = load_folder(files.model, device=student.device)
    kd_weight = next(iter(weights.values()))
    return HiddenMatching(student, mentor, kd_weight=kd_weight, layers=learner.layers, seed=seed)


def _soft_labels(models: Sequence[MentorFiles], learner: Learner, student: LoadedModel) -> SoftLabelSource:
    """The soft labels of a mentor, from the stores of all its models, or live."""
    tokenizer = load_tokenizer(ModelConfig(name=str(models[0].model)))
    ends = end_tokens(tokenizer, student.tokenizer)
    stores = [store for files in models for store in files.stores.values()]
    if not stores:
        (live,) = models
        return OnlineMentor(load_folder(live.model, device=student.device), ends)
    return StoredSoftLabels(
        stores,
        device=student.device,
        mentors=[digest_path(files.model) for files in models],
        tokenizer=tokenizer_digest(tokenizer),
        target=learner.target,
        ends=ends,
        sources={source for files in models for source in files.stores},
    )
