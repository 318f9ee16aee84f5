"""The contract of the distillation loss, plain and fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.distillation import fused_losses, losses
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.losses import (
    LossSettings,
    LossSums,
    MentorHidden,
    MentorLogits,
    MentorTargets,
    MentorTopK,
    distillation_loss,
    top_k_of,
)
from mentorkd.recipe.objectives import NOT_OF_TOP_K, DivergenceName
from tiny_training import learner, online, rows_for, run

DIVERGENCES = ["forward_kl", "reverse_kl", "jsd", "mse", "soft_ce"]
TOP_K_DIVERGENCES = ["forward_kl", "reverse_kl", "jsd"]
TOKENS, WIDTH, MENTOR_WIDTH, VOCAB = 23, 7, 5, 40


def divergences_of(*forms: str) -> pytest.MarkDecorator:
    """Every divergence with every form of mentor that it takes."""
    pairs = [(form, name) for form in forms for name in (TOP_K_DIVERGENCES if form == "top_k" else DIVERGENCES)]
    return pytest.mark.parametrize(("form", "divergence"), pairs)


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_a_recipe_names_every_divergence() -> None:
    assert {*losses.DIVERGENCES, "hidden_states"} == {*get_args(DivergenceName)}
    assert [name for name in losses.DIVERGENCES if name not in NOT_OF_TOP_K] == TOP_K_DIVERGENCES


def labels_of(tokens: int = TOKENS, vocab: int = VOCAB, *, ignored: bool = True) -> Tensor:
    labels = torch.randint(vocab, (tokens,))
    if ignored:
        labels[[0, 4, 5]] = IGNORE_INDEX
    return labels


def mentor_of(form: str, temperature: float, dtype: torch.dtype = torch.float64, vocab: int = VOCAB) -> Any:
    hidden, weight = torch.randn(TOKENS, MENTOR_WIDTH, dtype=dtype), torch.randn(vocab, MENTOR_WIDTH, dtype=dtype)
    bias = torch.randn(vocab, dtype=dtype)
    logits = F.linear(hidden, weight, bias)
    return {
        "none": lambda: None,
        "logits": lambda: MentorLogits(logits),
        "hidden": lambda: MentorHidden(hidden, weight),
        "hidden_bias": lambda: MentorHidden(hidden, weight, bias),
        "top_k": lambda: top_k_of(logits, 6, temperature=temperature),
        "several": lambda: [(0.7, MentorLogits(logits)), (0.2, MentorHidden(hidden, weight))],
    }[form]()


def gradients(sums: LossSums, inputs: list[Tensor]) -> list[Tensor]:
    # Divided as a caller does it, so that the gradient handed to the loss is not 1.
    return list(torch.autograd.grad(sums.loss / 3, inputs))


def everything(sums: LossSums, inputs: list[Tensor]) -> list[Tensor]:
    return [torch.tensor(sums.tokens), sums.loss, sums.ce, sums.divergence, *gradients(sums, inputs)]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.detach().abs().max())))


def assert_same(left: LossSums, right: LossSums, inputs: list[Tensor], tolerance: float) -> None:
    assert_close(everything(left, inputs), everything(right, inputs), tolerance)


PRECISIONS = [pytest.param(torch.float64, 1e-9, id="float64"), pytest.param(torch.float32, 1e-5, id="float32")]


class TestFusedIsPlain:
    @pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    @divergences_of("none", "logits", "hidden", "hidden_bias", "top_k", "several")
    def test_value_and_every_gradient(
        self, divergence: str, form: str, temperature: float, dtype: torch.dtype, tolerance: float
    ) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=dtype, requires_grad=True)
        bias = torch.randn(VOCAB, dtype=dtype, requires_grad=True)
        how: dict[str, Any] = {"kd_weight": 0.4, "temperature": temperature, "divergence": divergence, "jsd_beta": 0.3}
        labels, mentor = labels_of(), mentor_of(form, temperature, dtype)
        for given_bias in (None, bias):
            inputs = [hidden, weight] if given_bias is None else [hidden, weight, bias]
            plain = distillation_loss(F.linear(hidden, weight, given_bias), labels, mentor, **how)
            expected = everything(plain, inputs)
            for chunk in (1, 6, 20, None):  # of 20 targets: 6 leaves an uneven last chunk
                fused = fused_distillation_loss(
                    hidden, weight, labels, mentor, bias=given_bias, chunk_tokens=chunk, **how
                )
                assert_close(everything(fused, inputs), expected, tolerance)

    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    @divergences_of("none", "logits", "hidden_bias", "top_k", "several")
    def test_chunks_of_several_blocks(
        self, form: str, divergence: str, temperature: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fused_losses, "CPU_BLOCK", 6 * VOCAB)
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        how: dict[str, Any] = {"kd_weight": 0.4, "temperature": temperature, "divergence": divergence}
        labels, mentor = labels_of(), mentor_of(form, temperature)
        expected = everything(distillation_loss(F.linear(hidden, weight), labels, mentor, **how), [hidden, weight])
        for chunk in (7, 20):  # of 20 targets: blocks of 3 and 4 rows, of 6, and of 5
            fused = fused_distillation_loss(hidden, weight, labels, mentor, chunk_tokens=chunk, **how)
            assert_close(everything(fused, [hidden, weight]), expected, 1e-9)

    @pytest.mark.parametrize("divergence", DIVERGENCES)
    @pytest.mark.parametrize("kd_weight", [0.0, 1.0])
    @pytest.mark.parametrize("tau_squared", [True, False])
    def test_at_the_ends_of_the_weight(self, divergence: str, kd_weight: float, tau_squared: bool) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        how: dict[str, Any] = {
            "kd_weight": kd_weight,
            "temperature": 2.0,
            "tau_squared": tau_squared,
            "divergence": divergence,
        }
        labels, mentor = labels_of(), mentor_of("hidden", 2.0)
        plain = distillation_loss(F.linear(hidden, weight), labels, mentor, **how)
        assert_same(fused_distillation_loss(hidden, weight, labels, mentor, **how), plain, [hidden, weight], 1e-9)

    def test_tied_head_gets_both_gradients(self) -> None:
        embedding = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        tokens, labels, mentor = torch.randint(VOCAB, (TOKENS,)), labels_of(), mentor_of("hidden", 2.0)
        hidden = F.embedding(tokens, embedding).tanh() * WIDTH**-0.5
        plain = distillation_loss(F.linear(hidden, embedding), labels, mentor, temperature=2.0)
        fused = fused_distillation_loss(hidden, embedding, labels, mentor, temperature=2.0, chunk_tokens=6)
        (of_plain,) = torch.autograd.grad(plain.loss, embedding, retain_graph=True)
        (of_fused,) = torch.autograd.grad(fused.loss, embedding)
        torch.testing.assert_close(of_fused, of_plain, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("frozen", ["hidden", "weight", "all"])
    def test_frozen_parts_get_no_gradient(self, frozen: str) -> None:
        hidden = torch.randn(TOKENS, WIDTH, requires_grad=frozen == "weight")
        weight = torch.randn(VOCAB, WIDTH, requires_grad=frozen == "hidden")
        labels, mentor = labels_of(), mentor_of("logits", 1.0, torch.float32)
        fused = fused_distillation_loss(hidden, weight, labels, mentor)
        plain = distillation_loss(F.linear(hidden, weight), labels, mentor)
        torch.testing.assert_close(fused.loss, plain.loss)
        assert fused.loss.requires_grad == (frozen != "all")
        if frozen != "all":
            inputs = [x for x in (hidden, weight) if x.requires_grad]
            assert_same(fused, plain, inputs, 1e-5)
            assert sum(x.grad is not None for x in (hidden, weight)) == 0

    @pytest.mark.parametrize("divergence", DIVERGENCES)
    @pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, divergence: str, without: Callable[[], Any]) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        labels, mentor = labels_of(), mentor_of("hidden", 1.0, torch.float32)
        with without():
            fused = fused_distillation_loss(hidden, weight, labels, mentor, divergence=divergence)
        assert not fused.loss.requires_grad
        plain = distillation_loss(hidden @ weight.T, labels, mentor, divergence=divergence)
        torch.testing.assert_close(fused.loss, plain.loss.detach())
        torch.testing.assert_close(fused.divergence, plain.divergence)

    def test_gradients_accumulate_over_micro_batches(self) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH).double(), torch.randn(VOCAB, WIDTH).double().requires_grad_()
        labels, mentor = labels_of(), mentor_of("hidden", 1.0)
        whole = fused_distillation_loss(hidden, weight, labels, mentor)
        (expected,) = torch.autograd.grad(whole.loss / whole.tokens, weight)
        for part in (slice(0, 9), slice(9, 14), slice(14, None)):
            sums = fused_distillation_loss(hidden[part], weight, labels[part], mentor.rows(part))
            (sums.loss / whole.tokens).backward()
        torch.testing.assert_close(weight.grad, expected, rtol=1e-9, atol=1e-12)

    def test_a_kept_graph_can_be_walked_twice(self) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        sums = fused_distillation_loss(hidden, torch.randn(VOCAB, WIDTH, dtype=torch.float64), labels_of())
        (first,) = torch.autograd.grad(sums.loss * 5, hidden, retain_graph=True)
        before = first.clone()
        (second,) = torch.autograd.grad(sums.loss * 5, hidden)
        assert torch.equal(first, before)
        assert torch.equal(first, second)

    def test_a_gradient_of_the_gradient_is_refused(self) -> None:
        hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
        sums = fused_distillation_loss(hidden, torch.randn(VOCAB, WIDTH), labels_of())
        (once,) = torch.autograd.grad(sums.loss.square(), hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            once.sum().backward()

    @pytest.mark.parametrize("divergence", DIVERGENCES)
    def test_numeric_gradient(self, divergence: str) -> None:
        hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([0, 5, IGNORE_INDEX, 2, 1])
        mentor = MentorLogits(torch.randn(5, 6, dtype=torch.float64))
        how: dict[str, Any] = {"temperature": 1.7, "divergence": divergence, "jsd_beta": 0.2, "kd_weight": 0.6}

        def fused(*inputs: Tensor) -> Tensor:
            return fused_distillation_loss(*inputs[:2], labels, mentor, bias=inputs[2], chunk_tokens=3, **how).loss

        def plain(*inputs: Tensor) -> Tensor:
            return distillation_loss(F.linear(*inputs), labels, mentor, **how).loss

        assert torch.autograd.gradcheck(fused, (hidden, weight, bias))
        assert torch.autograd.gradcheck(plain, (hidden, weight, bias))


def total_variation(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    return (student_NV.exp() - mentor_NV.exp()).abs().sum(-1) / 2


def skewed_kl(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    """KL(m || 0.1 m + 0.9 s), DistiLLM's (Ko et al. 2024)."""
    mixture_NV = torch.logaddexp(mentor_NV + math.log(0.1), student_NV + math.log(0.9))
    return (mentor_NV.exp() * (mentor_NV - mixture_NV)).sum(-1)


@pytest.mark.parametrize("function", [total_variation, skewed_kl])
class TestAddedDivergence:
    """A divergence that stands only in the table of `losses`."""

    @pytest.fixture(autouse=True)
    def _added(self, function: losses.DivergenceFunction, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(losses.DIVERGENCES, "added", function)

    @pytest.mark.parametrize("form", ["logits", "hidden", "hidden_bias", "top_k", "several"])
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_fused_is_plain(self, form: str, temperature: float) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        how: dict[str, Any] = {"kd_weight": 0.4, "temperature": temperature, "divergence": "added"}
        labels, mentor = labels_of(), mentor_of(form, temperature)
        plain = distillation_loss(F.linear(hidden, weight), labels, mentor, **how)
        fused = fused_distillation_loss(hidden, weight, labels, mentor, chunk_tokens=7, **how)
        assert plain.divergence > 0.1
        assert_same(fused, plain, [hidden, weight], 1e-9)

    def test_its_number(self, function: losses.DivergenceFunction) -> None:
        # |3/8| + |1/8| + |-1/2| over 2; the mixture is (37/80, 19/80, 3/10).
        skewed = (math.log(10 / 37) + math.log(10 / 19)) / 8 + 3 / 4 * math.log(5 / 2)
        expected = 1 / 2 if function is total_variation else skewed
        for loss_of in (plain_loss, fused_loss_of):
            sums = loss_of(STUDENT, 0, MentorLogits(torch.tensor([MENTOR]).log()), divergence="added")
            assert sums.divergence.item() == pytest.approx(expected, rel=1e-5)

    def test_trains_a_student(self, tmp_path: Path) -> None:
        student, mentor = learner(seed=2), learner(seed=1)
        result = run(
            student,
            rows_for(student, 4),
            tmp_path,
            epochs=6,
            objective=online(mentor, divergence="added", kd_weight=1.0),
        )
        assert result.fused
        divergences = [row["divergence"] for row in result.history]
        assert divergences[-1] < 0.9 * divergences[0]

    def test_messages_list_it(self) -> None:
        message = "divergence must be one of forward_kl, reverse_kl, jsd, mse, soft_ce, added, got 'ad'"
        with pytest.raises(ValueError, match=message):
            distillation_loss(torch.ones(1, 2), torch.tensor([0]), divergence="ad")


class TestForwardKL:
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_it_keeps_its_rounding(self, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """The weights of finished trainings depend on these operations, chunk by chunk, to the last bit."""
        monkeypatch.setattr(fused_losses, "CPU_BLOCK", 6 * VOCAB)
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        states, head = torch.randn(TOKENS, MENTOR_WIDTH), torch.randn(VOCAB, MENTOR_WIDTH)
        labels, w, chunk = labels_of(ignored=False), 0.3, 12
        how: dict[str, Any] = {"kd_weight": w, "temperature": temperature, "chunk_tokens": chunk}
        fused = fused_distillation_loss(hidden, weight, labels, MentorHidden(states, head), **how)
        ce, total, of_hidden, of_weight = torch.zeros(()), torch.zeros(()), [], torch.zeros(VOCAB, WIDTH)
        with torch.no_grad():
            for start in range(0, TOKENS, chunk):
                rows = slice(start, start + chunk)
                logits, label = hidden[rows] @ weight.T, labels[rows, None]
                log_probs = logits.log_softmax(-1)
                ce += -log_probs.gather(1, label)[:, 0].sum()
                student = (logits / temperature).log_softmax(-1)
                mentor = (states[rows] @ head.T / temperature).log_softmax(-1)
                total += ((mentor - student) * mentor.exp()).sum(-1).clamp(min=0).sum()
                gradient = log_probs.exp().scatter_add(1, label, -torch.ones_like(label, dtype=torch.float32)) * (1 - w)
                gradient.add_(student.exp() - mentor.exp(), alpha=w * temperature**2 / temperature)
                of_hidden.append(gradient @ weight)
                of_weight.addmm_(gradient.T, hidden[rows])
        expected = [(1 - w) * ce + w * temperature**2 * total, ce, total, torch.cat(of_hidden), of_weight]
        actual = [fused.loss, fused.ce, fused.divergence, *torch.autograd.grad(fused.loss, [hidden, weight])]
        assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


class Waits(TorchDispatchMode):
    """Counts reads of a tensor's value, for which the program waits until a GPU has computed it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@divergences_of("none", "logits", "hidden_bias", "top_k", "several")
def test_the_fused_loss_waits_for_no_chunk(form: str, divergence: str) -> None:
    hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
    mentor, labels = mentor_of(form, 2.0, torch.float32), labels_of()
    how: dict[str, Any] = {"temperature": 2.0, "divergence": divergence, "chunk_tokens": 5}
    with Waits() as waits:
        fused_distillation_loss(hidden, weight, labels, mentor, **how).loss.backward()
    assert waits.count == 1, "only whether any label is ignored is looked at"


class LargestTensor(TorchDispatchMode):
    """Records the operations, and the number of elements of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.operations = 0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.add(str(func))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


class TestMemory:
    @pytest.mark.parametrize("form", ["none", "hidden", "top_k"])
    @pytest.mark.parametrize("divergence", TOP_K_DIVERGENCES)
    def test_nothing_is_larger_than_a_chunk_of_logits(self, form: str, divergence: str) -> None:
        vocab, tokens, chunk = 300, TOKENS, 6
        hidden, weight = torch.randn(tokens, 2, requires_grad=True), torch.randn(vocab, 2, requires_grad=True)
        mentor, labels = mentor_of(form, 2.0, torch.float32, vocab), labels_of(vocab=vocab)
        with LargestTensor() as seen:
            sums = fused_distillation_loss(
                hidden, weight, labels, mentor, temperature=2.0, divergence=divergence, chunk_tokens=chunk
            )
            sums.loss.backward()
        assert seen.largest == chunk * vocab

    def test_backward_makes_no_second_head(self) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        mean = fused_distillation_loss(hidden, weight, labels_of()).loss / TOKENS
        with LargestTensor() as seen:
            mean.backward()
        assert "aten.mul_.Tensor" in seen.operations
        assert not any("clone" in name or "copy" in name for name in seen.operations)

    def test_chunks_are_even_and_bounded(self) -> None:
        for tokens in (1, 255, 256, 257, 700, 4096):
            chunk = fused_losses.even_chunk(torch.empty(tokens), VOCAB)
            assert chunk <= 256
            assert math.ceil(tokens / chunk) == math.ceil(tokens / 256)
        assert fused_losses.even_chunk(torch.empty(257), VOCAB) == 129

    @pytest.mark.parametrize(
        ("gigabytes", "entries", "longest"),
        [(141, 2 * 32128, 8192), (141, 2 * 151936, 1024), (24, 32128, 2048), (16, 2 * 151936, 512)],
    )
    def test_a_gpu_takes_longer_chunks_as_its_memory_allows(
        self, gigabytes: int, entries: int, longest: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fused_losses, "memory_of", lambda device: gigabytes * 10**9)
        assert fused_losses._longest_chunk(torch.device("cuda"), entries) == longest
        assert fused_losses._longest_chunk(torch.device("mps"), entries) == 512


# One token, three entries: student (1/2, 1/4, 1/4), mentor (1/8, 1/8, 3/4), label 0.
STUDENT, MENTOR = [1 / 2, 1 / 4, 1 / 4], [1 / 8, 1 / 8, 3 / 4]
LN2, LN3 = math.log(2), math.log(3)
BY_HAND = {
    "forward_kl": -2 / 8 * LN2 - 1 / 8 * LN2 + 3 / 4 * LN3,
    "reverse_kl": 1 / 2 * 2 * LN2 + 1 / 4 * LN2 - 1 / 4 * LN3,
    # the mixture is (5/16, 3/16, 1/2)
    "jsd": (math.log(2 / 5) / 8 + math.log(2 / 3) / 8 + 3 / 4 * math.log(3 / 2)) / 2
    + (math.log(8 / 5) / 2 + math.log(4 / 3) / 4 + math.log(1 / 2) / 4) / 2,
    "soft_ce": LN2 / 8 + 7 / 8 * 2 * LN2,
    # differences of log-probabilities: ln 4, ln 2, -ln 3
    "mse": (4 * LN2**2 + LN2**2 + LN3**2) / 3,
}
Loss = Callable[..., LossSums]


def plain_loss(probabilities: list[float], label: int, mentor: Any, **how: Any) -> LossSums:
    tau = how.get("temperature", 1.0)
    return distillation_loss(tau * torch.tensor([probabilities]).log(), torch.tensor([label]), mentor, **how)


def fused_loss_of(probabilities: list[float], label: int, mentor: Any, **how: Any) -> LossSums:
    tau = how.get("temperature", 1.0)
    head = tau * torch.tensor([probabilities]).log().T
    return fused_distillation_loss(torch.ones(1, 1), head, torch.tensor([label]), mentor, **how)


@pytest.mark.parametrize("loss_of", [plain_loss, fused_loss_of])
class TestByHand:
    @pytest.mark.parametrize("divergence", DIVERGENCES)
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_numbers(self, loss_of: Loss, divergence: str, temperature: float) -> None:
        mentor = MentorLogits(temperature * torch.tensor([MENTOR]).log())
        # At temperature 2 the logits are doubled: the same divergence, but a label's probability of (4/6, 1/6, 1/6).
        ce = LN2 if temperature == 1 else math.log(3 / 2)
        for tau_squared, factor in ((True, temperature**2), (False, 1.0)):
            sums = loss_of(
                STUDENT,
                0,
                mentor,
                divergence=divergence,
                kd_weight=0.3,
                temperature=temperature,
                tau_squared=tau_squared,
            )
            assert sums.tokens == 1
            assert sums.ce.item() == pytest.approx(ce, rel=1e-5)
            assert sums.divergence.item() == pytest.approx(BY_HAND[divergence], rel=1e-5)
            assert sums.loss.item() == pytest.approx(0.7 * ce + 0.3 * factor * BY_HAND[divergence], rel=1e-5)

    def test_skewed_jsd(self, loss_of: Loss) -> None:
        # beta 3/4: the mixture is (7/32, 5/32, 5/8)
        to_mentor = (math.log(4 / 7) + math.log(4 / 5)) / 8 + 3 / 4 * math.log(6 / 5)
        to_student = math.log(16 / 7) / 2 + math.log(8 / 5) / 4 + math.log(2 / 5) / 4
        sums = loss_of(STUDENT, 0, MentorLogits(torch.tensor([MENTOR]).log()), divergence="jsd", jsd_beta=0.75)
        assert sums.divergence.item() == pytest.approx(0.75 * to_mentor + 0.25 * to_student, rel=1e-5)

    def test_top_1(self, loss_of: Loss) -> None:
        # Kept: the third token; the events are (3/4, 1/4) and (1/4, 3/4).
        mentor = top_k_of(torch.tensor([MENTOR]).log(), 1, temperature=1.0)
        assert mentor.indices_NK.tolist() == [[2]]
        assert loss_of(STUDENT, 0, mentor).divergence.item() == pytest.approx(LN3 / 2, rel=1e-5)
        assert loss_of(STUDENT, 0, mentor, divergence="reverse_kl").divergence.item() == pytest.approx(
            LN3 / 2, rel=1e-5
        )

    def test_without_a_mentor_the_weight_has_no_effect(self, loss_of: Loss) -> None:
        sums = loss_of(STUDENT, 1, None, kd_weight=0.9, temperature=1.0)
        assert sums.loss.item() == sums.ce.item() == pytest.approx(2 * LN2, rel=1e-6)
        assert sums.divergence.item() == 0

    def test_several_mentors_add_with_their_shares(self, loss_of: Loss) -> None:
        mentors = [MentorLogits(torch.tensor([p]).log()) for p in (MENTOR, STUDENT, [1 / 3] * 3)]
        alone = [loss_of(STUDENT, 0, mentor).divergence.item() for mentor in mentors]
        both = loss_of(STUDENT, 0, list(zip([0.5, 0.3, 0.2], mentors, strict=True))).divergence.item()
        assert both == pytest.approx(0.5 * alone[0] + 0.3 * alone[1] + 0.2 * alone[2], rel=1e-5)


def plain_from_hidden(hidden: Tensor, weight: Tensor, labels: Tensor, mentor: Any = None, **how: Any) -> LossSums:
    return distillation_loss(F.linear(hidden, weight, how.pop("bias", None)), labels, mentor, **how)


both_losses = pytest.mark.parametrize("loss_of", [plain_from_hidden, fused_distillation_loss], ids=["plain", "fused"])


@both_losses
class TestMeaning:
    @divergences_of("logits", "hidden", "top_k")
    def test_a_student_like_its_mentor_has_nothing_to_learn(self, loss_of: Loss, form: str, divergence: str) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        logits = (hidden @ weight.T).detach()
        mentors: dict[str, MentorTargets] = {
            "logits": MentorLogits(logits),
            "hidden": MentorHidden(hidden.detach(), weight.detach()),
            "top_k": top_k_of(logits, 4, temperature=2.0),
        }
        sums = loss_of(
            hidden, weight, labels_of(), mentors[form], kd_weight=1.0, temperature=2.0, divergence=divergence
        )
        if divergence != "soft_ce":  # which is then the mentor's entropy
            assert abs(sums.divergence.item()) < 1e-12
        for gradient in torch.autograd.grad(sums.loss, [hidden, weight]):
            assert gradient.abs().max() < 1e-12

    def test_soft_ce_is_forward_kl_and_entropy(self, loss_of: Loss) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH).double(), torch.randn(VOCAB, WIDTH).double().requires_grad_()
        labels, mentor = labels_of(ignored=False), mentor_of("logits", 2.0)
        kl, ce = (
            loss_of(hidden, weight, labels, mentor, temperature=2.0, divergence=name, kd_weight=1.0)
            for name in ("forward_kl", "soft_ce")
        )
        log_probs = F.log_softmax(mentor.logits_NV / 2, -1)
        torch.testing.assert_close(ce.divergence - kl.divergence, -(log_probs.exp() * log_probs).sum())
        torch.testing.assert_close(*(torch.autograd.grad(sums.loss, weight)[0] for sums in (kl, ce)))

    @pytest.mark.parametrize("form", ["none", "logits", "hidden_bias", "top_k", "several"])
    def test_no_targets_no_loss(self, loss_of: Loss, form: str) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        bias = torch.randn(VOCAB, requires_grad=True)
        labels = torch.full((TOKENS,), IGNORE_INDEX)
        sums = loss_of(hidden, weight, labels, mentor_of(form, 1.0, torch.float32), bias=bias)
        assert (sums.loss.item(), sums.ce.item(), sums.divergence.item(), sums.tokens) == (0, 0, 0, 0)
        for gradient in torch.autograd.grad(sums.loss, [hidden, weight, bias]):
            assert torch.equal(gradient, torch.zeros_like(gradient))

    @divergences_of("logits", "hidden", "top_k")
    def test_padding_cannot_be_felt(self, loss_of: Loss, form: str, divergence: str) -> None:
        """Ignored positions hold NaN on both sides; label 0, a real token, counts."""
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH, requires_grad=True)
        labels = labels_of()
        labels[[1, 2]] = 0
        targets, mentor = labels != IGNORE_INDEX, mentor_of(form, 1.0, torch.float32)
        own, padded = hidden[targets].clone().requires_grad_(), hidden.clone().requires_grad_()
        bare = loss_of(own, weight, labels[targets], mentor.rows(targets), divergence=divergence)
        expected_hidden, expected_weight = torch.autograd.grad(bare.loss, [own, weight])

        for name in ("logits_NV", "hidden_NE", "log_probs_NK"):
            if hasattr(mentor, name):
                getattr(mentor, name)[~targets] = torch.nan
        if loss_of is fused_distillation_loss:
            padded.data[~targets] = torch.nan
            sums = loss_of(padded, weight, labels, mentor, divergence=divergence)
        else:  # the logits themselves are spoilt, as the product before them is not the loss's
            logits = torch.where(targets[:, None], F.linear(padded, weight), torch.nan)
            sums = distillation_loss(logits, labels, mentor, divergence=divergence)
        assert sums.tokens == bare.tokens == TOKENS - 3
        torch.testing.assert_close(sums.loss, bare.loss)
        of_hidden, of_weight = torch.autograd.grad(sums.loss, [padded, weight])
        assert torch.equal(of_hidden[~targets], torch.zeros(3, WIDTH))
        torch.testing.assert_close(of_hidden[targets], expected_hidden)
        torch.testing.assert_close(of_weight, expected_weight)

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_sums_do_not_know_order_or_split(self, loss_of: Loss, data: st.DataObject) -> None:
        order = torch.tensor(data.draw(st.permutations(range(TOKENS))))
        cut = data.draw(st.integers(0, TOKENS))
        divergence = data.draw(st.sampled_from(DIVERGENCES))
        hidden, weight = torch.randn(TOKENS, WIDTH).double(), torch.randn(VOCAB, WIDTH).double().requires_grad_()
        labels, mentor = labels_of(), mentor_of("hidden", 2.0)
        how: dict[str, Any] = {"temperature": 2.0, "divergence": divergence}
        whole = loss_of(hidden, weight, labels, mentor, **how)
        parts = [
            loss_of(hidden[index], weight, labels[index], mentor.rows(index), **how)
            for index in (order[:cut], order[cut:])
        ]
        assert whole.tokens == sum(part.tokens for part in parts)
        torch.testing.assert_close(parts[0].loss + parts[1].loss, whole.loss, rtol=1e-9, atol=1e-9)
        (expected,) = torch.autograd.grad(whole.loss, weight)
        torch.testing.assert_close(
            torch.autograd.grad(parts[0].loss + parts[1].loss, weight)[0], expected, rtol=1e-9, atol=1e-9
        )

    @pytest.mark.parametrize("divergence", DIVERGENCES)
    def test_tau_squared_keeps_the_gradient(self, loss_of: Loss, divergence: str) -> None:
        # For logits that spread little (0.5 here), where softmax is about linear; of wider ones tau² keeps less.
        width = 200
        hidden = (0.5 * torch.randn(64, width)).requires_grad_()
        weight, mentor = torch.eye(width), MentorLogits(0.5 * torch.randn(64, width))

        def norm(temperature: float, tau_squared: bool) -> float:
            sums = loss_of(
                hidden,
                weight,
                labels_of(64, width, ignored=False),
                mentor,
                kd_weight=1.0,
                temperature=temperature,
                tau_squared=tau_squared,
                divergence=divergence,
            )
            return torch.autograd.grad(sums.loss, hidden)[0].norm().item()

        for temperature in (2.0, 4.0):
            assert norm(temperature, True) == pytest.approx(norm(1.0, True), rel=0.2)
            assert norm(temperature, False) < 1.3 * norm(1.0, True) / temperature**2


@both_losses
class TestTopK:
    @pytest.mark.parametrize("divergence", TOP_K_DIVERGENCES)
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_all_tokens_are_exact(self, loss_of: Loss, divergence: str, temperature: float) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        labels, exact = labels_of(), mentor_of("logits", temperature)
        kept = top_k_of(exact.logits_NV, VOCAB, temperature=temperature)
        how: dict[str, Any] = {"temperature": temperature, "divergence": divergence}
        assert_same(
            loss_of(hidden, weight, labels, kept, **how),
            loss_of(hidden, weight, labels, exact, **how),
            [hidden, weight],
            1e-9,
        )

    @settings(max_examples=30, deadline=None)
    @given(
        k=st.integers(1, VOCAB),
        scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
        divergence=st.sampled_from(TOP_K_DIVERGENCES),
        seed=st.integers(0, 1000),
    )
    def test_never_above_exact_and_never_negative(
        self, loss_of: Loss, k: int, scale: float, divergence: str, seed: int
    ) -> None:
        torch.manual_seed(seed)
        hidden, weight = torch.randn(1, WIDTH).double(), scale * torch.randn(VOCAB, WIDTH).double()
        logits, label = scale * torch.randn(1, VOCAB).double(), torch.tensor([0])
        exact = loss_of(hidden, weight, label, MentorLogits(logits), divergence=divergence).divergence.item()
        kept = top_k_of(logits, k, temperature=1.0)
        bound = loss_of(hidden, weight, label, kept, divergence=divergence).divergence.item()
        assert 0 <= bound <= exact * (1 + 1e-12) + 1e-12

    def test_more_tokens_tell_more(self, loss_of: Loss) -> None:
        hidden, weight = torch.randn(1, WIDTH).double(), torch.randn(VOCAB, WIDTH).double()
        logits, label = torch.randn(1, VOCAB).double(), torch.tensor([0])
        values = [
            loss_of(hidden, weight, label, top_k_of(logits, k, temperature=1.0)).divergence.item()
            for k in (1, 2, 4, 8, 16, 32, VOCAB)
        ]
        assert values == sorted(values)
        assert values[0] < values[-1]

    @pytest.mark.parametrize("divergence", TOP_K_DIVERGENCES)
    @pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
    def test_stored_in_half_precision(self, loss_of: Loss, divergence: str, stored: torch.dtype) -> None:
        """Rounded log-probabilities no longer sum to 1; the divergence is one all the same."""
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
        labels = labels_of(ignored=False)
        kept = top_k_of(hidden @ weight.T, 8, temperature=1.0)
        rounded = MentorTopK(kept.log_probs_NK.to(stored), kept.indices_NK, kept.log_tail_N.to(stored), VOCAB, 1.0)
        for token in range(TOKENS):
            row = slice(token, token + 1)
            value = loss_of(hidden[row], weight, labels[row], rounded.rows(row), divergence=divergence).divergence
            assert 0 <= value.item() < 1e-3

    def test_a_sure_mentor_keeps_its_tail(self, loss_of: Loss) -> None:
        logits = torch.zeros(1, VOCAB)
        logits[0, 3] = 30.0
        kept = top_k_of(logits, 1, temperature=1.0)
        assert kept.log_tail_N.item() == pytest.approx(math.log(VOCAB - 1) - 30, abs=1e-4)
        sums = loss_of(torch.ones(1, 1), logits.T.clone(), torch.tensor([3]), kept, divergence="reverse_kl")
        assert sums.divergence.item() == pytest.approx(0, abs=1e-6)


@both_losses
class TestVocabularies:
    @pytest.mark.parametrize("divergence", DIVERGENCES)
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    @pytest.mark.parametrize(("student_vocab", "mentor_vocab"), [(VOCAB + 8, VOCAB), (VOCAB, VOCAB + 8)])
    def test_only_the_shared_part_is_compared(
        self, loss_of: Loss, divergence: str, temperature: float, student_vocab: int, mentor_vocab: int
    ) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(student_vocab, WIDTH, dtype=torch.float64)
        labels, mentor = labels_of(), mentor_of("logits", temperature, vocab=mentor_vocab)
        how: dict[str, Any] = {"temperature": temperature, "divergence": divergence}
        mixed = loss_of(hidden, weight, labels, mentor, kd_weight=1.0, **how)
        shared = loss_of(
            hidden, weight[:VOCAB], labels, MentorLogits(mentor.logits_NV[:, :VOCAB]), kd_weight=1.0, **how
        )
        torch.testing.assert_close(mixed.divergence, shared.divergence, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(*gradients(mixed, [hidden]), *gradients(shared, [hidden]), rtol=1e-9, atol=1e-9)
        alone = loss_of(hidden, weight, labels, None)
        torch.testing.assert_close(mixed.ce, alone.ce, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("form", ["hidden_bias", "top_k", "several"])
    @pytest.mark.parametrize("mentor_vocab", [VOCAB - 6, VOCAB + 6])
    def test_every_form(self, loss_of: Loss, form: str, mentor_vocab: int) -> None:
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        shared = min(VOCAB, mentor_vocab)
        if form == "top_k":
            mentor: Any = top_k_of(torch.randn(TOKENS, mentor_vocab).double(), 6, temperature=1.0, vocab_size=shared)
        else:
            mentor = mentor_of(form, 1.0, vocab=mentor_vocab)
        labels = labels_of(vocab=shared)
        plain = distillation_loss(F.linear(hidden, weight), labels, mentor)
        assert_same(loss_of(hidden, weight, labels, mentor), plain, [hidden, weight], 1e-9)


@both_losses
class TestSafety:
    @settings(max_examples=30, deadline=None)
    @given(
        divergence=st.sampled_from(DIVERGENCES),
        noise=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
        scale=st.sampled_from([0.1, 1.0, 20.0]),
        temperature=st.sampled_from([0.5, 1.0, 4.0]),
        seed=st.integers(0, 1000),
    )
    def test_never_negative_in_half_precision(
        self, loss_of: Loss, divergence: str, noise: float, scale: float, temperature: float, seed: int
    ) -> None:
        torch.manual_seed(seed)
        hidden = torch.randn(1, 16, dtype=torch.bfloat16, requires_grad=True)
        weight = (scale * torch.randn(2000, 16)).bfloat16().requires_grad_()
        near = MentorHidden((hidden + noise * torch.randn(1, 16)).detach().bfloat16(), weight.detach())
        sums = loss_of(hidden, weight, torch.tensor([7]), near, divergence=divergence, temperature=temperature)
        assert sums.loss.dtype == torch.float32
        assert sums.divergence.item() >= 0
        for gradient in torch.autograd.grad(sums.loss, [hidden, weight]):
            assert gradient.dtype == torch.bfloat16
            assert gradient.isfinite().all()

    @pytest.mark.parametrize("divergence", DIVERGENCES)
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    @pytest.mark.parametrize("minus", [-math.inf, torch.finfo(torch.float32).min])
    def test_ruled_out_tokens(self, loss_of: Loss, divergence: str, temperature: float, minus: float) -> None:
        """Entries masked on both sides, on the student's alone and on the mentor's alone."""
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        bias = torch.zeros(VOCAB)
        bias[[0, 1]] = minus
        bias.requires_grad_()
        logits = torch.randn(TOKENS, VOCAB)
        logits[:, [0, 2]] = minus
        labels = labels_of()
        labels[(labels >= 0) & (labels < 3)] = 3
        how: dict[str, Any] = {"divergence": divergence, "temperature": temperature, "bias": bias}
        sums = loss_of(hidden, weight, labels, MentorLogits(logits), **how)
        assert sums.loss.isfinite()
        assert sums.divergence.item() >= 0
        of_all = torch.autograd.grad(sums.loss, [hidden, weight, bias], retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in of_all)
        assert torch.equal(of_all[2][:2], torch.zeros(2))
        assert_same(sums, plain_from_hidden(hidden, weight, labels, MentorLogits(logits), **how), [hidden], 1e-5)

    def test_masked_alike_is_as_good_as_absent(self, loss_of: Loss) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
        logits, bias, labels = torch.randn(TOKENS, VOCAB), torch.zeros(VOCAB), labels_of(vocab=VOCAB - 4)
        absent = loss_of(hidden, weight[:-4], labels, MentorLogits(logits[:, :-4]))
        bias[-4:] = -math.inf
        logits[:, -4:] = -math.inf
        torch.testing.assert_close(loss_of(hidden, weight, labels, MentorLogits(logits), bias=bias).loss, absent.loss)

    def test_a_label_that_cannot_happen_is_not_hidden(self, loss_of: Loss) -> None:
        bias = torch.tensor([0.0, -math.inf, 0.0])
        assert loss_of(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([1]), bias=bias).ce.item() == math.inf

    def test_nan_is_not_hidden(self, loss_of: Loss) -> None:
        hidden = torch.ones(2, 2)
        hidden[0, 0] = torch.nan
        sums = loss_of(hidden, torch.ones(3, 2), torch.tensor([0, 1]), MentorLogits(torch.zeros(2, 3)))
        assert sums.loss.isnan()
        assert sums.divergence.isnan()

    def test_mentor_gets_no_gradient(self, loss_of: Loss) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH)
        mentor = MentorLogits(torch.randn(TOKENS, VOCAB, requires_grad=True))
        loss_of(hidden, weight, labels_of(), mentor).loss.backward()
        assert hidden.grad is not None
        assert mentor.logits_NV.grad is None

    @pytest.mark.parametrize("form", ["logits", "hidden_bias", "top_k"])
    def test_inputs_are_left_alone(self, loss_of: Loss, form: str) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCAB, WIDTH, requires_grad=True)
        mentor, labels = mentor_of(form, 2.0, torch.float32), labels_of()
        fields = [getattr(mentor, name) for name in type(mentor).__slots__]
        tensors = [hidden, weight, labels, *(field for field in fields if isinstance(field, Tensor))]
        before = [tensor.detach().clone() for tensor in tensors]
        for divergence in TOP_K_DIVERGENCES:
            loss_of(hidden, weight, labels, mentor, temperature=2.0, divergence=divergence).loss.backward()
        assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))

    def test_a_mentor_in_another_type(self, loss_of: Loss) -> None:
        hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
        labels, mentor = labels_of(), mentor_of("hidden_bias", 1.0, torch.float32)
        halved = MentorHidden(mentor.hidden_NE.bfloat16(), mentor.weight_VE, mentor.bias_V)  # the store's states
        exact = loss_of(hidden, weight, labels, mentor).loss
        torch.testing.assert_close(loss_of(hidden, weight, labels, halved).loss, exact, rtol=0.01, atol=0)
        halved = MentorHidden(halved.hidden_NE, mentor.weight_VE.bfloat16(), mentor.bias_V.bfloat16())
        torch.testing.assert_close(loss_of(hidden, weight, labels, halved).loss, exact, rtol=0.02, atol=0)


class TestHalfPrecision:
    @pytest.mark.parametrize("how", ["autocast", "bfloat16"])
    @pytest.mark.parametrize("form", ["none", "hidden_bias", "logits"])
    def test_fused_is_as_close_to_the_truth_as_plain(self, how: str, form: str) -> None:
        """In bfloat16 both are off; fused, in many chunks, by no more."""
        tokens, width, vocab = 512, 32, 200
        hidden, weight = torch.randn(tokens, width), torch.randn(vocab, width) * width**-0.5
        bias, labels = torch.randn(vocab), labels_of(tokens, vocab)
        states, head = torch.randn(tokens, 16), torch.randn(vocab, 16)
        exact_mentor: dict[str, Any] = {
            "none": None,
            "logits": MentorLogits((states @ head.T).double()),
            "hidden_bias": MentorHidden(states.double(), head.double(), bias.double()),
        }
        mentor: dict[str, Any] = {
            "none": None,
            "logits": MentorLogits(states @ head.T),
            "hidden_bias": MentorHidden(states, head, bias),
        }
        exact_inputs = [x.double().requires_grad_() for x in (hidden, weight, bias)]
        exact = distillation_loss(F.linear(*exact_inputs), labels, exact_mentor[form], temperature=2.0)
        truth = [exact.loss, *torch.autograd.grad(exact.loss, exact_inputs)]

        def off(fused: bool) -> list[float]:
            dtype = torch.bfloat16 if how == "bfloat16" else torch.float32
            inputs = [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
            with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
                if fused:
                    sums = fused_distillation_loss(
                        *inputs[:2], labels, mentor[form], bias=inputs[2], temperature=2.0, chunk_tokens=16
                    )
                else:
                    sums = distillation_loss(F.linear(*inputs), labels, mentor[form], temperature=2.0)
            results = [sums.loss, *torch.autograd.grad(sums.loss, inputs)]
            assert [x.dtype for x in results] == [torch.float32, dtype, dtype, dtype]
            return [float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(results, truth, strict=True)]

        for fused, plain in zip(off(True), off(False), strict=True):
            assert fused < max(1.3 * plain, 0.002)
            assert fused < 0.02

    def test_a_wide_head_under_autocast(self) -> None:
        """Products are narrow, but a float32 head gets a float32 gradient; its vocabulary is more than one block."""
        hidden, weight = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(9000, WIDTH, requires_grad=True)
        labels = labels_of(vocab=9000)
        with torch.autocast("cpu", torch.bfloat16):
            sums = fused_distillation_loss(hidden, weight, labels, chunk_tokens=3)
        (actual,) = torch.autograd.grad(sums.loss, weight)
        (expected,) = torch.autograd.grad(distillation_loss(hidden @ weight.T, labels).loss, weight)
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() < 0.02 * expected.norm()


class TestRefusals:
    HIDDEN, WEIGHT, LABELS = torch.ones(3, 2), torch.ones(4, 2), torch.tensor([0, 1, 2])
    MENTOR = MentorLogits(torch.ones(3, 4))

    @both_losses
    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"kd_weight": 1.5}, "kd_weight must be in 0..1, got 1.5"),
            ({"kd_weight": math.nan}, "kd_weight"),
            ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
            ({"temperature": math.nan}, "temperature"),
            ({"divergence": "kl"}, "divergence must be one of forward_kl, reverse_kl, jsd, mse, soft_ce, got 'kl'"),
            ({"jsd_beta": 1.0}, "jsd_beta must lie between 0 and 1, got 1.0"),
        ],
    )
    def test_settings(self, loss_of: Loss, how: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            loss_of(self.HIDDEN, self.WEIGHT, self.LABELS, self.MENTOR, **how)

    @both_losses
    def test_shapes(self, loss_of: Loss) -> None:
        with pytest.raises(ValueError, match=r"labels must be one for each of the student's 3 rows, got shape \(2,\)"):
            loss_of(self.HIDDEN, self.WEIGHT, self.LABELS[:2], self.MENTOR)
        with pytest.raises(ValueError, match="the mentor must have a row for each of the student's 3, got 2"):
            loss_of(self.HIDDEN, self.WEIGHT, self.LABELS, MentorLogits(torch.ones(2, 4)))

    @both_losses
    def test_top_k_of_another_kind(self, loss_of: Loss) -> None:
        kept = top_k_of(torch.randn(3, 4), 2, temperature=2.0)
        for divergence in ("mse", "soft_ce"):
            with pytest.raises(ValueError, match=f"{divergence} needs the mentor's whole distribution"):
                loss_of(self.HIDDEN, self.WEIGHT, self.LABELS, kept, temperature=2.0, divergence=divergence)
        with pytest.raises(ValueError, match=r"kept at temperature 2.0, the loss has 1.0"):
            loss_of(self.HIDDEN, self.WEIGHT, self.LABELS, kept)
        wide = top_k_of(torch.randn(3, 6), 2, temperature=1.0)
        with pytest.raises(
            ValueError, match="cover 6 vocabulary entries, all heads share 4: keep them with vocab_size=4"
        ):
            loss_of(self.HIDDEN, self.WEIGHT, self.LABELS, wide)

    def test_top_k_of_too_many(self) -> None:
        with pytest.raises(ValueError, match=r"k must be in 1..4 \(the vocabulary\), got 5"):
            top_k_of(torch.randn(3, 6), 5, temperature=1.0, vocab_size=4)

    def test_chunks_of_nothing(self) -> None:
        with pytest.raises(ValueError, match="chunk_tokens must be at least 1, or None, got 0"):
            fused_distillation_loss(self.HIDDEN, self.WEIGHT, self.LABELS, chunk_tokens=0)


@pytest.mark.gpu
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("autocast", [False, True])
def test_on_a_gpu(divergence: str, autocast: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    hidden = torch.randn(700, 64, device="cuda", requires_grad=True)
    weight = torch.randn(1000, 64, device="cuda", requires_grad=True)
    labels = torch.randint(1000, (700,), device="cuda")
    mentor = MentorHidden(torch.randn(700, 32, device="cuda"), torch.randn(1000, 32, device="cuda"))
    how: dict[str, Any] = {"temperature": 2.0, "divergence": divergence}
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        plain = distillation_loss(F.linear(hidden, weight), labels, mentor, **how)
        fused = fused_distillation_loss(hidden, weight, labels, mentor, **how)
    assert_same(fused, plain, [hidden, weight], 0.02 if autocast else 1e-4)


class TestLabelSmoothing:
    """Against cross-entropies of torch, in float64."""

    @pytest.mark.parametrize(
        ("form", "divergence"), [("none", "forward_kl"), ("hidden", "forward_kl"), ("top_k", "jsd")]
    )
    def test_plain_and_fused_are_the_oracle(self, form: str, divergence: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fused_losses, "CPU_BLOCK", 6 * VOCAB)
        hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(VOCAB, dtype=torch.float64, requires_grad=True)
        labels, mentor, inputs = labels_of(), mentor_of(form, 2.0), [hidden, weight, bias]
        how: dict[str, Any] = {"kd_weight": 0.4, "temperature": 2.0, "divergence": divergence}
        logits = F.linear(hidden, weight, bias)
        ce, smooth = (F.cross_entropy(logits, labels, reduction="sum", label_smoothing=e) for e in (0.0, 0.3))
        hard = distillation_loss(logits, labels, mentor, **how)
        share = 1.0 if mentor is None else 0.6
        sums = LossSums(hard.loss + share * (smooth - ce), hard.ce, hard.divergence, hard.tokens)
        expected = everything(sums, inputs)
        how |= {"label_smoothing": 0.3}
        plain = distillation_loss(F.linear(hidden, weight, bias), labels, mentor, **how)
        assert_close(everything(plain, inputs), expected, 1e-9)
        for chunk in (7, 20):
            fused = fused_distillation_loss(hidden, weight, labels, mentor, bias=bias, chunk_tokens=chunk, **how)
            assert_close(everything(fused, inputs), expected, 1e-9)

    @pytest.mark.parametrize("loss_of", [plain_loss, fused_loss_of])
    def test_a_number_worked_by_hand(self, loss_of: Loss) -> None:
        sums = loss_of(STUDENT, 0, None, label_smoothing=0.3)
        assert sums.loss.item() == pytest.approx(0.7 * LN2 + 0.3 * (LN2 + 2 * LN2 + 2 * LN2) / 3, rel=1e-6)
        assert sums.ce.item() == pytest.approx(LN2, rel=1e-6)

    @pytest.mark.parametrize("loss_of", [plain_loss, fused_loss_of])
    def test_impossible_tokens_have_no_share_of_the_uniform_distribution(self, loss_of: Loss) -> None:
        ruled_out, without = ([*STUDENT, 0.0], STUDENT)
        values = [loss_of(each, 0, None, label_smoothing=0.3).loss.item() for each in (ruled_out, without)]
        assert values[0] == pytest.approx(values[1], rel=1e-6)

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_no_share_is_refused(self, share: float) -> None:
        with pytest.raises(ValueError, match="label_smoothing must be at least 0 and below 1"):
            distillation_loss(torch.ones(1, 2), torch.tensor([0]), label_smoothing=share)
