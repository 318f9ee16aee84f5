"""Score: the mentor's distributions over the tokens of every text that its student reads (Mentor-KD, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mentorkd.data.encoding import Example, TextEncoder, encode_prompt
from mentorkd.data.prompts import render_gold_prompt
from mentorkd.data.selection import gold_rationales
from mentorkd.distillation.scoring import score as write_soft_labels
from mentorkd.errors import ModelError
from mentorkd.files import digest_path
from mentorkd.models import load_folder, vocabulary_size
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import ScoreRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.recipe.graph import initial_model
from mentorkd.records import GOLD


def score(context: RunContext, stage: Stage, workdir: Path) -> ScoreRecord:
    """Write the mentor's soft labels for the rationales of one source into a store."""
    learner = context.learner(stage)
    folder = context.model(stage, stage.mentor)
    mentor = load_folder(folder, device=context.device)
    encoder = TextEncoder.of(mentor)
    rows = read_training_rows(context, stage, stage.learner, encoder, scored=stage.source).rows
    if learner.mentor_reads == "gold":
        rows = _after_gold_answers(context, stage, rows, encoder)
    top_k = learner.soft_label_store == "top_k"
    models = [initial_model(context.recipe, name) for name in (stage.learner, *learner.mentor_weights)]
    counts = write_soft_labels(
        mentor,
        rows,
        folder=workdir / "out" / stage.name.rpartition("/")[2],
        mode="top_k" if top_k else "hidden",
        top_k=learner.top_k,
        temperature=learner.temperature_of(stage.source),
        mentor_digest=digest_path(folder),
        target=learner.target,
        bfloat16=context.precision(context.recipe.learners[stage.mentor]) == "bfloat16",
        vocab_size=min(map(vocabulary_size, models)) if top_k else None,  # what all heads have; heads may be padded
        on_progress=context.progress,
    )
    return ScoreRecord(**counts)


def _after_gold_answers(
    context: RunContext, stage: Stage, rows: Sequence[Example], encoder: TextEncoder
) -> list[Example]:
    """The rows with the gold answer in the mentor's prompt. The student's prompt, which is shorter, decided which rows there are."""
    questions = {question.id: question for question in context.questions(stage)}
    gold = stage.source == GOLD
    written = (
        gold_rationales(list(questions.values()))
        if gold
        else context.folder.rationales(stage.inputs[f"rationales/{stage.source}"])
    )
    template = context.learner(stage).prompt
    asked = {text.id: render_gold_prompt(questions[text.question_id], template) for text in written}
    privileged = [
        replace(row, source_ids=encode_prompt(encoder.tokenizer, encoder.kind, asked[row.rationale_id])) for row in rows
    ]
    longest = max((row.length for row in privileged), default=0) - 1
    if encoder.positions and longest > encoder.positions:
        raise ModelError(
            f"the mentor {stage.mentor} has {encoder.positions} positions, and a row with the gold answer in its prompt needs "
            f"{longest}; lower `max_source_tokens` or `max_target_tokens` of {stage.learner}, or set `mentor_reads: question`"
        )
    return privileged
