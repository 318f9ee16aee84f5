"""The distillation loss from hidden states: the same numbers as `losses`, without the logits [tokens, vocabulary].

The target tokens are walked in chunks. The loss and its gradient are computed in one pass, so the logits of a chunk are
computed once and never kept; the backward pass only scales the gradient.

Products with the heads are computed for a whole chunk, since large products are fast. What follows them is computed for a
few tokens of the chunk at a time, a block that fits into the processor's cache: the cross-entropy, whose gradient on the
student's logits z is softmax(z) - onehot(label), with label smoothing softmax(z) - (1 - e) onehot(label) - e / V, and the
divergence, whose gradient autograd derives from its function in `losses.DIVERGENCES`. `CLOSED_FORMS` holds the divergences
whose gradient is written out instead.

Names end in their shape: N target tokens, C tokens of a chunk, B tokens of a block, V vocabulary, D student's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mentorkd.distillation.losses import (
    RULED_OUT,
    LossSettings,
    LossSums,
    MentorHidden,
    MentorLogits,
    Mentors,
    MentorTargets,
    MentorTopK,
    WeightedTargets,
    at_targets,
    shared_vocabulary,
    temperature_scaled,
    token_divergence,
)
from mentorkd.models.device import memory_of, power_of_two

WeightedLogits: TypeAlias = Sequence[tuple[float, MentorLogits | MentorTopK]]

CPU_CHUNK, GPU_CHUNK, MOST_CHUNK = 256, 512, 8192
"""Most tokens of a chunk. 256 ran fastest on a CPU (`benchmarks/loss_memory.py --chunk`) with 32,128 and with 151,936
vocabulary entries; a GPU takes larger products to fill, and fewer calls: from 512 to 8192, as its memory allows."""

_MEMORY_SHARE = 1 / 64
"""Share of a CUDA device's memory that the buffers of a chunk's logits may take."""

CPU_BLOCK, GPU_BLOCK = 2**19, 2**24
"""Logits of a block: 2 MiB and 64 MiB in float32."""


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
    divergence: str = "forward_kl",
    jsd_beta: float = 0.5,
    label_smoothing: float = 0.0,
    ignored: bool = True,
    chunk_tokens: int | None = None,
) -> LossSums:
    """`distillation_loss` of the logits `student_hidden_ND @ student_weight_VD.T + bias`.

    Beside the gradients, the extra memory is one float32 (or better) buffer [chunk, V] of the student's logits, one of the
    logits of each mentor that does not give its top k, and about ten blocks. `chunk_tokens` bounds the chunk; None chooses.
    `ignored` is as in `distillation_loss`.
    Products are computed in the type of the hidden states (of autocast, under autocast), everything else, and the sums
    of gradients over chunks, in float32 or better. Gradients flow to hidden states, weight and bias, where they are
    required, and cannot be differentiated again. ValueError for settings or shapes that do not fit.
    """
    settings = LossSettings(kd_weight, temperature, tau_squared, divergence, jsd_beta, label_smoothing)
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, or None, got {chunk_tokens}")
    student_hidden_ND, labels_N, mentors = at_targets(student_hidden_ND, labels_N, mentor, settings, ignored)
    whole = [each.vocab_size for _, each in mentors if not isinstance(each, MentorTopK)]  # whose logits have a buffer
    chunk = chunk_tokens or even_chunk(labels_N, len(student_weight_VD) + sum(whole))
    loss, ce, total = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        student_hidden_ND, student_weight_VD, bias, labels_N, mentors, settings, chunk, torch.is_grad_enabled()
    )
    return LossSums(loss, ce, total, len(labels_N))


def even_chunk(labels_N: Tensor, entries: int) -> int:
    """Tokens of a chunk whose buffers have `entries` logits a token. Chunks are of equal size: a short last one would be as slow as a
    full one."""
    tokens, longest = len(labels_N), _longest_chunk(labels_N.device, entries)
    return math.ceil(tokens / math.ceil(tokens / longest)) if tokens else longest


def _longest_chunk(device: torch.device, entries: int) -> int:
    if device.type != "cuda":
        return CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
    # Of all memory, not of what is free: a training that is resumed must add up its gradients in the order of before.
    fitting = _MEMORY_SHARE * memory_of(device) / (4 * entries)
    return min(MOST_CHUNK, max(GPU_CHUNK, power_of_two(max(1, fitting))))


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        mentors: WeightedTargets,
        settings: LossSettings,
        chunk: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden_ND.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        to_hidden, to_weight, to_bias = (grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        differentiate = to_hidden or to_weight or to_bias
        hidden_gradient = torch.zeros_like(hidden_ND) if to_hidden else None
        weight_gradient = zeros_to_add_to(weight_VD) if to_weight else None
        bias_gradient = zeros_to_add_to(bias_V) if to_bias and bias_V is not None else None

        # Autocast would choose the type of the products but also of their sums; here the types are chosen by hand.
        with torch.autocast(device, enabled=False):
            product_type = autocast or hidden_ND.dtype
            head_VD = weight_VD.to(product_type)
            mentors = [(share, _with_head_in(targets, autocast)) for share, targets in mentors]
            ruled_out_V = None if bias_V is None else bias_V <= RULED_OUT
            buffer_type = torch.promote_types(hidden_ND.dtype, torch.float32)
            buffer_CV = hidden_ND.new_empty(min(chunk, len(labels_N)), len(head_VD), dtype=buffer_type)
            mentor_buffers = [_buffer_like(buffer_CV, targets, mentors) for _, targets in mentors]
            ce, hard, total = (buffer_CV.new_zeros(()) for _ in range(3))
            for start in range(0, len(labels_N), chunk):
                rows = slice(start, start + chunk)
                hidden_CD = hidden_ND[rows].to(product_type)
                logits_CV = product(hidden_CD, head_VD, bias_V, buffer_CV)
                mentors_C = [
                    (share, _with_logits(targets.rows(rows), buffer))
                    for (share, targets), buffer in zip(mentors, mentor_buffers, strict=True)
                ]
                ce_C, hard_C, total_C = _loss_and_gradient(
                    logits_CV, labels_N[rows], mentors_C, settings, differentiate
                )
                ce += ce_C.sum()
                hard += hard_C.sum()
                total += total_C.sum()
                if not differentiate:
                    continue
                gradient_CV = logits_CV
                if ruled_out_V is not None:
                    gradient_CV.masked_fill_(ruled_out_V, 0)
                if bias_gradient is not None:
                    bias_gradient += gradient_CV.sum(0)
                product_CV = gradient_CV.to(product_type)
                if hidden_gradient is not None:
                    hidden_gradient[rows] = product_CV @ head_VD
                if weight_gradient is not None:
                    add_product(weight_gradient, product_CV, hidden_CD)

        ctx.save_for_backward(
            hidden_gradient,
            None if weight_gradient is None else weight_gradient.to(weight_VD.dtype),
            None if bias_gradient is None or bias_V is None else bias_gradient.to(bias_V.dtype),
        )
        ctx.mark_non_differentiable(ce, total)
        loss = (1 - settings.kd_weight) * hard + settings.kd_scale * total if mentors else hard
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
    keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keep_graph is None or bool(keep_graph())


def zeros_to_add_to(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def _with_head_in(targets: MentorTargets, dtype: torch.dtype | None) -> MentorTargets:
    """The targets, with the mentor's head converted once and not once a chunk."""
    if dtype is None or not isinstance(targets, MentorHidden):
        return targets
    return MentorHidden(targets.hidden_NE, targets.weight_VE.to(dtype), targets.bias_V)


def _buffer_like(buffer_CV: Tensor, targets: MentorTargets, mentors: WeightedTargets) -> Tensor | None:
    """Memory for a mentor's logits on the vocabulary that all heads share; None for a mentor that gives its top k."""
    if isinstance(targets, MentorTopK):
        return None
    return buffer_CV.new_empty(len(buffer_CV), shared_vocabulary(buffer_CV.shape[1], mentors))


def _with_logits(targets: MentorTargets, buffer: Tensor | None) -> MentorLogits | MentorTopK:
    """The targets as `token_divergence` reads them, with logits in `buffer`, which serves all chunks: fresh pages cost time.

    Logits are clamped without a look at them, since a GPU would have to wait for the answer.
    """
    if isinstance(targets, MentorTopK):
        return targets
    assert buffer is not None
    if isinstance(targets, MentorHidden):
        logits_CV = product(targets.hidden_NE, *targets.head(buffer.shape[1]), buffer)
    else:
        logits_CV = buffer[: len(targets)].copy_(targets.logits(buffer.shape[1]))
    return MentorLogits(logits_CV.clamp_(min=RULED_OUT))


def product(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, buffer: Tensor) -> Tensor:
    """hidden @ weight^T + bias, in the first rows of `buffer`."""
    out_CV = buffer[: len(hidden_CD)]
    hidden_CD = hidden_CD.to(weight_VD.dtype)
    if hidden_CD.dtype == out_CV.dtype:
        torch.mm(hidden_CD, weight_VD.T, out=out_CV)
    else:
        out_CV.copy_(hidden_CD @ weight_VD.T)
    return out_CV if bias_V is None else out_CV.add_(bias_V)


def add_product(total_VD: Tensor, gradient_CV: Tensor, hidden_CD: Tensor) -> None:
    """total += gradient^T hidden; in blocks of the vocabulary where the product's type is narrower than the total's."""
    if total_VD.dtype == gradient_CV.dtype:
        total_VD.addmm_(gradient_CV.T, hidden_CD)
        return
    for start in range(0, len(total_VD), 8192):
        block = slice(start, start + 8192)
        total_VD[block] += gradient_CV[:, block].T @ hidden_CD


def blocks_of(logits_CV: Tensor) -> list[slice]:
    """Rows of each block of a chunk's logits."""
    # Four rows at least: several threads sum a single row in another order than many rows.
    rows = max(4, (CPU_BLOCK if logits_CV.device.type == "cpu" else GPU_BLOCK) // logits_CV.shape[1])
    tokens, blocks = len(logits_CV), math.ceil(len(logits_CV) / rows)
    return [slice(number * tokens // blocks, (number + 1) * tokens // blocks) for number in range(blocks)]


def _loss_and_gradient(
    logits_CV: Tensor, labels_C: Tensor, mentors: WeightedLogits, settings: LossSettings, differentiate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, CE with smoothed labels and D of each token of a chunk; the loss's gradient on the logits overwrites `logits_CV`."""
    values = []
    for block in blocks_of(logits_CV):
        mentors_B = [(share, targets.rows(block)) for share, targets in mentors]
        values.append(_block_loss_and_gradient(logits_CV[block], labels_C[block], mentors_B, settings, differentiate))
    ce_C, hard_C, total_C = (torch.cat(parts) for parts in zip(*values, strict=True))
    return ce_C, hard_C, total_C


class _Distribution:
    """Log-probabilities of a block; their exponential is computed once, where anything needs it."""

    def __init__(self, log_probs_BV: Tensor) -> None:
        self.log_probs_BV = log_probs_BV

    @cached_property
    def probs_BV(self) -> Tensor:
        return self.log_probs_BV.exp()


def _block_loss_and_gradient(
    logits_BV: Tensor, labels_B: Tensor, mentors: WeightedLogits, settings: LossSettings, differentiate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    label_B1, smoothing = labels_B[:, None], settings.label_smoothing
    impossible_B1 = logits_BV.gather(1, label_B1) == -torch.inf
    student = _Distribution(logits_BV.clamp_(min=RULED_OUT).log_softmax(-1))
    ce_B = -student.log_probs_BV.gather(1, label_B1).masked_fill(impossible_B1, -torch.inf)[:, 0]
    possible_BV = logits_BV > RULED_OUT if smoothing else None
    hard_B = ce_B
    if possible_BV is not None:
        count_B1 = possible_BV.sum(-1, keepdim=True, dtype=ce_B.dtype)
        uniform_ce_B = -(student.log_probs_BV * possible_BV).sum(-1) / count_B1[:, 0]
        hard_B = settings.hard(ce_B, uniform_ce_B)
    total_B = torch.zeros_like(ce_B)
    pulls = []
    for share, targets in mentors:
        value_B, pull_BV = _divergence_and_gradient(logits_BV, student, targets, mentors, settings, differentiate)
        total_B += share * value_B
        pulls.append((share, pull_BV))
    if not differentiate:
        return ce_B, hard_B, total_B
    ce_weight = 1 - settings.kd_weight if mentors else 1
    if ce_weight:
        gradient_BV = student.probs_BV.scatter_add_(1, label_B1, ce_B.new_full(label_B1.shape, smoothing - 1))
        if possible_BV is not None:
            gradient_BV -= possible_BV * (smoothing / count_B1)
        torch.mul(gradient_BV, ce_weight, out=logits_BV)
    else:
        logits_BV.zero_()
    for share, pull_BV in pulls:
        assert pull_BV is not None
        logits_BV[:, : pull_BV.shape[1]].add_(pull_BV, alpha=share * settings.kd_scale / settings.temperature)
    return ce_B, hard_B, total_B


def _divergence_and_gradient(
    logits_BV: Tensor,
    student: _Distribution,
    targets: MentorLogits | MentorTopK,
    mentors: WeightedLogits,
    settings: LossSettings,
    differentiate: bool,
) -> tuple[Tensor, Tensor | None]:
    """D of each token and, if `differentiate`, its gradient on the student's logits / tau, on the vocabulary that all heads share.

    No logit is below `RULED_OUT`; `student` is their distribution at temperature 1.
    """
    shared = shared_vocabulary(logits_BV.shape[1], mentors)
    closed_form = CLOSED_FORMS.get(settings.divergence)
    if closed_form and differentiate and isinstance(targets, MentorLogits):
        if settings.temperature != 1 or shared < logits_BV.shape[1]:
            student = _Distribution(temperature_scaled(logits_BV[:, :shared], settings))
        value_B, pull_BV = closed_form(student, temperature_scaled(targets.logits_NV, settings))
        return value_B.clamp(min=0), pull_BV
    logits_BV = logits_BV[:, :shared].detach().requires_grad_(differentiate)
    with torch.set_grad_enabled(differentiate):
        value_B = token_divergence(temperature_scaled(logits_BV, settings), targets, settings)
        if not differentiate:
            return value_B, None
        (pull_BV,) = torch.autograd.grad(value_B.sum() * settings.temperature, logits_BV)
    return value_B.detach(), pull_BV


def _forward_kl(student: _Distribution, mentor_BV: Tensor) -> tuple[Tensor, Tensor]:
    probs_BV = mentor_BV.exp()
    value_B = mentor_BV.sub_(student.log_probs_BV).mul_(probs_BV).sum(-1)
    return value_B, torch.sub(student.probs_BV, probs_BV, out=probs_BV)


CLOSED_FORMS: dict[str, Callable[[_Distribution, Tensor], tuple[Tensor, Tensor]]] = {"forward_kl": _forward_kl}
"""Divergence -> function of the student's and the mentor's log-probabilities at the temperature, which gives D of each token
and its gradient on the student's logits / tau. Autograd is about as fast (docs/results/fused-loss.md); forward KL keeps its
form because the results of finished runs depend on its rounding."""
