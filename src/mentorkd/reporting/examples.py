"""The questions worth reading: where learners differ, and what teacher and mentors wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.records import Prediction, Question
from mentorkd.reporting.inputs import ReportInputs
from mentorkd.reporting.schema_details import Example, ExampleAnswer, Examples

__all__ = ["MOST_DIFFERING", "MOST_WRITTEN", "differing_examples", "first_wrong_step", "written_examples"]

MOST_DIFFERING = 20
MOST_WRITTEN = 10

SENTENCE = re.compile(r"[^\s].*?(?:[.!?](?=\s)|(?=\n)|$)", re.MULTILINE)


def differing_examples(inputs: ReportInputs, learners: Sequence[str]) -> Examples:
    """Test questions that some of `learners` answer rightly and others do not, at the first seed all of them have, or,
    where there is none, at the first of each.

    Which learners are right makes a question's kind; kinds take turns, and within a kind the order is that of the
    content ids, so nobody picks. A lone learner has nothing to differ from: its wrong answers are shown.
    """
    have = {name: [seed for seed in inputs.seeds if inputs.predictions.get((name, seed))] for name in learners}
    if not all(have.values()) or not learners:
        return {"title": "Example answers", "note": "There are no predictions to show.", "total": 0, "entries": []}
    shared = [seed for seed in inputs.seeds if all(seed in seeds for seeds in have.values())]
    at = {name: (shared or seeds)[0] for name, seeds in have.items()}
    answers = {name: {p.question_id: p for p in inputs.predictions[name, seed]} for name, seed in at.items()}
    kinds: dict[tuple[bool, ...], list[Question]] = {}
    for question in sorted(_unique(inputs.questions), key=lambda question: question.id):
        right = tuple(answers[name][question.id].verdict == "correct" for name in learners)
        if (len(learners) > 1 and len(set(right)) > 1) or right == (False,):
            kinds.setdefault(right, []).append(question)
    total = sum(map(len, kinds.values()))
    turns = [
        question for turn in zip_longest(*(kinds[kind] for kind in sorted(kinds))) for question in turn if question
    ]
    shown = turns[:MOST_DIFFERING]
    lone = len(learners) == 1
    subject = f"{learners[0]} is not right" if lone else f"{_list(learners)} are not all right or all wrong"
    choice = "taken in turn from each combination of right and wrong" if len(kinds) > 1 else "chosen by content id"
    return {
        "title": f"Where {learners[0]} fails" if lone else "Where learners differ",
        "note": f"On {total} of {len(inputs.questions)} test questions {subject} ({_seeds(at)}). "
        + (f"Shown: {len(shown)}, {choice}." if total else ""),
        "total": total,
        "entries": [
            _example(question, [_predicted(answers[name][question.id]) for name in learners]) for question in shown
        ],
    }


def written_examples(inputs: ReportInputs) -> Examples:
    """Training questions with the rationales that teacher and mentors wrote about them, right and wrong."""
    shown = inputs.rationales[:MOST_WRITTEN]
    total = max(inputs.written, len(inputs.rationales))
    return {
        "title": "What teacher and mentors wrote",
        "note": f"{len(shown)} of {total} training questions, with rationales as they were written, before any filter."
        if total
        else "There are no rationales to show.",
        "total": total,
        "entries": [
            _example(
                question,
                [
                    {
                        "source": r.source,
                        "verdict": r.verdict,
                        "predicted": r.predicted,
                        "text": r.text,
                        "wrong_step": first_wrong_step(r.text),
                    }
                    for r in rationales
                ],
            )
            for question, rationales in shown
        ],
    }


def _predicted(prediction: Prediction) -> ExampleAnswer:
    return {
        "source": prediction.learner,
        "verdict": prediction.verdict,
        "predicted": prediction.predicted,
        "text": prediction.text,
        "wrong_step": first_wrong_step(prediction.text),
    }


def first_wrong_step(text: str) -> list[int] | None:
    """Where the first sentence begins and ends that states a false equation, by itself and in the whole text."""
    if not check_arithmetic(text).wrong:
        return None
    sentences = (match for match in SENTENCE.finditer(text) if match.group().strip())
    return next(([found.start(), found.end()] for found in sentences if check_arithmetic(found.group()).wrong), None)


def _example(question: Question, answers: list[ExampleAnswer]) -> Example:
    return {"question_id": question.id, "question": question.text, "answer": question.answer, "answers": answers}


def _unique(questions: Iterable[Question]) -> list[Question]:
    return list({question.id: question for question in questions}.values())


def _seeds(at: Mapping[str, int]) -> str:
    """`seed 1`, or each learner's where they differ."""
    if len(set(at.values())) == 1:
        return f"seed {next(iter(at.values()))}"
    return ", ".join(f"{name} with seed {seed}" for name, seed in at.items())


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
