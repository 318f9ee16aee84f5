"""Budget: how many updates each arm gets, so that arms are trained for equally long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mentorkd.data.encoding import TextEncoder
from mentorkd.files import fingerprint, write_json
from mentorkd.models import kind_of
from mentorkd.pipeline.compute import operations_before, parameters_of
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.graph import row_settings
from mentorkd.pipeline.records import BudgetRecord, parse
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.recipe.graph import arms, initial_model, links_of
from mentorkd.recipe.rounds import other_sources
from mentorkd.reporting.compute import TRAINING
from mentorkd.training.schedule import Arm, match_updates


def budget(context: RunContext, stage: Stage, workdir: Path) -> BudgetRecord:
    """Count the training rows of every arm and match their updates, their target tokens, or their operations (`match`).

    Own texts are not written yet: a learner's own length is that of its other sources.
    """
    recipe = context.recipe
    compared: dict[str, Arm] = {}
    known: dict[str, Arm] = {}  # arms of a sweep have the same rows
    for name in arms(recipe):
        learner = recipe.learners[name]
        roles = [f"rationales/{source}" for source in other_sources(learner)]
        links = links_of(recipe)[name]
        roles += [f"questions/{source}" for source in links.questions.values()]
        roles += [f"scorer/{scorer}" for scorer in links.perplexity_models]
        inputs = [stage.inputs.get(role) for role in roles]
        key = fingerprint([initial_model(recipe, name).model_dump(), inputs, row_settings(recipe, name)])
        if key not in known:
            model = initial_model(recipe, name)
            rows = read_training_rows(context, stage, name, TextEncoder.of(model)).rows
            known[key] = Arm(rows, kind_of(model), learner.training)
        compared[name] = known[key]
        if recipe.match == "compute":
            a_token, before = TRAINING * parameters_of(recipe, name), operations_before(context, stage, name)
            compared[name] = replace(known[key], operations_a_token=a_token, operations_before=before)
    assert recipe.match == "updates" or recipe.match == "tokens" or recipe.match == "compute", "else there is no budget"
    updates = match_updates(compared, recipe.match, seed=stage.seed, operations=recipe.compute)
    write_json(workdir / "out" / "budget.json", updates)
    return parse(BudgetRecord, updates)
