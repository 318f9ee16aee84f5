"""The distillation loss, as pure functions of tensors.

    loss = (1 - w) CE(labels) + w tau^2 D(mentor, student)        Mentor-KD section 3.3; the paper has no tau^2

Results are SUMS over the target tokens: the caller divides by the number of target tokens of its whole optimiser step,
so that no split into micro-batches, accumulation steps or processes changes an update. Positions labelled
`IGNORE_INDEX` are taken out first; nothing that stands there can reach the loss or a gradient.

This is the readable form, on whole logits. `fused_loss` computes the same without ever holding them.

Names end in their shape: N target tokens, V vocabulary, E mentor's width, K kept tokens. `student` and `mentor` are
log-probabilities at the temperature (bare logits for `mse`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mentorkd.data.batching import IGNORE_INDEX

__all__ = [
    "RULED_OUT",
    "Divergence",
    "LossSettings",
    "LossSums",
    "MentorHidden",
    "MentorLogits",
    "MentorTargets",
    "MentorTopK",
    "Mentors",
    "WeightedTargets",
    "distillation_loss",
    "in_full_precision",
    "mixture",
    "shared_vocabulary",
    "top_k_events",
    "top_k_of",
    "weighted_targets",
]

RULED_OUT = -1e4
"""Logits at or below this, -inf among them, mean "cannot happen": probability 0 and no gradient, yet no 0 * inf."""

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "mse", "soft_ce"]
"""D of one token, with m and s the mentor's and the student's distributions at the temperature tau:

- `forward_kl`: KL(m || s), the paper's;
- `reverse_kl`: KL(s || m);
- `jsd`: beta KL(m || x) + (1 - beta) KL(s || x) with x = beta m + (1 - beta) s;
- `soft_ce`: cross-entropy of s under m, which is KL(m || s) plus m's entropy: the same gradient, but not 0 at s = m;
- `mse`: mean over the vocabulary of the squared difference of logits / tau (so that with tau^2 no tau is left in it).
"""


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the target tokens; `loss` alone carries a gradient."""

    loss: Tensor
    ce: Tensor
    """Cross-entropy with the labels in nats, unweighted."""
    divergence: Tensor
    """D, without its weight and tau^2; 0 without a mentor."""
    tokens: int
    """Target tokens: labels that are not `IGNORE_INDEX`."""


@dataclass(frozen=True, slots=True, eq=False)
class MentorLogits:
    """The mentor's logits."""

    logits_NV: Tensor

    def __len__(self) -> int:
        return len(self.logits_NV)

    @property
    def vocab_size(self) -> int:
        return self.logits_NV.shape[1]

    def rows(self, index: Tensor | slice) -> MentorLogits:
        return MentorLogits(self.logits_NV[index])


@dataclass(frozen=True, slots=True, eq=False)
class MentorHidden:
    """The mentor's last hidden states, as its head receives them, and that head: exact, at a fraction of the memory.

    The product runs in the head's type, or in autocast's.
    """

    hidden_NE: Tensor
    weight_VE: Tensor
    bias_V: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden_NE)

    @property
    def vocab_size(self) -> int:
        return self.weight_VE.shape[0]

    def rows(self, index: Tensor | slice) -> MentorHidden:
        return MentorHidden(self.hidden_NE[index], self.weight_VE, self.bias_V)

    def head(self, vocab_size: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the leading vocabulary entries."""
        return self.weight_VE[:vocab_size], None if self.bias_V is None else self.bias_V[:vocab_size]


@dataclass(frozen=True, slots=True, eq=False)
class MentorTopK:
    """The mentor's K likeliest tokens, and all others as one event of known mass; `top_k_of` makes it.

    A divergence between the K + 1 events is a lower bound of the exact one (data processing inequality), and itself a
    divergence: never negative, 0 if the student is the mentor. It holds at one temperature only, since the tail's mass
    cannot be carried over to another.
    """

    log_probs_NK: Tensor
    indices_NK: Tensor
    log_tail_N: Tensor
    vocab_size: int
    """The distribution is over this many leading vocabulary entries."""
    temperature: float

    def __len__(self) -> int:
        return len(self.log_tail_N)

    def rows(self, index: Tensor | slice) -> MentorTopK:
        kept = self.log_probs_NK[index], self.indices_NK[index], self.log_tail_N[index]
        return MentorTopK(*kept, self.vocab_size, self.temperature)


MentorTargets: TypeAlias = MentorLogits | MentorHidden | MentorTopK
WeightedTargets: TypeAlias = Sequence[tuple[float, MentorTargets]]
Mentors: TypeAlias = MentorTargets | WeightedTargets | None
"""One mentor, several with their shares (the divergences are added with these factors), or none."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The numbers of the loss; ValueError if one makes no sense."""

    kd_weight: float
    """w, the paper's lambda."""
    temperature: float
    tau_squared: bool
    divergence: Divergence
    jsd_beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.kd_weight <= 1:
            raise ValueError(f"kd_weight must be in 0..1, got {self.kd_weight}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if self.divergence not in get_args(Divergence):
            raise ValueError(f"divergence must be one of {', '.join(get_args(Divergence))}, got {self.divergence!r}")
        if not 0 < self.jsd_beta < 1:
            raise ValueError(f"jsd_beta must lie between 0 and 1, got {self.jsd_beta}: at the ends use a KL")

    @property
    def kd_scale(self) -> float:
        """Factor of the divergence in the loss: w tau^2, or w."""
        return self.kd_weight * (self.temperature**2 if self.tau_squared else 1.0)


def distillation_loss(
    student_logits_NV: Tensor,
    labels_N: Tensor,
    mentor: Mentors = None,
    *,
    kd_weight: float = 0.3,
    temperature: float = 1.0,
    tau_squared: bool = True,
    divergence: Divergence = "forward_kl",
    jsd_beta: float = 0.5,
) -> LossSums:
    """The loss of a student with these logits.

    `mentor` has a row for every label, ignored ones included. Without a mentor the loss is the cross-entropy alone.
    Where heads of one tokenizer are padded to different sizes, the divergence is between the distributions
    renormalised on the leading entries that all heads have; the cross-entropy is over all of the student's.
    ValueError for settings or shapes that do not fit.
    """
    how = LossSettings(kd_weight, temperature, tau_squared, divergence, jsd_beta)
    sides = weighted_targets(mentor, labels_N, len(student_logits_NV), how)
    target_N = labels_N != IGNORE_INDEX
    if not bool(target_N.all()):
        student_logits_NV, labels_N = student_logits_NV[target_N], labels_N[target_N]
        sides = [(share, side.rows(target_N)) for share, side in sides]

    logits_NV = in_full_precision(student_logits_NV)
    ce = F.cross_entropy(logits_NV, labels_N, reduction="sum")
    if not sides:
        return LossSums(ce, ce.detach(), torch.zeros_like(ce), len(labels_N))
    student_NV = _prepare(logits_NV[:, : shared_vocabulary(logits_NV.shape[1], sides)], how)
    divergences = [share * _divergence(student_NV, side, how).sum() for share, side in sides]
    total = torch.stack(divergences).sum()
    return LossSums((1 - kd_weight) * ce + how.kd_scale * total, ce.detach(), total.detach(), len(labels_N))


@torch.no_grad()
def top_k_of(logits_NV: Tensor, k: int, *, temperature: float, vocab_size: int | None = None) -> MentorTopK:
    """Keep the k likeliest tokens of every row and the mass of the rest.

    `temperature` is that of the loss which will read them; `vocab_size` is the number of leading vocabulary entries
    that the student's head has too, None for all. ValueError if k is not in 1..vocabulary.
    """
    logits_NV = in_full_precision(logits_NV[:, :vocab_size])
    if not 1 <= k <= logits_NV.shape[1]:
        raise ValueError(f"k must be in 1..{logits_NV.shape[1]} (the vocabulary), got {k}")
    scaled_NV = logits_NV / temperature
    kept_NK, indices_NK = scaled_NV.topk(k, dim=-1)
    # The tail is summed, not 1 - head: that difference would be rounding noise for a mentor that is sure.
    events = top_k_events(kept_NK, scaled_NV.scatter_(1, indices_NK, RULED_OUT).logsumexp(-1))
    return MentorTopK(events[:, :-1], indices_NK, events[:, -1], logits_NV.shape[1], temperature)


def weighted_targets(mentor: Mentors, labels_N: Tensor, rows: int, how: LossSettings) -> WeightedTargets:
    """The mentors as a list, checked against the labels and the settings."""
    if labels_N.shape != (rows,):
        raise ValueError(f"labels must be one for each of the student's {rows} rows, got shape {tuple(labels_N.shape)}")
    if mentor is None:
        return []
    sides = list(mentor) if isinstance(mentor, Sequence) else [(1.0, mentor)]
    for _, side in sides:
        if len(side) != rows:
            raise ValueError(f"the mentor must have a row for each of the student's {rows}, got {len(side)}")
        if not isinstance(side, MentorTopK):
            continue
        if how.divergence in ("mse", "soft_ce"):
            raise ValueError(f"{how.divergence} needs the mentor's whole distribution, got its top k: use a KL or jsd")
        if side.temperature != how.temperature:
            raise ValueError(
                f"the mentor's top k were kept at temperature {side.temperature}, the loss has {how.temperature}: "
                "keep them at the temperature of the loss"
            )
    return sides


def shared_vocabulary(student_vocab: int, sides: WeightedTargets) -> int:
    """Number of leading vocabulary entries that all heads have."""
    shared = min(student_vocab, *(side.vocab_size for _, side in sides))
    for _, side in sides:
        if isinstance(side, MentorTopK) and side.vocab_size != shared:
            raise ValueError(
                f"the mentor's top k are of {side.vocab_size} vocabulary entries, all heads share {shared}: "
                f"keep them with vocab_size={shared}"
            )
    return shared


def in_full_precision(x: Tensor) -> Tensor:
    """float32 at least: half precision has too few digits for a softmax over a vocabulary."""
    return x if x.dtype == torch.float64 else x.float()


def top_k_events(kept_NK: Tensor, tail_N: Tensor) -> Tensor:
    """Log-probabilities [N, K + 1] of the kept tokens and the tail; normalised, as stored ones have been rounded."""
    return F.log_softmax(torch.cat([kept_NK, tail_N[:, None]], dim=-1).clamp(min=RULED_OUT), dim=-1)


def mixture(student_NV: Tensor, mentor_NV: Tensor, beta: float) -> Tensor:
    """log(beta m + (1 - beta) s)."""
    return torch.logaddexp(mentor_NV + math.log(beta), student_NV + math.log1p(-beta))


def _prepare(logits_NV: Tensor, how: LossSettings) -> Tensor:
    """What the divergence is defined on: log-probabilities at the temperature, or logits for `mse`."""
    if logits_NV.numel() and bool(logits_NV.detach().amin() < RULED_OUT):
        logits_NV = logits_NV.clamp(min=RULED_OUT)
    if how.divergence == "mse":
        return logits_NV
    return F.log_softmax(logits_NV if how.temperature == 1 else logits_NV / how.temperature, dim=-1)


def _divergence(student_NV: Tensor, side: MentorTargets, how: LossSettings) -> Tensor:
    """D of each token."""
    shared = student_NV.shape[1]
    with torch.no_grad():
        match side:
            case MentorLogits():
                mentor_NV = _prepare(in_full_precision(side.logits_NV[:, :shared]), how)
            case MentorHidden():
                weight, bias = side.head(shared)
                mentor_NV = _prepare(in_full_precision(F.linear(side.hidden_NE.to(weight.dtype), weight, bias)), how)
            case MentorTopK():
                mentor_NV = top_k_events(in_full_precision(side.log_probs_NK), in_full_precision(side.log_tail_N))
    if isinstance(side, MentorTopK):
        tail_N = student_NV.scatter(1, side.indices_NK, RULED_OUT).logsumexp(-1)
        student_NV = top_k_events(student_NV.gather(1, side.indices_NK), tail_N)
    value_N = _value(student_NV, mentor_NV, how)
    # Rounding can put a value just below 0, where no divergence is. Only the value is mended: the gradient is right.
    return value_N - value_N.detach().clamp(max=0)


def _value(student_NV: Tensor, mentor_NV: Tensor, how: LossSettings) -> Tensor:
    match how.divergence:
        case "forward_kl":
            return _kl(mentor_NV, student_NV)
        case "reverse_kl":
            return _kl(student_NV, mentor_NV)
        case "jsd":
            mix_NV = mixture(student_NV, mentor_NV, how.jsd_beta)
            return how.jsd_beta * _kl(mentor_NV, mix_NV) + (1 - how.jsd_beta) * _kl(student_NV, mix_NV)
        case "soft_ce":
            return -(mentor_NV.exp() * student_NV).sum(-1)
        case "mse":
            ruled_out_NV = (student_NV <= RULED_OUT) | (mentor_NV <= RULED_OUT)
            return ((student_NV - mentor_NV).masked_fill(ruled_out_NV, 0) / how.temperature).square().mean(-1)


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    return (p_NV.exp() * (p_NV - q_NV)).sum(-1)
