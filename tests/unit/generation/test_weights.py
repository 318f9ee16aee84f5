"""Weights in another type: only for a call, or for good; some stay float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mentorkd.generation import open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.weights import cast_weights, weights_in
from mentorkd.models import LoadedModel, save_model
from tiny_families import CPU, PROMPTS
from tiny_models import tiny_gpt2, tiny_t5, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
GREEDY = SamplingParams(max_new_tokens=8)


def test_parameters_are_the_same_objects_with_their_own_values_afterwards() -> None:
    model = tiny_gpt2(TOKENIZER)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def fail() -> None:
        with weights_in(model, "bfloat16"):
            assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
            assert model.lm_head.weight is model.transformer.wte.weight
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    optimiser.step()
    assert not torch.equal(model.lm_head.weight, before["transformer.wte.weight"])


def test_none_changes_nothing() -> None:
    model = tiny_gpt2(TOKENIZER)
    weight = model.lm_head.weight.data
    with weights_in(model, None):
        assert model.lm_head.weight.data.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize(("dtype", "wide"), [("float16", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_overflows_in_float16_stays_float32(dtype: Any, wide: torch.dtype) -> None:
    model = tiny_t5(TOKENIZER)
    cast_weights(model, dtype)
    assert model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == wide
    assert model.shared.weight.dtype == getattr(torch, dtype)
    assert torch.isfinite(model(input_ids=torch.tensor([[5]]), decoder_input_ids=torch.tensor([[0]])).logits).all()


def test_a_folder_is_cast_once_and_a_model_in_memory_for_a_call(tmp_path: Path) -> None:
    loaded = LoadedModel(tiny_t5(TOKENIZER), TOKENIZER, "seq2seq")
    save_model(loaded, tmp_path, card="")
    own = open_engine("transformers", model_dir=tmp_path, device=CPU, dtype="bfloat16")
    theirs = open_engine("transformers", loaded=loaded, device=CPU, dtype="bfloat16")
    assert own.sample(PROMPTS[:3], GREEDY, seed=0) == theirs.sample(PROMPTS[:3], GREEDY, seed=0)
    assert own.model.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert loaded.model.dtype == torch.float32
