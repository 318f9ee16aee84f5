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
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mentorkd.data.batching import take_rows
from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import (
    MentorChunks,
    chunk_distillation_loss,
    chunk_divergence,
    fused_label_log_probs,
    label_log_probs,
)
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.hidden_states import POSITIONS, Layers, head_parameters, target_positions, target_states
from mentorkd.distillation.losses import LossSums, MentorTargets, distillation_loss
from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.models.device import on_device

K = TypeVar("K", bound=Hashable)

Targets: TypeAlias = Sequence[tuple[float, MentorTargets | MentorChunks]]
"""What mentors give for the rows of a student, each with its share."""

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
    label_smoothing: float = 0.0

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
        label_smoothing: float = 0.0,
    ) -> Student:
        """Run `model`, which is `owner` or a wrapper of it, over a batch of `rows`."""
        batch = {**batch, POSITIONS: target_positions(batch)}
        labels_N = batch["labels"].flatten()[batch[POSITIONS]]
        states, layer_states = target_states(model, batch, owner=owner, logits=not fused, layers=layers)
        head = head_parameters(owner) if fused else None
        return cls(batch, rows, labels_N, states, head, layer_states, label_smoothing)

    @property
    def weights_N(self) -> Tensor:
        """The weight of each target position, which is its row's."""
        return on_device(torch.tensor(self._weights(), dtype=torch.float64), self.labels_N.device)

    def _weights(self) -> list[float]:
        return [row.weight for row in self.rows for _ in row.target_ids]

    def index(self, positions: Sequence[int]) -> Tensor:
        """An index of some of the target positions, on their device."""
        return on_device(torch.tensor(positions, dtype=torch.long), self.labels_N.device)

    def groups(self, key: Callable[[Example], K]) -> list[tuple[K, Student]]:
        """The rows of each key, in order, as a student of their own."""
        keys = [key(row) for row in self.rows]
        different = dict.fromkeys(keys)
        if len(different) == 1:
            return [(keys[0], self)]
        return [(each, self._with_rows([n for n, of_row in enumerate(keys) if of_row == each])) for each in different]

    def _with_rows(self, numbers: Sequence[int]) -> Student:
        ends = list(accumulate(len(row.target_ids) for row in self.rows))
        positions = [at for n in numbers for at in range(ends[n] - len(self.rows[n].target_ids), ends[n])]
        others = {name: tensor for name, tensor in self.batch.items() if name != POSITIONS}
        batch, moved = take_rows(others, numbers, [row.length - 1 for row in self.rows])
        up = [by for by, n in zip(moved, numbers, strict=True) for _ in self.rows[n].target_ids]
        at = self.index(positions)
        return Student(
            {**batch, POSITIONS: self.batch[POSITIONS][at] - self.index(up)},
            [self.rows[n] for n in numbers],
            self.labels_N[at],
            self.states[at],
            self.head,
            {layer: states[at] for layer, states in self.layers.items()},
            self.label_smoothing,
        )

    def loss(self, mentors: Targets = (), *, at: Sequence[int] | None = None, **settings: Any) -> LossSums:
        """The distillation loss, or the cross-entropy if there is no mentor, at all target positions or those of `at`.

        Each position has the weight of its row in `loss`; `ce` and `divergence` are unweighted. With mentors, all rows have one
        weight, and `at` is None.
        """
        different = sorted({row.weight for row in self.rows})
        if len(different) < 2:
            return _times(*different or [1.0], sums=self._loss(mentors, at, **settings))
        assert not mentors, "rows of one weight share a student (`groups`)"
        weights = self._weights()
        numbers = range(len(weights)) if at is None else at
        parts = [
            _times(weight, sums=self._loss((), [number for number in numbers if weights[number] == weight]))
            for weight in different
        ]
        return total_of(parts)

    def _loss(
        self,
        mentors: Targets,
        at: Sequence[int] | None,
        *,
        kd_weight: float = 0.0,
        chunk_temperature: float | None = None,
        **settings: Any,
    ) -> LossSums:
        states, labels_N = self.states, self.labels_N
        if at is not None:
            states, labels_N = states[index := self.index(at)], labels_N[index]
        chunks = [(share, targets) for share, targets in mentors if isinstance(targets, MentorChunks)]
        others = [(share, targets) for share, targets in mentors if not isinstance(targets, MentorChunks)]
        if chunks and not others:
            log_probs_N = self._label_log_probs(states, labels_N)
            return chunk_distillation_loss(
                log_probs_N, chunks, kd_weight=kd_weight, chunk_temperature=chunk_temperature
            )
        settings |= {"kd_weight": kd_weight, "label_smoothing": self.label_smoothing}
        if self.head is None:
            sums = distillation_loss(states, labels_N, others, ignored=False, **settings)
        else:
            weight, bias = self.head
            sums = fused_distillation_loss(states, weight, labels_N, others, bias=bias, ignored=False, **settings)
        if not chunks:
            return sums
        # A distribution labels every token, so the cross-entropy of all keeps the weight 1 - w.
        total = chunk_divergence(self._label_log_probs(states, labels_N), chunks, chunk_temperature)
        return LossSums(sums.loss + kd_weight * total, sums.ce, sums.divergence + total.detach(), sums.tokens)

    def _label_log_probs(self, states: Tensor, labels_N: Tensor) -> Tensor:
        if self.head is None:
            return label_log_probs(states, labels_N)
        weight, bias = self.head
        return fused_label_log_probs(states, weight, labels_N, bias=bias)

    def logits(self, at: Sequence[int]) -> Tensor:
        """Logits [n, V] at n positions."""
        states = self.states[self.index(at)]
        return states if self.head is None else F.linear(states, *self.head)


def _times(weight: float, *, sums: LossSums) -> LossSums:
    return sums if weight == 1 else replace(sums, loss=weight * sums.loss)


def total_of(parts: Sequence[LossSums]) -> LossSums:
    """The sums of all parts together."""
    if len(parts) == 1:
        return parts[0]
    loss, ce, divergence = (
        torch.stack([getattr(part, name) for part in parts]).sum() for name in ("loss", "ce", "divergence")
    )
    return LossSums(loss, ce, divergence, sum(part.tokens for part in parts))


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
    label_smoothing: float = 0.0
    """Share of the uniform distribution in the targets of every cross-entropy."""
    weights: nn.Module | None = None
    """Its own trainable weights, updated by the student's optimiser and discarded after training."""

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        """Target positions of each kind; always the same kinds, `tokens` (all positions) first."""
        return {TOKENS: sum(len(row.target_ids) for row in rows)}

    def read_ahead(self, rows: Sequence[Example]) -> None:
        """Read from the disk what the loss of these rows needs later, in any thread."""
        for mentor in self.mentors:
            mentor.read_ahead(rows)

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
