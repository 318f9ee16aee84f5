"""The work of a device that runs behind the host, so that a look at one of its values waits until all work before it is done."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def runs_behind(device: torch.device) -> bool:
    """Whether a look at a value waits for the device. A CPU has done its work when the call returns."""
    return device.type != "cpu"


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on `device`; no work of a GPU is waited for, since it copies from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def memory_of(device: torch.device) -> int:
    """Bytes of a CUDA device's memory, used or not: the same in every process, so results do not depend on what else is there."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def free_memory_of(device: torch.device) -> int:
    """Bytes that this process can still take on a CUDA device: free ones, and those that torch keeps for it."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def power_of_two(number: float) -> int:
    """The largest power of two up to a number from 1 on: a little memory more or less gives the same."""
    return 1 << int(math.log2(number))
