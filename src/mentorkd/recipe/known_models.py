"""The published configs of model families that recipes often name, for a hub model whose files are not on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]


def published_config(name: str) -> dict[str, Any] | None:
    """The sizes in the config of a hub model, by the last part of its name; None for a name that is not in the list.

    Chat and base models of one size have one config, so endings such as `-Instruct` do not count.
    """
    whole = name.rpartition("/")[2].lower()
    for ending in (whole, re.sub(r"(-(instruct|base|chat|v\d+(\.\d+)?|\d{4}))+$", "", whole)):
        for family, sizes in _FAMILIES:
            if ending in sizes:
                return {**family, **sizes[ending]}
    return None


def _t5(width: int, heads: int, layers: int, feed_forward: int, head: int = 64) -> Config:
    return {"d_model": width, "num_heads": heads, "num_layers": layers, "d_ff": feed_forward, "d_kv": head}


def _gpt2(width: int, heads: int, layers: int) -> Config:
    return {"n_embd": width, "n_head": heads, "n_layer": layers}


def _llama(width: int, layers: int, feed_forward: int, heads: int, pairs: int, **others: Any) -> Config:
    """`pairs`: the heads of keys and values."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": feed_forward}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": pairs, **others}


_UNTIED = {"tie_word_embeddings": False}
_T5_VOCABULARY = {"model_type": "t5", "vocab_size": 32128}
_QWEN = {"vocab_size": 151936, "tie_word_embeddings": True}
_SMALL, _BASE, _LARGE = _t5(512, 6, 8, 1024), _t5(768, 12, 12, 2048), _t5(1024, 16, 24, 2816)
_XL, _XXL = _t5(2048, 32, 24, 5120), _t5(4096, 64, 24, 10240)
_FAMILIES: list[tuple[Config, dict[str, Config]]] = [
    (
        {**_T5_VOCABULARY, **_UNTIED, "feed_forward_proj": "gated-gelu"},
        {
            f"{name}-{size}": sizes
            for name in ("flan-t5", "t5-v1_1")
            for size, sizes in (("small", _SMALL), ("base", _BASE), ("large", _LARGE), ("xl", _XL), ("xxl", _XXL))
        },
    ),
    (
        {**_T5_VOCABULARY, "feed_forward_proj": "relu"},
        {"t5-small": _t5(512, 8, 6, 2048), "t5-base": _t5(768, 12, 12, 3072), "t5-large": _t5(1024, 16, 24, 4096)},
    ),
    (
        {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024},
        {
            "distilgpt2": _gpt2(768, 12, 6),
            "gpt2": _gpt2(768, 12, 12),
            "gpt2-medium": _gpt2(1024, 16, 24),
            "gpt2-large": _gpt2(1280, 20, 36),
            "gpt2-xl": _gpt2(1600, 25, 48),
        },
    ),
    (
        {"model_type": "qwen2", "max_position_embeddings": 32768, **_QWEN},
        {
            "qwen2.5-0.5b": _llama(896, 24, 4864, 14, 2),
            "qwen2.5-1.5b": _llama(1536, 28, 8960, 12, 2),
            "qwen2.5-3b": _llama(2048, 36, 11008, 16, 2),
            "qwen2.5-7b": _llama(3584, 28, 18944, 28, 4, vocab_size=152064, **_UNTIED),
        },
    ),
    (
        {"model_type": "qwen3", "max_position_embeddings": 40960, "head_dim": 128, **_QWEN},
        {
            "qwen3-0.6b": _llama(1024, 28, 3072, 16, 8),
            "qwen3-1.7b": _llama(2048, 28, 6144, 16, 8),
            "qwen3-4b": _llama(2560, 36, 9728, 32, 8),
            "qwen3-8b": _llama(4096, 36, 12288, 32, 8, **_UNTIED),
        },
    ),
    (
        {"model_type": "llama", "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True},
        {
            "smollm2-135m": _llama(576, 30, 1536, 9, 3),
            "smollm2-360m": _llama(960, 32, 2560, 15, 5),
            "smollm2-1.7b": _llama(2048, 24, 8192, 32, 32),
        },
    ),
    (
        {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072},
        {
            "llama-3.2-1b": _llama(2048, 16, 8192, 32, 8, tie_word_embeddings=True),
            "llama-3.2-3b": _llama(3072, 28, 8192, 24, 8, tie_word_embeddings=True),
            "llama-3.1-8b": _llama(4096, 32, 14336, 32, 8, **_UNTIED),
        },
    ),
    (
        {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 2048, **_UNTIED},
        {"tinyllama-1.1b": _llama(2048, 22, 5632, 32, 4)},
    ),
]
