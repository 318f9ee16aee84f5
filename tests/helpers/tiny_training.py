"""Trainings of tiny models on sums, in texts of different lengths."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.examples import TextExample
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.models import LoadedModel
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.training.train import TrainingResult, train
from tiny_architectures import build
from tiny_models import tiny_gpt2, tiny_llama, tiny_t5, tiny_tokenizer

__all__ = [
    "BY_SOURCE",
    "FAMILIES",
    "LIVE",
    "MIXED",
    "PACKED",
    "PAIRS",
    "SEEING",
    "UNTIED",
    "assert_same",
    "learner",
    "losses",
    "mixed_rows",
    "online",
    "paired_rows",
    "rows_for",
    "run",
    "settings",
    "train_by_a_live_mentor",
    "weights",
]

NO_DROPOUT: dict[str, dict[str, Any]] = {
    "t5": {"dropout_rate": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {},
}
MAKE: dict[str, Callable[..., Any]] = {"t5": tiny_t5, "gpt2": tiny_gpt2, "llama": tiny_llama}
FAMILIES = sorted(MAKE)


def learner(family: str = "t5", *, seed: int = 0, dropout: bool = False, **overrides: Any) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    sizes = {**({} if dropout else NO_DROPOUT[family]), **overrides}
    return LoadedModel(
        MAKE[family](tokenizer, seed=seed, **sizes), tokenizer, "seq2seq" if family == "t5" else "causal"
    )


def rows_for(loaded: LoadedModel, count: int) -> list[Example]:
    """Sums, in texts of different lengths."""
    texts = [
        (f"r{n}", f"Tom has {n} apples and buys {n % 7} more." + " How many?" * (n % 3), f"{n} + {n % 7} = {n + n % 7}")
        for n in range(count)
    ]
    rows, _ = encode_rows(
        texts, TextEncoder(loaded.tokenizer, loaded.kind), max_source_tokens=200, max_target_tokens=200
    )
    assert len(rows) == count
    return rows


def paired_rows(loaded: LoadedModel, count: int, *, step_by_step: bool = False) -> list[Example]:
    """Rows in pairs: two rationales of a question with their answers marked, or the two tasks of a rationale."""
    rows = []
    for n in range(count):
        k = n // 2
        prompt, answer = f"Tom has {k} apples and buys 30 more." + " How many?" * (k % 3), f"{k + 30}"
        if step_by_step:
            rows.append(TextExample(f"r{n}", f"predict: {prompt}", answer, f"r{n}", "predict"))
            rows.append(TextExample(f"r{n}", f"explain: {prompt}", f"{k} + 30 " * (1 + n % 3), f"r{n}", "explain"))
        else:
            target = f"{k} + 30 {'makes ' * (1 + n % 4)}--> {answer}"
            rows.append(TextExample(f"r{n}", prompt, target, f"q{k}", answer=(len(target) - len(answer), len(target))))
    return encode_rows(rows, TextEncoder(loaded.tokenizer, loaded.kind), max_source_tokens=200, max_target_tokens=200)[
        0
    ]


BY_SOURCE: dict[str, dict[str, Any]] = {
    "kd_weight": {"teacher": 0.3, "mentor": 0.6, "self": 1.0},
    "temperature": {"teacher": 2.0, "mentor": 1.0, "self": 1.5},
    "divergence": {"teacher": "forward_kl", "mentor": "jsd", "self": "reverse_kl"},
}
"""Settings of a distillation on texts of three sources."""


def mixed_rows(loaded: LoadedModel, count: int) -> list[Example]:
    """Rows of the sources of `BY_SOURCE` in turn, with three weights."""
    names = list(BY_SOURCE["kd_weight"])
    return [
        replace(row, source=names[n % len(names)], weight=(0.5, 1.0, 1.5)[n // 2 % 3])
        for n, row in enumerate(rows_for(loaded, count))
    ]


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 1, "batch_size": 4, "learning_rate": 3e-3, "max_grad_norm": 0.0} | changes)


def run(loaded: LoadedModel, rows: list[Example], folder: Path, **changes: Any) -> TrainingResult:
    options = {
        "objective",
        "updates",
        "validate",
        "questions",
        "on_progress",
        "precision",
        "seed",
        "verify",
        "history",
    } & changes.keys()
    given = {"seed": 0, "precision": "float32"} | {name: changes.pop(name) for name in options}
    return train(loaded, rows, settings(**changes), folder=folder, **given)


def online(mentor: LoadedModel, **changes: Any) -> Distillation:
    how = {"kd_weight": 0.5, "temperature": 2.0, "tau_squared": True, "divergence": "forward_kl"}
    return Distillation([(1.0, OnlineMentor(mentor))], **{**how, **changes})


def weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in loaded.model.state_dict().items()}


def losses(result: TrainingResult) -> list[float]:
    return [row["loss"] for row in result.history if "loss" in row]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


LIVE = UNTIED, PACKED, SEEING, PAIRS, MIXED = (
    "t5 with an untied head",
    "gpt2 with packed rows",
    "t5gemma2 with a vision tower",
    "pairs of rationales, and hidden states",
    "rows of three sources with settings of their own",
)


def train_by_a_live_mentor(family: str, folder: Path, accumulation: int) -> tuple[TrainingResult, LoadedModel]:
    def make(seed: int) -> LoadedModel:
        if family == SEEING:  # each process has a tokenizer file of its own
            return build("t5gemma2", folder.with_name(f"tokenizer-{os.environ.get('RANK')}"), seed=seed)
        return learner("gpt2" if family == PACKED else "t5", seed=seed)

    student, mentor = make(2), make(1)
    if family == UNTIED:
        # transformers ties the head of every T5 that it builds; some pretrained T5s have an untied head.
        head = student.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().flip(0).contiguous())
    objective: Objective = online(mentor)
    if family == PAIRS:
        objective = Consistency(0.5, base=HiddenMatching(student, mentor, kd_weight=0.5))
    if family == MIXED:
        objective = online(mentor, **BY_SOURCE)
    rows_of = {PAIRS: paired_rows, MIXED: mixed_rows}.get(family, rows_for)
    rows = rows_of(student, 18)  # 9 micro-batches: of two processes, one gets none in the last step
    changes = {
        "batch_size": 2,
        "gradient_accumulation": accumulation,
        "split": "packed" if family == PACKED else "auto",
    }
    return run(student, rows, folder, objective=objective, **changes), student
