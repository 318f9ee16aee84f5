"""The sizes of models from their configs, against the models themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gguf_files import write_gguf
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.known_models import published_config
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from mentorkd.recipe.sizes import in_words, size_of
from tiny_models import tiny_gpt2, tiny_llama, tiny_tokenizer

NAMES = [
    "google/flan-t5-small",
    "t5-small",
    "gpt2",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-0.6B",
]


def without_weights(config: dict[str, Any]) -> Any:
    """The model of a config, without memory for its weights."""
    values = {key: value for key, value in config.items() if key != "model_type"}
    settings = AutoConfig.for_model(config["model_type"], **values)
    with torch.device("meta"):
        model: Any = (AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM).from_config(
            settings
        )
    model.tie_weights()
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_published_config_gives_the_weights_of_the_model(name: str) -> None:
    config, size = published_config(name), size_of(ModelConfig(name=name))
    assert config is not None
    assert size is not None
    weights = sum(parameter.numel() for parameter in without_weights(config).parameters())
    untied = size.head if config["model_type"] == "t5" and not size.tied else 0  # transformers 5 builds new T5s tied
    assert size.parameters == weights + untied


@pytest.mark.parametrize("model_type", ["t5", "mt5", "gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_a_config_with_few_keys_has_the_defaults_of_its_type(model_type: str) -> None:
    config = {"model_type": model_type, "vocab_size": 640}
    size = size_of(ModelConfig(from_config=config, tokenizer=str(MODELS / "nano-t5-small")))
    assert size is not None
    assert size.parameters == sum(parameter.numel() for parameter in without_weights(config).parameters())


# peft uses a name that transformers has changed.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("name", "task"), [("t5-small", TaskType.SEQ_2_SEQ_LM), ("gpt2", TaskType.CAUSAL_LM)])
def test_adapters_have_the_weights_that_peft_gives_them(name: str, task: TaskType) -> None:
    config, size = published_config(name), size_of(ModelConfig(name=name))
    assert config is not None
    assert size is not None
    adapted = get_peft_model(without_weights(config), PeftLora(r=8, task_type=task, fan_in_fan_out=name == "gpt2"))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert size.adapters(LoraConfig(r=8)) == trained


def test_cut_layers_count_less_and_unknown_models_are_not_guessed() -> None:
    whole, cut = (size_of(ModelConfig(name="gpt2", layers=layers)) for layers in (None, [0, 5, 11]))
    assert whole is not None
    assert cut is not None
    assert whole.parameters - cut.parameters == 9 * (whole.decoder.weights - 2 * 768) / 12
    assert size_of(ModelConfig(name="someone/model-7B")) is None
    nano = size_of(ModelConfig(name=str(MODELS / "nano-t5-small")))
    assert nano is not None
    assert (nano.basis, nano.vocabulary) == ("its config.json", 594)
    rows = size_of(ModelConfig(from_config={"model_type": "gpt2"}, tokenizer=str(MODELS / "nano-t5-small")))
    assert rows is not None
    assert rows.vocabulary == 640  # 594 tokens in rows of 64


@pytest.mark.parametrize(
    ("weights", "words"), [(1.26e6, "1.3 M"), (76_961_152, "77 M"), (7.8e8, "0.78 B"), (1.1e10, "11 B")]
)
def test_weights_in_words(weights: float, words: str) -> None:
    assert in_words(weights) == words


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_gguf_file_tells_its_sizes_before_it_is_converted(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    tokenizer = tiny_tokenizer(append_eos=False)
    model = make(tokenizer)
    size = size_of(ModelConfig(name=str(write_gguf(tmp_path / "model.gguf", model, tokenizer))))
    assert size is not None
    assert (size.basis, size.parameters) == ("its GGUF file", sum(each.numel() for each in model.parameters()))
