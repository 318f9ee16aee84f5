"""How the process's allocator treats freed memory."""

from __future__ import annotations

import ctypes
import sys

REUSED_BYTES, KEPT_BYTES = 2**27, 2**28
"""Largest tensor whose memory is used again, and most memory that stays free at the end of the heap. Both bound what is lost where a
small object lies in the memory of a freed tensor, so that the next tensor does not fit there."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let the C library use the memory of freed tensors again instead of returning it to the system, where it is glibc.

    glibc maps every tensor above 32 MiB by itself and unmaps it when it is freed, such as the gradient of a head in every
    micro-batch. For the next one, the system must clear each page. Kept memory saves 5 to 10 % of a training step on a CPU
    and 10 to 20 % of a scoring pass (docs/results/against-trl.md). Results are the same.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
