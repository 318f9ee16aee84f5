"""How long a learner's rows are: by its own tokenizer on a sample of them where its files are on this machine, else by characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from mentorkd.data.padding import MULTIPLE, padded_width
from mentorkd.data.prompts import CAUSAL_SEPARATOR, render_prompt, render_target
from mentorkd.data.selection import characters_as_tokens
from mentorkd.data.splitting import Sides, split_rows
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
    learner: Learner,
    model: ModelConfig,
    kind: ModelKind,
    texts: Sequence[Text],
    target_tokens: int,
    cost_of_part: int | None = None,
) -> Lengths:
    """The lengths of a learner's rows.

    Args:
        target_tokens: the length of rationales that are yet to be written, where `texts` have none.
        cost_of_part: of a part of a micro-batch (`data/splitting.py`); None where a micro-batch is read at once.
    """
    training, count = learner.training, _counter(model)
    tokens = count or characters_as_tokens
    rows = []
    for question, rationale, answer in texts:
        prompt = render_prompt(question, learner.prompt)
        source = tokens(prompt if kind == "seq2seq" else prompt + CAUSAL_SEPARATOR)
        rows.append((source, _target(learner, rationale, answer, tokens) if rationale else target_tokens))
    most_source, most_target = training.max_source_tokens, training.max_target_tokens
    kept = [row for row in rows if row[0] <= most_source and row[1] <= most_target] or [(most_source, most_target)]
    sources, targets = zip(*kept, strict=True)
    sides = kept if kind == "seq2seq" else [(sum(row),) for row in kept]
    padding = _padding(sides, learner, cost_of_part)  # a causal model has one side, whose padding both share
    return Lengths(
        fmean(sources),
        fmean(targets),
        fmean(sources) * padding[0],
        fmean(targets) * padding[-1],
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


def _padding(rows: Sequence[Sides], learner: Learner, cost_of_part: int | None) -> list[float]:
    """Padded tokens of each side by its tokens, in updates of random rows, whose micro-batches are sorted by length."""
    training = learner.training
    number = range(len(rows[0]))
    if training.split == "packed" or training.tokens_per_batch is not None:
        return [1.0 if training.split == "packed" else _CLOSE for _ in number]
    shuffled = Random(0).sample(rows, len(rows))
    parts = [
        part
        for update in _cut(shuffled, training.batch_size * training.gradient_accumulation * training.processes)
        for batch in _cut(sorted(update, key=sum), training.batch_size)
        for part in _parts(batch, cost_of_part)
    ]
    padded = [sum(len(part) * padded_width(max(row[side] for row in part)) for part in parts) for side in number]
    return [padded[side] / sum(row[side] for row in rows) for side in number]


def _cut(rows: Sequence[Sides], size: int) -> list[Sequence[Sides]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _parts(rows: Sequence[Sides], cost_of_part: int | None) -> Sequence[Sequence[Sides]]:
    if cost_of_part is None:
        return [rows]
    parts = split_rows(rows, [None] * len(rows), fixed_cost=cost_of_part, multiple=MULTIPLE)
    return [[rows[row] for row in part] for part in parts]


_CLOSE = 1.1
"""Padded tokens by tokens where a batch is filled by tokens."""


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
