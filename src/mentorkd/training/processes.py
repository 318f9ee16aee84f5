"""What the processes of a training have to know of each other; a training without a group of processes is the only one."""

from __future__ import annotations

import torch
from torch import distributed


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def missing_devices(processes: int, device: torch.device) -> str | None:
    """What several processes lack on this machine, each of which needs a device of its own; None if nothing."""
    if processes == 1 or device.type == "cpu":
        return None
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if processes <= devices:
        return None
    return (
        f"got {processes} processes, and a stage has {devices} {device.type} device{'s' if devices > 1 else ''} here for them; lower "
        "`training.processes`, or give the stage more devices (CUDA_VISIBLE_DEVICES, fewer --jobs)"
    )


def is_first_process() -> bool:
    """Whether this process is the one that writes files."""
    return not _joined() or distributed.get_rank() == 0


def own_share(items: int) -> slice:
    """This process's share of a number of items, which all processes have in the same order."""
    return slice(distributed.get_rank(), items, distributed.get_world_size()) if _joined() else slice(0, items)


def sum_over_processes(number: int, device: torch.device) -> int:
    """The sum of all processes' numbers; each process waits for the others."""
    if not _joined():
        return number
    total = torch.tensor(number, device=device)
    distributed.all_reduce(total)
    return int(total)


def wait_for_others() -> None:
    """Wait until all processes are here."""
    if _joined():
        distributed.barrier()
