"""The prompts of a teacher, as Jinja templates that get the question and never its gold answer, and how its replies are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.errors import TeacherError
from mentorkd.grading.grade import OwnVerdict
from mentorkd.recipe.teacher import AskedTeacherConfig, PromptKind
from mentorkd.records import AnswerKind, Question, Rationale, Verdict, content_id, normalise_whitespace

ANSWER_TRIGGER = "Therefore, the answer is"
"""Asks for the answer after a rationale; the second call of Zero-shot-CoT ends with it (Mentor-KD, section 3.1)."""

_TEMPLATES = {
    "two_stage": "Q: {{ question }}\nA: Let's think step by step.",
    "zero_shot_cot": (
        "Q: {{ question }}\n"
        "Work it out in steps, then end with a line of its own that reads: "
        f"{ANSWER_TRIGGER} X. In place of X write {{{{ answer_form }}}}.\n"
        "A: Let's think step by step."
    ),
    "few_shot": (
        "{% for shown in exemplars %}"
        f"Q: {{{{ shown.question }}}}\nA: {{{{ shown.rationale }}}}\n{ANSWER_TRIGGER} {{{{ shown.answer }}}}.\n\n"
        "{% endfor %}"
        "Q: {{ question }}\nA:"
    ),
}
"""`two_stage` is the paper's, word for word; `Prompter.second` makes its second call."""

_ANSWER_FORMS = {
    "number": "a number without its unit",
    "choice": "the letter of the right option",
    "yes_no": "yes or no",
    "text": "the answer alone",
    "math": "the answer alone, in LaTeX if it is a formula",
}

# A line from the answer marker on, with the emphasis that chat models often put around it.
_ANSWER_LINE = re.compile(
    r"^[ \t>*_#`-]*(?:(?:so|thus|hence|therefore)\b[,:]?\s*)?(?:the\s+)?(?:final\s+)?answer(?:\s+is\b|[*_`]*\s*[:=])"
    r"|^\s*####|-->",
    re.IGNORECASE | re.MULTILINE,
)
_TRIGGER = re.compile(r"\b(?:so|thus|hence|therefore),?\s+the\s+(?:final\s+)?answer\s+is\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A worked example of a few-shot prompt."""

    question: str
    rationale: str
    answer: str


@dataclass(frozen=True, slots=True)
class Solution:
    """The parts of a reply: the reasoning without its answer, and the text that holds the answer."""

    rationale: str
    answer_text: str


@dataclass(frozen=True)
class Prompter:
    """Fills the prompts of one teacher; only the kind `custom` uses `template`."""

    kind: PromptKind
    template: str | None = None
    answer_kind: AnswerKind = "text"
    exemplars: Sequence[Exemplar] = ()
    shots: int = 4
    seed: int = 42

    def __post_init__(self) -> None:
        if self.first("one question") == self.first("another question"):
            raise TeacherError("the prompt template leaves the question out; put {{ question }} where it belongs")
        if self.kind == "few_shot" and len(self.exemplars) <= self.shots:
            # One more than is shown, since a question is never shown as its own example.
            count = f"got {len(self.exemplars)} worked examples, expected more than shots = {self.shots}"
            raise TeacherError(f"{count}, since a question may be among them; lower `shots` or add examples")

    @property
    def two_stage(self) -> bool:
        return self.kind == "two_stage"

    def first(self, question: str) -> str:
        """The prompt of the first call."""
        values = {"exemplars": self._shown(question), "answer_form": _ANSWER_FORMS[self.answer_kind]}
        try:
            return self._compiled.render(question=question.strip(), **values)
        except Exception as error:  # a template is a program and can fail in any way
            reason = normalise_whitespace(str(error)) or type(error).__name__
            hint = "the variables are question, exemplars and answer_form"
            raise TeacherError(f"the prompt template cannot be filled: {reason}; {hint}") from None

    def second(self, question: str, reply: str) -> str:
        """The prompt of the second call of `two_stage`: the first, its reply, and the answer trigger."""
        gap = "" if reply[:1].isspace() else " "
        return f"{self.first(question)}{gap}{reply.rstrip()}\n{ANSWER_TRIGGER}"

    def read(self, replies: Sequence[str]) -> Solution:
        """Read the replies to the calls for a question (one, or two with `two_stage`)."""
        if self.two_stage:
            rationale, answer = replies
            return Solution(rationale.strip(), f"{ANSWER_TRIGGER} {answer.strip()}")
        # A base model continues with a question of its own; what follows is not about this one.
        return split_answer(replies[0].split("\nQ:")[0] if self.kind == "few_shot" else replies[0])

    @cached_property
    def _compiled(self) -> Template:
        sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        return sandbox.from_string(_TEMPLATES.get(self.kind, self.template or ""))

    @cached_property
    def _order(self) -> list[tuple[str, Exemplar]]:
        # By hash, so that the choice does not depend on the order of a file; the same for all questions, so that the
        # prompts share their beginning, which many endpoints charge less for.
        rows = [(normalise_whitespace(shown.question), shown) for shown in self.exemplars]
        return sorted(rows, key=lambda row: content_id(str(self.seed), row[0], row[1].rationale))

    def _shown(self, question: str) -> list[Exemplar]:
        own = normalise_whitespace(question)
        shown: dict[str, Exemplar] = {}
        for text, exemplar in self._order:
            if text != own and len(shown) < self.shots:
                shown.setdefault(text, exemplar)
        return list(shown.values())


def split_answer(reply: str) -> Solution:
    """Split a reply at its last answer marker; without one, the whole reply is both reasoning and answer text."""
    marks = [mark for pattern in (_ANSWER_LINE, _TRIGGER) for mark in pattern.finditer(reply)]
    if not marks:
        return Solution(reply.strip(), reply.strip())
    at = max(marks, key=lambda mark: (mark.end(), -mark.start())).start()
    return Solution(reply[:at].strip(), reply[at:].strip(" \t\r\n>*_`"))


def exemplars_from(questions: Iterable[Question], rationales: Sequence[Rationale]) -> list[Exemplar]:
    """Worked examples of the training set: the first correct rationale of each question that has one."""
    first = _first_of(rationales, "correct")
    return [Exemplar(q.text, first[q.id], q.answer) for q in questions if q.id in first and q.split == "train"]


def read_exemplars(
    path: Path, kind: AnswerKind, choices: Sequence[str] | None = None, own: OwnVerdict | None = None
) -> list[Exemplar]:
    """Read worked examples from a file of rationales, in any of the shapes that `mentorkd.data.readers` knows.

    Takes the first correct rationale of each question. Without one it takes the first rationale without a readable answer,
    since examples written by hand need not end in one. A rationale that is wrong, or marked as wrong, is never shown.
    """
    questions = read_questions(path, split="train", kind=kind, choices=choices)
    rationales = read_rationales(path, questions, kind=kind, choices=choices, own=own)
    shown = _first_of(rationales, "no_answer") | _first_of(rationales, "correct")
    unique = {question.id: question for question in questions}
    return [Exemplar(question.text, shown[key], question.answer) for key, question in unique.items() if key in shown]


def _first_of(rationales: Sequence[Rationale], verdict: Verdict) -> dict[str, str]:
    """The first text with a verdict for each question that has one, by question id."""
    return {each.question_id: each.text for each in reversed(rationales) if each.verdict == verdict and each.text}


def open_prompter(
    teacher: AskedTeacherConfig,
    *,
    answer_kind: AnswerKind,
    root: Path,
    choices: Sequence[str] | None = None,
    own: OwnVerdict | None = None,
    training: Callable[[], Sequence[Exemplar]] = tuple,
) -> Prompter:
    """The prompter of a recipe's teacher. Paths start from `root`; `exemplars: train` takes the exemplars of `training`."""
    exemplars: Sequence[Exemplar] = ()
    if teacher.exemplars is not None:
        of_training = teacher.exemplars == "train"
        exemplars = training() if of_training else read_exemplars(root / teacher.exemplars, answer_kind, choices, own)
    template = None if teacher.template is None else read_template(teacher.template, root)
    return Prompter(teacher.prompt, template, answer_kind, exemplars, teacher.shots, teacher.seed)


def read_template(value: str, root: Path) -> str:
    """The text of a recipe's `template`: the value itself, or the content of the file that `file:PATH` names under `root`."""
    if not value.startswith("file:"):
        return value
    path = root / value.removeprefix("file:").strip()
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TeacherError(f"{path}: the prompt template cannot be read ({error.strerror}); check `template`") from None
