"""Rows: selected rationales as token ids, (prompt -> rationale and gold answer), or (prompt -> gold answer)."""

from __future__ import annotations

from collections.abc import Sequence

from mentorkd.batching import Encoded, EncodingCounts, encode_rows
from mentorkd.models import LoadedModel
from mentorkd.prompts import TargetForm, render_prompt, render_target
from mentorkd.recipe import GOLD
from mentorkd.records import Question, Rationale

__all__ = ["training_rows"]


def training_rows(
    rationales: Sequence[Rationale],
    questions: Sequence[Question],
    loaded: LoadedModel,
    *,
    prompt: str,
    target: TargetForm,
    max_source_tokens: int,
    max_target_tokens: int,
) -> tuple[list[Encoded], EncodingCounts]:
    """Encode rationales for training or scoring; those that do not fit are dropped and counted."""
    asked = {question.id: question for question in questions}
    rows = []
    for rationale in rationales:
        question = asked[rationale.question_id]
        bare = rationale.source == GOLD
        text = question.answer if bare else render_target(rationale.text, question.answer, target)
        rows.append((rationale.id, render_prompt(question.text, prompt), text))
    config = loaded.model.config
    return encode_rows(
        rows,
        loaded.tokenizer,
        loaded.kind,
        max_source_tokens=max_source_tokens,
        max_target_tokens=max_target_tokens,
        # Learned positions end; a causal model reads prompt and target on one line of them.
        positions=getattr(config, "max_position_embeddings", None) if loaded.kind == "causal" else None,
    )
