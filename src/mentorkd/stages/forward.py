"""Forward: what a model computes at the target positions of a batch, as scoring and judging share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F

from mentorkd.head_tap import head_parameters, target_hidden, target_logits
from mentorkd.models import LoadedModel

__all__ = ["TOKENS_PER_BATCH", "arithmetic", "logits_in_parts", "on_device", "states_at_targets"]

TOKENS_PER_BATCH = 2048
"""Padded tokens (source + target) a forward pass: enough to keep matrix units busy, little enough to fit anywhere."""

_LOGIT_ROWS = 256
"""Target tokens whose whole logits are at hand at once."""


def arithmetic(loaded: LoadedModel, bfloat16: bool) -> AbstractContextManager[Any]:
    """bfloat16 autocast, or nothing."""
    return torch.autocast(loaded.device.type, torch.bfloat16) if bfloat16 else nullcontext()


def on_device(device: torch.device, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch on a device."""
    return {name: value.to(device) for name, value in batch.items()}


def states_at_targets(
    loaded: LoadedModel, batch: dict[str, torch.Tensor], *, exact: bool, bfloat16: bool
) -> torch.Tensor:
    """The last hidden states [N, E] at the N target positions of a batch; not `exact` (see `tap_is_exact`), the logits."""
    with arithmetic(loaded, bfloat16):
        return (target_hidden if exact else target_logits)(loaded.model, batch)


def logits_in_parts(
    loaded: LoadedModel, batch: Mapping[str, torch.Tensor], states: torch.Tensor, *, exact: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits [n, V] in float32 and labels [n] at the target positions, some at a time."""
    labels_N = batch["labels"][batch["labels"] >= 0]
    weight, bias = head_parameters(loaded.model)
    for start in range(0, len(states), _LOGIT_ROWS):
        some = states[start : start + _LOGIT_ROWS]
        logits = F.linear(some.to(weight.dtype), weight, bias) if exact else some
        yield logits.float(), labels_N[start : start + _LOGIT_ROWS]
