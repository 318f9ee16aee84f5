"""Weights of questions in the loss: `weight: frontier` of a source (PACED, arXiv 2603.11178).

A question weighs p (1 - p), where p is the learner's pass rate on it: most where the learner is right about half of the time, and
little where it has nothing to learn or cannot learn yet. A floor keeps every question in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mentorkd.records import Rationale

FLOOR = 0.05
"""Smallest weight of a question, where the largest is 0.25."""


@dataclass(frozen=True, slots=True)
class FrontierWeights:
    """The weight of each question, before it is scaled to a mean of 1 over rows, and what the floor did."""

    by_question: dict[str, float]
    at_floor: int
    """Questions whose p (1 - p) is below the floor."""


def frontier_weights(own: Iterable[Rationale], floor: float = FLOOR) -> FrontierWeights:
    """max(floor, p (1 - p)) of every question that the learner's own texts answer; p is the share of correct ones among them.

    Ungraded texts, whose question has no gold answer, give no weight.
    """
    correct: defaultdict[str, list[bool]] = defaultdict(list)
    for rationale in own:
        if rationale.verdict != "ungraded":
            correct[rationale.question_id].append(rationale.verdict == "correct")
    rates = {question: sum(each) / len(each) for question, each in correct.items()}
    uncertainty = {question: rate * (1 - rate) for question, rate in rates.items()}
    weights = {question: max(floor, value) for question, value in uncertainty.items()}
    return FrontierWeights(weights, sum(value < floor for value in uncertainty.values()))
