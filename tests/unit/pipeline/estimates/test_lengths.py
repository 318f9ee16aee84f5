"""The padding that a plan counts on is that of a training."""

from __future__ import annotations

import random

import pytest

from mentorkd.pipeline.estimates.lengths import Lengths, lengths_of
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.records import ModelKind

RNG = random.Random(0)
TEXTS = [("q" * RNG.randint(80, 240), "r" * RNG.randint(40, 900), "7") for _ in range(200)]


def lengths(kind: ModelKind, cost_of_part: int | None, **training: object) -> Lengths:
    model = ModelConfig(name="someone/unknown")
    learner = Learner.model_validate({"model": model, "rationales": ["teacher"], "training": training})
    return lengths_of(learner, model, kind, TEXTS, 0, cost_of_part)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_parts_of_similar_length_need_little_padding(kind: ModelKind) -> None:
    whole, parts = lengths(kind, None), lengths(kind, 53)
    assert (whole.padded_source + whole.padded_target) / (whole.source + whole.target) > 1.2
    assert (parts.padded_source + parts.padded_target) / (parts.source + parts.target) < 1.15
    assert lengths(kind, 10**6) == whole
    assert (whole.padded_source / whole.source == pytest.approx(whole.padded_target / whole.target)) == (
        kind == "causal"
    )


def test_micro_batches_of_all_processes_are_sorted_together() -> None:
    assert lengths("causal", None, processes=2) == lengths("causal", None, gradient_accumulation=2)
    assert lengths("causal", None, processes=2).padded_source < lengths("causal", None).padded_source
