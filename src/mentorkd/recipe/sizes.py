"""The size of a model, from its config alone: its weights, layer by layer. No weights are loaded, and no server is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mentorkd.hub import GGUF, model_folder, on_hub
from mentorkd.recipe.known_models import published_config
from mentorkd.recipe.learner import Layers, LoraConfig, ModelConfig
from mentorkd.recipe.vocabularies import vocabulary_rows
from mentorkd.recipe.yaml import mapping
from mentorkd.records import ModelKind

_T5_BUCKETS = 32


@dataclass(frozen=True)
class Stack:
    """The layers of an encoder or a decoder; sizes are numbers of weights."""

    layers: int
    linear: Mapping[str, tuple[int, int]]
    """The (input, output) widths of each linear layer in a layer, by its name."""
    other: int
    """Norms and biases of a layer."""
    final: int
    """Weights of the stack outside its layers and embeddings."""

    @property
    def matrices(self) -> int:
        """Weights of all linear layers: each is one multiplication and one addition a token."""
        return self.layers * sum(rows * columns for rows, columns in self.linear.values())

    @property
    def weights(self) -> int:
        return self.matrices + self.layers * self.other + self.final


@dataclass(frozen=True)
class ModelSize:
    """What the memory and the time of a model depend on."""

    family: str
    """t5, gpt2 or llama: the form of its layers."""
    width: int
    heads: int
    key_width: int
    """Width of all keys of a layer together, which is less than `heads * head_width` where heads share keys."""
    head_width: int
    feed_forward: int
    gated: bool
    vocabulary: int
    """Rows of the embedding."""
    tied: bool
    """Whether the head is the embedding."""
    positions: int | None
    """The longest sequence; None where positions are relative."""
    learned_positions: bool
    encoder: Stack | None
    decoder: Stack
    basis: str
    """Where the sizes are from, in words."""

    @property
    def kind(self) -> ModelKind:
        return "causal" if self.encoder is None else "seq2seq"

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All weights; tied ones count once."""
        stacks = self.decoder.weights + (self.encoder.weights if self.encoder else 0)
        positions = (self.positions or 0) * self.width if self.learned_positions else 0
        return stacks + self.head * (1 if self.tied else 2) + positions

    def adapters(self, lora: LoraConfig) -> int:
        """Weights of low-rank adapters."""
        targets = lora.target_modules or _LORA_TARGETS[self.family]
        stacks = [stack for stack in (self.encoder, self.decoder) if stack is not None]
        return sum(
            stack.layers * lora.r * (rows + columns)
            for stack in stacks
            for name, (rows, columns) in stack.linear.items()
            if name.rpartition(".")[2] in targets
        )


_LORA_TARGETS = {"t5": ("q", "v"), "gpt2": ("c_attn",), "llama": ("q_proj", "v_proj")}
"""peft's defaults."""


def size_of(model: ModelConfig) -> ModelSize | None:
    """The size of a learner's initial model, cut to its `layers`; None where no config tells it.

    A config is that of the recipe, of a folder, of the hub's cache, or the published one of a known name.
    """
    config, basis = _config_of(model)
    layout = None if config is None else _LAYOUTS.get(str(config.get("model_type")))
    if config is None or layout is None:
        return None
    try:
        return layout({**_DEFAULTS[config["model_type"]], **config}, model.layers, basis)
    except (TypeError, ValueError, ZeroDivisionError):  # loading the model names the fault
        return None


def model_config(model: ModelConfig) -> dict[str, Any]:
    """The values of a model's config that are known here; empty if none is."""
    return _config_of(model)[0] or {}


def _config_of(model: ModelConfig) -> tuple[dict[str, Any] | None, str]:
    if model.from_config is not None:
        rows = None if model.tokenizer is None else vocabulary_rows(model.tokenizer, model.revision)
        config = {"vocab_size": rows, **model.from_config}
        return (config if config["vocab_size"] else None), "the recipe"
    assert model.name is not None, "`learner` is resolved by `initial_model`"
    if (folder := model_folder(model.name, model.revision)) is not None and (folder / "config.json").is_file():
        return _read(folder / "config.json"), "its GGUF file" if model.name.endswith(GGUF) else "its config.json"
    if model.name.endswith(GGUF) and Path(model.name).is_file():
        return _gguf_config(Path(model.name)), "its GGUF file"
    published = published_config(model.name) if on_hub(model.name) else None
    return published, "the published sizes of this name"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return mapping(json.loads(file.read_text(encoding="utf-8"))) or None
    except (OSError, ValueError):
        return None


@cache
def _gguf_config(file: Path) -> dict[str, Any] | None:
    """The sizes in the metadata of a GGUF file; None without the package `gguf`, and for a file that it cannot read."""
    try:
        from gguf import GGUFReader

        reader = GGUFReader(file)
        value = {key: field.contents for key, field in reader.fields.items()}
        kind = value["general.architecture"]()
        names = {"gpt2": _GGUF_GPT2}.get(kind, _GGUF_LLAMA)
        config = {ours: value[f"{kind}.{theirs}"]() for ours, theirs in names.items() if f"{kind}.{theirs}" in value}
        tensors = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
        rows = tensors["token_embd.weight"] // config[next(iter(names))]
        return {"model_type": kind, **config, "vocab_size": rows, "tie_word_embeddings": "output.weight" not in tensors}
    except (ImportError, OSError, KeyError, ValueError, IndexError, AttributeError):
        return None


_GGUF_LLAMA = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
_GGUF_GPT2 = {
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_positions": "context_length",
}


def _kept(count: int, layers: Layers | None, stack: str) -> int:
    """Layers of a stack after the recipe's cut."""
    kept = layers.get(stack) if isinstance(layers, dict) else layers  # type: ignore[call-overload]
    return count if kept is None else len(kept)


def _t5(config: Mapping[str, Any], layers: Layers | None, basis: str) -> ModelSize:
    d, heads, head, ff = config["d_model"], config["num_heads"], config["d_kv"], config["d_ff"]
    inner, gated = heads * head, str(config["feed_forward_proj"]).startswith("gated-")
    attention = {"q": (d, inner), "k": (d, inner), "v": (d, inner), "o": (inner, d)}
    mlp = {"wi_0": (d, ff), "wi_1": (d, ff)} if gated else {"wi": (d, ff)}
    encoder = {**attention, **mlp, "wo": (ff, d)}
    decoder = {**encoder, **{f"cross.{name}": shape for name, shape in attention.items()}}
    final = d + heads * config.get("relative_attention_num_buckets", _T5_BUCKETS)
    depth = config["num_layers"]
    depths = [depth, config.get("num_decoder_layers") or depth]
    depths = [_kept(each, layers, stack) for each, stack in zip(depths, ("encoder", "decoder"), strict=True)]
    return ModelSize(
        family="t5", width=d, heads=heads, key_width=inner, head_width=head, feed_forward=ff, gated=gated,
        vocabulary=config["vocab_size"], tied=bool(config["tie_word_embeddings"]), positions=None,
        learned_positions=False, encoder=Stack(depths[0], encoder, 2 * d, final),
        decoder=Stack(depths[1], decoder, 3 * d, final), basis=basis,
    )  # fmt: skip


def _gpt2(config: Mapping[str, Any], layers: Layers | None, basis: str) -> ModelSize:
    d, heads = config["n_embd"], config["n_head"]
    ff = config.get("n_inner") or 4 * d
    linear = {"c_attn": (d, 3 * d), "c_proj": (d, d), "c_fc": (d, ff), "mlp.c_proj": (ff, d)}
    other = 4 * d + sum(columns for _, columns in linear.values())
    return ModelSize(
        family="gpt2", width=d, heads=heads, key_width=d, head_width=d // heads, feed_forward=ff, gated=False,
        vocabulary=config["vocab_size"], tied=bool(config["tie_word_embeddings"]), positions=config["n_positions"],
        learned_positions=True, encoder=None,
        decoder=Stack(_kept(config["n_layer"], layers, "decoder"), linear, other, 2 * d), basis=basis,
    )  # fmt: skip


def _llama(config: Mapping[str, Any], layers: Layers | None, basis: str) -> ModelSize:
    d, heads, ff = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    head = config.get("head_dim") or d // heads
    inner, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    linear = {
        "q_proj": (d, inner),
        "k_proj": (d, keys),
        "v_proj": (d, keys),
        "o_proj": (inner, d),
        "gate_proj": (d, ff),
        "up_proj": (d, ff),
        "down_proj": (ff, d),
    }
    other = 2 * d
    if config["model_type"] == "qwen2":
        other += inner + 2 * keys
    elif config["model_type"] == "qwen3":
        other += 2 * head
    return ModelSize(
        family="llama", width=d, heads=heads, key_width=keys, head_width=head, feed_forward=ff, gated=True,
        vocabulary=config["vocab_size"], tied=bool(config["tie_word_embeddings"]),
        positions=config["max_position_embeddings"], learned_positions=False, encoder=None,
        decoder=Stack(_kept(config["num_hidden_layers"], layers, "decoder"), linear, other, d), basis=basis,
    )  # fmt: skip


_LAYOUTS = {"t5": _t5, "mt5": _t5, "gpt2": _gpt2, "llama": _llama, "mistral": _llama, "qwen2": _llama, "qwen3": _llama}
_T5_DEFAULTS = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "vocab_size": 32128,
}
_LLAMA_DEFAULTS = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "intermediate_size": 11008,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}
_QWEN_DEFAULTS = {
    **_LLAMA_DEFAULTS,
    "num_key_value_heads": 32,
    "intermediate_size": 22016,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "t5": _T5_DEFAULTS,
    "mt5": {**_T5_DEFAULTS, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
    | {"vocab_size": 250112},
    "gpt2": {
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "tie_word_embeddings": True,
        "vocab_size": 50257,
    },
    "llama": _LLAMA_DEFAULTS,
    "mistral": _LLAMA_DEFAULTS
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    "qwen2": _QWEN_DEFAULTS,
    "qwen3": _QWEN_DEFAULTS | {"head_dim": 128},
}
"""What a config leaves out, as transformers fills it in."""


def in_words(parameters: float) -> str:
    """A number of weights: `77 M`, `0.78 B`."""
    if parameters >= 1e8:
        return f"{parameters / 1e9:.2g} B" if parameters < 1e10 else f"{parameters / 1e9:.0f} B"
    return f"{max(parameters, 1e5) / 1e6:.{0 if parameters >= 1e7 else 1}f} M"
