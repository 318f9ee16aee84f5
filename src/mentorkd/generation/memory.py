"""How many texts fit in the memory of a device at once."""

from __future__ import annotations

from transformers import PretrainedConfig

from mentorkd.generation.static import capacity_for

MOST_ROWS = 1024
"""Texts at once, at most. More do not make a step of the model better used, and their prompts are read together."""

SHARE = 0.4
"""The share of the free memory that is filled: a cache that grows exists twice for a moment, and kernels need room."""

_LOGITS = 24
"""Bytes for each token of the vocabulary: logits, float32 ones, probabilities, their sums, and the order of the likeliest."""


def bytes_per_row(config: PretrainedConfig, *, source: int, new: int, item_bytes: int) -> int:
    """Memory of one text, in bytes: its caches, its logits, and what reading its prompt takes.

    `source` and `new` are the tokens of the longest prompt and text, and `item_bytes` those of one number of the model.
    """
    heads = config.num_attention_heads
    width = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or config.hidden_size // heads
    layers, key_heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads
    if config.is_encoder_decoder:
        layers = getattr(config, "num_decoder_layers", None) or layers
        columns = capacity_for(1 + new) + source  # the text's own, and those of the source in the cross-attention
    else:
        columns = capacity_for(source + new)
    caches = 2 * layers * key_heads * width * columns * item_bytes
    feed_forward = getattr(config, "intermediate_size", None) or getattr(config, "d_ff", None) or 4 * config.hidden_size
    # Queries, keys, values and residuals of one layer; T5 adds biases to the scores of all pairs of tokens.
    pairs = 2 * heads * source**2 if config.is_encoder_decoder else source**2
    reading = (source * (8 * config.hidden_size + 3 * feed_forward) + pairs) * item_bytes
    return int(caches + reading + _LOGITS * config.vocab_size)


def rows_that_fit(free: int, row_bytes: int) -> int:
    """Texts of `row_bytes` bytes in a device's `free` bytes, from 1 to MOST_ROWS."""
    return max(1, min(MOST_ROWS, int(SHARE * free) // row_bytes))
