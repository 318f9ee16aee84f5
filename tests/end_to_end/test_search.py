"""Searches: the trials of each learner. The best trial by validation becomes the learner and is not trained again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from made_up_records import train_record
from mentorkd.errors import RecipeError
from mentorkd.pipeline.records import Search, TrialOutcome
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.stages.search import choose_trial
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import trial_name, trials_of, with_values
from small_recipe import small_recipe

TEXT = """\
name: demo
task: {name: svamp, train: a, test: b}
teacher: {rationales: c}
search: {learning_rate: [1e-4, 3e-4], kd_weight: [0.1, 0.5, 0.9], trials: 2}
learners:
  mentor: {model: big}
  vanilla: {model: small}
  student: {model: small, rationales: [teacher, mentor], soft_labels: mentor}
"""


def parse(*overrides: str, text: str = TEXT) -> Recipe:
    return parse_recipe(text, source="test", base=Path("/"), overrides=overrides)


def test_the_recipes_search_is_that_of_every_arm_but_for_what_has_no_effect_there() -> None:
    learners = parse().learners
    assert learners["mentor"].search is None
    vanilla, student = learners["vanilla"].search, learners["student"].search
    assert vanilla is not None
    assert student is not None
    assert (vanilla.learning_rate, vanilla.kd_weight) == ([1e-4, 3e-4], None)
    assert student.kd_weight == [0.1, 0.5, 0.9]
    assert parse(text=dump_recipe(parse())) == parse()


def test_own_texts_alone_have_no_weight_to_search_for() -> None:
    search = parse("learners.student.rationales=[self]").learners["student"].search
    assert search is not None
    assert (search.learning_rate, search.kd_weight) == ([1e-4, 3e-4], None)


def test_trials_are_the_grid_or_a_draw_from_it_that_is_always_the_same() -> None:
    student = parse("search.trials=null", "learners.vanilla.search={learning_rate: [1, 2, 3, 4, 5, 6]}").learners[
        "student"
    ]
    whole = trials_of(student)
    assert whole == [
        {"learning_rate": rate, "kd_weight": weight} for rate in (1e-4, 3e-4) for weight in (0.1, 0.5, 0.9)
    ]
    drawn = trials_of(parse().learners["student"])
    assert len(drawn) == 2
    assert [trial for trial in whole if trial in drawn] == drawn == trials_of(parse().learners["student"])
    assert trials_of(parse().learners["vanilla"]) == [{"learning_rate": 1e-4}, {"learning_rate": 3e-4}]


def test_values_reach_their_places() -> None:
    tried = with_values(parse().learners["student"], {"learning_rate": 0.5, "kd_weight": 0.9})
    assert (tried.training.learning_rate, tried.kd_weight) == (0.5, 0.9)
    assert trial_name({"learning_rate": 1e-4, "kd_weight": 0.9}) == "learning_rate=0.0001,kd_weight=0.9"


def test_a_trial_without_validation_is_a_bug_and_not_left_out() -> None:
    records = [train_record(validation_accuracy=each) for each in (None, 0.4)]
    with pytest.raises(AssertionError, match="without validation"):
        choose_trial([{"kd_weight": 0.1}, {"kd_weight": 0.5}], records)


def test_the_best_trial_is_the_first_of_those_with_the_best_validation_accuracy() -> None:
    trials = [{"kd_weight": weight} for weight in (0.1, 0.5, 0.9)]
    accuracies = (0.2, 0.4, 0.4)
    records = [train_record(validation_accuracy=each, updates=7, tokens=9) for each in accuracies]
    best, record = choose_trial(trials, records)
    assert best == 1
    assert (record.validation_accuracy, record.updates, record.tokens) == (0.4, 7, None)
    assert record.search == Search(
        tried=[TrialOutcome(values, accuracy) for values, accuracy in zip(trials, accuracies, strict=True)],
        chosen={"kd_weight": 0.5},
    )
    assert record.as_json() == train_record(validation_accuracy=0.4, updates=7).as_json() | {
        "kind": "search",
        "search": {
            "tried": [
                {"values": {"kd_weight": 0.1}, "validation_accuracy": 0.2},
                {"values": {"kd_weight": 0.5}, "validation_accuracy": 0.4},
                {"values": {"kd_weight": 0.9}, "validation_accuracy": 0.4},
            ],
            "chosen": {"kd_weight": 0.5},
        },
    }


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["search.trials=null"], "search", "unequal numbers of trials (vanilla 2, student 6), and an arm with more trials"),
        (["search.trials=null"], "search", "or set `search.trials: 2`"),
        (["search.trials=4"], "search", "(vanilla 2, student 4)"),
        (["search=null", "learners.student.search={kd_weight: [0, 1]}"], "search", "(vanilla 1, student 2)"),
        (["search.learning_rate=[0]"], "search.learning_rate[0]", "got 0; expected a number above 0"),
        (["search.epochs=[1]"], "search.epochs", "unknown key"),
        (["search={trials: 3}"], "learners.vanilla.search", "names no setting; give values to try"),
        (["training.select_on=last"], "learners.student.search", "needs validation to choose the best trial, and `select_on` is last"),
        (["learners.vanilla.search={kd_weight: [0, 1]}"], "learners.vanilla.search.kd_weight", "has no effect without `soft_labels`"),
        (["search.kd_weight=[0, 0]"], "learners.student.search.kd_weight", "a value is given twice"),
        (["sweep={student.kd_weight: [0, 1]}"], "learners.student.search.kd_weight", "is swept too; remove it from `sweep`"),
        (["learners.vanilla.rationales=[]", "learners.vanilla.search={learning_rate: [1]}"], "learners.vanilla.search", "is not trained"),
    ],
)  # fmt: skip
def test_what_would_be_unfair_or_do_nothing_is_refused(overrides: list[str], key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(*overrides)
    assert any(fault.key == key and message in fault.message for fault in caught.value.faults), caught.value.faults


@pytest.mark.parametrize(
    ("setting", "search", "message"),
    [
        ("kd_weight={teacher: 0.3, mentor: 0.9}", "kd_weight", "would replace the `kd_weight` of each source by one"),
        ("temperature={mentor: 2}", "temperature", "would replace the `temperature` of each source by one for all"),
        ("rationales=[self]", "kd_weight", "has no effect without a source besides `self`, whose weight is 1"),
    ],
)
def test_a_search_of_one_value_replaces_no_values_by_source(setting: str, search: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(f"learners.student.{setting}", f"learners.student.search={{{search}: [0.5, 1]}}")
    [told] = [fault for fault in caught.value.faults if fault.key == f"learners.student.search.{search}"]
    assert message in told.message


def test_the_papers_protocol_asks_for_no_equal_searches() -> None:
    recipe = parse("protocol=paper", "training.select_on=validation", "search.trials=null")
    assert len(trials_of(recipe.learners["student"])) == 6


def test_a_learner_that_is_searched_has_the_best_trials_weights_and_no_training_of_its_own(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    del raw["learners"]["vanilla"]
    raw["learners"]["student"] |= {"rationales": ["mentor"], "soft_label_store": "top_k", "top_k": 8}
    raw["training"]["epochs"] = 1
    raw["sampling"] |= {"samples": 1, "max_new_tokens": 8}
    raw["search"] = {"learning_rate": [1e-3, 1e-2], "temperature": [1.0, 2.0]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    pipeline.run()
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    kinds = Counter((record["kind"], record["learner"]) for record in stages.values())
    assert (kinds["train", "student"], kinds["search", "student"], kinds["evaluate", "student"]) == (4, 1, 1)
    assert kinds["score", "student"] == 2  # probabilities are kept at the temperature of the loss
    record = stages["learners/student/seed-1/search"]
    assert [trial["values"] for trial in record["search"]["tried"]] == [
        {"learning_rate": rate, "temperature": tau} for rate in (1e-3, 1e-2) for tau in (1.0, 2.0)
    ]
    chosen = tmp_path / "run/learners/student/seed-1/trials" / trial_name(record["search"]["chosen"])
    learner = tmp_path / "run/learners/student/seed-1"
    assert (learner / "model/model.safetensors").samefile(chosen / "model/model.safetensors")
    assert (learner / "metrics.jsonl").read_text() == (chosen / "metrics.jsonl").read_text()
    assert "tokens" not in record
    card = (learner / "model/README.md").read_text()
    assert f"learning rate {record['search']['chosen']['learning_rate']:g}" in card
