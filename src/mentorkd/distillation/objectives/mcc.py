"""MCC-KD: the rationales of a question must lead to equal answer distributions (Chen et al. 2023, arXiv 2310.14747).

    loss = CE of both rationales + alpha (KL(p || q) + KL(q || p)) / 2

p and q are the student's own distributions, at a temperature, for one token of the answer: p after the one rationale, q after
the other. The paper has no factor tau^2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor
from torch.nn import functional as F

from mentorkd.data.encoding import Example
from mentorkd.distillation.losses import RULED_OUT, in_full_precision
from mentorkd.distillation.objectives.base import CrossEntropy, Objective, Student, Sums


def bidirectional_kl(p_logits_NV: Tensor, q_logits_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2, summed over N pairs of positions; the gradient flows to both sides."""
    p_NV, q_NV = (
        F.log_softmax(in_full_precision(logits).clamp(min=RULED_OUT) / temperature, dim=-1)
        for logits in (p_logits_NV, q_logits_NV)
    )
    return ((p_NV.exp() - q_NV.exp()) * (p_NV - q_NV)).sum() / 2


def answer_pairs(rows: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Positions of the answer's tokens in the first and in the second row of every pair, among the target positions of a batch.

    A pair is a row and the next one of its group whose answer is the same tokens; what is between them does not matter, so that the
    pairs are the same however a micro-batch is read.
    """
    starts = accumulate((len(row.target_ids) for row in rows), initial=0)
    positions: tuple[list[int], list[int]] = [], []
    alone: dict[tuple[str | int, ...], range] = {}
    for start, row in zip(starts, rows, strict=False):
        if (key := _answer(row)) is None:
            continue
        first, end = row.answer or (0, 0)
        answer = range(start + first, start + end)
        if key not in alone:
            alone[key] = answer
            continue
        for side, of_side in zip(positions, (alone.pop(key), answer), strict=True):
            side += of_side
    return positions


def _answer(row: Example) -> tuple[str | int, ...] | None:
    """The group of a row and its answer's tokens, which are equal in a pair; None for a row without."""
    return None if row.group is None or row.answer is None else (row.group, *row.target_ids[slice(*row.answer)])


class Consistency(Objective):
    """MCC-KD: the `base` objective, plus `alpha` times the bidirectional KL between the answers after two rationales."""

    def __init__(self, alpha: float = 0.1, temperature: float = 1.0, base: Objective | None = None) -> None:
        self.alpha, self.temperature, self.base = alpha, temperature, base or CrossEntropy()
        self.mentors, self.layers, self.weights = self.base.mentors, self.base.layers, self.base.weights

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        return {**self.base.counts(rows), "answers": len(answer_pairs(rows)[0])}

    def missing_data(self, rows: Sequence[Example]) -> str | None:
        alike = Counter(answer for row in rows if (answer := _answer(row)) is not None)
        if max(alike.values(), default=0) < 2:
            return "no question has two rationales with the same answer, which MCC-KD needs"
        return self.base.missing_data(rows)

    def sums(self, student: Student) -> Sums:
        base = self.base.sums(student)
        first, second = map(student.logits, answer_pairs(student.rows))
        kl = bidirectional_kl(first, second, self.temperature)
        return Sums(
            {**base.loss, "answers": self.alpha * kl}, {**base.metrics, "consistency": ("answers", kl.detach())}
        )
