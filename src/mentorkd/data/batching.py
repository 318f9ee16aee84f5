"""From rows to batches: length-grouped batch plans, and collation.

A batch plan lists every micro-batch of a training, epoch after epoch. It is a pure function of lengths and seed: to resume is to
skip, to share among processes is to stride, and no sampler has a state.

Labels are aligned with hidden states for both kinds of model: `labels[b, t]` is the token that the hidden state at (b, t) must
predict, or IGNORE_INDEX. The shift of causal models is made here, once; losses do not shift.

The rows of a causal model can be packed: they are one sequence [1, tokens] without padding, whose `position_ids` begin at 0 in each
row. Models separate the rows by these alone, since there is no attention mask.
"""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mentorkd.data.encoding import Example
from mentorkd.data.padding import MULTIPLE, padded_width
from mentorkd.models import decoder_start_id, has_own_decoder
from mentorkd.models.device import on_device
from mentorkd.records import ModelKind

IGNORE_INDEX = -100
"""Label of a position that is not a target: padding, prompt."""


class Batches(Sequence[list[int]]):
    """Row numbers of batches, in two flat arrays: a plan of many epochs takes 4 bytes a row and epoch."""

    def __init__(self, batches: Iterable[Iterable[int]] = ()) -> None:
        self._rows, self._ends = array("i"), array("q", [0])
        for batch in batches:
            self.append(batch)

    def append(self, batch: Iterable[int]) -> None:
        self._rows.extend(batch)
        self._ends.append(len(self._rows))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> Batches: ...
    def __getitem__(self, index: int | slice) -> list[int] | Batches:
        if isinstance(index, slice):
            return Batches(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]
        return self._rows[self._ends[number] : self._ends[number + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Every micro-batch of a training as row numbers."""

    batches: Batches
    epoch_ends: list[int]
    """Number of micro-batches up to the end of each epoch; beyond the plan if the last epoch is cut."""


Array: TypeAlias = npt.NDArray[np.int32]

Sides: TypeAlias = Array | Sequence[tuple[int, ...]]
"""Tokens of each side of each row that is padded separately (`Example.padded_sides`): [rows, sides]."""


def sides_of(rows: Iterable[Example], kind: ModelKind) -> Array:
    """The sides of rows that may lie on the disk."""
    flat = array("i")
    for row in rows:
        flat.extend(row.padded_sides(kind))
    return np.frombuffer(flat, np.int32).reshape(-1, 2 if kind == "seq2seq" else 1)


@dataclass(frozen=True, slots=True)
class _Units:
    """Rows that must share a batch: one, or a pair."""

    rows_U2: Array
    """The second is -1 where there is one."""
    sides_US: Array
    """The largest length of each side."""
    sizes_U: Array
    """1 or 2 rows."""
    tokens_U: Array
    """Tokens without padding."""

    @classmethod
    def of(cls, rows_U2: Array, sides_NS: Array) -> _Units:
        first_U, second_U = rows_U2.T
        second_US = np.where(second_U[:, None] < 0, 0, sides_NS[second_U])
        sides_US, tokens_US = np.maximum(sides_NS[first_U], second_US), sides_NS[first_U] + second_US
        return cls(rows_U2, sides_US, (rows_U2 >= 0).sum(1, dtype=np.int32), tokens_US.sum(1, dtype=np.int32))

    def rows_of(self, batch_B: Array) -> list[int]:
        rows: list[int] = self.rows_U2[batch_B].ravel().tolist()
        return [row for row in rows if row >= 0]


def _grouped(groups: Sequence[str | None]) -> list[array[int]]:
    """The rows of each group in the order of their first; a row without a group is a group of its own."""
    members: defaultdict[str | int, array[int]] = defaultdict(lambda: array("i"))
    for row, group in enumerate(groups):
        members[row if group is None else group].append(row)
    return list(members.values())


def _units(sides_NS: Array, members: Iterable[array[int]] | None = None, rng: random.Random | None = None) -> _Units:
    """Rows of one group in pairs that `rng` draws. A row left over is alone, and so is every row without `members`."""
    if members is None:
        alone_N = np.full(len(sides_NS), -1, np.int32)
        return _Units.of(np.stack([np.arange(len(sides_NS), dtype=np.int32), alone_N], 1), sides_NS)
    flat = array("i")
    for rows in members:
        rows = rows[:]
        if rng is not None and len(rows) > 1:
            rng.shuffle(rows)
        flat.extend(rows)
        if len(rows) % 2:
            flat.append(-1)
    return _Units.of(np.frombuffer(flat, np.int32).reshape(-1, 2), sides_NS)


def _pack(order_U: Array, units: _Units, rows: int | None, tokens: int | None, *, padded: bool = True) -> list[Array]:
    """Cut `order_U` into batches of `rows` rows, or of at most `tokens` tokens, padded to the longest sides in the batch."""
    starts: list[int] = []
    size, own, longest = 0, 0, (0,) * units.sides_US.shape[1]
    for place, (more, more_own, *sides) in enumerate(zip(*_columns(order_U, units), strict=True)):
        longest, size, own = tuple(map(max, longest, sides)), size + more, own + more_own
        read = size * sum(longest) if padded else own
        full = size > (rows or 0) if tokens is None else read > tokens
        if full or not place:
            starts.append(place)
            longest, size, own = tuple(sides), more, more_own
    return [order_U[start:end] for start, end in pairwise([*starts, len(order_U)])]


def _columns(order_U: Array, units: _Units) -> list[memoryview]:
    """Sizes, tokens and sides of some units, to be read as whole numbers without a list of them."""
    return [column[order_U].data for column in (units.sizes_U, units.tokens_U, *units.sides_US.T)]


GROUP_BATCHES, MANY_BATCHES = 3, 50
"""Rows with two sides are sorted by target; if there are many batches, each group of about three is then sorted by source. Among
groups of 1 to 8 batches, three need the least padding: 7 % on all rows of SVAMP, against 22 % for sorting by the sum."""


def _alike(order_U: Array, units: _Units, rows: int | None, tokens: int | None) -> Array:
    """`order_U` sorted so that neighbours have about the same length on every side, shortest first."""
    by_target_U = order_U[np.argsort(units.sides_US[order_U, -1], kind="stable")]
    if units.sides_US.shape[1] == 1 or len(_pack(by_target_U, units, rows, tokens)) < MANY_BATCHES:
        return by_target_U
    groups = _pack(by_target_U, units, rows and rows * GROUP_BATCHES, tokens and tokens * GROUP_BATCHES)
    # Ascending in one group and descending in the next, so that a batch across two groups has no extremes.
    sources = [units.sides_US[group, 0] * (-1) ** number for number, group in enumerate(groups)]
    return np.concatenate([group[np.argsort(key, kind="stable")] for group, key in zip(groups, sources, strict=True)])


def plan_batches(
    sides: Sides,
    *,
    seed: int,
    epochs: int | None = None,
    batches: int | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    groups: Sequence[str | None] | None = None,
    window: int = 1,
    packed: bool = False,
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
        packed: the rows of a micro-batch are read without padding. They are drawn at random and not sorted, and tokens are counted
            without padding. Windows have no effect.
    """
    if (batch_size is None) == (tokens_per_batch is None):
        raise ValueError("give exactly one of batch_size and tokens_per_batch")
    if (epochs is None) == (batches is None):
        raise ValueError("give exactly one of epochs and batches")
    if batches and not len(sides):
        raise ValueError("no rows to make batches of")
    planned = Batches()
    ends: list[int] = []
    sides_NS = _as_array(sides)
    mean = max(1.0, int(sides_NS.sum()) / max(1, len(sides_NS)))
    rows_a_batch = batch_size or max(1, round((tokens_per_batch or 0) / mean))
    members = _grouped(groups) if groups and any(groups) else None
    for epoch in count():
        if len(ends) == epochs or (batches is not None and len(planned) >= batches):
            break
        rng = random.Random(f"{seed}/{epoch}")
        units = _units(sides_NS, members, rng)
        order = array("i", range(len(units.rows_U2)))
        rng.shuffle(order)
        order_U = np.frombuffer(order, np.int32)
        # The first rows of an epoch fill the window that the last epoch left open.
        missing = window - len(planned) % window
        parts = _parts(order_U, units, missing * rows_a_batch, window * rows_a_batch)
        for part in [order_U] if packed else parts:
            in_order = part if packed else _alike(part, units, batch_size, tokens_per_batch)
            cut = _pack(in_order, units, batch_size, tokens_per_batch, padded=not packed)
            rng.shuffle(cut)
            for batch in cut:
                planned.append(units.rows_of(batch))
        ends.append(len(planned))
    return BatchPlan(planned if batches is None else planned[:batches], ends)


def _as_array(sides: Sides) -> Array:
    return np.asarray(sides, np.int32) if len(sides) else np.zeros((0, 1), np.int32)


def _parts(order_U: Array, units: _Units, first: int, size: int) -> Iterator[Array]:
    """`order_U` cut after `first` rows, and then after every `size` rows."""
    start, room = 0, first
    for place, rows in enumerate(units.sizes_U[order_U].data):
        if place > start and rows > room:
            yield order_U[start:place]
            start, room = place, size
        room -= rows
    if len(order_U):
        yield order_U[start:]


def sorted_batches(sides: Sides, *, tokens_per_batch: int) -> Batches:
    """Batches for inference, the longest first: a batch that is too large for the memory fails at once."""
    units = _units(_as_array(sides))
    order_U = _alike(units.rows_U2[:, 0], units, None, tokens_per_batch)[::-1]
    return Batches(map(units.rows_of, _pack(order_U, units, None, tokens_per_batch)))


@dataclass(frozen=True)
class Collator:
    """Pads a micro-batch of rows to its longest row, rounded up (see `padded_width`).

    Returns a dict of tensors: `input_ids`, `attention_mask`, `labels` and, for encoder-decoder models, `decoder_input_ids`,
    all [rows, tokens], padded on the right. A decoder is causal, so no target position attends to the padding after it, and most
    need no mask. With `masks_decoder` there is a `decoder_attention_mask`, for decoders that would guess one from the ids.
    With `packed`, rows of causal models are packed: `input_ids`, `position_ids` and `labels`.
    """

    kind: ModelKind
    pad_token_id: int
    decoder_start_token_id: int | None = None
    multiple: int = 1
    masks_decoder: bool = False
    packed: bool = False

    @classmethod
    def for_model(cls, kind: ModelKind, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Collator:
        start = decoder_start_id(config) if kind == "seq2seq" else None
        assert tokenizer.pad_token_id is not None, "load_tokenizer sets one"
        # Rounded widths give fewer different shapes, for each of which libraries keep code, and multiples of 8 suit tensor cores.
        # Not with learned positions that a rounded-up row could exceed.
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
        if self.packed:
            positions = [range(len(ids)) for ids in inputs]
            return {"input_ids": _joined(inputs), "position_ids": _joined(positions), "labels": _joined(labels)}
        return {
            "input_ids": self._pad(inputs, self.pad_token_id),
            "attention_mask": self._pad([[1] * len(ids) for ids in inputs], 0),
            "labels": self._pad(labels, IGNORE_INDEX),
        }

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        width = padded_width(max(map(len, rows)), self.multiple)
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def _joined(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([[value for row in rows for value in row]], dtype=torch.long)


def take_rows(
    batch: Mapping[str, torch.Tensor], numbers: Sequence[int], lengths: Sequence[int]
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Some rows of a batch, padded or packed, in the order of their numbers, and how far each has moved up among its positions.

    `lengths`: the input tokens of all rows. A device's values are not looked at.
    """
    labels = batch["labels"]
    if "position_ids" not in batch or "attention_mask" in batch:  # padded
        rows = on_device(torch.tensor(numbers), labels.device)
        return {name: tensor[rows] for name, tensor in batch.items()}, [
            (number - new) * labels.shape[1] for new, number in enumerate(numbers)
        ]
    starts = [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    taken = [range(starts[number], starts[number] + lengths[number]) for number in numbers]
    tokens = on_device(torch.tensor([token for row in taken for token in row]), labels.device)
    new_starts = accumulate(map(len, taken), initial=0)
    moved = [row.start - new for row, new in zip(taken, new_starts, strict=False)]
    return {name: tensor[:, tokens] for name, tensor in batch.items()}, moved
