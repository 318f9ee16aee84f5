"""The machine that a plan counts on: its memory, and how fast it multiplies. Without torch, speeds are assumed and not measured."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from mentorkd.pipeline.provenance import cores, describe_host

GB = 1e9
Device = Literal["cpu", "gpu"]

_CORE_FLOPS = 50e9
"""Matrix products in float32 of one core with AVX2; measured ones are 80e9 alone and less beside other cores."""
_CPU_BANDWIDTH = 15e9
_GPU_FLOPS, _GPU_BANDWIDTH = 60e12, 800e9
"""Matrix products in bfloat16, and bytes a second, of a GPU of the class of an RTX 4090 or an A10; half of its data sheet."""
_MEASURED_SIDE = 1024


@dataclass(frozen=True)
class Machine:
    """One device for the stages, which run one after another."""

    device: Device
    name: str
    memory: float | None
    """Bytes; None if it is not known."""
    flops: float
    """Floating-point operations a second in large matrix products."""
    bandwidth: float
    """Bytes a second that memory gives."""
    basis: str
    """What `flops` rests on, in words."""


def machine_of(device: str, *, gpu_memory: float | None = None) -> Machine:
    """The machine for a recipe's `device`; `gpu_memory` in GB stands for a GPU that this machine need not have."""
    if gpu_memory is not None:
        return _gpu(f"a GPU of {gpu_memory:g} GB", gpu_memory * GB)
    if device in ("auto", "cuda") and (found := _nvidia()) is not None:
        return _gpu(*found)
    number, memory = cores(), describe_host().get("memory_gb")
    return Machine(
        "cpu",
        f"{number} core{'s' if number > 1 else ''}",
        None if memory is None else memory * 2**30,
        number * _CORE_FLOPS,
        _CPU_BANDWIDTH,
        f"assumed: {_CORE_FLOPS / 1e9:.0f} GFLOP/s a core; `--measure` measures it",
    )


def _gpu(name: str, memory: float) -> Machine:
    basis = (
        f"assumed, and untested on a GPU: {_GPU_FLOPS / 1e12:.0f} TFLOP/s in bfloat16, {_GPU_BANDWIDTH / 1e9:.0f} GB/s"
    )
    return Machine("gpu", name, memory, _GPU_FLOPS, _GPU_BANDWIDTH, basis)


def _nvidia() -> tuple[str, float] | None:
    """Name and memory in bytes of the first GPU that the NVIDIA driver lists."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        listed = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        name, megabytes = listed.splitlines()[0].rsplit(",", 1)
        return name.strip(), float(megabytes) * 2**20
    return None


def measured(machine: Machine, seconds: float = 0.5) -> Machine:
    """The machine with the speed of its own matrix products, measured with torch in less than a second; a GPU that this machine
    does not have keeps its assumed speed."""
    import torch

    if machine.device == "gpu" and not torch.cuda.is_available():
        return machine
    device, dtype = ("cuda", torch.bfloat16) if machine.device == "gpu" else ("cpu", torch.float32)
    side = _MEASURED_SIDE * (4 if machine.device == "gpu" else 1)
    square = torch.ones(side, side, device=device, dtype=dtype)
    (square @ square)[0, 0].item()

    def clock() -> float:  # of a CPU the processor time, which other programs do not stretch
        return time.perf_counter() if device == "cuda" else time.process_time() / torch.get_num_threads()

    products, start = 0, clock()
    while (taken := clock() - start) < seconds:
        (square @ square)[0, 0].item()  # waits for an accelerator
        products += 1
    flops = 2 * side**3 * products / taken
    return replace(machine, flops=flops, basis=f"measured: {flops / 1e9:,.0f} GFLOP/s in matrix products of {side:,}")
