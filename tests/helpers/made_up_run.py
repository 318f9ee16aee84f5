"""A made-up run of the shape a real one has: mentor, vanilla and student on a generated task."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from mentorkd.records import Prediction, Question, Rationale
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost
from mentorkd.reporting.schema import TaskResult

__all__ = [
    "ACCURACY",
    "ARMS",
    "BALLS",
    "LABELS",
    "LARGE",
    "MENTOR",
    "NAMES",
    "SETTINGS",
    "SMALL",
    "STUDENT",
    "TEXT",
    "UNTRAINED",
    "VANILLA",
    "curve",
    "make_inputs",
    "predict",
    "puzzle",
    "solution",
]

NAMES = ("Alice", "Bob", "Claire")
BALLS = ("red ball", "blue ball", "black ball")
SMALL, LARGE = "google/flan-t5-small", "google/flan-t5-large"

SETTINGS = {
    "epochs": 20,
    "learning_rate": 3e-4,
    "tokens_per_batch": None,
    "precision": "float32",
    "prompt": "{question}",
}

MENTOR = LearnerInfo(
    name="mentor",
    model=LARGE,
    model_key=LARGE,
    rationales=["teacher"],
    parameters=783_150_080,
    rows=[464] * 3,
    updates=[1160] * 3,
    target_tokens=[1_225_000] * 3,
    epochs=[20.0] * 3,
    validation=[0.88, 0.9, 0.87],
    settings=SETTINGS,
)
VANILLA = LearnerInfo(
    name="vanilla",
    model=SMALL,
    model_key=SMALL,
    rationales=["teacher"],
    parameters=76_961_152,
    rows=[464] * 3,
    updates=[3780] * 3,
    target_tokens=[3_980_000] * 3,
    epochs=[65.2] * 3,
    validation=[0.63, 0.65, 0.6],
    settings=SETTINGS,
)
STUDENT = LearnerInfo(
    name="student",
    model=SMALL,
    model_key=SMALL,
    rationales=["teacher", "mentor"],
    mentor_weights={"mentor": 1.0},
    kd_weight=0.3,
    temperature=2.0,
    parameters=76_961_152,
    rows=[1512, 1520, 1510],
    updates=[3780] * 3,
    target_tokens=[3_990_000] * 3,
    epochs=[20.0, 19.9, 20.0],
    validation=[0.79, 0.77, 0.8],
    settings=SETTINGS,
    distillation={"tau_squared": True, "divergence": "forward_kl"},
)
ACCURACY = {"mentor": 0.9, "vanilla": 0.66, "student": 0.8, "text": 0.74, "labels": 0.68, "untrained": 0.1}

UNTRAINED = LearnerInfo(
    name="untrained",
    model=SMALL,
    model_key=SMALL,
    rationales=[],
    parameters=76_961_152,
    settings={"prompt": "{question}"},
)
TEXT = replace(STUDENT, name="text", mentor_weights={}, kd_weight=None, temperature=None, distillation={})
LABELS = replace(STUDENT, name="labels", rationales=["teacher"])
ARMS = (MENTOR, UNTRAINED, VANILLA, TEXT, LABELS, STUDENT)
"""The arms of a decomposition, and a model as it is."""


def puzzle(number: int, split: str) -> tuple[Question, list[str]]:
    """A question about swapped balls and the steps of its solution."""
    rng = random.Random(f"{split}{number}")
    held = dict(zip(NAMES, BALLS, strict=True))
    told, steps = [], []
    for _ in range(3):
        a, b = rng.sample(NAMES, 2)
        held[a], held[b] = held[b], held[a]
        told.append(f"{a} and {b} swap balls.")
        steps.append(f"{a} and {b} swap: {a} has the {held[a]}, {b} has the {held[b]}.")
    who = rng.choice(NAMES)
    text = (
        f"Alice, Bob and Claire each hold a ball: Alice a red ball, Bob a blue ball and Claire a black ball. "
        f"{' '.join(told)} (puzzle {number}) At the end, {who} has the: (A) red ball, (B) blue ball, (C) black ball."
    )
    return Question.create(text, "ABC"[BALLS.index(held[who])], split), steps


def solution(number: int, split: str, verdict: str, rng: random.Random) -> tuple[Question, str, str | None]:
    """A solution with the given verdict: (question, text, predicted)."""
    question, steps = puzzle(number, split)
    if verdict == "no_answer":
        return question, " ".join(steps[:2]) + " So they swap and", None
    letter = question.answer if verdict == "correct" else rng.choice([x for x in "ABC" if x != question.answer])
    ball = BALLS["ABC".index(letter)]
    return question, f"{' '.join(steps)} So the answer is the {ball}. --> ({letter})", letter


def predict(learner: str, seed: int, questions: int, accuracy: float) -> list[Prediction]:
    predictions = []
    for number in range(questions):
        rng = random.Random(f"{learner}{seed}{number}")
        hard = random.Random(number).random() * 0.3 - 0.15
        draw = rng.random()
        verdict = "correct" if draw < accuracy + hard else "no_answer" if draw > 0.97 else "wrong"
        question, text, predicted = solution(number, "test", verdict, rng)
        predictions.append(
            Prediction(
                question.id,
                learner,
                seed,
                text,
                predicted,
                verdict,
                tokens=len(text) // 4,
                finished=predicted is not None,
            )
        )
    return predictions


def curve(learner: str, seed: int, epochs: int = 20) -> list[dict[str, Any]]:
    rng = random.Random(f"curve{learner}{seed}")
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for quarter in range(4):
            done = epoch - 1 + (quarter + 1) / 4
            loss = 0.12 + 1.9 * 0.8**done + rng.uniform(-0.03, 0.03)
            divergence = 0.5 * loss if learner == "student" else None
            rows.append({"step": round(done * 100), "epoch": done, "loss": loss, "ce": loss, "divergence": divergence})
        rows[-1]["validation_accuracy"] = ACCURACY.get(learner, 0.5) * (1 - 0.75**epoch) + rng.uniform(-0.03, 0.03)
    return rows


def make_inputs(
    learners: tuple[LearnerInfo, ...] = (MENTOR, VANILLA, STUDENT),
    seeds: tuple[int, ...] = (42, 43, 44),
    size: int = 225,
    **changes: Any,
) -> ReportInputs:
    rng = random.Random(0)
    written = []
    for number in range(14):
        verdicts = [("teacher", "correct"), ("teacher", "correct"), ("mentor", "correct"), ("mentor", "wrong")]
        rationales = []
        for sample, (source, verdict) in enumerate(verdicts):
            question, text, predicted = solution(number, "train", verdict, rng)
            rationales.append(Rationale.create(question.id, text, predicted, verdict, source, sample))
        written.append((question, rationales))
    filters = [
        {"source": "teacher", "seed": None, "filter": "correct", "before": 1536, "after": 1536},
        {"source": "teacher", "seed": None, "filter": "deduplicate", "before": 1536, "after": 1534},
    ]
    for seed in seeds:
        filters += [
            {"source": "mentor", "seed": seed, "filter": "correct", "before": 1575, "after": 1392 + seed},
            {"source": "mentor", "seed": seed, "filter": "deduplicate", "before": 1392 + seed, "after": 1300 + seed},
        ]
    stages = {
        "annotate": StageCost(kind="annotate", seconds=12.0, cpu_seconds=11.0, peak_memory_mb=530.0),
        **{
            f"{info.name}/{seed}/{kind}": StageCost(
                kind=kind,
                learner=info.name,
                seed=seed,
                needs=[f"{info.name}/{seed}/train"]
                if kind == "evaluate"
                else ["annotate", *(f"{mentor}/{seed}/train" for mentor in info.mentor_weights)],
                seconds=431.5 * (n + 1),
                cpu_seconds=800.0 * (n + 1),
                tokens=81_234 * (n + 1),
                peak_memory_mb=1830.5,
            )
            for n, kind in enumerate(("train", "evaluate"))
            for info in learners
            for seed in seeds
            if info.rationales or kind == "evaluate"
        },
    }
    values: dict[str, Any] = {
        "name": "shuffled",
        "task": TaskResult(name="tracking_shuffled_objects", kind="choice", train=473, validation=52, test=size),
        "seeds": seeds,
        "learners": learners,
        "questions": [puzzle(number, "test")[0] for number in range(size)],
        "predictions": {
            (info.name, seed): predict(info.name, seed, size, ACCURACY.get(info.name, 0.7))
            for info in learners
            for seed in seeds
        },
        "metrics": {
            (info.name, seed): curve(info.name, seed) for info in learners for seed in seeds if info.rationales
        },
        "filters": filters,
        "dropped": [
            {"learner": "student", "seed": seed, "reason": "target over 128 tokens", "rows": 3} for seed in seeds
        ],
        "rationales": written,
        "soft_labels": [
            {"learner": info.name, "seed": seed, "mentor": mentor, "rationales": 64, "tokens": 8400}
            | {
                "mentor_nll": 0.21,
                "student_nll": 0.34,
                "mentor_entropy": 0.25,
                "student_entropy": 0.36,
                "agreement": 0.93,
            }
            for info in learners
            for mentor in info.mentor_weights
            for seed in seeds
        ],
        "stages": stages,
        "serving": {
            (info.name, seed): [
                name for name, stage in stages.items() if (stage.learner, stage.seed) == (info.name, seed)
            ]
            for info in learners
            for seed in seeds
        },
        "faults": ["1 question is in train and test: dropped from train (row 17 of test.json)"],
        "protocol": ["Every learner of a seed starts from the same weights and sees the same validation questions."],
        "manifest": {
            "command": "mentorkd run recipes/shuffled.yaml",
            "versions": {"mentorkd": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"},
            "host": "2 cores, 24 GB, Linux 6.1",
            "git": "de6fa76",
        },
    }
    return ReportInputs(**(values | changes))
