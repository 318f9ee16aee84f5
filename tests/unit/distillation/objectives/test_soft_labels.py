"""Batches of mixed sources: each row has the settings of its source, and reads the part of each mentor that scored it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mentorkd.data.encoding import Example
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import TOKENS
from mentorkd.distillation.objectives.build import MentorFiles, objective_of
from mentorkd.distillation.objectives.soft_labels import OWN_TOKENS, Distillation
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import SoftLabelStore, StoredSoftLabels
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, save_model
from mentorkd.recipe.learner import Learner
from one_step import gradients, loss_of, read
from tiny_training import BY_SOURCE, assert_same, learner, losses, mixed_rows, online, rows_for, run, weights

CPU = torch.device("cpu")
FAMILIES = ["t5", "gpt2"]

SETTINGS: dict[str, tuple[float, float, str]] = {
    "teacher": (0.3, 2.0, "forward_kl"),
    "mentor": (0.6, 1.0, "jsd"),
    "self": (1.0, 1.5, "reverse_kl"),
    "gold": (0.4, 3.0, "forward_kl"),
}
"""Source -> kd_weight, temperature, divergence."""
SHARES = {"folded": 0.25, "single": 0.75}
READ = {"folded": ("teacher", "mentor", "self"), "single": ("teacher", "self")}
"""Mentor -> the sources that it has soft labels of: none for gold, one for a mentor's texts."""


def double(family: str, seed: int) -> LoadedModel:
    loaded = learner(family, seed=seed)
    loaded.model.double()
    return loaded


def of_sources(rows: Sequence[Example], names: Sequence[str]) -> list[Example]:
    """The rows with sources in turn and three weights."""
    return [
        replace(row, source=names[n % len(names)], weight=(0.4, 1.0, 1.6)[n // 3 % 3]) for n, row in enumerate(rows)
    ]


def fold_of(row: Example) -> int:
    return int(row.rationale_id[1:]) // 4 % 2


def scored(mentor: LoadedModel, rows: list[Example], folder: Path, **how: Any) -> Path:
    about: dict[str, Any] = {"mode": "hidden", "top_k": 8, "temperature": 1.0, "target": "arrow", "bfloat16": False}
    about["mentor_digest"] = folder.parent.name
    score(mentor, rows, folder=folder, on_progress=lambda done, total: None, **{**about, **how})
    return folder


def store_of(name: str, row: Example, folder: Path) -> Path:
    """Where the labels of a row are, if the mentor reads its source."""
    model = f"folded-{fold_of(row)}" if name == "folded" else name
    return folder / model / str(row.source)


def mentors_of(family: str, rows: list[Example], folder: Path) -> list[tuple[float, StoredSoftLabels]]:
    """A mentor of two folds and one without, each with stores of its sources."""
    models = {"folded-0": double(family, 3), "folded-1": double(family, 4), "single": double(family, 5)}
    shares = []
    for name, sources in READ.items():
        stores = [store_of(name, row, folder) for row in rows if row.source in sources]
        for store in dict.fromkeys(stores):
            read_by = [row for row in rows if row.source in sources and store_of(name, row, folder) == store]
            scored(models[store.parent.name], read_by, store)
        shares.append((SHARES[name], StoredSoftLabels(list(dict.fromkeys(stores)), device=CPU, sources=sources)))
    return shares


def by_source(**changes: Any) -> dict[str, Any]:
    names = ("kd_weight", "temperature", "divergence")
    how = {name: {source: each[n] for source, each in SETTINGS.items()} for n, name in enumerate(names)}
    return {**how, "tau_squared": True, **changes}


# --- an oracle that knows nothing of groups ---------------------------------------------------------------------------


def logits_of(student: LoadedModel, row: Example) -> Tensor:
    """The model's own logits [target tokens, V] of a single row, without padding."""
    if student.kind == "seq2seq":
        shifted = torch.tensor([[0, *row.target_ids[:-1]]])
        return student.model(input_ids=torch.tensor([row.source_ids]), decoder_input_ids=shifted).logits[0]
    ids = torch.tensor([[*row.source_ids, *row.target_ids]])
    return student.model(input_ids=ids).logits[0, len(row.source_ids) - 1 : -1]


def stored_logits(name: str, row: Example, folder: Path) -> Tensor:
    store = SoftLabelStore(store_of(name, row, folder))
    hidden = torch.from_numpy(store.row(row.rationale_id)["hidden"].copy()).view(torch.bfloat16).double()
    weight, _ = store.head()
    assert weight.dtype == torch.float64
    return hidden @ weight.T


def divergence_of(name: str, student: Tensor, mentor: Tensor) -> Tensor:
    p, q = mentor.softmax(-1), student.softmax(-1)
    kl = torch.nn.functional.kl_div
    match name:
        case "forward_kl":
            return kl(q.log(), p, reduction="sum")
        case "reverse_kl":
            return kl(p.log(), q, reduction="sum")
        case _:
            mixture = ((p + q) / 2).log()
            return (kl(mixture, p, reduction="sum") + kl(mixture, q, reduction="sum")) / 2


def oracle(student: LoadedModel, rows: list[Example], folder: Path) -> dict[str, float]:
    """The loss of a step and its metrics, a row at a time; gradients are left in the parameters."""
    sums = {"ce": 0.0, "divergence": 0.0, "divergence_self": 0.0}
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        assert row.source is not None
        kd_weight, temperature, divergence = SETTINGS[row.source]
        logits = logits_of(student, row)
        ce = torch.nn.functional.cross_entropy(logits, torch.tensor(row.target_ids), reduction="sum")
        names = [name for name, sources in READ.items() if row.source in sources]
        shares = {name: SHARES[name] / sum(SHARES[each] for each in names) for name in names}
        value = torch.zeros(())
        for name, share in shares.items():
            mentor = stored_logits(name, row, folder)
            value = value + share * divergence_of(divergence, logits / temperature, mentor / temperature)
        loss = (1 - kd_weight) * ce + kd_weight * temperature**2 * value if names else ce
        total = total + row.weight * loss
        sums["ce"] += ce.item()
        sums["divergence"] += value.item()
        sums["divergence_self"] += value.item() if row.source == "self" else 0.0
    tokens = sum(len(row.target_ids) for row in rows)
    own = sum(len(row.target_ids) for row in rows if row.source == "self")
    (total / tokens).backward()
    means = {name: value / (own if name == "divergence_self" else tokens) for name, value in sums.items()}
    return {"loss": total.item() / tokens, **means}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_mixed_batch_is_the_oracles(family: str, fused: bool, tmp_path: Path) -> None:
    student = double(family, 2)
    rows = of_sources(rows_for(student, 16), list(SETTINGS))
    objective = Distillation(mentors_of(family, rows, tmp_path), **by_source())
    groups = {(row.source, fold_of(row), row.weight) for row in rows}
    assert len(groups) > 10
    expected, exact = oracle(student, rows, tmp_path), gradients(student)
    for batches, packed in (([rows], False), ([rows[:3], rows[3:4], rows[4:]], False), ([rows], family == "gpt2")):
        assert loss_of(student, batches, objective, fused=fused, packed=packed) == pytest.approx(
            expected["loss"], rel=1e-9
        )
        assert_same(gradients(student), exact, rtol=1e-9, atol=1e-12)
    sums, counts = objective.sums(read(student, rows, objective, fused=fused)), objective.counts(rows)
    means = {name: value.item() / counts[kind] for name, (kind, value) in sums.metrics.items()}
    assert means == pytest.approx({name: expected[name] for name in means}, rel=1e-9)
    assert set(means) == {"ce", "divergence", "divergence_self"}


# --- one setting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_need_the_same_are_one_call_of_the_loss_bit_for_bit(family: str, fused: bool) -> None:
    student, mentor = learner(family, seed=2), OnlineMentor(learner(family, seed=1))
    rows = [replace(row, source=("teacher", "mentor")[n % 2]) for n, row in enumerate(rows_for(student, 6))]
    how: dict[str, Any] = {"kd_weight": 0.3, "temperature": 2.0, "tau_squared": True, "divergence": "forward_kl"}
    same = {name: value if name == "tau_squared" else dict.fromkeys(SETTINGS, value) for name, value in how.items()}
    del same["kd_weight"]["self"]
    outcomes = []
    for objective in (Distillation([(1.0, mentor)], **how), Distillation([(1.0, mentor)], **same)):
        forward = read(student, rows, objective, fused=fused)
        sums = objective.sums(forward)
        sums.loss[TOKENS].backward()
        outcomes.append((sums.loss[TOKENS].detach(), sums.metrics["divergence"][1], gradients(student)))
    forward = read(student, rows, objective, fused=fused)
    targets = mentor.targets_for(rows, forward.batch)
    direct = forward.loss([(1.0, targets)], **how)
    direct.loss.backward()
    expected = gradients(student)
    for loss, divergence, found in outcomes:
        assert torch.equal(loss, direct.loss.detach())
        assert torch.equal(divergence, direct.divergence)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_mixed_sources_does_not_depend_on_the_split_of_a_step(family: str, tmp_path: Path) -> None:
    results = {}
    for accumulation in (1, 3):
        student = learner(family, seed=2)
        objective = online(learner(family, seed=1), **BY_SOURCE)
        changes = {"epochs": 2, "batch_size": 6 // accumulation, "gradient_accumulation": accumulation}
        result = run(student, mixed_rows(student, 12), tmp_path / str(accumulation), objective=objective, **changes)
        assert result.updates == 4
        results[accumulation] = result, weights(student)
    (one, at_once), (other, split) = results[1], results[3]
    assert losses(other) == pytest.approx(losses(one), rel=1e-4)
    for name in ("ce", "divergence", "divergence_self"):
        assert [row[name] for row in other.history] == pytest.approx([row[name] for row in one.history], rel=1e-3)
    assert_same(split, at_once, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_mentor_does_not_move_on_own_texts(family: str, divergence: str, tmp_path: Path) -> None:
    how = {"kd_weight": {"self": 1.0}, "temperature": {"self": 1.0}, "divergence": {"self": divergence}}

    def moved(mentor: LoadedModel, folder: Path) -> tuple[float, list[dict[str, float]]]:
        """The farthest that a weight moves in two updates, and the history."""
        student = double(family, 2)
        before, rows = weights(student), [replace(row, source="self") for row in rows_for(student, 8)]
        changes: dict[str, Any] = {"weight_decay": 0.0, "learning_rate": 1e-3}
        result = run(student, rows, folder, objective=online(mentor, **how), **changes)
        assert result.updates == 2
        return max(
            (value - before[name]).abs().max().item() for name, value in weights(student).items()
        ), result.history

    distance, history = moved(double(family, 2), tmp_path / "itself")
    for row in history:
        assert abs(row["divergence"]) < 1e-12
        assert row["divergence_self"] == row["divergence"]
        assert row["loss"] == pytest.approx(0, abs=1e-12)
        assert row["ce"] > 1
    # Adam divides a gradient by its size, and so enlarges what rounding leaves of it (T5's norms compute in float32).
    assert distance < 1e-4
    assert moved(double(family, 3), tmp_path / "another")[0] > 1e-3


def test_own_texts_have_a_kind_of_position_of_their_own() -> None:
    student = learner()
    rows = mixed_rows(student, 6)
    objective = online(learner(seed=1), **BY_SOURCE)
    assert objective.counts(rows)[OWN_TOKENS] == sum(len(row.target_ids) for row in rows if row.source == "self")
    assert objective.counts([]) == {TOKENS: 0, OWN_TOKENS: 0}
    assert objective.sums(read(student, rows[:2], objective)).metrics["divergence_self"] == (OWN_TOKENS, 0)
    assert objective.counts(rows) != online(learner(seed=1)).counts(rows) == {TOKENS: objective.counts(rows)[TOKENS]}


# --- from a recipe ----------------------------------------------------------------------------------------------------


def test_a_learner_of_a_recipe_has_its_settings_by_source(tmp_path: Path) -> None:
    student, mentor = learner(seed=2), learner(seed=1)
    save_model(mentor, tmp_path / "model", card="# card\n")
    config = Learner(
        model="m",
        rationales=["teacher", "self"],
        soft_labels="mentor",
        divergence={"self": "reverse_kl"},
        kd_weight=0.2,
    )
    objective = objective_of(config, student, {"mentor": [MentorFiles(tmp_path / "model")]}, seed=0)
    assert isinstance(objective, Distillation)
    assert (objective.kd_weight, objective.divergence) == (
        {"teacher": 0.2, "self": 1.0},
        {"teacher": "forward_kl", "self": "reverse_kl"},
    )
    matched = config.model_copy(update={"divergence": "hidden_states"})
    with pytest.raises(ModelError, match=r"got `kd_weight` .*'self': 1.0.* for `divergence: hidden_states`"):
        objective_of(matched, student, {"mentor": [MentorFiles(tmp_path / "model")]}, seed=0)


def test_top_k_at_the_temperature_of_each_source(tmp_path: Path) -> None:
    """Probabilities are kept at the temperature of the loss, so two sources can have two."""
    student, mentor = learner(seed=2), learner(seed=1)
    rows = [replace(row, source=("teacher", "self")[n % 2]) for n, row in enumerate(rows_for(student, 6))]
    temperatures = {"teacher": 2.0, "self": 1.5}
    stores = [
        scored(
            mentor,
            [row for row in rows if row.source == source],
            tmp_path / "mentor" / source,
            mode="top_k",
            top_k=10**6,
            temperature=tau,
        )
        for source, tau in temperatures.items()
    ]
    how = {"kd_weight": 0.5, "temperature": temperatures, "tau_squared": True, "divergence": "reverse_kl"}
    kept = Distillation([(1.0, StoredSoftLabels(stores, device=CPU))], **how)
    live = Distillation([(1.0, OnlineMentor(mentor))], **how)
    assert loss_of(student, [rows], kept) == pytest.approx(loss_of(student, [rows], live), rel=1e-5)
    assert [len(list(group)) for _, group in groupby(sorted(kept.mentors[0].part_of(row) for row in rows))] == [3, 3]
