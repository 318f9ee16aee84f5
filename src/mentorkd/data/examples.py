"""Training examples as text: what each objective makes of a rationale."""

from __future__ import annotations

from typing import NamedTuple

from mentorkd.data.prompts import render_prompt, render_target
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.objectives import OBJECTIVES, Task, task_prompt
from mentorkd.records import GOLD, SELF, Question, Rationale


class TextExample(NamedTuple):
    """One training example as text."""

    rationale_id: str
    prompt: str
    target: str
    group: str | None = None
    """Examples of one group share a micro-batch in pairs: those of a question in MCC-KD, those of a rationale in Step-by-Step."""
    task: Task | None = None
    answer: tuple[int, int] | None = None
    """Characters of the answer in `target`: the first, and the one after the last."""
    source: str | None = None
    """Who wrote the text, by its name among the learner's `rationales`."""
    ended: bool = True
    """Whether an end token follows `target`."""


def text_examples(rationale: Rationale, question: Question, learner: Learner, source: str) -> list[TextExample]:
    """The examples that the learner's objective makes of a rationale of `source`, by its name among the learner's `rationales`.

    A bare answer always gives one (prompt -> answer), and so does an own text that is imitated (prompt -> what the learner wrote,
    `meta["completion"]`, with an end token if `meta["finished"]`).
    """
    return [example._replace(source=source) for example in _examples(rationale, question, learner, source)]


def _examples(rationale: Rationale, question: Question, learner: Learner, source: str) -> list[TextExample]:
    if source == GOLD:
        prompt = render_prompt(question.text, learner.eval_prompt)
        return [TextExample(rationale.id, prompt, question.answer, task=OBJECTIVES[learner.objective].answer_task)]
    prompt = render_prompt(question.text, learner.prompt)
    if source == SELF and learner.imitates_own_texts:
        return [TextExample(rationale.id, prompt, rationale.meta["completion"], ended=rationale.meta["finished"])]
    match learner.objective:
        case "rationale":
            return [TextExample(rationale.id, prompt, render_target(rationale.text, question.answer, learner.target))]
        case "step_by_step":
            targets: dict[Task, str] = {"predict": question.answer, "explain": rationale.text}
            return [
                TextExample(rationale.id, task_prompt(task, prompt), target, group=rationale.id, task=task)
                for task, target in targets.items()
            ]
        case "mcc":
            target, answer = render_target(rationale.text, question.answer, learner.target), question.answer.strip()
            start = target.rindex(answer)  # the answer is last in both target forms
            return [TextExample(rationale.id, prompt, target, group=question.id, answer=(start, start + len(answer)))]
