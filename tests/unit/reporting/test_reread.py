"""A report's inputs are read back from its results: the same results again, without the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mentorkd.reporting.build import build_results
from mentorkd.reporting.reread import inputs_of


@pytest.mark.parametrize("match", ["updates", None])
def test_the_inputs_read_back_give_the_same_results(inputs, arms, match):
    values = inputs(arms, size=40, match=match)
    values = replace(values, rationales=values.rationales[:10], written=14)
    results = build_results(values)
    again = build_results(inputs_of(results, values.predictions))
    assert again == results


def test_without_the_texts_only_the_examples_are_missing(inputs, arms):
    results = build_results(inputs(arms, size=40))
    again = build_results(inputs_of(results, {}))
    for key in ("headline", "learners", "comparisons", "decompositions", "warnings", "protocol"):
        assert again[key] == results[key], key
    assert again["differing"]["entries"] == []
    assert again["differing"]["total"] == results["differing"]["total"]
    assert "The texts of mentor, vanilla, student are not in the compared folders." in again["differing"]["note"]
