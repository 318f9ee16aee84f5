"""A model's weights in another type, for as long as texts are written.

Autocast would cast every weight at every token, which reads and writes more memory than float32 does: a step of one token is bound by it.
A copy is cast once. Beside float32 weights it takes half of their memory for bfloat16, and is freed when the texts are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from mentorkd.precision import Precision


@contextmanager
def weights_in(model: PreTrainedModel, dtype: Precision | None) -> Iterator[None]:
    """Floating-point weights in `dtype` within the context; None leaves them as they are. The parameters stay the same objects."""
    own = {} if dtype is None else _cast(model, getattr(torch, dtype))
    try:
        yield
    finally:
        for parameter, weights in own.items():
            parameter.data = weights


def cast_weights(model: PreTrainedModel, dtype: Precision) -> None:
    """Cast floating-point weights for good, one after the other, so that no second model is in memory."""
    _cast(model, getattr(torch, dtype), keep=False)


def _cast(model: PreTrainedModel, dtype: torch.dtype, *, keep: bool = True) -> dict[torch.nn.Parameter, torch.Tensor]:
    """Cast all weights but those that transformers says must stay float32; with `keep`, the weights that they were."""
    in_float32 = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        in_float32 |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    own = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype and not in_float32 & set(name.split(".")):
            if keep:
                own[parameter] = parameter.data
            parameter.data = parameter.data.to(dtype)
    return own
