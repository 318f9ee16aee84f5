"""Precision of training: bfloat16 where the device has units for it or is measurably faster with it, else float32."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]

# The speed-up from which on bfloat16 is worth its rounding.
WORTHWHILE_GAIN = 1.3

BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability of the first NVIDIA GPUs with bfloat16 and TF32 tensor cores (Ampere)."""


def autocast(device_type: str, precision: Precision | None) -> AbstractContextManager[object]:
    """Autocast to a precision; no change for float32 and None."""
    import torch

    return nullcontext() if precision in ("float32", None) else torch.autocast(device_type, getattr(torch, precision))


def use_tf32(device: torch.device) -> None:
    """Let products of float32 tensors on a CUDA device round their inputs to TF32 from now on, in the whole process.

    TF32 has the range of float32 and a mantissa of 10 bits, where bfloat16 has 7. GPUs without TF32 units ignore the setting.
    """
    import torch

    if device.type == "cuda":
        # Once the newer `fp32_precision` is set, reading this switch raises an error, and libraries read it.
        torch.backends.cuda.matmul.allow_tf32 = True


def bfloat16_gain(device_type: str, *, repeats: int = 9) -> float:
    """Speed-up of training a layer in bfloat16 autocast over float32 on this device; 0 if the device has no bfloat16.

    The layer is the feed-forward layer of a small model, 512 -> 1024 -> 512 on 512 tokens, forward and backward. On a CPU, the
    time is the CPU time of one thread: wall time would depend on other processes. Takes about 0.2 s where the processor has
    bfloat16 instructions. Where it emulates them, a step takes thirty times as long, so two such steps are enough.
    """
    import torch

    if device_type == "cuda" and not torch.cuda.is_bf16_supported():  # of AMD
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
    """The precision for `precision: auto` on this device, and the reason in words.

    An NVIDIA GPU is not measured. The layer is too small for a large one, and GPUs before compute capability 8.0 emulate bfloat16.
    """
    import torch

    if device_type == "cuda" and torch.version.hip is None:
        return _of_capability(torch.cuda.get_device_capability())
    gain = bfloat16_gain(device_type)
    precision: Precision = "bfloat16" if gain >= WORTHWHILE_GAIN else "float32"
    return precision, f"measured on {device_type}: a layer trains {gain:.1f} times as fast in bfloat16 as in float32"


def _of_capability(capability: tuple[int, int]) -> tuple[Precision, str]:
    """The precision of an NVIDIA GPU. Never float16, which has too small a range for some models (T5 among them)."""
    got, first = (".".join(map(str, each)) for each in (capability, BFLOAT16_CAPABILITY))
    if capability >= BFLOAT16_CAPABILITY:
        return "bfloat16", f"a GPU of compute capability {got} has bfloat16 units (from {first} on)"
    return "float32", f"a GPU of compute capability {got} has no bfloat16 units (from {first} on)"
