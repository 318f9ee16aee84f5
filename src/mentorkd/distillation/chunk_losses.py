"""The loss of chunk likelihoods: a mentor and a student of any two vocabularies, compared on pieces of the text (`chunks`).

    loss = (1 - w) CE(labels) + w sum over the chunks of D(x, y)        ALM, arXiv:2503.20083

A token that no mentor labels has nothing but its cross-entropy, so it has this in full: 1 in place of 1 - w.

x and y are the mentor's and the student's negative log-likelihoods of a chunk, at temperature 1. D is the divergence of two
events, "this text" and "another": with p = exp(-x / tau) and q = exp(-y / tau),

    D = tau KL(p || q) = p (y - x) + tau (1 - p) ln((1 - p) / (1 - q))      and for tau -> infinity      y - x + x ln(x / y)

which is 0 at x = y and positive elsewhere. Its gradient on y, (p - q) / (1 - q), in the limit 1 - x / y, is finite, but a student
that is sure has a small y. So log-probabilities are computed with a small relative error where they are near 0:
ln p(label) = -softplus(logsumexp(logits of all others) - logit of the label), in place of a difference of two large numbers.

Sums and names are those of `losses`; C is the number of chunks in shapes of chunks, the tokens of a fused chunk in `[C, V]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mentorkd.distillation.fused_losses import (
    add_product,
    blocks_of,
    even_chunk,
    product,
    zeros_to_add_to,
)
from mentorkd.distillation.losses import RULED_OUT, LossSums, in_full_precision

LEAST = 1e-20
"""Smallest negative log-likelihood of a chunk, in nats: the gradient divides by it."""


@dataclass(frozen=True, slots=True, eq=False)
class MentorChunks:
    """The mentor's likelihoods of the chunks of some rows, one row after the other."""

    log_probs_C: Tensor
    """Log-likelihoods in nats, at temperature 1; NaN for a chunk without a label, which adds nothing to the divergence. None counts
    as less than `RULED_OUT`, so that the divergence is finite where a mentor rules a text out."""
    tokens_C: Tensor
    """The student's target tokens in each chunk."""
    tokens: int | None = None
    """The sum of `tokens_C`; None where it has to be read from the device."""

    @property
    def length(self) -> int:
        return int(self.tokens_C.sum()) if self.tokens is None else self.tokens


WeightedChunks: TypeAlias = Sequence[tuple[float, MentorChunks]]
"""The chunks of each mentor, with its share."""


def chunk_distillation_loss(
    log_probs_N: Tensor, mentors: WeightedChunks, *, kd_weight: float, chunk_temperature: float | None
) -> LossSums:
    """The loss of a student with these log-probabilities of its labels (`label_log_probs`).

    `kd_weight` is w, `chunk_temperature` tau (None is the limit). ValueError for numbers or chunks that do not fit.
    """
    if not 0 <= kd_weight <= 1:
        raise ValueError(f"kd_weight must be in 0..1, got {kd_weight}")
    if chunk_temperature is not None and not 0 < chunk_temperature < float("inf"):
        raise ValueError(f"chunk_temperature must be positive and finite, or None, got {chunk_temperature}")
    ce, total = -log_probs_N.sum(), chunk_divergence(log_probs_N, mentors, chunk_temperature)
    alone = -log_probs_N.masked_fill(_labelled(mentors), 0).sum()
    loss = (1 - kd_weight) * ce + kd_weight * (total + alone)
    return LossSums(loss, ce.detach(), total.detach(), len(log_probs_N))


def _labelled(mentors: WeightedChunks) -> Tensor:
    """Whether any mentor has a label of the chunk that a token is in [N]."""
    each = [
        (~chunks.log_probs_C.isnan()).repeat_interleave(chunks.tokens_C, output_size=chunks.length)
        for _, chunks in mentors
    ]
    return torch.stack(each).any(0)


def chunk_divergence(log_probs_N: Tensor, mentors: WeightedChunks, temperature: float | None) -> Tensor:
    """Sum of the chunks' D, each mentor's times its share; ValueError if its chunks have another number of tokens."""
    return torch.stack(
        [share * _divergences(log_probs_N, chunks, temperature).sum() for share, chunks in mentors]
    ).sum()


def _divergences(log_probs_N: Tensor, chunks: MentorChunks, temperature: float | None) -> Tensor:
    """D of each chunk [C], 0 for one without a label."""
    if chunks.length != len(log_probs_N):
        raise ValueError(
            f"the mentor's chunks must hold the student's {len(log_probs_N)} target tokens, got {chunks.length}"
        )
    student_C = torch.segment_reduce(log_probs_N, "sum", lengths=chunks.tokens_C, unsafe=True)
    unlabelled_C = chunks.log_probs_C.isnan()
    mentor_C = chunks.log_probs_C.to(student_C.dtype).masked_fill(unlabelled_C, 0).clamp(min=RULED_OUT)
    return binary_divergence(-student_C, -mentor_C, temperature).masked_fill(unlabelled_C, 0)


def binary_divergence(student_C: Tensor, mentor_C: Tensor, temperature: float | None) -> Tensor:
    """D of negative log-likelihoods y (the student's) and x, differentiable by y."""
    y, x = student_C.clamp(min=LEAST), mentor_C.clamp(min=LEAST)
    if temperature is None:
        value_C = y - x + x * (x.log() - y.log())
    else:
        miss, student_miss = (-torch.expm1(-each / temperature) for each in (x, y))
        value_C = torch.exp(-x / temperature) * (y - x) + temperature * miss * (miss.log() - student_miss.log())
    # Rounding can put a value just below 0. Only the value needs mending: the gradient is correct.
    return value_C - value_C.detach().clamp(max=0)


def label_log_probs(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Log-probabilities [N] of the labels, in float32 or better: the readable form, on whole logits."""
    return F.logsigmoid(_margin(in_full_precision(logits_NV), labels_N)[0])


def _margin(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit minus the logsumexp of all others [N], and these: the logits, with -inf at the labels."""
    label_N1 = labels_N[:, None]
    others_NV = logits_NV.scatter(1, label_N1, -torch.inf)
    return logits_NV.gather(1, label_N1)[:, 0] - others_NV.logsumexp(-1), others_NV


def fused_label_log_probs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias: Tensor | None = None,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Log-probabilities [N] of the labels under the logits `hidden_ND @ weight_VD.T + bias`, which are never whole.

    Beside the gradients, the extra memory is one float32 (or better) buffer [chunk, V]. The backward pass computes the logits
    again. Types, `chunk_tokens` and what gradients flow to are as in `fused_distillation_loss`.
    """
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, or None, got {chunk_tokens}")
    chunk = chunk_tokens or even_chunk(labels_N, len(weight_VD))
    return _LabelLogProbs.apply(hidden_ND, weight_VD, bias, labels_N, chunk)  # type: ignore[no-any-return, no-untyped-call]


class _LabelLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, chunk: int
    ) -> Tensor:
        device = hidden_ND.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        ctx.product_type, ctx.chunk = autocast or hidden_ND.dtype, chunk
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N)
        with torch.autocast(device, enabled=False):
            head_VD, buffer_CV = weight_VD.to(ctx.product_type), _buffer(hidden_ND, weight_VD, labels_N, chunk)
            log_probs_N = buffer_CV.new_empty(len(labels_N))
            for start in range(0, len(labels_N), chunk):
                rows = slice(start, start + chunk)
                logits_CV = product(hidden_ND[rows].to(ctx.product_type), head_VD, bias_V, buffer_CV)
                log_probs_C, labels_C = log_probs_N[rows], labels_N[rows]
                for block in blocks_of(logits_CV):
                    log_probs_C[block] = label_log_probs(logits_CV[block], labels_C[block])
        return log_probs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.zeros_like(hidden_ND) if to_hidden else None
        weight_gradient = zeros_to_add_to(weight_VD) if to_weight else None
        bias_gradient = zeros_to_add_to(bias_V) if to_bias else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            head_VD, buffer_CV = weight_VD.to(ctx.product_type), _buffer(hidden_ND, weight_VD, labels_N, ctx.chunk)
            ruled_out_V = None if bias_V is None else bias_V <= RULED_OUT
            for start in range(0, len(labels_N), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                hidden_CD, labels_C, factor_C = hidden_ND[rows].to(ctx.product_type), labels_N[rows], factor_N[rows]
                gradient_CV = product(hidden_CD, head_VD, bias_V, buffer_CV)
                for block in blocks_of(gradient_CV):
                    _to_gradient(gradient_CV[block], labels_C[block], factor_C[block])
                if ruled_out_V is not None:
                    gradient_CV.masked_fill_(ruled_out_V, 0)
                if bias_gradient is not None:
                    bias_gradient += gradient_CV.sum(0)
                product_CV = gradient_CV.to(ctx.product_type)
                if hidden_gradient is not None:
                    hidden_gradient[rows] = product_CV @ head_VD
                if weight_gradient is not None:
                    add_product(weight_gradient, product_CV, hidden_CD)
        return (
            hidden_gradient,
            None if weight_gradient is None else weight_gradient.to(weight_VD.dtype),
            None if bias_gradient is None else bias_gradient.to(bias_V.dtype),
            None,
            None,
        )


def _buffer(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunk: int) -> Tensor:
    dtype = torch.promote_types(hidden_ND.dtype, torch.float32)
    return hidden_ND.new_empty(min(chunk, len(labels_N)), len(weight_VD), dtype=dtype)


def _to_gradient(logits_BV: Tensor, labels_B: Tensor, factor_B: Tensor) -> None:
    """Overwrite the logits by their gradient of the sum of factor times log-probability: factor (onehot - softmax)."""
    margin_B, others_BV = _margin(logits_BV, labels_B)
    pull_B1 = (factor_B * torch.sigmoid(-margin_B))[:, None]  # 1 - p(label), with a small relative error
    logits_BV.copy_(others_BV.softmax(-1).mul_(-pull_B1)).scatter_(1, labels_B[:, None], pull_B1)
