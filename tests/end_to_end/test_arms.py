"""Kinds of learners beside students: not trained at all, trained on bare answers, with filters of their own, twins."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finished import copy_run
from mentorkd.errors import Fault, RecipeError
from mentorkd.pipeline.records import PrepareRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.graph import arms
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.records import Prediction, read_jsonl
from small_recipe import small_recipe


def written(folder: Path, learners: dict[str, Any], **changes: Any) -> Path:
    """The small recipe with other learners; those without a model get the student's."""
    raw = small_recipe(folder, **changes)
    model = raw["learners"]["student"]["model"]
    raw["learners"] = {
        name: raw["learners"].get(name, {"model": model} | learner) for name, learner in learners.items()
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(raw))
    return path


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("arms")
    copy_run(small_run / "run", folder / "run")
    recipe = written(
        folder,
        {
            "mentor": {},
            "untrained": {"rationales": []},
            "answers": {"rationales": ["gold"]},
            "vanilla": {},
            "twin": {},
            "few": {"rationales": ["teacher"], "reads": {"teacher": {"question_ratio": 0.5}}},
            "student": {},
        },
    )
    pipeline = Pipeline(load_recipe(recipe), folder / "run")
    pipeline.run()
    return pipeline


def records(run: Pipeline, seed: int = 1) -> dict[str, dict[str, Any]]:
    """What every learner's training recorded."""
    trained = {name: run.stage_of("train", name, seed) for name in run.recipe.learners}
    return {name: run.folder.record(stage).as_json() for name, stage in trained.items() if stage}


def test_a_learner_of_nobody_is_evaluated_and_nothing_else(run: Pipeline) -> None:
    mine = [stage for stage in run.stages if stage.learner == "untrained"]
    assert [stage.kind for stage in mine] == ["evaluate"]
    answers = read_jsonl(run.folder.root / "learners/untrained/seed-1/predictions.jsonl", Prediction)
    assert len(answers) == 10


def test_a_pretrained_model_that_is_not_trained_is_asked_once_for_all_seeds(run: Pipeline, tmp_path: Path) -> None:
    pretrained = str(run.folder.root / "learners/mentor/seed-1/model")
    recipe = written(tmp_path, {"base": {"model": pretrained, "rationales": []}, "vanilla": {}}, seeds=[1, 2])
    pipeline = Pipeline(load_recipe(recipe), tmp_path / "run")
    assert pipeline.stage_of("evaluate", "base", 1) == pipeline.stage_of("evaluate", "base", 2)
    assert pipeline.stage_of("evaluate", "vanilla", 1) != pipeline.stage_of("evaluate", "vanilla", 2)


def test_gold_gives_every_training_question_once_with_its_bare_answer(run: Pipeline) -> None:
    made = records(run)
    counts = run.folder.record_of(PrepareRecord, "prepare").questions
    assert made["answers"]["encoding"]["rows"] == counts["train"] > made["vanilla"]["encoding"]["rows"] / 2
    # A number of one or two digits and the end token.
    assert made["answers"]["encoding"]["target_tokens"] < 6 * counts["train"]


def test_a_learner_reads_through_its_own_filter_and_the_others_do_not(run: Pipeline) -> None:
    made = records(run)
    [ratio] = [row for row in made["few"]["filters"] if row["filter"] == "question_ratio"]
    assert 0.3 < ratio["after"] / ratio["before"] < 0.7
    assert not [row for row in made["vanilla"]["filters"] if row["filter"] == "question_ratio"]


def test_learners_that_are_trained_alike_are_trained_once(run: Pipeline) -> None:
    assert run.stage_of("train", "twin", 1) == run.stage_of("train", "vanilla", 1) == "learners/vanilla/seed-1/train"
    stages = json.loads((run.folder.root / "manifest.json").read_text())["stages"]
    kinds = Counter(record["kind"] for record in stages.values())
    assert (kinds["train"], kinds["evaluate"]) == (5, 6)  # of mentor, answers, vanilla, few, student; and the untrained
    rows = {row["name"]: row for row in results(run)["learners"]}
    assert rows["twin"]["per_seed"] == rows["vanilla"]["per_seed"]


def test_learners_that_answer_at_another_length_share_their_training_no_longer(run: Pipeline, tmp_path: Path) -> None:
    recipe = written(tmp_path, {"vanilla": {}, "twin": {"sampling": {"max_new_tokens": 8}}})
    stages = Pipeline(load_recipe(recipe), tmp_path / "run").stages
    assert sum(stage.kind == "train" for stage in stages) == 2  # validation writes as many tokens


def test_mentors_that_differ_in_what_they_write_share_weights_and_soft_labels(tmp_path: Path) -> None:
    student = {"rationales": ["teacher", "mentor"], "soft_labels": "mentor"}
    recipe = written(tmp_path, {"mentor": {}, "student": student})
    raw = json.loads(recipe.read_text())
    raw["learners"]["other"] = raw["learners"]["mentor"] | {"sampling": {"samples": 1}}
    raw["learners"]["pupil"] = raw["learners"]["student"] | {"rationales": ["teacher", "other"], "soft_labels": "other"}
    recipe.write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(recipe), tmp_path / "run")
    kinds = Counter(stage.kind for stage in pipeline.stages)
    assert (kinds["train"], kinds["augment"], kinds["score"], kinds["evaluate"]) == (3, 2, 3, 3)


def test_a_model_as_it_is_can_be_a_mentor(tmp_path: Path) -> None:
    raw = json.loads(written(tmp_path, {"mentor": {}, "student": {}}).read_text())
    raw["learners"]["mentor"]["rationales"] = []
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    assert Counter(stage.kind for stage in pipeline.stages)["train"] == 1
    pipeline.run()
    assert records(pipeline)["student"]["updates"] > 0


def test_arms_are_the_trained_learners_that_nobody_names(run: Pipeline) -> None:
    assert arms(run.recipe) == ["answers", "vanilla", "twin", "few", "student"]


def results(run: Pipeline) -> dict[str, Any]:
    return dict(json.loads((run.folder.root / "report" / "results.json").read_text()))


TEXT = """\
name: demo
task: {name: svamp, train: a, test: b}
teacher: {rationales: c, select: {correct: false, max_tokens: 90}}
learners:
  mentor: {model: m}
  student: {model: m, rationales: [teacher, mentor], reads: {teacher: {question_ratio: 0.1}}}
"""


def parse(text: str) -> Recipe:
    return parse_recipe(text, source="test", base=Path("/"))


def test_a_filter_of_ones_own_begins_at_the_sources() -> None:
    recipe = parse(TEXT)
    own = recipe.filter_of("student", "teacher")
    assert (own.question_ratio, own.correct, own.max_tokens) == (0.1, False, 90)
    assert recipe.filter_of("mentor", "teacher") == recipe.teacher.select
    assert recipe.filter_of("student", "mentor") == recipe.learners["mentor"].select
    assert parse(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "reads: {teacher:",
            "reads: {teachr:",
            ("learners.student.reads.teachr", "`teachr` is not among its `rationales`; did you mean `teacher`?"),
        ),
        (
            "question_ratio: 0.1",
            "min_tokens: 100",
            ("learners.student.reads.teacher", "`min_tokens: 100` is above `max_tokens: 90`; lower one or raise the other"),
        ),
        (
            "mentor: {model: m}",
            "mentor: {model: m, rationales: [gold]}",
            (
                "learners.student.rationales[1]",
                "`mentor` learns bare answers and writes no rationale; name it only in `soft_labels`",
            ),
        ),
        (
            "mentor: {model: m}",
            "mentor: {model: m, rationales: [], soft_labels: student}",
            (
                "learners.mentor.soft_labels",
                "has no effect with `rationales: []`, since soft labels belong to text; name the authors of the text in "
                "`rationales`",
            ),
        ),
        (
            "rationales: [teacher, mentor]",
            "soft_labels: gold",
            (
                "learners.student.soft_labels",
                "the gold answers are text only; soft labels come from a learner, or from a teacher with `logprobs`",
            ),
        ),
        ("mentor: {model", "gold: {model", ("learners.gold", "`gold` stands for the gold answers; give the learner another name")),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(old: str, new: str, fault: tuple[str, str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(TEXT.replace(old, new))
    assert Fault(*fault) in [Fault(each.key, each.message) for each in caught.value.faults]
