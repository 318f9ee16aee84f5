"""The teachers that a recipe opens, and one from outside the package: nothing else asks for a teacher's kind."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.teacher import RecordedTeacherConfig
from mentorkd.records import TEACHER, Question, Rationale, read_jsonl
from mentorkd.teachers.annotate import open_teacher
from mentorkd.teachers.asked import AskedTeacher
from mentorkd.teachers.local import LocalTeacher
from mentorkd.teachers.openai import OpenAITeacher
from mentorkd.teachers.teacher import Annotation, AnnotationContext, Description, Teacher, TeacherEstimate
from places import SOURCE
from small_recipe import small_recipe

KINDS = {
    "rationales: t.jsonl": ("recorded", ""),
    "kind: openai, model: /models/m, base_url: 'http://e/v1', samples: 2": (
        "m at http://e/v1",
        "2 samples a question, temperature 0.7, prompt zero_shot_cot",
    ),
    "kind: local, model: a/b, until_correct: {want: 2}, prompt: two_stage": (
        "a/b, run here",
        "3 samples a question, up to 8 until 2 are correct, temperature 0.7, prompt two_stage",
    ),
}


def recipe_with(teacher: str, base: Path = Path("/recipes")) -> Recipe:
    task, learners = "task: {name: svamp, train: a.json, test: b.json}", "learners: {vanilla: {model: a/b}}"
    return parse_recipe(f"name: r\n{task}\nteacher: {{{teacher}}}\n{learners}\n", source="a recipe", base=base)


@pytest.mark.parametrize("settings", KINDS)
def test_a_teacher_describes_itself(settings: str) -> None:
    assert open_teacher(recipe_with(settings)).describe() == KINDS[settings]


ASKED: dict[type[AskedTeacher[Any]], tuple[str, dict[str, str]]] = {
    OpenAITeacher: (
        "kind: openai, model: m",
        {
            "select": "{correct: false}",
            "cache": "c.sqlite",
            "overlay": "o.jsonl",
            "api_key_env": "OTHER_KEY",
            "budget": "{requests: 9}",
            "concurrency": "1",
            "max_wait": "1",
            "price": "{input: 1, output: 2}",
            "requests_per_minute": "9",
            "retries": "0",
            "timeout": "9",
            "tokenizer": "a/b",
            "tokens_per_minute": "9",
        },
    ),
    LocalTeacher: (
        "kind: local, model: a/b",
        {"select": "{correct: false}", "cache": "c.sqlite", "overlay": "o.jsonl", "batch_size": "1"},
    ),
}


@pytest.mark.parametrize("kind", ASKED)
def test_how_a_teacher_is_asked_is_no_part_of_its_identity(kind: type[AskedTeacher[Any]]) -> None:
    settings, changes = ASKED[kind]
    assert kind.how_to_ask == changes.keys()
    identity = open_teacher(recipe_with(settings)).identity()
    for key, value in changes.items():
        assert open_teacher(recipe_with(f"{settings}, {key}: {value}")).identity() == identity, key
    for change in ("samples: 4", "max_tokens: 9", "seed: 1", "stop: [x]", "until_correct: {want: 1}"):
        assert open_teacher(recipe_with(f"{settings}, {change}")).identity() != identity, change


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    files = {
        "t.jsonl": "rationales: t.jsonl",
        "shots.json": "kind: openai, model: m, prompt: few_shot, exemplars: shots.json",
        "p.jinja": "kind: openai, model: m, prompt: custom, template: 'file:p.jinja'",
        "model/config.json": "kind: local, model: ./model",
    }
    (tmp_path / "model").mkdir()
    for name, settings in files.items():
        identities = []
        for text in ("one", "two", "one"):
            (tmp_path / name).write_text(text)
            identities.append(open_teacher(recipe_with(settings, tmp_path)).identity())
        assert identities[0] == identities[2] != identities[1]


def test_the_kinds_of_teachers_are_known_here_and_in_the_recipe_alone() -> None:
    """No other module imports the kinds' settings, looks at a teacher's `kind` or asks for a teacher's class."""
    branches, modules = [], 0
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in ("recipe", "teachers"):
            continue
        modules += 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case (
                    ast.ImportFrom(module="mentorkd.recipe.teacher")
                    | ast.Attribute(value=ast.Name("teacher") | ast.Attribute(attr="teacher"), attr="kind")
                ):
                    branches.append(f"{path}:{node.lineno}")
                case ast.Call(ast.Name("isinstance"), [ast.Name("teacher") | ast.Attribute(attr="teacher"), _]):
                    branches.append(f"{path}:{node.lineno}")
    assert modules > 50
    assert branches == []


@dataclass(frozen=True)
class Echo:
    """A teacher from outside the package: it answers every training question with the gold answer."""

    recipe: Recipe
    config: RecordedTeacherConfig

    def check(self) -> None: ...

    def identity(self) -> list[Any]:
        return ["echo", 1]

    def describe(self) -> Description:
        return Description("an echo", "1 sample a question")

    def estimate(self, questions: Sequence[Question], root: Path, *, roughly: bool = False) -> TeacherEstimate:
        return TeacherEstimate(sum(question.split == "train" for question in questions), max_tokens=8)

    def annotate(self, questions: Sequence[Question], context: AnnotationContext) -> Annotation:
        training = [question for question in questions if question.split == "train"]
        context.note(f"asked {len(training)} question(s)")
        rationales = [
            Rationale.create(question.id, "Echo.", question.answer, "correct", TEACHER, 0, {}) for question in training
        ]
        return Annotation(rationales, ["it only echoes"])


def test_a_teacher_from_outside_is_asked_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_recipe(tmp_path)
    settings["task"]["limit_train"] = 1
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    recipe = load_recipe(path)
    before = {stage.kind: stage.fingerprint for stage in Pipeline(recipe, tmp_path / "run").stages}
    monkeypatch.setattr("mentorkd.teachers.annotate.RecordedTeacher", Echo)
    teacher: Teacher = open_teacher(recipe)
    assert isinstance(teacher, Echo)
    pipeline = Pipeline(recipe, tmp_path / "run")
    after = {stage.kind: stage.fingerprint for stage in pipeline.stages}
    assert (after["prepare"] == before["prepare"], after["annotate"] == before["annotate"]) == (True, False)
    record = pipeline.run(until="annotate")["stages"]["annotate"]
    assert (record["rationales"]["correct"], record["faults"]) == (1, ["it only echoes"])
    (rationale,) = read_jsonl(tmp_path / "run" / "teacher" / "rationales.jsonl", Rationale)
    assert (rationale.text, rationale.verdict) == ("Echo.", "correct")
