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
    "accelerator",
    "bfloat16_gain",
    "choose_precision",
    "command_line",
    "cores",
    "describe_host",
    "git_commit",
    "measured",
    "versions",
]

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


@dataclass
class Cost:
    """What a stretch of work cost; the fields are filled when it ends."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of this process, all threads together."""
    gpu_seconds: float = 0.0
    """Time for which the work held an accelerator, busy or not, which is what a cluster bills; not known here, but to
    whoever chose the device."""
    peak_memory_mb: float = 0.0
    """Highest resident memory of the process in the stretch, plus what PyTorch had allocated of a CUDA accelerator; other
    engines' memory on it (vLLM's, CTranslate2's) is not known here."""
    accelerator: str | None = None
    """Which accelerator the work held; to be filled in with `gpu_seconds`."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure wall time, processor time and peak memory of a block."""
    cost = Cost()
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()  # type: ignore[union-attr]
    _reset_peak()
    start, work = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = round(time.perf_counter() - start, 3)
        cost.cpu_seconds = round(time.process_time() - work, 3)
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
    """Processor, cores and memory; no host or user name."""
    host: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        host["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return host


def accelerator() -> str | None:
    """The name of the accelerator that PyTorch uses in this process; None without one."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "Apple MPS" if torch.backends.mps.is_available() else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
