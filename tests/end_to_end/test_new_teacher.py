"""A kind of teacher is added in three files; a scratch copy of the package gets one, and asks it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from mentorkd.records import Rationale, read_jsonl
from places import SOURCE
from small_recipe import small_recipe

SETTINGS = '''class EchoTeacherConfig(Strict):
    """A teacher that says the same to every question."""

    model_keys: ClassVar[tuple[str, ...]] = ()

    kind: Literal["echo"] = "echo"
    words: str
    """What it says."""
    select: SelectConfig = SelectConfig()
    """Filter for these rationales."""


'''
TEACHER = """from mentorkd.records import Rationale
from mentorkd.teachers.teacher import Annotation, Description, TeacherEstimate


class EchoTeacher:
    def __init__(self, recipe, config):
        self.recipe, self.config = recipe, config

    def check(self):
        pass

    def identity(self):
        return [self.config.model_dump(exclude={"select"})]

    def describe(self):
        return Description("an echo")

    def estimate(self, questions, root, *, roughly=False):
        return TeacherEstimate(len(questions), max_tokens=8)

    def annotate(self, questions, context):
        training = [question for question in questions if question.split == "train"]
        words = self.config.words
        return Annotation([Rationale.create(q.id, words, q.answer, "correct", "teacher", 0, {}) for q in training])
"""
CASE = """        case EchoTeacherConfig() as config:
            return EchoTeacher(recipe, config)
"""


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """Put a text before each of the places in a file, which must be there once."""
    text = path.read_text(encoding="utf-8")
    for place, addition in changes:
        assert text.count(place) == 1, place
        text = text.replace(place, addition + place)
    path.write_text(text, encoding="utf-8")


def test_a_kind_of_teacher_is_three_files(tmp_path: Path) -> None:
    package = tmp_path / "scratch" / "mentorkd"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(
        package / "recipe" / "teacher.py",
        ("class AskedTeacherConfig(Strict):", SETTINGS),
        (" | OpenAITeacherConfig | LocalTeacherConfig", " | EchoTeacherConfig"),
    )
    (package / "teachers" / "echo.py").write_text(TEACHER, encoding="utf-8")
    edit(
        package / "teachers" / "annotate.py",
        ("import LocalTeacherConfig,", "import EchoTeacherConfig\nfrom mentorkd.recipe.teacher "),
        ("from mentorkd.teachers.local", "from mentorkd.teachers.echo import EchoTeacher\n"),
        ("        case OpenAITeacherConfig()", CASE),
    )
    recipe = small_recipe(tmp_path, teacher={"kind": "echo", "words": "I say so."})
    recipe["task"]["limit_train"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mentorkd", "annotate", "recipe.yaml", "--run", "run", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rationales"]["correct"] == 1
    (rationale,) = read_jsonl(tmp_path / "run" / "teacher" / "rationales.jsonl", Rationale)
    assert (rationale.text, rationale.verdict) == ("I say so.", "correct")
