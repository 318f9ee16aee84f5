"""Whether a model reads packed rows as it reads them apart.

Most families do: transformers makes their attention masks from position ids. A row would see the rows before it in a family without
such positions (Bloom, MPT), and in layers that carry a state along the sequence (Mamba, linear attention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import target_hidden
from mentorkd.errors import TrainingError
from mentorkd.models.attention import needs_half
from mentorkd.precision import Precision, autocast

MOST_CHANGE, ROUGH_CHANGE = 1e-3, 0.03
"""Largest changes of a row's hidden states by packing, as a share of their norm, that are rounding: in float32, and in 16 bits or in
TF32, which a GPU may take for float32."""


def check_packing(model: Any, rows: Sequence[Example], collator: Collator, precision: Precision) -> None:
    """Raise TrainingError for a model, with or without adapters, that reads these rows otherwise if they are packed than if they are
    padded by `collator`. There are at least two rows."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    device, training = next(model.parameters()).device, model.training
    padded, packed = (
        {name: tensor.to(device) for name, tensor in collate(rows).items()}
        for collate in (collator, replace(collator, packed=True))
    )
    model.eval()
    try:
        with autocast(device.type, precision if needs_half(base) else None):
            fault = _fault(model, base, rows, padded, packed)
    finally:
        model.train(training)
    if fault is not None:
        raise TrainingError(
            f"got `split: packed`, but {type(base).__name__} ({base.config._attn_implementation} attention) does not keep packed rows "
            f"apart: {fault}; set `training.split` to auto or none"
        )


def _fault(
    model: Any, base: Any, rows: Sequence[Example], padded: Mapping[str, Tensor], packed: Mapping[str, Tensor]
) -> str | None:
    try:
        if _sees_earlier_rows(model, packed, rows[-1]):
            return "a row sees the rows before it"
        change = _change(model, rows, padded, packed)
    except TypeError:
        return "it takes no position ids"
    rough = needs_half(base) or base.dtype != torch.float32 or packed["labels"].device.type == "cuda"
    if not change <= (ROUGH_CHANGE if rough else MOST_CHANGE):
        return f"its hidden states change by {change:.2g} of their size, expected rounding"
    return None


def _sees_earlier_rows(model: Any, packed: Mapping[str, Tensor], last: Example) -> bool:
    """Whether the hidden states of the last row have a gradient on the tokens before it, however small: what is masked has none."""
    embedded: list[Tensor] = []

    def keep(module: Any, arguments: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        states = target_hidden(model, packed)[-len(last.target_ids) :].float()
    finally:
        hook.remove()
    # Different factors: norms make the sum and the sum of squares constant.
    factors = torch.linspace(-1, 1, states.numel(), device=states.device).view_as(states)
    (gradient,) = torch.autograd.grad((states * factors).sum(), embedded[0])
    before = packed["input_ids"].shape[1] - (last.length - 1)
    return bool(gradient[0, :before].any())


@torch.no_grad()
def _change(model: Any, rows: Sequence[Example], padded: Mapping[str, Tensor], packed: Mapping[str, Tensor]) -> float:
    """The largest change of a row's hidden states before the head, as a share of their norm."""
    lengths = [len(row.target_ids) for row in rows]
    apart, joined = (torch.split(target_hidden(model, batch).float(), lengths) for batch in (padded, packed))
    return float(
        torch.stack([(one - other).norm() / other.norm() for one, other in zip(joined, apart, strict=True)]).max()
    )
