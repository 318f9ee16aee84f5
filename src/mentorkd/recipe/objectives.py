"""The objectives and divergences that a learner can name. Of an objective: rows a rationale, evaluation prompt, settings, label.

`data.examples` makes the rows of an objective; `distillation.objectives` holds its loss, `distillation.losses` the divergences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

ObjectiveName = Literal["rationale", "step_by_step", "mcc"]
"""Names of objectives in a recipe."""

DivergenceName = Literal["forward_kl", "reverse_kl", "jsd", "mse", "soft_ce", "hidden_states"]
"""Names of divergences in a recipe."""

NOT_OF_TOP_K: tuple[DivergenceName, ...] = ("mse", "soft_ce")
"""Divergences that need the mentor's whole distribution."""

Task = Literal["predict", "explain"]
"""Tasks of objectives that learn several from one rationale: to write the answer, or to write the rationale."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """What a recipe, a plan and a report need to know of an objective."""

    label: str
    """Its name in tables and in the report."""
    summary: str
    """What the learner learns, and the loss; the recipe's schema shows it."""
    tasks: tuple[Task, ...] = ()
    """Each rationale gives a row a task, with its own prompt; the first is evaluated. Empty: one row, with the learner's prompt."""
    writes_rationales: bool = True
    """Whether the model reasons before it answers; others learn only from a model that does."""
    soft_labels: bool = True
    """Whether it can be combined with soft labels."""
    settings: tuple[str, ...] = ()
    """Settings `objective_*` of a learner that it uses."""
    weight: float = 0.0
    """Default of `objective_weight`: the published value."""
    max_weight: float = inf
    """Largest valid `objective_weight`."""

    @property
    def rows_per_rationale(self) -> int:
        return len(self.tasks) or 1

    @property
    def answer_task(self) -> Task | None:
        """The task under which the model answers questions."""
        return self.tasks[0] if self.tasks else None


OBJECTIVES: Mapping[str, ObjectiveSpec] = {
    "rationale": ObjectiveSpec("rationale", "writes rationale and answer: CE"),
    "step_by_step": ObjectiveSpec(
        "Distilling Step-by-Step",
        "answers under the prompt `predict: ` and reasons under `explain: `: alpha CE(predict) + (1 - alpha) CE(explain)",
        tasks=("predict", "explain"),
        writes_rationales=False,
        soft_labels=False,
        settings=("objective_weight",),
        weight=0.5,
        max_weight=1.0,
    ),
    "mcc": ObjectiveSpec(
        "MCC-KD",
        "as `rationale`, with equal answer distributions after two rationales of a question: CE + alpha (KL(p, q) + KL(q, p)) / 2",
        settings=("objective_weight", "objective_temperature"),
        weight=0.1,
    ),
}
"""Every objective by its name in a recipe."""


def task_prompt(task: Task | None, prompt: str) -> str:
    """The prompt, or the prompt template, of a task."""
    return prompt if task is None else f"{task}: {prompt}"
