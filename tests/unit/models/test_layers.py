"""Models cut to some of their layers: they compute what the whole model computes without the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from mentorkd.errors import ModelError
from mentorkd.models import check_structure, config_of, layer_count, load_folder, load_model, save_model
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from tiny_architectures import ARCHITECTURES
from tiny_models import tiny_t5, tiny_tokenizer

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


DEEP: dict[str, dict[str, Any]] = {
    **{
        family: {**ARCHITECTURES[family], "num_hidden_layers": 4}
        for family in ("llama", "qwen2", "qwen3", "mistral", "opt", "mixtral", "gpt_neox", "mamba", "cohere")
    },
    "gpt2": {**ARCHITECTURES["gpt2"], "n_layer": 4},
    "gemma2": {**ARCHITECTURES["gemma2"], "num_hidden_layers": 4, "sliding_window": 3},
    "smollm3": {**ARCHITECTURES["smollm3"], "num_hidden_layers": 4},
    "t5": {**ARCHITECTURES["t5"], "num_layers": 4},
    "umt5": {**ARCHITECTURES["umt5"], "num_layers": 4},
    "bart": {**ARCHITECTURES["bart"], "encoder_layers": 4, "decoder_layers": 4},
    "granitemoehybrid": {
        **ARCHITECTURES["granitemoehybrid"],
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "attention", "attention", "mamba"],
    },
}
"""Families with four layers a stack."""


def config_for(family: str, tokenizer: Path, **changes: Any) -> ModelConfig:
    return ModelConfig(from_config={"model_type": family, **DEEP[family]}, tokenizer=str(tokenizer), **changes)


def build(config: ModelConfig) -> Any:
    return load_model(config, seed=3, device=CPU).model.eval()


def logits(model: Any) -> torch.Tensor:
    more = {"decoder_input_ids": IDS[:, :4]} if model.config.is_encoder_decoder else {}
    return model(input_ids=IDS, use_cache=False, **more).logits


def stacks(model: Any) -> list[Any]:
    """The lists of layers of a model with four of them each."""
    return [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == 4]


def skip(layer: Any) -> None:
    """Make a layer pass its input on. What else it returns (T5's relative positions) stays."""
    forward = layer.forward

    def passed(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        output = forward(*args, **kwargs)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    layer.forward = passed


@pytest.mark.parametrize("kept", [[0, 2], [1, 3]])
@pytest.mark.parametrize("family", DEEP)
@torch.no_grad()
def test_a_cut_model_computes_what_the_whole_one_does_without_the_other_layers(
    family: str, kept: list[int], tokenizer_folder: Path, tmp_path: Path
) -> None:
    config = config_for(family, tokenizer_folder, layers=kept)
    check_structure(config)
    loaded = load_model(config, seed=3, device=CPU)
    whole = build(config_for(family, tokenizer_folder))
    before = logits(whole)
    for layers in stacks(whole):
        for index, layer in enumerate(layers):
            if index not in kept:
                skip(layer)
    expected = logits(whole)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(logits(loaded.model.eval()), expected)
    save_model(loaded, tmp_path, card="")
    auto = AutoModelForSeq2SeqLM if loaded.kind == "seq2seq" else AutoModelForCausalLM
    saved = auto.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(saved), expected)
    assert layer_count(saved.config) == layer_count(config_of(config)) == len(kept)
    assert saved.generate(IDS, max_new_tokens=4, do_sample=False).shape[0] == 1


def test_lists_of_one_value_a_layer_follow(tokenizer_folder: Path) -> None:
    config = config_of(config_for("gemma2", tokenizer_folder, layers=[0, 2]))
    assert config.layer_types == ["sliding_attention", "sliding_attention"]
    assert config.num_hidden_layers == 2


@torch.no_grad()
def test_a_t5_without_its_first_layer_keeps_its_relative_positions(tokenizer_folder: Path) -> None:
    whole = build(config_for("t5", tokenizer_folder)).state_dict()
    cut = build(config_for("t5", tokenizer_folder, layers=[1, 2])).state_dict()
    for stack in ("encoder", "decoder"):
        name = f"{stack}.block.0.layer.0.SelfAttention"
        bias = "relative_attention_bias.weight"
        assert torch.equal(cut[f"{name}.{bias}"], whole[f"{name}.{bias}"])
        assert torch.equal(cut[f"{name}.q.weight"], whole[f"{name.replace('0', '1', 1)}.q.weight"])


@pytest.mark.parametrize(
    ("family", "changes", "layers", "depths"),
    [
        ("t5", {}, {"decoder": [0]}, (4, 1)),
        ("t5", {"num_decoder_layers": 2}, [0, 1], (2, 2)),
        ("bart", {}, {"encoder": [0, 1, 3], "decoder": [0, 3]}, (3, 2)),
    ],
)
def test_each_stack_may_keep_layers_of_its_own(
    family: str,
    changes: dict[str, int],
    layers: Any,
    depths: tuple[int, int],
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DEEP, family, {**DEEP[family], **changes})
    model = build(config_for(family, tokenizer_folder, layers=layers))
    parts = (model.get_encoder(), model.get_decoder())
    assert tuple(len(getattr(part, "block" if family == "t5" else "layers")) for part in parts) == depths


@torch.no_grad()
def test_a_saved_model_is_cut_and_gets_adapters(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    for part in (tiny_t5(tokenizer, num_layers=3), tokenizer):
        part.save_pretrained(tmp_path / "whole")
    config = ModelConfig(name=str(tmp_path / "whole"), layers=[0, 2], lora=LoraConfig(r=2))
    check_structure(config)
    loaded = load_model(config, seed=0, device=CPU)
    assert loaded.has_adapters
    save_model(loaded, tmp_path / "cut", card="")
    saved = load_folder(tmp_path / "cut", device=CPU).model
    assert AutoConfig.from_pretrained(tmp_path / "cut").num_layers == 2
    whole = load_folder(tmp_path / "whole", device=CPU).model
    assert torch.equal(
        saved.decoder.block[1].layer[2].DenseReluDense.wi.weight,
        whole.decoder.block[2].layer[2].DenseReluDense.wi.weight,
    )


def test_the_data_type_stays(tokenizer_folder: Path) -> None:
    model = build(config_for("llama", tokenizer_folder, layers=[1], dtype="bfloat16"))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_tied_weights_stay_tied(tokenizer_folder: Path) -> None:
    model = build(config_for("gpt2", tokenizer_folder, layers=[1]))
    assert model.lm_head.weight is model.transformer.wte.weight


# --- errors: one clear line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "layers", "message"),
    [
        ("llama", [0, 4], "got `layers` with 4, but the last decoder layer of this llama is 3; layers are counted from 0"),
        ("t5", {"encoder": [4]}, "the last encoder layer of this t5 is 3"),
        ("gpt2", {"encoder": [0]}, "a gpt2 has one stack; give a list"),
        ("jamba", [1], "a jamba cannot be cut to these `layers`"),
        ("minimax", [0], "`num_hidden_layers` of layer 0 is 2, and would be 1"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_kept_are_refused_before_a_model_is_loaded(
    family: str, layers: Any, message: str, tokenizer_folder: Path
) -> None:
    sizes = {"model_type": family, **DEEP.get(family, ARCHITECTURES[family])}
    config = ModelConfig(from_config=sizes, tokenizer=str(tokenizer_folder), layers=layers)
    with pytest.raises(ModelError) as early:
        check_structure(config)
    assert message in str(early.value)
    assert "\n" not in str(early.value)
    with pytest.raises(ModelError) as late:
        build(config)
    assert str(late.value) == str(early.value)


@pytest.mark.parametrize(
    "layers",
    [[], [3, 0], [0, 0], [-1], [True], ["0"], [0.5], 3, "all", {}, {"encoder": []}, {"both": [0]}, {"decoder": None}],
)
def test_lists_that_are_no_choice_of_layers_are_refused(layers: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig(name="m", layers=layers)
    [error] = caught.value.errors()
    assert "expected layers from 0 in rising order, each once" in error["msg"]


def test_the_weights_of_another_learner_are_not_cut() -> None:
    with pytest.raises(ValidationError, match="`layers` belongs to the model of `healed`; remove it here"):
        ModelConfig(learner="healed", layers=[0])
