"""Score: a mentor's soft labels of every text that its student reads (Mentor-KD, section 3.3).

They are distributions over the tokens of the text or, for a mentor with another vocabulary, likelihoods of its chunks. A teacher whose
replies came with log-probabilities has likelihoods, too; its stage reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mentorkd.data.encoding import Example, TextEncoder, encode_prompt
from mentorkd.data.examples import TextExample, text_examples
from mentorkd.data.prompts import render_gold_prompt
from mentorkd.data.rows import Rows
from mentorkd.data.selection import gold_rationales
from mentorkd.data.token_logprobs import check_has_logprobs
from mentorkd.distillation.chunk_scoring import score_chunks, write_teacher_chunks
from mentorkd.distillation.scoring import score as score_distributions
from mentorkd.errors import ModelError
from mentorkd.files import digest_path
from mentorkd.models import load_folder, vocabulary_size
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import ScoreRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.recipe.graph import initial_model
from mentorkd.records import GOLD, TEACHER, Rationale


def score(context: RunContext, stage: Stage, workdir: Path) -> ScoreRecord:
    """Write a mentor's soft labels for the rationales of one source, or for those of a shard, into a store."""
    store = workdir / "out" / stage.whole.rpartition("/")[2]
    if stage.mentor == TEACHER:
        return _score_by_teacher(context, stage, store)
    folder = context.model(stage, stage.mentor)
    settings = {
        "folder": store,
        "mentor_digest": digest_path(folder),
        "target": context.learner(stage).target,
        "bfloat16": context.precision(context.recipe.learners[stage.mentor]) == "bfloat16",
        "on_progress": context.progress,
    }
    if stage.form == "chunks":
        return _score_chunks(context, stage, folder, settings)
    return _score_distributions(context, stage, folder, settings)


def _score_distributions(context: RunContext, stage: Stage, folder: Path, settings: Mapping[str, Any]) -> ScoreRecord:
    learner, mentor = context.learner(stage), load_folder(folder, device=context.device)
    encoder = TextEncoder.of(mentor)
    rows = read_training_rows(context, stage, stage.learner, encoder, scored=stage.source).rows
    if learner.mentor_reads == "gold":
        rows = _after_gold_answers(stage, rows, _texts(context, stage), encoder)
    top_k = stage.form != "hidden"
    others = [name for name in learner.mentor_weights if name != TEACHER]
    models = [initial_model(context.recipe, name) for name in (stage.learner, *others)]
    counts = score_distributions(
        mentor,
        rows,
        mode="top_k" if top_k else "hidden",
        top_k=learner.top_k,
        temperature=learner.temperature_of(stage.source),
        vocab_size=min(map(vocabulary_size, models)) if top_k else None,  # what all heads have; heads may be padded
        **settings,
    )
    return ScoreRecord(**counts)


def _score_chunks(context: RunContext, stage: Stage, folder: Path, settings: Mapping[str, Any]) -> ScoreRecord:
    student = TextEncoder.of(initial_model(context.recipe, stage.learner))
    rows = read_training_rows(context, stage, stage.learner, student, scored=stage.source).rows
    mentor, texts = load_folder(folder, device=context.device), _texts(context, stage)
    counts = score_chunks(mentor, list(texts.values()), rows, student, **settings)
    if too_long := counts["mentor_too_long"]:
        context.note(f"{stage.mentor}: {too_long} texts are too long for its positions; they have no soft labels")
    return ScoreRecord(**counts)


def _score_by_teacher(context: RunContext, stage: Stage, store: Path) -> ScoreRecord:
    student = TextEncoder.of(initial_model(context.recipe, stage.learner))
    rows = read_training_rows(context, stage, stage.learner, student, scored=stage.source).rows
    written = {text.id: text for text in _written(context, stage)}
    check_has_logprobs(written[row.rationale_id] for row in rows)  # those of an earlier run may have none
    texts = [(written[text.rationale_id], text) for text in _texts(context, stage).values()]
    annotated = context.folder.record(stage.inputs[f"rationales/{stage.source}"]).fingerprint
    counts = write_teacher_chunks(
        texts, rows, student, folder=store, annotation=annotated, target=context.learner(stage).target
    )
    if without := counts["without_logprobs"]:
        context.note(f"teacher: {without} of {len(rows)} rationales have no log-probabilities, and so no soft labels")
    return ScoreRecord(**counts)


def _written(context: RunContext, stage: Stage) -> Rows[Rationale]:
    """The rationales of the source that a stage scores."""
    if stage.source == GOLD:
        return gold_rationales(context.questions(stage))
    return context.folder.rationales(stage.inputs[f"rationales/{stage.source}"])


def _texts(context: RunContext, stage: Stage) -> dict[str, TextExample]:
    """The texts of the scored source as the student learns them, by rationale, with the prompt that the mentor reads."""
    learner, questions = context.learner(stage), {question.id: question for question in context.questions(stage)}
    texts = {}
    for rationale in _written(context, stage):
        if (question := questions.get(rationale.question_id)) is None:
            continue
        (text,) = text_examples(rationale, question, learner, stage.source)
        if learner.mentor_reads == "gold":
            text = text._replace(prompt=render_gold_prompt(question, learner.prompt))
        texts[rationale.id] = text
    return texts


def _after_gold_answers(
    stage: Stage, rows: Sequence[Example], texts: Mapping[str, TextExample], encoder: TextEncoder
) -> Rows[Example]:
    """The rows with the gold answer in the mentor's prompt. The student's prompt, which is shorter, decided which rows there are."""
    prompts = ((row, encode_prompt(encoder.tokenizer, encoder.kind, texts[row.rationale_id].prompt)) for row in rows)
    privileged = Rows.of(Example, (replace(row, source_ids=ids) for row, ids in prompts))
    longest = max((row.length for row in privileged), default=0) - 1
    if encoder.positions and longest > encoder.positions:
        raise ModelError(
            f"the mentor {stage.mentor} has {encoder.positions} positions, and a row with the gold answer in its prompt needs "
            f"{longest}; lower `max_source_tokens` or `max_target_tokens` of {stage.learner}, or set `mentor_reads: question`"
        )
    return privileged
