"""What the pipeline itself costs as a run grows: the driver for each shard, and arms on more cores.

`driver`: thousands of shards that do nothing, by each executor: the driver's wall and processor time for a shard, of which the disk's
own fsync, and the memory that a shard adds to it, before the first of them runs and while they run. `recipe`: the wall time of a small
recipe with nine arms by executor and cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from common import arguments, hardware, versions

from mentorkd.pipeline.executors.executor import StageExecutor
from mentorkd.pipeline.executors.inline import InlineExecutor
from mentorkd.pipeline.executors.processes import ProcessExecutor
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run import Pipeline, Reporter
from mentorkd.pipeline.run_folder import Stage
from mentorkd.quickstart.task import write_recipe, write_task
from mentorkd.recipe.load import load_recipe

EXECUTORS = ("inline", "process", "ray")
HERE = Path(__file__).resolve().parent
ARMS = 9
SMALL_TASK = {"train": 150, "validation": 20, "test": 40, "annotated": 60, "samples": 2}
"""The task of the short form."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--part", choices=["driver", "recipe"], action="append", help="default both")
    parser.add_argument("--shards", type=int, help="default 10,000; short 300")
    parser.add_argument("--only", nargs=2, help="EXECUTOR SHARDS: measure one side in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(driver(options.only[0], int(options.only[1]))))
        return
    shards = options.shards or (300 if options.short else 10_000)
    result: dict[str, Any] = {}
    if "driver" in (options.part or ["driver"]):
        result["driver"] = [measured(name, count) for name in EXECUTORS for count in (shards // 10, shards)]
    if "recipe" in (options.part or ["recipe"]):
        result["recipe"] = [recipe(name, cores, options.short) for cores in (1, 2) for name in ("process", "ray")]
    result |= {"hardware": hardware(), "versions": versions(), "command": " ".join(["python", *sys.argv])}
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def measured(executor: str, shards: int) -> dict[str, Any]:
    """A driver in a fresh process."""
    command = [sys.executable, __file__, "--only", executor, str(shards)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    out = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    measures: dict[str, Any] = json.loads(out.splitlines()[-1])
    return measures


def driver(name: str, count: int) -> dict[str, Any]:
    """Carry out `count` shards of nothing; what each costs the driver."""
    from nothing import IdleRecipe, idle, stages

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        recipe = _made_up(Path(place), IdleRecipe)
        watch = _AtFirst()
        pipeline = Pipeline(recipe, Path(place) / "run", watch)
        before = _memory()
        pipeline._stages = stages(count)
        listed = _memory() - before
        setup = (recipe, pipeline.folder, lambda *_: None, lambda *_: None)
        executor: StageExecutor
        if name == "inline":
            idle(recipe.model_dump_json())
            executor = InlineExecutor(1, *setup)
        elif name == "process":
            executor = ProcessExecutor(2, 1, *setup)
        else:
            from mentorkd.pipeline.executors.cluster import RayExecutor

            executor = RayExecutor("ray", None, pipeline.stages[:1], *setup)
        fsync = _Timed(os.fsync)
        os.fsync = fsync  # type: ignore[assignment]
        with closing(executor), pipeline.folder.lock():
            executor.start(pipeline.stages[0])  # the first stage of a process imports torch
            first = executor.next_finished()
            pipeline.folder.publish(*first)
            before = _memory()
            fsync.seconds, fsync.calls = 0.0, 0
            start, cpu = time.perf_counter(), time.process_time()
            pipeline._run_stages(executor, None, 2, None, ())
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            after = _memory()
        return {
            "executor": name,
            "shards": count,
            "ms_a_shard": round(1000 * seconds / count, 2),
            "driver_cpu_ms_a_shard": round(1000 * cpu / count, 2),
            "driver_fsync_ms_a_shard": round(1000 * fsync.seconds / count, 2),
            "driver_fsyncs_a_shard": round(fsync.calls / count, 1),
            "list_of_stages_kb_a_shard": round(listed / count, 2),
            "schedule_kb_a_shard": round((watch.memory - before) / count, 2),
            "growth_kb_a_shard": round((after - watch.memory) / count, 2),
            "driver_memory_mb": round(after / 1024, 1),
        }


class _AtFirst(Reporter):
    """Looks at the memory when the first shard has been published: what is added later is growth while shards run."""

    memory = 0

    def finished(self, stage: Stage, record: StageRecord) -> None:
        self.memory = self.memory or _memory()


class _Timed:
    """A function that counts its calls and their time."""

    def __init__(self, function: Any) -> None:
        self._function, self.seconds, self.calls = function, 0.0, 0

    def __call__(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*arguments)
        finally:
            self.seconds += time.perf_counter() - start
            self.calls += 1


def _memory() -> int:
    """Resident memory of this process in kB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def _made_up(folder: Path, kind: type[Any]) -> Any:
    """The quickstart's recipe as an object of this class."""
    write_task(folder, train=40, validation=6, test=10, annotated=24, samples=2)
    write_recipe(folder / "recipe.yaml")
    return kind.model_validate(load_recipe(folder / "recipe.yaml").model_dump())


def recipe(executor: str, cores: int, short: bool) -> dict[str, Any]:
    """The wall time of a recipe with nine arms on one or more cores."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        write_task(Path(place), **(SMALL_TASK if short else {}))
        write_recipe(Path(place) / "recipe.yaml")
        updates = 10 if short else 60
        values = ",".join(f"{(number + 1) / 10:g}" for number in range(ARMS - 1))
        command = [sys.executable, "-m", "mentorkd", "run", f"{place}/recipe.yaml", "--run", f"{place}/run", "--quiet"]
        command += ["--on", "ray"] if executor == "ray" else ["--jobs", str(cores)]
        command += ["seeds=[1]", f"training.updates={updates}", f"sweep.student.kd_weight=[{values}]"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        limited = ["taskset", "-c", ",".join(map(str, range(cores))), *command]
        subprocess.run(limited, check=True, env=environment, stdout=subprocess.DEVNULL)
        manifest = json.loads((Path(place) / "run" / "manifest.json").read_text())
        seconds = time.perf_counter() - start
    return {
        "executor": executor,
        "cores": cores,
        "stages": len(manifest["stages"]),
        "seconds": round(seconds, 1),
        "seconds_in_stages": manifest["seconds"],
    }


if __name__ == "__main__":
    main()
