"""The card of a data set that a run gives."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mentorkd import __version__
from mentorkd.data.rows import Rows
from mentorkd.errors import RunError
from mentorkd.files import write_text
from mentorkd.pipeline.model_card import card_environment
from mentorkd.pipeline.written import Author
from mentorkd.printable import printable
from mentorkd.recipe.load import dump_recipe
from mentorkd.recipe.yaml import dump_yaml
from mentorkd.records import Question, Rationale, Verdict, read_jsonl
from mentorkd.sharing.lineage import model_of
from mentorkd.sharing.parquet import Table, card_facts
from mentorkd.sharing.privacy import Privacy
from mentorkd.sharing.source import Source
from mentorkd.teachers.annotate import open_teacher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Authored:
    """The rationales of one author. Those that people rejected are not among them, and edited ones have their new text."""

    author: Author
    rationales: Rows[Rationale]
    sha256: str


def written_by_all(source: Source) -> list[Authored]:
    """The rationales of a run by author, the teacher's first. Raises DamagedError for a file that has changed."""
    finished, stages = source.pipeline.folder.finished, source.pipeline.stages
    writing = {
        stage.whole for stage in stages if stage.kind in ("annotate", "curate", "augment") and not finished(stage)
    }
    if writing:
        names = ", ".join(sorted(writing))
        log.warning("the run is not finished: rationales are missing, or older than its recipe (%s)", names)
    return [
        Authored(text.author, Rows.of_jsonl(source.checked(text.file), Rationale), text.file.digest)
        for text in source.texts()
    ]


def questions_by_id(source: Source) -> dict[str, Question]:
    """The questions of the run, in their order. Of equal ones in several splits the first counts."""
    questions: dict[str, Question] = {}
    for question in read_jsonl(source.checked(source.written().questions), Question):
        questions.setdefault(question.id, question)
    return questions


class Counts:
    """Counts rationales by author and verdict as they are written."""

    def __init__(self, questions: Mapping[str, Question]) -> None:
        self.by_author: dict[str, Counter[Verdict]] = {}
        self._questions = questions

    def watch(self, part: Authored) -> Iterator[tuple[Rationale, Question]]:
        """The rationales of an author, each with its question, counted as it is read. Raises RunError for one of a question that
        the run does not have any more."""
        counter = self.by_author[part.author.name] = Counter()
        for rationale in part.rationales:
            counter[rationale.verdict] += 1
            if (question := self._questions.get(rationale.question_id)) is None:
                raise RunError(
                    f"the rationales of {part.author.name} are older than the questions of the run; `mentorkd run` makes them again"
                )
            yield rationale, question


def write_data_card(
    source: Source,
    folder: Path,
    *,
    kind: str,
    tables: Sequence[Table],
    parts: Sequence[Authored],
    counts: Counts,
    more: Mapping[str, Any],
) -> None:
    """Write README.md beside the tables. `kind` is `dataset` or `pairs`; `more` are further variables of the template."""
    recipe, privacy = source.pipeline.recipe, Privacy.of(source)
    teacher = open_teacher(recipe).describe().name
    models = {part.author.name: model_of(recipe, part.author) for part in parts}
    facts = {
        "pretty_name": f"{recipe.name}: {'preference pairs' if kind == 'pairs' else 'rationales'}",
        "task_categories": ["text-generation"],
        "tags": ["mentorkd", "chain-of-thought", "knowledge-distillation", *(["dpo"] if kind == "pairs" else [])],
        **card_facts(tables),
    }
    template = card_environment("mentorkd.sharing").get_template("data_card.md.jinja")
    card = template.render(
        front_matter=dump_yaml(facts).strip(),
        kind=kind,
        recipe=recipe,
        teacher=teacher,
        tables=tables,
        parts=parts,
        models=models,
        counts=counts.by_author,
        verdicts=get_args(Verdict),
        version=__version__,
        recipe_yaml=privacy.public(dump_recipe(recipe)).strip(),
        **more,
    )
    write_text(folder / "README.md", privacy.public(printable(card)))
