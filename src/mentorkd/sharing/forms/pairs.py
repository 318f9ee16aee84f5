"""The form `pairs`: correct and wrong rationales of a question, in TRL's preference format."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mentorkd.data.examples import text_examples
from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import DataError, RunError
from mentorkd.hub.chat import stored_templates
from mentorkd.models import kind_of
from mentorkd.pipeline.written import Author
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import Learner
from mentorkd.records import Question, Rationale, normalise_whitespace
from mentorkd.sharing.data_card import Authored, Counts, questions_by_id, write_data_card, written_by_all
from mentorkd.sharing.form import Form
from mentorkd.sharing.parquet import Row, pyarrow, write_table
from mentorkd.sharing.source import Source

RULE = (
    "Of every training question with a correct and a wrong rationale, the k-th correct one is paired with the k-th wrong one, as "
    "long as both last. The order is that of the table above, then that of the samples. Of rationales with equal words the first "
    "counts. Rationales without an answer, and those of other splits, are in no pair. A text is what the learner would be trained to "
    "write: the reasoning, then the rationale's own answer."
)

_TEXT, _NUMBER = pyarrow.string(), pyarrow.int64()
_MESSAGES = pyarrow.list_(pyarrow.struct({"role": _TEXT, "content": _TEXT}))
_AUTHOR = pyarrow.struct({"id": _TEXT, "source": _TEXT, "seed": _NUMBER, "round": _NUMBER, "sample": _NUMBER})
_META = pyarrow.struct({"question_id": _TEXT, "answer": _TEXT, "chosen": _AUTHOR, "rejected": _AUTHOR})


@dataclass(frozen=True)
class Prompting:
    """How a learner reads a question."""

    learner: Learner
    chat: bool
    separator: str

    def pair(self, question: Question, chosen: Rationale, rejected: Rationale) -> dict[str, Any]:
        """Prompt, chosen and rejected text. Raises DataError for an answer that holds the marker before answers."""
        prompt, right = self._example(question, chosen)
        _, wrong = self._example(question, rejected)
        if not self.chat:
            return {"prompt": prompt + self.separator, "chosen": right, "rejected": wrong}
        texts = {"prompt": ("user", prompt), "chosen": ("assistant", right), "rejected": ("assistant", wrong)}
        return {key: [{"role": role, "content": text}] for key, (role, text) in texts.items()}

    def _example(self, question: Question, rationale: Rationale) -> tuple[str, str]:
        own = replace(question, answer=rationale.predicted or "")
        example = text_examples(rationale, own, self.learner, rationale.source)[-1]  # Step-by-Step's last task explains
        return example.prompt, example.target


def _write(source: Source, folder: Path, dtype: str | None) -> None:
    templates = list(stored_templates(source.model()))
    causal = kind_of(initial_model(source.pipeline.recipe, source.name)) == "causal"
    prompting = Prompting(source.learner, causal and bool(templates), CAUSAL_SEPARATOR if causal else "")
    parts, questions = written_by_all(source), questions_by_id(source)
    counts = Counts(questions)
    text = _MESSAGES if prompting.chat else _TEXT
    schema = pyarrow.schema({"prompt": text, "chosen": text, "rejected": text, "meta": _META})
    left_out: list[str] = []
    rows = _pairs(parts, questions, counts, prompting, left_out)
    table = write_table(folder, "pairs", schema, (("train", row) for row in rows))
    left = f"{len(left_out)} pairs are left out, since an answer holds the marker before answers" if left_out else ""
    if not table.rows:
        raise RunError(
            f"no training question has a correct and a wrong rationale{left and f' ({left})'}; more samples of the teacher or of a learner "
            "that others read give some (`samples`)"
        )
    rule = f"{RULE} {left}." if left else RULE
    more = {"rule": rule, "conversational": prompting.chat, "seq2seq": not causal}
    write_data_card(source, folder, kind="pairs", tables=[table], parts=parts, counts=counts, more=more)


def _pairs(
    parts: Sequence[Authored],
    questions: Mapping[str, Question],
    counts: Counts,
    prompting: Prompting,
    left_out: list[str],
) -> Iterator[Row]:
    for question, numbers in _by_question(parts, counts).items():
        read = [
            (parts[part].author, parts[part].rationales[row]) for part, row in zip(*[iter(numbers)] * 2, strict=True)
        ]
        right, wrong = (
            _distinct(each for each in read if each[1].verdict == verdict) for verdict in ("correct", "wrong")
        )
        for (of_right, chosen), (of_wrong, rejected) in zip(right, wrong, strict=False):
            asked = questions[question]
            meta = {"question_id": question, "answer": asked.answer}
            meta |= {"chosen": _author(of_right, chosen), "rejected": _author(of_wrong, rejected)}  # type: ignore[dict-item]
            try:
                yield {**prompting.pair(asked, chosen, rejected), "meta": meta}
            except DataError:
                left_out.append(question)


def _by_question(parts: Sequence[Authored], counts: Counts) -> dict[str, array[int]]:
    """The places of the graded rationales of each training question: part, row, part, row, ..."""
    places: dict[str, array[int]] = {}
    for number, part in enumerate(parts):
        for row, (rationale, question) in enumerate(counts.watch(part)):
            if rationale.verdict in ("correct", "wrong") and question.split == "train":
                places.setdefault(question.id, array("q")).extend((number, row))
    return places


def _distinct(rationales: Iterable[tuple[Author, Rationale]]) -> list[tuple[Author, Rationale]]:
    texts: dict[str, tuple[Author, Rationale]] = {}
    for author, rationale in rationales:
        texts.setdefault(normalise_whitespace(rationale.text), (author, rationale))
    return list(texts.values())


def _author(author: Author, rationale: Rationale) -> dict[str, Any]:
    of = {"source": author.source, "seed": author.seed, "round": author.round}
    return {"id": rationale.id, **of, "sample": rationale.sample}


PAIRS = Form(_write, chooses=("learner",))
