"""What our own decoding loop (`continuous`) does in one step: the forward pass of a batch, and the choice of its tokens.

The loop is faster than `generate` because it does less. It reads a prompt once, not once per sample. It samples by
inverting the cumulative distribution at one uniform number per row; `generate` draws one number per vocabulary token,
which takes most of the time of a small model with T5's 32128 tokens. It removes finished rows from the batch.
Measurements are in docs/results/generation.md.

Legend: R rows (prompt times copies), V vocabulary, S tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mentorkd.records import ModelKind

FAMILIES = frozenset(
    {"t5", "mt5", "umt5", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "opt", "gpt_neox"}
)
"""`model_type`s for which the tests show that the loop equals `generate`."""


def choose(logits_RV: Tensor, uniform_R: Tensor | None, *, temperature: float, top_p: float, top_k: int) -> Tensor:
    """One token per row: the likeliest one, or the distribution's quantile at `uniform_R` (in [0, 1)) if given.

    The id V, which is not a token, marks a drawn row with logits that are not numbers.
    """
    if uniform_R is None:
        return logits_RV.argmax(-1)
    logits_RV = logits_RV.float() / temperature
    vocabulary = logits_RV.shape[-1]
    ids_RK = None
    if 0 < top_k < vocabulary or top_p < 1:
        logits_RV, ids_RK = _likeliest(logits_RV, min(top_k or vocabulary, vocabulary), top_p)
    mass_RV = logits_RV.softmax(-1).cumsum(-1)
    # The first token whose cumulative mass exceeds the drawn one has a probability above 0.
    place_R1 = torch.searchsorted(mass_RV, uniform_R[:, None] * mass_RV[:, -1:], right=True)
    if ids_RK is None:
        return place_R1[:, 0]
    failed = place_R1 >= mass_RV.shape[-1]
    return ids_RK.gather(1, place_R1.masked_fill(failed, 0)).masked_fill(failed, vocabulary)[:, 0]


def _likeliest(logits_RV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Logits and ids [R, K] of the `top_k` likeliest tokens, best first; logits outside their nucleus are -inf."""
    if top_p >= 1:
        best = logits_RV.topk(top_k)
        return best.values, best.indices
    # The nucleus is nearly always small and sorting a vocabulary is slow, so the search widens step by step. On an accelerator it is
    # the look at the result that is slow.
    total_R1 = (logits_RV.topk(top_k).values if top_k < logits_RV.shape[-1] else logits_RV).logsumexp(-1, keepdim=True)
    width = min(128, top_k) if logits_RV.device.type == "cpu" else top_k
    while True:
        best = logits_RV.topk(width)
        mass_RK = (best.values - total_R1).exp()
        before_RK = mass_RK.cumsum(-1) - mass_RK
        if width == top_k or bool((before_RK[:, -1] >= top_p).all()):
            return best.values.masked_fill(before_RK >= top_p, -torch.inf), best.indices
        width = min(width * 16, top_k)


def pad(prompts: Sequence[Sequence[int]], pad_id: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [R, S], padded on the left (for causal models) or on the right."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if left else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)


def last_position(config: PretrainedConfig) -> int:
    """The last position that a causal model has an embedding for."""
    return int(getattr(config, "max_position_embeddings", None) or 2**31) - 1


def first_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Logits [prompts, V] of the first new tokens of a causal model, from one batch."""
    return Rows(model, "causal", prompts, pad_id).read(None)


class Rows:
    """A batch of sequences with their caches, which are read and extended together.

    Whatever a row attends to in its own sequence ends in the last column T. A shorter row has padding before it, which the mask hides:
    rotary and learned positions are counted without it, and T5's relative ones are distances, which do not change.
    """

    def __init__(self, model: PreTrainedModel, kind: ModelKind, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        self.model: Any = model
        self.kind = kind
        self.ids_RS, self.mask_RS = pad(prompts, pad_id, left=kind == "causal", device=self.model.device)
        # What a row attends to in its own sequence: prompt and text, or the text alone behind an encoder.
        self.mask_RT = self.mask_RS if kind == "causal" else self.mask_RS[:, :0]
        self.of_equal_length = kind == "seq2seq"
        self.last_position = last_position(self.model.config)
        # The config names the layers with a sliding window.
        own = DynamicCache() if kind == "seq2seq" else DynamicCache(config=self.model.config)
        self.cache: Any = EncoderDecoderCache(own, DynamicCache()) if kind == "seq2seq" else own

    def read(self, start_id: int | None) -> Tensor:
        """Read the prompts; logits [prompts, V] of the first new token."""
        if self.kind == "seq2seq":
            encoder = self.model.get_encoder()
            self.encoded = encoder(input_ids=self.ids_RS, attention_mask=self.mask_RS).last_hidden_state
            assert start_id is not None
            return self.extend(torch.full((len(self.ids_RS),), start_id, device=self.ids_RS.device))
        positions_RS = (self.mask_RT.cumsum(-1) - 1).clamp(min=0)
        self.next_R = positions_RS[:, -1] + 1
        return self._call(input_ids=self.ids_RS, position_ids=positions_RS, attention_mask=self.mask_RT)

    def extend(self, tokens_R: Tensor) -> Tensor:
        """Append a token to each row; logits [R, V] of the next token."""
        self.mask_RT = torch.cat([self.mask_RT, self.mask_RT.new_ones(len(tokens_R), 1)], dim=1)
        if self.kind == "seq2seq":
            return self._call(
                encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
                attention_mask=self.mask_RS,
                decoder_input_ids=tokens_R[:, None],
                decoder_attention_mask=None if self.of_equal_length else self.mask_RT,
            )
        # A row that has ended may stay in the batch beyond the model's positions.
        positions_R1, self.next_R = self.next_R[:, None], (self.next_R + 1).clamp(max=self.last_position)
        return self._call(input_ids=tokens_R[:, None], position_ids=positions_R1, attention_mask=self.mask_RT)

    def _call(self, **inputs: Any) -> Tensor:
        if self.kind == "causal":
            inputs["logits_to_keep"] = 1
        output = self.model(**inputs, past_key_values=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, index: Tensor) -> None:
        self._each(lambda rows: rows[index])
        self.cache.batch_select_indices(index)

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.mask_RT = change(self.mask_RT)
        if self.kind == "seq2seq":
            self.mask_RS, self.encoded = change(self.mask_RS), change(self.encoded)
        else:
            self.next_R = change(self.next_R)

    def join(self, other: Rows) -> None:
        """Add the rows of another batch, which has been read, too. Its rows come last."""
        self._trim()
        other._trim()
        self.mask_RT = _stack(self.mask_RT, other.mask_RT, 1, left=True)
        own, more = self.cache, other.cache
        if self.kind == "seq2seq":
            self.of_equal_length = False
            self.mask_RS = _stack(self.mask_RS, other.mask_RS, 1, left=False)
            self.encoded = _stack(self.encoded, other.encoded, 1, left=False)
            _join_layers(own.cross_attention_cache, more.cross_attention_cache, left=False)
            own, more = own.self_attention_cache, more.self_attention_cache
        else:
            self.next_R = torch.cat([self.next_R, other.next_R])
        _join_layers(own, more, left=True)

    def _trim(self) -> None:
        """Remove the columns that only rows needed which have left."""
        length = int(self.mask_RT.sum(-1).max())
        self.mask_RT = self.mask_RT[:, -length:]
        own = self.cache
        if self.kind == "seq2seq":
            source = int(self.mask_RS.sum(-1).max())
            self.mask_RS, self.encoded = self.mask_RS[:, :source], self.encoded[:, :source]
            for layer in own.cross_attention_cache.layers:
                layer.keys, layer.values = layer.keys[..., :source, :], layer.values[..., :source, :]
            own = own.self_attention_cache
        for layer in own.layers:
            layer.keys, layer.values = layer.keys[..., -length:, :], layer.values[..., -length:, :]
            if layer.is_sliding:
                layer.cumulative_length = length


def _join_layers(cache: DynamicCache, other: DynamicCache, *, left: bool) -> None:
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys = _stack(layer.keys, more.keys, -2, left=left)
        layer.values = _stack(layer.values, more.values, -2, left=left)
        if layer.is_sliding:
            layer.cumulative_length = max(layer.cumulative_length, more.cumulative_length)


def _stack(first: Tensor, second: Tensor, dim: int, *, left: bool) -> Tensor:
    """Two batches one below the other; the narrower one is padded with zeros along `dim`."""
    width = max(first.shape[dim], second.shape[dim])
    padded = []
    for rows in (first, second):
        shape = list(rows.shape)
        shape[dim] = width - rows.shape[dim]
        parts = [rows.new_zeros(shape), rows]
        padded.append(torch.cat(parts if left else parts[::-1], dim))
    return torch.cat(padded)
