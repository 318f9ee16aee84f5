"""The filter `perplexity` in recipes: a model scores what another one reads, and comes before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finished import copy_run
from mentorkd.errors import RecipeError
from mentorkd.files import read_journal
from mentorkd.pipeline.records import BudgetRecord, TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.graph import arms, learning_order
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from small_recipe import small_recipe


def written(folder: Path, learners: dict[str, Any], **changes: Any) -> Path:
    """The small recipe with other learners; those without a model get the student's."""
    raw = small_recipe(folder, **changes)
    raw["training"]["epochs"] = 1
    model = raw["learners"]["student"]["model"]
    raw["learners"] = {name: {"model": model} | learner for name, learner in learners.items()}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(raw))
    return path


def loaded(folder: Path, learners: dict[str, Any], **changes: Any) -> Recipe:
    return load_recipe(written(folder, learners, **changes))


BY_MENTOR = {"perplexity": {"model": "mentor", "drop": 0.25}}
LOOSE = {"correct": False, "deduplicate": False}
LEARNERS = {
    # The scorer stands behind those that it scores for, on purpose.
    "student": {
        "rationales": ["teacher", "mentor"],
        "soft_labels": "mentor",
        "reads": {"teacher": BY_MENTOR, "mentor": {**LOOSE, **BY_MENTOR, "max_per_question": 1}},
    },
    "vanilla": {},
    "mentor": {"select": LOOSE},
}


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("perplexity")
    copy_run(small_run / "run", folder / "run")
    pipeline = Pipeline(loaded(folder, LEARNERS), folder / "run")
    pipeline.run()
    return pipeline


def filters(run: Pipeline, learner: str) -> list[tuple[str, str, int, int]]:
    stage = run.stage_of("train", learner, 1)
    assert stage is not None
    return [(row.source, row.filter, row.before, row.after) for row in run.folder.record_of(TrainRecord, stage).filters]


def test_a_learner_scores_the_texts_of_teacher_and_mentor(run: Pipeline) -> None:
    assert "perplexity" not in [row[1] for row in filters(run, "vanilla") + filters(run, "mentor")]
    scored = {
        source: (before, after) for source, name, before, after in filters(run, "student") if name == "perplexity"
    }
    assert set(scored) == {"teacher", "mentor"}
    for before, after in scored.values():
        assert before - after == int(0.25 * before) > 0


def test_its_scores_are_kept_and_shared(run: Pipeline) -> None:
    (journal,) = (run.folder.root / ".engines").glob("likelihoods-*.jsonl")
    lines = read_journal(journal)
    asked = sum(before for _, name, before, _ in filters(run, "student") if name == "perplexity")
    assert len({key for key, _ in lines}) == len(lines) <= asked
    assert all(nll > 0 for _, nll in lines)


def test_a_scorer_comes_first_and_is_no_arm(run: Pipeline) -> None:
    assert learning_order(run.recipe) == ["vanilla", "mentor", "student"]
    assert arms(run.recipe) == ["student", "vanilla"]
    reader, scorer = run.stage_of("train", "student", 1), run.stage_of("train", "mentor", 1)
    (stage,) = [stage for stage in run.stages if stage.name == reader]
    assert stage.inputs["scorer/mentor"] == scorer
    assert parse_recipe(dump_recipe(run.recipe), source="dump", base=Path("/")) == run.recipe


def test_a_changed_share_scores_nothing_again(run: Pipeline) -> None:
    learners = json.loads(json.dumps(LEARNERS))
    learners["student"]["reads"]["teacher"]["perplexity"]["drop"] = 0.5
    recipe = loaded(run.folder.root.parent, learners)
    again = Pipeline(recipe, run.folder.root)
    waiting = {planned.stage.name for planned in again.plan() if planned.state != "done"}
    assert {"learners/student/seed-1/train", "report"} <= waiting
    assert not [
        name for name in waiting if name.startswith("learners/mentor")
    ]  # its soft labels are of all it may score
    (journal,) = (run.folder.root / ".engines").glob("likelihoods-*.jsonl")
    before = journal.read_text()
    again.run()
    assert journal.read_text() == before
    assert ("teacher", "perplexity") in [row[:2] for row in filters(again, "student")]


def test_any_model_scores_by_its_folder(run: Pipeline, tmp_path: Path) -> None:
    scorer = {"perplexity": {"model": str(run.folder.root / "learners/vanilla/seed-1/model"), "drop": 0.5}}
    teacher = {"kind": "recorded", "rationales": "teacher.jsonl", "select": scorer}
    pipeline = Pipeline(loaded(tmp_path, {"vanilla": {}}, teacher=teacher), tmp_path / "run")
    pipeline.run(until="train")
    ((before, after),) = [row[2:] for row in filters(pipeline, "vanilla") if row[1] == "perplexity"]
    assert before - after == int(0.5 * before) > 0


FAULTY: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "itself": ({"mentor": {}}, BY_MENTOR, "the perplexity of `mentor` cannot filter its own training text"),
    "cycle": (
        {"mentor": {"rationales": ["vanilla"]}, "vanilla": {}},
        BY_MENTOR,
        "a cycle, where each learns from the next",
    ),
    "step by step": (
        {"mentor": {"objective": "step_by_step"}, "student": {"reads": {"teacher": BY_MENTOR}}},
        {},
        "`mentor` answers without reasoning",
    ),
    "no share": ({"mentor": {}}, {"perplexity": {"model": "x", "drop": 0}}, "drop: got 0; expected a number above 0"),
    "no model": ({"mentor": {}}, {"perplexity": {"drop": 0.5}}, "perplexity.model: missing"),
    "no folder": ({"mentor": {}}, {"perplexity": {"model": "./nowhere"}}, "no file or folder at "),
}


@pytest.mark.parametrize("case", FAULTY)
def test_faults_are_told_with_their_place(case: str, tmp_path: Path) -> None:
    learners, select, said = FAULTY[case]
    teacher = {"kind": "recorded", "rationales": "teacher.jsonl", "select": select}
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, learners, teacher=teacher)
    assert said in str(caught.value)
    assert len(caught.value.faults) == 1


def test_a_scorer_that_cannot_be_had_is_refused_before_anything_runs(tmp_path: Path) -> None:
    teacher = {"kind": "recorded", "rationales": "teacher.jsonl", "select": {"perplexity": {"model": "mentr!"}}}
    pipeline = Pipeline(loaded(tmp_path, {"mentor": {}}, teacher=teacher), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"no learner of the recipe; did you mean `mentor`\?"):
        pipeline.run()


def test_arms_that_differ_in_their_scorer_alone_have_budgets_of_their_own(tmp_path: Path) -> None:
    learners = {"scorer": {}, "reader": {"reads": {"teacher": {"perplexity": {"model": "scorer", "drop": 0.5}}}}}
    sweep = {"scorer.training.learning_rate": [1e-2, 1e-5]}
    pipeline = Pipeline(loaded(tmp_path, learners, sweep=sweep), tmp_path / "run")
    pipeline.run(until="budget")
    (stage,) = [stage for stage in pipeline.stages if stage.kind == "budget"]
    found = pipeline.folder.record_of(BudgetRecord, stage.name).arms
    readers = [arm.own for name, arm in found.items() if name.startswith("reader")]
    assert len(readers) == 2
    assert readers[0].target_tokens != readers[1].target_tokens
