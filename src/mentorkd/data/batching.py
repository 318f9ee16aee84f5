"""From rows to batches: length-grouped batch plans, and collation.

A batch plan lists every micro-batch of a training, epoch after epoch. It is a pure function of lengths and seed: to resume is to
skip, to share among processes is to stride, and no sampler has a state.

Labels are aligned with hidden states for both kinds of model: `labels[b, t]` is the token that the hidden state at (b, t) must
predict, or IGNORE_INDEX. The shift of causal models is made here, once; losses do not shift.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import TypeAlias

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mentorkd.data.encoding import Example
from mentorkd.models import decoder_start_id, has_own_decoder
from mentorkd.records import ModelKind

IGNORE_INDEX = -100
"""Label of a position that is not a target: padding, prompt."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Every micro-batch of a training as row numbers."""

    batches: list[list[int]]
    epoch_ends: list[int]
    """Number of micro-batches up to the end of each epoch; beyond the plan if the last epoch is cut."""


Sides: TypeAlias = tuple[int, ...]
"""Tokens of each side of a row that is padded separately (`Example.padded_sides`)."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows that must share a batch, and the largest length of each of their sides."""

    rows: tuple[int, ...]
    sides: Sides


def _units(
    sides: Sequence[Sides], groups: Sequence[str | None] | None = None, rng: random.Random | None = None
) -> list[_Unit]:
    """Rows of one group in pairs that `rng` draws. A row left over is alone, and so is a row without a group."""
    members: defaultdict[str | int, list[int]] = defaultdict(list)
    for row in range(len(sides)):
        group = groups[row] if groups else None
        members[row if group is None else group].append(row)
    units = []
    for rows in members.values():
        if rng is not None and len(rows) > 1:
            rng.shuffle(rows)
        pairs = [tuple(rows[start : start + 2]) for start in range(0, len(rows), 2)]
        units += [_Unit(pair, tuple(map(max, sides[pair[0]], sides[pair[-1]]))) for pair in pairs]
    return units


def _pack(order: Sequence[_Unit], rows: int | None, tokens: int | None) -> list[list[_Unit]]:
    """Cut `order` into batches of `rows` rows, or of at most `tokens` tokens, padded to the longest sides in the batch."""
    batches: list[list[_Unit]] = []
    current: list[_Unit] = []
    size, longest = 0, order[0].sides if order else ()
    for unit in order:
        longest, size = tuple(map(max, longest, unit.sides)), size + len(unit.rows)
        full = size > (rows or 0) if tokens is None else size * sum(longest) > tokens
        if current and full:
            batches.append(current)
            current, longest, size = [], unit.sides, len(unit.rows)
        current.append(unit)
    if current:
        batches.append(current)
    return batches


GROUP_BATCHES, MANY_BATCHES = 3, 50
"""Rows with two sides are sorted by target; if there are many batches, each group of about three is then sorted by source. Among
groups of 1 to 8 batches, three need the least padding: 7 % on all rows of SVAMP, against 22 % for sorting by the sum."""


def _alike(order: Sequence[_Unit], rows: int | None, tokens: int | None) -> list[_Unit]:
    """`order` sorted so that neighbours have about the same length on every side, shortest first."""
    by_target = sorted(order, key=lambda unit: unit.sides[-1])
    if len(order[0].sides) == 1 or len(_pack(by_target, rows, tokens)) < MANY_BATCHES:
        return by_target
    groups = _pack(by_target, rows and rows * GROUP_BATCHES, tokens and tokens * GROUP_BATCHES)
    # Ascending in one group and descending in the next, so that a batch across two groups has no extremes.
    for number, group in enumerate(groups):
        group.sort(key=lambda unit: unit.sides[0], reverse=bool(number % 2))
    return list(chain(*groups))


def _rows_of(batch: Sequence[_Unit]) -> list[int]:
    return [row for unit in batch for row in unit.rows]


def plan_batches(
    sides: Sequence[Sides],
    *,
    seed: int,
    epochs: int | None = None,
    batches: int | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    groups: Sequence[str | None] | None = None,
    window: int = 1,
) -> BatchPlan:
    """Plan random micro-batches, length-grouped within windows, for whole epochs or for a number of micro-batches.

    Args:
        sides: tokens of each row.
        seed: the plan is a pure function of its arguments, and a shorter plan is the beginning of a longer one.
        epochs: passes over the rows, or
        batches: number of micro-batches; rows are cycled, shuffled again in every epoch, and the last epoch is cut.
        batch_size: rows a micro-batch, or
        tokens_per_batch: padded tokens a micro-batch (a longer row, or pair, is alone in its micro-batch).
        groups: rows of one group share a micro-batch in pairs of neighbours, which are drawn again in every epoch.
        window: number of micro-batches whose rows are drawn at random and then sorted by length. Windows follow one another
            from the first micro-batch. If the window is the update, the rows of an update are a random sample (only about so
            with `tokens_per_batch`, since sorting makes fewer micro-batches of the same rows).
    """
    if (batch_size is None) == (tokens_per_batch is None):
        raise ValueError("give exactly one of batch_size and tokens_per_batch")
    if (epochs is None) == (batches is None):
        raise ValueError("give exactly one of epochs and batches")
    if batches and not sides:
        raise ValueError("no rows to make batches of")
    planned: list[list[int]] = []
    ends: list[int] = []
    mean = max(1.0, sum(map(sum, sides)) / max(1, len(sides)))
    rows_a_batch = batch_size or max(1, round((tokens_per_batch or 0) / mean))
    for epoch in count():
        if len(ends) == epochs or (batches is not None and len(planned) >= batches):
            break
        rng = random.Random(f"{seed}/{epoch}")
        order = _units(sides, groups, rng)
        rng.shuffle(order)
        # The first rows of an epoch fill the window that the last epoch left open.
        missing = window - len(planned) % window
        for part in _parts(order, missing * rows_a_batch, window * rows_a_batch):
            packed = _pack(_alike(part, batch_size, tokens_per_batch), batch_size, tokens_per_batch)
            rng.shuffle(packed)
            planned += map(_rows_of, packed)
        ends.append(len(planned))
    return BatchPlan(planned[:batches], ends)


def _parts(order: Sequence[_Unit], first: int, size: int) -> Iterator[list[_Unit]]:
    """`order` cut after `first` rows, and then after every `size` rows."""
    part: list[_Unit] = []
    room = first
    for unit in order:
        if part and len(unit.rows) > room:
            yield part
            part, room = [], size
        part.append(unit)
        room -= len(unit.rows)
    if part:
        yield part


def sorted_batches(sides: Sequence[Sides], *, tokens_per_batch: int) -> list[list[int]]:
    """Batches for inference, the longest first: a batch that is too large for the memory fails at once."""
    order = _alike(_units(sides), None, tokens_per_batch)[::-1] if sides else []
    return [_rows_of(batch) for batch in _pack(order, None, tokens_per_batch)]


MULTIPLE = 8


@dataclass(frozen=True)
class Collator:
    """Pads a micro-batch of rows to its longest row, rounded up to a `multiple`.

    Returns a dict of tensors: `input_ids`, `attention_mask`, `labels` and, for encoder-decoder models, `decoder_input_ids`,
    all [rows, tokens], padded on the right. A decoder is causal, so no target position attends to the padding after it, and most
    need no mask. With `masks_decoder` there is a `decoder_attention_mask`, for decoders that would guess one from the ids.
    """

    kind: ModelKind
    pad_token_id: int
    decoder_start_token_id: int | None = None
    multiple: int = 1
    masks_decoder: bool = False

    @classmethod
    def for_model(cls, kind: ModelKind, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Collator:
        start = decoder_start_id(config) if kind == "seq2seq" else None
        assert tokenizer.pad_token_id is not None, "load_tokenizer sets one"
        # Multiples of 8 give fewer different shapes, for each of which libraries keep code (a quarter of a small model's memory
        # on a CPU), and suit tensor cores. Not with learned positions that a rounded-up row could exceed.
        positions = getattr(config, "max_position_embeddings", None) or MULTIPLE
        multiple = 1 if positions % MULTIPLE else MULTIPLE
        return cls(kind, tokenizer.pad_token_id, start, multiple, masks_decoder=has_own_decoder(config))

    def __call__(self, rows: Sequence[Example]) -> dict[str, torch.Tensor]:
        if self.kind == "seq2seq":
            assert self.decoder_start_token_id is not None
            sources = [row.source_ids for row in rows]
            mask = self._pad([[1] * len(row.target_ids) for row in rows], 0)
            return {
                "input_ids": self._pad(sources, self.pad_token_id),
                "attention_mask": self._pad([[1] * len(ids) for ids in sources], 0),
                "decoder_input_ids": self._pad(
                    [[self.decoder_start_token_id, *row.target_ids[:-1]] for row in rows], self.pad_token_id
                ),
                "labels": self._pad([row.target_ids for row in rows], IGNORE_INDEX),
                **({"decoder_attention_mask": mask} if self.masks_decoder else {}),
            }
        # The last target token is predicted but never read.
        inputs = [[*row.source_ids, *row.target_ids[:-1]] for row in rows]
        labels = [[*[IGNORE_INDEX] * (len(row.source_ids) - 1), *row.target_ids] for row in rows]
        return {
            "input_ids": self._pad(inputs, self.pad_token_id),
            "attention_mask": self._pad([[1] * len(ids) for ids in inputs], 0),
            "labels": self._pad(labels, IGNORE_INDEX),
        }

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        width = -(-max(map(len, rows)) // self.multiple) * self.multiple
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
