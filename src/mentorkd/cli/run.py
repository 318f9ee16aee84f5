"""Commands about recipes: run a recipe, show its plan, list the shipped recipes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from mentorkd.cli.completion import shipped_names
from mentorkd.cli.console import open_reporter, ranges, replaced, run_again, say, show_json, show_results, show_table
from mentorkd.cli.estimates import duration, estimate_lines, estimates_as_json
from mentorkd.cli.options import (
    AsJson,
    Jobs,
    NoVerify,
    On,
    Overrides,
    Overwrite,
    Quiet,
    RecipePath,
    RunOption,
    Scratch,
    load_named,
)
from mentorkd.cli.shipped import shipped_recipes, shipped_titles
from mentorkd.errors import RunError
from mentorkd.pipeline.provenance import cores
from mentorkd.pipeline.shards import whole_name
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import suggestion

# One model of this size does not fill two cores; two at a time do.
_QUICKSTART_JOBS = str(min(2, cores()))


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    folder: RunOption = None,
    force: Annotated[
        list[str] | None, typer.Option(help="A stage or kind of stage to run again, with all stages that depend on it.")
    ] = None,
    overwrite: Overwrite = False,
    jobs: Jobs = "1",
    on: On = None,
    scratch: Scratch = None,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe from its questions to its report. Finished stages do not run again."""
    loaded = load_named(recipe, overrides)
    _run(loaded, folder, force or (), overwrite, jobs, quiet, as_json, verify=not no_verify, on=on, scratch=scratch)


recipes_app = typer.Typer(invoke_without_command=True)


@recipes_app.callback()
def recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the shipped recipes. `mentorkd run NAME` runs one on the data in the folder `data`."""
    if context.invoked_subcommand is not None:
        return
    titles = shipped_titles()
    if as_json:
        show_json(titles)
        return
    for name, title in titles.items():
        say(f"{name:<24}{title}")


@recipes_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.", autocompletion=shipped_names)],
) -> None:
    """Print a shipped recipe, to read it or to begin one of your own."""
    shipped = shipped_recipes()
    if name not in shipped:
        expected = suggestion(name, shipped) or f"; expected one of {', '.join(shipped)}"
        raise RunError(f"got {name}, which is no shipped recipe{expected}")
    say(shipped[name].read_text(encoding="utf-8").rstrip("\n"))


def quickstart(
    folder: Annotated[Path, typer.Option("--run", help="The run folder.")] = Path("runs/quickstart"),
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    jobs: Jobs = _QUICKSTART_JOBS,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the embedded task and recipe, and run it to a report. Needs no network, key, GPU or file."""
    from mentorkd.quickstart.task import write_recipe, write_task
    from mentorkd.recipe.load import load_recipe

    recipe = folder / "task" / "recipe.yaml"
    if not recipe.exists():  # it is written last; the user may have edited an existing one
        write_task(recipe.parent)
        write_recipe(recipe)
    if not (quiet or as_json):
        say(f"recipe: {recipe} (edit it for your own data)", error=True)
    _run(load_recipe(recipe, overrides or ()), folder, (), overwrite, jobs, quiet, as_json, verify=not no_verify)


def _run(
    recipe: Recipe,
    folder: Path | None,
    force: Sequence[str],
    overwrite: bool,
    jobs: str,
    quiet: bool,
    as_json: bool,
    *,
    verify: bool,
    on: str | None = None,
    scratch: Path | None = None,
) -> None:
    from mentorkd.pipeline.run import Pipeline

    root = folder or Path("runs") / recipe.name
    with open_reporter(quiet=quiet, as_json=as_json) as reporter:
        pipeline = Pipeline(recipe, root, reporter, verify=verify)
        pipeline.run(
            force=force, jobs=int(jobs) if jobs.isdecimal() else jobs, on=on, scratch=scratch, overwrite=overwrite
        )
    show_results(pipeline.folder.report(), as_json)


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    folder: RunOption = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(metavar="GB", min=0.1, help="Estimate for a GPU with this memory, in place of this machine."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the speed of this machine first, in seconds (imports torch).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe will do and take: its stages with their rows, tokens and time; memory, disk and dollars; the smallest
    difference that it can show; and what is likely to fail."""
    from mentorkd.pipeline.estimates.assess import Assessment
    from mentorkd.pipeline.estimates.checks import unknown, warnings
    from mentorkd.pipeline.estimates.machine import machine_of, measured
    from mentorkd.pipeline.plan import estimate
    from mentorkd.pipeline.run import Pipeline

    loaded = load_named(recipe, overrides)
    root = folder or Path("runs") / loaded.name
    pipeline = Pipeline(loaded, root)
    planned, conflict = pipeline.plan(), pipeline.conflict()
    estimates = estimate(loaded, root)
    machine = machine_of(loaded.device, gpu_memory=gpu_memory)
    assessment = Assessment(estimates, planned, measured(machine) if measure else machine, root)
    replacing: dict[str | None, list[str]] = {}
    for p in planned:
        if p.replaces:
            replacing.setdefault(p.outdated, []).append(p.stage.name)
    notes = [run_again(names, why) if why else replaced(names) for why, names in replacing.items()]
    notes += estimates.notes + unknown(assessment)
    rows = [
        {
            "stage": p.stage.name,
            "state": p.state,
            "replaces": p.replaces,
            "needs": list(p.stage.needs),
            **estimates.of(p.stage),
            "seconds": None if (seconds := assessment.seconds[p.stage.name]) is None else round(seconds, 1),
        }
        for p in planned
    ]
    warned = warnings(assessment)
    if as_json:
        facts = {"recipe": loaded.name, "stages": rows, "dropped": list(estimates.dropped), "conflict": conflict}
        show_json({**facts, "notes": notes, "warnings": warned, "estimates": estimates_as_json(assessment)})
        return
    columns = ["stage", "#", "needs", "state", "rows", "updates", "tokens", "time"]
    show_table(loaded.name, columns, _lines(rows), whole=True)
    show_table("estimates", ["", "estimate", "rests on"], estimate_lines(assessment), numbers=False)
    for line in [*estimates.dropped, *warned]:
        say(f"! {line}")
    if conflict:
        say(f"{conflict}; `run` refuses it without --overwrite")
    for note in notes:
        say(note)


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The lines of a plan's table: one for each stage, or for all shards of a stage."""
    numbers, lines = {row["stage"]: number for number, row in enumerate(rows, 1)}, []
    for _, group in groupby(rows, key=lambda row: (whole_name(row["stage"]), whole_name(row["stage"]) == row["stage"])):
        first, *others = shards = list(group)
        states = Counter(row["state"] for row in shards)
        size = " a shard" if others else f" x {first['epochs']:g}" if "epochs" in first else ""
        lines.append(
            [
                first["stage"] + (f"..{len(others)}" if others else ""),
                ranges(numbers[row["stage"]] for row in shards),
                ranges(sorted({numbers[need] for row in shards for need in row["needs"]})),
                first["state"] if len(states) == 1 else ", ".join(f"{n} {state}" for state, n in states.items()),
                _number(max((row["rows"] for row in shards if "rows" in row), default=None)) + size,
                _number(first.get("updates")),
                _number(sum(row["tokens"] for row in shards) if "tokens" in first else None),
                _time([row["seconds"] for row in shards]),
            ]
        )
    return lines


def _time(seconds: Sequence[float | None]) -> str:
    """The time of a stage, or of its shards together."""
    known = [each for each in seconds if each is not None]
    return duration(sum(known)) if len(known) == len(seconds) else ""


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from mentorkd.recipe.load import recipe_schema

    say(json.dumps(recipe_schema(), indent=1))
