"""The learners' answers to the test questions: who is correct where, and one question with all texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mentorkd.pipeline.opened import OpenedRun
from mentorkd.records import Question
from mentorkd.reporting.examples import first_wrong_step
from mentorkd.web.answers import Answers, read_answers
from mentorkd.web.respond import read_page, respond
from mentorkd.web.runs import run_of

_PAGE = 100

_SHOWS = {"all": "all", "differ": "they differ", "none": "nobody correct", "every": "everybody correct"}
"""Choices of questions by who is correct; `alone:LEARNER` is one more for each learner."""


def show_predictions(request: Request) -> Response:
    """The page of all questions, or of one (`question`).

    `seed` is one seed, else all count; `learner` (repeated) the learners that are compared; `show` who is correct; `q` words of the
    question or its answer; `page` counts from 1.
    """
    address, root = run_of(request)
    run = OpenedRun(root)
    answers, query = read_answers(run), request.query_params
    seed = _seed(query.get("seed", ""), answers.seeds)
    learners = [name for name in answers.learners if name in query.getlist("learner")] or answers.learners
    show, words = query.get("show", "all"), query.get("q", "")
    chosen = [question for question in choose(answers, show, learners, seed) if _has(question, words)]
    shared: dict[str, Any] = {
        "page": "predictions",
        "colour": {name: f"c{number % 8}" for number, name in enumerate(run.recipe.learners)},
        "learners": learners,
        "seed": seed,
    }
    if (wanted := query.get("question")) is not None:
        return _show_question(request, address, answers, chosen, wanted, shared)
    pages = max(1, -(-len(chosen) // _PAGE))
    number = read_page(request, pages)
    rows = [_row(answers, question, learners, seed) for question in chosen[(number - 1) * _PAGE : number * _PAGE]]
    return respond(
        request,
        "predictions.html.jinja",
        {"run": address, "total": len(chosen), "rows": rows},
        **shared,
        answers=answers,
        summary=[_summary(answers, name, learners) for name in answers.learners],
        shows=_SHOWS | {f"alone:{name}": f"only {name} correct" for name in learners},
        show=show,
        q=words,
        number=number,
        pages=pages,
    )


def _show_question(
    request: Request, address: str, answers: Answers, chosen: Sequence[Question], wanted: str, shared: dict[str, Any]
) -> Response:
    """The texts of all learners for one question, between its neighbours among the chosen questions."""
    question = next((question for question in answers.questions if question.id == wanted), None)
    if question is None:
        raise HTTPException(404, f"got the question {wanted!r}, which is not among the test questions")
    ids = [each.id for each in chosen]
    place = ids.index(wanted) if wanted in ids else None
    rows = [
        {
            "learner": learner,
            "seed": seed,
            "verdict": answer.verdict,
            "predicted": answer.predicted,
            "text": answer.text,
            "tokens": answer.tokens,
            "finished": answer.finished,
            "wrong_step": first_wrong_step(answer.text),
        }
        for learner in shared["learners"]
        for seed, answer in answers.of(learner, wanted, shared["seed"]).items()
    ]
    value = {"run": address, "question": question.text, "answer": question.answer, "rows": rows}
    neighbours: dict[str, Any] = {
        "before": ids[place - 1] if place else None,
        "after": ids[place + 1] if place is not None and place + 1 < len(ids) else None,
        "place": None if place is None else place + 1,
        "total": len(ids),
    }
    return respond(request, "prediction.html.jinja", value, **shared, **neighbours)


def choose(answers: Answers, show: str, learners: Sequence[str], seed: int | None) -> list[Question]:
    """The questions by who is correct. Raises HTTPException for an unknown choice."""
    if show == "all":
        return list(answers.questions)
    shows = [*_SHOWS, *(f"alone:{name}" for name in learners)]
    if show not in shows:
        raise HTTPException(400, f"got show={show}; expected one of {', '.join(shows)}")

    correct = {name: answers.correct_of(name, seed) for name in learners}
    some, all_of_them = set[str]().union(*correct.values()), set(answers.ids).intersection(*correct.values())
    if show.startswith("alone:"):
        alone = show.removeprefix("alone:")
        chosen = correct[alone] - set[str]().union(*(ids for name, ids in correct.items() if name != alone))
    else:
        chosen = {"differ": some - all_of_them, "none": set(answers.ids) - some, "every": all_of_them}[show]
    return [question for question in answers.questions if question.id in chosen]


def _row(answers: Answers, question: Question, learners: Sequence[str], seed: int | None) -> dict[str, Any]:
    """A row with two values for each learner and seed: the verdict and the answer."""
    row: dict[str, Any] = {"question_id": question.id, "question": question.text, "answer": question.answer}
    for learner in learners:
        for each, answer in answers.of(learner, question.id, seed).items():
            row[f"{learner}@{each}"] = answer.verdict
            row[f"{learner}@{each} answer"] = answer.predicted
    return row


def _summary(answers: Answers, learner: str, learners: Sequence[str]) -> dict[str, Any]:
    """The accuracy of a learner by seed, and on how many questions it alone is correct among those that are compared."""
    seeds = {}
    for seed in answers.seeds:
        if not (rows := answers.predictions.get((learner, seed))):
            continue
        correct = answers.correct[learner, seed]
        others = [name for name in learners if name != learner and (name, seed) in answers.correct]
        alone = correct - set[str]().union(*(answers.correct[name, seed] for name in others))
        known = learner in learners and others
        seeds[seed] = {"accuracy": len(correct) / len(rows), "alone": len(alone) if known else None}
    return {"learner": learner, "seeds": seeds}


def _has(question: Question, words: str) -> bool:
    text = f"{question.text} {question.answer}".lower()
    return all(word in text for word in words.lower().split())


def _seed(text: str, seeds: Sequence[int]) -> int | None:
    if text in ("", "all"):
        return None
    if text not in map(str, seeds):
        raise HTTPException(400, f"got seed={text}; expected one of {', '.join(map(str, seeds))}, or all")
    return int(text)


ROUTES = [Route("/run/{run:path}/predictions", show_predictions)]
