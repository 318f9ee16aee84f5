"""Intervals, tests and verdicts for accuracies measured on Q questions with S training seeds.

Arrays are named by their axes: `correct_QS[q, s]` is 1 where the model of seed s answers question q correctly, and
`values_QS` is a weighted sum of learners' arrays, paired by question and by seed.

A weighted sum has one standard error and one Student's t, which give its interval, its p and its minimum detectable
effect. Two decisions determine the standard error:

- The unit is the question with all its seeds. The seeds of one question are not independent (a hard question is hard for
  every seed). Q x S independent observations, or one pooled McNemar table, would overstate the evidence.
- Seeds are a sample too. Where learners vary from seed to seed by more than the questions explain, the standard error grows.
  Where they seem not to, the few degrees of freedom stay: a scatter of zero is an estimate as well. One seed gives no
  estimate: its verdict holds for those two trained models only.
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

TAIL = (1 - CONFIDENCE) / 2
"""The probability on either side of an interval."""

POWER = 0.8
"""The power of the minimum detectable effect."""


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
    standard_error: float
    """Standard error of `difference`, with questions and seeds as samples; with one seed, questions alone."""
    freedom: float
    """Degrees of freedom of `standard_error` (Satterthwaite)."""
    factor: float
    """Ratio of `standard_error` to that of question sampling alone; at least 1."""
    interval: Interval
    """Student's t interval of `difference`."""
    p_value: float
    """Two-sided p of `difference` / `standard_error` by Student's t."""
    scatter: float | None
    """Standard deviation of the sum from seed to seed beyond what the questions explain; None for one seed."""
    scatter_interval: Interval | None
    """The scatter that is compatible with these seeds (chi-square)."""
    detectable: float
    """Minimum detectable effect: the smallest true difference that this design detects with 80 % power; above 1: none."""
    detectable_interval: Interval | None
    """`detectable` at both ends of `scatter_interval`."""
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
class MeanError:
    """The standard error of a mean over questions and seeds."""

    error: float
    freedom: float
    """Its degrees of freedom."""
    factor: float
    """Ratio to the standard error of question sampling alone; at least 1."""

    def margin(self) -> float:
        """Half the width of the interval."""
        return t_quantile(self.freedom, 1 - TAIL) * self.error


def t_quantile(freedom: float, p: float) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


@dataclass(frozen=True, slots=True)
class MeanSquares:
    """Two-way random effects, question x seed: mean squares on the scale of one verdict."""

    questions: int
    seeds: int
    question: float
    residual: float
    """0 with one seed."""
    seed: float
    """Estimated from more learners than the values; 0 with one seed."""
    seed_freedom: float
    """Degrees of freedom of `seed`."""

    def error(self) -> MeanError:
        """The standard error of the mean."""
        if self.questions == 1:
            return MeanError(0.0, 1.0, 1.0)
        error, freedom = (float(one) for one in self.errors(np.array(self.seed)))
        alone = math.sqrt(self.question / (self.questions * self.seeds))
        return MeanError(error, freedom, max(1.0, error / alone) if alone > 1e-9 else 1.0)

    def errors(self, seed: Array) -> tuple[Array, Array]:
        """Standard errors of the mean and their degrees of freedom, for measured mean squares between seeds.

        The variance of the mean is (question + max(0, seed - residual)) / QS, its degrees of freedom are Satterthwaite's. Seeds
        that agree more than chance would let them add no variance, and their degrees of freedom count all the same. As of any
        sum of variances, these are at least the fewest of its parts.
        """
        Q, S = self.questions, self.seeds
        variance = self.question + np.maximum(0.0, seed - self.residual)
        spread = self.question**2 / (Q - 1) + seed**2 / self.seed_freedom
        spread = spread + self.residual**2 / ((Q - 1) * max(1, S - 1))
        freedom = np.where(variance > 1e-12, variance**2 / np.maximum(spread, 1e-24), Q - 1)
        return np.sqrt(variance / (Q * S)), np.maximum(freedom, min(self.seed_freedom, Q - 1))

    def scatter(self, seed: float) -> float:
        """Standard deviation between seeds of the mean over these questions, for a mean square between seeds."""
        return math.sqrt(max(0.0, seed - self.residual) / self.questions)

    def possible_seed(self, p: Array) -> Array:
        """The expectations of `seed` that are compatible with the measured one, by their chi-square confidence level p."""
        from scipy.special import chdtri

        expected: Array = np.maximum(self.residual, self.seed_freedom * self.seed / chdtri(self.seed_freedom, p))
        return expected

    def detectable(self, alpha: float, seed: Array) -> float:
        """The smallest true difference that a repetition of this design detects with 80 % power.

        `seed` has equally likely expectations of the mean square between seeds. The power is that of the non-central t, written as
        a mixture over the mean square that the repetition will measure, because only this part of its variance is uncertain.
        """
        from scipy.special import chdtri, ndtr, stdtrit

        if self.questions == 1:
            return 0.0  # `fewest_questions` decides
        measured = np.ones(1) if self.seeds == 1 else chdtri(self.seed_freedom, GRID) / self.seed_freedom
        errors, freedoms = self.errors(seed[:, None] * measured)
        critical = stdtrit(freedoms, 1 - alpha / 2) * errors
        true = np.sqrt((self.question + seed[:, None] - self.residual) / (self.questions * self.seeds)) + 1e-12
        low, high = 0.0, float(critical.max() + 4 * true.max())
        while high - low > 1e-5:
            middle = (low + high) / 2
            low, high = (low, middle) if ndtr((middle - critical) / true).mean() >= POWER else (middle, high)
        return high


GRID = (np.arange(20) + 0.5) / 20
"""Equally likely probabilities that stand for a distribution."""


def accuracy_interval(correct_QS: Array, *, peers: Sequence[Array] = (), draws: int = 1) -> Interval:
    """Wilson's interval of the mean accuracy over seeds, with the effective number of trials.

    The effective number is Kish's, from the standard error with seeds as a sample and its Student's t. It lies between 1
    and Q x S. With one seed it is Q, and the interval equals `wilson_interval`. `peers` as for `compare`.

    Values may be shares as well, each a mean of `draws` independent answers to the question. The effective number is then
    at most Q x S x `draws`, and with one seed it is Kish's too.
    """
    Q, S = _shape(correct_QS)
    share = float(correct_QS.mean())
    trials = float(Q)
    if max(S, draws) > 1 and Q > 1 and 0 < share < 1:
        margin = mean_squares(correct_QS, *_between_seeds([correct_QS, *peers])).error().margin()
        z = NormalDist().inv_cdf(1 - TAIL)
        trials = min(float(Q * S * draws), share * (1 - share) * (z / margin) ** 2) if margin else float(Q)
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


def mean_squares(values_QS: Array, ms_seed: float, freedom: float) -> MeanSquares:
    """The mean squares of `values_QS`.

    `ms_seed` and its `freedom` may be estimated from more learners than `values_QS`: three seeds alone estimate the scatter
    badly, and t with two degrees of freedom is 4.3.
    """
    Q, S = _shape(values_QS)
    values = np.asarray(values_QS, dtype=float)
    by_question, by_seed, mean = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True), values.mean()
    rest = (Q - 1) * (S - 1)
    return MeanSquares(
        Q,
        S,
        S * float(((by_question - mean) ** 2).sum()) / max(1, Q - 1),
        float(((values - by_question - by_seed + mean) ** 2).sum()) / rest if rest else 0.0,
        ms_seed,
        freedom,
    )


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; they control the family-wise error rate."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def fewest_questions(alpha: float) -> int:
    """The fewest differing questions that can show a difference: k that all favour one learner have p >= 2^(1-k)."""
    return math.ceil(1 - math.log2(alpha))


def compare(a_QS: Array, b_QS: Array, *, peers: Sequence[Array] = (), pairs: int = 1) -> Contrast:
    """Compare two learners on the same questions (rows) and seeds (columns): the `contrast` a - b."""
    return contrast([a_QS, b_QS], [1, -1], peers=peers, pairs=pairs)


def contrast(arms: Sequence[Array], weights: Sequence[int], *, peers: Sequence[Array] = (), pairs: int = 1) -> Contrast:
    """The weighted sum of learners' accuracies, e.g. [1, -1] or, for an interaction, [1, -1, -1, 1].

    `peers` are further learners on the same questions and seeds whose scatter over seeds is assumed equal (other arms of
    the same model). More peers give a better estimate of the scatter. `pairs` is the number of contrasts that are tested
    together: `detectable` then allows for Holm's correction of the smallest p. Raises ValueError where the shapes of the
    arrays differ.

    With few differing questions t is too sure: of k questions, all favour one learner by chance with probability 2^(1-k), and p is
    at least that. Where no question differs from another, the standard error is 0, and the half-width of the interval is
    Wilson's upper limit for 0 of Q: the largest rate of disagreement that is compatible with Q questions without one.
    """
    for other in (*arms, *peers):
        if arms[0].shape != other.shape:
            raise ValueError(
                f"got arrays of shapes {arms[0].shape} and {other.shape}; expected the same questions and seeds"
            )
    Q, S = _shape(arms[0])
    values_QS: Array = np.tensordot(weights, np.stack(arms).astype(np.int64), axes=1)
    squares = mean_squares(values_QS, *_between_seeds([*arms, *peers], weights))
    error, difference = squares.error(), float(values_QS.mean())
    alpha = (1 - CONFIDENCE) / pairs
    scatter: float | None = None
    scatter_interval: Interval | None = None
    detectable_interval: Interval | None = None
    grain, seed = fewest_questions(alpha) / Q, np.array([squares.residual])
    if S > 1:
        seed, ends = squares.possible_seed(GRID), squares.possible_seed(np.array([TAIL, 1 - TAIL]))
        scatter, scatter_interval = squares.scatter(squares.seed), Interval(*map(squares.scatter, ends))
        low, high = (max(grain, squares.detectable(alpha, ends[[end]])) for end in (0, 1))
        detectable_interval = Interval(low, high)
    return Contrast(
        difference=difference,
        standard_error=error.error,
        freedom=error.freedom,
        factor=error.factor,
        interval=_interval(difference, error, values_QS),
        p_value=_p_value(difference, error, values_QS),
        scatter=scatter,
        scatter_interval=scatter_interval,
        detectable=max(grain, squares.detectable(alpha, seed)),
        detectable_interval=detectable_interval,
        questions=Q,
        seeds=S,
        only_a=int((values_QS > 0).sum()),
        only_b=int((values_QS < 0).sum()),
    )


def planned_effect(questions: int, seeds: int, arms: int, *, disagreement: float, scatter: float) -> float:
    """The minimum detectable effect of a pair in a design that is yet to be run; above 1: it detects nothing.

    Args:
        arms: learners whose scatter between seeds is estimated together.
        disagreement: share of the questions that one of two trained models alone answers correctly.
        scatter: standard deviation of the learners' difference from seed to seed, beyond what the questions explain.

    Of the disagreement, a part belongs to the question and is the same for every seed: 0.3 of it, as in docs/results/own-texts.
    """
    alpha = 1 - CONFIDENCE
    shared = _SHARED_DISAGREEMENT * disagreement
    residual = disagreement - shared if seeds > 1 else 0.0
    question = disagreement if seeds == 1 else residual + seeds * shared
    between = residual + questions * scatter**2 if seeds > 1 else 0.0
    freedom = (seeds - 1) * (arms - 1) if seeds > 1 else 1.0
    squares = MeanSquares(questions, seeds, question, residual, between, freedom)
    return max(fewest_questions(alpha) / questions, squares.detectable(alpha, np.array([between])))


_SHARED_DISAGREEMENT = 0.3


def _interval(difference: float, error: MeanError, values_QS: Array) -> Interval:
    half = error.margin() if error.error else wilson_interval(0, len(values_QS)).high
    edge = max(
        1.0, float(np.abs(values_QS.mean(axis=1)).max())
    )  # one question's sum can exceed 1 in a contrast of four
    return Interval(max(-edge, difference - half), min(edge, difference + half))


def _p_value(difference: float, error: MeanError, values_QS: Array) -> float:
    from scipy.special import stdtr

    by_t = 2 * float(stdtr(error.freedom, -abs(difference) / error.error)) if error.error else 0.0
    differing = int(np.count_nonzero(values_QS.sum(axis=1)))
    return max(by_t, 2.0 ** (1 - differing)) if difference and differing else 1.0


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
    chance = f"{format_p(p)} (Holm, {pairs} tests)" if pairs > 1 else format_p(p)
    result = outcome(comparison, p_adjusted=p)
    if result == "b_better":
        a, b, difference, low, high = b, a, -difference, -high, -low
    scope = ""
    if comparison.seeds == 1:
        a, b, scope = f"this {a}", f"this {b}", "; this says nothing about other seeds"
    if result != "unclear":
        return (
            f"{a} beats {b} by {_points(difference)} points [{_points(low)}, {_points(high)}], {chance}, {size}{scope}"
        )
    measured = f"{_points(difference, sign=True)} points [{_points(low)}, {_points(high)}], {chance}, {size}"
    return f"no difference can be shown between {a} and {b} ({measured}); {format_detectable(comparison)}{scope}"


def format_detectable(comparison: Contrast) -> str:
    """`minimum detectable effect: 6.0 points (5.4 to 11.2 for the scatter that these seeds allow)`."""
    if comparison.detectable > 1:
        return "this design has too few questions to detect any difference"
    text = f"minimum detectable effect: {_points(comparison.detectable)} points"
    if (ends := comparison.detectable_interval) is None:
        return text
    high = f"{_points(ends.high)}" if ends.high <= 1 else "more than 100"
    return f"{text} ({_points(ends.low)} to {high} for the scatter that these seeds allow)"


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
