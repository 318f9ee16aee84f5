"""Evaluate: a learner answers questions greedily, and is graded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mentorkd.data.prompts import render_prompt
from mentorkd.generation.engine import Engine, SamplingParams
from mentorkd.generation.resumable import sample_resumably
from mentorkd.grading.grade import Grader
from mentorkd.records import Prediction, Progress, Question

__all__ = ["accuracy", "evaluate"]


def evaluate(
    engine: Engine,
    questions: Sequence[Question],
    *,
    learner: str,
    seed: int,
    prompt: str,
    grader: Grader,
    max_new_tokens: int,
    journal: Path,
    chunk: int,
    on_progress: Progress,
) -> list[Prediction]:
    """One prediction for each question, in their order."""
    completions = sample_resumably(
        engine,
        [render_prompt(question.text, prompt) for question in questions],
        SamplingParams(max_new_tokens=max_new_tokens),
        seed=seed,
        journal=journal,
        chunk=chunk,
        on_progress=on_progress,
    )
    predictions = []
    for question, (completion,) in zip(questions, completions, strict=True):
        graded = grader(completion.text, question)
        predictions.append(
            Prediction(
                question_id=question.id,
                learner=learner,
                seed=seed,
                text=completion.text,
                predicted=graded.predicted,
                verdict=graded.verdict,
                tokens=completion.tokens,
                finished=completion.finish_reason == "stop",
            )
        )
    return predictions


def accuracy(
    engine: Engine, questions: Sequence[Question], *, prompt: str, grader: Grader, max_new_tokens: int
) -> float:
    """Share of questions answered correctly; used for validation while training, so nothing is written."""
    completions = engine.sample(
        [render_prompt(question.text, prompt) for question in questions],
        SamplingParams(max_new_tokens=max_new_tokens),
        seed=0,
    )
    right = sum(
        grader(completion.text, question).verdict == "correct"
        for question, (completion,) in zip(questions, completions, strict=True)
    )
    return right / len(questions)
