"""Score: the mentor's distributions on selected rationales, in one pass, into a store (Mentor-KD, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from mentorkd.data.batching import Collator, sides_of, sorted_batches
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import FrozenModel, head_parameters, scoring_tokens
from mentorkd.distillation.losses import top_k_of
from mentorkd.distillation.soft_labels import SoftLabelWriter, StoreMeta
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, tokenizer_digest
from mentorkd.records import Progress


def score(
    mentor: LoadedModel,
    rows: Sequence[Example],
    *,
    folder: Path,
    mode: Literal["hidden", "top_k"],
    top_k: int,
    temperature: float,
    mentor_digest: str,
    target: str,
    bfloat16: bool,
    on_progress: Progress,
    vocab_size: int | None = None,
    tokens_per_batch: int | None = None,
) -> dict[str, Any]:
    """Write the soft labels of `rows`; rows that an earlier, killed call finished are not computed again.

    Args:
        top_k: number of probabilities that are kept of each token; at most the vocabulary.
        temperature: temperature of the student's loss; `top_k` keeps probabilities at it.
        bfloat16: run the forward pass in bfloat16 autocast; the mentor's linear weights are left in bfloat16.
        vocab_size: number of leading entries that the heads of the student and of all its mentors have, where heads are
            padded; `top_k` keeps distributions over these. None takes the mentor's.

    Raises ModelError if hidden states cannot stand for logits in this model and `mode` is `hidden`.
    """
    collate = Collator.for_model(mentor.kind, mentor.tokenizer, mentor.model.config)
    tokens = tokens_per_batch or scoring_tokens(mentor)
    batches = sorted_batches(sides_of(rows, mentor.kind), tokens_per_batch=tokens)
    weight, bias = head_parameters(mentor.model)
    model = FrozenModel(mentor, collate([rows[0]]) if rows else None, bfloat16=bfloat16)
    if mode == "hidden" and not model.head_is_linear:
        raise ModelError(
            f"{type(mentor.model).__name__} changes its logits after the head, so hidden states cannot stand for them; "
            "set `soft_label_store: top_k` or `online`"
        )
    shared = min(vocab_size or len(weight), len(weight))
    meta = StoreMeta(
        form=mode,
        mentor=mentor_digest,
        tokenizer=tokenizer_digest(mentor.tokenizer),
        target=target,
        vocab_size=len(weight) if mode == "hidden" else shared,
        width=weight.shape[1] if mode == "hidden" else min(top_k, shared),
        temperature=temperature if mode == "top_k" else None,
    )
    head = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    with closing(SoftLabelWriter(folder, meta, head if mode == "hidden" else None)) as writer:
        for numbers in batches:
            part = [rows[number] for number in numbers if rows[number].rationale_id not in writer.done]
            if part:
                arrays = _distributions(model, collate(part), meta)
                arrays["labels"] = np.concatenate([row.target_ids for row in part])
                ends = np.cumsum([len(row.target_ids) for row in part])[:-1]
                split = {name: np.split(array, ends) for name, array in arrays.items()}
                writer.append(
                    [(row.rationale_id, {name: split[name][i] for name in split}) for i, row in enumerate(part)]
                )
            on_progress(len(writer.done), len(rows))
        writer.finish()
    return {
        "rows": len(writer.done),
        "tokens": writer.tokens,
        "form": mode,
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
    }


@torch.inference_mode()
def _distributions(model: FrozenModel, batch: dict[str, torch.Tensor], meta: StoreMeta) -> dict[str, npt.NDArray[Any]]:
    """The store's arrays, labels excepted, at the target positions of a batch."""
    if meta.form == "hidden":
        return {"hidden": model.hidden(batch).to(torch.bfloat16).view(torch.int16).cpu().numpy().view(np.uint16)}
    parts = [_top_k(logits, labels, meta) for logits, labels in model.logits(batch)]
    return {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in parts[0]}


def _top_k(logits_NV: torch.Tensor, labels_N: torch.Tensor, meta: StoreMeta) -> dict[str, torch.Tensor]:
    """The k likeliest tokens at the store's temperature, the mentor's negative log-likelihood of the labels (at
    temperature 1), and the information lost: KL(exact || top k with its tail spread evenly), in nats."""
    assert meta.temperature is not None
    kept = top_k_of(logits_NV, meta.width, temperature=meta.temperature, vocab_size=meta.vocab_size)
    log_probs_NV = torch.log_softmax(logits_NV[:, : meta.vocab_size] / meta.temperature, -1)
    tail_N = kept.log_tail_N.exp()
    spread_N = kept.log_tail_N - math.log(max(1, meta.vocab_size - meta.width))
    kept_N = (kept.log_probs_NK.exp() * kept.log_probs_NK).sum(-1) + tail_N * spread_N
    return {
        "log_probs": kept.log_probs_NK,
        "indices": kept.indices_NK,
        "log_tail": kept.log_tail_N,
        "nll": F.cross_entropy(logits_NV, labels_N, reduction="none"),
        "lost": ((log_probs_NV.exp() * log_probs_NV).sum(-1) - kept_N).clamp(min=0),
    }
