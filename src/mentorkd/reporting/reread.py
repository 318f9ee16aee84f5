"""From the results of a written report back to the inputs of a report, so that reports can be compared without their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from mentorkd.records import Prediction, Question, Rationale
from mentorkd.reporting.caveats import build_protocol
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost
from mentorkd.reporting.schema import Curve, Example, LearnerResult, Results, SeedResult

Answers = Mapping[tuple[str, int], Sequence[Prediction]]


def inputs_of(results: Results, answers: Answers) -> ReportInputs:
    """The inputs that give these results again.

    `answers` has the predictions of learners and seeds whose texts are known; of all others only the verdicts are.
    """
    questions = [Question(one["id"], one["text"], one["answer"], "test") for one in results["questions"]]
    seed_results = {(one["name"], row["seed"]): row for one in results["learners"] for row in one["per_seed"]}
    costs = results["run"]["costs"]
    inputs = ReportInputs(
        name=results["name"],
        task=results["task"],
        seeds=results["seeds"],
        learners=[_learner(one) for one in results["learners"]],
        questions=questions,
        predictions={
            key: answers.get(key) or _predictions(key[0], row, questions) for key, row in seed_results.items()
        },
        seed_results=seed_results,
        textless=frozenset(key for key in seed_results if not answers.get(key)),
        training=results["training"],
        match=results["match"],
        metrics={(curve["learner"], curve["seed"]): _metrics(curve) for curve in results["curves"]},
        filters=list(results["filters"]),
        dropped=list(results["dropped"]),
        soft_labels=list(results["soft_labels"]),
        trials=list(results["trials"]),
        rounds=list(results.get("rounds", [])),  # reports of earlier versions have none
        sampled=list(results.get("sampled", [])),
        stages={row["name"]: StageCost(kind=row["stage"], **_shared(StageCost, row)) for row in costs},
        serving={
            (row["learner"], int(seed)): names
            for row in results["run"]["spent"]
            for seed, names in row["stages"].items()
        },
        teacher=results["run"]["teacher"],
        faults=results["faults"],
        rationales=[_written(example) for example in results["written"]["entries"]],
        written=results["written"]["total"],
        recipe_digest=results["run"]["recipe_digest"],
        manifest=results["run"]["manifest"],
    )
    added = build_protocol(inputs, results["comparisons"])  # they are added again
    return replace(inputs, protocol=[line for line in results["protocol"] if line not in added])


def _learner(row: LearnerResult) -> LearnerInfo:
    validation = [] if row["validation"] is None else [row["validation"]]
    mentors = {"mentor_weights": row["imitates"], "validation": validation}
    return LearnerInfo(**_shared(LearnerInfo, row) | mentors)


def _shared(kind: type[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a row that are fields of `kind`."""
    return {field.name: row[field.name] for field in fields(kind) if field.name in row}


def _predictions(learner: str, row: SeedResult, questions: Sequence[Question]) -> list[Prediction]:
    return [
        Prediction(question.id, learner, row["seed"], "", None, "correct" if mark == "1" else "wrong", 0, True)
        for question, mark in zip(questions, row["verdicts"], strict=True)
    ]


def _written(example: Example) -> tuple[Question, list[Rationale]]:
    question = Question(example["question_id"], example["question"], example["answer"], "train")
    rationales = [
        Rationale.create(question.id, one["text"], one["predicted"], one["verdict"], one["source"], sample)
        for sample, one in enumerate(example["answers"])
    ]
    return question, rationales


def _metrics(curve: Curve) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = [*curve["training"]]
    return rows + [
        {key: point.get(key) for key in ("step", "epoch", "flops")} | {"validation_accuracy": point["accuracy"]}
        for point in curve["validation"]
    ]
