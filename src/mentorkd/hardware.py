"""What this machine is, and the arithmetic it is fast at."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Cost",
    "Precision",
    "bfloat16_gain",
    "choose_precision",
    "command_line",
    "describe_host",
    "git_commit",
    "measured",
    "versions",
]

Precision = Literal["float32", "bfloat16", "float16"]

# bfloat16 must be this much faster before it is worth its rounding.
WORTHWHILE_GAIN = 1.3


def bfloat16_gain(device_type: str) -> float:
    """How many times faster a bfloat16 matrix product is than a float32 one here (0 where there is none).

    The shape, [1024, 512] x [512, 512], is that of a small model's feed-forward layer on one batch. Takes some 30 ms.
    """
    import torch

    if device_type == "cuda" and not torch.cuda.is_bf16_supported():
        return 0.0
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(1024, 512, dtype=dtype, device=device_type)
        b = torch.ones(512, 512, dtype=dtype, device=device_type)
        best = float("inf")
        for _ in range(8):
            start = time.perf_counter()
            (a @ b).sum().item()
            best = min(best, time.perf_counter() - start)
        times[dtype] = best
    return times[torch.float32] / times[torch.bfloat16]


def choose_precision(device_type: str) -> tuple[Precision, str]:
    """The arithmetic for `precision: auto` on this device, and why."""
    gain = bfloat16_gain(device_type)
    chosen: Precision = "bfloat16" if gain >= WORTHWHILE_GAIN else "float32"
    return chosen, f"bfloat16 matrix products measured {gain:.1f} times as fast as float32 on {device_type}"


@dataclass
class Cost:
    """What a stretch of work cost; the fields are filled when it ends."""

    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    """Highest resident memory of the process in the stretch, plus that of the accelerator if there is one."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure wall time and peak memory of a block."""
    cost = Cost()
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()  # type: ignore[union-attr]
    _reset_peak()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = round(time.perf_counter() - start, 3)
        device = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0  # type: ignore[union-attr]
        cost.peak_memory_mb = round(_peak_mb() + device, 1)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: the peak is then that of the process so far, an upper bound


def _peak_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in (
        "mentorkd",
        "torch",
        "transformers",
        "accelerate",
        "peft",
        "tokenizers",
        "numpy",
        "ctranslate2",
        "vllm",
    ):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command_line() -> list[str]:
    """The command as a user would type it, without the place where the program is installed."""
    return ["mentorkd", *sys.argv[1:]]


def describe_host() -> dict[str, Any]:
    """Processor, cores, memory and accelerator; no host or user name."""
    host: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        host["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        host["accelerator"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return host


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the working folder, with `+` behind it if files are changed; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if commit.returncode else commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
