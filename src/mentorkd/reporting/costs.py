"""The cost of each stage, and of each learner alone and with its dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from mentorkd.reporting.inputs import ReportInputs, StageCost
from mentorkd.reporting.schema import LearnerCostResult, RoundCostResult, StageCostResult, row_of


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
            own = [[inputs.stages[name] for name in with_parts(names, inputs)] for names in seeds]
            whole = [[inputs.stages[name] for name in closure(names, inputs)] for names in seeds]
            rows.append(_learner_cost(info.name, stages, own, whole))
    return rows


def build_round_costs(inputs: ReportInputs) -> list[RoundCostResult]:
    """One row for each training of a learner with own texts. A learner whose settings are searched has none."""
    rows = []
    for (learner, seed), names in inputs.serving.items():
        chains = [name for name in names if name in inputs.stages and inputs.stages[name].kind == "rounds"]
        for training in (need for name in chains for need in inputs.stages[name].needs):
            stages = [inputs.stages[training], *(inputs.stages[name] for name in _round_of(training, inputs))]
            seconds = {kind: [stage.seconds or 0.0 for stage in stages if stage.kind == kind] for kind in PARTS}
            times = {
                f"{part}_seconds": round(sum(seconds[kind]), 6) if seconds[kind] else None
                for kind, part in PARTS.items()
            }
            about = {"learner": learner, "seed": seed, "round": _round_number(training)}
            rows.append(row_of(RoundCostResult, about | times))
    return rows


PARTS = {"augment": "writing", "score": "scoring", "train": "training"}
"""What takes the time of a round, by kind of stage."""


def with_parts(names: Iterable[str], inputs: ReportInputs) -> list[str]:
    """The stages, the trials of a search among them, the trainings of rounds, and what writes and scores the own texts of these."""
    whole: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name not in whole:
            whole[name] = None
            stage = inputs.stages[name]
            if stage.kind in ("search", "rounds"):
                waiting += [need for need in stage.needs if inputs.stages[need].kind in ("train", "rounds")]
            elif stage.kind == "train":
                waiting += _round_of(name, inputs)
    return list(whole)


def _round_of(training: str, inputs: ReportInputs) -> list[str]:
    """The stages that write the own texts of a round and score them; empty for a training without own texts."""
    number = _round_number(training)
    if number is None:
        return []
    needs = [name for name in inputs.stages[training].needs if name in inputs.stages]
    place = f"/round-{number}/augment"  # of this learner, or of one that it shares the stage with
    written = [name for name in needs if inputs.stages[name].kind == "augment" and name.endswith(place)]
    scored = [
        name for name in needs if inputs.stages[name].kind == "score" and {*written} & {*inputs.stages[name].needs}
    ]
    return [*written, *scored]


def _round_number(training: str) -> int | None:
    """2 for the stage `learners/NAME/seed-1/round-2/train`; None for a training that is no round."""
    folder = training.rpartition("/")[0].rpartition("/")[2]
    return int(folder.removeprefix("round-")) if folder.startswith("round-") else None


def closure(names: Iterable[str], inputs: ReportInputs) -> list[str]:
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
