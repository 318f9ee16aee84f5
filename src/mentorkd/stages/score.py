"""Score: the mentor's distributions on selected rationales, in one pass, into a store (Mentor-KD, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mentorkd.batching import Collator, Encoded, sorted_batches
from mentorkd.errors import ModelError
from mentorkd.losses import top_k_of
from mentorkd.models import LoadedModel, head_parameters, tap_is_exact, target_hidden, target_logits, tokenizer_digest
from mentorkd.soft_labels import SoftLabelWriter, StoreMeta
from mentorkd.stages.sampling import Progress

__all__ = ["score"]

# Padded tokens (source + target) a forward pass: enough to keep matrix units busy, little enough to fit anywhere.
TOKENS_PER_BATCH = 4096


def score(
    mentor: LoadedModel,
    rows: Sequence[Encoded],
    *,
    folder: Path,
    mode: Literal["hidden", "top_k"],
    top_k: int,
    temperature: float,
    mentor_digest: str,
    target: str,
    bfloat16: bool,
    on_progress: Progress,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> dict[str, Any]:
    """Write the soft labels of `rows`; those that an earlier, killed call finished are not computed again.

    Args:
        temperature: that of the student's loss; probabilities of `top_k` are kept at it.
        bfloat16: run the forward pass in bfloat16 autocast.

    Raises ModelError if hidden states cannot stand for logits in this model and `mode` is `hidden`.
    """
    collate = Collator.for_model(mentor.kind, mentor.tokenizer, mentor.model.config)
    batches = sorted_batches([row.length for row in rows], tokens_per_batch=tokens_per_batch)
    weight, bias = head_parameters(mentor.model)
    device = mentor.device

    def run(batch: dict[str, torch.Tensor], get: Any) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
            return get(mentor.model, batch)  # type: ignore[no-any-return]

    if mode == "hidden" and rows:
        probe = {name: value.to(device) for name, value in collate([rows[batches[-1][0]]]).items()}
        if not tap_is_exact(mentor.model, probe):
            raise ModelError(
                f"{type(mentor.model).__name__} changes its logits after the head, so hidden states cannot stand for them; "
                "set `soft_label_store: top_k` or `online`"
            )
    meta = StoreMeta(
        form=mode,
        mentor=mentor_digest,
        tokenizer=tokenizer_digest(mentor.tokenizer),
        target=target,
        vocab_size=weight.shape[0],
        width=weight.shape[1] if mode == "hidden" else top_k,
        temperature=temperature if mode == "top_k" else None,
    )
    head = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    writer = SoftLabelWriter(folder, meta, head if mode == "hidden" else None)
    for numbers in batches:
        part = [rows[number] for number in numbers if rows[number].rationale_id not in writer.done]
        if part:
            batch = {name: value.to(device) for name, value in collate(part).items()}
            if mode == "hidden":
                states = run(batch, target_hidden).to(torch.bfloat16).cpu()
                arrays = {"hidden": states.view(torch.int16).numpy().view(np.uint16)}
            else:
                kept = top_k_of(run(batch, target_logits), top_k, temperature=temperature)
                arrays = {
                    "log_probs": kept.log_probs_NK.float().cpu().numpy(),
                    "indices": kept.indices_NK.cpu().numpy(),
                    "log_tail": kept.log_tail_N.float().cpu().numpy(),
                }
            ends = np.cumsum([len(row.target_ids) for row in part])
            split = {name: np.split(array, ends[:-1]) for name, array in arrays.items()}
            writer.append(
                [
                    (row.rationale_id, {"labels": np.array(row.target_ids), **{name: split[name][i] for name in split}})
                    for i, row in enumerate(part)
                ]
            )
        on_progress(len(writer.done), len(rows))
    writer.finish()
    return {"rows": len(writer.done), "tokens": writer.tokens, "form": mode, "bytes": sum(f.stat().st_size for f in folder.iterdir())}
