"""Run the paper's table 2 with FlanT5-small on one GPU and collect its results; `paper_on_a_gpu.sh` installs mentorkd and starts this.

    python scripts/paper_on_a_gpu.py                                # three tasks by the fair protocol
    python scripts/paper_on_a_gpu.py --protocol both --task last_letter 'seeds=[42]'
    python scripts/paper_on_a_gpu.py --estimate                     # hours by GPU; runs nothing

Each task is one `mentorkd reproduce`: a finished one is only read, and a killed one continues where it stopped. Results, hardware,
versions and commit are collected in FOLDER/results and FOLDER/results.zip. docs/paper-on-a-gpu.md describes the whole.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mentorkd.cli.estimates import duration, size
from mentorkd.cli.paper_tables import Score, arms_of_student, fill_in, table_rows, unavailable_learners, without
from mentorkd.cli.shipped import shipped_recipes
from mentorkd.errors import MentorkdError, RunError, explaining
from mentorkd.paper.tasks import Task, find_task
from mentorkd.pipeline.estimates.assess import Assessment
from mentorkd.pipeline.estimates.machine import GB, Machine, machine_of, measured
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.run import Pipeline
from mentorkd.precision import BFLOAT16_CAPABILITY
from mentorkd.recipe.schema import Recipe
from mentorkd.reporting.schema import Results
from mentorkd.reporting.write import read_results

ROOT = Path(__file__).resolve().parents[1]
TABLE, STUDENT = "table2", "flan-t5-small"
TASKS = ("shuffled", "last_letter", "svamp")
PROTOCOLS = {"fair": ["fair"], "paper": ["paper"], "both": ["fair", "paper"]}

SMALLER = [
    [],
    ["batch_size=4", "gradient_accumulation=2"],
    ["batch_size=2", "gradient_accumulation=4"],
    ["batch_size=2", "gradient_accumulation=4", "gradient_checkpointing=true"],
]
"""Settings of the mentor's training that take less and less memory. All have updates of eight rows, so all train alike."""

GPUS = [
    ("RTX 4080", 16, 97, 717),
    ("RTX 3090", 24, 71, 936),
    ("RTX 4090", 24, 165, 1008),
    ("A10", 24, 125, 600),
    ("L4", 24, 121, 300),
    ("L40S", 48, 362, 864),
    ("A100", 40, 312, 1555),
    ("H100", 80, 989, 3350),
]
"""Memory in GB, TFLOP/s in bfloat16 (dense, sums in float32) and GB/s of memory, by data sheets. Estimates take half of both speeds."""


@dataclass(frozen=True)
class TableRun:
    """A task of the table under a protocol."""

    task: Task
    protocol: str
    folder: Path
    """Where everything is written."""
    data: Path
    overrides: tuple[str, ...] = ()
    smoke: bool = False
    """With tiny models and eight questions."""

    @property
    def name(self) -> str:
        return f"{self.task.key}-{self.protocol}"

    @property
    def root(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def changes(self) -> list[str]:
        """All overrides of the table's recipe."""
        return [f"protocol={self.protocol}", *self.overrides]

    @property
    def command(self) -> list[str]:
        """`mentorkd reproduce` with its arguments."""
        options = {
            "--task": self.task.key,
            "--student": STUDENT,
            "--data": _shown(self.data),
            "--run": _shown(self.root),
        }
        return ["reproduce", TABLE, *self.changes, *chain(*options.items()), *["--smoke"] * self.smoke]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of that command."""
        table = shipped_recipes()[f"paper/{TABLE}"]
        fill = partial(fill_in, table, self.task, data=self.data, root=self.root, overrides=self.changes)
        whole = fill(smoke=self.smoke)
        learners = arms_of_student(fill(smoke=False), STUDENT)  # tiny models have no names, by which a student is found
        return without(whole, [name for name in whole.learners if name not in learners])

    def changed(self, overrides: Sequence[str]) -> TableRun:
        """The same run with more overrides."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def assess(self, machine: Machine) -> Assessment:
        """What `mentorkd plan` would estimate."""
        return Assessment(estimate(self.recipe, self.root), Pipeline(self.recipe, self.root).plan(), machine, self.root)


def _shown(path: Path) -> str:
    """A path as results show it: inside the checkout without the folders above it, which name a user."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def find_gpu() -> tuple[Machine, dict[str, Any]]:
    """The GPU that torch uses, with its measured speed, and its facts. Raises RunError if there is none."""
    import torch

    if not torch.cuda.is_available():
        raise RunError(
            f"torch {torch.__version__} finds no GPU, and only `--smoke` needs none; if `nvidia-smi` lists one, its driver may be too old "
            "for this build of torch: delete the environment and name an older build's index by TORCH_INDEX (pytorch.org, Get started)"
        )
    properties, capability = torch.cuda.get_device_properties(0), torch.cuda.get_device_capability(0)
    machine = machine_of("cuda", gpu_memory=properties.total_memory / GB)
    machine = replace(measured(machine) if capability >= BFLOAT16_CAPABILITY else machine, name=properties.name)
    facts = {
        "gpu": properties.name,
        "memory_gb": round(properties.total_memory / GB, 1),
        "compute_capability": ".".join(map(str, capability)),
        "cuda": torch.version.cuda,
    }
    return machine, facts


def precision_of(facts: dict[str, Any]) -> list[str]:
    """The precision in which `precision: auto` trains on a GPU, as an override for its estimates."""
    capability = tuple(int(part) for part in facts["compute_capability"].split("."))
    return [] if capability >= BFLOAT16_CAPABILITY else ["training.precision=float32"]


def smaller(setting: Sequence[str]) -> list[str]:
    """One of SMALLER as overrides of the mentor."""
    return [f"learners.mentor.training.{each}" for each in setting]


def lacking_memory(assessment: Assessment) -> str | None:
    """The work that takes more memory than the machine has, in words; None if everything fits."""
    memory, has = assessment.most_memory, assessment.machine.memory
    if memory is None or has is None or memory.total <= has:
        return None
    return f"to {memory.work} {memory.learner} takes about {size(memory.total)}, and {assessment.machine.name} has {size(has)}"


def check_memory(run: TableRun, machine: Machine) -> None:
    """Raises RunError with what to change if the run is too large for the machine by the estimate of `plan`."""
    why = lacking_memory(run.assess(machine))
    if why is None:
        return
    for changes in map(smaller, SMALLER[1:]):
        if lacking_memory(run.changed(changes).assess(machine)) is None:
            raise RunError(f"{run.name}: {why}; add to the command (an update keeps its rows): {' '.join(changes)}")
    raise RunError(
        f"{run.name}: {why}, and no smaller batch fits; what fits is another experiment: adapters for the mentor "
        "('learners.mentor.model.lora={r: 64, alpha: 128}'), or a smaller mentor"
    )


def check_run(run: TableRun, fetch: str) -> None:
    """Raises RunError if a learner of the run cannot be trained here, which `reproduce` alone would leave out."""
    reasons = unavailable_learners(run.recipe, run.root, fetch=fetch)
    if reasons:
        raise RunError(f"{run.name} cannot be run: {'; '.join(dict.fromkeys(reasons.values()))}")


def forecast(assessments: Sequence[Assessment]) -> str:
    """Time and disk of all runs, one after another. Raises RunError if the disk is too small."""
    disks, free = [each.disk for each in assessments], assessments[0].disk_free
    disk = sum(each.total - each.checkpoints for each in disks) + max(each.checkpoints for each in disks)
    if disk > free:
        raise RunError(
            f"the runs write about {size(disk)}, and {size(free)} are free; name another folder with --folder"
        )
    seconds, machine = sum(each.seconds_left for each in assessments), assessments[0].machine
    return (
        f"about {duration(seconds)} to go on {machine.name} ({machine.basis}) and {size(disk)} of {size(free)} of disk; "
        "these are estimates, which nobody has compared with a GPU"
    )


def execute(command: Sequence[str]) -> None:
    """Run a command of mentorkd in the checkout, whose commit it records. Raises SystemExit with its exit code if it fails."""
    code = subprocess.run([sys.executable, "-m", "mentorkd", *command], cwd=ROOT).returncode
    if code:
        print(
            f"paper_on_a_gpu: `mentorkd {shlex.join(command)}` has failed; the same command continues", file=sys.stderr
        )
        raise SystemExit(code)


def collect(run: TableRun, results: Path) -> None:
    """Copy what a run has shown, and where, into its folder below `results`. `mentorkd compare` reads that folder."""
    (results / run.name).mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "run.json"):
        shutil.copy(run.root / "report" / name, results / run.name / name)


def summary(runs: Sequence[TableRun], results: Path) -> str:
    """A Markdown table of all runs beside the paper's numbers, and where each was run."""
    lines = ["| task | protocol | learner | paper % | here % [95 %] | seeds |", "|---|---|---|---|---|---|"]
    places = []
    for run in runs:
        one = read_results(results / run.name)
        places.append(f"- {run.name}: {_place(one)}")
        for row in table_rows(run.recipe, TABLE, run.task, one["learners"], {}):
            if row.ours is not None:
                paper = f"{100 * row.paper.accuracy:.1f}*" if row.paper else "not given"
                cells = (run.task.title, run.protocol, f"`{row.learner}`", paper, _cell(row.ours), str(row.ours.seeds))
                lines.append(f"| {' | '.join(cells)} |")
    notes = ["\\* the epoch was chosen on the test questions"]
    if any(run.smoke for run in runs):
        notes.append("a smoke test: models with random weights and eight questions; its numbers have no meaning")
    return "\n".join([*lines, "", *notes, "", *places, ""])


def _cell(score: Score) -> str:
    interval = f"[{100 * score.interval.low:.1f}, {100 * score.interval.high:.1f}]"
    return f"{100 * score.accuracy:.1f}{'*' * score.selected_on_test} {interval}"


def _place(results: Results) -> str:
    facts, manifest = results["run"], results["run"]["manifest"]
    hours = sum(cost["seconds"] or 0.0 for cost in facts["costs"]) / 3600
    torch = manifest["versions"]["torch"] if isinstance(manifest["versions"], dict) else "several versions"
    return f"{facts['accelerator'] or 'no GPU'}, commit {manifest['git']}, torch {torch}, {hours:.1f} h"


def estimate_table(data: Path) -> Iterator[str]:
    """The lines of a Markdown table: hours and settings by GPU, by the estimates of `plan`."""
    runs = [TableRun(_task(name), "fair", ROOT / "runs/none", data) for name in TASKS]  # nothing is written
    yield f"| GPU | speeds assumed | {' | '.join(run.task.title for run in runs)} | all | settings of the mentor's training |"
    yield f"|---|---|{'---|' * len(runs)}---|---|"
    for name, memory, teraflops, bandwidth in GPUS:
        machine = machine_of("cuda", gpu_memory=memory)
        machine = replace(machine, name=name, flops=teraflops / 2 * 1e12, bandwidth=bandwidth / 2 * GB)
        for setting in SMALLER:
            assessments = [run.changed(smaller(setting)).assess(machine) for run in runs]
            if not any(map(lacking_memory, assessments)):
                break
        hours = [each.seconds_left / 3600 for each in assessments]
        cells = [f"{value:.1f} h" for value in (*hours, sum(hours))]
        speeds = f"{teraflops / 2:.0f} TFLOP/s, {bandwidth / 2:.0f} GB/s"
        words = ", ".join(f"`{each}`" for each in setting) or "as they are"
        yield f"| {name}, {memory} GB | {speeds} | {' | '.join(cells)} | {words} |"


def _task(name: str) -> Task:
    task = find_task(name)
    assert task is not None, f"{name} is one of TASKS"
    return task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe recipes/paper/table2.yaml"
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="fair", help="mentorkd's (default), the paper's, or both"
    )
    parser.add_argument("--task", action="append", choices=TASKS, help="only this task; may be repeated")
    parser.add_argument("--folder", type=Path, help="where everything is written; default runs/paper-on-a-gpu")
    parser.add_argument(
        "--data", type=Path, help="a folder that has the paper's data; default: downloaded to FOLDER/data"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny models with random weights, eight questions, no GPU")
    parser.add_argument("--estimate", action="store_true", help="print estimated hours by GPU and run nothing")
    options = parser.parse_args()
    folder = (options.folder or ROOT / f"runs/paper-on-a-gpu{'-smoke' * options.smoke}").resolve()
    data = (options.data or folder / "data").resolve()
    fetch = ["data", "paper", _shown(data)]
    if options.data is None:
        execute(fetch)
    if options.estimate:
        print(*estimate_table(data), sep="\n")
        return
    runs = [
        TableRun(_task(name), protocol, folder, data, tuple(options.overrides), options.smoke)
        for protocol in PROTOCOLS[options.protocol]
        for name in options.task or TASKS
    ]
    facts: dict[str, Any] = {"gpu": None}
    if not options.smoke:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:  # this one would hold memory of the GPU
            machine, facts = process.submit(find_gpu).result()
        assessed = [run.changed(precision_of(facts)) for run in runs]
        for run in assessed:
            check_memory(run, machine)
        print(forecast([run.assess(machine) for run in assessed]))
    for run in runs:
        check_run(run, f"mentorkd {shlex.join(fetch)}")
    results = folder / "results"
    for run in runs:
        execute(run.command)
        collect(run, results)
    (results / "machine.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (results / "table.md").write_text(text := summary(runs, results), encoding="utf-8")
    print(text)
    print(f"to send: {shutil.make_archive(str(results), 'zip', results)}")


if __name__ == "__main__":
    try:
        with explaining():
            main()
    except MentorkdError as error:
        print(f"paper_on_a_gpu: {error}", file=sys.stderr)
        sys.exit(2)
