"""Chunks: pieces of a target text that two tokenizers both end with the end of a token (ALM, arXiv:2503.20083).

A token's right edge is the character of the original text after its last one. A chunk is the text between two consecutive edges
that both tokenizers have, so both give it a likelihood: the sum of the log-probabilities of their tokens in it. The end token is
a chunk of its own.

Where an edge is:
- Tokens that share a character belong together: the bytes of one character, T5's lone "▁" whose characters are those of the
  word after it. Their edge is that of the last.
- A letter and its combining marks belong together, since some vocabularies write both as one character.
- The last token of the text ends with the text, even where the vocabulary drops the last characters (T5 drops newlines).
- Tokens without characters before the text (BOS) belong to the first chunk.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mentorkd.data.encoding import TextEncoder, target_offsets

Offsets = Sequence[tuple[int, int]]
"""The characters that each token covers: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Number of tokens of each side in a chunk."""

    mentor_tokens: int
    student_tokens: int
    known: bool
    """Whether both vocabularies have the text: the likelihood of an unknown token is not that of the text it stands for."""


@dataclass(frozen=True, slots=True)
class TargetTokens:
    """A target text as the tokens of one model."""

    ids: list[int]
    edges: list[int]
    """The right edge of each token, never decreasing. That of the end token is one behind the text."""
    unknown: list[bool]


def right_edges(offsets: Offsets, text: str) -> list[int]:
    """The right edge of each token of a text; tokens that share a character have that of the last."""
    ends = list(accumulate((_behind_marks(end, text) for _, end in offsets), max))
    if ends:
        ends[-1] = len(text)
    first_after: float = math.inf  # of all characters that later tokens cover
    for n in range(len(ends) - 1, -1, -1):
        if ends[n] > first_after:
            ends[n] = ends[n + 1]
        start, end = offsets[n]
        if start < end:
            first_after = min(first_after, start)
    return ends


def _behind_marks(edge: int, text: str) -> int:
    """The edge, or the place behind the combining marks that follow it."""
    while edge < len(text) and unicodedata.combining(text[edge]):
        edge += 1
    return edge


def target_tokens(encoder: TextEncoder, text: str, *, ended: bool = True) -> TargetTokens:
    """The tokens of `encode_target`, with their right edges; those of an unfinished text have no end token.

    Raises ModelError for a tokenizer that does not know the characters of its tokens.
    """
    tokenizer, kind = encoder.tokenizer, encoder.kind
    ids, offsets = target_offsets(tokenizer, kind, text, "chunk likelihoods are aligned by them")
    end = tokenizer.eos_token_id
    if ids and ids[-1] == end:
        ids, offsets = ids[:-1], offsets[:-1]
    edges, unknown = right_edges(offsets, text), [token == tokenizer.unk_token_id for token in ids]
    if not ended:
        return TargetTokens(ids, edges, unknown)
    assert end is not None, "load_tokenizer refuses tokenizers without an end token"
    return TargetTokens([*ids, end], [*edges, len(text) + 1], [*unknown, False])


def align(mentor: TargetTokens, student: TargetTokens) -> list[Chunk]:
    """The chunks of one text in their order; every token of both sides is in exactly one.

    An unfinished text for which one side has no token at all is one chunk, in which that side has 0 tokens.
    """
    shared = sorted({*mentor.edges} & {*student.edges} - {0})
    if not shared and (mentor.ids or student.ids):
        shared = [max(mentor.edges + student.edges)]
    sides = zip(_until(mentor, shared), _until(student, shared), strict=True)
    return [Chunk(m, s, m_known and s_known) for (m, m_known), (s, s_known) in sides]


def _until(side: TargetTokens, shared: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """The side's tokens up to each shared edge, from the one before: their number, and whether all are known."""
    first = 0
    for edge in shared:
        after = first
        while after < len(side.edges) and side.edges[after] <= edge:
            after += 1
        yield after - first, not any(side.unknown[first:after])
        first = after


def chunks_of(mentor: TextEncoder, student: TextEncoder, text: str, *, ended: bool = True) -> list[Chunk]:
    """The chunks of a target text; without an end token if it is not `ended`. Raises ModelError as `target_tokens`."""
    return align(target_tokens(mentor, text, ended=ended), target_tokens(student, text, ended=ended))
