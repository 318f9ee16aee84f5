"""Where a run's results come from, command, commit, versions and machine of every stage, and what stages cost."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mentorkd.pipeline.records import StageRecord

Facts = dict[str, Any]

_PACKAGES = ("mentorkd", "torch", "transformers", "accelerate", "peft", "tokenizers", "numpy", "scipy")
_ENGINES = ("ctranslate2", "vllm")


@cache
def here() -> Facts:
    """Command, commit, versions and host of the stages that this process carries out."""
    return {
        "command": shlex.join(command_line()),
        "git": _git_commit(),
        "versions": versions(),
        "host": describe_host(),
    }


def summary(stages: Iterable[StageRecord], report: Facts | None) -> Facts:
    """The facts of all stages (`made_by`): for each fact its value, or a list of its values where stages differ.

    A report may be written again long after the training, by other code on another machine. Its own facts (`report`) that
    differ from the stages' stand apart, under the key `report`.
    """
    values: dict[str, list[Any]] = {key: [] for key in here()}
    for source in (record.made_by for record in stages if record.kind != "report" and record.made_by is not None):
        for key, distinct in values.items():
            if (value := source.get(key)) is not None and value not in distinct:
                distinct.append(value)
    facts = {key: distinct[0] if len(distinct) == 1 else distinct or None for key, distinct in values.items()}
    different = {key: value for key, value in (report or {}).items() if value != facts.get(key)}
    return {**facts, **({"report": different} if different else {})}


@dataclass
class Cost:
    """What a block of code cost. The fields are filled when it ends."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of this process, all threads together."""
    gpu_seconds: float = 0.0
    """Time for which the block held an accelerator, busy or not: a cluster bills this time. The caller, which knows the
    device, sets it."""
    peak_memory_mb: float = 0.0
    """Highest resident memory of the process (of several, their sum), plus the memory that PyTorch allocated on a CUDA
    accelerator. The memory of other engines there (vLLM, CTranslate2) is not counted."""
    accelerator: str | None = None
    """The accelerator that the block held. The caller sets it with `gpu_seconds`."""

    def include(self, others: Iterable[Cost]) -> None:
        """Add what other processes cost in the meantime."""
        for other in others:
            self.cpu_seconds = round(self.cpu_seconds + other.cpu_seconds, 3)
            self.gpu_seconds = round(self.gpu_seconds + other.gpu_seconds, 3)
            self.peak_memory_mb = round(self.peak_memory_mb + other.peak_memory_mb, 1)
            self.accelerator = self.accelerator or other.accelerator


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure wall time, processor time and peak memory of a block."""
    cost = Cost()
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()  # type: ignore[union-attr]
    with suppress(OSError):  # not Linux: the peak is that of the whole process, an upper bound
        Path("/proc/self/clear_refs").write_text("5")
    start, work = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = round(time.perf_counter() - start, 3)
        cost.cpu_seconds = round(time.process_time() - work, 3)
        device = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0  # type: ignore[union-attr]
        cost.peak_memory_mb = round(_peak_mb() + device, 1)


def _peak_mb() -> float:
    if (peak := _proc_field("self/status", "VmHWM")) is not None:
        return int(peak.split()[0]) / 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def _proc_field(file: str, name: str) -> str | None:
    """The first value of a field in a file of Linux's /proc; None on other systems, or without such a field."""
    with suppress(OSError):
        for line in Path("/proc", file).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES + _ENGINES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def command_line() -> list[str]:
    """The command as a user would type it, without the folder of the program."""
    return ["mentorkd", *sys.argv[1:]]


def describe_host() -> dict[str, Any]:
    """Processor, cores and memory; no host or user name."""
    host: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _proc_field("cpuinfo", "model name") or platform.processor() or platform.machine(),
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


def _git_commit() -> str | None:
    """Commit of the working folder, with `+` behind it if files are changed; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if commit.returncode else commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
