"""The front of grading: the answer that a text states, and its comparison with the gold answer.

`answers` reads numbers, choices, yes or no, and short texts by patterns. `math` compares symbolic answers in one worker
process for the whole program, which starts with the first answer and is killed when an answer takes too long.
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from mentorkd.errors import DataError
from mentorkd.grading.answers import describe_answer, find_answer, normal_form, option_letters, stated_answer
from mentorkd.grading.math import MathVerifier
from mentorkd.records import AnswerKind, Question, Verdict

_MARKER = re.compile(r"-->|####|\banswer is\b:?", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


OwnVerdict = Callable[[Question, str], Verdict]
"""A function of the user's, which gives the verdict on a stated answer; see `grading.own`."""


@dataclass(frozen=True, slots=True)
class Graded:
    """The normalised answer of a text (None: no answer) and the verdict against the gold answer."""

    predicted: str | None
    verdict: Verdict


def grade(text: str, gold: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> Graded:
    """Grade `text`, a rationale with its answer, against the gold answer.

    A text without a readable answer is `no_answer`, never `wrong`. `choices` are the option letters of the question;
    without them any letter from A to J counts. For the kind `math` the answer is the text after the last marker or the
    last formula, and `predicted` is in SymPy's notation.
    Raises DataError if `gold` is not an answer of this kind, MissingExtraError for `math` without `math-verify`.
    """
    if kind == "math":
        return _grade_math(text, gold)
    expected = normalise_answer(gold, kind, choices)
    if expected is None:
        form = describe_answer(kind, choices)
        raise DataError(f"the gold answer is {gold!r}, expected {form}; correct the data or the task's kind of answer")
    predicted = extract(text, kind, choices)
    if predicted is None:
        return Graded(None, "no_answer")
    return Graded(predicted, "correct" if predicted == expected else "wrong")


def extract(text: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> str | None:
    """The normalised answer of `text`, or None."""
    return _grade_math(text, "0").predicted if kind == "math" else find_answer(text, kind, choices)


def normalise_answer(answer: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> str | None:
    """The normal form of a string that holds one answer and little else, or None for any other string.

    number: "1,000" -> "1000", "18.0 apples" -> "18", "1/2" -> "0.5", "2/6" -> "1/3"; choice: "A. ignore" -> "A";
    yes_no: "True" -> "yes"; text: lower case without quotes, dots and spaces; math: unchanged. A worked solution that
    ends in an answer marker, such as GSM8K's "... #### 72", gives the marked answer.
    """
    if kind != "math":
        return normal_form(answer, kind, choices)
    region = _marked_region(answer)
    formula = (answer if region is None else region).strip()
    return formula if _is_math(formula) else None


def choices_of(question_text: str, kind: AnswerKind, choices: Sequence[str] | None = None) -> Sequence[str] | None:
    """The option letters of a question: those of the task, else those in its text; None for none or another kind."""
    return choices or option_letters(question_text) or None if kind == "choice" else None


@dataclass(frozen=True)
class Grader:
    """Grades texts against questions of one kind; without `choices`, option letters are read from each question.

    A text on a question without a gold answer is `ungraded`.
    """

    kind: AnswerKind
    choices: Sequence[str] | None = None
    own: OwnVerdict | None = None
    """Gives the verdicts; None compares each answer with the gold answer."""

    @property
    def is_slow(self) -> bool:
        """Whether a text may take long."""
        return self.kind == "math" or self.own is not None

    def __call__(self, text: str, question: Question) -> Graded:
        if not question.labelled:
            return Graded(self.find(text, question), "ungraded")
        if self.own is not None:
            answer = stated_answer(text)
            verdict = "no_answer" if answer is None else self.own(question, answer)
            return Graded(None if verdict == "no_answer" else answer, verdict)
        return grade(text, question.answer, self.kind, choices_of(question.text, self.kind, self.choices))

    def each(self, texts: Sequence[str], question: Question) -> list[Graded]:
        """Grade several texts of one question; `predicted` is equal where the answers are equal, so that they can be counted.

        That holds by itself for every kind but `math`, whose answers have many forms: there, equal answers have the form of
        the first of them. All correct answers are equal, but for a grader of the user's: there, equal answers are the same text.
        """
        graded = [self(text, question) for text in texts]
        return graded if self.kind != "math" else _in_one_form(texts, graded)

    def find(self, text: str, question: Question) -> str | None:
        """The normalised answer of a text, or None; with a grader of the user's, the answer as it is written."""
        if self.own is not None:
            return stated_answer(text)
        return extract(text, self.kind, choices_of(question.text, self.kind, self.choices))


def _grade_math(text: str, gold: str) -> Graded:
    return _grade_form(text, _formula(gold))


def _grade_form(text: str, gold: str) -> Graded:
    for form in _forms(text):
        predicted, verdict = _verifier().grade(form, gold)
        if verdict != "no_answer":
            return Graded(predicted, verdict)
    return Graded(None, "no_answer")


def _in_one_form(texts: Sequence[str], graded: Sequence[Graded]) -> list[Graded]:
    """Math answers with the form of the first answer that each is equal to."""
    first: list[tuple[str, Graded]] = []  # the first text of each answer
    result = []
    for text, one in zip(texts, graded, strict=True):
        if one.predicted is not None:
            known = next((other for earlier, other in first if _are_equal(earlier, other, text, one)), None)
            if known is None:
                first.append((text, one))
            one = known or one
        result.append(one)
    return result


def _are_equal(text: str, one: Graded, other_text: str, other: Graded) -> bool:
    """Whether two texts on a question have the same math answer."""
    if one.verdict != other.verdict or one.verdict == "correct":
        return one.verdict == other.verdict
    if one.predicted == other.predicted:
        return True
    for form in _forms(text):
        with suppress(DataError):  # this form has no formula
            return _grade_form(other_text, form).verdict == "correct"
    return False


def _forms(text: str) -> list[str]:
    """The texts in which to look for a formula, in order.

    The text after the last marker is first read as a formula, unless it contains words. Without a marker the whole text
    is read.
    """
    region = _marked_region(text)
    if region is None:
        return [text]
    region = region.strip().rstrip(".")
    return [region] if not region or _WORD.search(region) else [_formula(region), region]


def _marked_region(text: str) -> str | None:
    """The text after the last answer marker; None without a marker."""
    markers = list(_MARKER.finditer(text))
    return text[markers[-1].end() :] if markers else None


def _formula(text: str) -> str:
    """Plain LaTeX in dollar signs, because it would be read as prose without them; delimited LaTeX stays unchanged."""
    return text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$"


@lru_cache(maxsize=1 << 16)
def _is_math(answer: str) -> bool:
    try:
        _verifier().grade("", _formula(answer))
    except DataError:
        return False
    return True


@lru_cache(maxsize=1)
def _verifier() -> MathVerifier:
    verifier = MathVerifier()
    atexit.register(verifier.close)
    return verifier
