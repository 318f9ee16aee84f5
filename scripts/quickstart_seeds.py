"""The quickstart under several master seeds: another task, other trainings, the same pretrained models.

    python scripts/quickstart_seeds.py                   # seeds 0 to 9; a killed one goes on where it stopped
    python scripts/quickstart_seeds.py --seeds 3 4

A master seed m draws the task (questions, the teacher's errors) and trains with the seeds 100 m + 1 to 100 m + 3. Adds a row
for each to `docs/results/quickstart-seeds.csv`; one that is there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from master_seeds import MASTER_SEEDS
from master_seeds import run as run_recipe

from mentorkd.quickstart.task import RECIPE
from mentorkd.reporting.schema import ComparisonResult, FilterCount

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/results/quickstart-seeds.csv"
LEARNERS = ("vanilla", "mentor", "student", "student-no-soft-labels")
PAIRS = (("student", "vanilla"), ("student-no-soft-labels", "vanilla"), ("student", "student-no-soft-labels"))


def run(master: int, root: Path) -> dict[str, Any]:
    """Run the quickstart under one master seed, and return its row; accuracies and differences in points."""
    results, manifest = run_recipe(RECIPE, master, root)
    accuracy = {learner["name"]: learner["accuracy"] for learner in results["learners"]}
    row: dict[str, Any] = {"master_seed": master} | {name: _points(accuracy[name]) for name in LEARNERS}
    for a, b in PAIRS:
        difference, low, high, p = _compared(results["comparisons"], a, b)
        row[f"{a} - {b}"] = _points(difference)
        row |= {f"{a} - {b}, low": _points(low), f"{a} - {b}, high": _points(high), f"{a} - {b}, p": f"{p:.2g}"}
    row["mentor_samples_kept"] = _points(_kept(results["filters"]))
    stages = manifest["stages"].values()
    row["seconds"] = round(sum(stage["seconds"] for stage in stages))
    row["peak_memory_mb"] = round(max(stage["peak_memory_mb"] for stage in stages))
    return row


def _points(share: float | None) -> float:
    assert share is not None, "every learner and every pair of the quickstart is measured"
    return round(100 * share, 2)


def _compared(comparisons: Sequence[ComparisonResult], a: str, b: str) -> tuple[float, float, float, float]:
    """How far `a` is above `b`: difference, interval and p-value."""
    [pair] = [pair for pair in comparisons if {pair["a"], pair["b"]} == {a, b}]
    sign = 1 if pair["a"] == a else -1
    low, high = sorted(sign * edge for edge in pair["interval"])
    return sign * pair["difference"], low, high, pair["p_adjusted"]


def _kept(filters: Sequence[FilterCount]) -> float:
    """The share of the mentor's samples that are right."""
    counts = [
        row for row in filters if (row["learner"], row["source"], row["filter"]) == ("student", "mentor", "correct")
    ]
    return float(sum(row["after"] for row in counts) / sum(row["before"] for row in counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(MASTER_SEEDS), help="the master seeds")
    parser.add_argument("--runs", type=Path, default=ROOT / "build/quickstart-seeds", help="folder of the runs")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if TABLE.is_file():
        with TABLE.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    for master in options.seeds:
        if any(int(row["master_seed"]) == master for row in rows):
            continue
        rows.append(run(master, options.runs / str(master)))
        rows.sort(key=lambda row: int(row["master_seed"]))
        with TABLE.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
