"""Grading of every kind of answer: `answers` reads what patterns can read, `math_answers` symbolic math.

The functions are those of `answers`, with the kind `math` added. Its verifier is one process for the whole program,
started with the first answer and killed whenever one takes too long.
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mentorkd.errors import DataError
from mentorkd.grading import answers
from mentorkd.grading.answers import Graded, option_letters
from mentorkd.grading.math import MathVerifier
from mentorkd.records import AnswerKind, Question

__all__ = ["Graded", "Grader", "extract", "grade", "normalise_answer"]

_MARK = re.compile(r"-->|####|\banswer is\b:?", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def grade(text: str, gold: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> Graded:
    """Grade `text`, a rationale with its answer, against `gold`; see `answers.grade`.

    Of the kind `math` the answer is what follows the last marker, or stands last; `predicted` is as SymPy writes it.
    Raises DataError when `gold` is not an answer of this kind, MissingExtraError for math without `math-verify`.
    """
    if kind != "math":
        return answers.grade(text, gold, kind, choices)
    _refuse_empty(gold)
    graded = Graded(None, "no_answer")
    for form in _forms(text):
        graded = Graded(*_verifier().grade(form, _formula(gold)))
        if graded.verdict != "no_answer":
            break
    return graded


def extract(text: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> str | None:
    """The normalised answer that `text` arrives at, or None."""
    return grade(text, "0", kind).predicted if kind == "math" else answers.extract(text, kind, choices)


def normalise_answer(gold: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> str | None:
    """The normal form of a string that is one answer and little else, or None if it is not; math stays as written."""
    if kind != "math":
        return answers.normalise_answer(gold, kind, choices)
    marks = list(_MARK.finditer(gold))
    answer = (gold[marks[-1].end() :] if marks else gold).strip()
    return answer if _is_math(answer) else None


def _forms(text: str) -> list[str]:
    """The texts to look for a formula in: what the last marker claims, read as a formula unless it has words; or all."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return [text]
    region = text[marks[-1].end() :].strip().rstrip(".")
    forms = [region] if _WORD.search(region) else [_formula(region), region]
    return forms if region else []


def _formula(text: str) -> str:
    """Plain LaTeX in dollar signs, without which it is read as prose; what has marks of its own stays."""
    return text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$"


@lru_cache(maxsize=1 << 16)
def _is_math(answer: str) -> bool:
    try:
        _refuse_empty(answer)
        _verifier().grade("", _formula(answer))
    except DataError:
        return False
    return True


def _refuse_empty(gold: str) -> None:
    if not gold.strip(" $."):
        raise DataError(f"the gold answer is {gold!r}, expected a number or a formula in LaTeX; correct the data")


@lru_cache(maxsize=1)
def _verifier() -> MathVerifier:
    verifier = MathVerifier()
    atexit.register(verifier.close)
    return verifier


@dataclass(frozen=True)
class Grader:
    """Grades a text against a question; option letters not given are read from the question."""

    kind: AnswerKind
    choices: Sequence[str] | None = None

    def __call__(self, text: str, question: Question) -> Graded:
        return grade(text, question.answer, self.kind, self._letters(question))

    def find(self, text: str, question: Question) -> str | None:
        """The normalised answer that a text arrives at, or None."""
        return extract(text, self.kind, self._letters(question))

    def _letters(self, question: Question) -> Sequence[str] | None:
        if self.choices is None and self.kind == "choice":
            return option_letters(question.text) or None
        return self.choices
