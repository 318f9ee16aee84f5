"""The oracle of these tests is written in loops over chunks, in float64, from whole logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mentorkd.distillation.chunk_losses import (
    MentorChunks,
    binary_divergence,
    chunk_distillation_loss,
    chunk_divergence,
    fused_label_log_probs,
    label_log_probs,
)
from mentorkd.distillation.losses import MentorLogits
from mentorkd.distillation.objectives.base import Student

TOKENS, VOCAB, WIDTH = 17, 37, 11
COUNTS = [3, 1, 5, 2, 2, 1, 3]
TEMPERATURES = [None, 1.0, 10.0, 100.0]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def chunks(dtype: torch.dtype = torch.float64) -> MentorChunks:
    log_probs = -torch.rand(len(COUNTS), dtype=dtype) * 8
    log_probs[2] = torch.nan
    return MentorChunks(log_probs, torch.tensor(COUNTS))


def oracle(logits: Tensor, labels: Tensor, mentor: MentorChunks, w: float, tau: float | None) -> Tensor:
    """Tokens of a chunk with a label have (1 - w) of their cross-entropy, and others all of it."""
    log_probs = [logits[n, labels[n]] - torch.logsumexp(logits[n], 0) for n in range(len(labels))]
    loss, first = torch.zeros((), dtype=logits.dtype), 0
    for a, count in zip(mentor.log_probs_C.tolist(), mentor.tokens_C.tolist(), strict=True):
        b = sum(log_probs[first : first + count])
        first += count
        loss = loss - b * (1 if math.isnan(a) else 1 - w)
        if math.isnan(a):
            continue
        if tau is None:
            loss = loss + w * (a - b - a * torch.log(torch.as_tensor(a) / b))
        else:
            p, q = math.exp(a / tau), torch.exp(b / tau)
            loss = loss + w * tau * (p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q)))
    return loss


class TestAgainstTheOracle:
    @pytest.mark.parametrize("chunk_tokens", [1, 5, 17, None])
    @pytest.mark.parametrize("tau", TEMPERATURES)
    @pytest.mark.parametrize("has_bias", [False, True])
    def test_value_and_every_gradient(self, tau: float | None, chunk_tokens: int | None, has_bias: bool) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(VOCAB, dtype=torch.float64, requires_grad=True) if has_bias else None
        labels, mentor = torch.randint(VOCAB, (TOKENS,)), chunks()
        inputs = [hidden, weight, *([] if bias is None else [bias])]
        expected = oracle(F.linear(hidden, weight, bias), labels, mentor, 0.4, tau)
        expected_gradients = torch.autograd.grad(expected / 3, inputs)
        for log_probs in (
            fused_label_log_probs(hidden, weight, labels, bias=bias, chunk_tokens=chunk_tokens),
            label_log_probs(F.linear(hidden, weight, bias), labels),
        ):
            sums = chunk_distillation_loss(log_probs, [(1.0, mentor)], kd_weight=0.4, chunk_temperature=tau)
            torch.testing.assert_close(sums.loss, expected, rtol=1e-9, atol=1e-9)
            for got, wanted in zip(torch.autograd.grad(sums.loss / 3, inputs), expected_gradients, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)

    def test_a_token_that_no_mentor_labels_has_its_whole_cross_entropy(self) -> None:
        log_probs = -torch.rand(4, dtype=torch.float64)
        first = MentorChunks(torch.tensor([-1.0, torch.nan]), torch.tensor([1, 3]))
        second = MentorChunks(torch.tensor([torch.nan, -2.0, torch.nan]), torch.tensor([1, 2, 1]))
        mentors = [(0.5, first), (0.5, second)]
        sums = chunk_distillation_loss(log_probs, mentors, kd_weight=0.4, chunk_temperature=None)
        expected = 0.6 * sums.ce + 0.4 * -log_probs[3] + 0.4 * sums.divergence
        assert float(sums.loss) == pytest.approx(float(expected))
        (weights,) = torch.autograd.grad(
            chunk_distillation_loss(log_probs.requires_grad_(), mentors, kd_weight=1, chunk_temperature=None).loss,
            log_probs,
        )
        assert weights[3] == -1

    def test_several_mentors_add_with_their_shares(self) -> None:
        log_probs = -torch.rand(TOKENS, dtype=torch.float64)
        first, second = chunks(), chunks()
        alone = [float(chunk_divergence(log_probs, [(1.0, each)], 10.0)) for each in (first, second)]
        both = chunk_divergence(log_probs, [(0.7, first), (0.3, second)], 10.0)
        assert float(both) == pytest.approx(0.7 * alone[0] + 0.3 * alone[1])


class TestDivergence:
    @pytest.mark.parametrize("tau", TEMPERATURES)
    @given(st.floats(0, 500), st.floats(0, 500))
    def test_is_never_negative_and_0_at_equality(self, tau: float | None, x: float, y: float) -> None:
        for dtype in (torch.float32, torch.float64):
            student, mentor = torch.tensor([y, x], dtype=dtype), torch.tensor([x, x], dtype=dtype)
            value = binary_divergence(student, mentor, tau)
            assert value.isfinite().all()
            assert value[0] >= 0
            assert value[1] == 0

    @pytest.mark.parametrize("tau", TEMPERATURES)
    @pytest.mark.parametrize("x", [1e-12, 1e-6, 1e-3, 0.1, 3.0, 90.0, 700.0])
    @pytest.mark.parametrize("ratio", [1e-4, 0.5, 1.5, 1e4])
    def test_single_precision_is_enough_near_0_and_for_unlikely_texts(
        self, tau: float | None, x: float, ratio: float
    ) -> None:
        """The gradient is (p - q) / (1 - q), here from Python's own functions; the value to the rounding of its terms."""
        y = x * ratio
        student = torch.tensor([y], requires_grad=True)
        value = binary_divergence(student, torch.tensor([x]), tau)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        if tau is None:
            exact, slope = y - x + x * math.log(x / y), 1 - x / y
        else:
            p, miss, student_miss = math.exp(-x / tau), -math.expm1(-x / tau), -math.expm1(-y / tau)
            exact = p * (y - x) + tau * miss * math.log(miss / student_miss)
            slope = (student_miss - miss) / student_miss
        assert value.item() == pytest.approx(exact, rel=2e-5, abs=1e-7 * x)
        assert gradient.item() == pytest.approx(slope, rel=1e-4, abs=1e-6)

    def test_the_limit_is_that_of_a_high_temperature(self) -> None:
        x, y = torch.rand(2, 50, dtype=torch.float64) * 20
        torch.testing.assert_close(binary_divergence(y, x, 1e7), binary_divergence(y, x, None), rtol=1e-4, atol=1e-6)

    def test_numbers(self) -> None:
        """A chunk of probability 1/2 under the mentor and 1/4 under the student."""
        half, quarter = torch.tensor([math.log(2)]), torch.tensor([math.log(4)])
        assert binary_divergence(quarter, half, 1.0).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
        assert binary_divergence(quarter, half, None).item() == pytest.approx(math.log(2) - math.log(2) * math.log(2))

    @pytest.mark.parametrize("tau", TEMPERATURES)
    def test_a_text_that_the_mentor_rules_out_is_finite(self, tau: float | None) -> None:
        log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
        mentor = MentorChunks(torch.tensor([-torch.inf, -2.0]), torch.tensor([1, 1]))
        total = chunk_divergence(log_probs, [(1.0, mentor)], tau)
        (gradient,) = torch.autograd.grad(total, log_probs)
        assert total.isfinite()
        assert gradient.isfinite().all()
        assert gradient[0] > 0, "it becomes less likely"

    def test_a_chunk_without_a_label_adds_nothing(self) -> None:
        log_probs = torch.full((3,), -1.0, requires_grad=True)
        mentor = MentorChunks(torch.tensor([torch.nan, -0.5]), torch.tensor([2, 1]))
        total = chunk_divergence(log_probs, [(1.0, mentor)], 10.0)
        (gradient,) = torch.autograd.grad(total, log_probs)
        assert gradient[:2].tolist() == [0, 0]
        assert gradient[2] != 0
        assert total == binary_divergence(torch.tensor([1.0]), torch.tensor([0.5]), 10.0)


class TestLogProbs:
    def test_are_exact_where_the_student_is_sure(self) -> None:
        logits = torch.tensor([[30.0, 0.0, 1.0], [80.0, 0.0, 0.0]])
        exact = -torch.log1p(logits.double()[:, 1:].exp().sum(1) / logits.double()[:, 0].exp())
        labels = torch.tensor([0, 0])
        torch.testing.assert_close(label_log_probs(logits, labels).double(), exact, rtol=1e-5, atol=0)
        assert (logits.log_softmax(-1)[:, 0].double() / exact - 1).abs().max() > 0.01, "the usual way is not"

    def test_the_gradient_of_a_sure_student_is_finite_and_small(self) -> None:
        hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
        log_probs = fused_label_log_probs(hidden, torch.eye(2), torch.tensor([0]))
        mentor = MentorChunks(torch.tensor([-3.0]), torch.tensor([1]))
        for tau in TEMPERATURES:
            (gradient,) = torch.autograd.grad(
                chunk_divergence(log_probs, [(1.0, mentor)], tau), hidden, retain_graph=True
            )
            assert gradient.isfinite().all()
            assert gradient.abs().max() <= 3.1

    def test_a_ruled_out_token_is_no_choice_and_gets_no_gradient(self) -> None:
        hidden, weight = torch.randn(4, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        bias = torch.zeros(VOCAB)
        bias[30:] = -torch.inf
        labels = torch.randint(30, (4,))
        got = fused_label_log_probs(hidden, weight, labels, bias=bias.requires_grad_())
        torch.testing.assert_close(got, label_log_probs(hidden @ weight[:30].T, labels))
        got.sum().backward()
        assert weight.grad is not None
        assert bias.grad is not None
        assert not weight.grad[30:].any()
        assert not bias.grad[30:].any()
        assert bias.grad[:30].isfinite().all()

    @pytest.mark.parametrize("part", ["hidden", "weight"])
    def test_a_frozen_part_gets_no_gradient(self, part: str) -> None:
        parts = {"hidden": torch.randn(TOKENS, WIDTH), "weight": torch.randn(VOCAB, WIDTH)}
        labels, factor = torch.randint(VOCAB, (TOKENS,)), torch.rand(TOKENS)
        trained = {name: value.clone().requires_grad_(name != part) for name, value in parts.items()}
        (fused_label_log_probs(trained["hidden"], trained["weight"], labels) * factor).sum().backward()
        both = {name: value.clone().requires_grad_() for name, value in parts.items()}
        (label_log_probs(both["hidden"] @ both["weight"].T, labels) * factor).sum().backward()
        for name, value in trained.items():
            if name == part:
                assert value.grad is None
            else:
                torch.testing.assert_close(value.grad, both[name].grad, rtol=1e-5, atol=1e-5)

    def test_without_gradients_nothing_is_recorded(self) -> None:
        with torch.no_grad():
            log_probs = fused_label_log_probs(
                torch.randn(3, 2), torch.randn(5, 2).requires_grad_(), torch.tensor([0, 1, 2])
            )
        assert not log_probs.requires_grad

    def test_autocast_is_near_and_gradients_keep_their_types(self) -> None:
        hidden = torch.randn(TOKENS, WIDTH).bfloat16().float().requires_grad_()
        weight, labels = torch.randn(VOCAB, WIDTH, requires_grad=True), torch.randint(VOCAB, (TOKENS,))
        exact = fused_label_log_probs(hidden, weight, labels)
        with torch.autocast("cpu", torch.bfloat16):
            near = fused_label_log_probs(hidden, weight, labels)
        assert near.dtype == torch.float32
        torch.testing.assert_close(near, exact, rtol=0.05, atol=0.1)
        for got, wanted in zip(
            torch.autograd.grad(near.sum(), [hidden, weight]),
            torch.autograd.grad(exact.sum(), [hidden, weight]),
            strict=True,
        ):
            assert got.dtype == torch.float32
            assert F.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.99

    def test_no_targets(self) -> None:
        hidden = torch.randn(0, WIDTH, requires_grad=True)
        fused_label_log_probs(hidden, torch.randn(VOCAB, WIDTH), torch.empty(0, dtype=torch.long)).sum().backward()
        assert hidden.grad is not None


def student(hidden: Tensor, weight: Tensor, labels: Tensor, *, fused: bool) -> Student:
    if fused:
        return Student({}, [], labels, hidden, (weight, None), {})
    return Student({}, [], labels, F.linear(hidden, weight), None, {})


@pytest.mark.parametrize("fused", [True, False])
class TestOfAStudent:
    def test_chunks_alone(self, fused: bool) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
        labels, mentor = torch.randint(VOCAB, (TOKENS,)), chunks(torch.float32)
        how: dict[str, Any] = {"kd_weight": 0.3, "temperature": 2.0, "tau_squared": True, "divergence": "forward_kl"}
        sums = student(hidden, weight, labels, fused=fused).loss([(1.0, mentor)], chunk_temperature=10.0, **how)
        torch.testing.assert_close(
            sums.loss, oracle(hidden @ weight.T, labels, mentor, 0.3, 10.0), rtol=1e-4, atol=1e-4
        )
        assert sums.tokens == TOKENS

    def test_whole_rows_of_a_batch(self, fused: bool) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
        labels, at = torch.randint(VOCAB, (TOKENS,)), [4, 5, 6, 12]
        mentor = MentorChunks(torch.tensor([-1.0, -2.0]), torch.tensor([3, 1]))
        sums = student(hidden, weight, labels, fused=fused).loss([(1.0, mentor)], at=at, kd_weight=0.3)
        torch.testing.assert_close(sums.loss, oracle(hidden[at] @ weight.T, labels[at], mentor, 0.3, None))

    def test_beside_a_mentor_with_distributions(self, fused: bool) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
        labels, first, second = torch.randint(VOCAB, (TOKENS,)), chunks(torch.float32), torch.randn(TOKENS, VOCAB)
        reads = student(hidden, weight, labels, fused=fused)
        both = reads.loss([(0.6, MentorLogits(second)), (0.4, first)], kd_weight=0.3, temperature=2.0)
        alone = reads.loss([(0.6, MentorLogits(second))], kd_weight=0.3, temperature=2.0)
        of_chunks = chunk_divergence(label_log_probs(hidden @ weight.T, labels), [(0.4, first)], None)
        torch.testing.assert_close(both.loss, alone.loss + 0.3 * of_chunks)
        torch.testing.assert_close(both.divergence, alone.divergence + of_chunks)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kd_weight": 1.5}, r"kd_weight must be in 0..1, got 1.5"),
        ({"chunk_temperature": 0.0}, "chunk_temperature must be positive and finite, or None, got 0.0"),
        ({"chunk_temperature": math.inf}, "chunk_temperature must be"),
        (
            {"mentor": MentorChunks(torch.zeros(1), torch.tensor([3]))},
            "must hold the student's 17 target tokens, got 3",
        ),
    ],
)
def test_what_does_not_fit_is_refused(how: dict[str, Any], message: str) -> None:
    given = {"mentor": chunks(), "kd_weight": 0.3, "chunk_temperature": None, **how}
    with pytest.raises(ValueError, match=message):
        chunk_distillation_loss(
            torch.zeros(TOKENS),
            [(1.0, given["mentor"])],
            kd_weight=given["kd_weight"],
            chunk_temperature=given["chunk_temperature"],
        )
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1"):
        fused_label_log_probs(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0]), chunk_tokens=0)
