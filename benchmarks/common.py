"""What all benchmarks share: the description of the machine, timing two sides in turn, peak memory, and the output.

`ratio` always means: median time of the reference divided by ours, so 2 is twice as fast.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

__all__ = ["Peaks", "arguments", "hardware", "in_fresh_process", "in_turn", "peak_extra_bytes", "report", "versions"]

T = TypeVar("T")
MIB = 2**20
STATUS = Path("/proc/self/status")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="a smaller form, of seconds to minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--repeats", type=int, default=5, help="times each side runs, in turn (default 5)")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    return parser


def hardware() -> dict[str, Any]:
    """Processor, cores and threads in use, memory, accelerator."""
    found: dict[str, Any] = {
        "processor": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where installed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in ("mentorkd", "torch", "transformers", "trl", "liger-kernel", "vllm", "ctranslate2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def in_turn(sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each run of each side. Sides alternate, so that a drift of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm_up, repeats):
        for name, run in sides.items():
            gc.collect()
            start = _now()
            run()
            elapsed = _now() - start
            if turn >= 0:
                seconds[name].append(elapsed)
    return seconds


def peak_extra_bytes(run: Callable[[], object]) -> int:
    """The most memory that `run` held beyond what was held before it.

    On a GPU as torch's allocator counts it. On a CPU as the process's resident set: call it in a fresh process
    (`in_fresh_process`), where no freed memory lies about to be used again uncounted.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not STATUS.exists():
        before = _getrusage_peak()
        run()
        return _getrusage_peak() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


class Peaks(dict[str, int]):
    """The most extra memory of each side over all its runs, measured as they are timed."""

    def of(self, side: str, run: Callable[[], T]) -> T:
        kept: list[T] = []
        self[side] = max(self.get(side, 0), peak_extra_bytes(lambda: kept.append(run())))
        return kept[0]


def in_fresh_process(script: str, options: Sequence[str]) -> str:
    """What `script` prints when run with `options` by this interpreter."""
    return subprocess.run([sys.executable, script, *options], check=True, stdout=subprocess.PIPE, text=True).stdout


def report(
    name: str,
    seconds: Mapping[str, Sequence[float]],
    *,
    reference: str,
    ours: str,
    peak_bytes: Mapping[str, int] | None = None,
    as_json: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Print, and return, the two sides, their ratio (and that of memory: ours / reference), and what they ran on."""
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    sides: dict[str, dict[str, Any]] = {
        side: {"median_seconds": medians[side], "seconds": list(times)} for side, times in seconds.items()
    }
    result: dict[str, Any] = {"name": name, "ratio": medians[reference] / medians[ours], "sides": sides, **more}
    if peak_bytes:
        for side, peak in peak_bytes.items():
            sides[side]["peak_extra_bytes"] = peak
        result["memory_ratio"] = peak_bytes[ours] / peak_bytes[reference]
    result |= {"reference": reference, "ours": ours, "hardware": hardware(), "versions": versions()}
    result |= {"command": " ".join(["python", *sys.argv]), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    if as_json:
        print(json.dumps(result))
    else:
        _print_readable(result)
    return result


def _print_readable(result: Mapping[str, Any]) -> None:
    print(f"{result['name']}   {result['date']}   {result['command']}")
    for part in ("hardware", "versions"):
        print(f"  {part}: " + ", ".join(f"{key} {value}" for key, value in result[part].items()))
    known = {"name", "ratio", "memory_ratio", "sides", "reference", "ours", "hardware", "versions", "command", "date"}
    for key in result.keys() - known:
        print(f"  {key}: {result[key]}")
    for side, values in result["sides"].items():
        spread = f"{min(values['seconds']):.3f}..{max(values['seconds']):.3f}"
        peak = (
            f"   peak extra memory {values['peak_extra_bytes'] / MIB:8.1f} MiB" if "peak_extra_bytes" in values else ""
        )
        print(f"  {side:<12} median {values['median_seconds']:8.3f} s ({spread}){peak}")
    print(f"  {result['ours']} is {result['ratio']:.2f} times as fast as {result['reference']}", end="")
    print(f", with {result['memory_ratio']:.3f} of its memory" if "memory_ratio" in result else "")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _status_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _getrusage_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
