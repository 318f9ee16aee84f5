"""The front of this package: the teacher that a recipe names."""

from __future__ import annotations

from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.teacher import LocalTeacherConfig, OpenAITeacherConfig, RecordedTeacherConfig
from mentorkd.teachers.local import LocalTeacher
from mentorkd.teachers.openai import OpenAITeacher
from mentorkd.teachers.recorded import RecordedTeacher
from mentorkd.teachers.teacher import Teacher


def open_teacher(recipe: Recipe) -> Teacher:
    """The recipe's teacher. Nothing outside this package and the recipe's asks for its kind."""
    match recipe.teacher:
        case RecordedTeacherConfig() as config:
            return RecordedTeacher(recipe, config)
        case OpenAITeacherConfig() as config:
            return OpenAITeacher(recipe, config)
        case LocalTeacherConfig() as config:
            return LocalTeacher(recipe, config)
