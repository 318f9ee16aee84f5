"""MCC-KD: a question's rationales must lead to the same answer distributions (Chen et al. 2023, arXiv 2310.14747).

    loss = CE of both rationales + alpha (KL(p || q) + KL(q || p)) / 2

p and q are the student's own distributions, at a temperature, at a token of the answer behind the one rationale and behind
the other. The paper has no tau^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from mentorkd.data.encoding import Encoded
from mentorkd.losses import RULED_OUT, in_full_precision

__all__ = ["answer_pairs", "bidirectional_kl"]


def bidirectional_kl(p_logits_NV: Tensor, q_logits_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2, summed over N pairs of positions; its gradient reaches both sides."""
    p_NV, q_NV = (
        F.log_softmax(in_full_precision(logits).clamp(min=RULED_OUT) / temperature, dim=-1)
        for logits in (p_logits_NV, q_logits_NV)
    )
    return ((p_NV.exp() - q_NV.exp()) * (p_NV - q_NV)).sum() / 2


def answer_pairs(rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """The answer's positions [n] in the first and in the second row of every pair, among the target positions of a batch.

    A pair is two neighbours of one group, as `plan_batches` lays them, whose answers are the same tokens.
    """
    starts = [0, *accumulate(len(row.target_ids) for row in rows)]
    positions: tuple[list[int], list[int]] = [], []
    number = 0
    while number + 1 < len(rows):
        if not _same_answer(rows[number], rows[number + 1]):
            number += 1
            continue
        for side, found in enumerate(positions):
            first, behind = rows[number + side].answer or (0, 0)
            found += range(starts[number + side] + first, starts[number + side] + behind)
        number += 2
    return torch.tensor(positions[0], dtype=torch.long), torch.tensor(positions[1], dtype=torch.long)


def _same_answer(one: Encoded, other: Encoded) -> bool:
    if one.group is None or one.group != other.group or one.answer is None or other.answer is None:
        return False
    return one.target_ids[slice(*one.answer)] == other.target_ids[slice(*other.answer)]
