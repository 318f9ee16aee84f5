"""Intervals, tests and verdicts for accuracies measured on Q questions with S training seeds.

Arrays are named by their axes: `correct_QS[q, s]` is 1 where the model of seed s answers question q correctly, and
`difference_QS` is one learner's array minus another's, paired by question and by seed.

Two decisions determine every number:

- The unit of resampling and of sign flipping is the question with all its seeds. The seeds of one question are not
  independent (a hard question is hard for every seed). Q x S independent observations, or one pooled McNemar table,
  would overstate the evidence. With one seed the test is McNemar's.
- Seeds are a sample too. Where learners vary from seed to seed by more than the questions explain, `seed_scatter` widens
  intervals and tests. One seed gives no estimate of this: its verdict holds for those two trained models only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outcome = Literal["a_better", "b_better", "unclear"]

CONFIDENCE = 0.95
"""The level of all intervals."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a share or of a difference of shares."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Contrast:
    """A weighted sum of learners' accuracies on the same questions and seeds; shares, not per cent."""

    difference: float
    """The weighted sum, mean over seeds; for a pair, accuracy of a minus accuracy of b."""
    interval: Interval
    """Paired bootstrap interval of `difference`."""
    p_value: float
    """Two-sided p of the sign-flip test over questions (exact McNemar for a pair with one seed)."""
    detectable: float
    """Minimum detectable effect: the smallest true difference that this design detects with 80 % power."""
    inflation: float
    """Factor by which seed-to-seed variation widened the interval; 1 with one seed or where seeds agree."""
    questions: int
    seeds: int
    only_a: int
    """(question, seed) pairs with a positive sum; for a pair, those that only a answers correctly."""
    only_b: int
    """(question, seed) pairs with a negative sum; for a pair, those that only b answers correctly."""


def wilson_interval(successes: float, trials: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion; `trials` may be an effective, fractional number.

    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"got {successes} successes in {trials} trials; expected 0 <= successes <= trials, trials > 0")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / scale
    return Interval(max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


@dataclass(frozen=True, slots=True)
class Scatter:
    """The uncertainty that seeds add to a mean over questions and seeds."""

    factor: float = 1.0
    """Ratio of the standard error with seeds as a sample to that of question sampling alone; at least 1."""
    freedom: float = math.inf
    """Degrees of freedom of that standard error; few where a large scatter is estimated from few seeds."""

    def quantile(self, p: float) -> float:
        """Quantile of Student's t at `freedom`; of the normal distribution where that is infinite."""
        from scipy.special import stdtrit

        return float(stdtrit(self.freedom, p))

    def widening(self) -> float:
        """Factor for the width of an interval from question sampling alone: `factor`, with Student's t in place of z."""
        tail = 0.5 + CONFIDENCE / 2
        return self.factor * self.quantile(tail) / Scatter().quantile(tail)

    def shrinkage(self, deviations: float) -> float:
        """Divisor that turns an observation, in standard errors of question sampling, into a standard normal one."""
        from scipy.special import stdtr

        if deviations == 0 or math.isinf(self.freedom):
            return self.factor
        tail = max(float(stdtr(self.freedom, -deviations / self.factor)), 1e-300)
        return deviations / -NormalDist().inv_cdf(tail)


def accuracy_interval(correct_QS: Array, *, peers: Sequence[Array] = ()) -> Interval:
    """Wilson's interval of the mean accuracy over seeds, with the effective number of trials.

    The effective number is Kish's, from the variance of the question means widened by `seed_scatter`. It lies between 1
    and Q x S. With one seed it is Q, and the interval equals `wilson_interval`. `peers` as for `compare`.
    """
    Q, S = _shape(correct_QS)
    share = float(correct_QS.mean())
    trials = float(Q)
    if S > 1 and Q > 1 and 0 < share < 1:
        widening = seed_scatter(correct_QS, *_between_seeds([correct_QS, *peers])).widening()
        variance = float(correct_QS.mean(axis=1).var()) / Q * widening**2
        trials = min(float(Q * S), share * (1 - share) / variance) if variance > 0 else float(Q)
    return wilson_interval(share * trials, trials)


def mean_and_error(per_seed: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and its standard error (sample standard deviation / sqrt S); None as the error of one seed.

    Raises ValueError without values.
    """
    if not per_seed:
        raise ValueError("got no values; expected one for each seed")
    mean = math.fsum(per_seed) / len(per_seed)
    if len(per_seed) == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in per_seed) / (len(per_seed) - 1)
    return mean, math.sqrt(variance / len(per_seed))


def seed_scatter(values_QS: Array, ms_seed: float, freedom: float, *, if_zero: bool = False) -> Scatter:
    """How much seeds widen the standard error of the mean of `values_QS`.

    Two-way random effects, question x seed: the variance of the mean is (MS_question + max(0, MS_seed - MS_residual)) /
    QS, its degrees of freedom are Satterthwaite's. `ms_seed` and its `freedom` may be estimated from more learners than
    `values_QS`: three seeds alone estimate the scatter badly, and t with two degrees of freedom is 4.3. `if_zero` takes the
    questions' variance around a true mean of 0, the null hypothesis of the sign-flip test.
    """
    Q, S = _shape(values_QS)
    if S == 1 or Q == 1:
        return Scatter()
    values = np.asarray(values_QS, dtype=float)
    by_question, by_seed, mean = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True), values.mean()
    ms_question = S * float((by_question**2).mean() if if_zero else ((by_question - mean) ** 2).sum() / (Q - 1))
    rest = (Q - 1) * (S - 1)
    ms_residual = float(((values - by_question - by_seed + mean) ** 2).sum()) / rest
    added = ms_seed - ms_residual
    if ms_question <= 1e-12 or added <= 1e-12:
        return Scatter()
    variance = ms_question + added
    spread = ms_question**2 / (Q - 1) + ms_seed**2 / freedom + ms_residual**2 / rest
    return Scatter(math.sqrt(variance / ms_question), variance**2 / spread)


def _between_seeds(arms: Sequence[Array], weights: Sequence[int] = (1,)) -> tuple[float, float]:
    """Mean square between seeds, on the scale of one verdict of the first learners' weighted sum, and its freedom.

    All `arms` contribute to the estimate. A learner near 0 or 1 has less room to scatter: its share of the common variance
    is assumed proportional to p (1 - p), and it contributes less information accordingly (Satterthwaite's degrees of
    freedom). Where the weights add up to 0, the effect of a seed on all learners (its data order) cancels.
    """
    accuracy_KS = np.stack([np.asarray(arm, dtype=float).mean(axis=0) for arm in arms])
    K, S = accuracy_KS.shape
    share_K = accuracy_KS.mean(axis=1)
    room_K = share_K * (1 - share_K)
    if S == 1 or not room_K.any():
        return 0.0, 1.0
    size = sum(w * w * float(room) for w, room in zip(weights, room_K, strict=False))
    centred_KK = np.eye(K) - (1 / K if sum(weights) == 0 else 0)
    off_KS = centred_KK @ (accuracy_KS - accuracy_KS.mean(axis=1, keepdims=True))
    # `form_KK` gives the moments of the quadratic form of the deviations; `scale` normalises it to one unit of room.
    form_KK = centred_KK * room_K
    scale = float(form_KK.trace())
    freedom = (S - 1) * scale**2 / float((form_KK * form_KK.T).sum())
    return size * len(arms[0]) * float((off_KS**2).sum()) / (scale * (S - 1)), freedom


def bootstrap_interval(difference_QS: Array, *, inflation: float = 1.0, resamples: int = 10_000) -> Interval:
    """Percentile bootstrap interval of the mean difference: questions are resampled, each with all its seeds.

    A question's sum over seeds takes at most 2 S + 1 values, so a resample is one multinomial draw of their counts.
    Where all questions have the same sum, the bootstrap has no variance. The half-width is then Wilson's upper limit for
    0 of Q: the largest rate of disagreement that is compatible with Q questions without one.
    """
    Q, S = _shape(difference_QS)
    sums, counts = np.unique(np.asarray(difference_QS).sum(axis=1), return_counts=True)
    mean = float(sums @ counts) / (Q * S)
    if len(sums) == 1:
        half = wilson_interval(0, Q).high
        low, high = mean - half, mean + half
    else:
        draws = np.random.default_rng(0).multinomial(Q, counts / Q, size=resamples) @ sums / (Q * S)
        ends = np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
        low, high = (mean + inflation * (float(end) - mean) for end in ends)
    edge = max(1.0, float(np.abs(sums / S).max()))  # the sum of one question can exceed 1 in a contrast of four
    return Interval(max(-edge, low), min(edge, high))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p of two learners with one seed, from the questions that only one answers correctly."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def sign_flip(difference_QS: Array, *, inflation: float = 1.0) -> float:
    """Exact two-sided sign-flip p over questions. Under the null hypothesis a question's sum is n or -n, equally likely.

    With one seed this is `mcnemar`. The null distribution of the total over all 2^Q flips is computed from its
    characteristic function, the product of cos(n_q w). `inflation` divides the observed total before the comparison.
    """
    _, S = _shape(difference_QS)
    sums = np.rint(np.asarray(difference_QS, dtype=float).sum(axis=1)).astype(np.int64)
    if S == 1 and np.abs(sums).max() <= 1:
        return mcnemar(int((sums > 0).sum()), int((sums < 0).sum()))
    sizes = np.abs(sums[sums != 0])
    total, reach = abs(int(sums.sum())), int(sizes.sum())
    if total == 0:
        return 1.0
    period = 2 * reach + 1
    frequency = 2 * math.pi * np.arange(period) / period
    characteristic = np.ones(period)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        characteristic *= np.cos(size * frequency) ** count
    chance = np.fft.ifft(characteristic).real  # chance[t]: probability of a total t; negative totals at the end
    bound = math.ceil(total / inflation - 1e-9)
    p = 2 * float(chance[bound : reach + 1].sum())
    return min(1.0, max(p, 2.0 ** (1 - len(sizes))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; they control the family-wise error rate."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_difference(difference_QS: Array, *, alpha: float = 0.05, scatter: Scatter = Scatter()) -> float:
    """Minimum detectable effect: the smallest true difference that this design detects with 80 % power.

    (t_{1 - alpha/2} + t_{0.8}) standard errors, but at least the resolution of the sign-flip test: with k questions
    that all favour one learner its p is 2^(1-k). A value above 1 means that the design can detect no difference.
    """
    Q, _ = _shape(difference_QS)
    error = float(np.asarray(difference_QS).mean(axis=1).std()) / math.sqrt(Q) * scatter.factor
    errors = scatter.quantile(1 - alpha / 2) + scatter.quantile(0.8)
    fewest = math.ceil(1 - math.log2(alpha))
    return max(errors * error, fewest / Q)


def compare(
    a_QS: Array, b_QS: Array, *, peers: Sequence[Array] = (), pairs: int = 1, resamples: int = 10_000
) -> Contrast:
    """Compare two learners on the same questions (rows) and seeds (columns): the `contrast` a - b."""
    return contrast([a_QS, b_QS], [1, -1], peers=peers, pairs=pairs, resamples=resamples)


def contrast(
    arms: Sequence[Array],
    weights: Sequence[int],
    *,
    peers: Sequence[Array] = (),
    pairs: int = 1,
    resamples: int = 10_000,
) -> Contrast:
    """The weighted sum of learners' accuracies, e.g. [1, -1] or, for an interaction, [1, -1, -1, 1].

    `peers` are further learners on the same questions and seeds whose scatter over seeds is assumed equal (other arms of
    the same model). More peers give a better estimate of the scatter. `pairs` is the number of contrasts that are shown
    together: `detectable` then allows for Holm's correction of the smallest p. Deterministic: the bootstrap's own seed
    is fixed. Raises ValueError where the shapes of the arrays differ.
    """
    for other in (*arms, *peers):
        if arms[0].shape != other.shape:
            raise ValueError(
                f"got arrays of shapes {arms[0].shape} and {other.shape}; expected the same questions and seeds"
            )
    Q, S = _shape(arms[0])
    values_QS: Array = np.tensordot(weights, np.stack(arms).astype(np.int64), axes=1)
    between = _between_seeds([*arms, *peers], weights)
    scatter, null = seed_scatter(values_QS, *between), seed_scatter(values_QS, *between, if_zero=True)
    inflation = scatter.widening()
    error = math.sqrt(float((values_QS.mean(axis=1) ** 2).mean()) / Q)
    deviations = abs(float(values_QS.mean())) / error if error else 0.0
    return Contrast(
        difference=float(values_QS.mean()),
        interval=bootstrap_interval(values_QS, inflation=inflation, resamples=resamples),
        p_value=sign_flip(values_QS, inflation=null.shrinkage(deviations)),
        detectable=detectable_difference(values_QS, alpha=(1 - CONFIDENCE) / pairs, scatter=scatter),
        inflation=inflation,
        questions=Q,
        seeds=S,
        only_a=int((values_QS > 0).sum()),
        only_b=int((values_QS < 0).sum()),
    )


def outcome(comparison: Contrast, *, p_adjusted: float | None = None) -> Outcome:
    """The better learner (for a sum: its sign), if both p < 0.05 and the interval excludes 0; else `unclear`.

    `p_adjusted` replaces p where several pairs are tested together.
    """
    p = comparison.p_value if p_adjusted is None else p_adjusted
    if p >= 0.05 or 0 in comparison.interval:
        return "unclear"
    return "a_better" if comparison.difference > 0 else "b_better"


def verdict(a: str, b: str, comparison: Contrast, *, p_adjusted: float | None = None, pairs: int = 1) -> str:
    """The `outcome` in a sentence: the difference in points, or the minimum detectable effect of this design.

    With one seed the sentence is about two trained models: neither the difference nor p covers the variation between trainings.
    """
    p = comparison.p_value if p_adjusted is None else p_adjusted
    difference, low, high = comparison.difference, comparison.interval.low, comparison.interval.high
    size = f"{_count(comparison.seeds, 'seed')}, {_count(comparison.questions, 'question')}"
    chance = f"{format_p(p)} (Holm, {pairs} pairs)" if pairs > 1 else format_p(p)
    result = outcome(comparison, p_adjusted=p)
    if result == "b_better":
        a, b, difference, low, high = b, a, -difference, -high, -low
    if result != "unclear":
        winner, loser, scope = (
            (a, b, "") if comparison.seeds > 1 else (f"this {a}", f"this {b}", "; this says nothing about other seeds")
        )
        return f"{winner} beats {loser} by {_points(difference)} points [{_points(low)}, {_points(high)}], {chance}, {size}{scope}"
    power = (
        f"minimum detectable effect: {_points(comparison.detectable)} points"
        if comparison.detectable <= 1
        else "this design has too few questions to detect any difference"
    )
    measured = f"{_points(difference, sign=True)} points [{_points(low)}, {_points(high)}], {chance}, {size}"
    return f"no difference can be shown between {a} and {b} ({measured}); {power}"


def _shape(array_QS: Array) -> tuple[int, int]:
    if array_QS.ndim != 2 or 0 in array_QS.shape:
        raise ValueError(f"got an array of shape {array_QS.shape}; expected (questions, seeds), at least one of each")
    return array_QS.shape[0], array_QS.shape[1]


def signed_points(share: float) -> str:
    """A share, or a difference of shares, in percentage points: `+9.3`, `-1.9` or `0.0`."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text


def _points(share: float, *, sign: bool = False) -> str:
    return signed_points(share) if sign else signed_points(share).removeprefix("+")


def format_p(p: float) -> str:
    """`p = 0.0004`, with as many digits as the size requires; `p < 0.0001` below that."""
    if p < 0.0001:
        return "p < 0.0001"
    return f"p = {p:.{4 if p < 0.001 else 3 if p < 0.1 else 2}f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
