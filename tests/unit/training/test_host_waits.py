"""A training step makes no host wait for its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from host_waits import counted_in_steps
from mentorkd.data.encoding import Example, TextEncoder
from mentorkd.data.examples import TextExample
from mentorkd.distillation.chunk_scoring import score_chunks
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.models import LoadedModel
from mentorkd.training import train as training
from tiny_training import BY_SOURCE, learner, mixed_rows, online, paired_rows, rows_for, run

OF_TRANSFORMERS = {"_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa", "find_packed_sequence_indices"}
"""Functions that ask whether a batch has padding at all, or more rows than one, once a stack; a compiled model does not ask."""


def stored(mentor: LoadedModel, rows: list[Example], form: Any, folder: Path) -> StoredSoftLabels:
    how: dict[str, Any] = {"folder": folder, "mentor_digest": "m", "target": "arrow", "bfloat16": False}
    how["on_progress"] = lambda done, total: None
    if form == "chunks":
        decode = mentor.tokenizer.decode
        texts = [
            TextExample(row.rationale_id, decode(row.source_ids[:-1]), decode(row.target_ids[:-1])) for row in rows
        ]
        score_chunks(mentor, texts, rows, TextEncoder.of(mentor), **how)
    else:
        score(mentor, rows, mode=form, top_k=8, temperature=2.0, **how)
    return StoredSoftLabels([folder], device=mentor.device)


def objective_of(name: str, student: LoadedModel, mentor: LoadedModel, folder: Path) -> tuple[Objective, list[Example]]:
    rows = rows_for(student, 8)
    match name:
        case "text":
            return CrossEntropy(), mixed_rows(student, 8)
        case "step_by_step":
            return StepByStep(0.3), paired_rows(student, 8, step_by_step=True)
        case "mcc":
            return Consistency(0.5, 1.5, base=online(mentor)), paired_rows(student, 8)
        case "hidden_states":
            return HiddenMatching(student, mentor, kd_weight=0.5), mixed_rows(student, 8)
        case "sources":
            return online(mentor, **BY_SOURCE), mixed_rows(student, 8)
        case "online":
            return online(mentor), rows
        case "ensemble":
            forms = [stored(mentor, rows, form, folder / form) for form in ("hidden", "top_k", "chunks")]
            shares = [(0.25, source) for source in (OnlineMentor(mentor), *forms)]
            return Distillation(shares, 0.5, 2.0, True, "forward_kl"), rows
    return Distillation([(1.0, stored(mentor, rows, name, folder))], 0.5, 2.0, True, "forward_kl"), rows


ALONE = ["text", "step_by_step", "mcc", "hidden_states", "sources", "online", "hidden", "top_k", "chunks"]
QUICK = [("t5", "ensemble", True), ("llama", "online", False)]
ALL = [(family, name, fused) for family in ("t5", "llama") for name in [*ALONE, "ensemble"] for fused in (True, False)]
CASES = [(*case, "auto") for case in ALL] + [("llama", name, True, "packed") for name in [*ALONE, "ensemble"]]
MARKED = [case if case[:3] in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("family", "name", "fused", "split"), MARKED)
def test_a_step_waits_for_nothing(
    family: str, name: str, fused: bool, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = learner(family, seed=2)
    objective, rows = objective_of(name, student, learner(family, seed=1), tmp_path / "store")
    if not fused:
        monkeypatch.setattr(training, "_can_fuse", lambda loaded, batch: False)
    changes = {"updates": 3, "batch_size": 4, "gradient_accumulation": 2, "max_grad_norm": 1.0, "split": split}
    with counted_in_steps(1, monkeypatch) as found:  # the first update examines a live mentor's head
        result = run(student, rows, tmp_path / "run", objective=objective, **changes)
    assert result.updates == 3
    waits = {where: count for where, count in found.items() if where.rpartition(" ")[2] not in OF_TRANSFORMERS}
    assert not waits


def test_the_counter_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking(CrossEntropy):
        def sums(self, student: Any) -> Any:
            positive = student.states[student.states > 0]
            assert torch.tensor(1.0, device="cpu") + positive.sum().item() > 0
            return super().sums(student)

    student = learner()
    with counted_in_steps(1, monkeypatch) as found:
        run(student, rows_for(student, 4), tmp_path, objective=Asking(), updates=2)
    assert {where.split(" ")[0] for where in found if where.endswith(": sums")} == {
        "index",
        "tensor",
        "_local_scalar_dense",
    }


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", [*ALONE, "ensemble"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_step_on_a_gpu_waits_for_nothing(
    family: str, name: str, fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's own account. Whole batches without padding: transformers' look at it is the one thing that waits."""
    from mentorkd.training.trainer import MentorTrainer

    student, mentor = learner(family, seed=2), learner(family, seed=1)
    for each in (student, mentor):
        each.model.to("cuda")
        each.model.config._attn_implementation = "eager"  # has a mask always, and does not look at it
    objective, rows = objective_of(name, student, mentor, tmp_path / "store")
    if not fused:
        monkeypatch.setattr(training, "_can_fuse", lambda loaded, batch: False)
    whole = MentorTrainer.training_step

    def strict(self: MentorTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error" if self.state.global_step else "default")
        try:
            return whole(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(MentorTrainer, "training_step", strict)
    assert run(student, rows, tmp_path / "run", objective=objective, updates=3).updates == 3
