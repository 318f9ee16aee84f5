"""Evaluate: a learner's answers to the test questions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mentorkd.data.prompts import render_prompt
from mentorkd.generation.engine import Completion, Engine, SamplingParams
from mentorkd.generation.resumable import CHUNK_BATCHES, sample_resumably
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import EvaluateRecord, count_verdicts, sum_verdicts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.merge import merge
from mentorkd.records import Prediction, Question, write_jsonl


def evaluate(context: RunContext, stage: Stage, workdir: Path) -> EvaluateRecord:
    """Ask a learner the test questions and grade its answers."""
    questions = context.questions(stage, "test")
    if stage.merged:
        return _merged(context, stage, workdir, questions)
    with closing(context.engine(context.learner(stage), context.model(stage, stage.learner))) as engine:
        predictions = predict(context, engine, stage.learner, stage.seed, questions, workdir / "journal.jsonl")
    write_jsonl(workdir / "out" / "predictions.jsonl", predictions)
    tokens = sum(prediction.tokens for prediction in predictions)
    return EvaluateRecord(
        predictions=count_verdicts(predictions),
        tokens=tokens,
        engine=engine.name,
        dtype=context.sampling_dtype(context.learner(stage)),
    )


def _merged(context: RunContext, stage: Stage, workdir: Path, questions: Sequence[Question]) -> EvaluateRecord:
    """The predictions of all shards; these record the tokens."""
    shards = merge(context, stage, workdir, "predictions.jsonl", EvaluateRecord, questions)
    return EvaluateRecord(
        predictions=sum_verdicts(shard.predictions for shard in shards), engine=shards[0].engine, dtype=shards[0].dtype
    )


def predict(
    context: RunContext,
    engine: Engine,
    name: str,
    seed: int,
    questions: Sequence[Question],
    journal: Path,
    params: SamplingParams | None = None,
) -> list[Prediction]:
    """Answers of the learner `name` to the questions, in their order: one each, greedy, or `params.n` that follow each other.

    `predicted` is equal for the equal answers to a question.
    """
    learner = context.recipe.learners[name]
    params = params or SamplingParams(max_new_tokens=learner.sampling.max_new_tokens)
    completions = sample_resumably(
        engine,
        [render_prompt(question.text, learner.eval_prompt) for question in questions],
        params,
        seed=seed,
        journal=journal,
        chunk=max(1, CHUNK_BATCHES * engine.batch_size // params.n),
        on_progress=context.progress,
    )
    return grade_completions(context, name, seed, questions, completions)


def grade_completions(
    context: RunContext,
    name: str,
    seed: int,
    questions: Sequence[Question],
    completions: Sequence[Sequence[Completion]],
) -> list[Prediction]:
    """A learner's texts for the questions, one or several for each, as predictions in their order."""
    predictions = []
    for question, samples in zip(questions, completions, strict=True):
        grades = context.grader.each([completion.text for completion in samples], question)
        for completion, graded in zip(samples, grades, strict=True):
            predictions.append(
                Prediction(
                    question_id=question.id,
                    learner=name,
                    seed=seed,
                    text=completion.text,
                    predicted=graded.predicted,
                    verdict=graded.verdict,
                    tokens=completion.tokens,
                    finished=completion.finish_reason == "stop",
                )
            )
    return predictions
