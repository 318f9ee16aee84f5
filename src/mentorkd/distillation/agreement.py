"""Agreement between a mentor and the student that imitated it, on the same target tokens, after training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX, Collator, sorted_batches
from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import MentorChunks
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.inspect import spread
from mentorkd.distillation.losses import MentorTargets, MentorTopK
from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.models import LoadedModel
from mentorkd.precision import Precision, autocast
from mentorkd.records import ModelKind

SAMPLE = 64
"""Rationales on which agreement is measured, spread over the training rows: about 8,000 tokens of the paper's tasks."""

TOKENS_PER_BATCH = 1024
"""Padded tokens of a forward pass; the logits of all its target positions are in memory at once."""


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
    """One row for each of `mentors`, in the objective's order, with the fields of `SoftLabelResult` except the learner's; none for a
    mentor without soft labels of the sampled rows.

    Means over the target tokens of `sample` training rows, in the precision of the training. An empty list for an
    objective without mentors.
    """
    sources = objective.mentors
    if not sources or not rows:
        return []
    chosen = spread(rows, sample)
    student.model.eval()
    collate = Collator.for_model(student.kind, student.tokenizer, student.model.config)
    sums: list[Counter[str]] = [Counter() for _ in sources]
    for parts, part in batches_by_part(chosen, sources, student.kind):
        ids = [row.rationale_id for row in part]
        batch = {name: value.to(student.device) for name, value in collate(part).items()}
        with autocast(student.device.type, precision):
            logits_NV = target_logits(student.model, batch).float()
            labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
            for source, read_by, total in zip(sources, parts, sums, strict=True):
                if read_by is not None:
                    total.update({"rationales": len(part)})
                    total.update(_sums(logits_NV, labels_N, source.targets_for(part, batch)))
                    total.update(_stored_nll(source, ids))
    return [
        {"mentor": name, "rationales": total["rationales"], **_means(total)}
        for name, total in zip(mentors, sums, strict=True)
        if total
    ]


def batches_by_part(
    rows: Sequence[Example], sources: Sequence[SoftLabelSource], kind: ModelKind
) -> Iterator[tuple[tuple[Hashable, ...], list[Example]]]:
    """Batches of rows that the same part of each mentor reads, and these parts."""
    groups: dict[tuple[Hashable, ...], list[Example]] = {}
    for row in rows:
        groups.setdefault(tuple(source.part_of(row) for source in sources), []).append(row)
    for parts, group in groups.items():
        for numbers in sorted_batches([row.padded_sides(kind) for row in group], tokens_per_batch=TOKENS_PER_BATCH):
            yield parts, [group[number] for number in numbers]


def _sums(logits_NV: Tensor, labels_N: Tensor, targets: MentorTargets | MentorChunks) -> dict[str, float]:
    """Sums over the tokens of a batch."""
    sums = {
        "tokens": float(len(labels_N)),
        "student_nll": F.cross_entropy(logits_NV, labels_N, reduction="sum").item(),
        "student_entropy": _entropy(logits_NV),
    }
    if isinstance(targets, MentorChunks):
        labelled_C = ~targets.log_probs_C.isnan()
        sums["mentor_nll"] = -targets.log_probs_C[labelled_C].sum().item()
        return {**sums, "mentor_tokens": float(targets.tokens_C[labelled_C].sum())}
    shared = min(logits_NV.shape[1], targets.vocab_size)
    if isinstance(targets, MentorTopK):
        likeliest_N = targets.indices_NK.gather(1, targets.log_probs_NK.argmax(-1, keepdim=True))[:, 0]
    else:
        mentor_NV = targets.logits().float()
        likeliest_N = mentor_NV[:, :shared].argmax(-1)
        sums["mentor_nll"] = F.cross_entropy(mentor_NV, labels_N, reduction="sum").item()
        sums["mentor_entropy"] = _entropy(mentor_NV)
    sums["agreement"] = float((logits_NV[:, :shared].argmax(-1) == likeliest_N).sum())
    return sums


def _entropy(logits_NV: Tensor) -> float:
    log_probs_NV = logits_NV.log_softmax(-1)
    return -(log_probs_NV.exp() * log_probs_NV).sum().item()


def _stored_nll(source: SoftLabelSource, ids: Sequence[str]) -> dict[str, float]:
    """The mentor's negative log-likelihood of the targets, which a `top_k` store keeps: its distributions are cut."""
    if not isinstance(source, StoredSoftLabels) or source.meta.form != "top_k":
        return {}
    stores = [next(store for store in source.stores if one in store) for one in ids]
    return {"mentor_nll": sum(float(store.row(one)["nll"].sum()) for store, one in zip(stores, ids, strict=True))}


def _means(total: Mapping[str, float]) -> dict[str, Any]:
    """Means over the tokens; the mentor's likelihood of chunks is over those whose chunk has a label."""
    tokens = total["tokens"]
    of_mentor = total.get("mentor_tokens", tokens)
    names = ("mentor_nll", "student_nll", "mentor_entropy", "student_entropy", "agreement")
    counts = {name: of_mentor if name == "mentor_nll" else tokens for name in names}
    means = {name: round(total[name] / counts[name], 6) if name in total and counts[name] else None for name in names}
    return {"tokens": int(tokens), **means}
