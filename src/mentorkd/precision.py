"""Arithmetic of training: bfloat16 where it is measured to be fast, else float32."""

from __future__ import annotations

import time
from typing import Literal

__all__ = ["Precision", "bfloat16_gain", "choose_precision"]

Precision = Literal["float32", "bfloat16", "float16"]

# bfloat16 must be this much faster before it is worth its rounding.
WORTHWHILE_GAIN = 1.3


def bfloat16_gain(device_type: str, *, repeats: int = 9) -> float:
    """How many times faster a layer trains in bfloat16 autocast than in float32 here (0 where it cannot).

    The layer is a small model's feed-forward one, 512 -> 1024 -> 512 on 512 tokens, forward and backward. A CPU's own
    time on one thread is taken, for the wall's would depend on what else the machine does. Takes some 0.2 s.
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
        times = [(step(False), step(True)) for _ in range(repeats)]
    finally:
        torch.set_num_threads(threads)
    return min(slow for slow, _ in times) / min(fast for _, fast in times)


def choose_precision(device_type: str) -> tuple[Precision, str]:
    """The arithmetic for `precision: auto` on this device, and why."""
    gain = bfloat16_gain(device_type)
    chosen: Precision = "bfloat16" if gain >= WORTHWHILE_GAIN else "float32"
    return chosen, f"a layer trained in bfloat16 measured {gain:.1f} times as fast as in float32 on {device_type}"
