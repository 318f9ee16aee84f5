"""Inspect: the contents of a soft-label store, and how much information a `top_k` store lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mentorkd.distillation.soft_labels import SoftLabelStore


def inspect_store(folder: Path, *, sample: int) -> dict[str, Any]:
    """Size and statistics of a store; StoreError if any of its rows is damaged.

    `nll` is the mentor's mean negative log-likelihood of a target token, in nats, at temperature 1. For `hidden`, `nll` and
    `entropy`, the mean entropy of the mentor's distributions, are measured on `sample` rationales, spread over the store.
    For `top_k`, `mass_kept` is the mean probability of the kept tokens, and `lost` is the mean KL(exact || top k with its
    tail spread evenly), in nats; both at the store's temperature, measured on every token when it was scored. For `chunks`,
    `nll` is per student's token of chunks with a label, and `unlabelled_chunks` counts those without. A statistic without any
    token is None.
    """
    store = SoftLabelStore(folder)
    description: dict[str, Any] = {
        "form": store.meta.form,
        "mentor": store.meta.mentor,
        "tokenizer": store.meta.tokenizer,
        "target": store.meta.target,
        "rationales": store.rows,
        "tokens": store.tokens,
        "bytes": store.size_bytes,
        "bytes_per_token": store.meta.bytes_per_token,
    }
    match store.meta.form:
        case "hidden":
            return description | _of_hidden(store, sample)
        case "top_k":
            return description | _of_top_k(store)
        case "chunks":
            return description | _of_chunks(store)


def _of_hidden(store: SoftLabelStore, sample: int) -> dict[str, Any]:
    weight, bias = (None if part is None else part.float() for part in store.head())
    assert weight is not None
    sampled = set(spread(store.ids, sample))
    nll = entropy = 0.0
    tokens = 0
    for rationale_id in store.ids:
        row = store.row(rationale_id)
        if rationale_id not in sampled:
            continue
        hidden = torch.from_numpy(row["hidden"].copy()).view(torch.bfloat16).float()
        log_probs = F.linear(hidden, weight, bias).log_softmax(-1)
        nll += F.nll_loss(log_probs, torch.from_numpy(row["labels"].astype(np.int64)), reduction="sum").item()
        entropy -= (log_probs.exp() * log_probs).sum().item()
        tokens += len(hidden)
    return {"sampled_tokens": tokens, "nll": _mean(nll, tokens, 4), "entropy": _mean(entropy, tokens, 4)}


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items at equal distances: rows are sorted by length, so the first ones would be the longest."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _of_top_k(store: SoftLabelStore) -> dict[str, Any]:
    nll = tail = lost = hits = 0.0
    for rationale_id in store.ids:
        row = store.row(rationale_id)
        nll += float(row["nll"].sum(dtype=np.float64))
        tail += float(np.exp(row["log_tail"].astype(np.float64)).sum())
        lost += float(row["lost"].sum(dtype=np.float64))
        hits += int((row["indices"] == row["labels"][:, None]).any(-1).sum())
    return {
        "temperature": store.meta.temperature,
        "k": store.meta.width,
        "nll": _mean(nll, store.tokens, 4),
        "mass_kept": _mean(store.tokens - tail, store.tokens, 6),
        "lost": _mean(lost, store.tokens, 6),
        "targets_among_kept": _mean(hits, store.tokens, 4),
    }


def _of_chunks(store: SoftLabelStore) -> dict[str, Any]:
    rows = [store.row(rationale_id) for rationale_id in store.ids]
    tokens = sum(int(row["tokens"].sum()) for row in rows)
    labelled = sum(int(row["tokens"][~np.isnan(row["log_probs"])].sum()) for row in rows)
    nll = -sum(float(np.nansum(row["log_probs"], dtype=np.float64)) for row in rows)
    return {
        "mentor_tokenizer": store.meta.mentor_tokenizer,
        "tokens": tokens,
        "bytes_per_token": round(store.tokens * store.meta.bytes_per_token / tokens, 3) if tokens else 0,
        "chunks": store.tokens,
        "unlabelled_chunks": sum(int(np.isnan(row["log_probs"]).sum()) for row in rows),
        "nll": _mean(nll, labelled, 4),
    }


def _mean(total: float, tokens: int, digits: int) -> float | None:
    return round(total / tokens, digits) if tokens else None
