"""How many texts fit in memory: by hand, and against the caches that the loop really makes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from mentorkd.generation.decoding import Rows
from mentorkd.generation.memory import MOST_ROWS, bytes_per_row, rows_that_fit
from mentorkd.generation.static import StaticRows
from small_families import CONFIGS, model_of


@pytest.mark.parametrize("family", ["t5", "gpt2", "qwen2"])
def test_the_caches_take_what_is_counted(family: str) -> None:
    """Keys and values of two rows, of the prompts [9 tokens] and of up to 70 new tokens."""
    model = model_of(family)
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    read = Rows(model, kind, [[5] * 9] * 2, 0)
    with torch.inference_mode():
        read.read(0)
    caches = StaticRows(read, [1 if kind == "seq2seq" else 9] * 2, columns=70)
    parts = (
        [caches.cache.self_attention_cache, caches.cache.cross_attention_cache] if kind == "seq2seq" else [caches.cache]
    )
    held = sum(state.nbytes for part in parts for layer in part.layers for state in (layer.keys, layer.values))
    counted = [bytes_per_row(model.config, source=9, new=70, item_bytes=item) for item in (4, 2)]
    assert held / 2 < counted[0] < held / 2 + 80_000
    assert counted[1] < counted[0]


def test_a_row_by_hand() -> None:
    config = AutoConfig.for_model("qwen2", **{**CONFIGS["qwen2"], "vocab_size": 1000})
    columns = 256  # of 100 + 100 tokens
    caches = 2 * 2 * 2 * 16 * columns * 2  # keys and values, layers, heads of keys, width, columns, bytes
    reading = (100 * (8 * 32 + 3 * 64) + 100**2) * 2
    assert bytes_per_row(config, source=100, new=100, item_bytes=2) == caches + reading + 24 * 1000


def test_rows() -> None:
    assert rows_that_fit(10_000, 10) == 400
    assert rows_that_fit(10, 1000) == 1
    assert rows_that_fit(2**40, 1000) == MOST_ROWS
