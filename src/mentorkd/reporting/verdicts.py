"""Who answered which test question rightly, as arrays that pair by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mentorkd.errors import RunError
from mentorkd.records import Prediction, Question
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs

__all__ = ["Verdicts", "bounds", "peers_of", "rounded", "stacked", "verdicts_of"]

Verdicts = Mapping[tuple[str, int], NDArray[np.int64]]
"""(learner, seed) -> 1 where it is right, 0 where not, in the order of the test questions."""


def verdicts_of(inputs: ReportInputs) -> Verdicts:
    """The verdicts; keys without predictions are left out. RunError where predictions are not one for each question."""
    return {
        (info.name, seed): _in_order(predictions, inputs.questions, f"{info.name} (seed {seed})")
        for info in inputs.learners
        for seed in inputs.seeds
        if (predictions := inputs.predictions.get((info.name, seed)))
    }


def _in_order(predictions: Sequence[Prediction], questions: Sequence[Question], who: str) -> NDArray[np.int64]:
    asked, answered = Counter(q.id for q in questions), Counter(p.question_id for p in predictions)
    if asked != answered:
        extra, missing = (answered - asked).total(), (asked - answered).total()
        raise RunError(
            f"predictions of {who}: {extra} too many, {missing} missing; expected one for each of the "
            f"{len(questions)} test questions; evaluate it again (--force evaluate)"
        )
    right: dict[str, list[bool]] = {}
    for prediction in predictions:
        right.setdefault(prediction.question_id, []).append(prediction.verdict == "correct")
    waiting = {question_id: iter(flags) for question_id, flags in right.items()}
    return np.array([next(waiting[question.id]) for question in questions], dtype=np.int64)


def stacked(verdicts: Verdicts, name: str, seeds: Sequence[int]) -> NDArray[np.int64]:
    """A learner's verdicts [questions, seeds]."""
    return np.stack([verdicts[name, seed] for seed in seeds], axis=1)


def peers_of(
    names: Sequence[str], learners: Sequence[LearnerInfo], verdicts: Verdicts, seeds: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Verdicts of further learners of the same models: they tell with these how much seeds scatter.

    None where one of `names` is not trained, since its seeds do not scatter as those of trained ones. Learners that
    share a training are one learner.
    """
    known = {info.name: info for info in learners}
    if not all(known[name].rationales for name in names):
        return []
    models = {known[name].model_key for name in names}
    found = {stacked(verdicts, name, seeds).tobytes(): None for name in names}
    peers = []
    for info in learners:
        if info.model_key in models and info.rationales and all((info.name, seed) in verdicts for seed in seeds):
            mine = stacked(verdicts, info.name, seeds)
            if mine.tobytes() not in found:
                found[mine.tobytes()] = None
                peers.append(mine)
    return peers


def rounded(value: float | None) -> float | None:
    """To six decimals: enough for any share, and equal on machines that round the last digits otherwise."""
    return None if value is None else round(float(value), 6)


def bounds(low: float, high: float) -> list[float]:
    """An interval as results have it."""
    return [round(float(low), 6), round(float(high), 6)]
