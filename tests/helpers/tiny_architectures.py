"""Tiny configs of many model families, with two layers of width 16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mentorkd.models import LoadedModel, load_model
from mentorkd.recipe.learner import ModelConfig
from tiny_models import tiny_tokenizer

__all__ = ["ARCHITECTURES", "CONVERTED", "build"]

DECODER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
HEADS = {**DECODER, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MANY = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {"mamba_d_state": 4, "mamba_d_conv": 2, "mamba_expand": 2}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA = {**HEADS, "sliding_window": 32, "vocab_size": 384, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
SEEING = {"vision_config": SIGLIP, "mm_tokens_per_image": 4, "image_token_index": 380}
ENCODER_DECODER = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 256,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}

CONVERTED: dict[str, dict[str, Any]] = {
    "gpt_neox": {**DECODER, "rotary_pct": 0.5},
    "gemma3": {"text_config": GEMMA, **SEEING},
    "t5gemma2": {"encoder": {"text_config": GEMMA, **SEEING}, "decoder": GEMMA, "image_token_index": 380},
    "mixtral": {**DECODER, **EXPERTS},
    "qwen3_moe": {**HEADS, **MANY},
    "qwen3_next": {
        **HEADS,
        **MANY,
        "shared_expert_intermediate_size": 16,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "olmoe": {**DECODER, **MANY},
    "phimoe": {**DECODER, **EXPERTS},
    "deepseek_v3": {
        **DECODER,
        **LATENT,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "jamba": {
        **DECODER,
        **MAMBA,
        "num_experts": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "granitemoehybrid": {
        **DECODER,
        **EXPERTS,
        **MAMBA,
        "shared_intermediate_size": 16,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "layer_types": ["mamba", "attention"],
    },
    "minimax": {**HEADS, **EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 16},
}
"""Families whose weights have other names in a Hugging Face folder than in the model."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    **CONVERTED,
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
    "qwen3": HEADS,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": DECODER,
    "olmo2": DECODER,
    "cohere": DECODER,
    "smollm3": DECODER,
    "granite": DECODER,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "opt": {**DECODER, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "use_mambapy": False},
    "t5": T5,
    "umt5": T5,
    "bart": ENCODER_DECODER,
}
"""Families by their `model_type`, with the arguments of their configs."""


def build(family: str, tokenizer_folder: Path, *, seed: int = 0, **changes: Any) -> LoadedModel:
    """A model of a family with random weights, as a recipe's `from_config` builds it; `changes` are fields of `ModelConfig`."""
    if not tokenizer_folder.is_dir():
        tiny_tokenizer().save_pretrained(tokenizer_folder)
    values = {"model_type": family, **ARCHITECTURES[family]}
    config = ModelConfig(from_config=values, tokenizer=str(tokenizer_folder), **changes)
    return load_model(config, seed=seed, device=torch.device("cpu"))
