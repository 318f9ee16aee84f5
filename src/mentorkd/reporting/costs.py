"""The cost of each stage, and of each learner alone and with its dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from mentorkd.reporting.inputs import ReportInputs, StageCost
from mentorkd.reporting.schema import LearnerCostResult, StageCostResult, row_of


def build_costs(inputs: ReportInputs) -> list[StageCostResult]:
    """One row for each stage."""
    return [
        row_of(StageCostResult, asdict(stage) | {"name": name, "stage": stage.kind, "needs": list(stage.needs)})
        for name, stage in inputs.stages.items()
    ]


def build_learner_costs(inputs: ReportInputs) -> list[LearnerCostResult]:
    """One row for each evaluated learner; `LearnerCostResult` defines its two kinds of cost."""
    rows = []
    for info in inputs.learners:
        stages = {seed: inputs.serving[info.name, seed] for seed in inputs.seeds if (info.name, seed) in inputs.serving}
        if seeds := list(stages.values()):
            own = [[inputs.stages[name] for name in _with_trials(names, inputs)] for names in seeds]
            whole = [[inputs.stages[name] for name in _closure(names, inputs)] for names in seeds]
            rows.append(_learner_cost(info.name, stages, own, whole))
    return rows


def _with_trials(names: Iterable[str], inputs: ReportInputs) -> list[str]:
    """The stages, and the trials of a search among them."""
    trials = [
        need
        for name in names
        if inputs.stages[name].kind == "search"
        for need in inputs.stages[name].needs
        if inputs.stages[need].kind == "train"
    ]
    return [*names, *trials]


def _closure(names: Iterable[str], inputs: ReportInputs) -> list[str]:
    """The stages and all their dependencies, each once.

    Without stages of kind `budget`: these read the rows of other arms to match updates, and belong to no learner.
    """
    closure: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in closure and name in inputs.stages and inputs.stages[name].kind != "budget":
            closure[name] = None
            waiting += inputs.stages[name].needs
    return list(closure)


def _learner_cost(
    learner: str,
    stages: Mapping[int, Sequence[str]],
    own: Sequence[Sequence[StageCost]],
    whole: Sequence[Sequence[StageCost]],
) -> LearnerCostResult:
    queried = any(stage.kind == "annotate" for stages in whole for stage in stages)
    memory = [stage.peak_memory_mb for stages in whole for stage in stages if stage.peak_memory_mb is not None]
    costs = {
        f"{scope}_{field}": _mean(stages, field)
        for field in ("seconds", "cpu_seconds", "gpu_seconds", "tokens")
        for scope, stages in (("own", own), ("whole", whole))
    }
    more = {
        "learner": learner,
        "stages": {str(seed): list(names) for seed, names in stages.items()},
        "peak_memory_mb": max(memory, default=None),
        "teacher_dollars": _mean(whole, "dollars") if queried else 0.0,
    }
    return row_of(LearnerCostResult, costs | more)


def _mean(seeds: Sequence[Sequence[StageCost]], field: str) -> float | None:
    """Sum over stages, mean over seeds; None where it is unknown for all stages."""
    sums = []
    for stages in seeds:
        values = [value for stage in stages if (value := getattr(stage, field)) is not None]
        if values:
            sums.append(sum(values))
    return round(sum(sums) / len(sums), None if field == "tokens" else 6) if sums else None
