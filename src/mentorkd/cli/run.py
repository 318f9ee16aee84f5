"""Commands about recipes: run a recipe, show its plan, list the shipped recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mentorkd.cli.console import open_reporter, ranges, replaced, run_again, say, show_json, show_results, show_table
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
    load_named,
    shipped_titles,
)
from mentorkd.pipeline.provenance import cores
from mentorkd.recipe.schema import Recipe

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
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe from its questions to its report. Finished stages do not run again."""
    loaded = load_named(recipe, overrides)
    _run(loaded, folder, force or (), overwrite, jobs, quiet, as_json, verify=not no_verify, on=on)


def recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes. `mentorkd run NAME` runs one on the data in the folder `data`."""
    titles = shipped_titles()
    if as_json:
        show_json(titles)
        return
    for name, title in titles.items():
        say(f"{name:<24}{title}")


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
) -> None:
    from mentorkd.pipeline.run import Pipeline

    root = folder or Path("runs") / recipe.name
    with open_reporter(quiet=quiet, as_json=as_json) as reporter:
        pipeline = Pipeline(recipe, root, reporter, verify=verify)
        pipeline.run(force=force, jobs=int(jobs) if jobs.isdecimal() else jobs, on=on, overwrite=overwrite)
    show_results(pipeline.folder.report(), as_json)


def plan(recipe: RecipePath, overrides: Overrides = None, folder: RunOption = None, as_json: AsJson = False) -> None:
    """Show the stages of a recipe: which are done, which will run, their rows and estimated tokens."""
    from mentorkd.pipeline.plan import estimate
    from mentorkd.pipeline.run import Pipeline

    loaded = load_named(recipe, overrides)
    root = folder or Path("runs") / loaded.name
    pipeline = Pipeline(loaded, root)
    planned, conflict = pipeline.plan(), pipeline.conflict()
    estimates = estimate(loaded, root)
    replacing: dict[str | None, list[str]] = {}
    for p in planned:
        if p.replaces:
            replacing.setdefault(p.outdated, []).append(p.stage.name)
    notes = [run_again(names, why) if why else replaced(names) for why, names in replacing.items()]
    notes += estimates.notes
    rows = [
        {
            "stage": p.stage.name,
            "state": p.state,
            "replaces": p.replaces,
            "needs": list(p.stage.needs),
            **estimates.of(p.stage),
        }
        for p in planned
    ]
    if as_json:
        facts = {"recipe": loaded.name, "stages": rows, "dropped": list(estimates.dropped), "conflict": conflict}
        show_json({**facts, "notes": notes})
        return
    numbers = {p.stage.name: number for number, p in enumerate(planned, 1)}
    show_table(
        loaded.name,
        ["stage", "#", "needs", "state", "rows", "updates", "tokens"],
        [
            [
                p.stage.name,
                str(numbers[p.stage.name]),
                ranges(sorted(numbers[need] for need in p.stage.needs)),
                p.state,
                _number(row.get("rows")) + (f" x {row['epochs']:g}" if "epochs" in row else ""),
                _number(row.get("updates")),
                _number(row.get("tokens")),
            ]
            for p, row in zip(planned, rows, strict=True)
        ],
        whole=True,
    )
    for line in estimates.dropped:
        say(f"! {line}")
    if conflict:
        say(f"{conflict}; `run` refuses it without --overwrite")
    for note in notes:
        say(note)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from mentorkd.recipe.load import recipe_schema

    say(json.dumps(recipe_schema(), indent=1))
