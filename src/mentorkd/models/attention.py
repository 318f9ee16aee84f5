"""How a model computes attention (`model.attn_implementation`): what this machine can do, and what generation needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel

from mentorkd.errors import ModelError

FLASH, FLEX = "flash_attention_2", "flex_attention"
"""Implementations that run on a GPU alone, and skip blocks that nothing attends to."""


def check_attention(implementation: str | None, device: torch.device) -> None:
    """Raise ModelError for an implementation that this machine cannot run on `device`; None is transformers' choice."""
    if implementation not in (FLASH, FLEX):
        return
    if device.type != "cuda":
        raise ModelError(
            f"got `attn_implementation: {implementation}` on {device.type}, which needs a GPU (CUDA or ROCm); remove it, or set `sdpa`"
        )
    if implementation == FLASH and find_spec("flash_attn") is None:
        raise ModelError(
            f"`attn_implementation: {FLASH}` needs an optional package; install it with: "
            "pip install flash-attn --no-build-isolation"
        )


def needs_half(model: PreTrainedModel) -> bool:
    """Whether a model's attention is computed in 16 bits alone."""
    return bool(model.config._attn_implementation == FLASH)


@contextmanager
def attention_for_generation(model: PreTrainedModel) -> Iterator[None]:
    """While open, attention takes any data type and any length: generation is outside autocast, and each token has a shape of its own."""
    implementation = model.config._attn_implementation
    replaced = implementation in (FLASH, FLEX)
    if replaced:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        if replaced:
            model.set_attn_implementation(implementation)
