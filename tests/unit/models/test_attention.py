"""`attn_implementation`: what it reaches, what refuses it, and that no saved model has it."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from mentorkd.errors import ModelError
from mentorkd.models import check_structure, load_folder, load_model, merge_adapters, save_model
from mentorkd.models.attention import attention_for_generation, check_attention
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from tiny_architectures import ARCHITECTURES
from tiny_models import tiny_llama, tiny_tokenizer

CPU = torch.device("cpu")


def config_of(folder: Path, family: str, **changes: Any) -> ModelConfig:
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    values = {"model_type": family, **ARCHITECTURES[family]}
    return ModelConfig(from_config=values, tokenizer=str(folder / "tokenizer"), **changes)


MORE = ({}, {"lora": LoraConfig(r=2)})


@pytest.mark.parametrize("changes", [{"layers": [1]}, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE)])
def test_attention_is_the_models_and_not_the_saved_folders(changes: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_model(config_of(tmp_path, "llama", attn_implementation="eager", **changes), seed=0, device=CPU)
    assert loaded.model.config._attn_implementation == "eager"
    save_model(merge_adapters(loaded), tmp_path / "saved", card="")
    assert "attn" not in (tmp_path / "saved/config.json").read_text()
    again = load_folder(tmp_path / "saved", device=CPU)
    assert again.model.config._attn_implementation == "sdpa"
    for chosen in ("eager", None):
        pretrained = ModelConfig(name=str(tmp_path / "saved"), attn_implementation=chosen)
        model = load_model(pretrained, seed=0, device=CPU).model
        assert model.config._attn_implementation == (chosen or "sdpa")


def test_a_t5_on_a_cpu_keeps_the_attention_that_a_recipe_chooses(tmp_path: Path) -> None:
    for chosen in ("sdpa", None):
        loaded = load_model(config_of(tmp_path, "t5", attn_implementation=chosen), seed=0, device=CPU)
        assert loaded.model.config._attn_implementation == (chosen or "eager")


def test_attention_that_the_machine_does_not_have_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("flash_attention_2", "flex_attention"):
        with pytest.raises(ModelError, match=rf"^got `attn_implementation: {name}` on cpu, which needs a GPU"):
            load_model(config_of(tmp_path, "llama", attn_implementation=name), seed=0, device=CPU)
    cuda = torch.device("cuda")
    monkeypatch.setattr("mentorkd.models.attention.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"install it with: pip install flash-attn --no-build-isolation$"):
        check_attention("flash_attention_2", cuda)
    monkeypatch.setattr("mentorkd.models.attention.find_spec", lambda name: ModuleSpec(name, None))
    for name in ("flash_attention_2", "flex_attention", "sdpa", "eager", None):
        check_attention(name, cuda)


def test_attention_that_a_family_does_not_have_is_refused_before_its_weights_are_made(tmp_path: Path) -> None:
    check_structure(config_of(tmp_path, "mamba"))
    with pytest.raises(ModelError, match="MambaForCausalLM does not support an attention implementation") as caught:
        check_structure(config_of(tmp_path, "mamba", attn_implementation="sdpa"))
    assert "\n" not in str(caught.value)


def test_generation_has_attention_of_any_type_and_training_its_own_again() -> None:
    model = tiny_llama(tiny_tokenizer())
    for own, in_generation in (("flex_attention", "sdpa"), ("eager", "eager")):
        model.set_attn_implementation(own)
        with attention_for_generation(model):
            assert model.config._attn_implementation == in_generation
        assert model.config._attn_implementation == own
