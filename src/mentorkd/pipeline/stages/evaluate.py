"""Evaluate: a learner's answers to the test questions."""

from __future__ import annotations

from collections.abc import Sequence
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
    engine = context.engine(context.learner(stage), context.model(stage, stage.learner))
    predictions = predict(context, engine, stage.learner, stage.seed, questions, workdir / "journal.jsonl")
    write_jsonl(workdir / "out" / "predictions.jsonl", predictions)
    tokens = sum(prediction.tokens for prediction in predictions)
    return EvaluateRecord(predictions=count_verdicts(predictions), tokens=tokens, engine=engine.name)


def _merged(context: RunContext, stage: Stage, workdir: Path, questions: Sequence[Question]) -> EvaluateRecord:
    """The predictions of all shards; these record the tokens."""
    shards = merge(context, stage, workdir, "predictions.jsonl", EvaluateRecord, questions)
    return EvaluateRecord(predictions=sum_verdicts(shard.predictions for shard in shards), engine=shards[0].engine)


def predict(
    context: RunContext, engine: Engine, name: str, seed: int, questions: Sequence[Question], journal: Path
) -> list[Prediction]:
    """Greedy answers of the learner `name`: one prediction for each question, in their order."""
    learner = context.recipe.learners[name]
    completions = sample_resumably(
        engine,
        [render_prompt(question.text, learner.eval_prompt) for question in questions],
        SamplingParams(max_new_tokens=learner.sampling.max_new_tokens),
        seed=seed,
        journal=journal,
        chunk=CHUNK_BATCHES * learner.sampling.batch_size,
        on_progress=context.progress,
    )
    return grade_completions(context, name, seed, questions, [completion for (completion,) in completions])


def grade_completions(
    context: RunContext, name: str, seed: int, questions: Sequence[Question], completions: Sequence[Completion]
) -> list[Prediction]:
    """A learner's texts for the questions, one for each, as predictions."""
    predictions = []
    for question, completion in zip(questions, completions, strict=True):
        graded = context.grader(completion.text, question)
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
