"""The tap on the head: hidden states as the head receives them, for any model whose logits are `lm_head(hidden)`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel

__all__ = [
    "TOKENS_PER_BATCH",
    "Layers",
    "arithmetic",
    "head_is_linear",
    "head_parameters",
    "logits_in_parts",
    "on_device",
    "states_at_targets",
    "target_hidden",
    "target_logits",
    "target_states",
]

Layers = dict[int, torch.Tensor]
"""Hidden states [N, D] by the number of the layer that they leave, counted from 1; of the decoder, where there is one. Those
of the last layer are as the head receives them."""


def head_parameters(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight [V, D] and bias [V] (or None) of the head that turns hidden states into logits."""
    head = _head(model)
    return head.weight, getattr(head, "bias", None)


def _head(model: nn.Module) -> Any:
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or not isinstance(getattr(head, "weight", None), torch.Tensor):
        raise ModelError(
            f"{type(model).__name__} has no linear head (lm_head); only language models with one can be distilled"
        )
    return head


@contextmanager
def _head_replaced(head: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While open, the head computes `forward` on what the model hands it (T5 with tied embeddings scales it first)."""
    before = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _call(model: nn.Module, batch: Mapping[str, torch.Tensor], **options: Any) -> Any:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs, use_cache=False, **options)


def target_hidden(
    model: nn.Module, batch: Mapping[str, torch.Tensor], *, tapped: nn.Module | None = None
) -> torch.Tensor:
    """Hidden states [N, D] as the head receives them, at the N target positions of a batch, in row-major order.

    `tapped` is the model that owns the head when `model` is a wrapper of it (DistributedDataParallel).
    """
    return target_states(model, batch, tapped=tapped)[0]


def target_logits(
    model: nn.Module, batch: Mapping[str, torch.Tensor], *, tapped: nn.Module | None = None
) -> torch.Tensor:
    """The model's own logits [N, V] at the target positions; the head is given no others."""
    return target_states(model, batch, tapped=tapped, logits=True)[0]


def target_states(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    tapped: nn.Module | None = None,
    logits: bool = False,
    layers: Collection[int] = (),
) -> tuple[torch.Tensor, Layers]:
    """`target_hidden`, or `target_logits`, and with it the hidden states of some layers, in one forward pass."""
    head, target = _head(tapped or model), batch["labels"] != IGNORE_INDEX
    forward, taken = head.forward, []

    def take(hidden: torch.Tensor) -> torch.Tensor:
        taken.append(hidden[target])
        return hidden.new_zeros(1, 1, len(head.weight))  # models like BART go on to add a bias

    def apply(hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = forward(hidden[target][None])
        return result

    with _head_replaced(head, apply if logits else take):
        outputs = _call(model, batch, **({"output_hidden_states": True} if layers else {}))
    states = outputs.get("decoder_hidden_states", outputs.get("hidden_states"))
    (found,) = [outputs.logits[0]] if logits else taken
    return found, {layer: states[layer][target] for layer in layers}


def head_is_linear(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> bool:
    """Whether the model's own logits are hidden @ weight.T + bias and nothing else.

    Tried on the first row of `batch`: the head's output must be that product, and must reach the model's output
    unchanged. To see the latter, whatever the weights, large numbers are added to it: the soft-capping of a model that
    was just built would pass for rounding. False for models that change logits after the head (Gemma 2, Cohere, a
    biased BART) and for heads with adapters.
    """
    head = _head(model)
    if not isinstance(head, nn.Linear):
        return False
    row = {name: value[:1] for name, value in batch.items()}
    target = row["labels"] != IGNORE_INDEX
    forward, training = head.forward, model.training
    linear, handed_on = False, torch.empty(0)

    def mark(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal linear, handed_on
        few = hidden[target][None, :TRIED_TOKENS]
        own, rebuilt = forward(few), nn.functional.linear(few, head.weight, head.bias)
        linear = torch.allclose(own.float(), rebuilt.float(), rtol=1e-3, atol=1e-3 * float(own.abs().amax()))
        handed_on = own + torch.linspace(-1e3, 1e3, own.shape[-1], device=own.device, dtype=own.dtype)
        return handed_on

    model.eval()
    try:
        with torch.no_grad(), _head_replaced(head, mark):
            logits = _call(model, row).logits
    finally:
        model.train(training)
    return linear and logits.shape == handed_on.shape and torch.equal(logits.float(), handed_on.float())


TRIED_TOKENS = 32
"""Target positions on which `head_is_linear` tries the head; few, since their whole logits are made."""

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
    """The last hidden states [N, E] at the N target positions of a batch; not `exact` (see `head_is_linear`), the logits."""
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
