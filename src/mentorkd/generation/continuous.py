"""Continuous batching with our own loop: rows join a running batch and leave it at any token, each with its own settings.

The forward passes and the choice of a token are those of `decoding`, so a row gets the tokens that `decode` would give it.

Legend: R rows, V vocabulary, L rows whose log-probabilities are wanted, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mentorkd.errors import ModelError
from mentorkd.generation.decoding import LEAVE_SHARE, Rows, choose
from mentorkd.generation.live import LiveRow, Scored, Take
from mentorkd.records import ModelKind

_DRAWS = 64
"""Random numbers that a row draws at a time."""


@torch.inference_mode()
def write_live(model: PreTrainedModel, kind: ModelKind, take: Take, *, start_id: int | None, pad_id: int) -> None:
    """Write rows until `take` has no more."""
    batch = _Batch(model, kind, start_id, pad_id)
    while True:
        if joining := take(batch.live):
            batch.join(joining)
        elif not batch.live:
            return
        batch.step()


@dataclass(eq=False, slots=True)
class _Member:
    """A row in the batch. One that has ended stays until the caches are next copied."""

    row: LiveRow
    draws: Iterator[float]
    ended: bool = False


class _Batch:
    """The rows that are being written, their caches, and the logits of their next tokens."""

    def __init__(self, model: PreTrainedModel, kind: ModelKind, start_id: int | None, pad_id: int) -> None:
        self._model, self._kind, self._start_id, self._pad_id = model, kind, start_id, pad_id
        self._members: list[_Member] = []
        self._caches: Rows
        self._logits_RV: Tensor

    @property
    def live(self) -> int:
        """The rows that have not ended."""
        return sum(not member.ended for member in self._members)

    def join(self, rows: Sequence[LiveRow]) -> None:
        """Read the prompts of rows, equal ones once, and add the rows."""
        self._remove_ended()
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(tuple(row.prompt_ids) for row in rows))}
        caches = Rows(self._model, self._kind, list(numbers), self._pad_id)
        logits_PV = caches.read(self._start_id)
        index = torch.tensor([numbers[tuple(row.prompt_ids)] for row in rows], device=logits_PV.device)
        caches.keep(index)
        if self._members:
            self._caches.join(caches)
            self._logits_RV = torch.cat([self._logits_RV, logits_PV[index]])
        else:
            self._caches, self._logits_RV = caches, logits_PV[index]
        self._members += [_Member(row, _draws(row)) for row in rows]

    def step(self) -> None:
        """Choose the next token of each row, tell it, and read it."""
        tokens_R = self._choose()
        self._fail_damaged(tokens_R)
        wanted = [None if member.ended else member.row.likeliest for member in self._members]
        scores = score(self._logits_RV, tokens_R, wanted)
        for place, (member, token) in enumerate(zip(self._members, tokens_R.tolist(), strict=True)):
            if not member.ended:
                member.ended = member.row.push(token, *scores.get(place, (None, ())))
        if self.live and (len(self._members) - self.live) * LEAVE_SHARE > len(self._members):
            tokens_R = tokens_R[self._remove_ended()]
        if self.live:
            self._logits_RV = self._caches.extend(tokens_R)

    def _choose(self) -> Tensor:
        """The next token of each row. Rows of equal settings are drawn together."""
        places: dict[tuple[float, float, int], list[int]] = {}
        for place, member in enumerate(self._members):
            places.setdefault(member.row.settings, []).append(place)
        device = self._logits_RV.device
        tokens_R = torch.empty(len(self._members), dtype=torch.long, device=device)
        for (temperature, top_p, top_k), alike in places.items():
            index = torch.tensor(alike, device=device)
            drawn = [next(self._members[place].draws) for place in alike] if temperature else None
            uniform_R = None if drawn is None else torch.tensor(drawn, device=device)
            logits_RV = self._logits_RV if len(places) == 1 else self._logits_RV[index]
            tokens_R[index] = choose(logits_RV, uniform_R, temperature=temperature, top_p=top_p, top_k=top_k)
        return tokens_R

    def _fail_damaged(self, tokens_R: Tensor) -> None:
        """End the rows whose logits are not numbers. They get the token 0, since the batch keeps them for a while."""
        own_R = self._logits_RV.gather(1, tokens_R.clamp(max=self._logits_RV.shape[-1] - 1)[:, None])[:, 0]
        damaged_R = (tokens_R >= self._logits_RV.shape[-1]) | ~own_R.isfinite()
        for place in damaged_R.nonzero()[:, 0].tolist():
            member, tokens_R[place] = self._members[place], 0
            if not member.ended:
                member.ended = True
                member.row.fail(
                    ModelError(
                        "the model's logits are not numbers: the weights are damaged, or the dtype is too narrow"
                    )
                )

    def _remove_ended(self) -> list[int]:
        """Remove the rows that have ended; the places that the others had."""
        keep = [place for place, member in enumerate(self._members) if not member.ended]
        if 0 < len(keep) < len(self._members):
            index = torch.tensor(keep, device=self._logits_RV.device)
            self._caches.keep(index)
            self._logits_RV = self._logits_RV[index]
        self._members = [self._members[place] for place in keep]
        return keep


def score(
    logits_RV: Tensor, tokens_R: Tensor, wanted: Sequence[int | None]
) -> dict[int, tuple[float, Sequence[Scored]]]:
    """For each row that wants a number of the likeliest tokens: the log-probability of its token, and these tokens."""
    counts = {place: count for place, count in enumerate(wanted) if count is not None}
    if not counts:
        return {}
    index = torch.tensor(list(counts), device=logits_RV.device)
    log_probs_LV = logits_RV[index].float().log_softmax(-1)
    own_L = log_probs_LV.gather(1, tokens_R[index][:, None])[:, 0].tolist()
    best = log_probs_LV.topk(max(counts.values()))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        place: (own, list(zip(ids[:count], values[:count], strict=True)))
        for (place, count), own, (ids, values) in zip(counts.items(), own_L, likeliest, strict=True)
    }


def _draws(row: LiveRow) -> Iterator[float]:
    """The uniform numbers in [0, 1) of a row's tokens: those of its seed, or new ones."""
    generator = torch.Generator()
    if row.own_seed is None:
        generator.seed()
    else:
        generator.manual_seed(row.own_seed)
    while True:
        yield from torch.rand(_DRAWS, generator=generator).tolist()
