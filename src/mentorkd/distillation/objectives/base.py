"""What a learner minimises: the base class of objectives, and the student's forward pass.

| objective | loss |
|---|---|
| `CrossEntropy` | CE |
| `Distillation` | (1 - w) CE + w tau^2 D(mentor, student) |
| `HiddenMatching` | (1 - w) CE + w MSE(projected hidden states, the mentor's) |
| `StepByStep` | alpha CE(answers) + (1 - alpha) CE(rationales) |
| `Consistency` | one of the first three + alpha (KL(p, q) + KL(q, p)) / 2 on the answers of two rationales |

Each term is a sum over its own kind of target positions, divided by their number in the whole optimiser step. So an update does
not depend on how the step is split into micro-batches or processes. An objective counts the positions of each kind in some rows
(`counts`, before any forward pass) and gives the sums of a micro-batch; the trainer divides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import (
    MentorChunks,
    chunk_distillation_loss,
    chunk_divergence,
    fused_label_log_probs,
    label_log_probs,
)
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.hidden_states import Layers, head_parameters, target_states
from mentorkd.distillation.losses import LossSums, MentorTargets, distillation_loss
from mentorkd.distillation.mentors import SoftLabelSource

TOKENS = "tokens"
"""The kind of every target position."""


@dataclass(frozen=True, eq=False)
class Student:
    """A student's forward pass over a micro-batch: its outputs at the N target positions, row after row."""

    batch: Mapping[str, Any]
    rows: Sequence[Example]
    labels_N: Tensor
    states: Tensor
    """Hidden states [N, D] that enter the head, or logits [N, V] if the model changes them after the head."""
    head: tuple[Tensor, Tensor | None] | None
    """Weight and bias of the head; None if `states` are logits."""
    layers: Layers

    @classmethod
    def forward(
        cls,
        model: nn.Module,
        batch: Mapping[str, Any],
        rows: Sequence[Example],
        *,
        owner: nn.Module,
        fused: bool,
        layers: Collection[int] = (),
    ) -> Student:
        """Run `model`, which is `owner` or a wrapper of it, over a batch of `rows`."""
        labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
        states, layer_states = target_states(model, batch, owner=owner, logits=not fused, layers=layers)
        return cls(batch, rows, labels_N, states, head_parameters(owner) if fused else None, layer_states)

    def loss(
        self,
        mentors: Sequence[tuple[float, MentorTargets | MentorChunks]] = (),
        *,
        at: Tensor | None = None,
        kd_weight: float = 0.0,
        chunk_temperature: float | None = None,
        **settings: Any,
    ) -> LossSums:
        """The distillation loss, or the cross-entropy if there is no mentor, at all target positions or those of `at`.

        Where a mentor gives chunks, `at` holds whole rows in their order.
        """
        states, labels_N = (self.states, self.labels_N) if at is None else (self.states[at], self.labels_N[at])
        chunks = [(share, targets) for share, targets in mentors if isinstance(targets, MentorChunks)]
        others = [(share, targets) for share, targets in mentors if not isinstance(targets, MentorChunks)]
        if chunks and not others:
            log_probs_N = self._label_log_probs(states, labels_N)
            return chunk_distillation_loss(
                log_probs_N, chunks, kd_weight=kd_weight, chunk_temperature=chunk_temperature
            )
        if self.head is None:
            sums = distillation_loss(states, labels_N, others, kd_weight=kd_weight, **settings)
        else:
            weight, bias = self.head
            sums = fused_distillation_loss(states, weight, labels_N, others, bias=bias, kd_weight=kd_weight, **settings)
        if not chunks:
            return sums
        total = chunk_divergence(self._label_log_probs(states, labels_N), chunks, chunk_temperature)
        return LossSums(sums.loss + kd_weight * total, sums.ce, sums.divergence + total.detach(), sums.tokens)

    def _label_log_probs(self, states: Tensor, labels_N: Tensor) -> Tensor:
        if self.head is None:
            return label_log_probs(states, labels_N)
        weight, bias = self.head
        return fused_label_log_probs(states, weight, labels_N, bias=bias)

    def logits(self, at: Tensor) -> Tensor:
        """Logits [n, V] at n positions."""
        return self.states[at] if self.head is None else F.linear(self.states[at], *self.head)


@dataclass(frozen=True)
class Sums:
    """Sums over the positions of a micro-batch, each with the kind of position whose count divides it."""

    loss: dict[str, Tensor]
    """Kind of position -> term of the loss, weighted, with its gradient."""
    metrics: dict[str, tuple[str, Tensor]]
    """For the log: name -> kind of position, and an unweighted sum."""


class Objective(ABC):
    """A loss; the table above lists them."""

    mentors: Sequence[SoftLabelSource] = ()
    """The mentors that the student imitates, in the order of the recipe."""
    layers: Collection[int] = ()
    """Layers of the student whose hidden states the objective needs."""
    weights: nn.Module | None = None
    """Its own trainable weights, updated by the student's optimiser and discarded after training."""

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        """Target positions of each kind; always the same kinds, `tokens` (all positions) first."""
        return {TOKENS: sum(len(row.target_ids) for row in rows)}

    def missing_data(self, rows: Sequence[Example]) -> str | None:
        """What the rows of a whole training lack for this objective; None if nothing."""
        return None

    @abstractmethod
    def sums(self, student: Student) -> Sums:
        """The terms of the loss over a micro-batch, which may have no rows."""


class CrossEntropy(Objective):
    """Fine-tuning on text: Vanilla-KD, fine-tuning on bare answers, a mentor's own training."""

    def sums(self, student: Student) -> Sums:
        ce = student.loss()
        return Sums({TOKENS: ce.loss}, {"ce": (TOKENS, ce.ce)})
