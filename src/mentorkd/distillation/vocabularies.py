"""Student and mentor with one vocabulary and two end tokens: a base model beside a chat model of its family.

A chat model ends its texts with the end of a turn, a base model with the end of a text. The two columns change places in the
mentor's distributions, so the mentor's probability of its end is that of the student's end, and a distribution still sums to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mentorkd.errors import ModelError
from mentorkd.models.device import on_device

_SHOWN = 3


@dataclass(frozen=True)
class EndTokens:
    """The token ids with which a mentor and its student end a text."""

    mentor: int
    student: int

    @property
    def differ(self) -> bool:
        return self.mentor != self.student

    def columns(self, tensor: Tensor, dim: int) -> Tensor:
        """`tensor` with the columns of the two tokens exchanged along its vocabulary; itself if they are one token."""
        if not self.differ:
            return tensor
        order = torch.arange(tensor.shape[dim])
        order[[self.mentor, self.student]] = order[[self.student, self.mentor]]
        return tensor.index_select(dim, on_device(order, tensor.device))

    def ids(self, ids: Tensor) -> Tensor:
        """Token ids with the two tokens exchanged."""
        if not self.differ:
            return ids
        exchanged = torch.where(ids == self.mentor, self.student, ids)
        return torch.where(ids == self.student, self.mentor, exchanged)


def end_tokens(mentor: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> EndTokens:
    """The end tokens of two models whose vocabularies are one.

    Every id that either side can emit, its end and padding excepted, must be the same token on both sides: ModelError if not.
    """
    sides = {"mentor": _tokens(mentor), "student": _tokens(student)}
    emitted = {
        index
        for tokenizer, tokens in zip((mentor, student), sides.values(), strict=True)
        for index in tokens.keys() - {tokenizer.eos_token_id, tokenizer.pad_token_id}
    }
    different = sorted(index for index in emitted if sides["mentor"].get(index) != sides["student"].get(index))
    if different:
        shown = ", ".join(
            f"{index} is {sides['mentor'].get(index)!r} and {sides['student'].get(index)!r}"
            for index in different[:_SHOWN]
        )
        more = f" and {len(different) - _SHOWN:,} more" if len(different) > _SHOWN else ""
        raise ModelError(
            f"have different vocabularies ({shown}{more}), so their token distributions cannot be compared"
        )
    ends = mentor.eos_token_id, student.eos_token_id
    assert None not in ends, "load_tokenizer refuses tokenizers without an end token"
    return EndTokens(*ends)


def _tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}
