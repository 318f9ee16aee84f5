"""Our own decoding loop, for models whose `generate` it equals token for token.

It differs from `generate` in what it does not do. A prompt is read once, not once a sample. Sampling inverts the
cumulative distribution at one uniform number a row instead of drawing one for every token of the vocabulary, which is
most of the time of a small model with T5's 32128. Texts that have ended leave the batch, and what is left of several
batches is joined, so that a few long texts never hold up a batch. Measured in docs/results/generation.md.

Legend: R rows (texts being written), V vocabulary, S tokens of the longest prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mentorkd.errors import ModelError
from mentorkd.recipe import ModelKind

__all__ = ["FAMILIES", "Text", "choose", "decode", "pad"]

FAMILIES = frozenset(
    {"t5", "mt5", "umt5", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "opt", "gpt_neox"}
)
"""`model_type`s for which the tests hold the loop equal to `generate`."""

LEAVE_SHARE = 8
"""Ended rows leave when they are more than one row in so many: leaving copies the caches."""

PARK_STEPS = 64
PARK_SHARE = 2
"""A batch that is down to one row in PARK_SHARE is put by at the next multiple of PARK_STEPS, to be joined by others."""


@dataclass(slots=True, eq=False)
class Text:
    """One text being written after a prompt: its token ids so far, the end token included.

    `draw` is the random stream that its tokens are drawn from; None for greedy ones.
    """

    prompt: int
    draw: random.Random | None
    ids: list[int] = field(default_factory=list)
    ended: bool = False

    def uniform(self) -> float:
        """A number of [0, 1) that float32 holds exactly."""
        assert self.draw is not None
        return self.draw.getrandbits(24) / 2**24


def choose(logits_RV: Tensor, uniform_R: Tensor | None, *, temperature: float, top_p: float, top_k: int) -> Tensor:
    """One token a row: the likeliest without `uniform_R`, else the distribution's quantile at `uniform_R` (in [0, 1)).

    The number V, which is no token, stands for a row whose logits are not numbers.
    """
    if uniform_R is None:
        return logits_RV.argmax(-1)
    logits_RV = logits_RV.float() / temperature
    vocabulary = logits_RV.shape[-1]
    ids_RK = None
    if 0 < top_k < vocabulary or top_p < 1:
        logits_RV, ids_RK = _likeliest(logits_RV, min(top_k or vocabulary, vocabulary), top_p)
    mass_RV = logits_RV.softmax(-1).cumsum(-1)
    # The first token whose cumulative mass exceeds the drawn one: it has a probability over 0.
    place_R1 = torch.searchsorted(mass_RV, uniform_R[:, None] * mass_RV[:, -1:], right=True)
    if ids_RK is None:
        return place_R1[:, 0]
    failed = place_R1 >= mass_RV.shape[-1]
    return ids_RK.gather(1, place_R1.masked_fill(failed, 0)).masked_fill(failed, vocabulary)[:, 0]


def _likeliest(logits_RV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Logits and ids [R, K] of the `top_k` likeliest tokens, best first; those outside of their nucleus are -inf."""
    if top_p >= 1:
        best = logits_RV.topk(top_k)
        return best.values, best.indices
    # The nucleus is nearly always small, and sorting a vocabulary is slow: look among ever more tokens.
    total_R1 = (logits_RV.topk(top_k).values if top_k < logits_RV.shape[-1] else logits_RV).logsumexp(-1, keepdim=True)
    width = min(128, top_k)
    while True:
        best = logits_RV.topk(width)
        mass_RK = (best.values - total_R1).exp()
        before_RK = mass_RK.cumsum(-1) - mass_RK
        if width == top_k or bool((before_RK[:, -1] >= top_p).all()):
            return best.values.masked_fill(before_RK >= top_p, -torch.inf), best.indices
        width = min(width * 16, top_k)


def pad(prompts: Sequence[Sequence[int]], pad_id: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [R, S], padded on the left (where a text goes on to the right) or on the right."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if left else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    kind: ModelKind,
    batches: Iterable[tuple[Sequence[Sequence[int]], Sequence[Text]]],
    *,
    max_new_tokens: int,
    start_id: int | None,
    end_ids: Collection[int],
    pad_id: int,
    choose: Callable[[Tensor, Tensor | None], Tensor],
    on_end: Callable[[Text], None],
) -> None:
    """Write the texts of all batches; a batch is prompts and the same number of texts for each, one prompt's together.

    `choose` takes logits [R, V] and uniform numbers [R] (None for texts without a random stream). `on_end` is told of
    each text when it is whole. No more than one batch runs at once; about two more may be held, parked.
    """
    parked: dict[int, list[_Rows]] = {}
    source = iter(batches)
    while True:
        step = next((step for step, those in parked.items() if sum(len(r.texts) for r in those) >= those[0].full), None)
        if step is None and (batch := next(source, None)) is not None:
            rows = _Rows(model, kind, *batch, start_id=start_id, pad_id=pad_id)
        elif parked:
            # The shortest texts first: what is left of them joins the longer ones.
            rows = _joined(parked.pop(min(parked) if step is None else step))
        else:
            return
        _write(rows, max_new_tokens, end_ids, choose, on_end)
        if rows.texts:
            parked.setdefault(rows.step, []).append(rows)


def _write(
    rows: _Rows,
    max_new_tokens: int,
    end_ids: Collection[int],
    choose: Callable[[Tensor, Tensor | None], Tensor],
    on_end: Callable[[Text], None],
) -> None:
    """Go on until all texts of the batch have ended, or half have and it is time to park."""
    while True:
        uniform_R = None
        if rows.texts[0].draw is not None:
            uniform_R = torch.tensor([text.uniform() for text in rows.texts]).to(rows.logits.device)
        tokens = choose(rows.logits, uniform_R)
        rows.step += 1
        for text, token in zip(rows.texts, tokens.tolist(), strict=True):
            if text.ended:
                continue
            if token >= rows.logits.shape[-1]:
                raise ModelError("the model's logits are not numbers: damaged weights, or too narrow a dtype")
            text.ids.append(token)
            if token in end_ids or rows.step == max_new_tokens:
                text.ended = True
                on_end(text)
        keep = [row for row, text in enumerate(rows.texts) if not text.ended]
        if not keep:
            rows.texts = []
            return
        park = rows.step % PARK_STEPS == 0 and PARK_SHARE * len(keep) <= rows.full
        if park or (len(rows.texts) - len(keep)) * LEAVE_SHARE > len(rows.texts):
            index = torch.tensor(keep, device=tokens.device)
            rows.keep(index)
            tokens = tokens[index]
        rows.append(tokens)
        if park:
            return


class _Rows:
    """Texts at the same step, with their caches and the logits of their next token."""

    def __init__(
        self,
        model: PreTrainedModel,
        kind: ModelKind,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Text],
        *,
        start_id: int | None,
        pad_id: int,
    ) -> None:
        self.model: Any = model
        self.kind = kind
        self.texts = list(texts)
        self.full = len(texts)
        self.step = 0
        ids_RS, self.mask_RS = pad(prompts, pad_id, left=kind == "causal", device=model.device)
        self.cache = self._empty_cache()
        if kind == "seq2seq":
            assert start_id is not None
            self.encoded = self.model.get_encoder()(input_ids=ids_RS, attention_mask=self.mask_RS).last_hidden_state
            self.append(torch.full((len(prompts),), start_id, device=model.device))
        else:
            positions_RS = (self.mask_RS.cumsum(-1) - 1).clamp(min=0)
            self.next_R = positions_RS[:, -1] + 1
            self._forward(input_ids=ids_RS, position_ids=positions_RS)
        # All texts of a prompt have the same first logits: the prompt is read once, and the caches are copied after.
        copies = len(texts) // len(prompts)
        if copies > 1:
            self._each(lambda rows: rows.repeat_interleave(copies, dim=0))
            self.cache.batch_repeat_interleave(copies)

    def append(self, tokens_R: Tensor) -> None:
        """Append a token to each row and compute the logits of the next."""
        if self.kind == "seq2seq":
            encoded = BaseModelOutput(last_hidden_state=self.encoded)
            self._forward(encoder_outputs=encoded, decoder_input_ids=tokens_R[:, None])
            return
        self.mask_RS = torch.cat([self.mask_RS, self.mask_RS.new_ones(len(tokens_R), 1)], dim=1)
        positions_R1, self.next_R = self.next_R[:, None], self.next_R + 1
        self._forward(input_ids=tokens_R[:, None], position_ids=positions_R1)

    def keep(self, index: Tensor) -> None:
        self.texts = [self.texts[row] for row in index.tolist()]
        self._each(lambda rows: rows[index])
        self.cache.batch_select_indices(index)

    def _forward(self, **inputs: Any) -> None:
        if self.kind == "causal":
            inputs["logits_to_keep"] = 1
        output = self.model(**inputs, attention_mask=self.mask_RS, past_key_values=self.cache, use_cache=True)
        self.logits: Tensor = output.logits[:, -1]

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change every tensor that has a row for each text, but for the caches."""
        for name in ("mask_RS", "logits", "encoded" if self.kind == "seq2seq" else "next_R"):
            setattr(self, name, change(getattr(self, name)))

    def _empty_cache(self) -> Any:
        if self.kind == "seq2seq":
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        return DynamicCache(config=self.model.config)  # the config tells which layers have a sliding window

    def caches(self) -> list[DynamicCache]:
        """One, or a decoder's and that of what it reads of the encoder."""
        if self.kind == "seq2seq":
            return [self.cache.self_attention_cache, self.cache.cross_attention_cache]
        return [self.cache]


def _joined(batches: list[_Rows]) -> _Rows:
    """One batch of several at the same step. Where their prompts differ in length, masked places fill the difference."""
    first, *others = batches
    if not others:
        return first
    left = first.kind == "causal"

    def join(parts: list[Tensor], dim: int) -> Tensor:
        longest = max(part.shape[dim] for part in parts)
        filled = []
        for part in parts:
            shape = list(part.shape)
            shape[dim] = longest - shape[dim]
            filler = part.new_zeros(shape)
            filled.append(torch.cat([filler, part] if left else [part, filler], dim=dim))
        return torch.cat(filled)

    first.texts = [text for rows in batches for text in rows.texts]
    first.full = max(rows.full for rows in batches)
    first.logits = torch.cat([rows.logits for rows in batches])
    first.mask_RS = join([rows.mask_RS for rows in batches], 1)
    if first.kind == "seq2seq":
        first.encoded = join([rows.encoded for rows in batches], 1)
    else:
        first.next_R = torch.cat([rows.next_R for rows in batches])
    for caches in zip(*(rows.caches() for rows in batches), strict=True):
        for layer, *theirs in zip(*(cache.layers for cache in caches), strict=True):
            layer.keys = join([layer.keys, *(other.keys for other in theirs)], 2)
            layer.values = join([layer.values, *(other.values for other in theirs)], 2)
            if hasattr(layer, "cumulative_length"):  # of a sliding window, which holds the last places only
                layer.cumulative_length = max(same.cumulative_length for same in (layer, *theirs))
    return first
