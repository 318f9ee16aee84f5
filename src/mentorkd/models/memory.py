"""How the process's allocator treats freed memory."""

from __future__ import annotations

import ctypes
import sys

KEPT_BYTES = 2**30
"""Most freed memory that the process keeps at the end of its heap, and the size from which a tensor is mapped by itself."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let the C library use freed memory again instead of returning it to the system, where it is glibc.

    glibc maps every tensor above 32 MiB by itself and unmaps it when it is freed, such as the gradient of a head in every
    micro-batch. The system must then clear each of its pages again. Kept memory saves 5 to 10 % of a training step on a CPU
    and 10 to 20 % of a scoring pass (docs/results/against-trl.md). Results are the same.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
