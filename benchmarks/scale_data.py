"""Growth of data: seconds and peak memory a rationale of each step that reads questions and rationales, at several sizes.

The quickstart's generated task with three recorded rationales a question, as JSON Lines. Every step runs in a fresh process; its
memory is what it held at most beyond what was held after the imports. `train` has two updates of a tiny model, so all that grows
with the data is the reading: select, encode and the plan of batches, whose own seconds stand beside it.
"""

from __future__ import annotations

import json
import random
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import arguments, hardware, in_fresh_process, peak_extra_bytes, versions

SAMPLES = 3
"""Rationales of a question."""
EPOCHS = 3
"""Of the plan of batches."""
STEPS = ("prepare", "plan", "annotate", "rows", "batches", "train", "report")

RECIPE = """\
name: scale
data: {root: .}
task: {name: running-totals, train: train.jsonl, validation: validation.jsonl, test: test.jsonl, answer: number}
teacher: {rationales: teacher.jsonl}
learners:
  vanilla: {model: nano-t5-small}
  answers: {model: nano-t5-small, rationales: [gold, teacher]}
training: {updates: 2, epochs: 1, batch_size: 8, select_on: last, precision: float32}
sampling: {max_new_tokens: 8}
seeds: [1]
"""
TRAIN = "learners/vanilla/seed-1/train"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", help="rationales (default 10,000, 100,000 and 1,000,000)")
    parser.add_argument("--folder", type=Path, help="folder of one size's data; with --step, carry out this step alone")
    parser.add_argument("--plot", type=Path, help="SVG file for the figures of all sizes")
    parser.add_argument("--step", choices=("write", "evaluate", *STEPS))
    options = parser.parse_args()
    if options.step:
        print(json.dumps(carried_out(options.step, options.folder, options.sizes)))
        return
    sizes = options.sizes or ([10_000] if options.short else [10_000, 100_000, 1_000_000])
    result: dict[str, Any] = {"sizes": {size: measured(size, options) for size in sizes}}
    if options.plot:
        draw(result["sizes"], options.plot)
    result |= {"hardware": hardware(), "versions": versions()}
    if options.json:
        print(json.dumps(result))


def measured(size: int, options: Namespace) -> dict[str, Any]:
    """Every step at one size: seconds and extra bytes of its process, each in all and a rationale."""
    found = {}
    with TemporaryDirectory() as folder:
        for step in ("write", *STEPS):
            where = ["--folder", folder, "--sizes", str(size)]
            if step == "report":
                in_fresh_process(__file__, ["--step", "evaluate", *where])
            row = json.loads(in_fresh_process(__file__, ["--step", step, *where]))
            if step == "write":
                continue
            found[step] = row
            if not options.json:
                print(
                    f"{size:>9,}  {step:<9}{row['seconds']:9.2f} s {row['cpu_seconds']:9.2f} s CPU "
                    f"{row['cpu_seconds'] / size * 1e6:8.1f} us a rationale {row['bytes'] / 2**20:9.1f} MiB "
                    f"{row['bytes'] / size:8.0f} B a rationale",
                    flush=True,
                )
    return found


def draw(sizes: Mapping[int, Mapping[str, Mapping[str, float]]], file: Path) -> None:
    """Processor time and memory a rationale against the number of rationales, a line for each step."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "scale"
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, field, unit, label in (
        (axes[0], "cpu_seconds", 1e6, "processor time a rationale (us)"),
        (axes[1], "bytes", 1, "peak memory a rationale (bytes)"),
    ):
        for step in STEPS:
            points = {size: rows[step][field] / size * unit for size, rows in sizes.items() if step in rows}
            axis.plot(list(points), list(points.values()), marker="o", markersize=3, label=step)
        axis.set(xscale="log", yscale="log", xlabel="rationales", ylabel=label)
    axes[0].legend(fontsize="small")
    axes[1].axhline(400, color="grey", linewidth=0.8, linestyle=":")
    figure.savefig(file, metadata={"Date": None})


def carried_out(step: str, folder: Path, sizes: list[int]) -> dict[str, float]:
    """A step's seconds, processor seconds and extra bytes."""
    run = STEP[step](folder, sizes)
    clock: dict[str, float] = {}

    def timed() -> None:
        start, cpu = time.perf_counter(), time.process_time()
        run()
        clock.update(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)

    peak = peak_extra_bytes(timed)
    return {**clock, "bytes": peak}


def write(folder: Path, sizes: list[int]) -> Callable[[], object]:
    """The task's files and the recipe."""
    from mentorkd.quickstart.task import write_task

    (folder / "recipe.yaml").write_text(RECIPE)
    questions = sizes[0] // SAMPLES
    return partial(write_task, folder, train=questions, annotated=questions, samples=SAMPLES, validation=8, test=8)


def plan(folder: Path, _: list[int]) -> Callable[[], object]:
    """`mentorkd plan`."""
    from mentorkd.pipeline.plan import estimate
    from mentorkd.pipeline.run import Pipeline
    from mentorkd.recipe.load import load_recipe

    recipe = load_recipe(folder / "recipe.yaml")
    pipeline = Pipeline(recipe, folder / "run")

    def planned() -> object:
        estimates = estimate(recipe, folder / "run")
        return [estimates.of(planned.stage) for planned in pipeline.plan()]

    return planned


def until(kind: str, folder: Path, _: list[int]) -> Callable[[], object]:
    """The stages of a run up to a kind; those before it are finished."""
    import mentorkd.pipeline.stages.train
    import mentorkd.training.train  # noqa: F401
    from mentorkd.pipeline.run import Pipeline
    from mentorkd.recipe.load import load_recipe

    pipeline = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run")
    return partial(pipeline.run, until=kind)


def rows(folder: Path, _: list[int]) -> Callable[[], object]:
    """Select and encode, as a training does."""
    from mentorkd.data.encoding import TextEncoder
    from mentorkd.pipeline.context import RunContext
    from mentorkd.pipeline.run import Pipeline
    from mentorkd.pipeline.training_rows import read_training_rows
    from mentorkd.recipe.graph import initial_model
    from mentorkd.recipe.load import load_recipe

    recipe = load_recipe(folder / "recipe.yaml")
    pipeline = Pipeline(recipe, folder / "run")
    stage = next(stage for stage in pipeline.stages if stage.name == TRAIN)
    context, encoder = RunContext(recipe, pipeline.folder), TextEncoder.of(initial_model(recipe, "vanilla"))
    return partial(read_training_rows, context, stage, "vanilla", encoder)


def batches(folder: Path, sizes: list[int]) -> Callable[[], object]:
    """The plan of batches, for rows that share their memory."""
    from mentorkd.data.encoding import Example
    from mentorkd.recipe.load import load_recipe
    from mentorkd.training.schedule import schedule_training

    rng = random.Random(0)
    kinds = [Example("", [0] * rng.randint(30, 60), [0] * rng.randint(20, 60)) for _ in range(1000)]
    rows = [kinds[number % len(kinds)] for number in range(sizes[0])]
    config = load_recipe(folder / "recipe.yaml").learners["vanilla"].training
    config = config.model_copy(update={"updates": None, "epochs": EPOCHS})
    return partial(schedule_training, rows, "seq2seq", config, seed=1)


STEP: dict[str, Callable[[Path, list[int]], Callable[[], object]]] = {
    "write": write,
    "plan": plan,
    "prepare": partial(until, "prepare"),
    "annotate": partial(until, "annotate"),
    "rows": rows,
    "batches": batches,
    "train": partial(until, "train"),
    "evaluate": partial(until, "evaluate"),
    "report": partial(until, "report"),
}


if __name__ == "__main__":
    main()
