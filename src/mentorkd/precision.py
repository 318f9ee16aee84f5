"""Precision of training: bfloat16 if it is measurably faster on this device, else float32."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]

# The speed-up from which on bfloat16 is worth its rounding.
WORTHWHILE_GAIN = 1.3


def autocast(device_type: str, precision: Precision | None) -> AbstractContextManager[object]:
    """Autocast to a precision; no change for float32 and None."""
    import torch

    return nullcontext() if precision in ("float32", None) else torch.autocast(device_type, getattr(torch, precision))


def bfloat16_gain(device_type: str, *, repeats: int = 9) -> float:
    """Speed-up of training a layer in bfloat16 autocast over float32 on this device; 0 if the device has no bfloat16.

    The layer is the feed-forward layer of a small model, 512 -> 1024 -> 512 on 512 tokens, forward and backward. On a CPU, the
    time is the CPU time of one thread: wall time would depend on other processes. Takes about 0.2 s where the processor has
    bfloat16 instructions. Where it emulates them, a step takes thirty times as long, so two such steps are enough.
    """
    import torch

    if device_type == "cuda" and not torch.cuda.is_bf16_supported():
        return 0.0
    clock = time.thread_time if device_type == "cpu" else time.perf_counter
    x = torch.ones(512, 512, device=device_type)
    up, down = (torch.ones(*shape, device=device_type, requires_grad=True) for shape in ((1024, 512), (512, 1024)))

    def step(in_bfloat16: bool) -> float:
        start = clock()
        with torch.autocast(device_type, torch.bfloat16, enabled=in_bfloat16):
            y = torch.nn.functional.linear(torch.nn.functional.linear(x, up), down)
        y.float().sum().backward()  # type: ignore[no-untyped-call]
        up.grad[0, 0].item()  # type: ignore[index]  # waits for an accelerator
        return clock() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        full, half = [], []
        for _ in range(repeats):
            full.append(step(False))
            half.append(step(True))
            if len(half) == 2 and min(half) > 4 * max(full):
                break
    finally:
        torch.set_num_threads(threads)
    return min(full) / min(half)


def choose_precision(device_type: str) -> tuple[Precision, str]:
    """The precision for `precision: auto` on this device, and the reason in words."""
    gain = bfloat16_gain(device_type)
    precision: Precision = "bfloat16" if gain >= WORTHWHILE_GAIN else "float32"
    return precision, f"measured on {device_type}: a layer trains {gain:.1f} times as fast in bfloat16 as in float32"
