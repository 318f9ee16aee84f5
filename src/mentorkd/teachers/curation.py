"""Curation: the teacher's rationales as the decisions of an overlay leave them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mentorkd.data.overlay import Decision
from mentorkd.data.token_logprobs import LOGPROBS
from mentorkd.grading.grade import Grader
from mentorkd.records import Question, Rationale
from mentorkd.teachers.prompting import split_answer

EDITED_FROM = "edited_from"
"""In the `meta` of an edited rationale: the id of the one that it replaces."""


@dataclass
class Curation:
    """Applies decisions, by rationale id, to rationales. The counts are whole when all rationales have passed."""

    decisions: Mapping[str, Decision]
    questions: Mapping[str, Question]
    grader: Grader
    rejected: int = 0
    edited: int = 0
    _seen: set[str] = field(default_factory=set)

    @property
    def unmatched(self) -> list[str]:
        """The ids in decisions of rationales that the teacher does not have (any more)."""
        return [key for key in self.decisions if key not in self._seen]

    def apply(self, rationales: Iterable[Rationale]) -> Iterator[Rationale]:
        """The rationales in their order, without the rejected ones, and the edited ones with their new texts."""
        for rationale in rationales:
            decision = self.decisions.get(rationale.id)
            if decision is None:
                yield rationale
                continue
            self._seen.add(rationale.id)
            if decision.text is None:
                self.rejected += 1
            else:
                self.edited += 1
                yield edited(rationale, decision.text, self.questions[rationale.question_id], self.grader)


def edited(rationale: Rationale, text: str, question: Question, grader: Grader) -> Rationale:
    """A rationale with a new text, graded again. It is a whole one, and log-probabilities of the old text are left out.

    An answer behind the reasoning ("Therefore, the answer is 12.") is taken off it, as from a teacher's reply.
    """
    solution = split_answer(text)
    graded = grader(solution.answer_text, question)
    meta = {key: value for key, value in rationale.meta.items() if key != LOGPROBS} | {EDITED_FROM: rationale.id}
    if "outcome" in meta:
        meta["outcome"] = "ok"
    reasoning, source, sample = solution.rationale, rationale.source, rationale.sample
    return Rationale.create(rationale.question_id, reasoning, graded.predicted, graded.verdict, source, sample, meta)
