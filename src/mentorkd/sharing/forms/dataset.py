"""The form `dataset`: every rationale of the run, and its questions, as Parquet with a card that the hub's viewer reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mentorkd.records import Question, Rationale
from mentorkd.sharing.data_card import Authored, Counts, questions_by_id, write_data_card, written_by_all
from mentorkd.sharing.form import Form
from mentorkd.sharing.parquet import Row, pyarrow, write_table
from mentorkd.sharing.privacy import Privacy
from mentorkd.sharing.source import Source

_TEXT, _NUMBER = pyarrow.string(), pyarrow.int64()
_RATIONALES = pyarrow.schema(
    {
        "id": _TEXT,
        "question_id": _TEXT,
        "question": _TEXT,
        "answer": _TEXT,
        "split": _TEXT,
        "rationale": _TEXT,
        "predicted": _TEXT,
        "verdict": _TEXT,
        "source": _TEXT,
        "seed": _NUMBER,
        "round": _NUMBER,
        "sample": _NUMBER,
        "tokens": _NUMBER,
        "meta": _TEXT,
    }
)
_QUESTIONS = pyarrow.schema({"id": _TEXT, "question": _TEXT, "answer": _TEXT})


def _write(source: Source, folder: Path, dtype: str | None) -> None:
    questions, parts = questions_by_id(source), written_by_all(source)
    counts = Counts(questions)
    rows = _rationales(parts, counts, Privacy.of(source))
    tables = [
        write_table(folder, "rationales", _RATIONALES, rows),
        write_table(folder, "questions", _QUESTIONS, _questions(questions.values())),
    ]
    write_data_card(source, folder, kind="dataset", tables=tables, parts=parts, counts=counts, more={})


def _rationales(parts: Sequence[Authored], counts: Counts, privacy: Privacy) -> Iterator[tuple[str, Row]]:
    for part in parts:
        author = {"source": part.author.source, "seed": part.author.seed, "round": part.author.round}
        for rationale, question in counts.watch(part):
            yield (
                question.split,
                author
                | {
                    "id": rationale.id,
                    "question_id": question.id,
                    "question": question.text,
                    "answer": question.answer,
                    "split": question.split,
                    "rationale": rationale.text,
                    "predicted": rationale.predicted,
                    "verdict": rationale.verdict,
                    "sample": rationale.sample,
                    "tokens": _tokens(rationale),
                    # The model of a teacher on this machine may be named by its folder.
                    "meta": privacy.public(json.dumps(rationale.meta, ensure_ascii=False)),
                },
            )


def _tokens(rationale: Rationale) -> int | None:
    """Generated tokens: of a learner's text, or of a teacher's reply; None for recorded rationales."""
    tokens: int | None = rationale.meta.get("tokens", rationale.meta.get("usage", {}).get("output_tokens"))
    return tokens


def _questions(questions: Iterable[Question]) -> Iterator[tuple[str, Row]]:
    for question in questions:
        yield question.split, {"id": question.id, "question": question.text, "answer": question.answer}


DATASET = Form(_write, chooses=())
