"""A batch whose caches have fixed shapes, so that one decoding step can be captured as a CUDA graph and replayed.

Transformers' own static caches do not serve: their rows begin in one column, those of sliding windows count on the host, and the first
call builds them by a compiler's library.

Legend: R slots (one row each), C columns of capacity, S tokens of the longest source, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, StaticLayer
from transformers.modeling_outputs import BaseModelOutput

from mentorkd.generation.decoding import Rows

LEAST_CAPACITY = 64
"""Columns of the smallest capacity. Others are twice, four times, ... as many. Attention reads all columns; a graph has one capacity."""


def capacity_for(columns: int) -> int:
    """The smallest capacity that holds a number of columns."""
    return max(LEAST_CAPACITY, 1 << (columns - 1).bit_length())


class _Layer(StaticLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values [R, heads, C, width] of one layer. A token is written to the column that all layers share."""

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__(keys.shape[-2])
        self.keys, self.values, self.cumulative_length = keys, values, column
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self.cumulative_length.view(1), key_states)
        self.values.index_copy_(2, self.cumulative_length.view(1), value_states)
        return self.keys, self.values

    def get_seq_length(self) -> Tensor:  # older transformers count the columns that are not 0
        return self.cumulative_length


class StaticRows:
    """The rows of a batch in R slots. Row r has the columns from `starts_R[r]` to `column`, where all rows write their next token.

    A row that joins is put in the slot of one that has ended, so that it ends in the same column. `extend` works on the device alone and
    in place; the host counts the columns in `length`.
    """

    def __init__(self, read: Rows, lengths: Sequence[int], *, columns: int) -> None:
        """All rows of a batch that has been read, whose own sequences have `lengths`; with room for `columns` more tokens."""
        self.model, self.kind, self.last_position = read.model, read.kind, read.last_position
        self.length = read.mask_RT.shape[1]
        self.starts = [self.length - length for length in lengths]
        device = read.mask_RT.device
        self.starts_R = torch.tensor(self.starts, device=device)
        self.column = torch.tensor(self.length, device=device)
        self._columns_C = torch.arange(capacity_for(self.length + columns), device=device)
        own = read.cache.self_attention_cache if self.kind == "seq2seq" else read.cache
        self._layers = [_Layer(*self._widened(layer), self.column) for layer in own.layers]
        self.cache: Any = Cache(layers=list(self._layers))
        if self.kind == "seq2seq":
            self.mask_RS = read.mask_RS
            self._cross = read.cache.cross_attention_cache.layers
            self.cache = EncoderDecoderCache(self.cache, _cache_of(self._cross))
            self._encoded_11D = read.encoded[:1, :1].clone()

    @property
    def capacity(self) -> int:
        return len(self._columns_C)

    @property
    def shape(self) -> tuple[int, ...]:
        """What a captured step depends on."""
        return (len(self.starts), self.capacity, *(self.mask_RS.shape if self.kind == "seq2seq" else ()))

    def _widened(self, layer: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer that has been read, with zeros around them. One of a sliding window has only the last columns."""
        capacity = len(self._columns_C)
        states = []
        for state in (layer.keys, layer.values):
            wide = state.new_zeros(*state.shape[:2], capacity, state.shape[-1])
            wide[:, :, self.length - state.shape[-2] : self.length] = state
            states.append(wide)
        return states[0], states[1]

    def extend(self, tokens_R: Tensor) -> Tensor:
        """Append a token to each row; logits [R, V] of the next token. The host then adds 1 to `length`, once a step."""
        mask_RC = (self._columns_C >= self.starts_R[:, None]) & (self._columns_C <= self.column)
        if self.kind == "seq2seq":
            # Only the shape of the encoded sources is read, since their keys and values are cached.
            encoded_RSD = self._encoded_11D.expand(*self.mask_RS.shape, -1)
            inputs = {
                "encoder_outputs": BaseModelOutput(last_hidden_state=encoded_RSD),
                "attention_mask": self.mask_RS,
                "decoder_input_ids": tokens_R[:, None],
                "decoder_attention_mask": mask_RC,
            }
        else:
            positions_R = (self.column - self.starts_R).clamp(max=self.last_position)
            inputs = {"input_ids": tokens_R[:, None], "position_ids": positions_R[:, None], "attention_mask": mask_RC}
        logits: Tensor = self.model(**inputs, past_key_values=self.cache, use_cache=True).logits[:, -1]
        self.column.add_(1)
        return logits

    def reserve(self, columns: int, live: Sequence[int]) -> None:
        """Make room for `columns` more tokens: drop the columns that no live row needs, or else take a larger capacity."""
        if self.length + columns <= self.capacity:
            return
        unused = min(self.starts[slot] for slot in live)
        wanted = capacity_for(self.length - unused + columns)
        if unused and wanted <= self.capacity:
            self._shift(-unused)
        else:
            self._grow(capacity_for(self.length + columns))

    def put(self, read: Rows, lengths: Sequence[int], slots: Sequence[int]) -> None:
        """Put rows that have been read, whose own sequences have `lengths`, in the slots of rows that have ended."""
        width = read.mask_RT.shape[1]
        if (missing := width - self.length) > 0:
            if width > self.capacity:
                self._grow(capacity_for(width))
            self._shift(missing)
        for slot, length in zip(slots, lengths, strict=True):
            self.starts[slot] = self.length - length
        self.starts_R.copy_(torch.tensor(self.starts))
        index = torch.tensor(slots, device=self.starts_R.device)
        own = read.cache
        if self.kind == "seq2seq":
            self._put_sources(read, index)
            own = own.self_attention_cache
        for layer, more in zip(self._layers, own.layers, strict=True):
            for state, states in ((layer.keys, more.keys), (layer.values, more.values)):
                wide = states.new_zeros(len(slots), *state.shape[1:])
                wide[:, :, self.length - states.shape[-2] : self.length] = states
                state[index] = wide

    def _put_sources(self, read: Rows, index: Tensor) -> None:
        missing = read.mask_RS.shape[1] - self.mask_RS.shape[1]
        if missing > 0:
            self.mask_RS = torch.nn.functional.pad(self.mask_RS, (0, missing))
            for layer in self._cross:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, missing))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, 0, missing))
        self.mask_RS[index] = torch.nn.functional.pad(read.mask_RS, (0, max(-missing, 0)))
        for layer, more in zip(self._cross, read.cache.cross_attention_cache.layers, strict=True):
            layer.keys[index] = torch.nn.functional.pad(more.keys, (0, 0, 0, max(-missing, 0)))
            layer.values[index] = torch.nn.functional.pad(more.values, (0, 0, 0, max(-missing, 0)))

    def keep(self, index: Tensor) -> None:
        """Keep these slots alone, in copies of the caches."""
        self.starts = [self.starts[slot] for slot in index.tolist()]
        self.starts_R = self.starts_R[index]
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        if self.kind == "seq2seq":
            self.mask_RS = self.mask_RS[index]
            for layer in self._cross:
                layer.keys, layer.values = layer.keys[index], layer.values[index]

    def _shift(self, by: int) -> None:
        """Move all columns to the right, or to the left where `by` is negative."""
        begin = max(-by, 0)
        for layer in self._layers:
            for state in (layer.keys, layer.values):
                state[:, :, begin + by : self.length + by] = state[:, :, begin : self.length].clone()
        self.length += by
        self.starts = [max(start + by, 0) for start in self.starts]
        self.starts_R.copy_(torch.tensor(self.starts))
        self.column.fill_(self.length)

    def _grow(self, capacity: int) -> None:
        more = capacity - self.capacity
        self._columns_C = torch.arange(capacity, device=self.starts_R.device)
        for layer in self._layers:
            layer.max_cache_len = capacity
            layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, more))
            layer.values = torch.nn.functional.pad(layer.values, (0, 0, 0, more))


def _cache_of(layers: Sequence[Any]) -> Cache:
    """The caches of the sources, in tensors that are not extended."""
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache
