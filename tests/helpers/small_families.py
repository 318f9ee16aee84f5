"""A small random model of each family that the decoding loop serves."""

from __future__ import annotations

from typing import Any

import torch
import transformers

__all__ = ["CONFIGS", "model_of"]

CAUSAL = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 3,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = {**CAUSAL, "num_key_value_heads": 2, "head_dim": 16}
T5 = {
    "vocab_size": 384,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "t5": {**T5, "num_decoder_layers": 1},
    "mt5": T5,
    "umt5": T5,
    "gpt2": {"vocab_size": 384, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 1},
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 16},
    "qwen2": {**GROUPED, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3": GROUPED,
    "gemma": {**GROUPED, "tie_word_embeddings": False},  # tied, random ones repeat the last token
    "gemma2": {**GROUPED, "sliding_window": 16},
    "opt": {**{k: v for k, v in CAUSAL.items() if k != "intermediate_size"}, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt_neox": CAUSAL,
}


def model_of(family: str) -> Any:
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family])
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = auto.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return model
