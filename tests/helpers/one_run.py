"""The results of a run of two learners, as far as they are joined with those of other runs."""

from __future__ import annotations

from typing import Any


def one_run(difference: float, outcome: str = "unclear", *, turned: bool = False) -> dict[str, Any]:
    """`turned`: the run compares vanilla with the student, and has no headline."""
    a, b = ("vanilla", "student") if turned else ("student", "vanilla")
    row = {
        "a": a,
        "b": b,
        "difference": difference,
        "outcome": outcome,
        "headline": not turned,
        "interval": [-0.2, 0.2],
    }
    right = {"student": 5 + round(10 * abs(difference)), "vanilla": 5}
    learners = [
        {
            "name": name,
            "accuracy": count / 10,
            "per_seed": [{"seed": 1, "correct": count, "questions": 10, "accuracy": count / 10}],
        }
        for name, count in right.items()
    ]
    return {"comparisons": [row], "learners": learners}
