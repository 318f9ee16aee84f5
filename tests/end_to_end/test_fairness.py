"""Arms are compared after equal training: as many updates or target tokens, from equal weights, on rows in equal order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mentorkd.data.batching import plan_batches
from mentorkd.data.encoding import Example
from mentorkd.models import load_model
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.records import BudgetRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.recipe.load import load_recipe
from mentorkd.training.schedule import Arm, match_updates
from small_recipe import small_recipe, write_small_recipe


def arm(rows: int, tokens: int, **training: Any) -> Arm:
    each = [Example(str(n), [1] * 4, [1] * tokens) for n in range(rows)]
    return Arm(each, "seq2seq", TrainingConfig(**{"epochs": 2, "batch_size": 4, **training}))


def test_every_arm_gets_the_most_updates_that_any_would_do() -> None:
    made = match_updates({"many": arm(10, 3), "few": arm(3, 7), "fixed": arm(3, 7, updates=5)}, "updates", seed=0)
    assert made["number"] == 6  # 10 rows in 3 batches, twice
    assert {name: told["updates"] for name, told in made["arms"].items()} == {"many": 6, "few": 6, "fixed": 5}
    assert made["arms"]["few"] == {"rows": 3, "own": {"updates": 2, "target_tokens": 42}, "updates": 6}


def test_a_number_of_updates_that_a_recipe_names_is_an_offer_to_the_others() -> None:
    made = match_updates({"fixed": arm(3, 7, updates=50), "few": arm(3, 7)}, "updates", seed=0)
    assert made["arms"]["few"]["updates"] == 50


def test_every_arm_gets_the_most_target_tokens_that_any_would_see() -> None:
    made = match_updates({"long": arm(4, 9), "short": arm(4, 2)}, "tokens", seed=0)
    assert made["number"] == 2 * 4 * 9
    assert made["arms"]["long"]["updates"] == 2
    assert made["arms"]["short"]["updates"] == 9  # of 4 rows with 2 tokens each


def changed(folder: Path, *overrides: str) -> Pipeline:
    return Pipeline(load_recipe(folder / "recipe.yaml", overrides), folder / "run")


def trained(pipeline: Pipeline, seed: int = 1) -> dict[str, dict[str, Any]]:
    stages = {name: pipeline.stage_of("train", name, seed) for name in pipeline.recipe.learners}
    return {name: pipeline.folder.record(stage).as_json() for name, stage in stages.items() if stage}


@pytest.fixture(scope="module")
def folder(small_run: Path) -> Path:
    """The small recipe, whose student has more rows than vanilla, trained and evaluated."""
    return small_run


def test_arms_do_equally_many_updates_and_say_how_many_epochs_these_were(folder: Path) -> None:
    made = trained(changed(folder))
    student, vanilla = made["student"], made["vanilla"]
    assert student["updates"] == vanilla["updates"] > 3 * -(-vanilla["rows"] // 8)
    assert student["epochs"] == 3
    assert vanilla["epochs"] == pytest.approx(vanilla["updates"] / -(-vanilla["rows"] // 8))
    assert (student["matched"], vanilla["matched"], made["mentor"]["matched"]) == ("updates", "updates", None)
    assert made["mentor"]["updates"] == 3 * -(-made["mentor"]["rows"] // 8)
    for learner in made.values():
        assert learner["target_tokens"] == pytest.approx(
            learner["encoding"]["target_tokens"] * learner["epochs"], rel=0.1
        )


def test_arms_are_validated_equally_often(folder: Path) -> None:
    counts = []
    for name in ("student", "vanilla"):
        lines = (folder / f"run/learners/{name}/seed-1/metrics.jsonl").read_text().splitlines()
        counts.append([row["step"] for row in map(json.loads, lines) if "validation_accuracy" in row])
    assert counts[0] == counts[1]
    assert len(counts[0]) == 3


def test_the_budget_is_a_stage_between_the_mentors_and_the_arms(folder: Path) -> None:
    pipeline = changed(folder)
    kinds = [(stage.kind, stage.learner) for stage in pipeline.stages]
    assert kinds.index(("augment", "mentor")) < kinds.index(("budget", "")) < kinds.index(("train", "vanilla"))
    record = pipeline.folder.record_of(BudgetRecord, "budget/seed-1")
    assert record.number == trained(pipeline)["student"]["updates"]
    assert record.arms["vanilla"].own.updates < record.number


def test_the_plan_foretells_the_budget(folder: Path) -> None:
    pipeline = changed(folder)
    estimates = estimate(pipeline.recipe, folder / "run")
    told = {stage.learner: estimates.of(stage) for stage in pipeline.stages if stage.kind == "train"}
    for name, record in trained(pipeline).items():
        assert (told[name]["rows"], told[name]["updates"]) == (record["rows"], record["updates"])
        assert told[name]["epochs"] == pytest.approx(record["epochs"], rel=0.1)
    own = pipeline.folder.record_of(BudgetRecord, "budget/seed-1").arms["vanilla"].own.updates
    assert f"by their own epochs they would do {own} to {told['student']['updates']} updates" in " ".join(
        estimates.notes
    )
    more = load_recipe(
        folder / "recipe.yaml",
        ["sweep.student.kd_weight=[0, 1]", "search={learning_rate: [0.1, 0.2, 0.3]}", "match=tokens"],
    )
    notes = estimate(more, folder / "run").notes
    assert any("equal target tokens" in note for note in notes)
    assert "swept: student.kd_weight (2); that makes 2 of the 4 learners" in notes
    arms = "vanilla 3, student@kd_weight=0 3, student@kd_weight=1 3"
    assert f"trials a seed, each trained and validated: {arms}" in notes


def states(pipeline: Pipeline) -> dict[str, str]:
    return {planned.stage.name: planned.state for planned in pipeline.plan()}


def test_an_arm_that_changes_nothing_for_the_others_leaves_them_as_they_are(folder: Path) -> None:
    raw = yaml.safe_load((folder / "recipe.yaml").read_text())
    raw["learners"]["few"] = raw["learners"]["vanilla"] | {"reads": {"teacher": {"question_ratio": 0.5}}}
    (folder / "more.yaml").write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(folder / "more.yaml"), folder / "run")
    before = states(pipeline)
    assert before["learners/student/seed-1/train"] == before["learners/vanilla/seed-1/evaluate"] == "may run"
    assert (before["budget/seed-1"], before["learners/few/seed-1/train"]) == ("runs", "runs")
    log = (folder / "run/log.jsonl").read_text()
    pipeline.run(until="budget")
    assert (
        json.loads((folder / "run/log.jsonl").read_text().removeprefix(log).splitlines()[-1])["stage"]
        == "budget/seed-1"
    )
    after = states(pipeline)
    assert after["learners/student/seed-1/train"] == after["learners/vanilla/seed-1/evaluate"] == "done"
    assert after["learners/few/seed-1/train"] == "runs"
    changed(folder).run(until="evaluate")  # and back
    assert set(states(changed(folder)).values()) == {"done"}


def test_there_is_no_budget_where_nothing_is_to_be_found(folder: Path) -> None:
    assert [s for s in changed(folder).stages if s.kind == "budget"]
    assert not [s for s in changed(folder, "match=epochs").stages if s.kind == "budget"]
    assert not [s for s in changed(folder, "training.updates=7").stages if s.kind == "budget"]
    assert [s for s in changed(folder, "learners.student.training.updates=7").stages if s.kind == "budget"]


def test_target_tokens_can_be_equal_instead(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path, match="tokens")
    raw["training"]["epochs"] = 1
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    pipeline = changed(tmp_path)
    pipeline.run(until="evaluate")
    student, vanilla = trained(pipeline)["student"], trained(pipeline)["vanilla"]
    assert student["target_tokens"] == pipeline.folder.record_of(BudgetRecord, "budget/seed-1").number > 3000
    one_update = 8 * 64
    assert 0 <= vanilla["target_tokens"] - student["target_tokens"] < one_update
    assert vanilla["matched"] == "tokens"


def test_learners_of_one_model_start_from_equal_bits_and_see_equal_rows_in_equal_order(tmp_path: Path) -> None:
    recipe = load_recipe(write_small_recipe(tmp_path))
    first, other = (recipe.learners[name].model for name in ("vanilla", "student"))
    device = torch.device("cpu")
    one = load_model(first, seed=3, device=device).model.state_dict()
    torch.manual_seed(99)  # what ran in between plays no part
    torch.rand(7)
    two = load_model(other, seed=3, device=device).model.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    unlike = load_model(other, seed=4, device=device).model.state_dict()
    assert not all(torch.equal(one[key], unlike[key]) for key in one)
    lengths = [(5, n % 7) for n in range(50)]
    long, short = (plan_batches(lengths, seed=3, batches=n, batch_size=8).batches for n in (30, 9))
    assert long[:9] == short
