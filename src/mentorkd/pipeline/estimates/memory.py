"""Bytes that training and generation take, from the sizes of models and rows.

Activations are counted as torch saves them for the backward pass, in float32 for a token and a layer (widths d of the model, f of
the feed-forward layer, a of all attention heads, k of all keys; h heads; sequence of n tokens, m tokens that a decoder looks at):

    T5 encoder     32 d + 20 f + 16 a + 12 h n          (f: 12 if it is not gated)
    T5 decoder     48 d + 20 f + 24 a + 12 h (n + m)    and 8 a for each token of the source
    GPT-2          40 d + 8 f + 12 h n
    llama          20 d + 16 f + 12 a + 8 k

In bfloat16 autocast they take two thirds. docs/results/plan-estimates.md compares the sums with measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mentorkd.pipeline.estimates.lengths import Lengths
from mentorkd.pipeline.estimates.machine import Device
from mentorkd.recipe.learner import ModelConfig, TrainingConfig
from mentorkd.recipe.sizes import ModelSize

_HALF = 2 / 3
"""Activations in bfloat16 autocast, where norms and attention weights stay in float32."""
_RUNTIME = {"cpu": 0.6e9, "gpu": 1.0e9}
"""Python with torch and transformers; on a GPU the CUDA context and what its allocator cannot use."""
_CHUNK = {"cpu": 256, "gpu": 512}
_BLOCKS = {"cpu": 10 * 2 * 2**20, "gpu": 10 * 64 * 2**20}
"""What the fused loss works with: tokens of a chunk (on a GPU more where a 64th of its memory holds their logits), and ten blocks of
logits (distillation/fused_losses.py)."""
_FOUR_BITS = 0.55
"""Bytes of a weight in NF4, with its share of the scales."""


@dataclass(frozen=True)
class Memory:
    """The memory of a stage at its peak, in bytes by part."""

    learner: str
    work: str
    """train, or generate."""
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def training_memory(
    learner: str,
    size: ModelSize,
    model: ModelConfig,
    training: TrainingConfig,
    lengths: Lengths,
    device: Device,
    mentors: Mapping[str, ModelSize] | None = None,
    *,
    online: bool = False,
) -> Memory:
    """The peak of a training: a micro-batch of the longest rows. `mentors` are those whose heads it holds, and with `online`
    whole."""
    half = training.precision in ("bfloat16", "float16") or (training.precision == "auto" and device == "gpu")
    lora, share = model.lora, training.processes if training.sharding == "fsdp" else 1
    trained = size.parameters if lora is None else size.adapters(lora)
    width = _weight_bytes(model, device)
    copies = 2 * size.parameters if half and width == 4 else 0  # autocast keeps its own until the backward pass
    rows = training.batch_size
    source, target = lengths.longest_source, lengths.longest_target
    if training.tokens_per_batch is not None:
        rows = max(1, training.tokens_per_batch // (source + target))
    activations = rows * activation_bytes(size, source, target, checkpointing=training.gradient_checkpointing)
    chunk = min(_CHUNK[device], rows * target)
    others = list((mentors or {}).values())
    logits = 4 * chunk * (size.vocabulary + sum(mentor.vocabulary for mentor in others)) + _BLOCKS[device]
    parts = {
        "weights": (width * size.parameters + (4 * trained if lora else 0)) / share,
        "gradients": 4 * trained / share,
        "optimiser": 8 * trained / share,
        "activations": activations * (_HALF if half else 1) + copies,
        "logits": logits + (4 * size.head if lora is None else 0),
        "mentors": sum(4 * (mentor.parameters if online else mentor.head) for mentor in others),
        "runtime": _RUNTIME[device],
    }
    return Memory(learner, "train", {part: value for part, value in parts.items() if value})


def generation_memory(
    learner: str, size: ModelSize, model: ModelConfig, rows: int, source: float, target: float, device: Device
) -> Memory:
    """The peak of sampling `rows` texts together: keys and values of all their tokens, twice while they grow."""
    width = _weight_bytes(model, device)
    keys = 2 * width * size.decoder.layers * size.key_width
    tokens = 2 * target + (source if size.encoder else 2 * source)
    parts = {
        "weights": width * size.parameters,
        "keys and values": keys * tokens * rows,
        "logits": 3 * 4 * rows * size.vocabulary,
        "runtime": _RUNTIME[device],
    }
    return Memory(learner, "generate", parts)


def activation_bytes(size: ModelSize, source: float, target: float, *, checkpointing: bool = False) -> float:
    """Bytes in float32 that the backward pass of one row needs."""
    d, f, a, h = size.width, size.feed_forward, size.heads * size.head_width, size.heads
    if size.encoder is not None:
        mlp = (20 if size.gated else 12) * f
        layer = (32 * d + mlp + 16 * a + 12 * h * source) * source
        decoder = (48 * d + mlp + 24 * a + 12 * h * (target + source)) * target + 8 * a * source
        stacks = [(size.encoder.layers, source, layer), (size.decoder.layers, target, decoder)]
    else:
        tokens = source + target
        each = (
            40 * d + 8 * f + 12 * h * tokens if size.family == "gpt2" else 20 * d + 16 * f + 12 * a + 8 * size.key_width
        )
        stacks = [(size.decoder.layers, tokens, each * tokens)]
    if checkpointing:  # the input of each layer, and one layer at a time
        return sum(layers * 4 * d * tokens for layers, tokens, _ in stacks) + max(layer for *_, layer in stacks)
    return sum(layers * layer for layers, _, layer in stacks)


def _weight_bytes(model: ModelConfig, device: Device) -> float:
    if model.lora is not None and model.lora.bits is not None:
        return _FOUR_BITS
    if model.dtype in ("bfloat16", "float16") or (model.dtype == "auto" and model.lora is not None and device == "gpu"):
        return 2
    return 4
