"""Agreement: how a mentor and the student that imitated it see the same target tokens, after training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX, Collator, sorted_batches
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.losses import MentorHidden, MentorLogits, MentorTargets, MentorTopK
from mentorkd.distillation.mentors import SingleMentor
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.models import LoadedModel
from mentorkd.precision import Precision

__all__ = ["agreement"]

# Rationales on which it is measured, spread over the training rows: some 8,000 tokens of the paper's tasks.
SAMPLE = 64

# Padded tokens a forward pass; the logits of all its targets are at hand at once.
TOKENS_PER_BATCH = 1024


@torch.inference_mode()
def agreement(
    student: LoadedModel,
    rows: Sequence[Example],
    objective: Objective,
    mentors: Sequence[str],
    *,
    precision: Precision = "float32",
    sample: int = SAMPLE,
) -> list[dict[str, Any]]:
    """One row for each of `mentors`, in the order of the objective's, with the fields of `SoftLabelResult` but the learner's.

    Means over the target tokens of `sample` training rows, in the arithmetic of the training. Nothing for an objective
    without mentors.
    """
    sources = objective.mentors
    if not sources or not rows:
        return []
    count = min(sample, len(rows))
    chosen = [rows[number * len(rows) // count] for number in range(count)]
    student.model.eval()
    collate = Collator.for_model(student.kind, student.tokenizer, student.model.config)
    sums: list[Counter[str]] = [Counter() for _ in sources]
    for numbers in sorted_batches(
        [row.padded_sides(student.kind) for row in chosen], tokens_per_batch=TOKENS_PER_BATCH
    ):
        part = [chosen[number] for number in numbers]
        ids = [row.rationale_id for row in part]
        batch = {name: value.to(student.device) for name, value in collate(part).items()}
        with (
            nullcontext() if precision == "float32" else torch.autocast(student.device.type, getattr(torch, precision))
        ):
            logits_NV = target_logits(student.model, batch).float()
            sides = [source.targets_for(ids, batch) for source in sources]
            labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
            for source, side, total in zip(sources, sides, sums, strict=True):
                total.update(_sums(logits_NV, labels_N, side))
                total.update(_kept_nll(source, ids))
    return [
        {"mentor": name, "rationales": len(chosen), **_means(total)} for name, total in zip(mentors, sums, strict=True)
    ]


def _sums(logits_NV: Tensor, labels_N: Tensor, side: MentorTargets) -> dict[str, float]:
    """Sums over the tokens of a batch."""
    shared = min(logits_NV.shape[1], side.vocab_size)
    found = {
        "tokens": float(len(labels_N)),
        "student_nll": F.cross_entropy(logits_NV, labels_N, reduction="sum").item(),
        "student_entropy": _entropy(logits_NV),
    }
    if isinstance(side, MentorTopK):
        likeliest_N = side.indices_NK.gather(1, side.log_probs_NK.argmax(-1, keepdim=True))[:, 0]
    else:
        mentor_NV = _logits(side)
        likeliest_N = mentor_NV[:, :shared].argmax(-1)
        found["mentor_nll"] = F.cross_entropy(mentor_NV, labels_N, reduction="sum").item()
        found["mentor_entropy"] = _entropy(mentor_NV)
    found["agreement"] = float((logits_NV[:, :shared].argmax(-1) == likeliest_N).sum())
    return found


def _logits(side: MentorHidden | MentorLogits) -> Tensor:
    if isinstance(side, MentorLogits):
        return side.logits_NV.float()
    return F.linear(side.hidden_NE.to(side.weight_VE.dtype), side.weight_VE, side.bias_V).float()


def _entropy(logits_NV: Tensor) -> float:
    log_probs_NV = logits_NV.log_softmax(-1)
    return -(log_probs_NV.exp() * log_probs_NV).sum().item()


def _kept_nll(source: SingleMentor, ids: Sequence[str]) -> dict[str, float]:
    """What a `top_k` store was told of the targets when it was scored: the rest of its distributions is not there."""
    if not isinstance(source, StoredSoftLabels) or source.meta.form != "top_k":
        return {}
    stores = [next(store for store in source.stores if one in store) for one in ids]
    return {"mentor_nll": sum(float(store.row(one)["nll"].sum()) for store, one in zip(stores, ids, strict=True))}


def _means(total: Mapping[str, float]) -> dict[str, Any]:
    tokens = total["tokens"]
    told = ("mentor_nll", "student_nll", "mentor_entropy", "student_entropy", "agreement")
    means = {name: round(total[name] / tokens, 6) if name in total else None for name in told}
    return {"tokens": int(tokens), **means}
