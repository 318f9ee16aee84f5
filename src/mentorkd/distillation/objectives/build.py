"""From a learner of the recipe, and the files of its mentors, to its objective."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mentorkd.data.encoding import Example
from mentorkd.distillation.mentors import OnlineMentor, SoftLabelSource
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.soft_labels import StoredSoftLabels, form_of
from mentorkd.distillation.vocabularies import end_tokens
from mentorkd.errors import ModelError
from mentorkd.files import digest_path
from mentorkd.models import LoadedModel, load_folder, load_tokenizer, tokenizer_digest
from mentorkd.recipe.learner import Learner, ModelConfig


@dataclass(frozen=True)
class MentorFiles:
    """A trained model of a mentor on disk."""

    model: Path | None
    """None for a teacher, which has stores alone."""
    stores: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Source of rationales -> its soft labels of them, in one store or in several; none for a live mentor. Texts of a source without
    are trained by CE alone."""


TrainedMentors: TypeAlias = Mapping[str, Sequence[MentorFiles]]
"""Learner name -> the models of that mentor: one, or one for each of its folds."""


def objective_of(
    learner: Learner, student: LoadedModel, mentors: TrainedMentors, *, seed: int, rows: Iterable[Example] = ()
) -> Objective:
    """The objective of a learner that imitates `mentors` (which may be empty). `rows` are those of its training, among whose target
    tokens soft labels are shuffled."""
    base = _imitation(learner, student, mentors, seed, rows) if mentors else CrossEntropy()
    match learner.objective:
        case "rationale":
            objective = base
        case "step_by_step":
            objective = StepByStep(learner.alpha)
        case "mcc":
            objective = Consistency(learner.alpha, learner.objective_temperature, base)
    objective.label_smoothing = learner.label_smoothing
    return objective


def _imitation(
    learner: Learner, student: LoadedModel, mentors: TrainedMentors, seed: int, rows: Iterable[Example]
) -> Objective:
    if learner.divergence == "hidden_states":
        return _matching(learner, student, mentors, seed)
    shuffled = ({row.rationale_id for row in rows}, seed) if learner.shuffle_soft_labels else None
    return Distillation(
        [
            (share, _soft_labels(mentors[name], learner, student, shuffled))
            for name, share in learner.mentor_weights.items()
        ],
        {source: learner.kd_weight_of(source) for source in learner.rationales},
        {source: learner.temperature_of(source) for source in learner.rationales},
        learner.tau_squared,
        {source: learner.divergence_of(source) for source in learner.rationales},
        learner.chunk_temperature,
    )


def _matching(learner: Learner, student: LoadedModel, mentors: TrainedMentors, seed: int) -> HiddenMatching:
    weights = {source: learner.kd_weight_of(source) for source in learner.rationales}
    if len(set(weights.values())) > 1:
        raise ModelError(
            f"got `kd_weight` {weights} for `divergence: hidden_states`, expected one number for all sources"
        )
    ((files,),) = mentors.values()
    assert files.model is not None, "a teacher has no hidden states"
    mentor = load_folder(files.model, device=student.device)
    kd_weight = next(iter(weights.values()))
    return HiddenMatching(student, mentor, kd_weight=kd_weight, layers=learner.layers, seed=seed)


def _soft_labels(
    models: Sequence[MentorFiles], learner: Learner, student: LoadedModel, shuffled: tuple[Collection[str], int] | None
) -> SoftLabelSource:
    """The soft labels of a mentor, from the stores of all its models, or live."""
    stores = [store for files in models for shards in files.stores.values() for store in shards]
    chunks = bool(stores) and form_of(stores[0]) == "chunks"
    tokenizer = student.tokenizer if chunks else load_tokenizer(ModelConfig(name=str(models[0].model)))
    ends = end_tokens(tokenizer, student.tokenizer)
    if not stores:
        (live,) = models
        assert live.model is not None, "a teacher has stores"
        return OnlineMentor(load_folder(live.model, device=student.device), ends)
    digests = [digest_path(files.model) for files in models if files.model is not None]
    return StoredSoftLabels(
        stores,
        device=student.device,
        mentors=digests or None,
        tokenizer=tokenizer_digest(tokenizer),
        target=learner.target,
        ends=ends,
        sources={source for files in models for source in files.stores},
        shuffled=shuffled,
    )
