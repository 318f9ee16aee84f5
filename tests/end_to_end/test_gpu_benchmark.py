"""benchmarks/gpu.py on a CPU: every part gives a line, whatever happens to it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from places import ROOT, SOURCE

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"device": "cpu", "short": True, "threads": 1, "minutes": 1.0, **given})


def test_the_peak_is_that_of_the_gpu_of_this_name(gpu: Any) -> None:
    names = ["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA A10G"]
    assert [gpu.peak_of(name) for name in names] == [989e12, 989e12, 756e12, 312e12, 70e12]
    assert gpu.peak_of("NVIDIA RTX A4000") is None


def test_the_table_compares_the_rows_of_a_group_and_tells_what_is_missing(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "hardware", lambda: {"gpu": "NVIDIA H200"})
    table = gpu.table_of(
        [
            gpu.Row("1B", gpu.NAMED, 0.5, 16_384, 0.5 * 989e12 * 0.4, 20 * 2**30, "8 rows"),
            gpu.Row("1B", "`hidden`", 0.54, 16_384, 0.0, 21 * 2**30),
            gpu.Row("1B", "`online`", why="OutOfMemoryError: no | memory"),
            gpu.Row("texts", gpu.BEFORE, 10.0, 10_000),
            gpu.Row("texts", "own loop", 10.0, 123_000),
        ],
        options(device="cuda", short=False),
    )
    assert "| `SFT` | 500.0 ms | 32,768 | 40.0% |  | 20.0 | 8 rows |" in table
    assert "| `hidden` | 540.0 ms | 30,341 |  | 1.08 of SFT | 21.0 |  |" in table
    assert "| `online` |  |  |  |  |  | OutOfMemoryError: no / memory |" in table
    assert "| own loop | 10.0 s | 12,300 |  | 12.3 times 7b4a6c6's loop |  |  |" in table
    assert "- peak of NVIDIA H200 (dense bfloat16): 989 TFLOP/s" in table


def test_a_part_that_fails_or_takes_too_long_is_a_row(gpu: Any, tmp_path: Path) -> None:
    bench = gpu.Bench("part", torch.device("cpu"), True, tmp_path)

    def failing() -> Any:
        raise RuntimeError("no\nkernel")

    assert list(bench.row("group", "step", failing)) == [gpu.Row("group", "step", why="RuntimeError: no kernel")]
    [late] = gpu._in_process(["liger"], 0.01, options())
    assert (late.group, late.why) == ("liger", "not finished within 0 s")
    [over] = gpu.measured(options(parts=["liger"], minutes=0.0))
    assert over.why == "the 0 minutes were over"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_parts_run_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    flags = ["--short", "--device=cpu", "--threads=1", "--json", "--minutes=14", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", *flags],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
    )
    rows = json.loads(done.stdout)
    failed = {row["measure"]: row["why"] for row in rows if not row["seconds"]}
    assert all("not installed" in why or "not measured" in why or "CUDA" in why for why in failed.values()), failed
    measured = {row["measure"] for row in rows if row["seconds"]}
    assert {
        "`SFT`",
        "`hidden`",
        "`top_k`",
        "`online`",
        "own loop",
        "7b4a6c6's loop",
        "fused loss, forward KL",
    } <= measured
    assert all(row["tokens"] for row in rows if row["seconds"])
    assert all(f"| {row['measure']} |" in out.read_text(encoding="utf-8") for row in rows)
