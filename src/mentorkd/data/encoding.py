"""From text to token ids: training examples, and prompts that are the same in training and in generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from statistics import fmean

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from mentorkd.data.examples import TextExample, text_examples
from mentorkd.data.prompts import CAUSAL_SEPARATOR, chat_prompt, render_chat
from mentorkd.data.rows import Rows
from mentorkd.errors import DataError, ModelError
from mentorkd.models import LoadedModel, config_of, load_tokenizer, model_kind
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.objectives import Task
from mentorkd.records import EncodingCounts, ModelKind, Question, Rationale


@dataclass(frozen=True, slots=True)
class Example:
    """One training example as token ids; `target_ids` ends with the end token, unless the text is one that was cut."""

    rationale_id: str
    source_ids: list[int]
    target_ids: list[int]
    group: str | None = None
    task: Task | None = None
    answer: tuple[int, int] | None = None
    """Tokens of the answer in `target_ids`: the first, and the one after the last; None where the objective does not use them."""
    source: str | None = None
    """Who wrote the text, by its name among the learner's `rationales`."""
    weight: float = 1.0
    """Weight of the row's tokens in the loss."""

    @property
    def length(self) -> int:
        return len(self.source_ids) + len(self.target_ids)

    def padded_sides(self, kind: ModelKind) -> tuple[int, ...]:
        """Tokens of each part that is padded separately: source and target for encoder-decoder models, their sum for causal ones."""
        return (len(self.source_ids), len(self.target_ids)) if kind == "seq2seq" else (self.length,)


def _ended(tokenizer: PreTrainedTokenizerBase, encoded: Mapping[str, list[int]]) -> list[int]:
    ids, eos = list(encoded["input_ids"]), tokenizer.eos_token_id
    assert eos is not None, "load_tokenizer refuses tokenizers without an end token"
    return ids if ids and ids[-1] == eos else [*ids, eos]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str, *, separator: str = CAUSAL_SEPARATOR
) -> list[int]:
    """Token ids of a prompt, the same in training and in generation.

    For encoder-decoder models: the text and the end token. For chat models: the text as the user's turn of their template.
    For other causal models: the text and `separator`. Causal prompts have no end token.
    """
    if kind == "seq2seq":
        return encode_plain(tokenizer, kind, text)
    return _open(tokenizer, chat_prompt(tokenizer, text, separator), special=not tokenizer.chat_template)


def encode_plain(tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str) -> list[int]:
    """Token ids of a prompt that is the text alone; an encoder-decoder model reads the end token after it."""
    return _ended(tokenizer, tokenizer(text)) if kind == "seq2seq" else _open(tokenizer, text, special=True)


def encode_chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of the prompt that a causal model's chat template makes of several turns."""
    return _open(tokenizer, render_chat(tokenizer, turns), special=False)


def _open(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def encode_target(tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str, *, ended: bool = True) -> list[int]:
    """Token ids of a target text and, if `ended`, the end token."""
    ids = _ended(tokenizer, tokenizer(text, add_special_tokens=kind == "seq2seq"))
    return ids if ended else ids[:-1]


def target_offsets(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str, purpose: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a target text, and the characters of the text that each covers: the first, and the one after the last.

    The ids are those of `encode_target`, whose end token may be missing; special tokens cover (0, 0). White space is covered
    by its token. Raises ModelError, which names the `purpose`, for a tokenizer that does not know the characters of its tokens.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not know which characters a token covers, and {purpose}; give a model with a fast "
            "tokenizer (tokenizer.json)"
        )
    special = kind == "seq2seq"
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    whole = _without_trimming(tokenizer)
    offsets = encoded["offset_mapping"] if whole is None else whole.encode(text, add_special_tokens=special).offsets
    return list(encoded["input_ids"]), list(offsets)


@lru_cache(maxsize=8)  # a copy holds the whole vocabulary
def _without_trimming(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """A copy whose offsets cover white space, for a tokenizer that trims it off (Llama 3, RoBERTa); None for others."""
    core, trims = tokenizer.backend_tokenizer, '"trim_offsets":true'
    if core.post_processor is None or trims.encode() not in core.post_processor.__getstate__():
        return None
    # Of the vocabulary, nothing is replaced: quotes in a token are escaped.
    copied = Tokenizer.from_str(core.to_str().replace(trims, '"trim_offsets":false'))
    copied.no_truncation()
    copied.no_padding()
    return copied


def token_span(
    tokenizer: PreTrainedTokenizerBase, kind: ModelKind, text: str, characters: tuple[int, int]
) -> tuple[int, int] | None:
    """The tokens of `encode_target` that contain any of these characters: the first, and the one after the last.

    None if no token contains any (a vocabulary can drop characters). Raises ModelError for a tokenizer that does not know
    the characters of its tokens.
    """
    _, offsets = target_offsets(tokenizer, kind, text, "the learner's `objective` needs the answer's tokens")
    first, after = characters
    inside = [n for n, (start, end) in enumerate(offsets) if max(start, first) < min(end, after)]
    return (inside[0], inside[-1] + 1) if inside else None


def encode_rows(
    rows: Iterable[TextExample | tuple[str, str, str]],
    encoder: TextEncoder,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    hold: Callable[[Iterable[Example]], Sequence[Example]] = list,
) -> tuple[Sequence[Example], EncodingCounts]:
    """Encode text examples, or plain (rationale id, prompt, target). Rows that do not fit are dropped and counted, never cut.

    A cut target would lose its answer, which is at the end. A row that exceeds the encoder's `positions` counts as a target
    that is too long. An unended target without a token (all its characters are unknown to the vocabulary) has nothing to learn, and
    counts in `without_tokens`. `hold` makes the examples a sequence.
    """
    counts = Counter[str]()
    examples = hold(_encode(rows, encoder, max_source_tokens, max_target_tokens, counts))
    return examples, EncodingCounts(**{field.name: counts[field.name] for field in fields(EncodingCounts)})


_PROMPTS = 1 << 12
"""Prompts whose token ids are kept for the next row of the same question."""


def _encode(
    rows: Iterable[TextExample | tuple[str, str, str]],
    encoder: TextEncoder,
    max_source_tokens: int,
    max_target_tokens: int,
    counts: Counter[str],
) -> Iterator[Example]:
    """The rows that fit. `counts` gets the fields of EncodingCounts."""
    tokenizer, kind, positions = encoder.tokenizer, encoder.kind, encoder.positions
    prompt_ids = lru_cache(_PROMPTS)(partial(encode_prompt, tokenizer, kind))
    unk = tokenizer.unk_token_id
    for row in rows:
        rationale_id, prompt, target, group, task, answer, source, ended = TextExample(*row)
        source_ids, target_ids = prompt_ids(prompt), encode_target(tokenizer, kind, target, ended=ended)
        counts["rows"] += 1
        if len(source_ids) > max_source_tokens:
            counts["source_too_long"] += 1
        elif len(target_ids) > max_target_tokens or (positions and len(source_ids) + len(target_ids) - 1 > positions):
            counts["target_too_long"] += 1
        elif not target_ids:
            counts["without_tokens"] += 1
        else:
            counts["kept"] += 1
            counts["target_tokens"] += len(target_ids)
            counts["unended"] += not ended
            # Some tokenizers (GPT-2's) use one token as end token and as unknown token; at the end it is no fault.
            counts["with_unknown_tokens"] += unk is not None and (unk in source_ids[:-1] or unk in target_ids[:-1])
            span = None if answer is None else token_span(tokenizer, kind, target, answer)
            yield Example(rationale_id, source_ids, target_ids, group, task, span, source)


@dataclass(frozen=True)
class TextEncoder:
    """What turns text into a model's token ids. It needs no weights."""

    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    positions: int | None = None
    """Number of learned positions, for models that process prompt and target as one sequence; None without a limit."""

    @classmethod
    def of(cls, model: LoadedModel | ModelConfig) -> TextEncoder:
        """The encoder of a model in memory, or of one that is not loaded yet."""
        if isinstance(model, ModelConfig):
            tokenizer, config = load_tokenizer(model), config_of(model)
        else:
            tokenizer, config = model.tokenizer, model.model.config
        kind = model_kind(config)
        # Encoder-decoder models have positions of their own for prompt and target.
        positions = getattr(config, "max_position_embeddings", None) if kind == "causal" else None
        return cls(tokenizer, kind, positions)

    def count(self, text: str) -> int:
        """Tokens of a text, without the end token."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def training_rows(
    rationales: Mapping[str, Sequence[Rationale]],
    questions: Sequence[Question],
    learner: Learner,
    encoder: TextEncoder,
    *,
    weights: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[Sequence[Example], EncodingCounts]:
    """Encode rationales as `learner` learns them, for training or scoring. Rows that do not fit are dropped and counted.

    Args:
        rationales: by source, under the name that the learner's `rationales` has for it.
        weights: source -> question id -> weight of the question's rows, before they are scaled to a mean of 1 over the rows of
            the source. Rows of a source that is left out weigh 1.
    """
    by_id = {question.id: question for question in questions}
    rows, counts = encode_rows(
        (
            row
            for source, written in rationales.items()
            for rationale in written
            for row in text_examples(rationale, by_id[rationale.question_id], learner, source)
        ),
        encoder,
        max_source_tokens=learner.training.max_source_tokens,
        max_target_tokens=learner.training.max_target_tokens,
        hold=partial(Rows.of, Example),
    )
    return (Rows.of(Example, _weighted(rows, rationales, weights)) if weights else rows), counts


def _weighted(
    rows: Sequence[Example], rationales: Mapping[str, Sequence[Rationale]], weights: Mapping[str, Mapping[str, float]]
) -> Iterator[Example]:
    """The rows with the weights of their questions; DataError for a question without one."""
    weight_of: dict[str, float] = {}
    for source, by_question in weights.items():
        for rationale in rationales.get(source, ()):
            if rationale.question_id not in by_question:
                raise DataError(
                    f"the question {rationale.question_id} has no weight, expected one for each question of `{source}`; weigh all "
                    "questions whose texts are trained on"
                )
            weight_of[rationale.id] = by_question[rationale.question_id]
    means = {
        source: fmean(weight_of[row.rationale_id] for row in rows if row.source == source)
        for source in weights.keys() & {row.source for row in rows}
    }
    for row in rows:
        yield replace(row, weight=weight_of[row.rationale_id] / means[row.source]) if row.source in means else row
