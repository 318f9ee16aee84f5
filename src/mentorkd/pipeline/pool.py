"""Runs of one recipe with different seeds as one run with all the seeds, for seeds that were trained one at a time.

Nothing is trained or asked again: the report inputs of every run are read from the `results.json` of its report. Learners of the same
name are one learner. The statistics are those of a single run with all the seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from mentorkd.errors import RunError
from mentorkd.pipeline.finished_runs import (
    Run,
    check_questions,
    different_training_data,
    join_manifests,
    lines_of,
    read_runs,
    training_data,
    unknown_costs,
)
from mentorkd.pipeline.stages.report import ONE_SEED
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost
from mentorkd.reporting.schema import Results, TeacherAccount

LISTS = ("rows", "updates", "target_tokens", "operations", "epochs", "plateaus")
"""Fields of `LearnerInfo` that are a list with one value for each seed."""

PER_SEED = (*LISTS, "validation", "searched")
"""Fields of `LearnerInfo` that depend on the seeds. All others identify the learner."""

SPENT = ("requests", "cached", "input_tokens", "output_tokens", "dollars", "unsure_dollars")
"""Fields of `TeacherAccount` that count work. The others describe the rationales, which are equal in all runs."""


def pool_seeds(paths: Sequence[Path], command: str, *, verify: bool = True) -> Results:
    """The results of runs of one recipe, each with other seeds, as those of one run; arguments as for `compare_runs`.

    Raises RunError for fewer than two different folders, for a folder without a finished run, for a seed in two of the runs, and for
    runs that differ in test questions, training data, `match`, or in what identifies a learner.
    """
    first, *others = runs = read_runs(paths, verify=verify)
    for run in runs:
        training_data(run)
    _check_seeds(runs)
    for other in others:
        check_questions(first, other)
        if differences := different_training_data(first, other):
            raise RunError(f"{differences[0].removesuffix('.')}; {EXPECTED}")
        for key in ("task", "match"):
            mine, theirs = getattr(first.inputs, key), getattr(other.inputs, key)
            if difference := _difference(mine, theirs, key):
                raise RunError(f"{first.name} and {other.name} differ in {difference}; {EXPECTED}")
        _check_learners(first, other)
    _check_operations(runs)
    return build_results(_pooled(runs, command))


EXPECTED = "--pool-seeds pools the seeds of one recipe; use `mentorkd compare` without it"


def _check_seeds(runs: Sequence[Run]) -> None:
    """Raise RunError if a seed is in two of the runs."""
    run_of: dict[int, str] = {}
    for run in runs:
        for seed in run.inputs.seeds:
            if seed in run_of:
                raise RunError(
                    f"got seed {seed} in {run_of[seed]} and in {run.name}; expected different seeds in each run"
                )
            run_of[seed] = run.name


def _check_learners(first: Run, other: Run) -> None:
    """Raise RunError unless both runs have the same learners, apart from their seeds."""
    mine, theirs = ({info.name: info for info in run.inputs.learners} for run in (first, other))
    for run, name in [(first, name) for name in mine if name not in theirs] + [
        (other, name) for name in theirs if name not in mine
    ]:
        raise RunError(f"the learners of {first.name} and {other.name} differ: only {run.name} has {name}; {EXPECTED}")
    for name in mine:
        if difference := _difference(_identity(mine[name]), _identity(theirs[name]), ""):
            raise RunError(f"{name} of {first.name} and of {other.name} differ in {difference}; {EXPECTED}")


def _identity(info: LearnerInfo) -> dict[str, Any]:
    """What identifies a learner, as plain JSON, in which results are read back."""
    facts = {key: value for key, value in asdict(info).items() if key not in PER_SEED}
    if not info.mentor_weights:  # they are in no results
        facts |= {"kd_weight": None, "temperature": None}
    identity: dict[str, Any] = json.loads(json.dumps(facts | {"searched": sorted(info.searched)}))
    return identity


def _difference(a: Any, b: Any, place: str) -> str | None:
    """The first difference of two plain values, as `settings.learning_rate (0.1 and 0.2)`; None if they are equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        parts = (_difference(a.get(key), b.get(key), f"{place}.{key}".removeprefix(".")) for key in {**a, **b})
        return next(filter(None, parts), None)
    return None if a == b else f"{place} ({json.dumps(a)} and {json.dumps(b)})"


def _check_operations(runs: Sequence[Run]) -> None:
    """Raise RunError if operations are matched, and those of a run are unknown."""
    for run in runs:
        if run.inputs.match == "compute" and unknown_costs([run]):
            raise RunError(
                f"{run.name} has no run.json; expected one, since its recipe matches operations (match: compute), "
                "which are counted from it"
            )


def _pooled(runs: Sequence[Run], command: str) -> ReportInputs:
    """The report inputs of all runs as those of one with all their seeds."""
    first = runs[0].inputs
    seeds = [seed for run in runs for seed in run.inputs.seeds]
    learner_rank: dict[str | None, int] = {info.name: rank for rank, info in enumerate(first.learners)}
    seed_rank: dict[int | None, int] = {seed: rank for rank, seed in enumerate(seeds)}

    def order(row: Mapping[str, Any]) -> tuple[int, int]:
        """The rows of a single run are in order of learners, then of seeds; rows of all learners or seeds come first."""
        return learner_rank.get(row.get("learner"), -1), seed_rank.get(row.get("seed"), -1)

    rows: dict[str, Any] = {
        part: sorted(_once(row for run in runs for row in getattr(run.inputs, part)), key=order)
        for part in ("filters", "dropped", "soft_labels", "trials", "rounds")
    }
    keyed: dict[str, Any] = {
        part: {key: one for run in runs for key, one in getattr(run.inputs, part).items()}
        for part in ("predictions", "seed_results", "metrics")
    }
    names = _stage_names(runs)
    stages = {
        renamed[name]: replace(cost, needs=[renamed.get(need, need) for need in cost.needs])
        for run, renamed in zip(runs, names, strict=True)
        for name, cost in run.inputs.stages.items()
    }
    return ReportInputs(
        name=" and ".join(dict.fromkeys(run.inputs.name for run in runs)),
        task=first.task,
        seeds=seeds,
        learners=[_pooled_learner(info.name, runs) for info in first.learners],
        questions=first.questions,
        textless=frozenset(key for run in runs for key in run.inputs.textless),
        training=first.training,
        match=first.match,
        rationales=first.rationales,
        written=max(max(run.inputs.written, len(run.inputs.rationales)) for run in runs),
        stages=stages,
        serving={
            key: [renamed[name] for name in served]
            for run, renamed in zip(runs, names, strict=True)
            for key, served in run.inputs.serving.items()
        },
        teacher=_account(runs, names),
        faults=lines_of(runs, "faults"),
        warnings=[*unknown_costs(runs), *_without_votes(runs)],
        protocol=[line for line in lines_of(runs, "protocol") if not line.endswith(ONE_SEED)],
        manifest=join_manifests(runs, command),
        **rows,
        **keyed,
    )


def _once(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows; those of no seed that several runs have are there once."""
    kept: list[Mapping[str, Any]] = []
    for row in rows:
        if row.get("seed") is not None or row not in kept:
            kept.append(row)
    return kept


def _pooled_learner(name: str, runs: Sequence[Run]) -> LearnerInfo:
    """A learner with the seeds of all runs."""
    infos = [next(info for info in run.inputs.learners if info.name == name) for run in runs]
    values: dict[str, Any] = {field: [one for info in infos for one in getattr(info, field)] for field in LISTS}
    validation = [one for run, info in zip(runs, infos, strict=True) for one in _validation(info, run.inputs)]
    searched = {key: [one for info in infos for one in info.searched[key]] for key in infos[0].searched}
    return replace(infos[0], **values, validation=validation, searched=searched)


def _validation(info: LearnerInfo, inputs: ReportInputs) -> list[float | None]:
    """One validation accuracy for each seed of a run. Results have only their mean, rounded; each seed gets it, without the rounding.

    Rounded means would decide which variant of a sweep leads where means are equal.
    """
    values = [value for value in info.validation if value is not None]
    if not values or len(info.validation) == len(inputs.seeds) > 1:
        return list(info.validation)
    mean = sum(values) / len(values)
    answers = inputs.task["test" if info.settings.get("select_on") == "test" else "validation"] * len(inputs.seeds)
    exact = round(mean * answers) / answers if answers else mean
    return [exact if abs(exact - mean) < 1e-6 else mean] * len(inputs.seeds)


def _stage_names(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The name of each run's stages in the pool.

    A name that several runs have (prepare, annotate) becomes `RUN:STAGE`, because each run did this work. With the same cost to the last
    digit it was done once, and the other run reused it: it keeps its name, and counts once.
    """
    done: dict[str, dict[StageCost, str]] = {}  # name -> each cost, and the first run that has it
    for run in runs:
        for name, cost in run.inputs.stages.items():
            done.setdefault(name, {}).setdefault(_work(cost), run.name)
    return [
        {
            name: name if len(done[name]) == 1 else f"{done[name][_work(cost)]}:{name}"
            for name, cost in run.inputs.stages.items()
        }
        for run in runs
    ]


def _work(cost: StageCost) -> StageCost:
    """A stage without its inputs: its cost tells one execution from another."""
    return replace(cost, needs=())


def _account(runs: Sequence[Run], names: Sequence[Mapping[str, str]]) -> TeacherAccount | None:
    """The account of a queried teacher in all runs. Rationales are equal, so only work adds up, that of reused stages once."""
    accounts: dict[str, TeacherAccount] = {}
    for run, renamed in zip(runs, names, strict=True):
        if run.inputs.teacher is not None:
            accounts.setdefault(renamed.get("annotate", run.name), run.inputs.teacher)
    if not accounts:
        return None
    first, *_ = accounts.values()
    values: dict[str, list[Any]] = {key: [account.get(key) for account in accounts.values()] for key in SPENT}
    kept = max(run.inputs.teacher["kept"] for run in runs if run.inputs.teacher is not None)
    work = {key: None if None in row else sum(row) for key, row in values.items()}
    per_kept = work["dollars"] / kept if work["dollars"] is not None and kept else None
    return cast(TeacherAccount, {**first, **work, "kept": kept, "dollars_per_kept": per_kept})


def _without_votes(runs: Sequence[Run]) -> list[str]:
    """A sentence on votes and pass@k, which results have by seed and not by question."""
    have = [run.name for run in runs if run.inputs.sampled]
    if not have:
        return []
    return [
        f"Votes and pass@k are not pooled, since results.json has no counts by question: see the reports of {', '.join(have)}."
    ]
