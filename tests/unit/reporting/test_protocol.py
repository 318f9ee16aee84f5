"""The protocol of a report: how its learners were trained."""

from __future__ import annotations

from typing import Any

import pytest

from made_up_records import train_record
from mentorkd.pipeline.records import RoundOutcome
from mentorkd.pipeline.stages.report import _protocol, _ranges, _settings
from mentorkd.recipe.schema import Recipe


def recipe(student: dict[str, Any], match: str = "epochs", **training: Any) -> Recipe:
    defaults = {"epochs": 4} | training
    return Recipe.model_validate(
        {
            "name": "small",
            "match": match,
            "task": {"name": "totals", "train": "a", "test": "b", "answer": "number"},
            "teacher": {"rationales": "c"},
            "learners": {
                "vanilla": {"model": "m", "training": defaults},
                "student": {"model": "m", "training": defaults | student},
            },
        }
    )


def told(recipe: Recipe, rows: tuple[int, int], updates: tuple[int, int]) -> str:
    records = {
        (name, 42): train_record(updates=count, kept=kept)
        for name, kept, count in zip(recipe.learners, rows, updates, strict=True)
    }
    return " ".join(_protocol(recipe, records))


@pytest.mark.parametrize(
    ("student", "rows", "sentence"),
    [
        ({}, (80, 240), "the same number of epochs (4) over different numbers of rows (vanilla 80, student 240)."),
        ({"epochs": 9}, (80, 80), "training took different numbers of epochs (vanilla 4, student 9)."),
        ({"epochs": 9}, (80, 90), "(vanilla 4, student 9) and different numbers of rows (vanilla 80, student 90)."),
        ({"batch_size": 2}, (80, 80), "the same number of epochs (4) over batches of different sizes."),
    ],
)
def test_protocol_gives_the_reason_for_unequal_updates(student, rows, sentence):
    lines = told(recipe(student), rows, (40, 120))
    assert "Optimiser updates: vanilla 40, student 120." in lines
    assert sentence in lines


def test_equal_updates_need_no_reason():
    assert "unequal" not in told(recipe({}), (80, 80), (40, 40))


@pytest.mark.parametrize(
    ("match", "held"),
    [
        (
            "updates",
            "trained for the same number of optimiser updates, the most that any of them would do by its own epochs",
        ),
        (
            "tokens",
            "trained for the same number of target tokens, the most that any of them would see by its own epochs",
        ),
        ("epochs", "trained for as many passes over its own rows as the recipe says."),
    ],
)
def test_protocol_says_what_was_matched(match, held):
    lines = told(recipe({}, match=match), (80, 80), (40, 40))
    assert f"Matched by {match}: each of vanilla, student is {held}" in lines
    assert ("rows are cycled" in lines) == (match != "epochs")


def test_numbers_that_differ_between_seeds_are_a_range():
    assert _ranges({"vanilla": [40, 40], "student": [1534, 1540]}) == "vanilla 40, student 1,534–1,540"


@pytest.mark.parametrize(("every", "once"), [(1, False), (3, False), (4, True), (9, True)])
def test_a_single_validation_selects_nothing(every, once):
    lines = told(recipe({"select_on": "last"}, validate_every=every), (80, 80), (40, 40))
    assert ("Only one epoch of vanilla was validated, the last: validation chose nothing." in lines) == once


def test_settings_exclude_options_of_speed():
    learner = recipe({"tokens_per_batch": 512, "torch_compile": True}).learners["student"]
    settings = _settings(learner, "bfloat16")
    assert (settings["tokens_per_batch"], settings["precision"], settings["target"]) == (512, "bfloat16", "arrow")
    assert {"batch_size", "torch_compile", "report_to"}.isdisjoint(settings)


def test_processes_count_as_accumulation():
    learners = recipe({"processes": 2}, gradient_accumulation=3).learners
    assert _settings(learners["student"], "float32") == {
        **_settings(learners["vanilla"], "float32"),
        "gradient_accumulation": 6,
    }


def test_protocol_says_how_rounds_share_the_updates_and_which_was_chosen():
    own = {"model": "m", "rationales": ["teacher", "self"], "own_texts": {"rounds": 2}}
    made = Recipe.model_validate(
        {
            "name": "small",
            "seeds": [1, 2],
            "task": {"name": "totals", "train": "a", "test": "b", "answer": "number"},
            "teacher": {"rationales": "c"},
            "learners": {
                "mentor": {"model": "m", "folds": 3},
                "base": {"model": "m"},
                "own": own | {"soft_labels": "mentor", "model": {"learner": "base"}},
                "last": own | {"training": {"select_on": "last"}},
            },
        }
    )

    def outcomes(best: int) -> list[RoundOutcome]:
        return [
            RoundOutcome(
                number=n, updates=5, target_tokens=9, seconds=1.0, validation_accuracy=0.5 if n == best else 0.2
            )
            for n in range(3)
        ]

    rounds = {("own", 1): outcomes(1), ("own", 2): outcomes(2), ("last", 1): outcomes(2), ("last", 2): outcomes(2)}
    records = {(name, seed): train_record(rounds=rounds.get((name, seed))) for name in made.learners for seed in (1, 2)}
    lines = _protocol(made, records)
    [shares] = [line for line in lines if line.startswith("Own texts:")]
    assert "(own 3, last 3) have equal shares of its updates" in shares
    each = "(one number for each seed, where seeds differ)"
    assert f"Round whose model is the learner, with the best validation accuracy: own 1 / 2 {each}." in lines
    assert f"Round whose model is the learner, which is the last: last 2 {each}." in lines
    assert "Initial weights: own from base, after its training, whose updates are not counted again." in lines
    assert any(line.startswith("Cross-fitting (mentor 3 folds)") for line in lines)
    assert not any(
        "Own texts" in line or "Cross-fitting" in line
        for line in _protocol(recipe({}), {(name, 42): train_record() for name in ("vanilla", "student")})
    )
