"""What a student minimises, in training's terms.

| objective | loss |
|---|---|
| `CrossEntropy` | CE |
| `Distillation` | (1 - w) CE + w tau^2 D(mentor, student) |
| `HiddenMatching` (in `hidden_matching`) | (1 - w) CE + w MSE(projected hidden states, the mentor's) |
| `StepByStep` | alpha CE(answers) + (1 - alpha) CE(rationales) |
| `Consistency` | one of the first three + alpha (KL(p, q) + KL(q, p)) / 2 on the answers of two rationales |

Each term is a sum over its own kind of target positions, divided by their number in the whole optimiser step; so no split
into micro-batches or processes changes an update. An objective says how many positions of each kind some rows have
(`counts`, known before any forward pass) and gives the sums of a micro-batch; the trainer divides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.data.encoding import Example
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.hidden_states import Layers, head_parameters, target_states
from mentorkd.distillation.losses import LossSums, Mentors, distillation_loss

__all__ = ["TOKENS", "CrossEntropy", "Objective", "Student", "Sums", "TokenObjective"]

TOKENS = "tokens"
"""The kind of position that every target token is."""


@dataclass(frozen=True, eq=False)
class Student:
    """A student's forward pass over a micro-batch: what it says at the N target positions, row after row."""

    batch: Mapping[str, Any]
    rows: Sequence[Example]
    labels_N: Tensor
    states: Tensor
    """Hidden states [N, D] as the head receives them, or logits [N, V] where the model changes them after the head."""
    head: tuple[Tensor, Tensor | None] | None
    """Weight and bias of the head; None where `states` are logits."""
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
        """Run `model`, a wrapper of `owner` or the same, over a batch of `rows`."""
        labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
        states, found = target_states(model, batch, owner=owner, logits=not fused, layers=layers)
        return cls(batch, rows, labels_N, states, head_parameters(owner) if fused else None, found)

    def loss(self, mentor: Mentors = None, *, at: Tensor | None = None, **how: Any) -> LossSums:
        """The distillation loss, or without a mentor the cross-entropy, at all target positions or at some."""
        states, labels_N = (self.states, self.labels_N) if at is None else (self.states[at], self.labels_N[at])
        if self.head is None:
            return distillation_loss(states, labels_N, mentor, **how)
        weight, bias = self.head
        return fused_distillation_loss(states, weight, labels_N, mentor, bias=bias, **how)

    def logits(self, at: Tensor) -> Tensor:
        """Whole logits [n, V] at few positions."""
        return self.states[at] if self.head is None else F.linear(self.states[at], *self.head)


@dataclass(frozen=True)
class Sums:
    """Sums over the positions of a micro-batch, each with the kind of position that it is to be divided by."""

    loss: dict[str, Tensor]
    """Kind of position -> summand of the loss, weighted and with its gradient."""
    told: dict[str, tuple[str, Tensor]]
    """For the log: name -> kind of position, and an unweighted sum."""


class Objective(Protocol):
    """A loss. See the table above."""

    @property
    def layers(self) -> Collection[int]:
        """Layers of the student whose hidden states it reads."""
        ...

    @property
    def weights(self) -> nn.Module | None:
        """What it learns itself beside the student, by the same optimiser; thrown away after training."""
        ...

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        """Target positions of each kind; always the same kinds, `tokens` (all of them) first."""
        ...

    def missing_data(self, rows: Sequence[Example]) -> str | None:
        """What it misses among all rows of a training, without which it would be another objective; None if nothing."""
        ...

    def sums(self, student: Student) -> Sums:
        """Its terms over a micro-batch, which may be empty of rows."""
        ...


class TokenObjective:
    """An objective that reads no layer, learns nothing itself and counts nothing but target tokens."""

    layers: Collection[int] = ()
    weights: nn.Module | None = None

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        return {TOKENS: sum(len(row.target_ids) for row in rows)}

    def missing_data(self, rows: Sequence[Example]) -> str | None:
        return None


class CrossEntropy(TokenObjective):
    """Fine-tuning on text: Vanilla-KD, answer-only fine-tuning, a mentor's own training."""

    def sums(self, student: Student) -> Sums:
        ce = student.loss()
        return Sums({TOKENS: ce.loss}, {"ce": (TOKENS, ce.ce)})
