"""Questions without answers: prepared and counted, and unseen by every stage that needs an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.errors import DataError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.ownership import conflict
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.records import PrepareRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.aliases import canonical_dump
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from small_recipe import small_recipe, write_small_recipe

NEW = ["Ann has 2 pens and buys 3. How many pens has Ann?", "Bob has 4 cups and buys 5. How many cups has Bob?"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A mentor and the learner that reads its rationales, without soft labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    learners = small_recipe(folder)["learners"]
    student = {"model": learners["student"]["model"], "rationales": ["mentor"]}
    return load_recipe(write_small_recipe(folder, learners={"mentor": learners["mentor"], "student": student}))


@pytest.fixture(scope="module")
def with_unlabelled(recipe: Recipe) -> Recipe:
    """The same with a file of two new questions, a repeated one, and one of each other split."""
    data = Path(recipe.data.root)
    rows = [{"question": question} for question in [*NEW, NEW[0]]]
    for split in ("train", "validation", "test"):
        first = (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[0]
        rows.append({"question": json.loads(first)["question"]})
    (data / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"unlabelled": "more.jsonl"})})


def test_other_learners_are_trained_and_tested_as_without_them(
    recipe: Recipe, with_unlabelled: Recipe, tmp_path: Path
) -> None:
    runs = {"without": Pipeline(recipe, tmp_path / "without"), "with": Pipeline(with_unlabelled, tmp_path / "with")}
    for pipeline in runs.values():
        pipeline.run()
    plain, more = (pipeline.folder for pipeline in runs.values())
    assert [question.text for question in more.questions("prepare", "unlabelled")] == NEW
    for split in ("train", "validation", "test"):
        assert more.questions("prepare", split) == plain.questions("prepare", split)
    counts = more.record_of(PrepareRecord, "prepare").questions
    assert counts == plain.record_of(PrepareRecord, "prepare").questions | {"unlabelled": len(NEW)}
    faults = more.record_of(PrepareRecord, "prepare").faults
    assert [line.split(":")[0] for line in faults] == [
        "1 repeated question(s) within a split, kept once",
        "3 question(s) in several splits, kept for the first of test, validation, training and unlabelled",
    ]
    for name in ("annotate", "learners/mentor/seed-1/augment"):
        assert list(more.rationales(name)) == list(plain.rationales(name))
    for learner in recipe.learners:
        evaluated = f"learners/{learner}/seed-1/evaluate"
        assert more.predictions(evaluated) == plain.predictions(evaluated)
    results = [json.loads((folder.root / "report" / "results.json").read_text()) for folder in (plain, more)]
    assert any(line.startswith("Unlabelled questions") and line.endswith(": 2.") for line in results[1]["protocol"])
    assert results[1]["written"] == results[0]["written"]
    assert results[1]["training"] == results[0]["training"]


def test_a_plan_tells_how_many_there_are(recipe: Recipe, with_unlabelled: Recipe, tmp_path: Path) -> None:
    plain, more = estimate(recipe, tmp_path), estimate(with_unlabelled, tmp_path)
    [prepare, *others] = compile_stages(recipe)
    assert more.of(prepare)["rows"] == plain.of(prepare)["rows"] + len(NEW)
    assert [more.of(stage) for stage in others] == [plain.of(stage) for stage in others]
    [note] = [note for note in more.notes if note not in plain.notes]
    assert note.startswith("2 unlabelled questions")
    assert "3 question(s) in several splits" in "".join(more.dropped)


def test_only_recipes_with_such_a_file_have_other_fingerprints(recipe: Recipe, with_unlabelled: Recipe) -> None:
    assert not {"unlabelled", "limit_unlabelled"} & canonical_dump(recipe)["task"].keys()
    limited = with_unlabelled.task.model_copy(update={"limit_unlabelled": 1})
    recipes = [recipe, with_unlabelled, with_unlabelled.model_copy(update={"task": limited})]
    marks = [compile_stages(each)[0].fingerprint for each in recipes]
    file = Path(recipe.data.root) / "more.jsonl"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + json.dumps({"question": "How many are 6 and 7?"}) + "\n", encoding="utf-8")
    marks += [compile_stages(each)[0].fingerprint for each in recipes]
    file.write_text(text, encoding="utf-8")
    assert marks[0] == marks[3]
    assert len(set(marks)) == 5


def test_a_run_folder_stays_its_recipes_when_such_a_file_is_named_or_moved(
    recipe: Recipe, with_unlabelled: Recipe, tmp_path: Path
) -> None:
    pipeline = Pipeline(recipe, tmp_path / "run")
    pipeline.run(until="prepare")
    for other in (with_unlabelled, recipe):
        assert conflict(other, pipeline.folder, compile_stages(other)[0]) is None
        Pipeline(other, tmp_path / "run").run(until="prepare")
    without_share = recipe.task.model_copy(update={"validation": None, "unlabelled": "more.jsonl"})
    other = recipe.model_copy(update={"task": without_share})
    assert conflict(other, pipeline.folder, compile_stages(other)[0]) is None


def test_faults_of_such_a_file_are_errors_where_the_recipe_is_strict(with_unlabelled: Recipe, tmp_path: Path) -> None:
    strict = with_unlabelled.model_copy(update={"data": with_unlabelled.data.model_copy(update={"strict": True})})
    with pytest.raises(DataError, match=r"(?s)data\.strict is true.*3 question\(s\) in several splits"):
        Pipeline(strict, tmp_path / "run").run(until="prepare")
