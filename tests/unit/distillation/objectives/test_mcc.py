from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.mcc import answer_pairs, bidirectional_kl


def logs(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_a_number_worked_by_hand() -> None:
    """(1/2)[(1/2 - 1/4) ln((1/2)/(1/4)) + (1/2 - 3/4) ln((1/2)/(3/4))] = (1/8)(ln 2 + ln 3/2) = ln 3 / 8."""
    assert bidirectional_kl(logs(0.5, 0.5), logs(0.25, 0.75)).item() == pytest.approx(math.log(3) / 8)


def test_the_temperature_flattens_both_sides_and_is_not_squared() -> None:
    """At temperature 4, logits (0, ln 81) are the distribution (1/4, 3/4)."""
    sharp = torch.tensor([[0.0, math.log(81)]], dtype=torch.float64)
    assert bidirectional_kl(logs(0.5, 0.5), sharp, 4.0).item() == pytest.approx(math.log(3) / 8)


def test_the_loss_is_the_mean_of_both_divergences_summed_over_positions() -> None:
    make = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 11, generator=make, dtype=torch.float64) for _ in range(2))
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    both = [(log_p.exp() * (log_p - log_q)).sum(), (log_q.exp() * (log_q - log_p)).sum()]
    assert bidirectional_kl(p, q).item() == pytest.approx(sum(both).item() / 2)
    assert bidirectional_kl(q, p).item() == pytest.approx(bidirectional_kl(p, q).item())


def test_equal_sides_give_zero_and_no_gradient() -> None:
    p = torch.randn(4, 7, requires_grad=True)
    loss = bidirectional_kl(p, p.detach().clone())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert p.grad is not None
    assert p.grad.abs().max() < 1e-6


def test_the_gradient_reaches_both_sides() -> None:
    p, q = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: bidirectional_kl(a, b, 1.7), (p, q))
    bidirectional_kl(p, q).backward()
    for side in (p, q):
        assert side.grad is not None
        assert (side.grad.abs().sum(-1) > 0).all()


def test_impossible_tokens_and_no_positions_give_finite_numbers() -> None:
    p = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = bidirectional_kl(p, torch.tensor([[1.0, 0.0, -torch.inf]]))
    loss.backward()
    assert loss.isfinite()
    assert p.grad is not None
    assert p.grad.isfinite().all()
    assert bidirectional_kl(torch.empty(0, 3), torch.empty(0, 3)).item() == 0


def row(group: str | None, target: list[int], answer: tuple[int, int] | None) -> Example:
    return Example("r", [5], target, group, answer=answer)


def test_positions_of_pairs_are_counted_over_the_whole_batch() -> None:
    rows = [
        row("a", [9, 9, 7, 8, 1], (2, 4)),
        row("a", [7, 8, 1], (0, 2)),
        row("a", [9, 7, 8, 1], (1, 3)),  # the third of a question has no partner
        row("b", [3, 4, 1], (1, 2)),
        row("b", [4, 1], (0, 1)),
    ]
    first, second = answer_pairs(rows)
    assert first == [2, 3, 13]
    assert second == [5, 6, 15]


def test_pairs_do_not_depend_on_what_is_between_their_rows() -> None:
    """In parts of a micro-batch, the rows of a question follow one another; in the whole, others may be between them."""
    c, a, b, x = (
        row("a", [7, 1], (0, 1)),
        row("a", [7, 7, 1], (1, 2)),
        row("a", [7, 7, 7, 1], (2, 3)),
        row("x", [5], (0, 1)),
    )
    assert answer_pairs([c, a, b]) == ([0], [3])
    assert answer_pairs([c, x, a, b]) == ([0], [4])


@pytest.mark.parametrize(
    "other",
    [
        row("b", [9, 7, 1], (1, 2)),  # of another question
        row(None, [9, 7, 1], (1, 2)),
        row("a", [9, 7, 1], None),  # without an answer
        row("a", [9, 8, 1], (1, 2)),  # another answer
    ],
)
def test_rows_that_are_not_a_pair_are_not_compared(other: Example) -> None:
    for rows in ([row("a", [9, 7, 1], (1, 2)), other], [other, row("a", [9, 7, 1], (1, 2))], [other], []):
        assert [len(side) for side in answer_pairs(rows)] == [0, 0]
