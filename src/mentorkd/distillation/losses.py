"""The distillation loss, as pure functions of tensors.

    loss = (1 - w) CE(labels) + w tau^2 D(mentor, student)        Mentor-KD section 3.3; the paper has no tau^2

With label smoothing e (Szegedy et al. 2016, arXiv:1512.00567), CE is (1 - e) CE(labels) + e CE(uniform).

Results are SUMS over the target tokens: the caller divides by the number of target tokens of its whole optimiser step,
so that no split into micro-batches, accumulation steps or processes changes an update. Positions labelled
`IGNORE_INDEX` are removed first; their contents cannot reach the loss or a gradient.

A divergence D is one function in `DIVERGENCES`. To add one, write the function, enter it there, and add its name to
`DivergenceName` in `recipe/objectives.py`. This module is the readable form, on whole logits. `fused_distillation_loss`
computes the same loss without holding whole logits; it calls the same functions on a few tokens at a time.

Names end in their shape: N target tokens, V vocabulary, E mentor's width, K kept tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.models.device import runs_behind
from mentorkd.recipe.objectives import NOT_OF_TOP_K

RULED_OUT = -1e4
"""Logits at or below this value, -inf among them, mean "impossible": probability 0 and no gradient, yet no 0 * inf."""


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

    def logits(self, vocab_size: int | None = None) -> Tensor:
        """Logits of the leading vocabulary entries."""
        return self.logits_NV[:, :vocab_size]


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

    def head(self, vocab_size: int | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the leading vocabulary entries."""
        return self.weight_VE[:vocab_size], None if self.bias_V is None else self.bias_V[:vocab_size]

    def logits(self, vocab_size: int | None = None) -> Tensor:
        """Logits of the leading vocabulary entries."""
        weight, bias = self.head(vocab_size)
        return F.linear(self.hidden_NE.to(weight.dtype), weight, bias)


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
    divergence: str
    """A name in `DIVERGENCES`."""
    jsd_beta: float
    """beta of `jsd`."""
    label_smoothing: float = 0.0
    """e, the share of the uniform distribution in the target of the cross-entropy."""

    def __post_init__(self) -> None:
        if not 0 <= self.kd_weight <= 1:
            raise ValueError(f"kd_weight must be in 0..1, got {self.kd_weight}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}")
        if not 0 < self.jsd_beta < 1:
            raise ValueError(f"jsd_beta must lie between 0 and 1, got {self.jsd_beta}; for 0 or 1 use a KL")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")

    @property
    def kd_scale(self) -> float:
        """Factor of the divergence in the loss: w tau^2, or w."""
        return self.kd_weight * (self.temperature**2 if self.tau_squared else 1.0)

    def hard(self, ce: Tensor, uniform_ce: Tensor) -> Tensor:
        """The cross-entropy with smoothed labels, from those with the labels and with the uniform distribution."""
        return (1 - self.label_smoothing) * ce + self.label_smoothing * uniform_ce if self.label_smoothing else ce


DivergenceFunction: TypeAlias = Callable[[Tensor, Tensor, LossSettings], Tensor]
"""(student [N, V], mentor [N, V], settings) -> D of each token [N]. Both arguments are log-probabilities at the temperature:
of the vocabulary, or of the K + 1 events of a top-k mentor. Autograd differentiates the function by its first argument."""


def forward_kl(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    """KL(m || s), the paper's divergence."""
    return _kl(mentor_NV, student_NV)


def reverse_kl(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    """KL(s || m)."""
    return _kl(student_NV, mentor_NV)


def jsd(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    """beta KL(m || x) + (1 - beta) KL(s || x) with the mixture x = beta m + (1 - beta) s."""
    beta = settings.jsd_beta
    # Detached: what the gradient gets through x is the sum of the changes of s, which is 0.
    mixture_NV = torch.logaddexp(mentor_NV + math.log(beta), student_NV.detach() + math.log1p(-beta))
    return beta * _kl(mentor_NV, mixture_NV) + (1 - beta) * _kl(student_NV, mixture_NV)


def soft_ce(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    """Cross-entropy of s under m: KL(m || s) plus the entropy of m. Same gradient as the KL, but not 0 at s = m."""
    return -(mentor_NV.exp() * student_NV).sum(-1)


def mse(student_NV: Tensor, mentor_NV: Tensor, settings: LossSettings) -> Tensor:
    """Mean over the vocabulary of the squared difference of logits / tau. With tau^2 the result does not depend on tau."""
    ruled_out_NV = (student_NV <= RULED_OUT) | (mentor_NV <= RULED_OUT)
    return ((student_NV - mentor_NV).masked_fill(ruled_out_NV, 0) / settings.temperature).square().mean(-1)


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    return (p_NV.exp() * (p_NV - q_NV)).sum(-1)


DIVERGENCES: dict[str, DivergenceFunction] = {
    function.__name__: function for function in (forward_kl, reverse_kl, jsd, mse, soft_ce)
}
"""Every divergence by its name in recipes. In the formulas m and s are the mentor's and the student's distributions."""

ON_LOGITS = ("mse",)
"""Divergences whose function takes logits, not divided by the temperature, instead of log-probabilities."""


def distillation_loss(
    student_logits_NV: Tensor,
    labels_N: Tensor,
    mentor: Mentors = None,
    *,
    kd_weight: float = 0.3,
    temperature: float = 1.0,
    tau_squared: bool = True,
    divergence: str = "forward_kl",
    jsd_beta: float = 0.5,
    label_smoothing: float = 0.0,
    ignored: bool = True,
) -> LossSums:
    """The loss of a student with these logits.

    `mentor` has a row for every label, ignored ones included. Without a mentor the loss is the cross-entropy alone. With
    `ignored=False` no label is `IGNORE_INDEX`, and no device has to be waited for to find them.
    Where heads of one tokenizer are padded to different sizes, the divergence is between the distributions
    renormalised on the leading entries that all heads have; the cross-entropy is over all of the student's.
    ValueError for settings or shapes that do not fit.
    """
    settings = LossSettings(kd_weight, temperature, tau_squared, divergence, jsd_beta, label_smoothing)
    student_logits_NV, labels_N, mentors = at_targets(student_logits_NV, labels_N, mentor, settings, ignored)
    logits_NV = in_full_precision(student_logits_NV)
    ce = F.cross_entropy(logits_NV, labels_N, reduction="sum")
    hard = settings.hard(ce, uniform_cross_entropy(_at_least_ruled_out(logits_NV)).sum() if label_smoothing else ce)
    if not mentors:
        return LossSums(hard, ce.detach(), torch.zeros_like(ce), len(labels_N))
    shared = shared_vocabulary(logits_NV.shape[1], mentors)
    student_NV = temperature_scaled(_at_least_ruled_out(logits_NV[:, :shared]), settings)
    divergences = [
        share * token_divergence(student_NV, _with_logits(targets, shared), settings).sum()
        for share, targets in mentors
    ]
    total = torch.stack(divergences).sum()
    return LossSums((1 - kd_weight) * hard + settings.kd_scale * total, ce.detach(), total.detach(), len(labels_N))


def uniform_cross_entropy(logits_NV: Tensor) -> Tensor:
    """Mean of -log p over the tokens that are possible [N]. No logit may be below `RULED_OUT`."""
    possible_NV = logits_NV > RULED_OUT
    return -(logits_NV.log_softmax(-1) * possible_NV).sum(-1) / possible_NV.sum(-1)


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
    events = _events(kept_NK, scaled_NV.scatter_(1, indices_NK, RULED_OUT).logsumexp(-1))
    return MentorTopK(events[:, :-1], indices_NK, events[:, -1], logits_NV.shape[1], temperature)


def at_targets(
    student: Tensor, labels_N: Tensor, mentor: Mentors, settings: LossSettings, ignored: bool
) -> tuple[Tensor, Tensor, WeightedTargets]:
    """The student's rows, the labels and the mentors, as a list, at the target positions; ValueError if they do not fit."""
    rows = len(student)
    if labels_N.shape != (rows,):
        raise ValueError(f"labels must be one for each of the student's {rows} rows, got shape {tuple(labels_N.shape)}")
    mentors = list(mentor) if isinstance(mentor, Sequence) else [] if mentor is None else [(1.0, mentor)]
    for _, targets in mentors:
        if len(targets) != rows:
            raise ValueError(f"the mentor must have a row for each of the student's {rows}, got {len(targets)}")
        if not isinstance(targets, MentorTopK):
            continue
        if settings.divergence in NOT_OF_TOP_K:
            raise ValueError(
                f"{settings.divergence} needs the mentor's whole distribution, got its top k: use a KL or jsd"
            )
        if targets.temperature != settings.temperature:
            raise ValueError(
                f"the mentor's top k were kept at temperature {targets.temperature}, the loss has "
                f"{settings.temperature}: keep them at the temperature of the loss"
            )
    if not ignored:
        return student, labels_N, mentors
    target_N = labels_N != IGNORE_INDEX
    if bool(target_N.all()):
        return student, labels_N, mentors
    return student[target_N], labels_N[target_N], [(share, targets.rows(target_N)) for share, targets in mentors]


def shared_vocabulary(student_vocab: int, mentors: WeightedTargets) -> int:
    """Number of leading vocabulary entries that all heads have; ValueError if a top-k mentor covers another number."""
    shared = min(student_vocab, *(targets.vocab_size for _, targets in mentors))
    for _, targets in mentors:
        if isinstance(targets, MentorTopK) and targets.vocab_size != shared:
            raise ValueError(
                f"the mentor's top k cover {targets.vocab_size} vocabulary entries, all heads share {shared}: "
                f"keep them with vocab_size={shared}"
            )
    return shared


def in_full_precision(x: Tensor) -> Tensor:
    """float32 at least: half precision has too few digits for a softmax over a vocabulary."""
    return x if x.dtype == torch.float64 else x.float()


def _at_least_ruled_out(logits_NV: Tensor) -> Tensor:
    """The logits, none below `RULED_OUT`: a copy only where one is, because whole logits are large, or where a look would wait."""
    if runs_behind(logits_NV.device) or (logits_NV.numel() and bool(logits_NV.detach().amin() < RULED_OUT)):
        return logits_NV.clamp(min=RULED_OUT)
    return logits_NV


@torch.no_grad()
def _with_logits(targets: MentorTargets, vocab_size: int) -> MentorLogits | MentorTopK:
    """The targets as `token_divergence` reads them, with the logits of the leading vocabulary entries."""
    if isinstance(targets, MentorTopK):
        return targets
    return MentorLogits(_at_least_ruled_out(in_full_precision(targets.logits(vocab_size))))


def temperature_scaled(logits_NV: Tensor, settings: LossSettings) -> Tensor:
    """The argument of a divergence: log-probabilities at the temperature, or the logits for one that is `ON_LOGITS`.

    No logit may be below `RULED_OUT`.
    """
    if settings.divergence in ON_LOGITS:
        return logits_NV
    return F.log_softmax(logits_NV if settings.temperature == 1 else logits_NV / settings.temperature, dim=-1)


def token_divergence(student_NV: Tensor, targets: MentorLogits | MentorTopK, settings: LossSettings) -> Tensor:
    """D of each token [N], for a student whose logits are `temperature_scaled`. No logit may be below `RULED_OUT`."""
    with torch.no_grad():
        if isinstance(targets, MentorTopK):
            mentor_NV = _events(in_full_precision(targets.log_probs_NK), in_full_precision(targets.log_tail_N))
        else:
            mentor_NV = temperature_scaled(targets.logits_NV, settings)
    if isinstance(targets, MentorTopK):
        tail_N = student_NV.scatter(1, targets.indices_NK, RULED_OUT).logsumexp(-1)
        student_NV = _events(student_NV.gather(1, targets.indices_NK), tail_N)
    value_N = DIVERGENCES[settings.divergence](student_NV, mentor_NV, settings)
    # Rounding can put a value just below 0, where no divergence is. Only the value needs mending: the gradient is correct.
    return value_N - value_N.detach().clamp(max=0)


def _events(kept_NK: Tensor, tail_N: Tensor) -> Tensor:
    """Log-probabilities [N, K + 1] of the kept tokens and the tail; normalised, as stored ones have been rounded."""
    return F.log_softmax(torch.cat([kept_NK, tail_N[:, None]], dim=-1).clamp(min=RULED_OUT), dim=-1)
