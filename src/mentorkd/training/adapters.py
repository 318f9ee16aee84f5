"""Adapters merged into the weights after a training, and the proof that the merged model is the trained one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.errors import TrainingError
from mentorkd.models import LoadedModel, merge_adapters
from mentorkd.models.attention import attention_for_generation

ROWS = 4
"""Rows of the batch on which the logits before and after the merge are compared."""

ROUNDING = 1e-3, 16.0
"""Largest relative difference of logits that counts as rounding: the higher of this number and this multiple of the weights'
epsilon (bfloat16: 0.125)."""


def merge_trained_adapters(loaded: LoadedModel, rows: Sequence[Example]) -> LoadedModel:
    """The model with its adapters merged into its weights; the model itself if it has none.

    The logits of the first rows are compared before and after. The difference is that of the median target position, because
    rounding alone can send a single token to another expert. Raises TrainingError for one beyond rounding.
    """
    if not loaded.has_adapters:
        return loaded
    batch = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)(rows[:ROWS])
    batch = {name: value.to(loaded.device) for name, value in batch.items()}
    before = _logits(loaded, batch)
    merged = merge_adapters(loaded)
    after = _logits(merged, batch)
    scale = (before - before.mean(-1, keepdim=True)).norm(dim=-1)
    difference = float(((after - before).norm(dim=-1) / scale).median())
    least, epsilons = ROUNDING
    most = max(least, epsilons * torch.finfo(merged.model.dtype).eps)
    if not difference <= most:
        raise TrainingError(
            f"merging the adapters changed the model: its logits on training rows differ by {difference:.2g} of their size, "
            f"expected at most {most:.2g}; name other layers in `lora.target_modules`, or train without `lora`"
        )
    return merged


@torch.no_grad()
def _logits(loaded: LoadedModel, batch: dict[str, Tensor]) -> Tensor:
    """The model's own logits [N, V] at the target positions, in evaluation mode and float32."""
    with attention_for_generation(loaded.model):  # flash attention takes no float32 without autocast
        return target_logits(loaded.model.eval(), batch).float()
