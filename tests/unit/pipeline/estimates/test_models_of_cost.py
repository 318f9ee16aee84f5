"""The models of memory and work, against what torch saves and counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mentorkd.models import load_model
from mentorkd.pipeline.estimates.lengths import Lengths
from mentorkd.pipeline.estimates.machine import Machine
from mentorkd.pipeline.estimates.memory import activation_bytes, generation_memory, training_memory
from mentorkd.pipeline.estimates.work import Row, forward_operations, training_seconds
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.learner import LoraConfig, ModelConfig, TrainingConfig
from mentorkd.recipe.sizes import ModelSize, size_of

SOURCE, TARGET, ROWS = 24, 16, 2
SHAPES: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 3, "feed_forward_proj": "gated-gelu"},
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 3},
    "llama": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
    },
}


def shaped(model_type: str) -> ModelConfig:
    return ModelConfig(
        from_config={"model_type": model_type, **SHAPES[model_type]}, tokenizer=str(MODELS / "nano-t5-small")
    )


def built(model_type: str) -> tuple[Any, ModelSize]:
    config = shaped(model_type)
    size = size_of(config)
    assert size is not None
    return load_model(config, seed=0, device=torch.device("cpu")).model, size


def hidden(model: Any) -> Any:
    """A forward pass up to the last hidden states."""
    source, target = (torch.ones(ROWS, tokens, dtype=torch.long) for tokens in (SOURCE, TARGET))
    if not model.config.is_encoder_decoder:
        ids = torch.cat([source, target], 1)
        return model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    read = model.encoder(input_ids=source, attention_mask=torch.ones_like(source)).last_hidden_state
    seen = {"encoder_hidden_states": read, "encoder_attention_mask": torch.ones_like(source)}
    return model.decoder(input_ids=target, attention_mask=torch.ones_like(target), use_cache=False, **seen)


@pytest.mark.parametrize("model_type", SHAPES)
def test_activations_are_what_torch_saves_for_the_backward_pass(model_type: str) -> None:
    model, size = built(model_type)
    model.train()
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}
    kept = []  # memory that is freed would be counted once for two tensors

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden(model)
    assert sum(saved.values()) == pytest.approx(ROWS * activation_bytes(size, SOURCE, TARGET), rel=0.12)


@pytest.mark.parametrize("model_type", SHAPES)
def test_operations_are_what_torch_counts(model_type: str) -> None:
    model, size = built(model_type)
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.lm_head(hidden(model).last_hidden_state[:, -TARGET:])
    assert counter.get_total_flops() == pytest.approx(ROWS * forward_operations(size, Row(SOURCE, TARGET)), rel=0.1)


def test_less_is_trained_with_adapters_and_less_is_kept_with_checkpointing() -> None:
    lengths = Lengths(SOURCE, TARGET, SOURCE, TARGET, 512, 256, None, 1)

    def parts(training: dict[str, Any] | None = None, **model: Any) -> Any:
        config = ModelConfig(name="google/flan-t5-large", **model)
        size = size_of(config)
        assert size is not None
        return training_memory("student", size, config, TrainingConfig(**training or {}), lengths, "gpu").parts

    whole, adapted = parts(), parts(lora=LoraConfig())
    assert [round(whole[part] / 1e9, 1) for part in ("weights", "gradients", "optimiser")] == [3.1, 3.1, 6.3]
    assert adapted["optimiser"] < 0.03 * whole["optimiser"]
    assert adapted["weights"] < 0.6 * whole["weights"]  # bfloat16
    assert parts({"gradient_checkpointing": True})["activations"] < 0.4 * whole["activations"]
    assert parts({"batch_size": 2})["activations"] < 0.5 * whole["activations"]
    sharded = parts({"processes": 4, "sharding": "fsdp"})
    assert sharded["optimiser"] == whole["optimiser"] / 4


def test_generation_holds_keys_and_values_of_all_texts() -> None:
    config = ModelConfig(name="gpt2")
    size = size_of(config)
    assert size is not None
    one, two = (generation_memory("s", size, config, rows, 100, 50, "cpu").parts["keys and values"] for rows in (8, 16))
    assert two == 2 * one == 16 * 2 * (100 + 50) * 2 * 4 * 12 * 768


def test_a_machine_of_twice_the_speed_takes_less_time_and_no_more_than_half() -> None:
    config = ModelConfig(name="google/flan-t5-large")
    size = size_of(config)
    assert size is not None

    def seconds(flops: float) -> float:
        machine = Machine("cpu", "one core", None, flops, flops / 3, "")
        row = Row(100, 100)
        return training_seconds(size, config, TrainingConfig(epochs=1), row, machine, updates=100, rows_an_update=8)

    assert 0.5 <= seconds(1e11) / seconds(5e10) < 0.75
