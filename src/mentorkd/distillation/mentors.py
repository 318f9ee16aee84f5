"""The sources of the distributions that a student imitates: `StoredSoftLabels`, or a live mentor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch

from mentorkd.distillation.hidden_states import (
    Batch,
    Layers,
    head_is_linear,
    head_parameters,
    target_hidden,
    target_logits,
    target_states,
)
from mentorkd.distillation.losses import MentorHidden, MentorLogits, MentorTargets
from mentorkd.models import LoadedModel, cast_linear_layers


class SoftLabelSource(Protocol):
    """Gives a mentor's distributions for a batch of rows."""

    def targets_for(self, rationale_ids: Sequence[str], batch: Batch) -> MentorTargets:
        """The distributions at the target positions of `batch`, row after row in its order."""
        ...


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
