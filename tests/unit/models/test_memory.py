"""Freed memory that the process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from mentorkd.models import memory

PAGES = """
import resource, runpy, sys, torch
if sys.argv[1] == "kept":
    runpy.run_path(sys.argv[2])["keep_freed_memory"]()
elements = 2**24  # 64 MiB, which glibc maps by itself if it is not told otherwise
for _ in range(6):  # until small objects have found their places
    torch.zeros(elements).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.zeros(elements).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how: str) -> int:
    """Pages that the system clears for three tensors, made one after the other."""
    return int(
        subprocess.run(
            [sys.executable, "-c", PAGES, how, memory.__file__], check=True, capture_output=True, text=True
        ).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has settings of its own")
def test_memory_of_a_freed_tensor_is_used_again() -> None:
    assert new_pages("kept") * 2 < new_pages("returned")  # a small object may still take a place of the right size
