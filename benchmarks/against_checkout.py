"""A whole quickstart by another checkout and by this one, in turn: processor time, wall time and accuracies.

Both sides run the recipe, the data and the number of jobs of the other checkout, each with its own code, in processes of their own.
Processor time is that of all processes of a run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import arguments, report

OTHER, OURS = "other checkout", "ours"
HERE = Path(__file__).parents[1]
SHORT = ["seeds=[1]", "training.updates=40", "learners.mentor.training.updates=40", "sampling.max_new_tokens=60"]
WRITE_TASK = (
    "import sys, pathlib; from mentorkd.quickstart.task import write_recipe, write_task; "
    "folder = write_task(pathlib.Path(sys.argv[1])); write_recipe(folder / 'recipe.yaml')"
)


@dataclass(frozen=True)
class Run:
    """Seconds of a run, and the mean test accuracy of each learner over the seeds."""

    processor: float
    wall: float
    accuracies: Mapping[str, float]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkout", type=Path, help="the root of the other checkout, such as a git worktree of 7b4a6c6")
    parser.add_argument("--jobs", type=int, default=1, help="of `mentorkd run` (default 1)")
    parser.add_argument("overrides", nargs="*", help="values of the recipe, as `mentorkd run` takes them")
    options = parser.parse_intermixed_args()
    changes = [*(SHORT if options.short else ()), *options.overrides]
    runs: dict[str, list[Run]] = {OTHER: [], OURS: []}
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task"
        _python(options.checkout, ["-c", WRITE_TASK, str(task)], options.threads)
        for turn in range(1 if options.short else options.repeats):
            for side, root in ((OTHER, options.checkout), (OURS, HERE)):
                run = _run(root, task / "recipe.yaml", Path(folder) / f"{turn}-{side}", changes, options)
                print(f"{side}: {run}", file=sys.stderr, flush=True)
                runs[side].append(run)
    for what in ("processor", "wall"):
        seconds = {side: [getattr(run, what) for run in each] for side, each in runs.items()}
        accuracies = {side: each[-1].accuracies for side, each in runs.items()}
        shares = [ours / other for other, ours in zip(seconds[OTHER], seconds[OURS], strict=True)]
        report(
            f"whole quickstart, {what} time",
            seconds,
            reference=OTHER,
            ours=OURS,
            as_json=options.json,
            jobs=options.jobs,
            share_of_other=round(statistics.median(shares), 4),
            accuracies=accuracies,
        )


def _run(root: Path, recipe: Path, folder: Path, changes: Sequence[str], options: Namespace) -> Run:
    """Run the recipe with the code of a checkout."""
    command = ["-m", "mentorkd", "run", str(recipe), *changes, "--run", str(folder)]
    command += ["--jobs", str(options.jobs), "--quiet"]
    before, start = _processor_seconds(), time.perf_counter()
    _python(root, command, options.threads)
    wall, processor = time.perf_counter() - start, _processor_seconds() - before
    results = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))
    return Run(processor, wall, {each["name"]: each["accuracy"] for each in results["learners"]})


def _python(root: Path, command: Sequence[str], threads: int | None) -> None:
    """Run Python with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root.resolve() / "src")}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    subprocess.run([sys.executable, *command], env=environment, check=True, stdout=subprocess.DEVNULL)


def _processor_seconds() -> float:
    """Processor time of all ended processes that this one started, and of those that they waited for."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
