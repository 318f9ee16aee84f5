"""Augment: a learner samples rationales for every training question (Mentor-KD, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mentorkd.data.prompts import TargetForm, render_prompt, split_target
from mentorkd.generation.engine import Engine, SamplingParams
from mentorkd.generation.resumable import sample_resumably
from mentorkd.grading.grade import Grader
from mentorkd.records import Progress, Question, Rationale

__all__ = ["augment"]


def augment(
    engine: Engine,
    questions: Sequence[Question],
    *,
    source: str,
    prompt: str,
    target: TargetForm,
    grader: Grader,
    params: SamplingParams,
    seed: int,
    journal: Path,
    chunk: int,
    on_progress: Progress,
) -> tuple[list[Rationale], int]:
    """The rationales that the learner `source` writes, right and wrong ones alike, and how many tokens it generated.

    Each is graded by the answer that it states itself, as a student's would be.
    """
    prompts = [render_prompt(question.text, prompt) for question in questions]
    completions = sample_resumably(
        engine, prompts, params, seed=seed, journal=journal, chunk=chunk, on_progress=on_progress
    )
    rationales = []
    for question, samples in zip(questions, completions, strict=True):
        for number, sample in enumerate(samples):
            graded = grader(sample.text, question)
            text, _ = split_target(sample.text, target)
            rationales.append(
                Rationale.create(
                    question.id,
                    text,
                    graded.predicted,
                    graded.verdict,
                    source,
                    number,
                    {"tokens": sample.tokens, "finished": sample.finish_reason == "stop"},
                )
            )
    return rationales, sum(sample.tokens for samples in completions for sample in samples)
