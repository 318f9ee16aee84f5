"""Results of ten questions, answered as a row of marks says."""

from __future__ import annotations

from made_up_run import STUDENT, VANILLA
from mentorkd.records import Prediction, Question
from mentorkd.reporting.build import build_results

__all__ = ["TEN", "marked", "ten"]

TEN = [Question.create(f"question {n}", "A", "test") for n in range(10)]


def marked(learner, marks, seed=1, questions=TEN):
    """Predictions from a string: + right, - wrong, 0 no answer."""
    verdict = {"+": "correct", "-": "wrong", "0": "no_answer"}
    return [
        Prediction(
            q.id,
            learner,
            seed,
            f"text {mark}",
            {"+": "A", "-": "B"}.get(mark),
            verdict[mark],
            tokens=n,
            finished=mark != "0",
        )
        for n, (q, mark) in enumerate(zip(questions, marks, strict=True))
    ]


def ten(inputs, marks, learners=(VANILLA, STUDENT), seeds=(1,), **changes):
    predictions = {(name, seed): marked(name, text, seed) for (name, seed), text in marks.items()}
    values = {"learners": learners, "seeds": seeds, "questions": TEN, "predictions": predictions, "metrics": {}}
    return build_results(inputs(size=10, **(values | changes)))
