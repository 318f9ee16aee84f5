"""The distillation loss from hidden states: the same numbers as `losses`, without the logits [tokens, vocabulary].

Walks the target tokens in chunks and computes the loss and its gradient in one pass, so the logits of a chunk are made
once and never kept; the backward pass has only to scale the gradient.

With z the student's logits, a = z / tau, s and m the distributions softmax(a) and the mentor's, the gradients are

    CE            dz = softmax(z) - onehot(label)
    forward_kl    da = s - m                            soft_ce the same
    reverse_kl    da = s (log s - log m - KL(s || m))
    jsd           da = (1 - beta) s (log s - log x - KL(s || x))
    mse           da = 2 (a - a_mentor) / V
    top k         da as above at the kept tokens; the tail's own shared out by s within the tail

Names end in their shape: N target tokens, C tokens of a chunk, V vocabulary, D student's width, K kept tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.distillation.losses import (
    RULED_OUT,
    Divergence,
    LossSettings,
    LossSums,
    MentorHidden,
    MentorLogits,
    Mentors,
    MentorTargets,
    MentorTopK,
    WeightedTargets,
    in_full_precision,
    mixture,
    shared_vocabulary,
    top_k_events,
    weighted_targets,
)

__all__ = ["fused_distillation_loss"]

CPU_CHUNK, GPU_CHUNK = 256, 512
"""Most tokens of a chunk. 256 ran fastest on a CPU (`benchmarks/loss_memory.py --chunk`) with 32,128 and with 151,936
vocabulary entries; a GPU takes larger products to fill."""


def fused_distillation_loss(
    student_hidden_ND: Tensor,
    student_weight_VD: Tensor,
    labels_N: Tensor,
    mentor: Mentors = None,
    *,
    bias: Tensor | None = None,
    kd_weight: float = 0.3,
    temperature: float = 1.0,
    tau_squared: bool = True,
    divergence: Divergence = "forward_kl",
    jsd_beta: float = 0.5,
    chunk_tokens: int | None = None,
) -> LossSums:
    """`distillation_loss` of the logits `student_hidden_ND @ student_weight_VD.T + bias`.

    Takes extra memory for 4 float32 (or better) buffers [chunk, V], beside the gradients. `chunk_tokens` bounds the
    chunk; None chooses. Products are computed in the type of the hidden states (of autocast, under autocast), all else,
    and the sums of gradients over chunks, in float32 or better. Gradients flow to hidden states, weight and bias, where
    asked for, and cannot be differentiated again. ValueError for settings or shapes that do not fit.
    """
    how = LossSettings(kd_weight, temperature, tau_squared, divergence, jsd_beta)
    sides = weighted_targets(mentor, labels_N, len(student_hidden_ND), how)
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, or None, got {chunk_tokens}")
    target_N = labels_N != IGNORE_INDEX
    if not bool(target_N.all()):
        student_hidden_ND, labels_N = student_hidden_ND[target_N], labels_N[target_N]
        sides = [(share, side.rows(target_N)) for share, side in sides]
    chunk = chunk_tokens or _even_chunk(len(labels_N), CPU_CHUNK if labels_N.device.type == "cpu" else GPU_CHUNK)
    loss, ce, total = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        student_hidden_ND, student_weight_VD, bias, labels_N, sides, how, chunk, torch.is_grad_enabled()
    )
    return LossSums(loss, ce, total, len(labels_N))


def _even_chunk(tokens: int, longest: int) -> int:
    """Chunks of equal size: a short last one would be as slow as a full one."""
    return math.ceil(tokens / math.ceil(tokens / longest)) if tokens else longest


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        sides: WeightedTargets,
        how: LossSettings,
        chunk: int,
        differentiate: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden_ND.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        to_hidden, to_weight, to_bias = (differentiate and needed for needed in ctx.needs_input_grad[:3])
        hidden_gradient = torch.zeros_like(hidden_ND) if to_hidden else None
        weight_gradient = _zeros_to_add_to(weight_VD) if to_weight else None
        bias_gradient = _zeros_to_add_to(bias_V) if to_bias and bias_V is not None else None

        # Autocast would put products in its type but also their sums; here the types are chosen by hand.
        with torch.autocast(device, enabled=False):
            product_type = autocast or hidden_ND.dtype
            head_VD = weight_VD.to(product_type)
            sides = [(share, _with_head_in(side, autocast)) for share, side in sides]
            ruled_out_V = None if bias_V is None else bias_V <= RULED_OUT
            buffers = _Buffers(hidden_ND, min(chunk, len(labels_N)) * len(head_VD), 4 if sides else 2)
            ce, total = buffers.flat[0].new_zeros(()), buffers.flat[0].new_zeros(())
            for start in range(0, len(labels_N), chunk):
                rows = slice(start, start + chunk)
                hidden_CD = hidden_ND[rows].to(product_type)
                logits_CV = _product(hidden_CD, head_VD, bias_V, buffers.take(0, len(hidden_CD), len(head_VD)))
                sides_C = [(share, side.rows(rows)) for share, side in sides]
                ce_C, total_C, gradient_CV = _loss_and_gradient(logits_CV, labels_N[rows], sides_C, how, buffers)
                ce += ce_C.sum()
                total += total_C.sum()
                if ruled_out_V is not None:
                    gradient_CV.masked_fill_(ruled_out_V, 0)
                if bias_gradient is not None:
                    bias_gradient += gradient_CV.sum(0)
                product_CV = gradient_CV.to(product_type)
                if hidden_gradient is not None:
                    hidden_gradient[rows] = product_CV @ head_VD
                if weight_gradient is not None:
                    _add_product(weight_gradient, product_CV, hidden_CD)

        ctx.save_for_backward(
            hidden_gradient,
            None if weight_gradient is None else weight_gradient.to(weight_VD.dtype),
            None if bias_gradient is None or bias_V is None else bias_gradient.to(bias_V.dtype),
        )
        ctx.mark_non_differentiable(ce, total)
        loss = (1 - how.kd_weight) * ce + how.kd_scale * total if sides else ce.clone()
        return loss, ce, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In place unless the graph is kept for another backward pass: a second [V, D] would be the largest tensor here.
        if _graph_is_kept():
            scaled = [None if x is None else x * factor for x in ctx.saved_tensors]
        else:
            scaled = [None if x is None else x.mul_(factor) for x in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)


def _graph_is_kept() -> bool:
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or bool(asked())


def _zeros_to_add_to(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def _with_head_in(side: MentorTargets, dtype: torch.dtype | None) -> MentorTargets:
    """The side, with its head converted once and not once a chunk."""
    if dtype is None or not isinstance(side, MentorHidden):
        return side
    return MentorHidden(side.hidden_NE, side.weight_VE.to(dtype), side.bias_V)


class _Buffers:
    """Memory for [rows, columns] in full precision, used again by every chunk: fresh pages would cost time."""

    def __init__(self, like: Tensor, size: int, count: int) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.flat = [like.new_empty(size, dtype=dtype) for _ in range(count)]

    def take(self, which: int, rows: int, columns: int) -> Tensor:
        return self.flat[which][: rows * columns].view(rows, columns)


def _product(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, out_CV: Tensor) -> Tensor:
    hidden_CD = hidden_CD.to(weight_VD.dtype)
    if hidden_CD.dtype == out_CV.dtype:
        torch.mm(hidden_CD, weight_VD.T, out=out_CV)
    else:
        out_CV.copy_(hidden_CD @ weight_VD.T)
    return out_CV if bias_V is None else out_CV.add_(bias_V)


def _add_product(total_VD: Tensor, gradient_CV: Tensor, hidden_CD: Tensor) -> None:
    """total += gradient^T hidden; in blocks of the vocabulary where the product's type is narrower than the total's."""
    if total_VD.dtype == gradient_CV.dtype:
        total_VD.addmm_(gradient_CV.T, hidden_CD)
        return
    for start in range(0, len(total_VD), 8192):
        block = slice(start, start + 8192)
        total_VD[block] += gradient_CV[:, block].T @ hidden_CD


def _loss_and_gradient(
    logits_CV: Tensor, labels_C: Tensor, sides: WeightedTargets, how: LossSettings, buffers: _Buffers
) -> tuple[Tensor, Tensor, Tensor]:
    """CE and D of each token, and the loss's gradient on `logits_CV`, which lie in buffer 0 and are overwritten."""
    rows, vocab = logits_CV.shape
    label_C1 = labels_C[:, None]
    impossible_C1 = logits_CV.gather(1, label_C1) == -torch.inf
    log_probs_CV = torch.log_softmax(logits_CV.clamp_(min=RULED_OUT), -1, out=buffers.take(1, rows, vocab))
    ce_C = -log_probs_CV.gather(1, label_C1).masked_fill(impossible_C1, -torch.inf)[:, 0]
    total_C = torch.zeros_like(ce_C)
    minus_one_C1 = ce_C.new_full((rows, 1), -1)
    if not sides:
        return ce_C, total_C, log_probs_CV.exp_().scatter_add_(1, label_C1, minus_one_C1)

    shared = shared_vocabulary(vocab, sides)
    if how.divergence == "mse":
        student_CV, gradient_CV, free = logits_CV[:, :shared], log_probs_CV.exp_(), (2, 3)
    elif how.temperature == 1 and shared == vocab:
        student_CV, gradient_CV, free = log_probs_CV, torch.exp(log_probs_CV, out=logits_CV), (2, 3)
    else:
        scaled_CV = torch.div(logits_CV[:, :shared], how.temperature, out=buffers.take(2, rows, shared))
        student_CV = torch.log_softmax(scaled_CV, -1, out=buffers.take(3, rows, shared))
        gradient_CV, free = log_probs_CV.exp_(), (0, 2)
    gradient_CV.scatter_add_(1, label_C1, minus_one_C1).mul_(1 - how.kd_weight)
    spare_CV, scratch_CV = (buffers.take(which, rows, shared) for which in free)
    for share, side in sides:
        value_C, pull_CV = _divergence_and_gradient(student_CV, side, how, spare_CV, scratch_CV)
        total_C += share * value_C.clamp(min=0)
        gradient_CV[:, :shared].add_(pull_CV, alpha=share * how.kd_scale / how.temperature)
    return ce_C, total_C, gradient_CV


def _divergence_and_gradient(
    student_CV: Tensor, side: MentorTargets, how: LossSettings, spare_CV: Tensor, scratch_CV: Tensor
) -> tuple[Tensor, Tensor]:
    """D of each token and its gradient on the student's logits / tau, in one of the two buffers."""
    if isinstance(side, MentorTopK):
        return _top_k_and_gradient(student_CV, side, how, spare_CV)
    if isinstance(side, MentorLogits):
        spare_CV.copy_(side.logits_NV[:, : spare_CV.shape[1]])
    else:
        _product(side.hidden_NE, *side.head(spare_CV.shape[1]), spare_CV)
    spare_CV.clamp_(min=RULED_OUT)
    if how.divergence == "mse":
        return _formula(student_CV, spare_CV, how, scratch_CV)
    if how.temperature != 1:
        spare_CV.div_(how.temperature)
    return _formula(student_CV, torch.log_softmax(spare_CV, -1, out=scratch_CV), how, spare_CV)


def _top_k_and_gradient(
    student_CV: Tensor, side: MentorTopK, how: LossSettings, spare_CV: Tensor
) -> tuple[Tensor, Tensor]:
    kept_CK = student_CV.gather(1, side.indices_NK)
    tail_CV = spare_CV.copy_(student_CV).scatter_(1, side.indices_NK, RULED_OUT)
    tail_C = tail_CV.logsumexp(-1)
    student = top_k_events(kept_CK, tail_C)
    mentor = top_k_events(in_full_precision(side.log_probs_NK), in_full_precision(side.log_tail_N)).to(student.dtype)
    value_C, pull = _formula(student, mentor, how, torch.empty_like(student))
    within_tail_CV = tail_CV.sub_(tail_C[:, None]).exp_()
    return value_C, within_tail_CV.mul_(pull[:, -1:]).scatter_(1, side.indices_NK, pull[:, :-1])


def _formula(student_CV: Tensor, mentor_CV: Tensor, how: LossSettings, scratch_CV: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence and its gradient on logits / tau; overwrites `mentor_CV` and `scratch_CV`, not `student_CV`."""
    match how.divergence:
        case "forward_kl" | "soft_ce":
            probs_CV = torch.exp(mentor_CV, out=scratch_CV)
            is_kl = how.divergence == "forward_kl"
            gap_CV = mentor_CV.sub_(student_CV) if is_kl else torch.neg(student_CV, out=mentor_CV)
            value_C = gap_CV.mul_(probs_CV).sum(-1)
            return value_C, torch.exp(student_CV, out=mentor_CV).sub_(probs_CV)
        case "reverse_kl":
            return _mean_and_gradient(torch.sub(student_CV, mentor_CV, out=mentor_CV), student_CV, scratch_CV)
        case "jsd":
            mix_CV = mixture(student_CV, mentor_CV, how.jsd_beta)
            probs_CV = torch.exp(mentor_CV, out=scratch_CV)
            mentor_to_mix_C = mentor_CV.sub_(mix_CV).mul_(probs_CV).sum(-1)
            gap_CV = torch.sub(student_CV, mix_CV, out=mentor_CV)
            student_to_mix_C, pull_CV = _mean_and_gradient(gap_CV, student_CV, scratch_CV)
            beta = how.jsd_beta
            return beta * mentor_to_mix_C + (1 - beta) * student_to_mix_C, pull_CV.mul_(1 - beta)
        case "mse":
            ruled_out_CV = (student_CV <= RULED_OUT) | (mentor_CV <= RULED_OUT)
            gap_CV = torch.sub(student_CV, mentor_CV, out=mentor_CV).masked_fill_(ruled_out_CV, 0).div_(how.temperature)
            return torch.square(gap_CV, out=scratch_CV).mean(-1), gap_CV.mul_(2 / gap_CV.shape[1])


def _mean_and_gradient(gap_CV: Tensor, student_CV: Tensor, scratch_CV: Tensor) -> tuple[Tensor, Tensor]:
    """sum(s gap), and s (gap - sum(s gap)), for s = exp(student_CV)."""
    probs_CV = torch.exp(student_CV, out=scratch_CV)
    weighted_CV = gap_CV.mul_(probs_CV)
    mean_C = weighted_CV.sum(-1)
    return mean_C, weighted_CV.sub_(probs_CV.mul_(mean_C[:, None]))
