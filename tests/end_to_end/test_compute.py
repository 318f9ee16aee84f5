"""Arms of equal compute: the mentor's training, writing and scoring count to the arm that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mentorkd.data.encoding import Example
from mentorkd.errors import RecipeError, TrainingError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.records import BudgetRecord, TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.recipe.load import load_recipe
from mentorkd.reporting.write import read_results
from mentorkd.training.schedule import Arm, match_updates
from small_recipe import write_small_recipe


def arm(rows: int, before: int, a_token: int = 6, **config: Any) -> Arm:
    """An arm with rows of five tokens, two in a batch, and two epochs."""
    examples = [Example(str(number), [1, 2, 3], [4, 5, 6, 7, 8]) for number in range(rows)]
    settings = TrainingConfig(epochs=2, batch_size=2, **config)
    return Arm(examples, "seq2seq", settings, operations_a_token=a_token, operations_before=before)


def test_an_arm_without_a_mentor_trains_longer_for_the_same_operations() -> None:
    made = match_updates({"vanilla": arm(4, 0), "student": arm(4, 480)}, "compute", seed=0)
    assert made["number"] == 480 + 6 * 40  # the student's, with two epochs of 20 tokens
    assert {name: each["updates"] for name, each in made["arms"].items()} == {"vanilla": 12, "student": 4}
    assert {name: each["operations_before"] for name, each in made["arms"].items()} == {"vanilla": 0, "student": 480}


def test_a_given_number_of_updates_is_an_arms_own_length() -> None:
    made = match_updates({"vanilla": arm(4, 0), "student": arm(4, 480, updates=10)}, "compute", seed=0)
    assert made["number"] == 480 + 6 * 100
    assert {name: each["updates"] for name, each in made["arms"].items()} == {"vanilla": 18, "student": 10}


def test_a_stated_number_may_be_too_small_for_what_an_arm_learns_from() -> None:
    arms = {"vanilla": arm(4, 0), "student": arm(4, 480)}
    assert match_updates(arms, "compute", seed=0, operations=600)["arms"]["student"]["updates"] == 2
    with pytest.raises(
        TrainingError, match=r"student: what it learns from takes 480 floating-point operations, .* 480 to"
    ):
        match_updates(arms, "compute", seed=0, operations=480)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["match=updates", "compute=1e9"], "compute: `match: updates` does not read it; set `match: compute`"),
        (["learners.student.soft_label_store=online"], "`match: compute` counts the scoring of stored soft labels"),
        (["learners.vanilla.rationales=[teacher, self]"], "match: `compute` cannot count the texts that `vanilla` is still"),
        (["compute=0"], "compute: got 0; expected a number above 0"),
        (["compute=.inf"], "compute: got inf; expected a finite number"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    path = write_small_recipe(tmp_path, match="compute")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert message in str(caught.value)


def test_the_plan_tells_the_operations_and_gives_vanilla_more_updates(tmp_path: Path) -> None:
    recipe = load_recipe(write_small_recipe(tmp_path, match="compute"))
    estimates = estimate(recipe, tmp_path / "run")
    updates = {s.learner: estimates.of(s)["updates"] for s in compile_stages(recipe) if s.kind == "train"}
    assert updates["vanilla"] > 1.5 * updates["student"]
    [note] = [note for note in estimates.notes if "equal compute" in note]
    assert "vanilla 0" in note
    poor = estimate(recipe.model_copy(update={"compute": 1.0}), tmp_path / "run")
    assert any("leaves nothing for the training of student; raise `compute`" in note for note in poor.notes)


@pytest.mark.slow
def test_a_run_gives_its_arms_equal_operations_by_the_reports_own_count(tmp_path: Path) -> None:
    recipe = load_recipe(write_small_recipe(tmp_path, match="compute"))
    pipeline = Pipeline(recipe, tmp_path / "run")
    pipeline.run()
    budget = pipeline.folder.record_of(BudgetRecord, "budget/seed-1")
    assert budget.match == "compute"
    records = {
        name: pipeline.folder.record_of(TrainRecord, f"learners/{name}/seed-1/train") for name in ("vanilla", "student")
    }
    assert records["student"].updates == budget.arms["student"].own.updates
    assert records["vanilla"].updates == budget.arms["vanilla"].updates > 1.3 * records["student"].updates
    results = read_results(pipeline.folder.root / "report")
    last = {curve["learner"]: curve["validation"][-1]["flops"] for curve in results["curves"]}
    assert last["student"] == budget.number
    assert last["vanilla"] == pytest.approx(budget.number, rel=0.02)
    student = next(row for row in results["learners"] if row["name"] == "student")
    own = 6 * student["parameters"] * student["target_tokens"][0]  # type: ignore[operator]
    assert budget.arms["student"].operations_before == budget.number - own
    assert all(row["unmatched"] is None for row in results["comparisons"] if {row["a"], row["b"]} == set(records))
    assert any(
        line.startswith("Matched by compute: each of vanilla, student is trained") for line in results["protocol"]
    )
    assert not any("same number of" in line for line in results["warnings"])
    assert {planned.state for planned in Pipeline(recipe, tmp_path / "run").plan()} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["learners.mentor.folds=2"], ["search={learning_rate: [1e-3, 1e-2]}"]])
def test_patience_ends_the_trainings_of_folds_and_of_trials(tmp_path: Path, overrides: list[str]) -> None:
    """Each training of a cross-fitted mentor, and each trial of a search, has a plateau of its own."""
    training = {"updates": 60, "epochs": 15, "patience": 0.3, "cooldown": 0.25, "batch_size": 8, "precision": "float32"}
    recipe = load_recipe(write_small_recipe(tmp_path, match="plateau", training=training), overrides)
    pipeline = Pipeline(recipe, tmp_path / "run")
    pipeline.run()
    trained = [stage for stage in pipeline.stages if stage.kind == "train"]
    assert len(trained) == (4 if recipe.learners["mentor"].folds > 1 else 5)
    for stage in trained:
        record = pipeline.folder.record_of(TrainRecord, stage.name)
        assert record.plateau is not None
        assert record.plateau.limit == 60
        assert record.updates <= 60
    results = read_results(pipeline.folder.root / "report")
    assert all(len(learner["plateaus"]) == 1 for learner in results["learners"])
