"""The computation behind every validation of a training: its own, and that of all that it learns from."""

from __future__ import annotations

from dataclasses import replace

from mentorkd.reporting.costs import closure, with_parts
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs

TRAINING, READING = 6, 2
"""Floating-point operations a parameter and token, of a training (forward and backward) and of writing or scoring (forward). Tokens are
those of the texts; prompts are not counted."""


def flops_at_validations(inputs: ReportInputs, learner: str, seed: int) -> dict[int, float]:
    """Floating-point operations up to each validation of a training, by update. Empty where a number of parameters or tokens is unknown.

    Those of its mentors and of other sources count in full, from the start: their training, writing and scoring. The teacher's, other
    trials of its own search, and validations count nothing.
    """
    rows = inputs.metrics[learner, seed]
    known = {row["step"]: row["flops"] for row in rows if row.get("flops") is not None}
    sizes = {info.name: info.parameters for info in inputs.learners}
    size, total = sizes[learner], _before(inputs, learner, seed, sizes)
    if known or size is None or total is None:
        return known
    for row in rows:
        if "loss" in row:
            if row.get("tokens") is None:
                return {}
            total += TRAINING * size * row["tokens"]
        if row.get("validation_accuracy") is not None:
            known[row["step"]] = total
    return known


def with_operations(inputs: ReportInputs) -> ReportInputs:
    """The inputs with the operations of each learner's training and of all that it learns from, if the recipe matches these."""
    if inputs.match != "compute":
        return inputs
    sizes = {info.name: info.parameters for info in inputs.learners}

    def operations(info: LearnerInfo) -> list[float]:
        before = [_before(inputs, info.name, seed, sizes) for seed in inputs.seeds]
        tokens = [TRAINING * (info.parameters or 0) * tokens for tokens in info.target_tokens]
        known = [None if each is None else each + own for each, own in zip(before, tokens, strict=False)]
        return [each for each in known if each is not None] if None not in known else []

    return replace(inputs, learners=[replace(info, operations=operations(info)) for info in inputs.learners])


def _before(inputs: ReportInputs, learner: str, seed: int, sizes: dict[str, int | None]) -> float | None:
    """Floating-point operations of the stages that a learner's trainings depend on; None where they are unknown."""
    served = inputs.serving.get((learner, seed))
    if served is None:  # a report without run.json does not know its stages
        return None
    own = {name for name in with_parts(served, inputs) if inputs.stages[name].kind == "train"}
    total = 0.0
    for name in closure(served, inputs):
        stage = inputs.stages[name]
        if name in own or stage.kind not in ("train", "augment", "score") or not stage.tokens:
            continue
        size = sizes.get(_model_of(name, inputs) or "")
        if size is None:
            return None
        total += (TRAINING if stage.kind == "train" else READING) * size * stage.tokens
    return total


def _model_of(name: str, inputs: ReportInputs) -> str | None:
    """The learner whose model a stage trains or runs. A scoring belongs to the student, and needs the training of its mentor; that of an
    untrained mentor has the mentor in its name."""
    stage = inputs.stages[name]
    if stage.kind != "score":
        return stage.learner
    needs = [inputs.stages[need] for need in stage.needs if need in inputs.stages]
    trained = (need.learner for need in needs if need.kind in ("train", "rounds", "search"))
    return next(trained, name.split("/")[1] if name.startswith("learners/") else None)
