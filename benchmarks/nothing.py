"""Stages that do nothing, for `scale.py`: what is left is what the pipeline itself does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mentorkd.pipeline.executors import run_stage
from mentorkd.pipeline.records import EvaluateRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.schema import Recipe

__all__ = ["IdleRecipe", "idle", "stages"]


def _nothing(context: Any, stage: Stage, workdir: Path) -> EvaluateRecord:
    (workdir / "out" / "nothing.json").write_text("{}\n")
    return EvaluateRecord(predictions={}, engine="none", tokens=0)


def idle(recipe: str) -> Recipe:
    """In a worker: let every stage do nothing."""
    setattr(run_stage, "step_of", lambda kind: _nothing)  # noqa: B010  (mypy guards the name)
    return IdleRecipe.model_validate_json(recipe)


class IdleRecipe(Recipe):
    """A recipe whose stages do nothing in every process that reads it."""

    def __reduce__(self) -> Any:
        return idle, (self.model_dump_json(),)


def stages(count: int) -> list[Stage]:
    """Shards that wait for nothing."""
    return [
        Stage(f"idle/shard-{n}", "evaluate", f"shards/{n}", {}, f"{n:016x}", learner="idle", seed=1)
        for n in range(count)
    ]
