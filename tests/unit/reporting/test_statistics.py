"""Statistics against statsmodels, published tables, hand calculation and simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from mentorkd.reporting.statistics import (
    Contrast,
    Interval,
    MeanError,
    MeanSquares,
    _between_seeds,
    accuracy_interval,
    compare,
    contrast,
    holm,
    mean_and_error,
    mean_squares,
    outcome,
    verdict,
    wilson_interval,
)


def answers(rng, accuracy, questions, seeds, *, spread=0.0, hardness=None):
    """Simulated verdicts [Q, S]: a question's chance varies by `hardness`, a seed's by `spread` (in accuracy)."""
    chance = accuracy + (0 if hardness is None else hardness[:, None]) + rng.normal(0, spread, (1, seeds))
    return (rng.random((questions, seeds)) < np.clip(chance, 0, 1)).astype(int)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 225), (225, 225), (186, 225), (7, 9)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_statsmodels(successes, trials, confidence):
    got = wilson_interval(successes, trials, confidence)
    assert (got.low, got.high) == pytest.approx(
        proportion_confint(successes, trials, alpha=1 - confidence, method="wilson"), abs=1e-12
    )
    assert 0 <= got.low <= successes / trials <= got.high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match=r"expected 0 <= successes <= trials"):
        wilson_interval(successes, trials)


def test_one_seed_accuracy_is_plain_wilson():
    correct = np.array([[1]] * 30 + [[0]] * 10)
    assert accuracy_interval(correct) == wilson_interval(30, 40)


def test_identical_seeds_bring_no_evidence_and_independent_seeds_do():
    rng = np.random.default_rng(1)
    one = answers(rng, 0.7, 200, 1)
    repeated = accuracy_interval(np.repeat(one, 3, axis=1))
    assert (repeated.low, repeated.high) == pytest.approx(
        (accuracy_interval(one).low, accuracy_interval(one).high), abs=2e-3
    )
    three = accuracy_interval(answers(rng, 0.7, 200, 3))
    assert three.high - three.low < 0.75 * (repeated.high - repeated.low)


def test_accuracy_of_all_right_is_not_certain():
    assert accuracy_interval(np.ones((20, 3))) == wilson_interval(20, 20)


def test_mean_and_error_by_hand():
    assert mean_and_error([0.5]) == (0.5, None)
    mean, error = mean_and_error([0.1, 0.2, 0.6])
    assert (mean, error) == pytest.approx((0.3, math.sqrt(0.07 / 3)))
    with pytest.raises(ValueError, match="no values"):
        mean_and_error([])


@pytest.mark.parametrize("p_values", [[0.01], [0.04, 0.01, 0.03], [0.5, 0.5, 0.001, 0.2], [1.0, 0.9], []])
def test_holm_equals_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1].tolist() if p_values else []
    assert holm(p_values) == pytest.approx(expected)


def test_the_standard_error_by_hand():
    # Q = 4, S = 2; MS_question = 1/3, MS_seed = 2, MS_residual = 0
    shifted = np.array([[1.0, 0.0], [1.0, 0.0], [1.5, 0.5], [0.5, -0.5]])
    squares = mean_squares(shifted, 2.0, 1)
    assert (squares.question, squares.residual) == pytest.approx((1 / 3, 0))
    error = squares.error()
    assert error.error == pytest.approx(math.sqrt((1 / 3 + 2) / 8))
    assert error.factor == pytest.approx(math.sqrt(7))
    assert error.freedom == pytest.approx((49 / 9) / (1 / 27 + 4))
    # The same scatter known from ten degrees of freedom is surer.
    assert mean_squares(shifted, 2.0, 10).error().freedom == pytest.approx((49 / 9) / (1 / 27 + 4 / 10))
    assert squares.scatter(2.0) == pytest.approx(math.sqrt(2 / 4))


def test_a_scatter_of_zero_keeps_its_degrees_of_freedom():
    """Seeds that agree by luck make no z: the mean square between seeds stays an estimate from two degrees of freedom."""
    squares = MeanSquares(questions=200, seeds=3, question=0.5, residual=0.4, seed=0.3, seed_freedom=2.0)
    error = squares.error()
    assert error.factor == 1
    assert error.freedom == pytest.approx(0.25 / (0.25 / 199 + 0.09 / 2 + 0.16 / 398))
    assert error.margin() == pytest.approx(stats.t.ppf(0.975, error.freedom) * math.sqrt(0.5 / 600))
    one = MeanSquares(questions=200, seeds=1, question=0.5, residual=0.0, seed=0.0, seed_freedom=1.0).error()
    assert one.freedom == pytest.approx(199)


def test_the_scatter_that_is_compatible_with_the_seeds():
    squares = MeanSquares(questions=200, seeds=3, question=0.5, residual=0.4, seed=0.9, seed_freedom=2.0)
    low, high = squares.possible_seed(np.array([0.025, 0.975]))
    assert low == 0.4  # 2 x 0.9 / 7.38 is below what the questions explain
    assert high == pytest.approx(2 * 0.9 / stats.chi2.ppf(0.025, 2))
    rng, runs = np.random.default_rng(9), 300
    held = 0
    for _ in range(runs):
        a, b = arms(rng, [0.6, 0.6], 3, 0.06)
        held += 0.06 in compare(a, b).scatter_interval
    assert 0.92 <= held / runs <= 0.98


@pytest.mark.parametrize(
    ("freedom", "published"), [(1.0, 12.7062), (2.0, 4.3027), (4.0, 2.7764), (12.5, 2.1692), (224.0, 1.9706)]
)
def test_the_margin_is_student_s_t(freedom, published):
    assert MeanError(1.5, freedom, 1.0).margin() == pytest.approx(1.5 * published, abs=1e-4)


def test_peers_improve_the_estimate_of_scatter():
    rng = np.random.default_rng(2)
    hardness = rng.uniform(-0.3, 0.3, 200)
    a, b, *peers = (answers(rng, 0.5, 200, 3, hardness=hardness, spread=0.05) for _ in range(8))
    alone, known = compare(a, b), compare(a, b, peers=peers)
    assert known.difference == alone.difference
    assert known.factor > alone.factor == 1  # by luck these two agree from seed to seed; six more learners do not
    assert known.scatter > alone.scatter == 0
    assert 0.03 in alone.scatter_interval
    with pytest.raises(ValueError, match=r"\(200, 3\) and \(200, 2\)"):
        compare(a, b, peers=[a[:, :2]])


def test_identical_learners_are_not_known_to_be_equal():
    same = np.ones((100, 1))
    got = compare(same, same)
    assert got.interval.low < 0 < got.interval.high == wilson_interval(0, 100).high
    assert got.p_value == 1


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("questions", [1, 4, 5, 6, 8])
def test_few_differing_questions_are_no_surer_than_their_coin_flips(questions, seeds):
    a = np.zeros((50, seeds), int)
    a[:questions] = 1
    assert compare(a, np.zeros_like(a)).p_value >= stats.binomtest(questions, questions).pvalue


def arms(rng, accuracies, seeds, spread, questions=225):
    """Verdicts of learners of equal scatter: `spread` is the standard deviation of a seed's accuracy difference."""
    hardness = rng.uniform(-0.3, 0.3, questions)
    return [answers(rng, x, questions, seeds, hardness=hardness, spread=spread / math.sqrt(2)) for x in accuracies]


@pytest.mark.parametrize(
    ("seeds", "spread", "learners"),
    [(1, 0.0, 2), (3, 0.0, 2), (3, 0.02, 2), (2, 0.02, 3), (3, 0.05, 4), (3, 0.1, 4)],
)
def test_intervals_cover_the_true_difference(seeds, spread, learners):
    """At least 93 % of 95 % intervals hold the truth: questions of uneven hardness, and seeds of uneven luck."""
    rng, runs = np.random.default_rng(5), 500
    covered = 0
    for _ in range(runs):
        a, b, *peers = arms(rng, [0.58] + [0.5] * (learners - 1), seeds, spread)
        covered += 0.08 in compare(a, b, peers=peers).interval
    assert 0.93 <= covered / runs <= 0.99


def test_learners_near_zero_are_assumed_to_scatter_less():
    """Their seeds have no room; peers in the middle scatter by 5 points, and no learner at 2 % does."""
    rng, runs = np.random.default_rng(8), 300
    covered, widths = 0, []
    for _ in range(runs):
        low = answers(rng, 0.02, 150, 3, spread=0.01)
        interval = accuracy_interval(low, peers=arms(rng, [0.5] * 3, 3, 0.07, questions=150))
        covered += 0.02 in interval
        widths.append(interval.high - interval.low)
    assert covered / runs >= 0.93
    assert np.median(widths) < 0.07
    nobody = [np.zeros((50, 3))] * 3
    assert compare(*nobody[:2], peers=nobody[2:]).p_value == 1.0


def unequal_arms(rng, logits, spread, questions=150, seeds=3):
    """Verdicts of learners whose seeds differ by `spread` in the log-odds of a right answer, and so by less near 0."""
    hardness = rng.normal(0, 1.5, (questions, 1))
    chances = [1 / (1 + np.exp(-(logit + hardness + rng.normal(0, spread, seeds)))) for logit in logits]
    return [(rng.random(chance.shape) < chance).astype(int) for chance in chances]


@pytest.mark.parametrize("logits", [(-0.6, -0.6, -6.4, -6.4), (-5.4, -3.1, -4.1, -3.4)])
def test_arms_with_unequal_room_contribute_unequally_to_scatter(logits):
    """Near-floor peers (40 % beside 0.5 %, or 1 to 9 %) do not make it look well known how much seeds scatter."""
    luck = np.random.default_rng(1).normal(0, math.hypot(1.5, 0.4), 200_000)
    a, b, c, d = (float((1 / (1 + np.exp(-(logit + luck)))).mean()) for logit in logits)
    rng, runs = np.random.default_rng(2), 400
    pair = four = called = 0
    for _ in range(runs):
        arms = unequal_arms(rng, logits, 0.4)
        pair += a - b in compare(*arms[:2], peers=arms[2:]).interval
        four += a - b - c + d in contrast(arms, [1, -1, -1, 1]).interval
        null = unequal_arms(rng, (logits[0], logits[0], *logits[2:]), 0.4)
        called += outcome(compare(*null[:2], peers=null[2:])) != "unclear"
    assert pair / runs >= 0.93
    assert four / runs >= 0.93
    assert called / runs <= 0.05 + 2 * 0.011


def test_arms_with_equal_room_contribute_equally_to_scatter():
    """Four arms of three seeds: 8 degrees of freedom for one of them, 6 for differences; a fifth at 0 adds none."""
    rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    assert _between_seeds([rows] * 4, [1])[1] == pytest.approx(8)
    assert _between_seeds([rows] * 4, [1, -1])[1] == pytest.approx(6)
    assert _between_seeds([rows] * 4 + [np.zeros_like(rows)], [1])[1] == pytest.approx(8)
    assert _between_seeds([np.zeros_like(rows)] * 2, [1, -1]) == (0.0, 1.0)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.03)])
def test_accuracy_interval_covers_the_true_accuracy(seeds, spread):
    rng, runs = np.random.default_rng(6), 600
    covered = sum(
        0.55 in accuracy_interval(c, peers=p) for c, *p in (arms(rng, [0.55] * 3, seeds, spread) for _ in range(runs))
    )
    assert 0.93 <= covered / runs <= 0.98


def called_different(seeds, spread, learners, runs=400):
    """Share of simulated runs in which equal learners are said to differ."""
    rng = np.random.default_rng(11)
    called = 0
    for _ in range(runs):
        a, b, *peers = arms(rng, [0.6] * learners, seeds, spread)
        called += "beats" in verdict("a", "b", compare(a, b, peers=peers))
    return called / runs


@pytest.mark.parametrize(("seeds", "spread", "learners"), [(1, 0.0, 2), (2, 0.0, 2), (3, 0.0, 2), (3, 0.02, 2)])
def test_null_comparison_is_called_different_in_at_most_one_of_twenty(seeds, spread, learners):
    """The same learner under two names; with one seed, two of its seeds as two arms. The simulation's own error is 1.1 %."""
    assert called_different(seeds, spread, learners) <= 0.05 + 2 * 0.011


@pytest.mark.parametrize("spread", [0.05, 0.1])
def test_seeds_that_scatter_widely_do_not_make_null_comparisons_differ_more(spread):
    """Nothing is left of the test's caution here: one of twenty, and the simulation's own error (1.1 % of 400 runs)."""
    assert called_different(3, spread, 4) <= 0.05 + 2 * 0.011


def test_seeds_that_disagree_are_not_mistaken_for_a_difference():
    """Two lone learners whose seeds scatter by 5 points: questions alone call them different in a sixth of runs."""
    rng, runs = np.random.default_rng(13), 400
    called = called_without = 0
    for _ in range(runs):
        a, b = arms(rng, [0.6, 0.6], 3, 0.05)
        called += compare(a, b).p_value < 0.05
        called_without += stats.ttest_1samp((a - b).mean(axis=1), 0).pvalue < 0.05
    assert called <= 0.07 * runs
    assert called_without >= 0.14 * runs


def test_a_large_difference_is_shown_whatever_the_scatter():
    rng = np.random.default_rng(3)
    a, b = (np.hstack([answers(rng, x, 225, 1) for x in each]) for each in ([0.9] * 3, [0.05, 0.15, 0.25]))
    found = compare(a, b)
    assert found.factor > 2
    assert found.freedom < 3  # two arms of three seeds
    assert outcome(found) == "a_better"


@pytest.mark.parametrize(
    ("seeds", "learners", "spread"), [(1, 2, 0.0), (3, 2, 0.0), (3, 2, 0.05), (5, 2, 0.02), (3, 4, 0.05)]
)
def test_the_minimum_detectable_effect_is_shown_in_80_percent_of_repetitions(seeds, learners, spread):
    """Each promise is put to a fresh report with just that difference. Less scatter than these seeds allow makes it safer."""
    rng, runs = np.random.default_rng(7), 250
    shown = 0
    for _ in range(runs):
        a, b, *peers = arms(rng, [0.5] * learners, seeds, spread)
        promised = min(0.9, compare(a, b, peers=peers).detectable)
        a, b, *peers = arms(rng, [0.5 + promised / 2, 0.5 - promised / 2, *[0.5] * (learners - 2)], seeds, spread)
        shown += outcome(compare(a, b, peers=peers)) != "unclear"
    assert 0.8 - 2 * 0.025 <= shown / runs <= 0.97


def test_the_minimum_detectable_effect_is_that_of_the_non_central_t():
    """Where the seeds' mean square is the whole variance, the mixture is the non-central t distribution."""
    squares = MeanSquares(questions=1000, seeds=3, question=1e-9, residual=1e-9, seed=3.0, seed_freedom=4.0)
    effect = squares.detectable(0.05, np.array([3.0]))
    power = stats.nct.sf(stats.t.ppf(0.975, 4), 4, effect / math.sqrt(3 / 3000))
    assert power == pytest.approx(0.8, abs=0.01)


def test_the_range_of_the_minimum_detectable_effect_is_that_of_the_scatter():
    rng = np.random.default_rng(8)
    a, b = arms(rng, [0.5, 0.5], 3, 0.04)
    got = compare(a, b)
    assert got.detectable_interval.low < got.detectable < got.detectable_interval.high
    assert compare(a[:, :1], b[:, :1]).detectable_interval is None
    assert compare(a, b, pairs=10).detectable > got.detectable


def test_the_minimum_detectable_effect_knows_the_grain_of_the_test():
    same = np.ones((100, 1))
    assert compare(same, same).detectable == 0.06  # five questions one way give p = 0.0625, six 0.03
    assert compare(same[:4], same[:4]).detectable > 1


def test_compare_by_hand():
    a = np.array([[1, 1], [0, 1], [0, 0], [1, 1]])
    b = np.array([[0, 1], [0, 0], [0, 1], [0, 0]])
    got = compare(a, b, pairs=2)
    assert got.difference == 3 / 8
    assert (got.only_a, got.only_b, got.questions, got.seeds) == (4, 1, 4, 2)
    # by question 1/2, 1/2, -1/2, 1; by seed 1/2, 1/4 in the difference, and 2/4, 3/4 against 1/4, 2/4 in the arms
    assert got.factor == 1
    assert got.standard_error == pytest.approx(math.sqrt(1.1875 / 3 / 4))
    assert got.p_value == pytest.approx(2 * stats.t.sf(got.difference / got.standard_error, got.freedom))
    half = stats.t.ppf(0.975, got.freedom) * got.standard_error
    assert got.interval.low == pytest.approx(got.difference - half)
    mirrored = compare(b, a, pairs=2)
    assert (mirrored.difference, mirrored.p_value) == (-got.difference, got.p_value)


def test_compare_refuses_unpaired_arrays():
    with pytest.raises(ValueError, match=r"\(3, 1\) and \(2, 1\)"):
        compare(np.zeros((3, 1)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="at least one of each"):
        compare(np.zeros((0, 1)), np.zeros((0, 1)))


def test_an_interaction_is_a_contrast_of_four():
    rng = np.random.default_rng(4)
    both, text, labels, base = arms(rng, [0.7, 0.6, 0.6, 0.5], 3, 0.0)
    got = contrast([both, text, labels, base], [1, -1, -1, 1])
    assert got.difference == pytest.approx(both.mean() - text.mean() - labels.mean() + base.mean())
    assert got.difference in got.interval
    pair = contrast([both, base], [1, -1])
    assert got.standard_error > 1.2 * pair.standard_error  # four learners' noise against two's
    a = np.array([[1], [1], [0]])
    extreme = contrast([a, 1 - a, 1 - a, a], [1, -1, -1, 1])
    assert extreme.interval.high > 1  # each question contributes 2 or -2
    assert extreme.p_value > 0.5


BEATEN = Contrast(
    difference=0.093,
    standard_error=0.021,
    freedom=40.0,
    factor=1.0,
    interval=Interval(0.051, 0.136),
    p_value=0.0004,
    scatter=0.0,
    scatter_interval=Interval(0.0, 0.07),
    detectable=0.06,
    detectable_interval=Interval(0.054, 0.112),
    questions=225,
    seeds=3,
    only_a=90,
    only_b=30,
)
LOST = replace(BEATEN, difference=-0.093, interval=Interval(-0.136, -0.051))
ONCE = {"seeds": 1, "scatter": None, "scatter_interval": None, "detectable_interval": None}


def test_verdict_names_the_winner():
    sentence = "student beats vanilla by 9.3 points [5.1, 13.6], p = 0.0004, 3 seeds, 225 questions"
    assert verdict("student", "vanilla", BEATEN) == sentence
    assert verdict("vanilla", "student", LOST) == sentence


def test_verdict_of_one_seed_speaks_of_these_two_models():
    """Two trainings of one learner may truly differ, by luck; their difference must not be read as the learners'."""
    assert verdict("vanilla", "student", replace(LOST, **ONCE)) == (
        "this student beats this vanilla by 9.3 points [5.1, 13.6], p = 0.0004, 1 seed, 225 questions; this says nothing "
        "about other seeds"
    )


def test_verdict_of_no_difference_gives_the_minimum_detectable_effect():
    unclear = replace(BEATEN, difference=0.02, interval=Interval(-0.019, 0.061), p_value=0.31)
    assert verdict("student", "vanilla", unclear) == (
        "no difference can be shown between student and vanilla (+2.0 points [-1.9, 6.1], p = 0.31, 3 seeds, "
        "225 questions); minimum detectable effect: 6.0 points (5.4 to 11.2 for the scatter that these seeds allow)"
    )
    assert (
        verdict("student", "vanilla", replace(unclear, **ONCE)).endswith(
            "between this student and this vanilla (+2.0 points [-1.9, 6.1], p = 0.31, 1 seed, 225 questions); minimum "
            "detectable effect: 6.0 points; this says nothing about other seeds"
        )
        is True
    )


def test_verdict_says_when_p_is_corrected():
    assert "p = 0.012 (Holm, 3 tests), 3 seeds" in verdict("a", "b", BEATEN, p_adjusted=0.012, pairs=3)


def test_verdict_needs_both_p_and_interval():
    assert "beats" not in verdict("a", "b", BEATEN, p_adjusted=0.06)
    assert "beats" not in verdict("a", "b", replace(BEATEN, interval=Interval(0.0, 0.18), p_value=0.04))


def test_verdict_of_a_tiny_design():
    tiny = compare(np.array([[1], [0], [1]]), np.array([[0], [0], [1]]))
    assert verdict("a", "b", tiny).endswith(
        "this design has too few questions to detect any difference; this says nothing about other seeds"
    )
