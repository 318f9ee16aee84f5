"""From records to token ids: training rows as text and as tokens, the same prompts in training and in generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from mentorkd.data.prompts import CAUSAL_SEPARATOR, chat_prompt, render_prompt, render_target
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, kind_of, load_tokenizer, positions_of
from mentorkd.recipe.learner import EXPLAIN, PREDICT, Learner, ModelConfig
from mentorkd.records import GOLD, EncodingCounts, ModelKind, Question, Rationale

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "EncodingCounts",
    "Example",
    "Reader",
    "Task",
    "TextExample",
    "encode_prompt",
    "encode_rows",
    "encode_target",
    "token_span",
    "training_rows",
]

Task = Literal["predict", "explain"]
"""What a row of Distilling Step-by-Step asks for: the answer, or the rationale."""


class TextExample(NamedTuple):
    """One training row as text."""

    rationale_id: str
    prompt: str
    target: str
    group: str | None = None
    """Rows of one group are learned in pairs: those of a question in MCC-KD, of a rationale in Step-by-Step."""
    task: Task | None = None
    answer: tuple[int, int] | None = None
    """Where the answer stands in `target`: first character, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training row as token ids; `target_ids` ends with the end token."""

    rationale_id: str
    source_ids: list[int]
    target_ids: list[int]
    group: str | None = None
    task: Task | None = None
    answer: tuple[int, int] | None = None
    """Where the answer stands in `target_ids`; None where it was not asked for."""

    @property
    def length(self) -> int:
        return len(self.source_ids) + len(self.target_ids)

    def padded_sides(self, kind: ModelKind) -> tuple[int, ...]:
        """Lengths of what is padded apart: source and target of encoder-decoder models, their sum of causal ones."""
        return (len(self.source_ids), len(self.target_ids)) if kind == "seq2seq" else (self.length,)


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    eos = tokenizer.eos_token_id
    assert eos is not None, "load_tokenizer refuses tokenizers without an end token"
    return ids if ids and ids[-1] == eos else [*ids, eos]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str, *, separator: str = CAUSAL_SEPARATOR
) -> list[int]:
    """Token ids of a prompt, the same in training and in generation.

    Encoder-decoder models get the text and the end token. Chat models get it as the user's turn of their template.
    Other causal models get it followed by `separator`. Causal prompts have no end token.
    """
    if kind == "seq2seq":
        ids = list(tokenizer(text)["input_ids"])
        return _ended(ids, tokenizer)
    read = chat_prompt(tokenizer, text, separator)
    ids = list(tokenizer(read, add_special_tokens=not tokenizer.chat_template)["input_ids"])
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def encode_target(tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str) -> list[int]:
    """Token ids of a target text, ending with the end token."""
    ids = list(tokenizer(text, add_special_tokens=kind == "seq2seq")["input_ids"])
    return _ended(ids, tokenizer)


def token_span(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str, characters: tuple[int, int]
) -> tuple[int, int] | None:
    """The tokens of `encode_target` that hold some of these characters: the first, and the one behind the last.

    None if there are none (a vocabulary can drop characters). Raises ModelError for a tokenizer that cannot tell.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} cannot tell which characters a token stands for, which the answer spans of "
            "`objective: mcc` need; give a model with a fast tokenizer (tokenizer.json)"
        )
    encoded = tokenizer(text, add_special_tokens=kind == "seq2seq", return_offsets_mapping=True)
    first, behind = characters
    inside = [n for n, (start, end) in enumerate(encoded["offset_mapping"]) if max(start, first) < min(end, behind)]
    return (inside[0], inside[-1] + 1) if inside else None


def encode_rows(
    rows: Sequence[TextExample | tuple[str, str, str]],
    tokenizer: PreTrainedTokenizerBase,
    kind: ModelKind,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    positions: int | None = None,
) -> tuple[list[Example], EncodingCounts]:
    """Encode rows, or (rationale id, prompt, target) alone; those that do not fit are dropped and counted, never cut.

    A cut target would lose its answer, which stands at the end. `positions` bounds prompt and target together (they count
    as too long a target), for models that read both on one line of so many positions.
    """
    kept: list[Example] = []
    source_too_long = target_too_long = unknown = 0
    prompts: dict[str, list[int]] = {}
    unk = tokenizer.unk_token_id
    for row in rows:
        rationale_id, prompt, target, group, task, answer = TextExample(*row)
        if prompt not in prompts:
            prompts[prompt] = encode_prompt(tokenizer, kind, prompt)
        source_ids, target_ids = prompts[prompt], encode_target(tokenizer, kind, target)
        if len(source_ids) > max_source_tokens:
            source_too_long += 1
        elif len(target_ids) > max_target_tokens or (positions and len(source_ids) + len(target_ids) - 1 > positions):
            target_too_long += 1
        else:
            # Tokenizers such as GPT-2's name their end token as unknown token; the one at the end is no fault.
            unknown += unk is not None and (unk in source_ids[:-1] or unk in target_ids[:-1])
            span = None if answer is None else token_span(tokenizer, kind, target, answer)
            kept.append(Example(rationale_id, source_ids, target_ids, group, task, span))
    counts = EncodingCounts(
        rows=len(rows),
        kept=len(kept),
        source_too_long=source_too_long,
        target_too_long=target_too_long,
        with_unknown_tokens=unknown,
        target_tokens=sum(len(row.target_ids) for row in kept),
    )
    return kept, counts


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
) -> tuple[list[Example], EncodingCounts]:
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


def _rows(rationale: Rationale, question: Question, learner: Learner) -> Iterator[TextExample]:
    prompt, answer = render_prompt(question.text, learner.prompt), question.answer
    step_by_step = learner.objective == "step_by_step"
    if rationale.source == GOLD:
        asked = render_prompt(question.text, learner.eval_prompt)
        yield TextExample(rationale.id, asked, answer, task="predict" if step_by_step else None)
    elif step_by_step:
        yield TextExample(rationale.id, PREDICT + prompt, answer, rationale.id, "predict")
        yield TextExample(rationale.id, EXPLAIN + prompt, rationale.text, rationale.id, "explain")
    else:
        text = render_target(rationale.text, answer, learner.target)
        if learner.objective == "mcc":
            start = text.rindex(answer.strip())  # the answer stands last in both forms
            yield TextExample(rationale.id, prompt, text, question.id, answer=(start, start + len(answer.strip())))
        else:
            yield TextExample(rationale.id, prompt, text)
