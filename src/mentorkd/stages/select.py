"""Select: the rationales that a learner trains on, gathered from its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mentorkd.recipe import SelectConfig
from mentorkd.records import Question, Rationale
from mentorkd.selection import FilterCount, select

__all__ = ["Gathered", "gather"]

# Which questions a low-resource ratio keeps must not depend on the training seed: it is part of the data.
SELECTION_SEED = 0


@dataclass(frozen=True)
class Gathered:
    """The rationales that a learner trains on, and what each filter of each source took away."""

    rationales: list[Rationale]
    filters: list[dict[str, Any]]


def gather(
    sources: Mapping[str, Sequence[Rationale]], selects: Mapping[str, SelectConfig], questions: Sequence[Question]
) -> Gathered:
    """Select from each source in turn; a text that an earlier source has given for the question is not taken again.

    Only rationales of `questions` (the training split) are taken.
    """
    known = {question.id for question in questions}
    taken: list[Rationale] = []
    filters: list[dict[str, Any]] = []
    for name, rationales in sources.items():
        config = selects[name]
        mine = [rationale for rationale in rationales if rationale.question_id in known]
        counts = [FilterCount("training_questions", len(rationales), len(mine))]
        kept, more = select(
            mine,
            correct=config.correct,
            deduplicate=config.deduplicate,
            max_per_question=config.max_per_question,
            question_ratio=config.question_ratio,
            seed=SELECTION_SEED,
            already=taken if config.deduplicate else (),
        )
        taken += kept
        filters += [{"source": name, **asdict(count)} for count in [*counts, *more]]
    return Gathered(taken, filters)
