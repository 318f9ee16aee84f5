"""From records to results: pure computation, without reading or writing files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, cast

from mentorkd.records import Prediction
from mentorkd.reporting import schema
from mentorkd.reporting.caveats import build_protocol, build_warnings, on_test
from mentorkd.reporting.comparisons import build_comparisons, build_headline, featured_learners, headlines, pairs_of
from mentorkd.reporting.compute import flops_at_validations, with_operations
from mentorkd.reporting.costs import build_costs, build_learner_costs, build_round_costs
from mentorkd.reporting.decomposition import build_decomposition, find_splits, parts_of
from mentorkd.reporting.examples import differing_examples, written_examples
from mentorkd.reporting.families import run_tests
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.roles import is_arm, leads, role
from mentorkd.reporting.statistics import Array, accuracy_interval, mean_and_error, wilson_interval
from mentorkd.reporting.verdicts import Verdicts, bounds, peers_of, rounded, stacked, verdicts_of


def build_results(inputs: ReportInputs) -> schema.Results:
    """All numbers of the report.

    Raises RunError unless a learner has exactly one prediction for each test question, or none at all.
    """
    inputs = with_operations(inputs)
    verdicts, tested = verdicts_of(inputs), on_test(inputs.learners)
    learners = [_learner(info, inputs, verdicts, info.name in tested) for info in inputs.learners]
    pairs, splits = pairs_of(inputs, verdicts), find_splits(inputs, verdicts)
    tests = run_tests(headlines(inputs), pairs, parts_of(splits), inputs.learners, verdicts)
    comparisons = build_comparisons(inputs, pairs, tests, tested)
    accelerators = sorted({stage.accelerator for stage in inputs.stages.values() if stage.accelerator})
    return {
        "schema": schema.SCHEMA,
        "name": inputs.name,
        "task": inputs.task,
        "seeds": list(inputs.seeds),
        "questions": [{"id": one.id, "text": one.text, "answer": one.answer} for one in inputs.questions],
        "training": inputs.training,
        "headline": build_headline(inputs, learners, comparisons),
        "warnings": build_warnings(inputs, verdicts, comparisons),
        "protocol": build_protocol(inputs, comparisons),
        "learners": learners,
        "comparisons": comparisons,
        "decompositions": [build_decomposition(split, inputs, tests, tested) for split in splits],
        "soft_labels": [cast(schema.SoftLabelResult, dict(row)) for row in inputs.soft_labels],
        "match": inputs.match,
        "trials": [cast(schema.Trial, dict(row)) for row in inputs.trials],
        "rounds": [cast(schema.RoundResult, dict(row)) for row in inputs.rounds],
        "sampled": [cast(schema.SampledResult, dict(row)) for row in inputs.sampled],
        "filters": [schema.row_of(schema.FilterCount, row) for row in inputs.filters],
        "dropped": [schema.row_of(schema.DroppedRows, row) for row in inputs.dropped],
        "curves": [
            build_curve(info.name, seed, inputs.metrics[info.name, seed], flops_at_validations(inputs, info.name, seed))
            for info in inputs.learners
            for seed in inputs.seeds
            if inputs.metrics.get((info.name, seed))
        ],
        "differing": differing_examples(inputs, featured_learners(inputs.learners, verdicts, comparisons)),
        "written": written_examples(inputs),
        "faults": list(inputs.faults),
        "run": {
            "costs": build_costs(inputs),
            "spent": build_learner_costs(inputs),
            "rounds": build_round_costs(inputs),
            "accelerator": ", ".join(accelerators) or None,
            "teacher": inputs.teacher,
            "recipe_digest": inputs.recipe_digest,
            "manifest": dict(inputs.manifest),
        },
    }


def _learner(info: LearnerInfo, inputs: ReportInputs, verdicts: Verdicts, tested: bool) -> schema.LearnerResult:
    seeds = [seed for seed in inputs.seeds if (info.name, seed) in verdicts]
    per_seed = [
        _seed(seed, inputs.predictions[key], verdicts[key], inputs.seed_results.get(key))
        for seed in seeds
        if (key := (info.name, seed))
    ]
    accuracy = error = interval = None
    peers: Mapping[str, Any] = {}
    if per_seed:
        accuracy, error = mean_and_error([row["accuracy"] for row in per_seed])
        peers = peers_of([info.name], inputs.learners, verdicts, seeds)
        interval = accuracy_interval(stacked(verdicts, info.name, seeds), peers=list(peers.values()))
    answers = sum(row["questions"] for row in per_seed)
    validated = [value for value in info.validation if value is not None]
    measured = {
        "role": role(info, inputs.learners),
        "imitates": info.mentor_weights,
        "peers": list(peers),
        "scorers": list(info.scorers),
        "kd_weight": info.kd_weight if info.mentor_weights else None,
        "temperature": info.temperature if info.mentor_weights else None,
        "on_test": tested,
        "validation": rounded(sum(validated) / len(validated)) if validated else None,
        "leads": leads(info, inputs.learners),
        "arm": is_arm(info, inputs.learners),
        "epochs": [round(epochs, 3) for epochs in info.epochs],
        "accuracy": rounded(accuracy),
        "interval": bounds(interval.low, interval.high) if interval else None,
        "standard_error": rounded(error),
        "no_answer": rounded(sum(row["no_answer"] for row in per_seed) / answers) if answers else None,
        "cut": rounded(sum(row["cut"] for row in per_seed) / answers) if answers else None,
        "tokens_per_answer": rounded(sum(r["tokens_per_answer"] * r["questions"] for r in per_seed) / answers)
        if answers
        else None,
        "per_seed": per_seed,
    }
    return schema.row_of(schema.LearnerResult, asdict(info) | measured)


def _seed(
    seed: int, predictions: Sequence[Prediction], verdicts: Array, known: schema.SeedResult | None
) -> schema.SeedResult:
    """The result of one model. One that is known from an earlier report keeps its numbers; its questions may have had another order."""
    marks = "".join(map(str, verdicts.tolist()))
    if known:
        return {**known, "verdicts": marks}
    correct = sum(p.verdict == "correct" for p in predictions)
    interval = wilson_interval(correct, len(predictions))
    return {
        "seed": seed,
        "questions": len(predictions),
        "correct": correct,
        "no_answer": sum(p.verdict == "no_answer" for p in predictions),
        "cut": sum(not p.finished for p in predictions),
        "accuracy": round(correct / len(predictions), 6),
        "interval": bounds(interval.low, interval.high),
        "tokens_per_answer": round(sum(p.tokens for p in predictions) / len(predictions), 6),
        "verdicts": marks,
    }


MOST_POINTS = 200


def build_curve(
    learner: str, seed: int, rows: Sequence[Mapping[str, Any]], flops: Mapping[int, float] = MappingProxyType({})
) -> schema.Curve:
    """The curve of one model; `flops` has the operations up to a validation, by update.

    More than `MOST_POINTS` losses are averaged in equal groups; all validations are kept.
    """
    losses = [row for row in rows if _number(row.get("loss")) is not None]
    size = max(1, math.ceil(len(losses) / MOST_POINTS))
    return {
        "learner": learner,
        "seed": seed,
        "training": [_point(losses[start : start + size]) for start in range(0, len(losses), size)],
        "validation": [
            {
                "step": row["step"],
                "epoch": _number(row.get("epoch")),
                "accuracy": accuracy,
                "flops": flops.get(row["step"]),
            }
            for row in rows
            if (accuracy := _number(row.get("validation_accuracy"))) is not None
        ],
    }


def _point(group: Sequence[Mapping[str, Any]]) -> schema.TrainingPoint:
    return {
        "step": group[-1]["step"],
        "epoch": _number(group[-1].get("epoch")),
        "loss": _mean(row.get("loss") for row in group),
        "ce": _mean(row.get("ce") for row in group),
        "divergence": _mean(row.get("divergence") for row in group),
    }


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [number for value in values if (number := _number(value)) is not None]
    return round(math.fsum(numbers) / len(numbers), 6) if numbers else None


def _number(value: Any) -> float | None:
    """The rounded number, or None: JSON has no NaN and no infinity, and such points are neither drawn nor averaged."""
    return round(float(value), 6) if isinstance(value, int | float) and math.isfinite(value) else None
