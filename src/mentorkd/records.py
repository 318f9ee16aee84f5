"""The three record types of a run with their content ids, JSON Lines, and the types and names that all packages share.

Ids are hashes of content: they do not depend on order, so runs can be resumed, merged and compared by them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from mentorkd.errors import DataError

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

TEACHER = "teacher"
"""Name of the teacher as a source of rationales."""

GOLD = "gold"
"""Name of the gold answers as a source: every training question once, with its answer and without reasoning."""

SELF = "self"
"""Name of a learner's own texts as a source."""

ModelKind = Literal["seq2seq", "causal"]
"""Encoder-decoder (T5) or decoder-only (GPT-2, Llama, Qwen)."""

AnswerKind = Literal["number", "choice", "yes_no", "text", "math"]
Verdict = Literal["correct", "wrong", "no_answer", "ungraded"]
"""`ungraded`: the question has no gold answer. Such a text counts neither as correct nor as wrong."""

Split = Literal["train", "validation", "test", "unlabelled"]
"""`unlabelled` questions have no answers; only learners that imitate their own texts read them."""


def normalise_whitespace(text: str) -> str:
    """Collapse every sequence of whitespace to one space and strip both ends."""
    return " ".join(text.split())


def content_id(*parts: str) -> str:
    """Sixteen hex digits that identify `parts`; length prefixes avoid collisions between different splits of one text."""
    data = "".join([f"{len(each.encode())}:{each}" for each in parts])
    return hashlib.sha256(data.encode()).hexdigest()[:16]


@lru_cache(maxsize=1 << 12)  # files of rationales repeat a question in each of its rows
def _question_id(text: str) -> str:
    return content_id(normalise_whitespace(text))


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answer, which is empty in the split `unlabelled`.

    `id` is the hash of the text only, so a question has the same id in every split.
    """

    id: str
    text: str
    answer: str
    split: Split

    @classmethod
    def create(cls, text: str, answer: str, split: Split) -> Question:
        return cls(_question_id(text), text.strip(), answer.strip(), split)

    @property
    def is_whole(self) -> bool:
        """Whether `id` is that of the content."""
        return self.id == _question_id(self.text)

    @property
    def labelled(self) -> bool:
        """Whether it has a gold answer."""
        return self.split != "unlabelled"


@dataclass(frozen=True, slots=True)
class Rationale:
    """A step-by-step solution of a question, written by `source` (the teacher or a learner).

    `text` is the reasoning without the answer marker; `predicted` is its final answer (None: no answer found); `sample`
    numbers the rationales of one source for one question, from 0.
    """

    id: str
    question_id: str
    text: str
    predicted: str | None
    verdict: Verdict
    source: str
    sample: int
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        question_id: str,
        text: str,
        predicted: str | None,
        verdict: Verdict,
        source: str,
        sample: int,
        meta: Mapping[str, Any] | None = None,
    ) -> Rationale:
        text = text.strip()
        identity = content_id(question_id, source, str(sample), text)
        return cls(identity, question_id, text, predicted, verdict, source, sample, dict(meta or {}))

    @property
    def is_whole(self) -> bool:
        """Whether `id` is that of the content."""
        return self.id == content_id(self.question_id, self.source, str(self.sample), self.text)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A learner's text, of `tokens` generated tokens, for a test question; `finished` unless cut at `max_new_tokens`."""

    question_id: str
    learner: str
    seed: int
    text: str
    predicted: str | None
    verdict: Verdict
    tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class EncodingCounts:
    """What encoding did to the rows: how many were too long and dropped, how many hold tokens that are unknown."""

    rows: int
    kept: int
    source_too_long: int
    target_too_long: int
    with_unknown_tokens: int
    target_tokens: int
    unended: int = 0
    """Kept rows without an end token: a learner's own texts that were cut."""
    without_tokens: int = 0
    """Dropped rows without a target token."""


Record = Question | Rationale | Prediction
R = TypeVar("R", Question, Rationale, Prediction)
_FIELDS = {kind: {field.name for field in fields(kind)} for kind in (Question, Rationale, Prediction)}


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON Lines through a temporary file and a rename; return their number."""
    count = 0
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return count


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """Read a file written by `write_jsonl`; DataError with the row and its fields if a line is not a record of `kind`."""
    with path.open("rb") as file:
        return [read_record(path, kind, number, line) for number, line in enumerate(file, start=1)]


def read_record(path: Path, kind: type[R], number: int, line: bytes) -> R:
    """The record in a line of `path`; errors as for `read_jsonl`."""
    try:
        row = json.loads(line.decode())
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise DataError(f"{path}, row {number}: not JSON ({why}); remove the row or write the file again") from None
    names = _FIELDS[kind]
    if not isinstance(row, dict) or row.keys() != names:
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{path}, row {number}: got {got}, expected a {kind.__name__} with the fields {sorted(names)}")
    return kind(**row)
