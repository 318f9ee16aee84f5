"""results.json suffices: every p and every interval of a report is computed again from it, by numpy and scipy alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from made_up_run import ARMS, make_inputs
from mentorkd.reporting.build import build_results
from mentorkd.reporting.write import write_report


@pytest.fixture(scope="module", params=[(42, 43, 44), (42,)], ids=["three seeds", "one seed"])
def results(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(build_results(make_inputs(ARMS, seeds=request.param, size=120)), folder)
    return json.loads((folder / "results.json").read_text())


def verdicts(results, name, seeds):
    [learner] = [one for one in results["learners"] if one["name"] == name]
    bits = {row["seed"]: row["verdicts"] for row in learner["per_seed"]}
    return np.array([[int(bit) for bit in bits[seed]] for seed in seeds], dtype=float).T


def error_of(arms, weights, peers):
    """Standard error, degrees of freedom and factor of a weighted sum: two-way random effects, question x seed."""
    values = sum(weight * arm for weight, arm in zip(weights, arms, strict=True))
    (questions, seeds), mean = values.shape, values.mean()
    per_question = values.mean(axis=1)
    question = seeds * per_question.var(ddof=1)
    residual, between, freedom = 0.0, 0.0, 1.0
    if seeds > 1:
        rest = values - per_question[:, None] - values.mean(axis=0) + mean
        residual = (rest**2).sum() / ((questions - 1) * (seeds - 1))
        everyone = np.array([arm.mean(axis=0) for arm in [*arms, *peers]])
        room = everyone.mean(axis=1) * (1 - everyone.mean(axis=1))
        centre = np.eye(len(everyone)) - (1 / len(everyone) if sum(weights) == 0 else 0)
        off = centre @ (everyone - everyone.mean(axis=1, keepdims=True))
        form = centre * room
        own = sum(w * w * r for w, r in zip(weights, room, strict=False))
        between = own * questions * (off**2).sum() / (np.trace(form) * (seeds - 1))
        freedom = (seeds - 1) * np.trace(form) ** 2 / (form * form.T).sum()
    variance = question + max(0.0, between - residual)
    spread = question**2 / (questions - 1) + between**2 / freedom
    spread += residual**2 / ((questions - 1) * (seeds - 1)) if seeds > 1 else 0
    bounds = [max(residual, freedom * between / stats.chi2.ppf(p, freedom)) for p in (0.975, 0.025)]
    scatter = [math.sqrt(max(0.0, one - residual) / questions) for one in (between, *bounds)]
    degrees = max(variance**2 / spread, min(freedom, questions - 1))
    return math.sqrt(variance / values.size), degrees, math.sqrt(variance / question), scatter, values


def test_every_p_and_interval_of_a_sum_is_computed_again(results):
    sums = [({row["a"]: 1, row["b"]: -1}, row["difference"], row) for row in results["comparisons"]]
    sums += [(part["arms"], part["gain"], part) for each in results["decompositions"] for part in each["parts"]]
    assert len(sums) == 15 + 4
    for weights, value, row in sums:
        arms = [verdicts(results, name, results["seeds"]) for name in weights]
        peers = [verdicts(results, name, results["seeds"]) for name in row["peers"]]
        error, freedom, factor, scatter, values = error_of(arms, list(weights.values()), peers)
        half = stats.t.ppf(0.975, freedom) * error
        assert value == pytest.approx(values.mean(), abs=1e-6)
        assert (row["standard_error"], row["freedom"]) == pytest.approx((error, freedom), rel=1e-6)
        assert row["factor"] == pytest.approx(factor, abs=1e-6)
        edge = max(1.0, np.abs(values.mean(axis=1)).max())
        ends = [max(-edge, values.mean() - half), min(edge, values.mean() + half)]
        assert row["interval"] == pytest.approx(ends, abs=2e-6)
        differing = np.count_nonzero(values.sum(axis=1))
        p = max(2 * stats.t.sf(abs(values.mean()) / error, freedom), 2.0 ** (1 - differing))
        assert row["p_value"] == pytest.approx(min(1, p), rel=1e-4)
        if len(results["seeds"]) > 1:
            assert [row["scatter"], *row["scatter_interval"]] == pytest.approx(scatter, abs=2e-6)
        else:
            assert row["scatter"] is row["scatter_interval"] is None


def test_every_adjusted_p_is_computed_again(results):
    parts = [part for each in results["decompositions"] for part in each["parts"]]
    families = {"headline": {}, "parts": {}, "pairs": {}}
    for row in [*results["comparisons"], *parts]:
        names = frozenset(row.get("arms", (row.get("a"), row.get("b"))))
        families[row["family"]][names] = row
    assert sorted(map(len, families.values())) == [1, 3, 12]
    for family in families.values():
        running = 0.0
        for rank, row in enumerate(sorted(family.values(), key=lambda row: row["p_value"])):
            running = max(running, min(1.0, (len(family) - rank) * row["p_value"]))
            assert row["p_adjusted"] == pytest.approx(running, rel=1e-4)
            assert row["corrected_for"] == len(family)


def test_every_interval_of_an_accuracy_is_computed_again(results):
    z = stats.norm.ppf(0.975)
    for learner in results["learners"]:
        correct = verdicts(results, learner["name"], results["seeds"])
        share, trials = correct.mean(), float(len(correct))
        assert learner["accuracy"] == pytest.approx(share, abs=1e-6)
        if len(results["seeds"]) > 1:
            peers = [verdicts(results, name, results["seeds"]) for name in learner["peers"]]
            error, freedom, *_ = error_of([correct], [1], peers)
            margin = stats.t.ppf(0.975, freedom) * error
            trials = min(correct.size, share * (1 - share) * (z / margin) ** 2)
        centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
        half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
        assert learner["interval"] == pytest.approx([centre - half, centre + half], abs=2e-6)


def test_the_questions_and_their_verdicts_are_there(results):
    assert len(results["questions"]) == 120
    for learner in results["learners"]:
        for row in learner["per_seed"]:
            assert len(row["verdicts"]) == 120
            assert row["verdicts"].count("1") == row["correct"]
