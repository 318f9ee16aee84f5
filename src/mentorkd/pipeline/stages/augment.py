"""Augment: a learner samples rationales for every training question (Mentor-KD, section 3.2), for others or for itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mentorkd.data.prompts import render_prompt, split_target
from mentorkd.files import fingerprint
from mentorkd.generation.engine import Completion, SamplingParams
from mentorkd.generation.resumable import CHUNK_BATCHES, sample_resumably
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import AugmentRecord, count_verdicts, sum_verdicts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.merge import merge
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.rounds import own_sampling
from mentorkd.records import Question, Rationale, write_jsonl


def augment(context: RunContext, stage: Stage, workdir: Path) -> AugmentRecord:
    """Sample a learner's rationales, correct and wrong ones alike.

    Each is graded by the answer that it states itself, as a student's would be. Own texts are also kept as they were written.
    """
    learner, own = context.learner(stage), stage.round is not None
    sampling, questions = own_sampling(learner) if own else learner.sampling, _questions(context, stage, learner)
    if stage.merged:
        return _merged(context, stage, workdir, questions)
    folds = context.folds(stage, stage.learner)
    completions: dict[str, list[Completion]] = {}
    for fold in range(learner.folds):
        asked = [question for question in questions if folds.get(question.id, 0) == fold]
        with closing(context.engine(learner, context.model(stage, stage.learner, fold))) as engine:
            sampled = sample_resumably(
                engine,
                [render_prompt(question.text, learner.prompt) for question in asked],
                SamplingParams(
                    sampling.samples, sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens
                ),
                seed=stage.seed if stage.round is None else _round_seed(stage.seed, stage.round),
                journal=workdir / f"journal{fold or ''}.jsonl",
                chunk=CHUNK_BATCHES * engine.batch_size,
                on_progress=context.progress,
            )
        completions |= {question.id: samples for question, samples in zip(asked, sampled, strict=True)}
    rationales = []
    for question in questions:
        for number, sample in enumerate(completions[question.id]):
            graded = context.grader(sample.text, question)
            text, _ = split_target(sample.text, learner.target)
            meta: dict[str, Any] = {"tokens": sample.tokens, "finished": sample.finish_reason == "stop"}
            if own:
                meta["completion"] = sample.text
            rationales.append(
                Rationale.create(question.id, text, graded.predicted, graded.verdict, stage.learner, number, meta)
            )
    write_jsonl(workdir / "out" / "rationales.jsonl", rationales)
    tokens = sum(sample.tokens for samples in completions.values() for sample in samples)
    return AugmentRecord(
        rationales=count_verdicts(rationales), tokens=tokens, engine=engine.name, dtype=context.sampling_dtype(learner)
    )


def _merged(context: RunContext, stage: Stage, workdir: Path, questions: Sequence[Question]) -> AugmentRecord:
    """The rationales of all shards; these record the tokens."""
    shards = merge(context, stage, workdir, "rationales.jsonl", AugmentRecord, questions)
    return AugmentRecord(
        rationales=sum_verdicts(shard.rationales for shard in shards), engine=shards[0].engine, dtype=shards[0].dtype
    )


def _questions(context: RunContext, stage: Stage, learner: Learner) -> list[Question]:
    """The training questions; with own texts that are imitated, those without an answer, too."""
    questions = context.questions(stage, "train")
    if stage.round is not None and learner.imitates_own_texts:
        questions += context.questions(stage, "unlabelled")
    return questions


def _round_seed(seed: int, number: int) -> int:
    """Each round draws by its own random numbers: with those of the round before, a model that moved little would write its texts
    again."""
    return int(fingerprint(["round", seed, number])[:8], 16)
