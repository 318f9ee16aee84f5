"""From questions with known answers to a small language model that reasons, by way of a mentor (Mentor-KD, EMNLP 2024).

    from mentorkd import Pipeline, load_recipe
    Pipeline(load_recipe(Path("recipes/svamp.yaml")), Path("runs/svamp")).run()

Names are imported when they are first used, so that `import mentorkd` waits for nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mentorkd.data.readers import read_questions as read_questions
    from mentorkd.data.readers import read_rationales as read_rationales
    from mentorkd.data.selection import select as select
    from mentorkd.distillation.fused_losses import fused_distillation_loss as fused_distillation_loss
    from mentorkd.distillation.losses import distillation_loss as distillation_loss
    from mentorkd.distillation.soft_labels import SoftLabelStore as SoftLabelStore
    from mentorkd.errors import MentorkdError as MentorkdError
    from mentorkd.generation import open_engine as open_engine
    from mentorkd.generation.engine import Completion as Completion
    from mentorkd.generation.engine import Engine as Engine
    from mentorkd.grading.grade import Graded as Graded
    from mentorkd.grading.grade import grade as grade
    from mentorkd.pipeline.run import Pipeline as Pipeline
    from mentorkd.pipeline.run import open_run as open_run
    from mentorkd.recipe.learner import Learner as Learner
    from mentorkd.recipe.load import load_recipe as load_recipe
    from mentorkd.recipe.schema import Recipe as Recipe
    from mentorkd.records import Prediction as Prediction
    from mentorkd.records import Question as Question
    from mentorkd.records import Rationale as Rationale
    from mentorkd.records import read_jsonl as read_jsonl
    from mentorkd.records import write_jsonl as write_jsonl
    from mentorkd.reporting.write import read_results as read_results

__version__ = "0.1.0"

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

__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mentorkd' has no attribute {name!r}")
    return getattr(import_module(f"mentorkd.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
