from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layouts import padded_left
from mentorkd.data.batching import IGNORE_INDEX, plan_batches
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import POSITIONS
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import TOKENS, CrossEntropy, Objective, Student
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.models import LoadedModel
from one_step import gradients, loss_of, read
from tiny_training import FAMILIES, assert_same, learner, losses, online, paired_rows, rows_for, run, weights


@torch.no_grad()
def log_probs(student: LoadedModel, row: Example, temperature: float = 1.0) -> Tensor:
    """The model's log-probabilities [target tokens, V] for a single row, by its plain forward pass."""
    if student.kind == "seq2seq":
        shifted = torch.tensor([[0, *row.target_ids[:-1]]])
        logits = student.model(input_ids=torch.tensor([row.source_ids]), decoder_input_ids=shifted).logits[0]
    else:
        ids = torch.tensor([[*row.source_ids, *row.target_ids]])
        logits = student.model(input_ids=ids).logits[0, len(row.source_ids) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def cross_entropies(student: LoadedModel, row: Example) -> list[float]:
    return [-float(position[token]) for position, token in zip(log_probs(student, row), row.target_ids, strict=True)]


# --- the loss of each objective, from the model's own forward pass ----------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_step_by_step_weights_the_means_of_its_two_tasks(family: str, fused: bool) -> None:
    student = learner(family)
    rows = paired_rows(student, 4, step_by_step=True)
    values = {task: [ce for row in rows if row.task == task for ce in cross_entropies(student, row)] for task in TASKS}
    means = {task: sum(ces) / len(ces) for task, ces in values.items()}
    expected = 0.3 * means["predict"] + 0.7 * means["explain"]
    assert loss_of(student, [rows], StepByStep(0.3), fused=fused) == pytest.approx(expected, rel=1e-5)


TASKS = ("predict", "explain")


@pytest.mark.parametrize(
    ("name", "fused"),
    [("cross_entropy", True), ("step_by_step", True), ("mcc", True), ("hidden_states", False), ("ensemble", True)],
)
def test_label_smoothing_adds_to_the_cross_entropy_of_every_objective(name: str, fused: bool) -> None:
    """The loss is linear in the share of the uniform distribution, whose cross-entropy has the weight of CE."""
    student = learner(seed=2)
    objective, rows = (CrossEntropy(), rows_for(student, 4)) if name == "cross_entropy" else made(name, student, "t5")
    plain = loss_of(student, [rows], objective, fused=fused)
    objective.label_smoothing = 0.4
    smoothed = loss_of(student, [rows], objective, fused=fused)
    split = loss_of(student, [rows[:2], rows[2:]], objective, fused=fused)

    def excess(of: list[Example]) -> float:
        """Mean over the tokens of CE(uniform) - CE(label)."""
        values = [-(log_probs(student, row).mean(-1)).sum() - sum(cross_entropies(student, row)) for row in of]
        return float(sum(values)) / sum(len(row.target_ids) for row in of)

    if name == "step_by_step":
        parts = [excess([row for row in rows if row.task == task]) for task in TASKS]
        expected = 0.3 * parts[0] + 0.7 * parts[1]
    else:
        expected = (1.0 if name == "cross_entropy" else 0.5) * excess(rows)
    assert smoothed - plain == pytest.approx(0.4 * expected, abs=1e-5)
    assert split == pytest.approx(smoothed, rel=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_consistency_adds_the_divergence_of_answers_to_the_cross_entropy(family: str, fused: bool) -> None:
    student = learner(family)
    rows = paired_rows(student, 5)  # two pairs and one left over
    ce = [value for row in rows for value in cross_entropies(student, row)]
    kl: list[float] = []
    for one, other in (rows[:2], rows[2:4]):
        p, q = (log_probs(student, row, 1.5)[slice(*row.answer)] for row in (one, other) if row.answer)
        assert len(p) == len(q) > 0
        kl += (((p.exp() - q.exp()) * (p - q)).sum(-1) / 2).tolist()
    expected = sum(ce) / len(ce) + 0.4 * sum(kl) / len(kl)
    assert min(kl) > 0
    assert loss_of(student, [rows], Consistency(0.4, 1.5), fused=fused) == pytest.approx(expected, rel=1e-5)


def test_consistency_can_be_added_to_soft_labels() -> None:
    student, mentor = learner(seed=2), learner(seed=1)
    rows = paired_rows(student, 4)
    base = online(mentor)
    parts = [loss_of(student, [rows], how) for how in (base, CrossEntropy(), Consistency(0.4))]
    assert loss_of(student, [rows], Consistency(0.4, base=base)) == pytest.approx(
        parts[0] + parts[2] - parts[1], rel=1e-5
    )


def test_the_gradient_of_consistency_reaches_both_rationales() -> None:
    student = learner()
    rows = paired_rows(student, 2)
    read_once = read(student, rows, CrossEntropy())
    states = read_once.states.detach().requires_grad_()
    alone = Student(read_once.batch, rows, read_once.labels_N, states, read_once.head, {})
    Consistency(1.0).sums(alone).loss["answers"].backward()
    assert states.grad is not None
    starts = [0, len(rows[0].target_ids)]
    answers = {start + n for start, row in zip(starts, rows, strict=True) if row.answer for n in range(*row.answer)}
    assert {n for n, state in enumerate(states.grad) if state.abs().sum() > 0} == answers


def test_dropout_differs_between_the_rationales_of_a_pair() -> None:
    """The same row twice: its two answers differ slightly with dropout, and are equal without."""
    for dropout in (True, False):
        student = learner(dropout=dropout)
        student.model.train()
        row = paired_rows(student, 1)[0]
        kl = Consistency(1.0).sums(read(student, [row, row], CrossEntropy())).metrics["consistency"][1].item()
        assert (kl > 1e-4) == dropout


def live_and_stored(student: LoadedModel, rows: list[Example], folder: Path) -> tuple[Any, Any]:
    live, scored = learner(seed=1), learner(seed=3)
    how: dict[str, Any] = {"mode": "hidden", "top_k": 8, "temperature": 2.0, "mentor_digest": "m", "target": "arrow"}
    score(scored, rows, folder=folder, bfloat16=False, on_progress=lambda done, total: None, **how)
    return OnlineMentor(live), StoredSoftLabels([folder], device=student.device)


@pytest.mark.parametrize("fused", [True, False])
def test_an_ensemble_adds_the_divergences_of_live_and_stored_mentors(fused: bool, tmp_path: Path) -> None:
    student = learner(seed=2)
    rows = rows_for(student, 6)
    live, stored = live_and_stored(student, rows, tmp_path)

    def sums(*shares: tuple[float, Any]) -> tuple[float, dict[str, Tensor]]:
        how = Distillation(shares, 0.6, 2.0, True, "forward_kl")
        return loss_of(student, [rows], how, fused=fused), gradients(student)

    (one, of_one), (other, of_other), (together, of_both) = (
        sums((1.0, live)),
        sums((1.0, stored)),
        sums((0.25, live), (0.75, stored)),
    )
    assert one != pytest.approx(other, rel=1e-3)
    assert together == pytest.approx(0.25 * one + 0.75 * other, rel=1e-5)
    assert_same(of_both, {name: 0.25 * of_one[name] + 0.75 * of_other[name] for name in of_one}, rtol=1e-3, atol=1e-6)


# --- every objective -------------------------------------------------------------------------------------------


def made(name: str, student: LoadedModel, family: str) -> tuple[Objective, list[Example]]:
    mentor = learner(family, seed=1)
    match name:
        case "step_by_step":
            return StepByStep(0.3), paired_rows(student, 6, step_by_step=True)
        case "mcc":
            return Consistency(0.5, 1.5, base=online(mentor)), paired_rows(student, 6)
        case "hidden_states":
            return HiddenMatching(student, mentor, kd_weight=0.5), rows_for(student, 6)
        case _:
            return Distillation([(1.0, OnlineMentor(mentor))], 0.5, 2.0, True, "jsd"), rows_for(student, 6)


OBJECTIVES = ["step_by_step", "mcc", "hidden_states", "ensemble"]


@pytest.mark.parametrize("change", ["left", "order", "split", "pairs", "plain"])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_loss_and_gradient_do_not_depend_on_the_batch(family: str, name: str, change: str) -> None:
    student = learner(family, seed=2)
    objective, rows = made(name, student, family)
    how: dict[str, Any] = {}
    batches = [rows]
    match change:
        case "left":
            how = {"layout": padded_left}
        case "order":
            batches = [rows[::-1]]
        case "split":
            batches = [rows[:4], rows[4:]]
        case "pairs":  # as planned: a pair stays together, in any order
            groups = [row.group for row in rows]
            plan = plan_batches([(1,)] * len(rows), epochs=1, seed=3, batch_size=2, groups=groups)
            batches = [[rows[n] for n in batch] for batch in plan.batches]
        case "plain":
            how = {"fused": False}
    before = loss_of(student, [rows], objective), gradients(student)
    after = loss_of(student, batches, objective, **how), gradients(student)
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert_same(after[1], before[1], rtol=1e-3, atol=3e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_rows_counts_for_nothing_and_reaches_every_weight(name: str) -> None:
    """The last processes can get such a batch, and every weight needs its gradient."""
    student = learner(seed=2)
    objective, rows = made(name, student, "t5")
    batch = read(student, rows[:1], objective).batch
    empty = {**batch, "labels": torch.full_like(batch["labels"], IGNORE_INDEX), POSITIONS: batch[POSITIONS][:0]}
    model = student.model
    sums = objective.sums(Student.forward(model, empty, [], owner=model, fused=True, layers=objective.layers))
    torch.stack(list(sums.loss.values())).sum().backward()
    own = list(objective.weights.parameters()) if objective.weights is not None else []
    assert all(value.item() == 0 for value in sums.loss.values())
    assert all(p.grad is not None and not p.grad.any() for p in [*model.parameters(), *own])
    assert set(objective.counts([])) == set(sums.loss) | {"tokens"} | {kind for kind, _ in sums.metrics.values()}


@pytest.mark.parametrize("name", ["cross_entropy", "step_by_step", "hidden_states", "ensemble"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_row_of_weight_two_is_the_row_twice(name: str, fused: bool) -> None:
    student = learner(seed=2)
    objective, rows = (CrossEntropy(), rows_for(student, 6)) if name == "cross_entropy" else made(name, student, "t5")
    heavy = [replace(row, weight=2.0) if n in (1, 2) else row for n, row in enumerate(rows)]
    twice = [*rows, *rows[1:3]]
    tokens = [float(objective.counts(each)[TOKENS]) for each in (heavy, twice)]
    weighted, repeated = (objective.sums(read(student, each, objective, fused=fused)) for each in (heavy, twice))
    assert tokens[0] < tokens[1]
    found = []
    for sums in (weighted, repeated):
        torch.stack(list(sums.loss.values())).sum().backward()
        found.append(gradients(student))
    for kind, value in weighted.loss.items():
        assert value.item() == pytest.approx(repeated.loss[kind].item(), rel=1e-5)
    assert_same(*found, rtol=1e-3, atol=1e-5)
    plain = objective.sums(read(student, rows, objective, fused=fused))
    for metric, (_, value) in plain.metrics.items():
        assert weighted.metrics[metric][1].item() == pytest.approx(value.item(), rel=1e-5), metric


@pytest.mark.parametrize("name", ["step_by_step", "mcc", "hidden_states"])
def test_training_does_not_depend_on_the_split_of_a_step(name: str, tmp_path: Path) -> None:
    results = {}
    for accumulation in (1, 2):
        student = learner(seed=2)
        objective, rows = made(name, student, "t5")
        changes = {"epochs": 3, "batch_size": 6 // accumulation, "gradient_accumulation": accumulation}
        if name == "mcc" and accumulation == 2:
            changes["batch_size"] = 4
        result = run(student, rows, tmp_path / str(accumulation), objective=objective, **changes)
        assert result.updates == 3
        assert losses(result)[-1] < losses(result)[0]
        results[accumulation] = losses(result), weights(student)
    assert results[2][0] == pytest.approx(results[1][0], rel=1e-4)
    assert_same(results[2][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_the_log_has_the_terms_of_each_loss(tmp_path: Path) -> None:
    student = learner(seed=2)
    objective, rows = made("mcc", student, "t5")
    for row in run(student, rows, tmp_path / "mcc", objective=objective, batch_size=6).history:
        base = 0.5 * row["ce"] + 0.5 * 4 * row["divergence"]
        assert row["loss"] == pytest.approx(base + 0.5 * row["consistency"], rel=1e-4)
        assert row["consistency"] > 0
    student = learner(seed=2)
    objective, rows = made("step_by_step", student, "t5")
    for row in run(student, rows, tmp_path / "steps", objective=objective, batch_size=6).history:
        assert row["loss"] == pytest.approx(0.3 * row["ce_predict"] + 0.7 * row["ce_explain"], rel=1e-4)
        assert row["tokens"] == sum(len(each.target_ids) for each in rows)
