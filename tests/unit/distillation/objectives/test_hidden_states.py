from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mentorkd.data.batching import Collator
from mentorkd.distillation.objectives.base import Student
from mentorkd.distillation.objectives.hidden_states import HiddenMatching, map_layers
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, load_model
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from mentorkd.training.checkpoints import WEIGHTS, last_checkpoint
from mentorkd.training.train import TrainingResult
from tiny_models import tiny_tokenizer
from tiny_training import FAMILIES, assert_same, learner, losses, rows_for, run, weights

WIDER: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 48, "num_layers": 3, "num_decoder_layers": 4},
    "gpt2": {"n_embd": 48, "n_layer": 4},
    "llama": {"hidden_size": 48, "num_hidden_layers": 4, "head_dim": 12},
}


def mentor(family: str = "t5") -> LoadedModel:
    return learner(family, seed=1, **WIDER[family])


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(2, 4, {1: 2, 2: 4}), (3, 3, {1: 1, 2: 2, 3: 3}), (3, 4, {1: 1, 2: 3, 3: 4}), (4, 1, {1: 1, 2: 1, 3: 1, 4: 1})],
)
def test_layers_are_mapped_uniformly_the_last_to_the_last(student: int, teacher: int, expected: dict[int, int]) -> None:
    assert map_layers(student, teacher) == expected


@pytest.mark.parametrize("layers", [{3: 1}, {1: 5}, {0: 1}])
def test_layers_that_do_not_exist_are_refused(layers: dict[int, int]) -> None:
    with pytest.raises(ModelError, match="the student has layers 1 to 2, the mentor 1 to 4"):
        map_layers(2, 4, layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_compares_projected_with_scaled_hidden_states(family: str) -> None:
    """The reference is the hidden states of the models' own forward pass, row by row, without padding."""
    student, theirs = learner(family, seed=2), mentor(family)
    objective = HiddenMatching(student, theirs, kd_weight=1.0, layers={1: 3, 2: 4})
    rows = rows_for(student, 3)
    start = 0 if student.kind == "seq2seq" else None
    batch = Collator(student.kind, 0, start)(rows)
    sums = objective.sums(Student.forward(student.model, batch, rows, owner=student.model, fused=True, layers=(1, 2)))
    errors = []
    for row in rows:
        ours, wanted = (states(model, row.source_ids, row.target_ids) for model in (student, theirs))
        for one, other in ((1, 3), (2, 4)):
            scaled = wanted[other] / wanted[other].square().mean(-1, keepdim=True).sqrt()
            errors.append((objective.projections[str(one)](ours[one]) - scaled).square().mean(-1))
    assert sums.loss["tokens"].item() == pytest.approx(torch.cat(errors).sum().item() / 2, rel=1e-4)


def states(loaded: LoadedModel, source: list[int], target: list[int]) -> tuple[torch.Tensor, ...]:
    """Hidden states at the target positions, by layer."""
    with torch.no_grad():
        if loaded.kind == "seq2seq":
            inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([[0, *target[:-1]]])}
            return tuple(h[0] for h in loaded.model(**inputs, output_hidden_states=True).decoder_hidden_states)
        found = loaded.model(input_ids=torch.tensor([[*source, *target]]), output_hidden_states=True).hidden_states
        return tuple(h[0, len(source) - 1 : -1] for h in found)


def test_a_projection_to_zero_has_an_error_of_one() -> None:
    student = learner(seed=2)
    objective = HiddenMatching(student, mentor(), kd_weight=1.0)
    for weight in objective.projections.parameters():
        torch.nn.init.zeros_(weight)
    rows = rows_for(student, 4)
    batch = Collator("seq2seq", 0, 0)(rows)
    sums = objective.sums(Student.forward(student.model, batch, rows, owner=student.model, fused=True, layers=(1, 2)))
    assert sums.metrics["divergence"][1].item() == pytest.approx(objective.counts(rows)["tokens"], rel=1e-5)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_student_and_projections_are_trained_together_and_the_projections_are_discarded(
    family: str, tmp_path: Path
) -> None:
    student = learner(family, seed=2)
    names = list(weights(student))
    objective = HiddenMatching(student, mentor(family), kd_weight=1.0)
    before = {name: weight.clone() for name, weight in objective.projections.state_dict().items()}
    result = run(student, rows_for(student, 16), tmp_path, epochs=5, objective=objective)
    divergence = [row["divergence"] for row in result.history]
    assert divergence[-1] < 0.9 * divergence[0]
    assert list(weights(student)) == names
    after = objective.projections.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_with_weight_zero_it_is_fine_tuning(tmp_path: Path) -> None:
    results = []
    for matched in (True, False):
        student = learner(seed=2)
        objective = HiddenMatching(student, mentor(), kd_weight=0.0) if matched else None
        results.append(losses(run(student, rows_for(student, 8), tmp_path / str(matched), objective=objective)))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("adapters", [False, True])
def test_a_resumed_run_restores_its_projections(adapters: bool, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    sizes = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    lora = LoraConfig(r=4) if adapters else None
    config = ModelConfig(from_config=sizes, tokenizer=str(tmp_path / "tokenizer"), lora=lora)

    def start(folder: str, on_progress: Callable[[int, int], None]) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
        student = load_model(config, seed=0, device=torch.device("cpu"))
        objective = HiddenMatching(student, mentor(), kd_weight=0.5, seed=4)
        how: dict[str, Any] = {"epochs": 2, "objective": objective, "validate": lambda: 0.5, "on_progress": on_progress}
        result = run(student, rows_for(student, 12), tmp_path / folder, **how)
        return result, {**weights(student), **objective.projections.state_dict()}

    def kill(step: int, steps: int) -> None:
        if step == 5:
            raise Killed

    undisturbed = start("undisturbed", lambda step, steps: None)
    with pytest.raises(Killed):
        start("killed", kill)
    checkpoint = last_checkpoint(tmp_path / "killed")
    assert checkpoint is not None
    assert {"objective.1.weight", "objective.2.weight"} <= load_file(checkpoint / WEIGHTS).keys()
    torch.manual_seed(99)
    resumed = start("killed", lambda step, steps: None)
    assert resumed[0] == undisturbed[0]
    assert_same(resumed[1], undisturbed[1], rtol=0, atol=0)
