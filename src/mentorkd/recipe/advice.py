"""Settings of training that fit a model, from its family and size, each with its reason. `init` writes them, and `plan` warns of others."""

from __future__ import annotations

from dataclasses import dataclass

from mentorkd.recipe.sizes import in_words
from mentorkd.records import ModelKind

NANO = 2e7
"""Fewer weights than this are those of a tiny model, which trains at rates that larger ones do not stand."""

LORA_FROM = 1.5e9
"""Weights from which on full training takes more than a 24 GB GPU has: 16 bytes a weight."""

BYTES_A_WEIGHT = 16
"""Full training in float32: the weight, its gradient, and AdamW's two moments."""

_LONGEST_SOURCE, _LONGEST_TARGET = 512, 256
_ROWS_AN_UPDATE = 8
_MEDIUM = 5e8


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of AdamW for a kind of model."""

    usual: float
    low: float
    high: float
    """Rates outside `low` to `high` are unusual: training fails to move the model, or destroys what it knows."""
    who: str
    """The models, in words."""


@dataclass(frozen=True)
class Advice:
    """What fits a model."""

    rates: Rates
    batch_size: int
    gradient_accumulation: int
    sampling_batch_size: int
    lora: bool
    max_source_tokens: int
    max_target_tokens: int


def rates_for(weights: float | None, kind: ModelKind, *, lora: bool) -> Rates:
    """The rates for a model with this number of weights; None stands for a medium number."""
    weights = _MEDIUM if weights is None else weights
    if lora:
        return Rates(2e-4, 2e-5, 2e-3, "low-rank adapters")
    if weights < NANO:
        return Rates(1e-3, 1e-4, 1e-2, "models under 20 M weights")
    if kind == "seq2seq":  # the paper: 2e-4 and 3e-4 for FlanT5
        return Rates(3e-4 if weights < 1e9 else 1e-4, 3e-5, 2e-3, "encoder-decoder models")
    usual = 1e-4 if weights < 2e8 else 5e-5 if weights < 1e9 else 2e-5
    return Rates(usual, usual / 20, usual * 10, f"decoder-only models of {in_words(weights)} weights")


def advice_for(weights: float | None, kind: ModelKind, positions: int | None = None) -> Advice:
    """The settings for a model with this number of weights and of `positions`, without regard to the machine."""
    lora = weights is not None and weights >= LORA_FROM
    rates = rates_for(weights, kind, lora=lora)
    weights = _MEDIUM if weights is None else weights
    batch = 16 if weights < NANO else 8 if weights < 3e8 else 4 if weights < 1e9 else 2
    source, target = _LONGEST_SOURCE, _LONGEST_TARGET
    if positions is not None and positions < source + target:
        source, target = positions * 2 // 3, positions // 3
    sampled = 128 if weights < NANO else 64 if weights < 3e8 else 32 if weights < LORA_FROM else 16
    return Advice(rates, batch, max(1, _ROWS_AN_UPDATE // batch), sampled, lora, source, target)


_LARGER = {
    "flan-t5-small": "flan-t5-large", "flan-t5-base": "flan-t5-large", "flan-t5-large": "flan-t5-xl",
    "t5-v1_1-small": "t5-v1_1-large", "t5-v1_1-base": "t5-v1_1-large", "t5-small": "t5-base", "t5-base": "t5-large",
    "distilgpt2": "gpt2-medium", "gpt2": "gpt2-medium", "gpt2-medium": "gpt2-large", "gpt2-large": "gpt2-xl",
    "qwen2.5-0.5b": "Qwen2.5-1.5B", "qwen2.5-1.5b": "Qwen2.5-3B", "qwen3-0.6b": "Qwen3-1.7B",
    "qwen3-1.7b": "Qwen3-4B", "qwen3-4b": "Qwen3-8B", "smollm2-135m": "SmolLM2-360M",
    "smollm2-360m": "SmolLM2-1.7B", "llama-3.2-1b": "Llama-3.2-3B", "llama-3.2-3b": "Llama-3.1-8B",
    "nano-t5-small": "nano-t5-large",
}  # fmt: skip
"""A mentor for a student: the next larger model of its family, with its vocabulary."""


def mentor_for(name: str) -> str | None:
    """A larger model with the vocabulary of a hub model, by its name; None if none is known. A chat model gets a chat model."""
    owner, slash, last = name.rpartition("/")
    for ending in ("", "-Instruct"):
        larger = _LARGER.get(last.removesuffix(ending).lower()) if last.endswith(ending) else None
        if larger is not None:
            return f"{owner}{slash}{larger}{ending}"
    return None
