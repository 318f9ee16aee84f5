"""Example texts: test questions on which learners differ, and rationales of the teacher and the mentors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.records import Prediction, Question, Rationale
from mentorkd.reporting.inputs import ReportInputs
from mentorkd.reporting.schema import Example, ExampleAnswer, Examples

MOST_DIFFERING = 20
MOST_WRITTEN = 10

SENTENCE = re.compile(r"[^\s].*?(?:[.!?](?=\s)|(?=\n)|$)", re.MULTILINE)


def differing_examples(inputs: ReportInputs, learners: Sequence[str]) -> Examples:
    """Test questions that only some of `learners` answer correctly.

    The seed is the first that all of them share; without a shared seed, the first of each. The set of learners with a correct
    answer is the kind of a question. Kinds alternate, and the order within a kind is that of the content ids, so the choice
    involves no judgement. For a single learner the questions without a correct answer are shown.
    """
    seeds = {name: [seed for seed in inputs.seeds if inputs.predictions.get((name, seed))] for name in learners}
    if not all(seeds.values()) or not learners:
        return {"title": "Example answers", "note": "There are no predictions to show.", "total": 0, "entries": []}
    shared = [seed for seed in inputs.seeds if all(seed in own for own in seeds.values())]
    at = {name: (shared or own)[0] for name, own in seeds.items()}
    answers = {name: {p.question_id: p for p in inputs.predictions[name, seed]} for name, seed in at.items()}
    kinds: dict[tuple[bool, ...], list[Question]] = {}
    for _, question in sorted({question.id: question for question in inputs.questions}.items()):
        correct = tuple(answers[name][question.id].verdict == "correct" for name in learners)
        if (len(learners) > 1 and len(set(correct)) > 1) or correct == (False,):
            kinds.setdefault(correct, []).append(question)
    total = sum(map(len, kinds.values()))
    turns = [
        question for turn in zip_longest(*(kinds[kind] for kind in sorted(kinds))) for question in turn if question
    ]
    untold = [name for name, seed in at.items() if (name, seed) in inputs.textless]
    shown = [] if untold else turns[:MOST_DIFFERING]
    single = len(learners) == 1
    subject = (
        f"{learners[0]} is wrong"
        if single
        else f"some but not all of {', '.join(learners[:-1])} and {learners[-1]} are correct"
    )
    choice = "alternating between the combinations of correct and wrong" if len(kinds) > 1 else "chosen by content id"
    return {
        "title": f"Where {learners[0]} fails" if single else "Where learners differ",
        "note": f"On {total} of {len(inputs.questions)} test questions {subject} ({_seeds(at)}). "
        + (f"The texts of {', '.join(untold)} are not in the compared folders." if untold else "")
        + (f"Shown: {len(shown)}, {choice}." if shown else ""),
        "total": total,
        "entries": [
            _example(question, [_answer(name, answers[name][question.id]) for name in learners]) for question in shown
        ],
    }


def written_examples(inputs: ReportInputs) -> Examples:
    """Training questions with the rationales of the teacher and the mentors, correct and wrong."""
    shown = inputs.rationales[:MOST_WRITTEN]
    total = max(inputs.written, len(inputs.rationales))
    return {
        "title": "Rationales of teacher and mentors",
        "note": f"{len(shown)} of {total} training questions, with unfiltered rationales."
        if total
        else "There are no rationales to show.",
        "total": total,
        "entries": [
            _example(question, [_answer(rationale.source, rationale) for rationale in rationales])
            for question, rationales in shown
        ],
    }


def _answer(source: str, record: Prediction | Rationale) -> ExampleAnswer:
    return {
        "source": source,
        "verdict": record.verdict,
        "predicted": record.predicted,
        "text": record.text,
        "wrong_step": first_wrong_step(record.text),
    }


def first_wrong_step(text: str) -> list[int] | None:
    """Start and end of the first sentence with a false equation; None unless the whole text has one, too."""
    if not check_arithmetic(text).wrong:
        return None
    sentences = (match for match in SENTENCE.finditer(text) if match.group().strip())
    return next(([match.start(), match.end()] for match in sentences if check_arithmetic(match.group()).wrong), None)


def _example(question: Question, answers: list[ExampleAnswer]) -> Example:
    return {"question_id": question.id, "question": question.text, "answer": question.answer, "answers": answers}


def _seeds(at: Mapping[str, int]) -> str:
    """`seed 1`, or the seed of each learner where seeds differ."""
    if len(set(at.values())) == 1:
        return f"seed {next(iter(at.values()))}"
    return ", ".join(f"{name} with seed {seed}" for name, seed in at.items())
