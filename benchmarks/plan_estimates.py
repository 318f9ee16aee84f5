"""What `mentorkd plan` estimates beside what a run measures: seconds and peak memory of each stage with a model.

Each case is a small run of its own process, with one thread. Seconds are processor time, which other programs on the machine hardly
change. Write to docs/results/plan-estimates.md by hand.

    OMP_NUM_THREADS=1 python benchmarks/plan_estimates.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mentorkd.pipeline.estimates.assess import Assessment
from mentorkd.pipeline.estimates.machine import machine_of, measured
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.run import Pipeline
from mentorkd.quickstart.task import write_task
from mentorkd.recipe.known_models import published_config
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.yaml import dump_yaml


def shaped(name: str) -> dict[str, Any]:
    """A model with random weights, of the shape of a hub model; its tokens are those of the tiny models."""
    return {"from_config": published_config(name), "tokenizer": "nano-t5-small"}


CASES: dict[str, tuple[dict[str, Any] | str, dict[str, Any] | str, dict[str, Any]]] = {
    "nano": ("nano-t5-small", "nano-t5-large", {"updates": 60, "batch_size": 12}),
    "flan-t5-small": (shaped("google/flan-t5-small"), shaped("google/flan-t5-small"), {"updates": 4, "batch_size": 8}),
    "flan-t5-base": (shaped("google/flan-t5-base"), shaped("google/flan-t5-base"), {"updates": 3, "batch_size": 8}),
    "gpt2": (shaped("gpt2"), shaped("gpt2"), {"updates": 2, "batch_size": 4}),
    "smollm2-135m": (shaped("smollm2-135m"), shaped("smollm2-135m"), {"updates": 2, "batch_size": 4}),
}
"""Student, mentor and training of each case."""


def write_case(folder: Path, name: str, *, untrained: bool = False) -> Path:
    student, mentor, training = CASES[name]
    write_task(folder, train=40, validation=4, test=12, annotated=40)
    learners = {
        "vanilla": {"model": student},
        "mentor": {"model": mentor, "select": {"correct": False}},
        "student": {"model": student, "rationales": ["teacher", "mentor"], "soft_labels": "mentor"},
    }
    if untrained:  # the memory of a process that has trained stays with it
        learners = {"untrained": {"model": student, "rationales": []}}
    files = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}
    recipe = {
        "name": name,
        "task": {"name": "totals", "answer": "number", **files},
        "teacher": {"kind": "recorded", "rationales": "teacher.jsonl"},
        "learners": learners,
        "training": {"epochs": 1, "precision": "float32", "learning_rate": 1e-4, **training},
        "sampling": {"samples": 1, "max_new_tokens": 40, "batch_size": 32, "engine": "transformers"},
        "seeds": [1],
    }
    path = folder / "recipe.yaml"
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    return path


def compare(name: str, *, untrained: bool) -> None:
    """Plan and run a case, and print a line of JSON for each stage with a model."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = load_recipe(write_case(folder, name, untrained=untrained))
        pipeline = Pipeline(recipe, folder / "run")
        machine = measured(machine_of("cpu"))  # one thread, by OMP_NUM_THREADS
        assessment = Assessment(estimate(recipe, folder / "run"), pipeline.plan(), machine, folder / "run")
        seconds, memory = assessment.seconds, {(each.learner, each.work): each.total for each in assessment.memory}
        pipeline.run()
        for planned in pipeline.plan():
            stage, record = planned.stage, planned.record
            if stage.kind in ("train", "score", "augment", "evaluate") and record is not None:
                work = {"train": "train", "augment": "generate", "evaluate": "generate"}.get(stage.kind)
                line = {
                    "case": name,
                    "stage": f"{stage.learner} {stage.kind}",
                    "estimated_seconds": seconds[stage.name],
                    "cpu_seconds": record.cpu_seconds,
                    "estimated_mb": None if work is None else memory[stage.learner, work] / 1e6,
                    "peak_mb": (record.peak_memory_mb or 0) * 2**20 / 1e6,
                    "gflops": machine.flops / 1e9,
                }
                print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), help="Run this case in this process.")
    parser.add_argument("--untrained", action="store_true", help="With --case: generation alone.")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    if options.case:
        compare(options.case, untrained=options.untrained)
        return
    print("| case | stage | estimated s | processor s | ratio | estimated MB | peak MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for case, alone in [(case, alone) for case in options.cases for alone in (False, True)]:
        command = [sys.executable, __file__, "--case", case, *(["--untrained"] if alone else [])]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            row = json.loads(line)
            est, cpu, mb, peak = (row[key] for key in ("estimated_seconds", "cpu_seconds", "estimated_mb", "peak_mb"))
            sizes = ("", "") if mb is None else (f"{mb:,.0f}", f"{mb / peak:.2f}")
            cells = [
                case,
                row["stage"],
                f"{est:.1f}",
                f"{cpu:.1f}",
                f"{est / cpu:.2f}",
                sizes[0],
                f"{peak:,.0f}",
                sizes[1],
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
