"""Seconds that stages take: floating-point operations, bytes and calls, at the speed of a machine.

A linear layer of w weights takes 2 w operations a token forward, and 4 w backward (2 w where its weights are frozen). To these come
attention, the head over the target tokens, AdamW's passes over all weights, and a fixed time for each layer's calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mentorkd.pipeline.estimates.machine import Machine
from mentorkd.recipe.learner import ModelConfig, TrainingConfig
from mentorkd.recipe.sizes import ModelSize, Stack

_EFFICIENCY = 0.5
"""Speed of a model's products, in their sizes and with the element-wise work between them, against that of large products."""
_FORWARD_EFFICIENCY = 0.7
"""The same for a forward pass alone."""
_LAYER_SECONDS = {"cpu": 4e-4, "gpu": 2.5e-4}
"""Calls of a layer, forward; the backward pass takes twice as long."""
_OPTIMISER_BYTES = 48
"""Bytes that an update reads and writes for a trained weight: clipping, AdamW, zeroing."""
_LOGIT_BYTES = 40
"""Bytes of passes over each logit in the loss."""
_START_SECONDS = {"cpu": 0.5, "gpu": 3.0}
"""To load a model and open its engine."""
_DISK = 3e8
"""Bytes a second of checkpoints, which are synced."""
_UNEVEN = 1.5
"""Steps of a batch of texts, by those of a mean text: a batch lasts as long as its longest text."""


@dataclass(frozen=True)
class Row:
    """Mean tokens of a row with its padding."""

    source: float
    target: float


def forward_operations(size: ModelSize, row: Row) -> float:
    """Operations of one row, with the logits of its target."""
    head = 2 * size.head * row.target
    inner = size.heads * size.head_width
    if size.encoder is None:
        tokens = row.source + row.target
        return 2 * size.decoder.matrices * tokens + 2 * size.decoder.layers * inner * tokens**2 + head
    cross = _cross(size.decoder)
    encoder = 2 * size.encoder.matrices * row.source + 4 * size.encoder.layers * inner * row.source**2
    decoder = 2 * (size.decoder.matrices - cross) * row.target + 2 * cross * row.source
    attention = 4 * size.decoder.layers * inner * row.target * (row.target / 2 + row.source)
    return encoder + decoder + attention + head


def _cross(stack: Stack) -> int:
    """Weights of a decoder that are applied to each token of the source."""
    linear = [stack.linear[name] for name in ("cross.k", "cross.v") if name in stack.linear]
    return stack.layers * sum(rows * columns for rows, columns in linear)


def _layers(size: ModelSize) -> int:
    return size.decoder.layers + (size.encoder.layers if size.encoder else 0)


def training_seconds(
    size: ModelSize,
    model: ModelConfig,
    training: TrainingConfig,
    row: Row,
    machine: Machine,
    *,
    updates: float,
    rows_an_update: float,
    mentor_operations: float = 0.0,
    mentor_vocabulary: int = 0,
) -> float:
    """Seconds of the updates of a training, without its validations. `mentor_operations` are those of its mentors for a row."""
    passes = (3 if model.lora is None else 2) + training.gradient_checkpointing
    operations = passes * forward_operations(size, row) + mentor_operations
    logits = _LOGIT_BYTES * row.target * (size.vocabulary + mentor_vocabulary)
    products = rows_an_update * (operations / (_EFFICIENCY * machine.flops) + logits / machine.bandwidth)
    batches = math.ceil(rows_an_update / training.batch_size)
    calls = batches * 3 * _layers(size) * _LAYER_SECONDS[machine.device]
    trained = size.parameters if model.lora is None else size.adapters(model.lora)
    saves = training.epochs * 12 * trained / _DISK
    update = max(products, calls) + _OPTIMISER_BYTES * trained / machine.bandwidth
    return _START_SECONDS[machine.device] + updates * update + saves


def reading_seconds(
    size: ModelSize, row: Row, machine: Machine, rows: float, batch_size: int, *, logits: bool
) -> float:
    """Seconds of a forward pass over rows, as for soft labels; without `logits` up to the last hidden states."""
    calls = math.ceil(rows / batch_size) * _layers(size) * _LAYER_SECONDS[machine.device]
    operations = forward_operations(size, row) - (0 if logits else 2 * size.head * row.target)
    products = rows * operations / (_FORWARD_EFFICIENCY * machine.flops)
    return _START_SECONDS[machine.device] + max(products, calls)


def writing_seconds(
    size: ModelSize, row: Row, machine: Machine, texts: float, batch_size: int, most: int, weight_bytes: int = 4
) -> float:
    """Seconds to generate texts, in batches, by the own loop; CTranslate2 and vLLM take less."""
    batch = min(batch_size, max(1.0, texts))
    steps = min(most, _UNEVEN * row.target)
    step_operations = 2 * (size.decoder.matrices - _cross(size.decoder) + size.head) * batch
    read = weight_bytes * (size.decoder.matrices + size.head)
    keys = 2 * 4 * size.decoder.layers * size.key_width * (row.source + row.target / 2) * batch
    step = max(
        step_operations / (_EFFICIENCY * machine.flops) + keys / machine.bandwidth,
        read / machine.bandwidth,
        size.decoder.layers * _LAYER_SECONDS[machine.device],
    )
    prompts = texts * forward_operations(size, Row(row.source, 0)) / (_EFFICIENCY * machine.flops)
    return prompts + math.ceil(texts / batch) * steps * step
