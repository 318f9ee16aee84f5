"""Hidden states and logits of a model at the target positions of a batch, for any model with a linear head.

Logits [tokens, vocabulary] are the largest tensor of a forward pass. So a model is run with its head replaced: the hidden
states at the target positions are taken as the head receives them, and the head itself is applied later, to a few of them
at a time. Where a model changes its logits after the head (`head_is_linear` is False), its own logits are taken instead.

Names end in their shape: N target positions of a batch in row-major order, D width of the head's input, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, cast_linear_layers
from mentorkd.models.device import free_memory_of, power_of_two
from mentorkd.models.memory import keep_freed_memory
from mentorkd.precision import autocast

Batch = Mapping[str, Tensor]

Layers = dict[int, Tensor]
"""Hidden states [N, D] by the number of the layer whose output they are, counted from 1 (of the decoder, where there is one).
Those of the last layer are as the head receives them."""

POSITIONS = "target_positions"
"""The entry of a batch that holds its target positions (`target_positions`)."""

TOKENS_PER_BATCH, MOST_TOKENS_PER_BATCH = 2048, 2**15
"""Padded tokens (source + target) of a forward pass: enough to keep a CPU's matrix units busy, little enough to fit anywhere; and
the most on a GPU, where more would not be faster."""

BYTES_PER_ENTRY = 32
"""Bytes that a forward pass takes at most for a token, by entry of the vocabulary: logits in float32, what is computed of them, and
as much again to spare. Hidden states and attention take less."""

EXAMINED_TOKENS = 32
"""Target positions on which a model is examined; few, since their whole logits are computed."""

HEAD_ROWS = 32768
"""Rows of a head in bfloat16 that are cast to float32 at once."""

LOGIT_ROWS = 256
"""Target positions whose whole logits `FrozenModel.logits` computes at once."""


def scoring_tokens(loaded: LoadedModel) -> int:
    """Padded tokens of a forward pass of a frozen model: fixed on a CPU, by the free memory on a GPU."""
    if loaded.device.type != "cuda":
        return TOKENS_PER_BATCH
    fitting = free_memory_of(loaded.device) / (BYTES_PER_ENTRY * len(head_parameters(loaded.model)[0]))
    return min(MOST_TOKENS_PER_BATCH, max(TOKENS_PER_BATCH, power_of_two(max(1, fitting))))


def head_parameters(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [V, D] and bias [V] (or None) of the head that turns hidden states into logits; ModelError if there is none."""
    head = _head(model)
    return head.weight, getattr(head, "bias", None)


def _head(model: nn.Module) -> Any:
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise ModelError(
            f"{type(model).__name__} has no linear head (lm_head); only language models with one can be distilled"
        )
    return head


@contextmanager
def _head_replaced(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the head computes `forward` on what the model gives it (T5 with tied embeddings scales it first)."""
    before = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _call(model: nn.Module, batch: Batch, **options: Any) -> Any:
    inputs = {name: value for name, value in batch.items() if name not in ("labels", POSITIONS)}
    return model(**inputs, use_cache=False, **options)


def target_positions(batch: Batch) -> Tensor:
    """The target positions [N] among all positions of a batch, row after row: those that came with it, or else from the labels.

    A device must be waited for to tell where its labels are, so a batch of a training comes with `POSITIONS`.
    """
    given = batch.get(POSITIONS)
    return (batch["labels"].flatten() != IGNORE_INDEX).nonzero()[:, 0] if given is None else given


def first_row(batch: Batch) -> dict[str, Tensor]:
    """A batch of the first row alone (of all rows, where they are packed), with `EXAMINED_TOKENS` of its target positions at most."""
    row = {name: value[:1] for name, value in batch.items() if name != POSITIONS}
    return {**row, POSITIONS: target_positions(row)[:EXAMINED_TOKENS]}


def _at(hidden: Tensor, positions_N: Tensor) -> Tensor:
    """The entries [N, ...] of hidden states [rows, tokens, ...] at some positions."""
    return hidden.flatten(0, 1).index_select(0, positions_N)


def target_states(
    model: nn.Module,
    batch: Batch,
    *,
    owner: nn.Module | None = None,
    logits: bool = False,
    exact: bool = False,
    layers: Collection[int] = (),
) -> tuple[Tensor, Layers]:
    """One forward pass: hidden states [N, D] as the head receives them, and the hidden states of `layers`.

    With `logits` the model's own logits [N, V] take the place of the former; the head computes them at the target positions
    alone, and with `exact` in float32, in which the model then changes them. `owner` is the model that owns the head when
    `model` is a wrapper of it (DistributedDataParallel).
    """
    head, positions_N = _head(owner or model), target_positions(batch)
    own_forward, received = head.forward, []

    def take(hidden: Tensor) -> Tensor:
        received.append(_at(hidden, positions_N))
        return hidden.new_zeros(1, 1, len(head.weight))  # models like BART add a bias to the result

    def apply(hidden: Tensor) -> Tensor:
        few = _at(hidden, positions_N)[None]
        if exact and isinstance(head, nn.Linear):
            with torch.autocast(few.device.type, enabled=False):
                return _float32_product(few, head.weight, head.bias)
        result: Tensor = own_forward(few)
        return result

    with _head_replaced(head, apply if logits else take):
        outputs = _call(model, batch, **({"output_hidden_states": True} if layers else {}))
    (states,) = [outputs.logits[0]] if logits else received
    of_layers = outputs.get("decoder_hidden_states", outputs.get("hidden_states"))
    return states, {layer: _at(of_layers[layer], positions_N) for layer in layers}


def _float32_product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden @ weight.T + bias in float32. A weight of another type is cast a part at a time: a copy of the head can be large."""
    if weight.dtype == torch.float32:
        return F.linear(hidden.float(), weight, bias)
    parts = [F.linear(hidden.float(), part.float()) for part in torch.split(weight, HEAD_ROWS)]
    product = torch.cat(parts, -1)
    return product if bias is None else product + bias


def target_hidden(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N, D] as the head receives them."""
    return target_states(model, batch)[0]


def target_logits(model: nn.Module, batch: Batch, *, exact: bool = False) -> Tensor:
    """The model's own logits [N, V]; with `exact` in float32, whatever the type of the model."""
    return target_states(model, batch, logits=True, exact=exact)[0]


def head_is_linear(model: nn.Module, batch: Batch) -> bool:
    """Whether the model's own logits are hidden @ weight.T + bias and nothing else.

    Examined on the first row of `batch`: the head's output must be that product, and must reach the model's output
    unchanged. To detect a change whatever the weights, large numbers are added to the head's output: the soft-capping of a
    model with fresh weights would pass for rounding. False for models that change logits after the head (Gemma 2, Cohere, a
    biased BART) and for heads with adapters.
    """
    head = _head(model)
    if not isinstance(head, nn.Linear):
        return False
    row = first_row(batch)
    positions_N = target_positions(row)
    own_forward, training = head.forward, model.training
    is_product, marked = False, torch.empty(0)

    def mark(hidden: Tensor) -> Tensor:
        nonlocal is_product, marked
        few = _at(hidden, positions_N)[None]
        own, product = own_forward(few), F.linear(few, head.weight, head.bias)
        is_product = torch.allclose(own.float(), product.float(), rtol=1e-3, atol=1e-3 * float(own.abs().amax()))
        marked = own + torch.linspace(-1e3, 1e3, own.shape[-1], device=own.device, dtype=own.dtype)
        return marked

    model.eval()
    try:
        with torch.no_grad(), _head_replaced(head, mark):
            logits = _call(model, row).logits
    finally:
        model.train(training)
    return is_product and logits.shape == marked.shape and torch.equal(logits.float(), marked.float())


class FrozenModel:
    """A model that is run and not trained: its hidden states and logits at the target positions of batches.

    The head is examined on `first`, the first row of a batch; None, where there is no row, counts as linear. With
    `bfloat16` the model runs in bfloat16 autocast, and its linear layers are left in bfloat16.
    """

    def __init__(self, loaded: LoadedModel, first: Batch | None, *, bfloat16: bool) -> None:
        keep_freed_memory()
        self.loaded = loaded
        self._autocast = partial(autocast, loaded.device.type, "bfloat16" if bfloat16 else None)
        with self._autocast():
            self.head_is_linear = first is None or head_is_linear(loaded.model, self._on_device(first))
        if bfloat16:
            cast_linear_layers(loaded.model)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states [N, D] as the head receives them."""
        with self._autocast():
            return target_hidden(self.loaded.model, self._on_device(batch))

    def logits(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [n, V] in float32 and labels [n], for a few target positions at a time."""
        batch = self._on_device(batch)
        labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
        with self._autocast():
            states = target_states(self.loaded.model, batch, logits=not self.head_is_linear, exact=True)[0]
        weight, bias = head_parameters(self.loaded.model)
        for start in range(0, len(states), LOGIT_ROWS):
            part = states[start : start + LOGIT_ROWS]
            logits = F.linear(part.to(weight.dtype), weight, bias) if self.head_is_linear else part
            yield logits.float(), labels_N[start : start + LOGIT_ROWS]

    def _on_device(self, batch: Batch) -> dict[str, Tensor]:
        return {name: value.to(self.loaded.device) for name, value in batch.items()}
