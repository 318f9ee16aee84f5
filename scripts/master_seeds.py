"""A recipe over the quickstart's task under several master seeds, and what the runs show together.

    python scripts/master_seeds.py run recipes/controls.yaml build/controls         # a killed one goes on where it stopped
    python scripts/master_seeds.py run recipes/controls.yaml build/controls --seeds 3 4 --set training.updates=600
    python scripts/master_seeds.py join build/controls/*/run/report                 # or other folders, each with a results.json

A master seed m draws the task (questions, the teacher's errors) and trains with the seeds 100 m + 1 to 100 m + 3. Each has its own
test questions, so `mentorkd compare` cannot put the runs side by side. `join` takes one number from each run, the difference of two
learners, and prints a table: the mean over the runs with Student's t over them, the smallest difference, how many are above 0, and how many
runs show it by themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mentorkd.cli.console import ConsoleReporter
from mentorkd.cli.result_pages import COLUMNS
from mentorkd.errors import MentorkdError, RunError
from mentorkd.pipeline.run import Pipeline
from mentorkd.quickstart.task import write_task
from mentorkd.recipe.load import load_recipe
from mentorkd.reporting.joined import join
from mentorkd.reporting.schema import Results
from mentorkd.reporting.write import read_results

MASTER_SEEDS = range(10)


def run(
    recipe: Path, master: int, root: Path, overrides: Sequence[str] = (), jobs: int = 2
) -> tuple[Results, dict[str, Any]]:
    """Run a recipe under one master seed in `root`, and return its results and its manifest."""
    write_task(root / "task", seed=master)
    seeds = [100 * master + number for number in (1, 2, 3)]
    settings = [f"data.root={root / 'task'}", f"seeds={seeds}", *overrides]
    reporter = ConsoleReporter()
    manifest = Pipeline(load_recipe(recipe, settings), root / "run", reporter).run(jobs=jobs)
    reporter.close()
    return read_results(root / "run" / "report"), manifest


def table(results: Sequence[Results], pairs: Sequence[tuple[str, str]]) -> str:
    """The Markdown table of some pairs, in points; `mentorkd reproduce --check` knows such a table in a page as `joined`."""
    columns = COLUMNS["joined"]
    lines = [f"| pair | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for a, b in pairs:
        row = join(results, a, b)._asdict()
        lines.append(f"| `{a}` - `{b}` | {' | '.join(column(row, name) for name, column in columns.items())} |")
    return "\n".join(lines)


def headline_pairs(results: Results) -> list[tuple[str, str]]:
    """The student of the headline against every other learner. Raises RunError without a headline."""
    student = next((row["a"] for row in results["comparisons"] if row["headline"]), None)
    if student is None:
        raise RunError("the first run has no headline; name pairs of learners with --pairs")
    return [(student, learner["name"]) for learner in results["learners"] if learner["name"] != student]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run a recipe under each master seed")
    runs.add_argument("recipe", type=Path)
    runs.add_argument("folder", type=Path, help="folder of the runs: FOLDER/SEED/{task,run}")
    runs.add_argument("--seeds", type=int, nargs="+", default=list(MASTER_SEEDS), help="the master seeds")
    runs.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    runs.add_argument("--jobs", type=int, default=2)
    joined = commands.add_parser("join", help="print what finished runs show together")
    joined.add_argument("reports", type=Path, nargs="+", help="folders with a results.json")
    joined.add_argument(
        "--pairs", type=_pair, nargs="+", metavar="A:B", help="default: the headline's student against every learner"
    )
    options = parser.parse_args()
    try:
        if options.command == "run":
            for master in options.seeds:
                run(options.recipe, master, options.folder / str(master), options.set, options.jobs)
        else:
            results = [read_results(folder, run_optional=True) for folder in options.reports]
            print(table(results, options.pairs or headline_pairs(results[0])))
    except MentorkdError as error:
        parser.error(str(error))


def _pair(text: str) -> tuple[str, str]:
    a, colon, b = text.partition(":")
    if not (a and colon and b):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected two learners, as student:vanilla")
    return a, b


if __name__ == "__main__":
    main()
