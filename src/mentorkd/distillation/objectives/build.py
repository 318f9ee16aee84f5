"""From a learner of the recipe, and the files of its mentors, to its objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mentorkd.distillation.mentors import OnlineMentor, SoftLabelSource
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.distillation.vocabularies import end_tokens
from mentorkd.files import digest_path
from mentorkd.models import LoadedModel, load_folder, load_tokenizer, tokenizer_digest
from mentorkd.recipe.learner import Learner, ModelConfig


@dataclass(frozen=True)
class MentorFiles:
    """A trained mentor on disk."""

    model: Path
    stores: Sequence[Path]
    """Its soft labels, one store a source of rationales; none for a live mentor."""


def objective_of(learner: Learner, student: LoadedModel, mentors: Mapping[str, MentorFiles], *, seed: int) -> Objective:
    """The objective of a learner that imitates `mentors` (by learner name; may be empty)."""
    base = _imitation(learner, student, mentors, seed) if mentors else CrossEntropy()
    match learner.objective:
        case "rationale":
            return base
        case "step_by_step":
            return StepByStep(learner.alpha)
        case "mcc":
            return Consistency(learner.alpha, learner.objective_temperature, base)


def _imitation(learner: Learner, student: LoadedModel, mentors: Mapping[str, MentorFiles], seed: int) -> Objective:
    if learner.divergence == "hidden_states":
        (files,) = mentors.values()
        mentor = load_folder(files.model, device=student.device)
        return HiddenMatching(student, mentor, kd_weight=learner.kd_weight, layers=learner.layers, seed=seed)
    shares = []
    for name, share in learner.mentor_weights.items():
        model, stores = mentors[name].model, mentors[name].stores
        tokenizer = load_tokenizer(ModelConfig(name=str(model)))
        ends = end_tokens(tokenizer, student.tokenizer)
        source: SoftLabelSource
        if stores:
            kinds = {"tokenizer": tokenizer_digest(tokenizer), "target": learner.target}
            source = StoredSoftLabels(stores, device=student.device, mentor=digest_path(model), ends=ends, **kinds)
        else:
            source = OnlineMentor(load_folder(model, device=student.device), ends)
        shares.append((share, source))
    return Distillation(shares, learner.kd_weight, learner.temperature, learner.tau_squared, learner.divergence)
