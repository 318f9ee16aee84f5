"""Rows: selected rationales as token ids, (prompt -> rationale and gold answer), or as an objective wants them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mentorkd.encoding import Encoded, EncodingCounts, Row, encode_rows
from mentorkd.models import LoadedModel, kind_of, load_tokenizer, positions_of
from mentorkd.prompts import render_prompt, render_target
from mentorkd.recipe.learner import EXPLAIN, PREDICT, Learner, ModelConfig
from mentorkd.records import GOLD, ModelKind, Question, Rationale

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Reader", "training_rows"]


@dataclass(frozen=True)
class Reader:
    """What turns text into a model's token ids. No weights are needed for it."""

    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    positions: int | None
    """Learned positions, where they end."""

    @classmethod
    def of(cls, model: LoadedModel | ModelConfig) -> Reader:
        """That of a model in memory, or of one that is not loaded."""
        if isinstance(model, ModelConfig):
            return cls(load_tokenizer(model), kind_of(model), positions_of(model))
        return cls(model.tokenizer, model.kind, getattr(model.model.config, "max_position_embeddings", None))

    def count(self, text: str) -> int:
        """Tokens of a text, without the end token."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def training_rows(
    rationales: Sequence[Rationale], questions: Sequence[Question], learner: Learner, reader: Reader
) -> tuple[list[Encoded], EncodingCounts]:
    """Encode rationales as `learner` is taught them, for training or scoring; rows that do not fit are dropped and counted.

    A bare answer is one row (prompt -> answer) for every objective.
    """
    asked = {question.id: question for question in questions}
    rows = [row for rationale in rationales for row in _rows(rationale, asked[rationale.question_id], learner)]
    return encode_rows(
        rows,
        reader.tokenizer,
        reader.kind,
        max_source_tokens=learner.training.max_source_tokens,
        max_target_tokens=learner.training.max_target_tokens,
        # Learned positions end; a causal model reads prompt and target on one line of them.
        positions=reader.positions if reader.kind == "causal" else None,
    )


def _rows(rationale: Rationale, question: Question, learner: Learner) -> Iterator[Row]:
    prompt, answer = render_prompt(question.text, learner.prompt), question.answer
    step_by_step = learner.objective == "step_by_step"
    if rationale.source == GOLD:
        asked = render_prompt(question.text, learner.asked)
        yield Row(rationale.id, asked, answer, task="predict" if step_by_step else None)
    elif step_by_step:
        yield Row(rationale.id, PREDICT + prompt, answer, rationale.id, "predict")
        yield Row(rationale.id, EXPLAIN + prompt, rationale.text, rationale.id, "explain")
    else:
        text = render_target(rationale.text, answer, learner.target)
        if learner.objective == "mcc":
            start = text.rindex(answer.strip())  # the answer stands last in both forms
            yield Row(rationale.id, prompt, text, question.id, answer=(start, start + len(answer.strip())))
        else:
            yield Row(rationale.id, prompt, text)
