"""The sources of the distributions that a student imitates: `StoredSoftLabels`, or a live mentor."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import MentorChunks
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
from mentorkd.distillation.vocabularies import EndTokens
from mentorkd.models import LoadedModel, cast_linear_layers


class SoftLabelSource(Protocol):
    """Gives a mentor's distributions, or likelihoods of chunks, for a batch of rows."""

    def part_of(self, row: Example) -> Hashable:
        """The part of the mentor that reads a row, for a mentor in several parts; None if it has no soft labels of the row."""
        ...

    def read_ahead(self, rows: Sequence[Example]) -> None:
        """Read from the disk what `targets_for` needs later, in any thread."""
        ...

    def targets_for(self, rows: Sequence[Example], batch: Batch) -> MentorTargets | MentorChunks:
        """The distributions at the target positions of `batch`, or the chunks, row after row. Its `rows` are of one part."""
        ...


class OnlineMentor:
    """A live mentor: one forward pass a step (`soft_label_store: online`). With `ends`, its end token is read as the student's."""

    def __init__(self, mentor: LoadedModel, ends: EndTokens | None = None) -> None:
        self.model = mentor.model.eval().requires_grad_(False)
        self.ends = ends or EndTokens(0, 0)
        self._head: tuple[Tensor, Tensor | None] | None = None
        self._linear: bool | None = None

    def part_of(self, row: Example) -> Hashable:
        return 0

    def read_ahead(self, rows: Sequence[Example]) -> None:
        pass

    @torch.no_grad()
    def targets_for(self, rows: Sequence[Example], batch: Batch) -> MentorTargets:
        if not self._head_is_linear(batch):
            return MentorLogits(self.ends.columns(target_logits(self.model, batch, exact=True), 1))
        if self._head is None:  # exchanged once, not in every step
            weight, bias = head_parameters(self.model)
            self._head = self.ends.columns(weight, 0), None if bias is None else self.ends.columns(bias, 0)
        return MentorHidden(target_hidden(self.model, batch), *self._head)

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
