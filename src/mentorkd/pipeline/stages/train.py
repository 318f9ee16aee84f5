"""Train: a learner on the selected rationales of its sources, with CE or (1 - w) CE + w KL (Mentor-KD, section 3.4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mentorkd.chat import fixed_date
from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example, TextEncoder
from mentorkd.data.prompts import render_prompt
from mentorkd.distillation.agreement import agreement
from mentorkd.distillation.hidden_states import head_is_linear
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.objectives.build import MentorFiles, objective_of
from mentorkd.errors import DataError, ModelError
from mentorkd.files import fingerprint
from mentorkd.generation import open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.models import LoadedModel, chat_template, load_model, save_model
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.model_card import model_card
from mentorkd.pipeline.records import BudgetRecord, ChatRecord, TrainRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.precision import autocast
from mentorkd.recipe.learner import Learner
from mentorkd.records import EncodingCounts
from mentorkd.training.adapters import merge_trained_adapters
from mentorkd.training.train import train as train_model


def train(context: RunContext, stage: Stage, workdir: Path) -> TrainRecord:
    """Train a learner, keep the weights of its best round, and measure how well it agrees with its mentors."""
    learner = context.learner(stage)
    loaded = load_model(learner.model, seed=stage.seed, device=context.device)
    rows, counts, filters = read_training_rows(context, stage, stage.learner, TextEncoder.of(loaded))
    _show_encoding(context, stage, counts)
    _check_head(context, stage, loaded, rows[0])
    budget = context.folder.record_of(BudgetRecord, stage.inputs["budget"]) if "budget" in stage.inputs else None
    precision, objective = context.precision(learner), _objective(context, stage, learner, loaded)
    run_name = stage.target.removeprefix("learners/")
    result = train_model(
        loaded,
        rows,
        learner.training,
        seed=stage.seed,
        folder=workdir / "checkpoints",
        precision=precision,
        objective=objective,
        validate=_validation(context, stage, learner, loaded),
        updates=None if budget is None else budget.arms[stage.learner].updates,
        on_progress=context.progress,
        project=context.recipe.name,
        run_name=run_name,
        tensorboard=context.folder.root / "tensorboard" / run_name,
        verify=context.folder.verify,
    )
    with (workdir / "out" / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in result.history)
    target_tokens = int(sum(row.get("tokens", 0) for row in result.history))
    record = TrainRecord(
        filters=filters,
        encoding=counts,
        rows=counts.kept,
        updates=result.updates,
        epochs=result.history[-1]["epoch"],
        target_tokens=target_tokens,
        tokens=target_tokens,
        matched=None if budget is None else budget.match,
        best_step=result.best_step,
        validation_accuracy=result.validation_accuracy,
        fused_loss=result.fused,
        precision=precision,
        chat=_chat(loaded),
        soft_labels=agreement(loaded, rows, objective, list(learner.mentor_weights), precision=precision),
        parameters=loaded.parameter_count,
        checkpoint_format=2,
    )
    card = model_card(context.recipe, stage.learner, learner, stage.seed, record)
    save_model(merge_trained_adapters(loaded, rows), workdir / "out" / "model", card=card)
    return record


def _chat(loaded: LoadedModel) -> ChatRecord | None:
    """The chat template of a model's prompts; None if it has none, or reads none."""
    template = chat_template(loaded.tokenizer) if loaded.kind == "causal" else None
    return None if template is None else ChatRecord(fingerprint(template), fixed_date(template))


def _check_head(context: RunContext, stage: Stage, loaded: LoadedModel, row: Example) -> None:
    """Raise ModelError before the training of a mentor whose hidden states cannot stand for its logits, if a student needs them."""
    students = [
        name
        for name, learner in context.recipe.learners.items()
        if stage.learner in learner.mentor_weights and learner.soft_label_store == "hidden"
    ]
    if students:
        batch = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)([row])
        with autocast(loaded.device.type, context.precision(context.learner(stage))):
            linear = head_is_linear(loaded.model, {name: value.to(loaded.device) for name, value in batch.items()})
        if not linear:
            raise ModelError(
                f"the mentor {stage.learner} ({type(loaded.model).__name__}) changes its logits after the head, so hidden states "
                f"cannot stand for them; set `soft_label_store: top_k` or `online` for {', '.join(students)}"
            )


def _show_encoding(context: RunContext, stage: Stage, counts: EncodingCounts) -> None:
    too_long, unknown = counts.source_too_long + counts.target_too_long, counts.with_unknown_tokens
    if too_long:
        context.note(
            f"{stage.learner}: {too_long} of {counts.rows} rows are too long and were left out "
            "(a cut row loses its answer)"
        )
    if unknown:
        context.note(
            f"{stage.learner}: {unknown} of {counts.rows} rows hold characters that the vocabulary does not know"
        )


def _objective(context: RunContext, stage: Stage, learner: Learner, loaded: LoadedModel) -> Objective:
    """What the learner minimises, with the models and soft labels of its mentors."""
    stored = learner.rationales if learner.soft_label_store != "online" else []
    mentors = {
        name: [
            MentorFiles(
                context.model(stage, name),
                {source: context.folder.soft_labels(stage.inputs[f"soft_labels/{name}/{source}"]) for source in stored},
            )
        ]
        for name in learner.mentor_weights
    }
    return objective_of(learner, loaded, mentors, seed=stage.seed)


def _validation(context: RunContext, stage: Stage, learner: Learner, loaded: LoadedModel) -> Callable[[], float] | None:
    """What measures the accuracy that chooses the best round; None where the last round is taken.

    Raises DataError where there is no question to ask.
    """
    if learner.training.select_on == "last":
        return None
    questions = context.questions(stage, "test" if learner.training.select_on == "test" else "validation")
    if not questions:
        raise DataError(
            "no validation question is left to choose the epoch by; give `task.validation`, raise "
            "`task.validation_share`, or set `training.select_on: last`"
        )
    engine = open_engine("transformers", loaded=loaded, device=context.device, batch_size=learner.sampling.batch_size)
    prompts = [render_prompt(question.text, learner.eval_prompt) for question in questions]

    def accuracy() -> float:
        """Share of questions whose greedy answer is correct."""
        params = SamplingParams(max_new_tokens=learner.sampling.max_new_tokens)
        completions = engine.sample(prompts, params, seed=0)
        verdicts = [
            context.grader(completion.text, question).verdict
            for question, (completion,) in zip(questions, completions, strict=True)
        ]
        return verdicts.count("correct") / len(questions)

    return accuracy
