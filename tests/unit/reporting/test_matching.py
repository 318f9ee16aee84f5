"""What the headline or a table compares is matched, or the page says how it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up_run import MENTOR, STUDENT, VANILLA
from mentorkd.reporting.build import build_results
from mentorkd.reporting.markdown import render_markdown
from mentorkd.reporting.matching import unequal_training
from mentorkd.reporting.page import render_page
from mentorkd.reporting.rows import fairness_rows, pair_rows

OWN = replace(VANILLA, updates=[1160] * 3, target_tokens=[1_200_000] * 3)
STAR = replace(
    STUDENT, name="star", rationales=["teacher", "vanilla"], mentor_weights={}, kd_weight=None, temperature=None
)


@pytest.fixture
def results(inputs):
    return build_results(inputs((OWN, STAR), size=40, soft_labels=()))


def test_a_source_that_the_headline_compares_is_named_with_its_own_updates(results):
    assert [learner["arm"] for learner in results["learners"]] == [False, True]
    [row] = results["comparisons"]
    assert (row["a"], row["b"], row["headline"]) == ("star", "vanilla", True)
    assert row["unmatched"] == "optimiser updates: star 3,780, vanilla 1,160"
    [warning] = results["warnings"]
    assert warning.startswith(
        "star and vanilla were not trained equally (optimiser updates: star 3,780, vanilla 1,160): vanilla is trained by its own epochs"
    )


def test_tables_and_pages_name_unequal_training(results):
    assert pair_rows(results)[0]["unequal training"] == "optimiser updates: star 3,780, vanilla 1,160"
    assert [row["arm"] for row in fairness_rows(results)] == ["vanilla", "star"]
    for text in (render_markdown(results, {}), render_page(results, {})):
        assert text.count("optimiser updates: star 3,780, vanilla 1,160") >= 2


def test_equal_training_gives_no_warning_and_no_column(inputs):
    results = build_results(inputs((VANILLA, STAR), size=40, soft_labels=()))
    assert results["comparisons"][0]["unmatched"] is None
    assert results["warnings"] == []
    assert "unequal training" not in pair_rows(results)[0]


def test_the_unit_is_the_one_that_is_matched():
    tokens = replace(STUDENT, target_tokens=[1_210_000] * 3)
    assert unequal_training([OWN, tokens], "tokens") is None
    assert unequal_training([OWN, tokens], "updates") is not None
    assert unequal_training([OWN, STUDENT], "tokens") == "target tokens: vanilla 1,200,000, student 3,990,000"
    assert unequal_training([MENTOR, replace(MENTOR, name="untrained", updates=[])], "updates") is None
