"""Train: a learner on the selected rationales of its sources, with CE or (1 - w) CE + w KL (Mentor-KD, section 3.4).

A learner with own texts has several trainings, each with a share of its updates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.examples import TextExample
from mentorkd.data.prompts import render_prompt
from mentorkd.data.rows import where
from mentorkd.distillation.agreement import SAMPLE, agreement
from mentorkd.distillation.hidden_states import head_is_linear
from mentorkd.distillation.inspect import spread
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.objectives.build import MentorFiles, objective_of
from mentorkd.distillation.own_texts import measure_own_texts
from mentorkd.errors import DataError, ModelError, TrainingError
from mentorkd.files import fingerprint
from mentorkd.generation import open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.hub.chat import fixed_date
from mentorkd.models import LoadedModel, chat_template, load_folder, save_model
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.model_card import model_card
from mentorkd.pipeline.process_group import work_together
from mentorkd.pipeline.records import BudgetRecord, ChatRecord, OwnTexts, Plateau, TrainRecord, count_verdicts
from mentorkd.pipeline.run_folder import HISTORY, Stage, part_role
from mentorkd.pipeline.selection_log import SELECTION, selection_log
from mentorkd.pipeline.shards import read_in_role
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.precision import Precision, autocast
from mentorkd.recipe.learner import Learner, TrainingConfig
from mentorkd.recipe.rounds import other_sources, share_of
from mentorkd.recipe.vocabularies import soft_label_form
from mentorkd.records import SELF, TEACHER, EncodingCounts, ModelKind, Question, Rationale
from mentorkd.reporting.collapse import advice, collapses
from mentorkd.training.adapters import merge_trained_adapters
from mentorkd.training.processes import is_first_process, own_share, sum_over_processes
from mentorkd.training.schedule import training_length
from mentorkd.training.train import train as train_model


def train(context: RunContext, stage: Stage, workdir: Path) -> TrainRecord:
    """Train a learner, keep the weights of its best round, and measure how well it agrees with its mentors."""
    processes = context.learner(stage).training.processes
    if processes > 1:
        return work_together(processes, train_in_one_process, context, stage, workdir)
    record = train_in_one_process(context, stage, workdir)
    assert record is not None, "there is no other process"
    return record


def train_in_one_process(context: RunContext, stage: Stage, workdir: Path) -> TrainRecord | None:
    """The whole of a training, or one process's part of it. The first process writes the outputs; the others return None."""
    learner = context.learner(stage)
    loaded = context.initial_model(stage)
    with selection_log(workdir / "out" / SELECTION) if is_first_process() else nullcontext() as log:
        read = read_training_rows(context, stage, stage.learner, TextEncoder.of(loaded), log=log)
    rows, counts, filters, frontier = read
    _show_encoding(context, stage, counts)
    _check_head(context, stage, loaded, rows[0])
    budget = context.folder.record_of(BudgetRecord, stage.inputs["budget"]) if "budget" in stage.inputs else None
    precision, objective = context.precision(learner), objective_for(context, stage, learner, loaded, rows)
    run_name = stage.target.removeprefix("learners/")
    updates, part, settings = _length(stage, learner, loaded.kind, rows, budget)
    questions = _validation_questions(context, stage, learner)
    result = train_model(
        loaded,
        rows,
        settings,
        seed=(stage.seed + (stage.round or 0) * _ROUND_SEED) % MOST_SEED,
        folder=workdir / "checkpoints",
        precision=precision,
        objective=objective,
        validate=_validation(context, stage, learner, loaded, questions),
        questions=len(questions),
        updates=updates,
        part=part,
        on_progress=context.progress,
        project=context.recipe.name,
        run_name=run_name,
        tensorboard=context.folder.root / "tensorboard" / run_name,
        history=workdir / HISTORY,
        verify=context.folder.verify,
    )
    if not is_first_process():
        return None
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
        own_texts=_own_texts(context, stage, loaded, rows, objective, precision) if stage.round else None,
        frontier=frontier or None,
        plateau=None if settings.patience is None else Plateau(result.phases.limit, result.phases.plateau),
        validate_every=result.validate_every if settings.validate_every == "auto" else None,
        fold=stage.fold,
    )
    _warn_of_collapse(context, stage, learner, record)
    card = model_card(context.recipe, stage.learner, learner, stage.seed, record, number=stage.round, part=part)
    merged = merge_trained_adapters(loaded, rows)
    # A limit of the model before, such as the 20 tokens of old configurations, would cut what the learner has learnt to write.
    merged.model.generation_config.max_new_tokens = learner.sampling.max_new_tokens
    save_model(merged, workdir / "out" / "model", card=card)
    return record


_ROUND_SEED = 1_000_003
"""Distance of the seeds of rounds, so that they shuffle their rows and drop out units differently."""

MOST_SEED = 2**32
"""numpy takes seeds below this."""


def _length(
    stage: Stage, learner: Learner, kind: ModelKind, rows: Sequence[Example], budget: BudgetRecord | None
) -> tuple[int | None, range | None, TrainingConfig]:
    """The updates of a learner's whole training (None: by epochs), those of one of its rounds, and the round's settings.

    A round has its share of the points at which the model is validated. Raises TrainingError for fewer updates than trainings.
    """
    updates, settings = None if budget is None else budget.arms[stage.learner].updates, learner.training
    if stage.round is None:
        return updates, None, settings
    if updates is None:
        others = where(rows, lambda row: row.source != SELF)
        updates = settings.updates or training_length(others, kind, settings, seed=stage.seed).updates
    share = share_of(learner, stage.round)
    part = share.of(updates)
    if not part:
        raise TrainingError(
            f"{stage.learner}: got {updates} updates for {share.parts} trainings, expected at least one each; lower "
            "`own_texts.rounds`, or give more updates"
        )
    return updates, part, settings.model_copy(update={"epochs": max(1, settings.epochs // share.parts)})


def _chat(loaded: LoadedModel) -> ChatRecord | None:
    """The chat template of a model's prompts; None if it has none, or reads none."""
    template = chat_template(loaded.tokenizer) if loaded.kind == "causal" else None
    return None if template is None else ChatRecord(fingerprint(template), fixed_date(template))


def _check_head(context: RunContext, stage: Stage, loaded: LoadedModel, row: Example) -> None:
    """Raise ModelError before the training of a mentor whose hidden states cannot stand for its logits, if a student needs them."""
    students = [
        name
        for name, learner in context.recipe.learners.items()
        if stage.learner in learner.mentor_weights and soft_label_form(context.recipe, name, stage.learner) == "hidden"
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


def objective_for(
    context: RunContext, stage: Stage, learner: Learner, loaded: LoadedModel, rows: Iterable[Example]
) -> Objective:
    """What the learner of a training minimises, with the models and soft labels of its mentors; `rows` are those of the training."""

    def files(name: str, fold: int) -> MentorFiles:
        roles = {source: part_role(f"soft_labels/{name}/{source}", fold) for source in learner.rationales}
        stores = {source: read_in_role(stage.inputs, role) for source, role in roles.items()}
        folders = {
            source: [context.folder.soft_labels(shard) for shard in shards]
            for source, shards in stores.items()
            if shards
        }
        return MentorFiles(None if name == TEACHER else context.model(stage, name, fold), folders)

    folds = {name: learner.folds for name, learner in context.recipe.learners.items()}
    mentors = {name: [files(name, fold) for fold in range(folds.get(name, 1))] for name in learner.mentor_weights}
    return objective_of(learner, loaded, mentors, seed=stage.seed, rows=rows)


def _own_texts(
    context: RunContext,
    stage: Stage,
    loaded: LoadedModel,
    rows: Sequence[Example],
    objective: Objective,
    precision: Precision,
) -> OwnTexts:
    """What the learner wrote for a round, and what the training made of it."""
    learner, written = context.learner(stage), context.folder.rationales(stage.inputs["rationales/self"])
    mentors = list(zip(learner.mentor_weights.values(), objective.mentors, strict=True))
    own = where(rows, lambda row: row.source == SELF)
    reencoded = None
    if learner.imitates_own_texts:
        tokens = {text.id: text.meta["tokens"] for text in written}
        reencoded = round(fmean(len(row.target_ids) != tokens[row.rationale_id] for row in own), 4) if own else None
    if not own or not learner.imitates_own_texts:  # the rows are some of the texts, with the gold answer, or none
        own, mentors = _as_written(context, stage, learner, TextEncoder.of(loaded), written), []
    writer = context.model_folder(stage.learner, stage.seed, stage.inputs.get("initial"))
    measures = measure_own_texts(loaded, load_folder(writer, device=context.device), own, mentors, precision=precision)
    return OwnTexts(
        texts=len(written),
        verdicts=count_verdicts(written),
        mean_tokens=round(fmean(text.meta["tokens"] for text in written), 2),
        unfinished=round(fmean(not text.meta["finished"] for text in written), 4),
        reencoded=reencoded,
        **asdict(measures),
    )


def _warn_of_collapse(context: RunContext, stage: Stage, learner: Learner, record: TrainRecord) -> None:
    """A note where a round lost half of its entropy, or of the validation accuracy of the training before it."""
    if record.own_texts is None:
        return
    before = stage.inputs.get("initial")
    accuracy = None if before is None else context.folder.record_of(TrainRecord, before).validation_accuracy
    entropy = record.own_texts.writer_entropy, record.own_texts.trained_entropy
    if lines := collapses(entropy, (accuracy, record.validation_accuracy)):
        steps = advice(imitated=learner.imitates_own_texts, alone=not other_sources(learner))
        context.note(f"{stage.learner}, round {stage.round}: {' and '.join(lines)}; to prevent a collapse, {steps}")


def _as_written(
    context: RunContext, stage: Stage, learner: Learner, encoder: TextEncoder, written: Sequence[Rationale]
) -> Sequence[Example]:
    """Some of the own texts as the learner wrote them, encoded."""
    questions = {question.id: question for question in context.questions(stage)}
    texts = [
        TextExample(
            text.id,
            render_prompt(questions[text.question_id].text, learner.prompt),
            text.meta["completion"],
            source=SELF,
            ended=text.meta["finished"],
        )
        for text in spread(written, SAMPLE)
    ]
    longest = learner.training.max_source_tokens
    return encode_rows(texts, encoder, max_source_tokens=longest, max_target_tokens=sys.maxsize)[0]


def _validation_questions(context: RunContext, stage: Stage, learner: Learner) -> Sequence[Question]:
    """The questions that choose the best round; none where the last round is taken.

    Raises DataError where there is no question to ask.
    """
    if learner.training.select_on == "last":
        return []
    questions = context.questions(stage, "test" if learner.training.select_on == "test" else "validation")
    if not questions:
        raise DataError(
            "no validation question is left to choose the epoch by; give `task.validation`, raise "
            "`task.validation_share`, or set `training.select_on: last`"
        )
    return questions


def _validation(
    context: RunContext, stage: Stage, learner: Learner, loaded: LoadedModel, questions: Sequence[Question]
) -> Callable[[], float] | None:
    """What measures the accuracy on the questions; None without any."""
    if not questions:
        return None
    engine = open_engine(
        "transformers",
        loaded=loaded,
        device=context.device,
        batch_size=learner.sampling.batch_size,
        tokens_per_batch=learner.sampling.tokens_per_batch,
        # Sharded weights are collected layer by layer and cannot be cast at once.
        dtype=None if learner.training.sharding == "fsdp" else context.sampling_dtype(learner),
    )
    own = questions[own_share(len(questions))]
    prompts = [render_prompt(question.text, learner.eval_prompt) for question in own]

    def accuracy() -> float:
        """Share of questions whose greedy answer is correct. Each process answers some of them."""
        params = SamplingParams(max_new_tokens=learner.sampling.max_new_tokens)
        completions = engine.sample(prompts, params, seed=0)
        verdicts = [
            context.grader(completion.text, question).verdict
            for question, (completion,) in zip(own, completions, strict=True)
        ]
        return sum_over_processes(verdicts.count("correct"), context.device) / len(questions)

    return accuracy
