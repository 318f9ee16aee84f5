"""Sample: several answers of a learner to each test question, for its majority vote and pass@k."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mentorkd.generation.engine import SamplingParams
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import SampleRecord, count_verdicts, sum_verdicts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.evaluate import predict
from mentorkd.pipeline.stages.merge import merge
from mentorkd.recipe.learner import SamplingConfig
from mentorkd.records import Question, write_jsonl


def sample(context: RunContext, stage: Stage, workdir: Path) -> SampleRecord:
    """Ask a learner each test question `test_samples` times and grade its answers."""
    questions = context.questions(stage, "test")
    if stage.merged:
        return _merged(context, stage, workdir, questions)
    learner = context.learner(stage)
    params, journal = sampling_params(learner.sampling, learner.sampling.test_samples), workdir / "journal.jsonl"
    with closing(context.engine(learner, context.model(stage, stage.learner))) as engine:
        predictions = predict(context, engine, stage.learner, stage.seed, questions, journal, params)
    write_jsonl(workdir / "out" / "samples.jsonl", predictions)
    tokens = sum(prediction.tokens for prediction in predictions)
    return SampleRecord(
        predictions=count_verdicts(predictions),
        tokens=tokens,
        engine=engine.name,
        dtype=context.sampling_dtype(learner),
    )


def sampling_params(sampling: SamplingConfig, samples: int) -> SamplingParams:
    """How a learner samples that many texts for each question."""
    return SamplingParams(samples, sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens)


def _merged(context: RunContext, stage: Stage, workdir: Path, questions: Sequence[Question]) -> SampleRecord:
    """The answers of all shards; these record the tokens."""
    shards = merge(context, stage, workdir, "samples.jsonl", SampleRecord, questions)
    return SampleRecord(
        predictions=sum_verdicts(shard.predictions for shard in shards), engine=shards[0].engine, dtype=shards[0].dtype
    )
