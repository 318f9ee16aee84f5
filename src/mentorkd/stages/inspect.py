"""Inspect: what a soft-label store holds, and how much a `top_k` one lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mentorkd.soft_labels import SoftLabelStore

__all__ = ["inspect_store"]


def inspect_store(folder: Path, *, sample: int) -> dict[str, Any]:
    """Size and statistics of a store; those that need the distributions are measured on `sample` rationales.

    `nll` is the mentor's mean negative log-likelihood of the target tokens in nats, `entropy` that of its
    distributions (a lower bound for `top_k`, whose tail counts as one event); `mass_kept` is the mean probability that
    `top_k` keeps. For `top_k`, probabilities are those at the store's temperature.
    """
    store = SoftLabelStore(folder)
    found: dict[str, Any] = {
        "form": store.meta.form,
        "mentor": store.meta.mentor,
        "rationales": store.rows,
        "tokens": store.tokens,
        "bytes": store.size_bytes,
        "bytes_per_token": round(store.size_bytes / max(1, store.tokens), 1),
    }
    if store.meta.temperature is not None:
        found["temperature"] = store.meta.temperature
    nll, entropy, kept, outside, tokens = 0.0, 0.0, 0.0, 0, 0
    head = store.head() if store.meta.form == "hidden" else None
    step = max(1, store.rows // max(1, sample))
    for rationale_id in store.ids[::step][:sample]:
        row = {name: torch.from_numpy(array.copy()) for name, array in store.row(rationale_id).items()}
        labels = row["labels"].long()
        if head is not None:
            hidden = row["hidden"].view(torch.bfloat16).float()
            log_probs = torch.nn.functional.linear(hidden, head[0].float(), None if head[1] is None else head[1].float())
            log_probs = log_probs.log_softmax(-1)
            nll -= log_probs.gather(1, labels[:, None]).sum().item()
            entropy -= (log_probs.exp() * log_probs).sum().item()
        else:
            events = torch.cat([row["log_probs"], row["log_tail"][:, None]], dim=1)
            entropy -= (events.exp() * events.clamp(min=-1e4)).sum().item()
            kept += row["log_probs"].exp().sum().item()
            hit = row["indices"].long() == labels[:, None]
            nll -= row["log_probs"][hit].sum().item()
            outside += int((~hit.any(1)).sum())
        tokens += len(labels)
    inside = max(1, tokens - outside)
    found |= {"sampled_tokens": tokens, "nll": round(nll / inside, 4), "entropy": round(entropy / max(1, tokens), 4)}
    if head is None:
        found |= {"mass_kept": round(kept / max(1, tokens), 6), "targets_outside_top_k": outside}
    return found
