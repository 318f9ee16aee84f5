"""A recorded teacher for the generated problems: worked rationales in several phrasings, some of them wrong.

It represents an LLM with a limited budget: it annotated only a part of the training questions, several times each, and
makes typical errors. Most errors lead to a wrong answer, so the answer filter finds them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from mentorkd.quickstart.problems import Problem


@dataclass(frozen=True)
class Phrasing:
    """The sentences of a solution. Slots: {a} the total before a step, {n} the size of the step, {b} the total after the
    step, {T} the counted things."""

    opening: str
    gain: str
    loss: str
    closing: str


PHRASINGS = (
    Phrasing("We start with {a} {T}.", "{a} + {n} = {b}.", "{a} - {n} = {b}.", closing=""),
    Phrasing("First there are {a}.", "Then {a} + {n} = {b}.", "Then {a} - {n} = {b}.", closing=""),
    Phrasing("We begin at {a}.", "{a} + {n} = {b}.", "{a} - {n} = {b}.", closing="That is {b} {T}."),
    Phrasing(
        "The count is {a}.",
        "Adding {n} to {a} gives {b}.",
        "Taking {n} from {a} gives {b}.",
        closing="So {b} {T} remain.",
    ),
)

WRONG_SHARE = 0.22
"""Share of rationales with an error that changes the answer."""
LUCKY_SHARE = 0.008
"""Share of rationales with a wrong step and a correct completion, because a second call asks for the answer."""
SILENT_SHARE = 0.01
"""Share of rationales without an answer."""


@dataclass(frozen=True)
class TeacherRow:
    """A recorded annotation: the question, the teacher's rationale, the teacher's answer (completion), the gold answer."""

    question: str
    rationale: str
    completion: str
    answer: str


def annotate(problems: Sequence[Problem], *, samples: int, seed: int) -> list[TeacherRow]:
    """`samples` rationales for each problem, in order; equal seeds give equal rationales."""
    rng = random.Random(f"teacher {seed}")
    return [_sample(rng, problem) for problem in problems for _ in range(samples)]


def _sample(rng: random.Random, problem: Problem) -> TeacherRow:
    phrasing = rng.choice(PHRASINGS)
    fate = rng.choices(
        ("right", "wrong", "lucky", "silent"),
        weights=(1 - WRONG_SHARE - LUCKY_SHARE - SILENT_SHARE, WRONG_SHARE, LUCKY_SHARE, SILENT_SHARE),
    )[0]
    errs = fate in ("wrong", "lucky")
    moves, totals = _err(rng, problem) if errs else (list(problem.steps), list(problem.totals))
    rationale = _write(phrasing, problem.things, moves, totals)
    completion = {"lucky": str(problem.answer), "silent": "I am not sure."}.get(fate, str(totals[-1]))
    return TeacherRow(problem.question, rationale, completion, str(problem.answer))


def _err(rng: random.Random, problem: Problem) -> tuple[list[int], list[int]]:
    """Steps and totals with one error that changes the answer and makes no total negative."""
    while True:
        moves = list(problem.steps)
        place = rng.randrange(len(moves))
        slip = 0
        kind = rng.choices(("slip", "aside", "missed", "sign"), weights=(45, 25, 20, 10))[0]
        if kind == "slip":
            slip = rng.choice((-10, -2, -1, 1, 2, 10))
        elif kind == "aside" and problem.asides:
            moves.insert(place, rng.choice((1, -1)) * rng.choice(problem.asides))
        elif kind == "missed":
            del moves[place]
        elif kind == "sign":
            moves[place] = -moves[place]
        changes = [move + (slip if index == place else 0) for index, move in enumerate(moves)]
        totals = list(accumulate(changes, initial=problem.start))
        if totals[-1] != problem.answer and min(totals) >= 0:
            return moves, totals


def _write(phrasing: Phrasing, things: str, moves: Sequence[int], totals: Sequence[int]) -> str:
    parts = [phrasing.opening.format(a=totals[0], T=things)]
    for before, move, after in zip(totals, moves, totals[1:], strict=False):
        parts.append((phrasing.gain if move > 0 else phrasing.loss).format(a=before, n=abs(move), b=after))
    parts.append(phrasing.closing.format(b=totals[-1], T=things))
    return " ".join(part for part in parts if part)
