"""Our own decoding loop: rows join a running batch and leave it at any token, each with its own settings.

It writes a list of prompts as well as the texts of clients who wait. The tokens stay on the device: the host reads them every few steps,
ends rows, cuts what they wrote behind their end, and lets others join. So a row gets the tokens that it would get alone.

Legend: R rows, V vocabulary, P prompts, L rows whose log-probabilities are wanted, K likeliest tokens, D draws.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation.decoding import Rows, choose
from mentorkd.generation.static import StaticRows
from mentorkd.records import ModelKind

log = logging.getLogger(__name__)

_DRAWS = 64
"""Random numbers that the rows of a batch draw at a time."""

LEAVE_SHARE, LEAVE_SHARE_GRAPH = 8, 2
"""Finished rows are removed once they exceed one row in LEAVE_SHARE, because removing rows copies the caches. Where a step is a graph, half
of the rows must have finished: a smaller batch has another graph."""

_DAMAGED = "the model's logits are not numbers: the weights are damaged, or the dtype is too narrow"


@dataclass(frozen=True, slots=True)
class Loop:
    """How the loop runs. The texts are the same in all ways."""

    static: bool = False
    """Caches of fixed shapes; on CUDA, a step is then captured as a graph."""
    refill: bool = False
    """Rows that have ended are replaced by those that wait; else a batch ends before the next one begins."""
    look_every: int = 1
    """Steps from one look of the host at the tokens to the next. A look waits for the device."""

    @classmethod
    def on(cls, device: torch.device) -> Loop:
        """What is fastest on a device (docs/results/generation.md)."""
        return cls(static=True, refill=True, look_every=16) if device.type == "cuda" else cls()


class Row(Protocol):
    """A text that the loop writes after a prompt."""

    prompt_ids: Sequence[int]

    @property
    def settings(self) -> tuple[float, float, int]:
        """Temperature (0 is greedy), top_p and top_k."""
        ...

    @property
    def own_seed(self) -> int | None:
        """The seed of its draws; None draws at random."""
        ...

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell at each place; None leaves out all log-probabilities."""
        ...

    @property
    def remaining(self) -> int:
        """Tokens that it may still write."""
        ...

    def push(self, token: int, logprob: float | None = None, likeliest: Sequence[tuple[int, float]] = ()) -> bool:
        """Take the next token; whether the row ends with it."""
        ...

    def fail(self, error: MentorkdError) -> None: ...


@torch.inference_mode()
def write_rows(
    model: PreTrainedModel,
    kind: ModelKind,
    take: Callable[[int], Sequence[Row]],
    *,
    start_id: int | None,
    pad_id: int,
    loop: Loop,
) -> None:
    """Write the rows that `take` gives, until it has no more.

    `take` gets the number of rows that are being written, and gives those that join them.
    """
    batch = _Batch(model, kind, start_id, pad_id, loop)
    while True:
        if joining := take(batch.live):
            batch.join(joining)
        elif not batch.live:
            return
        else:
            batch.thin_out()
        batch.advance()


class _Member:
    """A row in the batch. One that has ended stays until another takes its place, or the caches are next copied."""

    def __init__(self, row: Row) -> None:
        self.row, self.ended = row, False
        self.is_drawn = row.settings[0] > 0
        self._generator = torch.Generator()
        if row.own_seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(row.own_seed)

    def draw(self, count: int) -> Tensor:
        """Its next uniform numbers in [0, 1)."""
        return torch.rand(count, generator=self._generator) if self.is_drawn else torch.zeros(count)

    def push(self, token: int, vocabulary: int, *scores: Any) -> None:
        if token < vocabulary:
            self.ended = self.row.push(token, *scores)
        else:
            self.ended = True
            self.row.fail(ModelError(_DAMAGED))


class _Batch:
    """The rows that are being written, their caches, and their last tokens.

    A step changes tensors in place and the shapes of none, so that it can be captured.
    """

    def __init__(self, model: PreTrainedModel, kind: ModelKind, start_id: int | None, pad_id: int, loop: Loop) -> None:
        self._model, self._kind, self._start_id, self._pad_id, self._loop = model, kind, start_id, pad_id, loop
        self._members: list[_Member] = []
        self._caches: Any = None  # Rows, or StaticRows
        self._tokens_R: Tensor
        self._uniforms_RD: Tensor
        self._written_RD: Tensor
        self._place = torch.zeros(1, dtype=torch.long, device=model.device)  # in D, on the device
        self._drawn = 0  # the same on the host
        self._step = _Step()

    @property
    def live(self) -> int:
        """The rows that have not ended."""
        return sum(not member.ended for member in self._members)

    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of rows, equal ones once, add the rows, and tell their first tokens."""
        if not self.live:
            self._members, self._caches = [], None
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(tuple(row.prompt_ids) for row in rows))}
        caches = Rows(self._model, self._kind, list(numbers), self._pad_id)
        logits_PV = caches.read(self._start_id)
        # All rows of a prompt have the same first logits, so it is read once and then the caches are copied.
        places = [numbers[tuple(row.prompt_ids)] for row in rows]
        if places != list(range(len(numbers))):
            index = torch.tensor(places, device=logits_PV.device)
            caches.keep(index)
            logits_PV = logits_PV[index]
        members = [_Member(row) for row in rows]
        uniforms_R1 = torch.stack([member.draw(1) for member in members]).to(logits_PV.device)
        tokens_R = _choose(logits_PV, uniforms_R1[:, 0], _alike(members))
        self._push(members, tokens_R[:, None], logits_PV)
        tokens_R = tokens_R.masked_fill(tokens_R >= logits_PV.shape[-1], 0)
        if not self._members:
            self._begin(members, caches, tokens_R)
        elif self._loop.static:
            self._replace(members, caches, tokens_R)
        else:
            self._append(members, caches, tokens_R)
        self._groups = _alike(self._members)

    def _begin(self, members: list[_Member], caches: Rows, tokens_R: Tensor) -> None:
        if self._loop.static:
            self._caches = StaticRows(caches, self._lengths(members), columns=self._loop.look_every)
        else:
            self._caches = caches
        self._members, self._tokens_R, self._uniforms_RD = members, tokens_R, self._first_draws(members)
        self._written_RD = torch.zeros_like(self._uniforms_RD, dtype=torch.long)
        self._step.forget()

    def _append(self, members: list[_Member], caches: Rows, tokens_R: Tensor) -> None:
        """Add the rows behind those that have not ended."""
        self._remove_ended()
        self._caches.join(caches)
        self._members += members
        self._tokens_R = torch.cat([self._tokens_R, tokens_R])
        self._uniforms_RD = torch.cat([self._uniforms_RD, self._first_draws(members)])
        self._written_RD = torch.zeros_like(self._uniforms_RD, dtype=torch.long)

    def _replace(self, members: list[_Member], caches: Rows, tokens_R: Tensor) -> None:
        """Put the rows in the slots of those that have ended."""
        slots = [slot for slot, member in enumerate(self._members) if member.ended][: len(members)]
        self._caches.put(caches, self._lengths(members), slots)
        index = torch.tensor(slots, device=tokens_R.device)
        self._tokens_R[index], self._uniforms_RD[index] = tokens_R, self._first_draws(members)
        for slot, member in zip(slots, members, strict=True):
            self._members[slot] = member

    def _first_draws(self, members: Sequence[_Member]) -> Tensor:
        """The draws [R, D] of rows that join, for the places from that of the batch on."""
        drawn_RD = torch.zeros(len(members), _DRAWS)
        for row, member in enumerate(members):
            drawn_RD[row, self._drawn :] = member.draw(_DRAWS - self._drawn)
        return drawn_RD.to(self._place.device)

    def _lengths(self, members: Sequence[_Member]) -> list[int]:
        """The tokens of rows that join in their own sequences: behind an encoder, that is the start token alone."""
        return [1 if self._kind == "seq2seq" else len(member.row.prompt_ids) for member in members]

    def advance(self) -> None:
        """Write tokens up to the next look, and tell them."""
        live = [place for place, member in enumerate(self._members) if not member.ended]
        if not live:
            return
        if self._drawn == _DRAWS:
            self._draw_more()
        rows = [self._members[place].row for place in live]
        is_scored = any(row.likeliest is not None for row in rows)
        steps = 1 if is_scored else min(self._loop.look_every, _DRAWS - self._drawn, max(row.remaining for row in rows))
        if self._loop.static:
            self._caches.reserve(steps, live)
        begin, shape = self._drawn, self._shape()
        for _ in range(steps):
            logits_RV = self._step(self._extend, shape)
        self._drawn += steps
        if self._loop.static:
            self._caches.length += steps
        self._push(self._members, self._written_RD[:, begin : self._drawn], logits_RV)

    def _extend(self) -> Tensor:
        """Read the last tokens and choose the next ones, on the device alone; the logits [R, V]."""
        logits_RV: Tensor = self._caches.extend(self._tokens_R)
        uniform_R = self._uniforms_RD.index_select(1, self._place)[:, 0]
        tokens_R = _choose(logits_RV, uniform_R, self._groups)
        self._written_RD[:, self._place] = tokens_R[:, None]
        # A row with logits that are not numbers is found at the next look. Until then it reads the token 0.
        self._tokens_R.copy_(tokens_R.masked_fill(tokens_R >= logits_RV.shape[-1], 0))
        self._place.add_(1)
        return logits_RV

    def _shape(self) -> object:
        """What a captured step depends on; None where no step can be captured."""
        is_captured = self._loop.static and self._place.is_cuda and len(self._groups) == 1
        return (self._caches.shape, self._groups[0][0]) if is_captured else None

    def _draw_more(self) -> None:
        self._uniforms_RD.copy_(torch.stack([member.draw(_DRAWS) for member in self._members]))
        self._place.zero_()
        self._drawn = 0

    def _push(self, members: Sequence[_Member], tokens_RD: Tensor, last_RV: Tensor) -> None:
        """Give rows their tokens up to their ends, with the log-probabilities by the logits of the last ones."""
        wanted = [None if member.ended else member.row.likeliest for member in members]
        scores = score(last_RV, tokens_RD[:, -1], wanted)
        for place, (member, tokens) in enumerate(zip(members, tokens_RD.tolist(), strict=True)):
            for token in tokens:
                if member.ended:
                    break
                member.push(token, last_RV.shape[-1], *scores.get(place, (None, ())))

    def thin_out(self) -> None:
        """Remove rows that have ended, where they are many and no others take their places."""
        share = LEAVE_SHARE_GRAPH if self._loop.static and self._place.is_cuda else LEAVE_SHARE
        if (len(self._members) - self.live) * share > len(self._members):
            self._remove_ended()

    def _remove_ended(self) -> None:
        keep = [place for place, member in enumerate(self._members) if not member.ended]
        if 0 < len(keep) < len(self._members):
            index = torch.tensor(keep, device=self._place.device)
            self._caches.keep(index)
            self._tokens_R, self._uniforms_RD = self._tokens_R[index], self._uniforms_RD[index]
            self._written_RD = self._written_RD[index]
        self._members = [self._members[place] for place in keep]
        self._groups = _alike(self._members)


class _Step:
    """A step of the loop, as a CUDA graph from its second block on at the same shapes.

    A graph saves the host's time: a step launches hundreds of kernels, each of which takes the host longer than the device. The step is
    an argument and not kept: a batch that is part of a cycle would hold its caches until the garbage collector comes.
    """

    def __init__(self) -> None:
        self._shape: object = None
        self._graph: Any = None
        self._logits_RV: Tensor
        self._is_refused = False

    def __call__(self, extend: Callable[[], Tensor], shape: object) -> Tensor:
        """Run the step for a `shape` of its tensors; None runs it without a graph. The logits [R, V], until the next step."""
        if shape is None or self._is_refused:
            return extend()
        if shape != self._shape:
            # It runs once as it is: kernels choose their algorithms and workspaces at the first call of a shape.
            self._shape, self._graph = shape, None
            return extend()
        if self._graph is None and not self._capture(extend):
            return extend()
        self._graph.replay()
        return self._logits_RV

    def forget(self) -> None:
        """Drop the graph, whose tensors are no longer those of the batch."""
        self._shape = self._graph = None

    def _capture(self, extend: Callable[[], Tensor]) -> bool:
        """Record the step, which does not run it; whether that worked."""
        try:
            graph = torch.cuda.CUDAGraph()
            # A capture that fails leaves its own stream as the current one.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._logits_RV = extend()
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._is_refused = True
            _tell_refusal(str(error).strip().partition("\n")[0])
        return self._graph is not None


@cache
def _tell_refusal(reason: str) -> None:
    """Log, once a process, that steps cannot be captured."""
    log.warning("sampling runs without CUDA graphs, which is slower: a step cannot be captured (%s)", reason)


Groups = Sequence[tuple[tuple[float, float, int], list[int] | None]]
"""Settings, and the places of the rows that have them; None stands for all rows."""


def _alike(members: Sequence[_Member]) -> Groups:
    """Rows of equal settings, which are drawn together."""
    places: dict[tuple[float, float, int], list[int]] = {}
    for place, member in enumerate(members):
        places.setdefault(member.row.settings, []).append(place)
    return [(settings, alike if len(places) > 1 else None) for settings, alike in places.items()]


def _choose(logits_RV: Tensor, uniform_R: Tensor, groups: Groups) -> Tensor:
    """The next token of each row; the id V, which is not a token, marks a row with logits that are not numbers."""
    tokens_R = torch.empty(len(logits_RV), dtype=torch.long, device=logits_RV.device)
    for (temperature, top_p, top_k), places in groups:
        index = slice(None) if places is None else torch.tensor(places, device=logits_RV.device)
        drawn_R = uniform_R[index] if temperature else None
        tokens_R[index] = choose(logits_RV[index], drawn_R, temperature=temperature, top_p=top_p, top_k=top_k)
    vocabulary = logits_RV.shape[-1]
    own_R = logits_RV.gather(1, tokens_R.clamp(max=vocabulary - 1)[:, None])[:, 0]
    return tokens_R.masked_fill(~own_R.isfinite(), vocabulary)


def score(
    logits_RV: Tensor, tokens_R: Tensor, wanted: Sequence[int | None]
) -> dict[int, tuple[float, Sequence[tuple[int, float]]]]:
    """For each row that wants a number of the likeliest tokens: the log-probability of its token, and these tokens."""
    counts = {place: count for place, count in enumerate(wanted) if count is not None}
    if not counts:
        return {}
    index = torch.tensor(list(counts), device=logits_RV.device)
    log_probs_LV = logits_RV[index].float().log_softmax(-1)
    own_L = log_probs_LV.gather(1, tokens_R[index].clamp(max=logits_RV.shape[-1] - 1)[:, None])[:, 0].tolist()
    best = log_probs_LV.topk(max(counts.values()))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        place: (own, list(zip(ids[:count], values[:count], strict=True)))
        for (place, count), own, (ids, values) in zip(counts.items(), own_L, likeliest, strict=True)
    }
