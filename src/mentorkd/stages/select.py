"""Select: the rationales that a learner trains on, gathered from its sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from mentorkd.grading.arithmetic import check_steps
from mentorkd.recipe.learner import SelectConfig
from mentorkd.records import GOLD, Question, Rationale
from mentorkd.selection import FilterCount, select

__all__ = ["CHARACTERS_PER_TOKEN", "Gathered", "gather", "gold_rationales"]

CHARACTERS_PER_TOKEN = 4
"""For estimates: English text in the T5 vocabulary has 3.5 to 4.5 characters a token on the paper's data."""

# Which questions a low-resource ratio keeps must not depend on the training seed: it is part of the data.
SELECTION_SEED = 0


@dataclass(frozen=True)
class Gathered:
    """The rationales that a learner trains on, and what each filter of each source took away."""

    rationales: list[Rationale]
    filters: list[dict[str, Any]]


def gold_rationales(questions: Sequence[Question]) -> list[Rationale]:
    """Every question's gold answer as a rationale without reasoning."""
    answers = {question.id: question.answer for question in questions}
    return [Rationale.create(each, "", answer, "correct", GOLD, 0) for each, answer in answers.items()]


def gather(
    sources: Mapping[str, Sequence[Rationale]],
    selects: Mapping[str, SelectConfig],
    questions: Sequence[Question],
    *,
    tokens: Callable[[str], int] | None = None,
    conclude: Callable[[str, Question], str | None] | None = None,
    judge: Callable[[str, Sequence[Rationale]], Mapping[str, float]] | None = None,
) -> Gathered:
    """Select from each source in turn; a text that an earlier source has given for the question is not taken again.

    Only rationales of `questions` (the training split) are taken, and of replies that were refused, empty or cut none.
    `tokens` counts a text's tokens as the learner reads them; without it they are estimated, and the count of `length` says so.
    `conclude` reads the answer that a text arrives at, and is needed for `answer_in_rationale` alone; `judge` gives the
    negative log-likelihood a token of rationales by the model that a `learnable` filter names, and is needed for it alone.
    """
    known = {question.id: question for question in questions}
    taken: list[Rationale] = []
    filters: list[dict[str, Any]] = []
    for name, rationales in sources.items():
        config = selects[name]
        mine = [rationale for rationale in rationales if rationale.question_id in known]
        counts = [FilterCount("training_questions", len(rationales), len(mine))]
        if any("outcome" in rationale.meta for rationale in mine):
            whole = [rationale for rationale in mine if rationale.meta.get("outcome") == "ok"]
            counts.append(FilterCount("whole_replies", len(mine), len(whole)))
            mine = whole
        equations, learnable = _Equations(), config.learnable
        kept, more = select(
            mine,
            correct=config.correct,
            deduplicate=config.deduplicate,
            max_per_question=config.max_per_question,
            question_ratio=config.question_ratio,
            seed=SELECTION_SEED,
            already=taken if config.deduplicate else (),
            tokens=tokens or _estimated,
            min_tokens=config.min_tokens,
            max_tokens=config.max_tokens,
            conclude=_conclusion(conclude, known) if config.answer_in_rationale else None,
            sound=equations.hold if config.steps else None,
            nll=None if learnable is None else partial(_judged_by(judge), learnable.model),
            drop_unlearnable=0.0 if learnable is None else learnable.drop,
            diverse=config.diverse,
        )
        taken += kept
        told: dict[str, dict[str, Any]] = {
            "length": {"counted_in": "characters" if tokens is None else "tokens"},
            "steps_check": {"equations": equations.read + equations.unread, "unread": equations.unread},
        }
        filters += [{"source": name, **asdict(count), **told.get(count.filter, {})} for count in [*counts, *more]]
    return Gathered(taken, filters)


def _estimated(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


@dataclass
class _Equations:
    """Checks the equations of texts, and counts those that could be read and those that were left alone."""

    read: int = 0
    unread: int = 0

    def hold(self, text: str) -> bool:
        steps = check_steps(text)
        self.read += steps.holding + len(steps.wrong)
        self.unread += steps.unread
        return not steps.wrong


def _judged_by(
    judge: Callable[[str, Sequence[Rationale]], Mapping[str, float]] | None,
) -> Callable[[str, Sequence[Rationale]], Mapping[str, float]]:
    assert judge is not None, "learnable needs a judge"
    return judge


def _conclusion(
    conclude: Callable[[str, Question], str | None] | None, known: Mapping[str, Question]
) -> Callable[[Rationale], str | None]:
    assert conclude is not None, "answer_in_rationale needs a reader of answers"
    return lambda rationale: conclude(rationale.text, known[rationale.question_id])
