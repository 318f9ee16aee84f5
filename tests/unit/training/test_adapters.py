"""Adapters merged into the weights: the merged model is the trained one, or there is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear

from mentorkd.errors import ModelError, TrainingError
from mentorkd.models import LoadedModel, check_structure
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from mentorkd.training import adapters
from mentorkd.training.adapters import merge_trained_adapters
from tiny_architectures import ARCHITECTURES, build
from tiny_training import assert_same, learner, rows_for, run, weights


def adapted(family: str, folder: Path, targets: list[str] | None, dtype: str = "float32") -> LoadedModel:
    """A model after a short training of its adapters."""
    lora = LoraConfig(r=2, dropout=0.0, target_modules=targets)
    loaded = build(family, folder / "tokenizer", lora=lora, dtype=dtype)
    run(loaded, rows_for(loaded, 4), folder / "run", epochs=3, learning_rate=3e-2)
    return loaded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", ["q_proj", "lm_head", "embed_tokens"]), ("mixtral", ["q_proj", "o_proj"]), ("t5", None)],
)
def test_a_right_merge_passes(family: str, targets: list[str] | None, dtype: str, tmp_path: Path) -> None:
    merged = merge_trained_adapters(loaded := adapted(family, tmp_path, targets, dtype), rows_for(loaded, 4))
    assert not merged.has_adapters
    assert not [name for name in weights(merged) if "lora_" in name]


def test_a_merge_that_changes_the_model_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = adapted("llama", tmp_path, None)
    monkeypatch.setattr(Linear, "merge", lambda self, **how: self.merged_adapters.append("default"))
    with pytest.raises(TrainingError, match=r"merging the adapters changed the model: .* differ by .* at most 0\.001"):
        merge_trained_adapters(loaded, rows_for(loaded, 4))


def test_a_merge_is_examined_with_attention_of_any_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention takes no float32, in which weights are merged."""
    loaded = build("llama", tmp_path / "tokenizer", lora=LoraConfig(r=2))
    used, read = list[str](), adapters.target_logits
    loaded.model.set_attn_implementation("flex_attention")

    def reading(model: Any, batch: Any) -> torch.Tensor:
        used.append(model.config._attn_implementation)
        return read(model, batch)

    monkeypatch.setattr(adapters, "target_logits", reading)
    merge_trained_adapters(loaded, rows_for(loaded, 4))
    assert used == ["sdpa", "sdpa"]


def test_a_model_without_adapters_is_left_alone() -> None:
    loaded = learner()
    before = weights(loaded)
    assert merge_trained_adapters(loaded, rows_for(loaded, 1)) is loaded
    assert_same(weights(loaded), before, rtol=0, atol=0)


TIED = [
    ("llama", {"tie_word_embeddings": True}, "lm_head"),
    ("llama", {"tie_word_embeddings": True}, "embed_tokens"),
    ("gpt2", {}, "lm_head"),
    ("t5", {}, "lm_head"),
    ("gemma2", {}, "embed_tokens"),
]


@pytest.mark.parametrize(("family", "changes", "target"), TIED)
def test_adapters_of_tied_weights_are_refused(
    family: str, changes: dict, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, family, {**ARCHITECTURES[family], **changes})
    lora = LoraConfig(r=2, target_modules=["q_proj", target])
    config = ModelConfig(from_config={"model_type": family, **ARCHITECTURES[family]}, tokenizer="none", lora=lora)
    with pytest.raises(
        ModelError, match=rf"`lora.target_modules` with .*{target}, but .* share their weights"
    ) as early:
        check_structure(config)
    assert "\n" not in str(early.value)
    with pytest.raises(ModelError) as late:
        build(family, tmp_path / "tokenizer", lora=lora)
    assert str(late.value) == str(early.value)


def test_adapters_of_weights_that_are_not_tied_are_accepted(tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=["lm_head", "embed_tokens"])
    check_structure(
        ModelConfig(from_config={"model_type": "llama", **ARCHITECTURES["llama"]}, tokenizer="none", lora=lora)
    )


def test_of_a_saved_t5_with_a_head_of_its_own_the_weights_decide(tmp_path: Path) -> None:
    loaded = learner(tie_word_embeddings=False)
    loaded.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(loaded.model.lm_head.weight))
    for part in (loaded.model, loaded.tokenizer):
        part.save_pretrained(tmp_path)
    check_structure(ModelConfig(name=str(tmp_path), lora=LoraConfig(target_modules=["q", "lm_head"])))
