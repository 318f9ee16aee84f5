"""How long a learner's rows are: by its own tokenizer on a sample of them where its files are on this machine, else by characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from mentorkd.data.prompts import CAUSAL_SEPARATOR, render_prompt, render_target
from mentorkd.data.selection import characters_as_tokens
from mentorkd.errors import DataError
from mentorkd.hub import model_folder
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.records import ModelKind

SAMPLE = 500
"""Rows whose tokens are counted: enough to see a share of 1 % of rows that are too long, in a tenth of a second."""

Text = tuple[str, str, str]
"""Question, rationale and answer of a row."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows of a learner, those that are too long left out."""

    source: float
    target: float
    padded_source: float
    """As a row has them in a micro-batch, mean."""
    padded_target: float
    longest_source: int
    longest_target: int
    too_long: int | None
    """Rows of the sample that would be dropped; None where no tokenizer is here to tell."""
    rows: int
    """Rows of the sample."""


def lengths_of(
    learner: Learner, model: ModelConfig, kind: ModelKind, texts: Sequence[Text], target_tokens: int
) -> Lengths:
    """The lengths of a learner's rows; `target_tokens` is the length of rationales that are yet to be written, where `texts`
    have none."""
    training, count = learner.training, _counter(model)
    tokens = count or characters_as_tokens
    rows = []
    for question, rationale, answer in texts:
        prompt = render_prompt(question, learner.prompt)
        source = tokens(prompt if kind == "seq2seq" else prompt + CAUSAL_SEPARATOR)
        rows.append((source, _target(learner, rationale, answer, tokens) if rationale else target_tokens))
    most_source, most_target = training.max_source_tokens, training.max_target_tokens
    kept = [row for row in rows if row[0] <= most_source and row[1] <= most_target] or [(most_source, most_target)]
    padded_source, padded_target = _padded(kept, learner)
    sources, targets = zip(*kept, strict=True)
    return Lengths(
        fmean(sources),
        fmean(targets),
        padded_source,
        padded_target,
        max(sources),
        max(targets),
        len(rows) - len(kept) if count and any(text[1] for text in texts) else None,
        len(rows),
    )


def _target(learner: Learner, rationale: str, answer: str, tokens: Callable[[str], int]) -> int:
    try:
        return tokens(render_target(rationale, answer, learner.target)) + 1  # the end token
    except DataError:  # the training names the row
        return tokens(rationale) + 1


def _padded(rows: Sequence[tuple[int, int]], learner: Learner) -> tuple[float, float]:
    """Mean tokens of a row with its padding: updates of random rows, whose micro-batches are sorted by length."""
    training = learner.training
    if training.split != "none" or training.tokens_per_batch is not None:
        padding = 1.0 if training.split == "packed" else _CLOSE
        source, target = (fmean(side) for side in zip(*rows, strict=True))
        return source * padding, target * padding
    shuffled = Random(0).sample(rows, len(rows))
    micro = [
        batch
        for update in _parts(shuffled, training.batch_size * training.gradient_accumulation)
        for batch in _parts(sorted(update, key=sum), training.batch_size)
    ]
    sides = [[max(row[side] for row in batch) * len(batch) for batch in micro] for side in (0, 1)]
    return sum(sides[0]) / len(rows), sum(sides[1]) / len(rows)


def _parts(rows: Sequence[tuple[int, int]], size: int) -> list[Sequence[tuple[int, int]]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


_CLOSE = 1.1
"""What padding adds where rows of similar length are read together."""


def _counter(model: ModelConfig) -> Callable[[str], int] | None:
    source = model.tokenizer or model.name
    if source is None:
        return None
    file = Path(source)
    if not (file.suffix == ".model" and file.is_file()):
        folder = model_folder(source, model.revision)
        names = ("tokenizer.json", "spiece.model", "tokenizer.model")
        here = next((folder / name for name in names if (folder / name).is_file()), None) if folder else None
        if here is None:
            return None
        file = here
    return _tokens_of(file)


@cache
def _tokens_of(file: Path) -> Callable[[str], int] | None:
    try:
        if file.suffix == ".model":
            from sentencepiece import SentencePieceProcessor

            pieces: Any = SentencePieceProcessor(model_file=str(file))
            return cache(lambda text: len(pieces.encode(text)) + 1)
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cache(lambda text: len(tokenizer.encode(text).ids))
    except Exception:  # whatever a damaged file raises; the check of the models names the file
        return None
