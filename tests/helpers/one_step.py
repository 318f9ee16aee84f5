"""The loss and the gradient of one optimiser step, outside of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.base import Objective, Student
from mentorkd.models import LoadedModel


def read(student: LoadedModel, rows: list[Example], objective: Objective, **how: Any) -> Student:
    start = student.model.config.decoder_start_token_id if student.kind == "seq2seq" else None
    layout, fused = how.pop("layout", dict), how.pop("fused", True)
    batch = layout(Collator(student.kind, student.tokenizer.pad_token_id, start, **how)(rows))
    read_by = {"layers": objective.layers, "label_smoothing": objective.label_smoothing}
    return Student.forward(student.model, batch, rows, owner=student.model, fused=fused, **read_by)


def loss_of(student: LoadedModel, batches: list[list[Example]], objective: Objective, **how: Any) -> float:
    """The loss of one optimiser step over these micro-batches; gradients are left in the parameters."""
    counts = objective.counts([row for rows in batches for row in rows])
    total = 0.0
    for rows in batches:
        sums = objective.sums(read(student, rows, objective, **how))
        loss = torch.stack([value / max(1, counts[kind]) for kind, value in sums.loss.items()]).sum()
        loss.backward()
        total += loss.item()
    return total


def gradients(student: LoadedModel) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}
    student.model.zero_grad()
    return found
