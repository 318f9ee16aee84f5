"""Padding before a prompt must change nothing; a model that it changes is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mentorkd.errors import ModelError
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.transformers_engine import TransformersEngine
from tiny_models import tiny_gpt2, tiny_llama, tiny_t5, tiny_tokenizer

TOKENIZER = tiny_tokenizer(append_eos=False)
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 3,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 64}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "falcon_mamba": {"state_size": 8},
    "recurrent_gemma": {**HEADS, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64},
    "lfm2": {**HEADS, "layer_types": ["conv", "full_attention"]},
}
PROMPTS = ["How many?", "Tom has 3 apples and buys 4 more. How many apples does he have now?"]
SHORT = SamplingParams(max_new_tokens=2)


def engine(family: str, **settings: Any) -> TransformersEngine:
    torch.manual_seed(0)
    model: Any
    if family in ("gpt2", "llama"):
        model = {"gpt2": tiny_gpt2, "llama": tiny_llama}[family](TOKENIZER)
    else:
        rwkv = {"attention_hidden_size": 32, "intermediate_size": 64, "context_length": 256}
        config = AutoConfig.for_model(family, **{**SIZES, **RECURRENT.get(family, rwkv)})
        model = AutoModelForCausalLM.from_config(config).eval()
    return TransformersEngine(model, TOKENIZER, "causal", **settings)


def forwards(served: TransformersEngine) -> list[int]:
    """Filled with the rows of every forward pass."""
    rows: list[int] = []
    served.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return rows


def test_rwkv_is_refused_where_prompts_share_a_batch() -> None:
    with pytest.raises(ModelError, match=r"RwkvForCausalLM does not ignore the padding .* set `batch_size: 1`"):
        engine("rwkv").sample(PROMPTS, SHORT, seed=0)


def test_rwkv_serves_without_padding() -> None:
    alone = engine("rwkv", batch_size=1).sample(PROMPTS, SHORT, seed=0)
    assert [len(samples) for samples in alone] == [1, 1]
    engine("rwkv").sample([PROMPTS[0]] * 2, SHORT, seed=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", *RECURRENT])
@pytest.mark.parametrize("use_generate", [False, True], ids=["own loop", "generate"])
@pytest.mark.filterwarnings("ignore")  # of kernels that are not installed
def test_families_that_ignore_padding_serve(family: str, use_generate: bool) -> None:
    served = engine(family, use_generate=use_generate)
    assert len(served.sample(PROMPTS, SHORT, seed=0)) == 2


def test_a_model_is_measured_once_and_only_where_there_is_padding() -> None:
    served = engine("llama")
    rows = forwards(served)
    served.sample([PROMPTS[0]] * 2, SamplingParams(max_new_tokens=1), seed=0)
    assert rows == [1], "equal prompts are read once"
    rows.clear()
    for _ in range(2):
        served.sample(PROMPTS, SamplingParams(max_new_tokens=1), seed=0)
    assert rows == [1, 2, 2, 2]


def test_padding_on_the_right_is_not_measured() -> None:
    tokenizer = tiny_tokenizer()
    served = TransformersEngine(tiny_t5(tokenizer), tokenizer, "seq2seq")
    served.sample(PROMPTS, SHORT, seed=0)
    assert not served._padding_is_ignored
