"""How mentor and student see the same tokens: against the models' own logits, for every way a mentor gives its labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.distillation.agreement import agreement
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.models import LoadedModel
from tiny_models import tiny_gpt2, tiny_t5, tiny_tokenizer

CPU = torch.device("cpu")


def model(family: str, seed: int) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    make: Any = tiny_t5 if family == "t5" else tiny_gpt2
    return LoadedModel(make(tokenizer, seed=seed), tokenizer, "seq2seq" if family == "t5" else "causal")


def rows_for(loaded: LoadedModel, count: int = 12) -> list[Example]:
    texts = [(f"r{n}", "How many?" * (n % 4 + 1), f"{n} + {n % 7} = {n + n % 7}." * (n % 3 + 1)) for n in range(count)]
    return encode_rows(texts, TextEncoder(loaded.tokenizer, loaded.kind), max_source_tokens=300, max_target_tokens=300)[
        0
    ]


def stored(mentor: LoadedModel, rows: list[Example], folder: Path, mode: Any) -> StoredSoftLabels:
    about = {"mentor_digest": "m", "target": "arrow", "on_progress": lambda done, total: None}
    score(mentor, rows, folder=folder, mode=mode, top_k=8, temperature=2.0, bfloat16=False, **about)  # type: ignore[arg-type]
    return StoredSoftLabels([folder], device=CPU)


@torch.no_grad()
def logits_of(loaded: LoadedModel, row: Example) -> torch.Tensor:
    """The model's own, of one row alone."""
    batch = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)([row])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return loaded.model.eval()(**inputs).logits[batch["labels"] != IGNORE_INDEX]


def expected(student: LoadedModel, mentor: LoadedModel, rows: list[Example]) -> dict[str, float]:
    ours, theirs = (torch.cat([logits_of(one, row) for row in rows]) for one in (student, mentor))
    labels = torch.tensor([token for row in rows for token in row.target_ids])

    def entropy(logits: torch.Tensor) -> float:
        return torch.distributions.Categorical(logits=logits).entropy().mean().item()

    return {
        "tokens": len(labels),
        "student_nll": F.cross_entropy(ours, labels).item(),
        "mentor_nll": F.cross_entropy(theirs, labels).item(),
        "student_entropy": entropy(ours),
        "mentor_entropy": entropy(theirs),
        "agreement": (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
    }


def distilling(*shares: tuple[float, Any]) -> Distillation:
    return Distillation(shares, 0.3, 2.0, True, "forward_kl")


@pytest.mark.parametrize("family", ["t5", "gpt2"])
@pytest.mark.parametrize("how", ["online", "hidden", "top_k", "consistency", "hidden_states"])
def test_it_is_what_the_models_say(family: str, how: str, tmp_path: Path) -> None:
    student, mentor = model(family, 1), model(family, 2)
    rows = rows_for(student)
    objective: Objective
    if how in ("hidden", "top_k"):
        objective = distilling((1.0, stored(mentor, rows, tmp_path, how)))
    elif how == "hidden_states":
        objective = HiddenMatching(student, mentor, kd_weight=0.3)
    else:
        objective = distilling((1.0, OnlineMentor(mentor)))
    if how == "consistency":
        objective = Consistency(0.1, 1.0, objective)
    [row] = agreement(student, rows, objective, ["mentor"])
    wanted = expected(student, mentor, rows)
    assert (row["mentor"], row["rationales"], row["tokens"]) == ("mentor", 12, wanted["tokens"])
    if how == "top_k":
        assert row["mentor_entropy"] is None
        del wanted["mentor_entropy"]
    rounding = 0.02 if how == "hidden" else 1e-4  # stored hidden states are rounded to bfloat16
    for name, value in wanted.items():
        assert row[name] == pytest.approx(value, abs=rounding), name


def test_each_mentor_of_an_ensemble_has_its_row() -> None:
    student, one, other = (model("t5", seed) for seed in (1, 2, 3))
    rows = rows_for(student)
    objective = distilling((0.7, OnlineMentor(one)), (0.3, OnlineMentor(other)))
    first, second = agreement(student, rows, objective, ["one", "other"])
    assert (first["mentor"], second["mentor"]) == ("one", "other")
    assert first["student_nll"] == second["student_nll"]
    assert second["mentor_nll"] == pytest.approx(expected(student, other, rows)["mentor_nll"], abs=1e-4)


def test_a_sample_is_spread_over_the_rows() -> None:
    student, mentor = model("t5", 1), model("t5", 2)
    rows = rows_for(student)
    [row] = agreement(student, rows, distilling((1.0, OnlineMentor(mentor))), ["mentor"], sample=4)
    assert (row["rationales"], row["tokens"]) == (4, sum(len(rows[n].target_ids) for n in (0, 3, 6, 9)))


def test_without_a_mentor_there_is_nothing_to_compare() -> None:
    student = model("t5", 1)
    assert agreement(student, rows_for(student), CrossEntropy(), []) == []
    assert agreement(student, [], distilling((1.0, OnlineMentor(student))), ["mentor"]) == []


def test_a_mentor_is_compared_on_the_rows_that_it_read_each_by_its_model(tmp_path: Path) -> None:
    """Two folds of one mentor that has no soft labels of gold, beside a live one that reads all."""
    student, one, other, live = (model("t5", seed) for seed in (1, 2, 3, 4))
    rows = [replace(row, source="gold" if n % 3 == 2 else "teacher") for n, row in enumerate(rows_for(student))]
    read_by = [[row for row in rows if row.source == "teacher"][fold::2] for fold in (0, 1)]
    about = {"mode": "hidden", "top_k": 8, "temperature": 1.0, "target": "arrow", "bfloat16": False}
    for fold, mentor in enumerate((one, other)):
        digest = {"mentor_digest": f"fold-{fold}", "on_progress": lambda done, total: None}
        score(mentor, read_by[fold], folder=tmp_path / str(fold), **about, **digest)  # type: ignore[arg-type]
    folds = StoredSoftLabels([tmp_path / "0", tmp_path / "1"], device=CPU, sources=["teacher"])
    first, second = agreement(student, rows, distilling((0.5, folds), (0.5, OnlineMentor(live))), ["folds", "live"])
    assert (first["mentor"], first["rationales"], second["rationales"]) == ("folds", 8, 12)
    halves = [expected(student, mentor, part) for mentor, part in zip((one, other), read_by, strict=True)]
    tokens = sum(half["tokens"] for half in halves)
    assert first["tokens"] == tokens
    for name in ("mentor_nll", "student_nll", "mentor_entropy", "agreement"):
        mean = sum(half[name] * half["tokens"] for half in halves) / tokens
        assert first[name] == pytest.approx(mean, abs=0.02), name
    assert second["mentor_nll"] == pytest.approx(expected(student, live, rows)["mentor_nll"], abs=1e-4)
    gold = [row for row in rows if row.source == "gold"]
    assert agreement(student, gold, distilling((1.0, folds)), ["folds"]) == []
