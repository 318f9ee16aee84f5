"""The floating-point operations of all that an arm learns from, counted as the report counts them (`reporting.compute`)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mentorkd.data.encoding import TextEncoder
from mentorkd.models import load_model
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.recipe.graph import initial_model, links_of
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.sizes import size_of
from mentorkd.records import GOLD, TEACHER
from mentorkd.reporting.compute import READING, TRAINING


def parameters_of(recipe: Recipe, name: str) -> int:
    """Parameters of a learner's model, its adapters included. The model is loaded only where no config tells them."""
    model = initial_model(recipe, name)
    size = size_of(model)
    if size is None:
        return load_model(model, seed=0, device=torch.device("cpu")).parameter_count
    return size.parameters + (size.adapters(model.lora) if model.lora else 0)


def operations_before(context: RunContext, stage: Stage, name: str) -> int:
    """The operations of an arm's sources, mentors, scorers and initial model, and of the mentors that score its text.

    The stages of all these are finished. What scores the arm's text may not be: its tokens are those of the rows.
    """
    recipe = context.recipe
    links = links_of(recipe)[name]
    roles = [f"rationales/{source}" for source in links.rationales if source not in (TEACHER, GOLD)]
    roles += [f"scorer/{scorer}" for scorer in links.perplexity_models] + [f"initial/{name}"]
    roles += [role for role in stage.inputs for mentor in links.soft_labels if _is_model(role, mentor)]
    records = _closure(context, [stage.inputs[role] for role in roles if role in stage.inputs])
    total = sum(_operations(recipe, stage_name, records) for stage_name in records)
    return total + _scoring(context, stage, name)


def _is_model(role: str, mentor: str) -> bool:
    return role == f"model/{mentor}" or role.startswith(f"model/{mentor}/")


def _closure(context: RunContext, stages: Iterable[str]) -> dict[str, StageRecord]:
    """The records of finished stages and of all that they need, by name. A budget reads other arms, and belongs to none."""
    records: dict[str, StageRecord] = {}
    waiting = list(stages)
    while waiting:
        name = waiting.pop()
        if name not in records and (record := context.folder.record(name)).kind != "budget":
            records[name] = record
            waiting += record.needs
    return records


def _operations(recipe: Recipe, stage: str, records: dict[str, StageRecord]) -> int:
    record = records[stage]
    if record.kind not in ("train", "augment", "score") or not record.tokens:
        return 0
    model = record.learner
    if record.kind == "score":
        # The stage belongs to the student, and needs the training of its mentor, unless this is untrained.
        needs = [records[need] for need in record.needs if need in records]
        trained = (need.learner for need in needs if need.kind in ("train", "rounds", "search"))
        model = next(trained, stage.split("/")[1] if stage.startswith("learners/") else None)
    if model is None or model not in recipe.learners:
        return 0
    return (TRAINING if record.kind == "train" else READING) * parameters_of(recipe, model) * record.tokens


def _scoring(context: RunContext, stage: Stage, name: str) -> int:
    """The operations of the soft labels on an arm's text."""
    recipe, learner = context.recipe, context.recipe.learners[name]
    mentors = [mentor for mentor in learner.mentor_weights if mentor != TEACHER]
    if not mentors:
        return 0
    reader = TextEncoder.of(initial_model(recipe, name))
    sources = [source for source in learner.rationales if learner.kd_weight_of(source) != 0]
    rows = [row for source in sources for row in read_training_rows(context, stage, name, reader, scored=source).rows]
    tokens = sum(len(row.target_ids) for row in rows)
    return sum(READING * parameters_of(recipe, mentor) * tokens for mentor in mentors)
