"""Correct answers of learners as arrays with one row for each test question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mentorkd.errors import RunError
from mentorkd.records import Prediction, Question
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs

Verdicts = Mapping[tuple[str, int], NDArray[np.int64]]
"""(learner, seed) -> [questions], 1 for a correct answer, else 0, in the order of the test questions."""


def verdicts_of(inputs: ReportInputs) -> Verdicts:
    """The verdicts of all learners and seeds with predictions.

    Raises RunError unless there is exactly one prediction for each test question.
    """
    return {
        (info.name, seed): _in_order(predictions, inputs.questions, f"{info.name} (seed {seed})")
        for info in inputs.learners
        for seed in inputs.seeds
        if (predictions := inputs.predictions.get((info.name, seed)))
    }


def _in_order(predictions: Sequence[Prediction], questions: Sequence[Question], label: str) -> NDArray[np.int64]:
    expected, answered = Counter(q.id for q in questions), Counter(p.question_id for p in predictions)
    if expected != answered:
        extra, missing = (answered - expected).total(), (expected - answered).total()
        raise RunError(
            f"predictions of {label}: {extra} too many, {missing} missing; expected one for each of the "
            f"{len(questions)} test questions; evaluate it again (--force evaluate)"
        )
    correct: dict[str, list[bool]] = {}
    for prediction in predictions:
        correct.setdefault(prediction.question_id, []).append(prediction.verdict == "correct")
    return np.array([correct[question.id].pop(0) for question in questions], dtype=np.int64)


def stacked(verdicts: Verdicts, name: str, seeds: Sequence[int]) -> NDArray[np.int64]:
    """A learner's verdicts [questions, seeds]."""
    return np.stack([verdicts[name, seed] for seed in seeds], axis=1)


def peers_of(
    names: Sequence[str], learners: Sequence[LearnerInfo], verdicts: Verdicts, seeds: Sequence[int]
) -> dict[str, NDArray[np.int64]]:
    """Verdicts [questions, seeds] of further learners of the same models, for the estimate of the scatter over seeds.

    Empty if one of `names` is untrained, since its seeds do not scatter like those of trained learners. Learners that
    share a training count once.
    """
    infos = {info.name: info for info in learners}
    if not all(infos[name].rationales for name in names):
        return {}
    models = {infos[name].model_key for name in names}
    own = {stacked(verdicts, name, seeds).tobytes() for name in names}
    peers: dict[str, NDArray[np.int64]] = {}
    for info in learners:
        if info.model_key in models and info.rationales and all((info.name, seed) in verdicts for seed in seeds):
            matrix = stacked(verdicts, info.name, seeds)
            if (key := matrix.tobytes()) not in own:
                own.add(key)
                peers[info.name] = matrix
    return peers


def rounded(value: float | None) -> float | None:
    """The value with six decimals: enough for a share, and equal on machines that differ in the last bits."""
    return None if value is None else round(float(value), 6)


def bounds(low: float, high: float) -> list[float]:
    """An interval in the form of `Results`."""
    return [round(float(low), 6), round(float(high), 6)]
