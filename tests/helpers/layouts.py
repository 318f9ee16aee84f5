"""Another layout of a batch that `Collator` makes: padded on the left."""

from __future__ import annotations

import torch
from torch import Tensor

from mentorkd.data.batching import IGNORE_INDEX


def padded_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch padded on the left, with the decoder's mask or the positions that this needs."""
    mask = batch["attention_mask"]
    left = {name: _rolled(batch[name], mask == 0) for name in ("input_ids", "attention_mask")}
    if "decoder_input_ids" not in batch:
        positions = (left["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return {**left, "labels": _rolled(batch["labels"], mask == 0), "position_ids": positions}
    padding = batch["labels"] == IGNORE_INDEX
    decoder = {name: _rolled(batch[name], padding) for name in ("decoder_input_ids", "labels")}
    return {**left, **decoder, "decoder_attention_mask": _rolled((~padding).long(), padding)}


def _rolled(rows: Tensor, padding: Tensor) -> Tensor:
    return torch.stack([row.roll(int(count)) for row, count in zip(rows, padding.sum(1), strict=True)])
