"""The sources of the distributions that a student imitates: stored soft labels, a live mentor, or several mentors at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mentorkd.distillation.hidden_states import (
    Layers,
    head_is_linear,
    head_parameters,
    target_hidden,
    target_logits,
    target_states,
)
from mentorkd.distillation.losses import MentorHidden, MentorLogits, Mentors, MentorTargets
from mentorkd.models import LoadedModel, cast_linear_layers

Batch = Mapping[str, Any]


class SoftLabelSource(Protocol):
    """Gives the mentors' distributions for a batch of rows."""

    def targets_for(self, rationale_ids: Sequence[str], batch: Batch) -> Mentors:
        """The mentors' distributions at the target positions of `batch`, row after row in its order."""
        ...


class SingleMentor(Protocol):
    """A source with one mentor; an ensemble has several."""

    def targets_for(self, rationale_ids: Sequence[str], batch: Batch) -> MentorTargets: ...


@dataclass(frozen=True)
class MentorEnsemble:
    """Several mentors, stored or live; their divergences are added with these shares as factors."""

    members: Sequence[tuple[float, SingleMentor]]

    def targets_for(self, rationale_ids: Sequence[str], batch: Batch) -> Mentors:
        return [(share, member.targets_for(rationale_ids, batch)) for share, member in self.members]


class OnlineMentor:
    """A live mentor: one forward pass a step (`soft_label_store: online`)."""

    def __init__(self, mentor: LoadedModel) -> None:
        self.model = mentor.model.eval().requires_grad_(False)
        self._linear: bool | None = None

    @torch.no_grad()
    def targets_for(self, rationale_ids: Sequence[str], batch: Batch) -> MentorTargets:
        if not self._head_is_linear(batch):
            return MentorLogits(target_logits(self.model, batch))
        return MentorHidden(target_hidden(self.model, batch), *head_parameters(self.model))

    @torch.no_grad()
    def layer_states(self, layers: Collection[int], batch: Batch) -> Layers:
        """Hidden states of some layers at the target positions."""
        self._head_is_linear(batch)
        return target_states(self.model, batch, layers=layers)[1]

    def _head_is_linear(self, batch: Batch) -> bool:
        """Examined on the first batch. Under autocast, the weights are then kept in bfloat16."""
        if self._linear is None:
            self._linear = head_is_linear(self.model, batch)
            if torch.is_autocast_enabled(batch["labels"].device.type):
                cast_linear_layers(self.model)
        return self._linear
