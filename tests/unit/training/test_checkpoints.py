"""Weights that a training restores are exactly those that it had, in every family of models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mentorkd.data.batching import Collator
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.errors import TrainingError
from mentorkd.models import LoadedModel, load_folder, save_model
from mentorkd.pipeline.outdated import CONVERTED
from mentorkd.recipe.learner import LoraConfig
from mentorkd.training.checkpoints import WEIGHTS, last_checkpoint, load_weights, save_weights
from mentorkd.training.train import TrainingResult
from tiny_architectures import ARCHITECTURES, build
from tiny_training import assert_same, learner, rows_for, run, weights

QUICK = {"gpt_neox", "mixtral", "llama", "t5gemma2"}
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]

BEST = {2: 0.9, 4: 0.5, 6: 0.1}
"""Validation accuracy at the end of each of three epochs: the first is the best."""


class Killed(Exception):
    pass


def trained(
    loaded: LoadedModel, folder: Path, killed_at: int | None = None, **changes: Any
) -> tuple[TrainingResult, dict[int, dict[str, Tensor]]]:
    """Train for three epochs of two updates; the result, and the weights at the end of each epoch."""
    now, seen = 0, {}

    def progress(step: int, steps: int) -> None:
        nonlocal now
        now = step
        if step == killed_at:
            raise Killed

    def validate() -> float:
        seen[now] = weights(loaded)
        return BEST[now]

    how = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-2, "validate": validate, "on_progress": progress}
    return run(loaded, rows_for(loaded, 4), folder, **{**how, **changes}), seen


def killed_and_resumed(make: Callable[[], LoadedModel], folder: Path) -> tuple[Any, dict[str, Tensor]]:
    with pytest.raises(Killed):
        trained(make(), folder, killed_at=5)
    torch.manual_seed(99)
    again = make()
    return trained(again, folder), weights(again)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_epoch_and_a_resumed_run_have_exactly_their_weights(family: str, tmp_path: Path) -> None:
    def make() -> LoadedModel:
        return build(family, tmp_path / "tokenizer")

    loaded = make()
    result, seen = trained(loaded, tmp_path / "undisturbed")
    assert result.best_step == 2
    assert_same(weights(loaded), seen[2], rtol=0, atol=0)
    assert any(not torch.equal(seen[2][name], seen[6][name]) for name in seen[2])
    (resumed, seen_again), final = killed_and_resumed(make, tmp_path / "killed")
    assert list(seen_again) == [6]
    assert_same(seen_again[6], seen[6], rtol=0, atol=0)
    assert_same(final, seen[2], rtol=0, atol=0)
    assert resumed == result

    save_model(loaded, tmp_path / "model", card="")
    names = load_file(tmp_path / "model/model.safetensors").keys()
    assert (names <= seen[2].keys()) is (family not in CONVERTED)
    published = load_folder(tmp_path / "model", device=torch.device("cpu"))
    assert_same(weights(published), seen[2], rtol=0, atol=0)
    batch = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)(rows_for(loaded, 4))
    with torch.no_grad():
        torch.testing.assert_close(target_logits(published.model, batch), target_logits(loaded.model, batch))


@pytest.mark.parametrize("family", ["gpt_neox", "t5"])
def test_adapters_are_restored_exactly(family: str, tmp_path: Path) -> None:
    def make() -> LoadedModel:
        return build(family, tmp_path / "tokenizer", lora=LoraConfig(r=2, dropout=0.1))

    loaded = make()
    result, seen = trained(loaded, tmp_path / "undisturbed")
    assert_same(weights(loaded), seen[2], rtol=0, atol=0)
    assert all("lora_" in name for name in load_file(tmp_path / "undisturbed/checkpoint-2" / WEIGHTS))
    (resumed, seen_again), final = killed_and_resumed(make, tmp_path / "killed")
    assert_same(seen_again[6], seen[6], rtol=0, atol=0)
    assert_same(final, seen[2], rtol=0, atol=0)
    assert resumed == result


def test_a_folder_that_was_moved_keeps_its_best_epoch(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trained(learner(), tmp_path / "before", killed_at=5)
    (tmp_path / "before").rename(tmp_path / "after")
    again = learner()
    trained(again, tmp_path / "after")
    undisturbed = learner()
    trained(undisturbed, tmp_path / "undisturbed")
    assert_same(weights(again), weights(undisturbed), rtol=0, atol=0)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "type", "damaged", "absent"])
def test_a_checkpoint_that_does_not_fit_is_an_error_and_changes_nothing(change: str, tmp_path: Path) -> None:
    loaded, file = learner(), tmp_path / "checkpoint-2" / WEIGHTS
    save_weights(learner(seed=1).model, file.parent)
    saved = load_file(file)
    name = "decoder.final_layer_norm.weight"
    match change:
        case "missing":
            del saved[name]
        case "unknown":
            saved["decoder.norm.weight"] = saved[name]
        case "shape":
            saved[name] = saved[name][:1]
        case "type":
            saved[name] = saved[name].bfloat16()
    save_file({key: value.clone() for key, value in saved.items()}, file)
    if change == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    if change == "absent":
        file.unlink()
    before = weights(loaded)
    with pytest.raises(TrainingError) as caught:
        load_weights(loaded.model, file.parent)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert f"remove {tmp_path}" in message
    told = {
        "missing": f"1 missing ({name})",
        "unknown": "1 not the model's (decoder.norm.weight)",
        "shape": f"1 of another shape or type ({name})",
        "type": f"1 of another shape or type ({name})",
    }
    assert told.get(change, "cannot read") in message
    assert_same(weights(loaded), before, rtol=0, atol=0)


def test_a_checkpoint_has_tied_weights_once_and_no_frozen_ones(tmp_path: Path) -> None:
    model = learner("gpt2").model
    model.transformer.wpe.weight.requires_grad = False
    save_weights(model, tmp_path)
    own = set(model.state_dict())
    assert own - set(load_file(tmp_path / WEIGHTS)) == {"lm_head.weight", "transformer.wpe.weight"}


def test_checkpoints_of_earlier_versions_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = trained(learner(), tmp_path / "undisturbed")
    with pytest.raises(Killed):
        trained(learner(), tmp_path / "old", killed_at=5)
    for checkpoint in (tmp_path / "old").iterdir():
        (checkpoint / WEIGHTS).rename(checkpoint / "model.safetensors")
    assert last_checkpoint(tmp_path / "old") is None
    again = learner()
    with caplog.at_level(logging.WARNING, logger="mentorkd"):
        result, seen = trained(again, tmp_path / "old")
    assert "an earlier version wrote the checkpoints" in caplog.text
    assert list(seen) == [2, 4, 6]
    assert result == undisturbed[0]
    assert_same(seen[6], undisturbed[1][6], rtol=0, atol=0)
    assert not list((tmp_path / "old").glob("*/model.safetensors"))
