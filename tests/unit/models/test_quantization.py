"""Adapters on 4-bit weights: training, and the plain model that is saved."""

from __future__ import annotations

import importlib.util
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.models import LoadedModel, check_structure, load_folder, load_model, merge_adapters, save_model
from mentorkd.models.quantization import is_quantised
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from mentorkd.training.adapters import merge_trained_adapters
from mentorkd.training.checkpoints import WEIGHTS
from tiny_architectures import build
from tiny_training import assert_same, losses, rows_for, run, weights

pytest.importorskip("bitsandbytes")


def base(family: str, folder: Path) -> ModelConfig:
    """A small saved model of a family, to be adapted in 4 bits."""
    plain = build(family, folder / "tokenizer")
    save_model(plain, folder / "base", card="")
    return ModelConfig(name=str(folder / "base"), lora=LoraConfig(r=8, alpha=64, dropout=0.0, bits=4))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_model_trained_in_four_bits_is_saved_as_any_other(family: str, tmp_path: Path) -> None:
    config, device = base(family, tmp_path), torch.device("cpu")
    check_structure(config)
    loaded = load_model(config, seed=0, device=device)
    four_bits = [name for name, p in loaded.model.named_parameters() if p.dtype == torch.uint8]
    assert is_quantised(loaded.model)
    assert len(four_bits) >= 14
    rows = rows_for(loaded, 8)
    result = run(loaded, rows, tmp_path / "run", epochs=8, learning_rate=3e-2)
    assert losses(result)[-1] < 0.99 * losses(result)[0]
    plain = build(family, tmp_path / "tokenizer")
    adapters = sum(p.numel() for name, p in loaded.model.named_parameters() if "lora_" in name)
    assert loaded.parameter_count == plain.parameter_count + adapters

    merged = merge_trained_adapters(loaded, rows)
    assert not is_quantised(merged.model)
    assert type(merged.model) is type(plain.model)
    save_model(merged, tmp_path / "saved", card="")
    again = load_folder(tmp_path / "saved", device=device)
    assert "quantization_config" not in again.model.config.to_dict()
    assert_same(weights(again), weights(merged), rtol=0, atol=0)
    # Nothing but the layers that were in 4 bits has changed.
    name = "lm_head.weight" if family == "llama" else "shared.weight"
    assert_same({name: weights(again)[name]}, {name: weights(plain)[name]}, rtol=0, atol=0)
    changed = [name for name, value in weights(plain).items() if not torch.equal(value, weights(again)[name])]
    assert len(changed) == len(four_bits)


def test_changes_are_merged_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    loaded = load_model(base("llama", tmp_path), seed=0, device=torch.device("cpu"))
    alive: list[int] = []
    changes: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    own = Linear4bit.get_delta_weight

    def watched(layer: Linear4bit, adapter: str) -> torch.Tensor:
        alive.append(len(changes))
        change: torch.Tensor = own(layer, adapter)
        changes.add(change)
        return change

    monkeypatch.setattr(Linear4bit, "get_delta_weight", watched)
    merge_adapters(loaded)
    assert len(alive) == 4
    assert max(alive) <= 1


def test_a_resumed_training_in_four_bits_is_the_same(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def start(folder: str, killed_at: int | None = None) -> LoadedModel:
        def on_progress(step: int, steps: int) -> None:
            if step == killed_at:
                raise Killed

        loaded = load_model(config, seed=0, device=torch.device("cpu"))
        run(loaded, rows_for(loaded, 8), tmp_path / folder, epochs=2, validate=lambda: 0.5, on_progress=on_progress)
        return loaded

    config = base("llama", tmp_path)
    with pytest.raises(Killed):
        start("killed", 3)
    assert_same(weights(start("killed")), weights(start("undisturbed")), rtol=0, atol=0)
    assert all("lora_" in name for name in load_file(tmp_path / "killed/checkpoint-4" / WEIGHTS))


def test_transposed_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="GPT2LMHeadModel are transposed"):
        check_structure(base("gpt2", tmp_path))


def test_without_the_package_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = base("llama", tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "mentorkd.models.quantization.find_spec",
        lambda name: None if name == "bitsandbytes" else find_spec(name),
    )
    with pytest.raises(
        MissingExtraError, match=r"`lora.bits` needs an optional package; .*pip install .*\[bitsandbytes\]"
    ):
        check_structure(config)
