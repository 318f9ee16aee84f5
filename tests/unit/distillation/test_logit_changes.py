"""Mentors that change their logits after the head: told from the config, and stored by their k likeliest tokens in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.distillation.hidden_states import head_is_linear, target_hidden
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import SoftLabelStore
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, logit_change, model_kind
from tiny_models import ONE_LAYER, tiny_gpt2, tiny_llama, tiny_t5, tiny_tokenizer

TOKENIZER = tiny_tokenizer(append_eos=False)
WORDS = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
CAP = 0.05  # the logits of random weights are small
CHANGES: dict[str, dict[str, Any]] = {
    "gemma2": {**ONE_LAYER, **WORDS, "final_logit_softcapping": CAP},
    "t5gemma": {part: {**ONE_LAYER, **WORDS, "final_logit_softcapping": CAP} for part in ("encoder", "decoder")},
    "cohere": {**ONE_LAYER, **WORDS, "logit_scale": 0.0625},
    "granite": {**ONE_LAYER, **WORDS, "logits_scaling": 8.0},
    "gemma3n_text": {
        **ONE_LAYER,
        **WORDS,
        "num_hidden_layers": 2,
        "intermediate_size": [64, 64],
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": CAP,
        "vocab_size_per_layer_input": len(TOKENIZER),
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
}


def mentor(family: str) -> LoadedModel:
    config = AutoConfig.for_model(family, **CHANGES[family])
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(0)
    return LoadedModel(auto.from_config(config).eval(), TOKENIZER, model_kind(config))


def rows_for(loaded: LoadedModel, count: int = 5) -> list[Example]:
    texts = [(f"r{n}", "How many?" * (n % 3 + 1), f"{n} + {n % 7} = {n + n % 7}." * (n % 2 + 1)) for n in range(count)]
    return encode_rows(texts, TextEncoder(TOKENIZER, loaded.kind), max_source_tokens=99, max_target_tokens=99)[0]


def write(loaded: LoadedModel, folder: Path, mode: str, *, bfloat16: bool = False, count: int = 5) -> list[Example]:
    rows = rows_for(loaded, count)
    how = {"mode": mode, "top_k": 8, "temperature": 2.0, "bfloat16": bfloat16}
    about = {"mentor_digest": "m", "target": "arrow", "on_progress": lambda done, total: None}
    score(loaded, rows, folder=folder, **how, **about)
    return rows


@torch.no_grad()
def exact_logits(loaded: LoadedModel, row: Example) -> torch.Tensor:
    """The model's own logits of one row, without this package's batches: no padding, all positions visible."""
    target = row.target_ids
    if loaded.kind == "seq2seq":
        source, started = torch.tensor([row.source_ids]), torch.tensor([[3, *target[:-1]]])
        masks = {"attention_mask": torch.ones_like(source), "decoder_attention_mask": torch.ones_like(started)}
        return loaded.model(input_ids=source, decoder_input_ids=started, **masks).logits[0]
    ids = torch.tensor([[*row.source_ids, *target[:-1]]])
    return loaded.model(input_ids=ids).logits[0, len(row.source_ids) - 1 :]


@pytest.mark.parametrize("family", CHANGES)
def test_top_k_holds_the_changed_logits(family: str, tmp_path: Path) -> None:
    loaded = mentor(family)
    rows = write(loaded, tmp_path, "top_k")
    for row in rows:
        stored = SoftLabelStore(tmp_path).row(row.rationale_id)
        kept = (exact_logits(loaded, row).float() / 2.0).log_softmax(-1).topk(8)
        np.testing.assert_allclose(stored["log_probs"], kept.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", CHANGES)
def test_hidden_states_are_refused_before_anything_is_written(family: str, tmp_path: Path) -> None:
    loaded = mentor(family)
    with pytest.raises(ModelError, match="changes its logits after the head"):
        write(loaded, tmp_path, "hidden")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", CHANGES)
def test_the_config_tells_what_the_model_does(family: str) -> None:
    loaded = mentor(family)
    batch = Collator.for_model(loaded.kind, TOKENIZER, loaded.model.config)(rows_for(loaded)[:1])
    assert not head_is_linear(loaded.model, batch)
    assert logit_change(loaded.model.config) is not None


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_t5])
def test_models_with_a_linear_head_are_not_suspected(make: Callable[..., Any]) -> None:
    assert logit_change(make(TOKENIZER).config) is None
    assert logit_change(AutoConfig.for_model("granite", logits_scaling=1.0)) is None
    assert logit_change(AutoConfig.for_model("gemma2", final_logit_softcapping=None)) is None


AFTER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cohere": lambda logits: logits * 0.0625,
    "granite": lambda logits: logits / 8.0,
}


@pytest.mark.parametrize("family", CHANGES)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["autocast", "weights in bfloat16"])
def test_the_head_and_what_follows_it_are_computed_in_float32(
    family: str, weights: torch.dtype, tmp_path: Path
) -> None:
    loaded = mentor(family)
    loaded.model.to(weights)
    live = OnlineMentor(loaded)
    write(loaded, tmp_path, "top_k", bfloat16=True, count=1)
    [row] = rows_for(loaded, 1)
    batch = Collator.for_model(loaded.kind, TOKENIZER, loaded.model.config)([row])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = target_hidden(loaded.model, batch)
        logits = live.targets_for([row], batch).logits()
    product = hidden.double() @ loaded.model.get_output_embeddings().weight.double().T
    expected = AFTER.get(family, lambda logits: CAP * torch.tanh(logits / CAP))(product)
    torch.testing.assert_close(logits, expected.float(), rtol=1e-5, atol=1e-6)
    kept = (expected / 2.0).log_softmax(-1).topk(8).values
    np.testing.assert_allclose(SoftLabelStore(tmp_path).row(row.rationale_id)["log_probs"], kept, rtol=0, atol=2e-6)
