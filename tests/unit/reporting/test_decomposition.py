"""Decompositions: arms identified by what they learn from, parts that add up."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from mentorkd.records import Prediction, Question
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo
from mentorkd.reporting.page import _step
from mentorkd.reporting.plots import draw_decomposition
from mentorkd.reporting.statistics import compare, contrast, holm
from mentorkd.reporting.views import waterfall

SEEDS = (1, 2, 3)
SETTINGS = {"epochs": 5, "updates": None, "learning_rate": 1e-3}
# Names that say nothing, in an order that says nothing.
LABELS = LearnerInfo(
    name="x1",
    model="small",
    model_key="small",
    rationales=["teacher"],
    mentor_weights={"big": 1.0},
    kd_weight=0.3,
    temperature=2.0,
    updates=[900] * 3,
    settings=SETTINGS,
)
BOTH = replace(LABELS, name="x2", rationales=["teacher", "big"])
TEXT = replace(BOTH, name="x3", mentor_weights={}, kd_weight=None, temperature=None)
LONGER = replace(TEXT, name="x4", rationales=["teacher"])
BASE = replace(LONGER, name="x5", updates=[300] * 3, settings=SETTINGS | {"epochs": 2})
BIG = replace(BASE, name="big", model="large", model_key="large")
ARMS = (LABELS, BOTH, BIG, TEXT, LONGER, BASE)
ACCURACY = {"x1": 0.6, "x2": 0.75, "x3": 0.65, "x4": 0.5, "x5": 0.45, "big": 0.9}


def found(inputs, learners=ARMS, seeds=SEEDS, size=120):
    questions = [Question.create(f"question {n}", "A", "test") for n in range(size)]
    predictions = {}
    for info in learners:
        for seed in seeds:
            rng = random.Random(f"{info.name}{seed}")
            right = [rng.random() < ACCURACY.get(info.name, 0.5) for _ in questions]
            predictions[info.name, seed] = [
                Prediction(q.id, info.name, seed, "", "A", "correct" if ok else "wrong", 1, True)
                for q, ok in zip(questions, right, strict=True)
            ]
    values = {"learners": learners, "seeds": seeds, "questions": questions, "predictions": predictions, "metrics": {}}
    return build_results(inputs(size=size, rationales=(), **values)), predictions


def matrix(predictions, name):
    return np.array([[p.verdict == "correct" for p in predictions[name, seed]] for seed in SEEDS], dtype=int).T


def test_arms_are_identified_by_what_they_learn_from(inputs):
    [row] = found(inputs)[0]["decompositions"]
    assert (row["base"], row["longer"], row["rationales"], row["soft_labels"], row["both"]) == (
        "x5",
        "x4",
        "x3",
        "x1",
        "x2",
    )
    assert {part["part"]: part["arms"] for part in row["parts"]} == {
        "more_updates": {"x4": 1, "x5": -1},
        "rationales": {"x3": 1, "x4": -1},
        "soft_labels": {"x1": 1, "x4": -1},
        "interaction": {"x2": 1, "x3": -1, "x1": -1, "x4": 1},
        "total": {"x2": 1, "x5": -1},
    }
    assert row["missing"] == []
    assert row["seeds"] == list(SEEDS)


def test_a_part_is_shown_by_its_p_and_its_interval_both(inputs):
    results, predictions = found(inputs)
    known = {name: matrix(predictions, name) for name in ACCURACY}
    [row] = results["decompositions"]
    for part in row["parts"]:
        arms = part["arms"]
        peers = [known[info.name] for info in (BASE, LONGER, TEXT, LABELS, BOTH) if info.name not in arms]
        alone = contrast([known[name] for name in arms], list(arms.values()), peers=peers)
        assert part["p_value"] == pytest.approx(alone.p_value, rel=1e-5)
        assert part["shown"] == (part["p_adjusted"] < 0.05 and not part["interval"][0] <= 0 <= part["interval"][1])
    shown = {part["part"]: part["shown"] for part in row["parts"]}
    assert shown["total"]
    assert not shown["interaction"]


def test_parts_are_corrected_together_and_a_pair_has_one_p(inputs):
    results, _ = found(inputs)
    [row] = results["decompositions"]
    pairs = {frozenset((pair["a"], pair["b"])): pair for pair in results["comparisons"]}
    tested = [part for part in row["parts"] if part["family"] == "parts"]
    assert [part["p_adjusted"] for part in tested] == pytest.approx(
        holm([part["p_value"] for part in tested]), rel=1e-4
    )
    assert {part["corrected_for"] for part in tested} == {len(tested)}
    for part in row["parts"]:
        if len(part["arms"]) == 2:
            pair = pairs[frozenset(part["arms"])]
            for field in ("p_value", "p_adjusted", "corrected_for", "family", "standard_error", "freedom", "peers"):
                assert part[field] == pair[field], field
            assert part["shown"] == (pair["outcome"] != "unclear")
            assert abs(part["gain"]) == abs(pair["difference"])
    others = [pair for pair in results["comparisons"] if pair["family"] == "pairs"]
    assert {pair["corrected_for"] for pair in others} == {len(others)}
    assert len([pair for pair in results["comparisons"] if pair["family"] == "headline"]) == 1


def test_a_decomposition_of_one_seed_speaks_of_these_models(inputs):
    [row] = found(inputs, seeds=(1,))[0]["decompositions"]
    assert row["statement"].startswith("this x2 against this x5: ")


def test_a_part_that_is_not_shown_is_grey_on_the_page(inputs):
    [row] = found(inputs)[0]["decompositions"]
    [total] = [part for part in row["parts"] if part["part"] == "total"]
    assert _step(total, 0.0, 0.0, 1.0)["tone"] == "whole"
    assert _step(total | {"shown": False}, 0.0, 0.0, 1.0)["tone"] == "unclear"


def test_parts_add_up_and_have_the_intervals_of_paired_contrasts(inputs):
    results, predictions = found(inputs)
    parts = {part["part"]: part for part in results["decompositions"][0]["parts"]}
    total = parts.pop("total")
    assert sum(part["gain"] for part in parts.values()) == pytest.approx(total["gain"], abs=1e-5)
    known = {info.name: matrix(predictions, info.name) for info in ARMS}
    arms = [known[name] for name in ("x1", "x2", "x3", "x4", "x5")]
    pair = compare(known["x3"], known["x4"], peers=[known[name] for name in ("x5", "x1", "x2")])
    assert parts["rationales"]["gain"] == pytest.approx(pair.difference, abs=1e-6)
    assert parts["rationales"]["interval"] == pytest.approx([pair.interval.low, pair.interval.high], abs=1e-6)
    both, text, labels, longer = (known[name] for name in ("x2", "x3", "x1", "x4"))
    four = contrast([both, text, labels, longer], [1, -1, -1, 1], peers=[arms[4]])
    assert parts["interaction"]["interval"] == pytest.approx([four.interval.low, four.interval.high], abs=1e-6)


def test_a_base_with_as_many_updates_leaves_nothing_to_more_updates(inputs):
    [row] = found(inputs, tuple(info for info in ARMS if info is not BASE))[0]["decompositions"]
    assert (row["base"], row["longer"], row["missing"]) == ("x4", None, [])
    assert [part["part"] for part in row["parts"]] == ["rationales", "soft_labels", "interaction", "total"]
    assert all(part["note"] is None for part in row["parts"])


def test_without_a_longer_base_the_parts_note_different_updates(inputs):
    [row] = found(inputs, tuple(info for info in ARMS if info is not LONGER))[0]["decompositions"]
    assert row["base"] == "x5"
    assert row["parts"][0]["note"] == "includes the effect of different numbers of optimiser updates: x3 900, x5 300"
    assert row["missing"] == ["more updates: there is no arm like x5 with as many updates as x2"]


def test_a_missing_arm_is_named_and_its_part_left_out(inputs):
    [row] = found(inputs, tuple(info for info in ARMS if info is not LABELS))[0]["decompositions"]
    assert [part["part"] for part in row["parts"]] == ["more_updates", "rationales", "total"]
    assert row["missing"] == ["soft labels alone: there is no arm like x2 with rationales of the teacher only"]
    assert "; each alone: " in row["statement"]


@pytest.mark.parametrize(
    "other",
    [
        replace(TEXT, model_key="another"),
        replace(TEXT, objective="mcc"),
        replace(TEXT, settings=SETTINGS | {"learning_rate": 1e-4}),
        replace(TEXT, filters={"teacher": {"question_ratio": 0.1}}),
        replace(TEXT, rationales=["teacher", "big", "other"]),
    ],
    ids=["model", "objective", "settings", "filter", "sources"],
)
def test_an_arm_that_differs_in_more_is_no_arm(inputs, other):
    [row] = found(inputs, tuple(other if info is TEXT else info for info in ARMS))[0]["decompositions"]
    assert row["rationales"] is None


def test_soft_labels_of_another_strength_are_no_arm(inputs):
    [row] = found(inputs, tuple(replace(LABELS, kd_weight=0.9) if info is LABELS else info for info in ARMS))[0][
        "decompositions"
    ]
    assert row["soft_labels"] is None


def test_the_variants_that_give_most_parts_are_used(inputs):
    other = replace(BOTH, name="x6", kd_weight=0.9)
    [row] = found(inputs, (other, *ARMS))[0]["decompositions"]
    assert row["both"] == "x2"  # x1 has soft labels of its strength


def test_recipes_without_the_arms_have_no_decomposition(inputs):
    for learners in ([BASE, BOTH, BIG], [TEXT, LONGER, BIG], [LABELS, BOTH, BIG]):
        assert found(inputs, tuple(learners))[0]["decompositions"] == []


def test_the_bars_go_from_the_base_to_the_whole(inputs):
    results, _ = found(inputs)
    [row] = results["decompositions"]
    steps = waterfall(row)
    ends = [start + part["gain"] for part, start in steps]
    assert [start for _, start in steps[1:4]] == pytest.approx(ends[:3])
    assert ends[3] == pytest.approx(ends[4], abs=1e-5)
    base = next(learner for learner in results["learners"] if learner["name"] == row["base"])
    svg = draw_decomposition(row, base)
    assert all(name in svg for name in ("more updates", "mentor rationales", "soft labels", "interaction"))
