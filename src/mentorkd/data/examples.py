"""Training examples as text: what each objective makes of a rationale."""

from __future__ import annotations

from typing import NamedTuple

from mentorkd.data.prompts import render_prompt, render_target
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.objectives import OBJECTIVES, Task, task_prompt
from mentorkd.records import GOLD, Question, Rationale


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


def text_examples(rationale: Rationale, question: Question, learner: Learner) -> list[TextExample]:
    """The examples that the learner's objective makes of a rationale; a bare answer always gives one (prompt -> answer)."""
    if rationale.source == GOLD:
        prompt = render_prompt(question.text, learner.eval_prompt)
        return [TextExample(rationale.id, prompt, question.answer, task=OBJECTIVES[learner.objective].answer_task)]
    prompt = render_prompt(question.text, learner.prompt)
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
