"""The decoding loop of commit 7b4a6c6 in short, the baseline of `gpu.py`: 32 rows at a time, a cache that grows with each token, every
token read by the host, and finished rows removed once they are more than one in eight."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from mentorkd.models import LoadedModel

__all__ = ["sample_as_before"]

ROWS = 32
LEAVE_SHARE = 8


@torch.inference_mode()
def sample_as_before(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, temperature: float, limit: int, ends: Collection[int]
) -> list[list[int]]:
    """Token ids after each prompt, up to `limit`, the end token included."""
    order = sorted(prompts, key=len, reverse=True)
    written: list[list[int]] = []
    for start in range(0, len(order), ROWS):
        written += _batch(loaded, order[start : start + ROWS], temperature, limit, ends)
    return written


def _batch(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], temperature: float, limit: int, ends: Collection[int]
) -> list[list[int]]:
    model: Any = loaded.model
    device, causal = loaded.device, loaded.kind == "causal"
    longest = max(map(len, prompts))
    ids_RS = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_RS = torch.zeros_like(ids_RS)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if causal else slice(0, len(prompt))
        ids_RS[row, place], mask_RS[row, place] = torch.tensor(prompt), 1
    ids_RS, mask_RS = ids_RS.to(device), mask_RS.to(device)
    if causal:
        cache: Any = DynamicCache(config=model.config)
        positions_RS = (mask_RS.cumsum(-1) - 1).clamp(min=0)
        next_R = positions_RS[:, -1] + 1
        inputs = {"input_ids": ids_RS, "position_ids": positions_RS, "attention_mask": mask_RS, "logits_to_keep": 1}
    else:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        encoded = model.get_encoder()(input_ids=ids_RS, attention_mask=mask_RS).last_hidden_state
        inputs = _decoder_inputs(encoded, mask_RS, torch.zeros_like(ids_RS[:, 0]))
    written: list[list[int]] = [[] for _ in prompts]
    live, ended = list(range(len(prompts))), set[int]()
    for step in range(limit):
        logits_RV = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1].float() / temperature
        mass_RV = logits_RV.softmax(-1).cumsum(-1)
        drawn_R1 = torch.rand(len(live), 1, device=device) * mass_RV[:, -1:]
        tokens_R = torch.searchsorted(mass_RV, drawn_R1, right=True)[:, 0].clamp(max=mass_RV.shape[-1] - 1)
        for row, token in zip(live, tokens_R.tolist(), strict=True):
            if row not in ended:
                written[row].append(token)
                if token in ends:
                    ended.add(row)
        if len(ended) == len(written) or step + 1 == limit:
            break
        keep = [place for place, row in enumerate(live) if row not in ended]
        if (len(live) - len(keep)) * LEAVE_SHARE > len(live):
            index = torch.tensor(keep, device=device)
            tokens_R, mask_RS, live = tokens_R[index], mask_RS[index], [live[place] for place in keep]
            cache.batch_select_indices(index)
            if causal:
                next_R = next_R[index]
            else:
                encoded = encoded[index]
        if causal:
            mask_RS = torch.cat([mask_RS, mask_RS.new_ones(len(live), 1)], 1)
            inputs = {"input_ids": tokens_R[:, None], "position_ids": next_R[:, None], "attention_mask": mask_RS}
            next_R = next_R + 1
        else:
            inputs = _decoder_inputs(encoded, mask_RS, tokens_R)
    return written


def _decoder_inputs(encoded: torch.Tensor, mask_RS: torch.Tensor, tokens_R: torch.Tensor) -> dict[str, Any]:
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=encoded),
        "attention_mask": mask_RS,
        "decoder_input_ids": tokens_R[:, None],
    }
