"""Augment: a learner samples rationales for every training question (Mentor-KD, section 3.2)."""

from __future__ import annotations

from pathlib import Path

from mentorkd.data.prompts import render_prompt, split_target
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.resumable import CHUNK_BATCHES, sample_resumably
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import AugmentRecord, count_verdicts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.records import Rationale, write_jsonl


def augment(context: RunContext, stage: Stage, workdir: Path) -> AugmentRecord:
    """Sample a learner's rationales, correct and wrong ones alike.

    Each is graded by the answer that it states itself, as a student's would be.
    """
    learner = context.learner(stage)
    sampling, questions = learner.sampling, context.questions(stage, "train")
    engine = context.engine(learner, context.model(stage, stage.learner))
    completions = sample_resumably(
        engine,
        [render_prompt(question.text, learner.prompt) for question in questions],
        SamplingParams(sampling.samples, sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens),
        seed=stage.seed,
        journal=workdir / "journal.jsonl",
        chunk=CHUNK_BATCHES * sampling.batch_size,
        on_progress=context.progress,
    )
    rationales = []
    for question, samples in zip(questions, completions, strict=True):
        for number, sample in enumerate(samples):
            graded = context.grader(sample.text, question)
            text, _ = split_target(sample.text, learner.target)
            meta = {"tokens": sample.tokens, "finished": sample.finish_reason == "stop"}
            rationales.append(
                Rationale.create(question.id, text, graded.predicted, graded.verdict, stage.learner, number, meta)
            )
    write_jsonl(workdir / "out" / "rationales.jsonl", rationales)
    tokens = sum(sample.tokens for samples in completions for sample in samples)
    return AugmentRecord(rationales=count_verdicts(rationales), tokens=tokens, engine=engine.name)
