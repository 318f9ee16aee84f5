"""From questions with known answers to a small language model that reasons, by way of a mentor (Mentor-KD, EMNLP 2024).

    from mentorkd import Pipeline, load_recipe
    Pipeline(load_recipe(Path("recipes/svamp.yaml")), Path("runs/svamp")).run()

Names are imported when they are first used, so that `import mentorkd` waits for nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mentorkd.data.readers import read_questions, read_rationales
    from mentorkd.data.selection import select
    from mentorkd.distillation.fused_losses import fused_distillation_loss
    from mentorkd.distillation.losses import distillation_loss
    from mentorkd.distillation.soft_labels import SoftLabelStore
    from mentorkd.errors import MentorkdError
    from mentorkd.generation import open_engine
    from mentorkd.generation.engine import Completion, Engine
    from mentorkd.grading.grade import Graded, grade
    from mentorkd.pipeline.run import Pipeline, open_run
    from mentorkd.recipe.learner import Learner
    from mentorkd.recipe.load import load_recipe
    from mentorkd.recipe.schema import Recipe
    from mentorkd.records import Prediction, Question, Rationale, read_jsonl, write_jsonl
    from mentorkd.reporting.write import read_results

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Engine",
    "Graded",
    "Learner",
    "MentorkdError",
    "Pipeline",
    "Prediction",
    "Question",
    "Rationale",
    "Recipe",
    "SoftLabelStore",
    "__version__",
    "distillation_loss",
    "fused_distillation_loss",
    "grade",
    "load_recipe",
    "open_engine",
    "open_run",
    "read_jsonl",
    "read_questions",
    "read_rationales",
    "read_results",
    "select",
    "write_jsonl",
]

_HOMES = {
    "grading.grade": ("Graded", "grade"),
    "errors": ("MentorkdError",),
    "distillation.fused_losses": ("fused_distillation_loss",),
    "generation": ("open_engine",),
    "generation.engine": ("Completion", "Engine"),
    "distillation.losses": ("distillation_loss",),
    "pipeline.run": ("Pipeline", "open_run"),
    "data.readers": ("read_questions", "read_rationales"),
    "recipe.learner": ("Learner",),
    "recipe.load": ("load_recipe",),
    "recipe.schema": ("Recipe",),
    "records": ("Prediction", "Question", "Rationale", "read_jsonl", "write_jsonl"),
    "reporting.write": ("read_results",),
    "data.selection": ("select",),
    "distillation.soft_labels": ("SoftLabelStore",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mentorkd' has no attribute {name!r}")
    return getattr(import_module(f"mentorkd.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
