"""The embedded default run: a generated task with a recorded teacher, its recipe, and tiny pretrained models."""

from mentorkd.quickstart.problems import Problem, generate_problems
from mentorkd.quickstart.task import MODELS, RECIPE, write_own_recipe, write_recipe, write_task
from mentorkd.quickstart.teacher import PHRASINGS, annotate

__all__ = [
    "MODELS",
    "PHRASINGS",
    "RECIPE",
    "Problem",
    "annotate",
    "generate_problems",
    "write_own_recipe",
    "write_recipe",
    "write_task",
]
