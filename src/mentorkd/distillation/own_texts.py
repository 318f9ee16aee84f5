"""Measures of a round of own texts: how far writer, trained model and mentor are from each other on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.agreement import SAMPLE, batches_by_part
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.inspect import spread
from mentorkd.distillation.losses import MentorHidden, MentorLogits
from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.models import LoadedModel
from mentorkd.precision import Precision, autocast

LIKELIEST = 10
"""Tokens whose overlap is measured."""


@dataclass(frozen=True)
class OwnTextMeasures:
    """Means over the tokens of a sample of own texts, in nats; the fields of `OwnTexts` that need a model."""

    writer_kl: float | None
    trained_kl: float | None
    writer_entropy: float
    trained_entropy: float
    overlap: float | None
    staleness: float


@torch.inference_mode()
def measure_own_texts(
    trained: LoadedModel,
    writer: LoadedModel,
    rows: Sequence[Example],
    mentors: Sequence[tuple[float, SoftLabelSource]],
    *,
    precision: Precision = "float32",
    sample: int = SAMPLE,
) -> OwnTextMeasures:
    """Compare the model that wrote `rows`, the same model after its training on them, and its mentors with their shares.

    The divergences are exact, over the whole vocabulary, and measured on `sample` rows. What concerns the mentors is None if they do
    not give whole distributions.
    """
    sums: defaultdict[str, float] = defaultdict(float)

    def add(**values: float) -> None:
        for name, value in values.items():
            sums[name] += value

    collate = Collator.for_model(trained.kind, trained.tokenizer, trained.model.config)
    for model in (trained.model, writer.model):
        model.eval()
    for parts, batch_rows in batches_by_part(spread(rows, sample), [mentor for _, mentor in mentors], trained.kind):
        batch = {name: value.to(trained.device) for name, value in collate(batch_rows).items()}
        with autocast(trained.device.type, precision):
            writer_NV, trained_NV = (_log_probs(target_logits(each.model, batch)) for each in (writer, trained))
            targets = [
                (share, mentor.targets_for(batch_rows, batch))
                for (share, mentor), part in zip(mentors, parts, strict=True)
                if part is not None
            ]
        add(
            tokens=int((batch["labels"] != IGNORE_INDEX).sum()),
            writer_entropy=_entropy(writer_NV),
            trained_entropy=_entropy(trained_NV),
            staleness=_kl(writer_NV, trained_NV),
        )
        whole = [(share, each) for share, each in targets if isinstance(each, MentorHidden | MentorLogits)]
        if whole and len(whole) == len(mentors):
            for share, each in whole:
                size = min(each.vocab_size, writer_NV.shape[1])
                mentor_NV = _log_probs(each.logits(size))
                own = [_log_probs(states[:, :size]) for states in (writer_NV, trained_NV)]
                add(
                    writer_kl=share * _kl(own[0], mentor_NV),
                    trained_kl=share * _kl(own[1], mentor_NV),
                    overlap=share * _overlap(own[0], mentor_NV),
                )
    means = {name: round(total / max(1, sums["tokens"]), 6) for name, total in sums.items()}
    return OwnTextMeasures(
        writer_kl=means.get("writer_kl"),
        trained_kl=means.get("trained_kl"),
        writer_entropy=means["writer_entropy"],
        trained_entropy=means["trained_entropy"],
        overlap=means.get("overlap"),
        staleness=means["staleness"],
    )


def _log_probs(logits_NV: Tensor) -> Tensor:
    return logits_NV.float().log_softmax(-1)


def _entropy(log_probs_NV: Tensor) -> float:
    return -(log_probs_NV.exp() * log_probs_NV).sum().item()


def _kl(p_NV: Tensor, q_NV: Tensor) -> float:
    """KL(p || q), summed over the tokens."""
    return (p_NV.exp() * (p_NV - q_NV)).sum().item()


def _overlap(one_NV: Tensor, other_NV: Tensor) -> float:
    """Share of the likeliest tokens of the one that are among those of the other, summed over the tokens."""
    k = min(LIKELIEST, one_NV.shape[1])
    one_NK, other_NK = (states.topk(k, dim=-1).indices for states in (one_NV, other_NV))
    return (one_NK[:, :, None] == other_NK[:, None, :]).any(-1).float().mean(-1).sum().item()
